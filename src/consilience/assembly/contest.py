"""The choice by what counts: of several networks of one width, the one whose outputs are nearest to the ensemble's.

At a member's width, a member is an assembly: its units are leaves of the tree. The networks compared are

- the member nearest to the ensemble, on all calibration rows, as it is, with units that nothing reads up to the width
  asked for;
- whole members side by side (`consilience.assembly.side_by_side`), and in the room that is left what reduces the
  residual most;
- the first of these members, and what reduces the residual most;
- the clusters that best reconstruct the ensemble's outputs (`reconstruct`);
- the census's own cut.

All but the first have their weights fitted on calibration rows, and all are compared on rows that no fit has seen
(`consilience.signals.held_out`). The nearest is taken; for classes, not for next tokens, whose error is the loss
itself, the member as it is, unless another is nearer by more than twice the standard error of the difference. So what
is returned is no further from the ensemble there than that member.

Networks far behind the nearest after least squares do not get a readout fitted to class probabilities, nor second-order
steps.
From too few rows to hold any out, a member that fits is taken as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import torch
from torch import nn

from consilience.assembly.build import Builder
from consilience.assembly.choice import CensusPlan, Choice, cut_at, whole_members
from consilience.assembly.directions import with_directions
from consilience.assembly.nearness import Nearness, nearest, surely_smaller
from consilience.assembly.pooling import Pooled
from consilience.assembly.reconstruction import reconstruct
from consilience.assembly.record import Candidate
from consilience.assembly.side_by_side import side_by_side
from consilience.bases.grounding import Groups
from consilience.census.census import Census
from consilience.population.mixtures import with_mixtures
from consilience.signals.held_out import held_out
from consilience.signals.responses import Responses
from consilience.tasks import OF_CLASSES
from consilience.units.architecture import TracedNetwork

LEAST_ROWS = 20  # of calibration data; of fewer, none are held out
NEAR = 1.25  # times the least held-out error: networks beyond it are not fitted any further (docs/experiments.md)


@dataclass(frozen=True)
class Entry:
    """A network of the contest."""

    record: Candidate
    network: TracedNetwork
    groups: Mapping[str, Groups]
    errors: torch.Tensor  # (n,) on held-out rows
    stays: bool = False  # whether it is kept unless another is nearer beyond doubt


@dataclass(frozen=True)
class Contest:
    """Networks of one width after another, from the same rows."""

    census: Census
    responses: Responses  # to all calibration inputs
    pooling: torch.Tensor  # weights (k, o) of the members' outputs

    @property
    def few(self) -> bool:
        """Whether there are too few rows to hold any out: all are fitted and compared on."""
        return len(self.responses.x) < LEAST_ROWS

    @cached_property
    def builder(self) -> Builder:
        """Builds on the fitted rows."""
        fitted = self.responses.subset(self._split[0])
        return Builder(self.census.population_, fitted, self.pooling)

    @cached_property
    def finisher(self) -> Builder:
        """Fits several layers together, on the fitted rows and, where these are few, on mixtures of them."""
        population, fitted = self.census.population_, self.builder.responses
        x = with_mixtures(fitted.x, population)
        return self.builder if x is fitted.x else Builder(population, Responses(fitted.networks, x), self.pooling)

    @cached_property
    def nearness(self) -> Nearness:
        """Compares on the held-out rows."""
        return self._nearness(self.responses.subset(self._split[1]))

    @cached_property
    def _members_errors(self) -> list[float]:
        """The error of each member, which no row was fitted to, on all calibration rows."""
        nearness, networks = self._nearness(self.responses), self.responses.networks
        own: Iterable[torch.Tensor] = self.responses.at(networks[0].architecture.returned)
        if nearness.sampling != self.responses.sampling:
            own = map(nearness.outputs, networks)
        return [nearness.error(outputs) for outputs in own]

    def _nearness(self, responses: Responses) -> Nearness:
        """Compares on the rows of responses, and at positions that these leave out."""
        nearness = Nearness.to_pooled(responses, self.pooling, self.census.population_.task)
        return nearness.at_more_positions(Pooled(responses.networks, self.pooling))

    @cached_property
    def _split(self) -> tuple[torch.Tensor, torch.Tensor]:
        n = len(self.responses.x)
        every = torch.arange(n)
        return (every, every) if self.few else held_out(n)

    def refined(self, entry: Entry) -> Entry:
        """Return a network after second-order steps."""
        return self._entry(entry.record.choice, entry.groups, "second-order", self.finisher.refined(entry.network))

    def taught(self, start: Entry, correction: str, module: nn.Module) -> Entry:
        """Return the entry of a module that a correction has made of a network."""
        record, errors = self.nearness.judged(start.record.choice, correction, module)
        return replace(start, record=record, errors=errors, stays=False)

    def entries(self, widths: Mapping[str, int], correction: str) -> list[Entry]:
        """Return the networks of these widths, the nearest first; of equally near ones, the simpler."""
        self.builder.check_rows(widths, correction, self.responses.x, LEAST_ROWS)
        return _ordered(self._entries(widths, correction))

    def of_choice(self, choice: Choice, correction: str) -> list[Entry]:
        """Return the network of the census's clusters as constructed and the corrected one, the nearer first."""
        widths = {name: groups.n_clusters for name, groups in choice.groups.items()}
        self.builder.check_rows(widths, correction, self.responses.x, LEAST_ROWS)
        plan = CensusPlan(self.census, choice)
        built = {each: self.builder.layers(widths, plan, each) for each in ("none", correction)}
        return _ordered([self._entry("cut", choice.groups, each, network) for each, network in built.items()])

    def _entries(self, widths: Mapping[str, int], correction: str) -> list[Entry]:
        member = self._nearest_member(widths)
        entries = [] if member is None else [self._member(member, widths)]
        if entries and self.few:
            return entries
        built: list[tuple[str, Choice, TracedNetwork]] = []
        for name, choose in self._choices(widths):
            choice = choose()
            if not any(_equal(choice.groups, other.groups) for _, other, _ in built):
                built.append((name, choice, self.builder.hidden(widths, CensusPlan(self.census, choice), correction)))
                entries.append(self._entry(name, choice.groups, correction, built[-1][-1]))
        start = len(entries) - len(built)
        for i in self.near(entries):
            if i >= start:
                name, choice, network = built[i - start]
                entries[i] = self._entry(
                    name, choice.groups, correction, self.builder.with_readout(network, correction)
                )
        return entries

    @staticmethod
    def near(entries: Sequence[Entry]) -> list[int]:
        """Return which networks are near enough to the nearest that further fits of them could end before it."""
        least = min(entry.record.error for entry in entries)
        return [i for i, entry in enumerate(entries) if entry.record.error <= NEAR * least]

    def _choices(self, widths: Mapping[str, int]) -> Iterator[tuple[str, Callable[[], Choice]]]:
        whole = side_by_side(self.builder.responses, self.pooling, partial(self._fits, widths))
        for members in dict.fromkeys([tuple(whole), tuple(whole[:1])]):
            if members:
                yield _name(members), partial(self._reconstructed, widths, members)
        yield "reconstruction", lambda: self._turned(self._reconstructed(widths, ()), widths)
        yield "cut", lambda: self._turned(cut_at(self.census, widths), widths)

    def _turned(self, choice: Choice, widths: Mapping[str, int]) -> Choice:
        return with_directions(choice, self.builder.responses, widths)

    def _reconstructed(self, widths: Mapping[str, int], first: Sequence[int]) -> Choice:
        population = self.census.population_
        if first and all(sum(population.widths(n)[k] for k in first) == width for n, width in widths.items()):
            return whole_members(self.census, self.builder.responses, first, widths)
        return reconstruct(self.census, self.builder.responses, widths, self.pooling, first)

    def _entry(self, name: str, groups: Mapping[str, Groups], correction: str, network: TracedNetwork) -> Entry:
        record, errors = self.nearness.judged(name, correction, network)
        return Entry(record, network, groups, errors)

    def _member(self, member: int, widths: Mapping[str, int]) -> Entry:
        """A member as it is, its own outputs alone, at the widths asked for."""
        choice = self._alone(member, widths)
        network = self.builder.responses.networks[member]
        if dict(widths) != {name: network.architecture.widths[name] for name in widths}:
            alone = torch.zeros_like(self.pooling)
            alone[member] = 1
            population, networks = self.census.population_, self.builder.responses.networks
            builder = Builder(population, Responses.without_data(networks, population.example_input), alone)
            network = builder.layers(widths, CensusPlan(self.census, choice), "none")
        entry = self._entry(_name([member]), choice.groups, "none", network)
        of_classes = self.census.population_.task in OF_CLASSES and self.nearness.tokens is None
        return replace(entry, stays=of_classes)

    def _alone(self, member: int, widths: Mapping[str, int]) -> Choice:
        """A member's units, each alone, up to the widths; what a norm reads again and again, which changes no mean."""
        choice = whole_members(self.census, self.builder.responses, [member], widths)
        groups = dict(choice.groups)
        for name in self.census.population_.architecture.normed & {*groups}:
            own = np.flatnonzero(self.census.layers_[name].member == member)
            groups[name] = Groups.of_sets(list(np.tile(own, widths[name] // len(own))[:, None]))
        return Choice(groups, choice.bases)

    def _stays_itself(self, widths: Mapping[str, int], member: int) -> bool:
        """Whether a member is the same function at the widths: where norms take units together, at multiples of its."""
        population = self.census.population_
        normed = population.architecture.normed & {*widths}
        multiple = all(widths[name] % population.widths(name)[member] == 0 for name in normed)
        return multiple and self._fits(widths, [member])

    def _nearest_member(self, widths: Mapping[str, int]) -> int | None:
        """The member nearest to the ensemble on all rows, of those that are themselves at the widths."""
        fitting = [k for k in range(len(self._members_errors)) if self._stays_itself(widths, k)]
        return fitting[nearest([self._members_errors[k] for k in fitting])] if fitting else None

    def _fits(self, widths: Mapping[str, int], members: Sequence[int]) -> bool:
        """Whether members fit side by side."""
        own = self.census.population_.widths
        return all(sum(own(name)[k] for k in members) <= width for name, width in widths.items())


def best_of(entries: Sequence[Entry]) -> int:
    """Return the index of the nearest network; one that stays, unless another is nearer beyond doubt.

    For classes, that is a member as it is: held-out rows are few, and an error to the ensemble is not an accuracy.
    """
    kept = next((entry for entry in entries if entry.stays), None)
    errors = [
        entry.record.error if kept is None or entry is kept or surely_smaller(entry.errors, kept.errors) else math.inf
        for entry in entries
    ]
    return nearest(errors)


def _ordered(entries: Sequence[Entry]) -> list[Entry]:
    left, ordered = list(entries), list[Entry]()
    while left:
        ordered.append(left.pop(best_of(left)))
    return ordered


def _name(members: Sequence[int]) -> str:
    return f"member{'s' if len(members) > 1 else ''} {', '.join(map(str, members))}"


def _equal(one: Mapping[str, Groups], other: Mapping[str, Groups]) -> bool:
    """Whether two choices have the same clusters, in any order."""
    return all(groups.sets() == other[name].sets() for name, groups in one.items())
