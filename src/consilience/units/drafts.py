"""What a walk through a program notes: units along dimensions, groups of them, and maps between groups.

See `consilience.units.walk`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from torch import fx

from consilience.units.maps import Factor, Kernel, Norm


class Run(NamedTuple):
    """Units of one group, or fixed features, along a dimension: see `consilience.units.axes.Section`."""

    group: int | None
    block: int


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
    inputs: tuple[Run, ...]  # what it reads along the dimension; of a map per unit, up to the units that it reads
    input: tuple[str, int]  # value and dimension
    output: tuple[str, int]
    group: int  # what it writes
    before: tuple[Run, ...] = ()  # what precedes that along the output's dimension
    kernel: Kernel | None = None
    norm: Norm | None = None
    per_unit: bool = False
    fitted: bool = True
    dim: int = 0
    shift: float = 0.0
    factors: tuple[Factor, ...] = ()
    scaled: Norm | None = None


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
