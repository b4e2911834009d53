"""What a walk through a program notes: units along dimensions, groups of them, and maps between groups.

See `consilience.units.walk`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import fx

from consilience.units.maps import Factor, Kernel, Norm


class Run(NamedTuple):
    """Units of one group, or fixed features, along a dimension: see `consilience.units.axes.Section`.

    After a channel shuffle, units of several groups alternate: their runs follow each other, the first at 0.
    """

    group: int | None
    block: int
    step: int = 0  # where units alternate with those of other groups: entries from one unit to the next
    at: int = 0  # entries before this run's in each step

    @property
    def reach(self) -> int:
        """Entries from one unit to the next."""
        return self.step or self.block


def together(runs: Sequence[Run]) -> list[tuple[Run, ...]]:
    """Return the runs along a dimension, with those whose units alternate in one tuple."""
    result = list[tuple[Run, ...]]()
    for run in runs:
        if run.at:
            result[-1] += (run,)
        else:
            result.append((run,))
    return result


Label = dict[int, tuple[Run, ...]]  # dimension of a value → the runs along it, in order; other dimensions are fixed


@dataclass
class Group:
    """Units that one weight writes; name and width are the layer's, unless the group joins another."""

    name: str
    width: int
    inside: int = 1  # rows of each unit; see `consilience.units.axes`
    activations: list[str] = field(default_factory=list)
    fixed: bool = False  # whether its units must keep their index


@dataclass
class Draft:
    """A map whose groups are not yet layers; see `consilience.units.maps.Map`."""

    name: str
    weight: str
    bias: str | None
    inputs: tuple[Run, ...]  # all along the dimension that it reads; a map per unit reads the one at `place`
    input: tuple[str, int]  # value and dimension
    output: tuple[str, int]
    group: int  # what it writes
    along: tuple[Run, ...] = ()  # all along the output's dimension, by default this group alone
    kernel: Kernel | None = None
    norm: Norm | None = None
    per_unit: bool = False
    fitted: bool = True
    dim: int = 0
    shift: float = 0.0
    factors: tuple[Factor, ...] = ()
    scaled: Norm | None = None

    def __post_init__(self) -> None:
        """Let the group be alone along the output's dimension, if nothing else is said."""
        self.along = self.along or (Run(self.group, 1),)

    @property
    def place(self) -> int:
        """Which of the runs along the output's dimension it writes."""
        return [run.group for run in self.along].index(self.group)


class Normed(NamedTuple):
    """An operation that computes statistics of all units of some groups, as norms do."""

    node: fx.Node
    groups: tuple[int | None, ...]  # side by side; None for fixed features
    parts: tuple[int, ...]  # for each of these which of several statistics it is in


class Spread(NamedTuple):
    """What a parameter that all units have in common needs to have one number for each unit."""

    shape: tuple[int, ...]  # that it must have
    node: fx.Node  # the operation that reads it
    group: int | None = None  # of one unit, which it writes and nothing else may read
