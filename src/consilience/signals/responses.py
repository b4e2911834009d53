"""Responses of the units of networks to data, in batches.

Where units have positions, as the channels of a convolution do, some positions of each sample are taken, the same ones
in every network (`consilience.units.axes.Sampling`). Only these rows are kept: in memory, or where they are many, in a
file (`consilience.signals.shelf`). Networks run one after the other or, where they compute much for each number that is
kept, as tasks of the engine.

Axis legend: ``n`` samples, ``r`` rows (a sample at a position), ``u`` units.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Protocol

import torch
from torch import Tensor

from consilience.devices import current_device, device
from consilience.engines import Serial, current
from consilience.engines.call import packed
from consilience.signals.batches import batch_size
from consilience.signals.grams import contribution_grams
from consilience.signals.positions import positions_read
from consilience.signals.shelf import TOGETHER, Each, Room, blocks
from consilience.units.architecture import Architecture, TracedNetwork
from consilience.units.axes import Axis, Sampling, by_unit

MAX_ROWS = 20_000  # of a layer with positions: enough for least squares of a few thousand weights per unit
MAX_BYTES = 2**30  # of rows that are kept of all layers of all networks together
MAX_SAMPLES = 2000  # rows of a layer that distances and centroids look at; more change no distance by a percent
MOST_NUMBERS, FEWEST_SAMPLES = 40_000_000, 256  # that all units together have there: 20,000 units have all 2000 rows
BLOCK = 8  # networks that one task runs
WORTH = 1000  # multiplications for each number kept, from which on a task takes several times as long as its transport


class Kind(Protocol):
    """What networks have in common, in a form that goes to another process, where it is traced again: a population."""

    @property
    def architecture(self) -> Architecture:
        """Their layers and maps."""


def stream(
    network: TracedNetwork,
    x: Tensor,
    values: Sequence[str],
    size: int | None = None,
    known: Mapping[str, Tensor] | None = None,
) -> Iterator[tuple[slice, dict[str, Tensor]]]:
    """Yield the named traced values for inputs x (n, ...) batch by batch: (which, values); ``known`` ones are taken."""
    known, size = known or {}, size or batch_size(network)
    for start in range(0, len(x), size):
        end = min(start + size, len(x))
        given = {}
        for name, value in known.items():
            each = len(value) // len(x)  # more than one where samples have been divided, as videos into frames
            given[name] = value[start * each : end * each]
        yield slice(start, end), network.values(x[start:end], values, given)


def rows_of(
    network: TracedNetwork,
    x: Tensor,
    axes: Sequence[Axis],
    sampling: Sampling,
    known: Mapping[str, Tensor] | None = None,
) -> dict[Axis, Tensor]:
    """Return the values of units in several places on inputs x (n, ...), in one pass: (r, u) for each axis."""
    widths, place = network.architecture.widths, current_device()
    network, x = network.on(place), x.to(place)
    known = {name: value.to(place) for name, value in (known or {}).items()}
    parts: dict[Axis, list[Tensor]] = {axis: [] for axis in axes}
    for which, batch in stream(network, x, list({axis.name for axis in axes}), known=known):
        for axis, rows in parts.items():
            units = axis.units(batch[axis.name], widths, which.stop - which.start)
            rows.append(sampling.of(units, which.start).cpu())
    return {axis: torch.cat(rows) for axis, rows in parts.items()}


def rows_of_several(
    states: Sequence[Mapping[str, Tensor]],
    *,
    kind: bytes,
    x: Tensor,
    axes: Sequence[Axis],
    sampling: Sampling,
    place: str,
) -> list[list[Tensor]]:
    """Return the values that `rows_of` gives for networks of one kind with these parameters: a task."""
    architecture, results = _traced(kind), list[list[Tensor]]()
    for state in states:
        network = TracedNetwork(architecture.with_widths(architecture.widths_in(dict(state))), state)
        with device(place):
            results.append([*rows_of(network, x, axes, sampling).values()])
    return results


@lru_cache(maxsize=1)
def _traced(kind: bytes) -> Architecture:
    architecture: Architecture = pickle.loads(kind).architecture
    return architecture


def multiplications(network: TracedNetwork, x: Tensor, axes: Sequence[Axis], sampling: Sampling) -> float:
    """Return how many multiplications a network needs for each number that `rows_of` keeps."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        rows = rows_of(network, x[:1], axes, sampling)
    return float(counter.get_total_flops()) / 2 / max(1, sum(part.numel() for part in rows.values()))


