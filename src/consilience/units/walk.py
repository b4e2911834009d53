"""The state of a walk through a program that follows units from operation to operation.

Every dimension of a value is either fixed (samples, positions, the inputs' features) or indexes units. The handlers of
`consilience.units.operations` read and change this state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx

from consilience.errors import TracingError
from consilience.units.groups import Groups, Label, Run
from consilience.units.maps import Kernel, Norm
from consilience.units.program import Program

SUPPORTED = (
    "linear layers, convolutions, batch and layer norms, elementwise functions, pooling, flatten, sums, "
    "concatenation, gates, dropout"
)
UNSUPPORTED = "unsupported operation on units"
PARAMETER = "unsupported operation on a parameter"


@dataclass
class Draft:
    """A map whose groups are not yet layers; see `consilience.units.maps.Map`.

    Attributes
    ----------
    inputs : what it reads along the dimension; of a map per unit, up to the units that it reads.
    input, output : value and dimension.
    group : what it writes.
    before : what precedes that along the output's dimension.
    """

    name: str
    weight: str
    bias: str | None
    inputs: tuple[Run, ...]
    input: tuple[str, int]
    output: tuple[str, int]
    group: int
    before: tuple[Run, ...] = ()
    kernel: Kernel | None = None
    norm: Norm | None = None
    per_unit: bool = False
    fitted: bool = True

    @property
    def own_parameters(self) -> tuple[str | None, ...]:
        """Names of the parameters that no other map may have."""
        return self.weight, self.bias, None if self.norm is None else self.norm.weight


@dataclass
class Walk:
    """The program and the units found in it so far.

    Attributes
    ----------
    program : the traced module.
    labels : value → where units lie along its dimensions; no entry where it has none.
    groups : the units that weights have written.
    drafts : the weighted operations.
    crossing : maps that are applied once for each unit of another layer.
    sources : value → the map that has just written it.
    folded : those values that a batch norm follows, which is folded into their map.
    elementwise : values computed number by number, whatever the shape.
    functions : value → the function that computes it at any widths, from the same arguments as the operation.
    """

    program: Program
    labels: dict[fx.Node, Label] = field(default_factory=dict)
    groups: Groups = field(default_factory=Groups)
    drafts: list[Draft] = field(default_factory=list)
    crossing: list[str] = field(default_factory=list)
    sources: dict[fx.Node, Draft] = field(default_factory=dict)
    folded: set[fx.Node] = field(default_factory=set)
    elementwise: set[str] = field(default_factory=set)
    functions: dict[str, Callable[..., Any]] = field(default_factory=dict)

    # --- what an operation reads

    def label(self, value: fx.Node) -> Label:
        """Return where the units of a value lie; empty if it has none."""
        return self.labels.get(value, {})

    def arguments(self, node: fx.Node, n: int) -> list[Any]:
        """Return the first n arguments of an operation, None where there are fewer."""
        schema = node.target._schema.arguments if hasattr(node.target, "_schema") else []
        given = list(node.args) + [node.kwargs.get(argument.name) for argument in schema[len(node.args) :]]
        return (given + [None] * n)[:n]

    def carriers(self, node: fx.Node) -> list[fx.Node]:
        """Return the values with units that an operation reads."""
        return [value for value in node.all_input_nodes if value in self.labels]

    def reads_parameter(self, node: fx.Node) -> bool:
        """Whether an operation reads a parameter."""
        return any(value.name in self.program.parameters for value in node.all_input_nodes)

    def only_value(self, node: fx.Node) -> fx.Node:
        """Return the one value with units that an operation reads, which must be its first argument."""
        self.check_no_parameter(node)
        value, *others = self.carriers(node)
        if others or value is not node.args[0]:
            raise self.error(UNSUPPORTED, node)
        return value

    def pass_through(self, node: fx.Node, name: str) -> Label:
        """Note that the units of the one value that an operation reads pass through it; return their label."""
        return self.groups.pass_through(self.label(self.only_value(node)), name)

    # --- checks

    def check_no_parameter(self, node: fx.Node) -> None:
        """Raise if an operation reads a parameter."""
        if self.reads_parameter(node):
            raise self.error(PARAMETER, node)

    def check_fixed(self, node: fx.Node, value: fx.Node, dims: Sequence[int] | range) -> None:
        """Raise if units lie along some dimensions of a value."""
        if any(dim in self.label(value) for dim in dims):
            raise self.error(UNSUPPORTED, node, "keep units and positions apart")

    def check_alike(self, node: fx.Node, first: Sequence[Run], second: Sequence[Run]) -> None:
        """Raise if units cannot be paired."""
        if self.groups.widths(first) != self.groups.widths(second):
            raise self.error("units of unlike layers are combined", node)

    def check_unused(self, node: fx.Node, *names: str | None) -> None:
        """Raise if a parameter belongs to an earlier map."""
        if any(name in draft.own_parameters for draft in self.drafts for name in names if name is not None):
            raise self.error("a parameter is used twice", node, "give each use its own module")

    def error(self, what: str, node: fx.Node | None, cure: str | None = None) -> TracingError:
        """Return the error for an operation, by default with all supported ones as the cure."""
        where = self.program.module_name if node is None else self.program.describe(node)
        return TracingError(f"{what}: {where}", cure=cure or f"use {SUPPORTED}; or leave this network out")


def n_dims(value: fx.Node) -> int:
    """Return the number of dimensions of a value."""
    return int(value.meta["val"].dim())


def size(value: fx.Node, dim: int) -> int:
    """Return the size of a value along a dimension other than that of samples."""
    return int(value.meta["val"].shape[dim])


def is_tensor(value: object) -> bool:
    """Whether an argument of an operation is a tensor, no number."""
    return isinstance(value, fx.Node) and isinstance(value.meta.get("val"), Tensor)
