"""Groups of units on the way through a program, before the walk has shown which of them are one layer.

Each weight writes a *group*. Groups that are added, or read by one weight, are joined: they are one layer. Groups whose
units come in pairs are tied: they are one family, permuted together.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class Run(NamedTuple):
    """Units of one group, or fixed features, along a dimension: see `consilience.units.axes.Section`."""

    group: int | None
    block: int


Label = dict[int, tuple[Run, ...]]  # dimension of a value → the runs along it, in order; other dimensions are fixed


@dataclass
class Group:
    """Units that one weight writes.

    Attributes
    ----------
    name, width : of the layer that the group becomes, unless it joins another.
    activations : what its units pass through.
    fixed : whether its units must keep their index.
    """

    name: str
    width: int
    activations: list[str] = field(default_factory=list)
    fixed: bool = False


@dataclass
class Groups:
    """All groups, by number in order of appearance."""

    members: list[Group] = field(default_factory=list)
    joined: dict[int, int] = field(default_factory=dict)  # group → an earlier one that it is one layer with
    tied: list[tuple[int, int]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, group: int) -> Group:
        return self.members[group]

    @property
    def names(self) -> set[str]:
        """All names in use."""
        return {group.name for group in self.members}

    def new(self, name: str, width: int) -> int:
        """Return the number of a new group."""
        self.members.append(Group(name, width))
        return len(self.members) - 1

    def unique(self, name: str) -> str:
        """Return a name that is not in use, made of this one."""
        taken, candidates = self.names, (f"{name}{i or ''}" for i in itertools.count())
        return next(candidate for candidate in candidates if candidate not in taken)

    def root(self, group: int) -> int:
        """Return the first group of the layer that a group belongs to."""
        while group in self.joined:
            group = self.joined[group]
        return group

    def widths(self, runs: Sequence[Run]) -> list[tuple[int, int | None]]:
        """Return what runs must have in common to be joined: entries of each unit, and units."""
        return [(run.block, None if run.group is None else self.members[run.group].width) for run in runs]

    def join(self, first: Sequence[Run], second: Sequence[Run]) -> None:
        """Make one layer of units; those that are added to fixed features keep their index."""
        for a, b in zip(first, second, strict=True):
            if a.group is None or b.group is None:
                self.fix(a.group)
                self.fix(b.group)
            elif self.root(a.group) != self.root(b.group):
                low, high = sorted((self.root(a.group), self.root(b.group)))
                self.joined[high] = low

    def tie(self, a: int, b: int) -> None:
        """Note that the units of two groups come in pairs."""
        self.tied.append((a, b))

    def multiply(self, first: Sequence[Run], second: Sequence[Run]) -> None:
        """Tie units that are multiplied; the second factor is the gate, which has no scale or sign of its own."""
        for a, b in zip(first, second, strict=True):
            if a.group is None or b.group is None:
                self.fix(a.group)
                self.fix(b.group)
            elif self.root(a.group) == self.root(b.group):
                self.members[a.group].activations.append("product")
            else:
                self.members[b.group].activations.append("gate")
                self.tie(b.group, a.group)

    def fix(self, group: int | None) -> None:
        """Note that a group's units must keep their index."""
        if group is not None:
            self.members[group].fixed = True

    def pass_through(self, label: Label, name: str) -> Label:
        """Note that all units of a label pass through something; return the label."""
        for runs in label.values():
            for run in runs:
                if run.group is not None and name not in self.members[run.group].activations:
                    self.members[run.group].activations.append(name)
        return label

    def families(self) -> dict[int, int]:
        """Return, by first group of each layer, the first group of its family: all that is tied, however indirectly."""
        first = {self.root(g): self.root(g) for g in range(len(self.members))}

        def top(group: int) -> int:
            while first[group] != group:
                group = first[group]
            return group

        for a, b in self.tied:
            low, high = sorted((top(self.root(a)), top(self.root(b))))
            first[high] = low
        return {group: top(group) for group in first}