def evenly(rows: Tensor, most: int = MAX_SAMPLES) -> slice:
    """Return a slice that takes at most so many rows, evenly: calibration data may come sorted."""
    return slice(None, None, -(-len(rows) // most))


def filled(parts: Iterator[Tensor], n: int) -> Tensor:
    """Return parts (u, ...) one after the other, n rows in all, without having them in memory twice."""
    first, done = next(parts), 0
    whole = first.new_empty(n, *first.shape[1:])
    for part in chain([first], parts):
        whole[done : done + len(part)] = part
        done += len(part)
    return whole


class Responses:
    """Responses of the layers of networks of one kind to inputs (n, ...), computed in one pass when first needed.

    They are computed in this process, unless ``kind`` is given.
    """

    def __init__(self, networks: Sequence[TracedNetwork], x: Tensor, kind: Kind | None = None) -> None:
        self.networks, self.x, self._kind = tuple(networks), x, kind
        self._rows: dict[Axis, Sequence[Tensor]] = {}
        self._room = Room()
        self._whole: tuple[Responses, Tensor] | None = None  # of a subset: what it is of, and which samples
        self._units: dict[str, Sequence[Tensor]] = {}
        self._contributions: dict[str, Tensor] = {}
        architecture = networks[0].architecture
        places = ((*architecture.written(layer.name), *architecture.read(layer.name)) for layer in architecture.layers)
        self._axes = tuple(dict.fromkeys(chain.from_iterable(places)))
        widths = [network.architecture.widths for network in networks]
        units = sum(own[a.layer] * a.inside for own in widths for a in self._axes if a.layer)
        max_rows = max(1, min(MAX_ROWS, MAX_BYTES // (x.element_size() * max(1, units))))
        self._positions = positions_read(networks[0], x) if self.has_data else {}
        always = {len(reached): reached.nonzero()[:, 0] for reached in self._positions.values()}
        self.sampling = Sampling(len(x), max_rows, always)  # the positions that are taken

    @classmethod
    def without_data(cls, networks: Sequence[TracedNetwork], example_input: Tensor) -> Responses:
        """Return responses to one input of zeros: only the constants of dead units count, which depend on no input."""
        return cls(networks, torch.zeros_like(example_input[:1]))

    @property
    def has_data(self) -> bool:
        """Whether the inputs are data: more than one."""
        return len(self.x) > 1

    def subset(self, samples: Tensor) -> Responses:
        """Return the responses to some of the samples, at the same positions of each: no network runs again.

        Rows are not copied until they are asked for.
        """
        part = copy.copy(self)
        part.x, part.sampling, part._units = self.x[samples], self.sampling.taken(samples), {}
        part._contributions, part._rows, part._room, part._whole = {}, {}, Room(), (self, samples)
        return part

    def at(self, axis: Axis) -> Sequence[Tensor]:
        """Return the values of each network's units in one place: (r, u)."""
        if axis not in self._rows:
            if self._whole is not None:
                whole, samples = self._whole
                parts = (rows.unflatten(0, (len(whole.x), -1))[samples].flatten(0, 1) for rows in whole.at(axis))
                self._rows[axis] = self._room.shelf(parts)
            else:
                self._record()
        return self._rows[axis]

    def reaching(self, axis: Axis) -> Tensor | None:
        """Return which of the rows (r,) of a place that a map writes reach the outputs; None if all do."""
        if axis not in self._positions:
            return None
        reached = self._positions[axis]
        return reached[self.sampling.rows(0, len(self.x), len(reached))[1]]

    def _record(self) -> None:
        """Run every network once, for its values in all places."""
        axes, n = self._axes, len(self.networks)
        shelf = self._room.shelf(chain.from_iterable(self._run()))
        for i, axis in enumerate(axes):
            self._rows[axis] = Each(n, lambda k, i=i: shelf[k * len(axes) + i])  # type: ignore[misc]

    def _run(self) -> Iterator[Sequence[Tensor]]:
        """Yield each network's values in all places."""
        how = self.x, self._axes, self.sampling
        engine = current(worth=self._is_worth_sending())
        if isinstance(engine, Serial):
            yield from ([*rows_of(network, *how).values()] for network in self.networks)
            return
        shared = dict(zip(("x", "axes", "sampling"), how, strict=True))
        shared |= {"kind": packed(self._kind), "place": current_device()}
        for some in blocks(len(self.networks), TOGETHER):
            states = [dict(network.state) for network in self.networks[some]]
            items = [states[block] for block in blocks(len(states), BLOCK)]
            yield from chain.from_iterable(engine.map(rows_of_several, items, shared=shared))

    def _is_worth_sending(self) -> bool:
        if self._kind is None or isinstance(current(), Serial):
            return False
        program = self._kind.architecture.program
        if any(network.architecture.program is not program for network in self.networks):
            return False
        return multiplications(self.networks[0], self.x, self._axes, self.sampling) >= WORTH

    def read(self, layer: str) -> Sequence[Tensor]:
        """Return the activations of each network's layer, one place where it is read after the other: (r, u)."""
        return self._all(self.networks[0].architecture.read(layer))

    def written(self, layer: str) -> Sequence[Tensor]:
        """Return the pre-activations of each network's layer, one place after the other: (r, u)."""
        return self._all(self.networks[0].architecture.written(layer))

    def read_units(self, layer: str) -> Sequence[Tensor]:
        """Return the activations of units, the rows of each one after the other: (r · inside, u).

        Of a layer that no map reads, as queries, they are those of the first layer tied to it that one reads.
        """
        architecture = self.networks[0].architecture
        own = [layer, *(tied.name for tied in architecture.family(layer))]
        name = next(each for each in own if architecture.read(each))
        return self._in_units(self.read(name), layer)

    def written_units(self, layer: str) -> Sequence[Tensor]:
        """Return the pre-activations of units, the rows of each one after the other: (r · inside, u)."""
        return self._in_units(self.written(layer), layer)

    def _in_units(self, values: Sequence[Tensor], layer: str) -> Sequence[Tensor]:
        widths = self._widths(layer)
        return Each(len(widths), lambda k: by_unit(values[k].T, widths[k]).flatten(1).T)

    def _widths(self, layer: str) -> list[int]:
        return [network.architecture.layer(layer).width for network in self.networks]

    def units(self, layer: str) -> Tensor:
        """Return the pre-activations of all networks' units of a layer on the rows that `compared` takes: (U, r).

        Those of a unit of several rows are side by side. Of a layer that depends on no input they are its parameters.
        """
        if layer not in self._units:
            whole = filled(self._points(layer), sum(self._widths(layer)))
            self._units[layer] = self._room.shelf([whole])
        return self._units[layer][0]

    def _points(self, layer: str) -> Iterator[Tensor]:
        if not self.networks[0].architecture.written(layer):
            for network in self.networks:
                parts = [network.weights(m).matrix for m in network.architecture.writing(layer)]
                yield by_unit(torch.cat(parts, 1), network.architecture.layer(layer).width).flatten(1)
            return
        rows = self.compared(layer)
        for z, units in zip(self.written(layer), self._widths(layer), strict=True):
            yield by_unit(z[rows].T, units).flatten(1)

    def compared(self, layer: str) -> slice:
        """Return which rows of a layer units are compared by: evenly spaced, at most `MAX_SAMPLES`.

        They are fewer where there are many units, but `FEWEST_SAMPLES` and twice the units of a network if there are.
        """
        widths = self._widths(layer)
        most = max(FEWEST_SAMPLES, 2 * max(widths), MOST_NUMBERS // sum(widths))
        return evenly(self.written(layer)[0], min(MAX_SAMPLES, most))

    def contributions(self, layer: str) -> Tensor:
        """Return what units of several rows add to what reads them, as `contribution_grams`: (U, g).

        It is the same for all tied layers.
        """
        architecture = self.networks[0].architecture
        first = architecture.first(layer)
        if first not in self._contributions:
            family = {tied.name for tied in architecture.family(first)}
            self._contributions[first] = contribution_grams(self.networks, family, self.at)
        return self._contributions[first]

    def _all(self, axes: Sequence[Axis]) -> Sequence[Tensor]:
        places = [self.at(axis) for axis in axes]
        if len(places) == 1:
            return places[0]
        return Each(len(self.networks) if places else 0, lambda k: torch.cat([rows[k] for rows in places]))
