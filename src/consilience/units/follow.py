"""The layers of any traced module, found by following units through its operations.

Every dimension of a value is either fixed (samples, positions, the inputs' features) or indexes units. A weighted
operation gives its output's dimension new units; elementwise operations, pooling and reshapes pass units on; what
arrives at another weight ties that weight's input axis to them; a sum makes one layer of what it adds; a product, a
depthwise convolution and a norm pair units. An operation is in one of the tables of `consilience.units.operations`,
with its effect on units known exactly, or the module is refused by name.
"""

from __future__ import annotations

import functools
import math
import operator
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx, nn

from consilience.errors import TracingError
from consilience.units import operations
from consilience.units.architecture import Architecture, Layer
from consilience.units.axes import Axis, Section, axes_of
from consilience.units.groups import Groups, Label, Run
from consilience.units.maps import Kernel, Map, Norm
from consilience.units.operations import (  # fmt: skip
    BATCH_NORMS,
    CONVOLUTIONS,
    ELEMENTWISE,
    PASSING,
    REDUCTIONS,
    RESHAPING,
    SIZED,
    SPATIAL,
    SUMS,
    aten,
)
from consilience.units.shapes import by_dimension, matching, zeros_around
from consilience.units.trace import Program, check_samples_apart, describe, trace

BATCH = 1_000_003  # a prime that stands for the number of samples where sizes are compared

UNDERSTOOD = (
    "linear layers, convolutions, batch and layer norms, elementwise functions, pooling, flatten, sums, "
    "concatenation, gates, dropout"
)
LINEAR = {"avg_pool", "upsample", "scale", "shift"}  # what outputs may pass through: the mean over members passes too
ODD = "an operation on units is not understood"
PARAMETER = "a parameter is used in an operation that is not understood"


def find_layers(module: nn.Module, example_input: Tensor) -> Architecture:
    """Trace ``module`` on ``example_input`` (n, ...) and return its layers.

    Raises
    ------
    TracingError
        If an operation on units is not understood (the message names the operation and its module), the module's use of
        its parameters leaves a unit's axes unknown, or the outputs of a sample depend on others.
    """
    program = trace(module, example_input)
    architecture = _Follower(program).architecture()
    check_samples_apart(program, module, example_input)
    return architecture


@dataclass
class _Draft:
    """A map whose groups are not yet layers."""

    name: str
    weight: str
    bias: str | None
    inputs: tuple[Run, ...]  # of a map per unit: up to the units that it reads
    input: tuple[str, int]  # value and dimension
    output: tuple[str, int]
    group: int
    before: tuple[Run, ...] = ()
    kernel: Kernel | None = None
    norm: Norm | None = None
    per_unit: bool = False
    fitted: bool = True


@dataclass
class _Follower:
    """Follows units through a program."""

    program: Program
    labels: dict[fx.Node, Label] = field(default_factory=dict)
    groups: Groups = field(default_factory=Groups)
    drafts: list[_Draft] = field(default_factory=list)
    crossing: list[str] = field(default_factory=list)
    sources: dict[fx.Node, _Draft] = field(default_factory=dict)  # value → the map that has just written it
    folded: set[fx.Node] = field(default_factory=set)  # those of them that a batch norm follows

    # --- the walk -------------------------------------------------------------------------------------------------

    def architecture(self) -> Architecture:
        nodes = [node for node in self.program.nodes if node.op == "call_function"]
        for node in nodes:
            label = self.follow(node) if node.users else {}
            if label:
                self.labels[node] = label
        returned = next((node for node in nodes if node.name == self.program.output), None)
        label = {} if returned is None else self.labels.get(returned, {})
        if returned is None or not label:
            raise self.refuse("the module returns values that no layer of its own has written", returned)
        if returned.meta["val"].dim() != 2:
            raise self.refuse(
                f"the outputs have {returned.meta['val'].dim()} axes", returned, "return one row (o,) for each sample"
            )
        if len(label[1]) != 1 or label[1][0].group is None or label[1][0].block != 1:
            raise self.refuse(
                "the outputs are not the units of one layer", returned, "return the output of a layer of its own"
            )
        return self.finish(returned, self.groups.root(label[1][0].group))

    def follow(self, node: fx.Node) -> Label:
        """Return the label of the operation's result, or refuse the operation."""
        target = node.target
        if target is aten.linear.default:
            return self.linear(node)
        if target in CONVOLUTIONS:
            return self.convolution(node)
        if target in BATCH_NORMS:
            return self.batch_norm(node)
        if target is aten.layer_norm.default:
            return self.layer_norm(node)
        tensors = [value for value in node.all_input_nodes if isinstance(value.meta.get("val"), Tensor | tuple | list)]
        if any(value.name in self.program.parameters for value in tensors):
            raise self.refuse(PARAMETER, node)
        carriers = [value for value in tensors if value in self.labels]
        if not carriers:
            return {}  # preprocessing of the inputs: no unit is involved yet
        if target in SUMS or target in (aten.mul.Tensor, aten.div.Tensor):
            return self.combine(node)
        if target is aten.cat.default:
            return self.concatenate(node)
        value, label = carriers[0], self.labels[carriers[0]]
        if len(carriers) > 1 or value is not node.args[0]:
            raise self.refuse(ODD, node)
        if target in PASSING:
            return label
        if target in ELEMENTWISE:
            return self.groups.pass_through(label, _activation(node))
        if target in SPATIAL:
            n_dims, name = SPATIAL[target]
            self.check_fixed(node, value, range(_dims(value) - n_dims, _dims(value)))
            return self.groups.pass_through(label, name)
        if target is operator.getitem and node.args[1] == 0:  # of an operation that returns several values
            for draft in self.drafts:
                if draft.output[0] == value.name:
                    draft.output = (node.name, draft.output[1])
            return label
        if target in REDUCTIONS:
            return self.reduce(node, value)
        if target in RESHAPING:
            return self.reshape(node, value)
        if target in (aten.permute.default, aten.transpose.int, aten.expand.default):
            return self.rearrange(node, value)
        if target in (aten.slice.Tensor, aten.select.int):
            return self.cut(node, value)
        if target in (aten.pad.default, aten.constant_pad_nd.default):
            return self.pad(node, value)
        raise self.refuse(ODD, node)

    # --- weighted operations --------------------------------------------------------------------------------------

    def linear(self, node: fx.Node) -> Label:
        value, weight, bias = self.arguments(node, 3)
        last = _dims(value) - 1
        label = self.labels.get(value, {})
        draft = self.dense(node, value, weight, bias, last)
        others = {dim: runs for dim, runs in label.items() if dim != last}
        if others:
            self.crossing.append(draft.name)
            if bias is not None:
                self.groups.pass_through(others, "shift")
        return {**others, last: (Run(draft.group, 1),)}

    def convolution(self, node: fx.Node) -> Label:
        target: Any = node.target
        n_dims = CONVOLUTIONS[target]
        value, weight, bias, stride, padding, dilation, groups = self.arguments(node, 7)
        self.check_fixed(node, value, range(2, 2 + n_dims))
        size = tuple(weight.meta["val"].shape[2:])
        stride, dilation = by_dimension(stride, n_dims, 1), by_dimension(dilation, n_dims, 1)
        kernel = Kernel(size, stride, zeros_around(padding, size, dilation), dilation)
        channels = int(value.meta["val"].shape[1])
        if groups in (None, 1):
            draft = self.dense(node, value, weight, bias, 1)
            draft.kernel = draft.kernel or kernel
            return {1: (Run(draft.group, 1),)}
        if groups != channels or int(weight.meta["val"].shape[0]) != channels:
            raise self.refuse(
                f"a convolution in {groups} groups", node, "use groups=1, or as many as there are channels"
            )
        label = self.per_unit(node, value, weight, bias, 1, kernel=kernel)
        own_groups = functools.partial(operations.depthwise, target)
        padding = [0] * n_dims if padding is None else padding
        _replace(node, own_groups, (value, weight, bias, list(stride), padding, list(dilation)))
        return label

    def batch_norm(self, node: fx.Node) -> Label:
        target: Any = node.target
        training, eps = BATCH_NORMS[target]
        value, weight, bias, mean, variance, *rest = self.arguments(node, 9)
        given = [value, weight, bias, mean, variance, *rest]
        if training is not None and given[training]:
            raise self.refuse("a batch norm that uses the batch's statistics", node, "keep running statistics")
        names = [
            self.program.parameters.get(each.name, "") if isinstance(each, fx.Node) else ""
            for each in (weight, bias, mean, variance)
        ]
        if not all(names):
            raise self.refuse("a batch norm without weight, bias or statistics of its own", node, "use affine=True")
        if value not in self.labels:
            raise self.refuse(
                "a batch norm of the inputs", node, "scale the inputs before the network, or fold it into what follows"
            )
        if 1 not in self.labels[value]:
            raise self.refuse("a batch norm over positions", node, "put the units second: (n, u, ...)")
        norm = Norm(names[0], names[1], names[2], names[3], float(given[eps]))
        source = self.sources.get(value)
        own = source is not None and source.weight == norm.weight  # a norm that is used twice in a row
        if own:
            raise self.refuse("a batch norm is used twice in a row", node, "give each use its own module")
        if source is None or not source.fitted or len(value.users) > 1 or source.norm not in (None, norm):
            return self.per_unit(node, value, weight, None, 1, norm=norm)
        if source.norm is None:
            self.check_free(node, norm.weight)
        source.norm = norm
        self.folded.add(value)
        if source.output[0] == value.name:
            source.output = (node.name, source.output[1])
        return self.labels[value]

    def layer_norm(self, node: fx.Node) -> Label:
        value, shape, weight, bias, eps = self.arguments(node, 5)
        last = _dims(value) - 1
        label = self.labels.get(value, {})
        if last not in label:
            if isinstance(weight, fx.Node):
                raise self.refuse(PARAMETER, node)
            return self.groups.pass_through(label, "layer_norm")
        if len(shape) != 1:
            raise self.refuse(ODD, node, "normalise over units only")
        if weight is None:
            raise self.refuse("a layer norm without weight", node, "use elementwise_affine=True")
        self.groups.pass_through(label, "layer_norm")
        label = self.per_unit(node, value, weight, bias, last, fitted=False)
        _replace(node, operations.layer_norm, (value, weight, bias, 1e-5 if eps is None else eps))
        return label

    def dense(self, node: fx.Node, value: fx.Node, weight: fx.Node, bias: fx.Node | None, dim: int) -> _Draft:
        """Follow a weight that mixes units along a dimension."""
        name, bias_name = self.names(node, weight, bias)
        if value.name in self.program.parameters:
            raise self.refuse(PARAMETER, node)
        label = self.labels.get(value, {})
        runs = label.get(dim) or (Run(None, int(value.meta["val"].shape[dim])),)
        width = int(weight.meta["val"].shape[0])
        for draft in self.drafts:
            if draft.weight == name and not draft.per_unit and draft.bias == bias_name:  # the module is used again
                self.join(node, draft.inputs, runs)
                self.sources[node] = draft
                return draft
        self.check_free(node, name, bias_name)
        group = self.groups.new(self.own_name(name), width)
        output = _dims(node) - 1 if node.target is aten.linear.default else 1
        draft = _Draft(self.groups[group].name, name, bias_name, runs, (value.name, dim), (node.name, output),
                       group)  # fmt: skip
        self.drafts.append(draft)
        self.sources[node] = draft
        return draft

    def per_unit(
        self, node: fx.Node, value: fx.Node, weight: fx.Node, bias: fx.Node | None, dim: int, *,
        kernel: Kernel | None = None, norm: Norm | None = None, fitted: bool = True,
    ) -> Label:  # fmt: skip
        """Follow a weight that acts on each unit by itself: new units, paired with those read."""
        name, bias_name = self.names(node, weight, bias)
        runs = self.labels.get(value, {}).get(dim)
        if runs is None or any(run.group is None or run.block != 1 for run in runs):
            raise self.refuse("a weight of its own for each input feature", node)
        self.check_free(node, name, bias_name)
        new = list[Run]()
        module = self.own_name(name)
        for i, run in enumerate(runs):
            assert run.group is not None
            own = module if i == 0 else self.groups.unique(f"{module}[{self.groups[self.groups.root(run.group)].name}]")
            group = self.groups.new(own, self.groups[self.groups.root(run.group)].width)
            self.groups.tie(group, run.group)
            # The output's dimension of units is the input's: none of these operations moves dimensions.
            self.drafts.append(
                _Draft(own, name, bias_name, runs[: i + 1], (value.name, dim), (node.name, dim), group, tuple(new),
                       kernel, norm, per_unit=True, fitted=fitted)
            )  # fmt: skip
            new.append(Run(group, 1))
        if len(runs) == 1:
            self.sources[node] = self.drafts[-1]
        return {**{d: r for d, r in self.labels.get(value, {}).items() if d != dim}, dim: tuple(new)}

    # --- everything else ------------------------------------------------------------------------------------------

    def combine(self, node: fx.Node) -> Label:
        """A sum makes one layer of what it adds; a product pairs units, the second factor being the gate."""
        first, second = self.arguments(node, 2)
        if not isinstance(second, fx.Node) or not isinstance(first, fx.Node):
            carrier = first if isinstance(first, fx.Node) else second
            name = "shift" if node.target in SUMS else "scale"
            return self.groups.pass_through(self.labels[carrier], name)
        if node.target is aten.mul.Tensor and _size(second) > _size(first):
            first, second = second, first
        shapes, label = [value.meta["val"].shape for value in (first, second)], dict[int, tuple[Run, ...]]()
        n_dims = _dims(node)
        both = True
        for dim in range(n_dims):
            places = [dim - (n_dims - len(shape)) for shape in shapes]
            runs = [self.labels.get(value, {}).get(at) for value, at in zip((first, second), places, strict=True)]
            sizes = [1 if at < 0 else shape[at] for shape, at in zip(shapes, places, strict=True)]
            if runs[0] is not None and runs[1] is not None:
                if any(isinstance(size, int) and size == 1 for size in sizes) and sizes[0] != sizes[1]:
                    raise self.refuse("a single unit is spread over others", node)
                (self.join if node.target in SUMS else self.pair)(node, runs[0], runs[1])
                label[dim] = runs[0]
            elif runs[0] is not None or runs[1] is not None:
                found, other = (runs[0], sizes[1]) if runs[0] is not None else (runs[1], sizes[0])
                assert found is not None
                both = False
                self.groups.pass_through({dim: found}, "shift" if node.target in SUMS else "product")
                if isinstance(other, int) and other == 1:
                    label[dim] = found
                else:  # features that keep their index: so do the units
                    for run in found:
                        self.groups.fix(run.group)
        if not both and first in self.labels and second in self.labels and node.target not in SUMS:
            self.groups.pass_through(self.labels[second], "product")
        return label

    def concatenate(self, node: fx.Node) -> Label:
        values, dim = self.arguments(node, 2)
        n_dims = _dims(node)
        dim = (dim or 0) % n_dims
        if dim == 0:
            raise self.refuse(ODD, node)
        labels = [self.labels.get(value, {}) for value in values]
        result = dict[int, tuple[Run, ...]]()
        for d in range(n_dims):
            if not any(d in label for label in labels):
                continue
            if d == dim:
                result[d] = tuple(
                    run
                    for value, label in zip(values, labels, strict=True)
                    for run in label.get(d) or (Run(None, int(value.meta["val"].shape[d])),)
                )
                continue
            runs = [label.get(d) for label in labels]
            found = next(run for run in runs if run is not None)
            for other in runs:
                if other is not None:
                    self.join(node, found, other)
            if None in runs:  # features that keep their index: so do the units
                for run in found:
                    self.groups.fix(run.group)
            else:
                result[d] = found
        return result

    def reduce(self, node: fx.Node, value: fx.Node) -> Label:
        _, dims, keep = self.arguments(node, 3)
        n_dims = _dims(value)
        gone = {d % n_dims for d in ([dims] if isinstance(dims, int) else dims or range(n_dims))}
        self.check_fixed(node, value, [0, *gone] if 0 in gone else sorted(gone))
        if 0 in gone:
            raise self.refuse("samples are mixed", node)
        label = self.groups.pass_through(self.labels[value], REDUCTIONS[node.target])
        return {d if keep else d - sum(g < d for g in gone): runs for d, runs in label.items()}

    def reshape(self, node: fx.Node, value: fx.Node) -> Label:
        """Dimensions may be merged into blocks behind units, and such blocks divided again."""
        label, result = self.labels[value], dict[int, tuple[Run, ...]]()
        before, after = _sizes(value), _sizes(node)
        units = dict[int, tuple[list[int], int]]()
        for sources, targets in matching(before, after):
            carrying = [d for d in sources if d in label]
            if not carrying:
                continue
            runs = label[carrying[0]]
            sources = [d for d in sources if before[d] != 1 or d in label]
            targets = [d for d in targets if after[d] != 1] or targets[:1]
            rest = math.prod(before[d] for d in sources if d != carrying[0])
            if len(carrying) > 1 or carrying[0] != sources[0] or 0 in sources or not targets:
                raise self.refuse("units and positions change places", node, "flatten with units first: (n, u, ...)")
            if len(targets) == 1:
                result[targets[0]] = tuple(Run(run.group, run.block * rest) for run in runs)
                units[targets[0]] = (sources, 1)
                continue
            divisor = math.prod(after[d] for d in targets[1:])
            if any((run.block * rest) % divisor for run in runs):
                raise self.refuse("the units of a layer are divided", node)
            result[targets[0]] = tuple(Run(run.group, run.block * rest // divisor) for run in runs)
            units[targets[0]] = (sources, divisor)
        if node.target in SIZED:
            _replace(node, functools.partial(operations.reshape, units=units), (value, node.args[1]))
        elif any(divisor != 1 for _, divisor in units.values()):
            raise self.refuse(ODD, node, "use view or reshape")
        return result

    def rearrange(self, node: fx.Node, value: fx.Node) -> Label:
        label, n_dims = self.labels[value], _dims(value)
        if node.target is aten.expand.default:
            extra = _dims(node) - n_dims
            units = [d + extra for d in label]
            _replace(node, functools.partial(operations.expand, units=units), (value, node.args[1]))
            return {d + extra: runs for d, runs in label.items()}
        if node.target is aten.transpose.int:
            order = list(range(n_dims))
            a, b = (d % n_dims for d in self.arguments(node, 3)[1:])
            order[a], order[b] = b, a
        else:
            order = [d % n_dims for d in self.arguments(node, 2)[1]]
        if order[0] != 0:
            raise self.refuse("samples change places with something else", node)
        return {order.index(d): runs for d, runs in label.items()}

    def cut(self, node: fx.Node, value: fx.Node) -> Label:
        """Positions may be left out; units and samples may not."""
        label, n_dims = self.labels[value], _dims(value)
        _, dim, start, *end = self.arguments(node, 4)
        dim = (dim or 0) % n_dims
        whole = node.target is aten.slice.Tensor and not start and (end[0] is None or end[0] >= sys.maxsize)
        if whole and len(node.args) < 5:
            return label
        if dim == 0:
            raise self.refuse("samples are mixed", node)
        self.check_fixed(node, value, [dim])
        if node.target is aten.slice.Tensor:
            return label
        return {d - (d > dim): runs for d, runs in label.items()}

    def pad(self, node: fx.Node, value: fx.Node) -> Label:
        amounts: Any = node.args[1]
        padded = [_dims(value) - 1 - i // 2 for i, amount in enumerate(amounts) if amount != 0]
        self.check_fixed(node, value, padded)
        mode, constant = "constant", 0
        for argument in (*node.args[2:], *node.kwargs.values()):
            mode = argument if isinstance(argument, str) else mode
            constant = argument if isinstance(argument, int | float) else constant  # type: ignore[assignment]
        return self.groups.pass_through(self.labels[value], "scale" if mode != "constant" or constant == 0 else "shift")

    # --- groups ---------------------------------------------------------------------------------------------------

    def join(self, node: fx.Node, first: Sequence[Run], second: Sequence[Run]) -> None:
        """Make one layer of units that are added, or read by one weight."""
        self.check_alike(node, first, second)
        self.groups.join(first, second)

    def pair(self, node: fx.Node, first: Sequence[Run], second: Sequence[Run]) -> None:
        """Tie units that are multiplied; the second factor is the gate."""
        self.check_alike(node, first, second)
        self.groups.multiply(first, second)

    def check_alike(self, node: fx.Node, first: Sequence[Run], second: Sequence[Run]) -> None:
        if self.groups.widths(first) != self.groups.widths(second):
            raise self.refuse("layers that are put together differently meet", node)

    def check_fixed(self, node: fx.Node, value: fx.Node, dims: Sequence[int] | range) -> None:
        if any(dim in self.labels.get(value, {}) for dim in dims):
            raise self.refuse(ODD, node, "keep units and positions apart")

    # --- parameters -----------------------------------------------------------------------------------------------

    def arguments(self, node: fx.Node, n: int) -> list[Any]:
        """The first n arguments, None where there are fewer."""
        schema = node.target._schema.arguments if hasattr(node.target, "_schema") else []
        given = list(node.args) + [node.kwargs.get(argument.name) for argument in schema[len(node.args) :]]
        return (given + [None] * n)[:n]

    def names(self, node: fx.Node, weight: Any, bias: Any) -> tuple[str, str | None]:
        name = self.program.parameters.get(weight.name) if isinstance(weight, fx.Node) else None
        bias_name = self.program.parameters.get(bias.name) if isinstance(bias, fx.Node) else None
        if name is None or (bias is not None and bias_name is None):
            raise self.refuse("a weight is computed, not a parameter", node)
        return name, bias_name

    def check_free(self, node: fx.Node, *names: str | None) -> None:
        if any(name in _names(draft) for draft in self.drafts for name in names if name is not None):
            raise self.refuse("a parameter is used twice", node, "give each use its own module")

    def own_name(self, parameter: str) -> str:
        owner = _owner(parameter)
        return owner if owner not in self.groups.names else parameter

    # --- layers ---------------------------------------------------------------------------------------------------

    def finish(self, returned: fx.Node, output: int) -> Architecture:
        self.check_folds()
        families = self.groups.families()
        names = {group: self.groups[self.groups.root(group)].name for group in range(len(self.groups))}
        maps = tuple(self.map(draft, names) for draft in self.drafts)
        self.check_reached(maps, names[output], returned)
        divided = dict[tuple[str, int], tuple[Section, ...]]()
        for m in maps:
            own = (*m.output.before, (m.writes, 1))
            divided |= {(parameter, 0): own for parameter in m.parameters}  # of several maps, the last has them all
            if not m.per_unit:
                divided[m.weight, 1] = tuple((axis.layer, axis.block) for axis in m.inputs)
        layers = []
        for group in dict.fromkeys(self.groups.root(draft.group) for draft in self.drafts):
            name = names[group]
            first = families[group]
            joint = [g for g in range(len(self.groups)) if self.groups.root(g) == group]
            kin = [g for g in range(len(self.groups)) if families[self.groups.root(g)] == first]
            fixed = any(self.groups[g].fixed or self.groups.root(g) == output for g in kin)
            activations = dict.fromkeys(a for g in joint for a in self.groups[g].activations)
            layers.append(
                Layer(
                    name, self.groups[group].width, tuple(activations), interchangeable=not fixed,
                    tied=None if first == group else names[first],
                )
            )  # fmt: skip
        bent = [a for a in next(x for x in layers if x.name == names[output]).activations if a not in LINEAR]
        if bent:
            raise self.refuse(
                f"the outputs pass through '{bent[-1]}'", returned,
                "return the values before it (logits): the mean over members is taken there",
            )  # fmt: skip
        at = Axis(returned.name, 1, names[output])
        traced = {layer.name: layer.width for layer in layers}
        return Architecture(tuple(layers), maps, self.program, at, divided, traced, tuple(dict.fromkeys(self.crossing)))

    def map(self, draft: _Draft, names: dict[int, str]) -> Map:
        def sections(runs: Sequence[Run]) -> list[Section]:
            return [(None if run.group is None else names[run.group], run.block) for run in runs]

        value, dim = draft.input
        if draft.per_unit:
            *passed, own = sections(draft.inputs)
            inputs: tuple[Axis, ...] = (Axis(value, dim, *own, tuple(passed)),)
        else:
            inputs = axes_of(value, dim, sections(draft.inputs))
        output = Axis(*draft.output, names[draft.group], 1, tuple(sections(draft.before)))
        return Map(draft.name, draft.weight, draft.bias, inputs, output, draft.kernel, draft.norm, draft.per_unit,
                   draft.fitted)  # fmt: skip

    def check_folds(self) -> None:
        """A weight that is used twice must be followed by its batch norm each time."""
        for node, draft in self.sources.items():
            if draft.norm is not None and draft.norm.weight != draft.weight and node not in self.folded:
                raise self.refuse("a layer is used with and without its batch norm", node)

    def check_reached(self, maps: Sequence[Map], output: str, returned: fx.Node) -> None:
        """Refuse parameters and layers that do not reach the output, and a returned layer that is read again."""
        used = {name for m in maps for name in m.parameters}
        unused = [name for name in self.program.parameters.values() if name not in used]
        reaching = {returned.name}
        for node in reversed(self.program.nodes):
            if node.name in reaching:
                reaching.update(value.name for value in node.all_input_nodes)
        unread = [m.name for m in maps if m.output.name not in reaching]
        if unused or unread:
            raise TracingError(
                "parameters do not reach the output",
                where=self.program.module_name,
                got=", ".join(repr(name) for name in unused or unread),
                cure="remove what the forward pass does not use",
            )
        if any(output in m.reads for m in maps):
            raise TracingError(
                "a layer is both returned and read again",
                where=f"layer '{output}' of {self.program.module_name}",
                expected="outputs that nothing inside reads",
                cure="return the output of a layer of its own",
            )

    def refuse(self, what: str, node: fx.Node | None, cure: str | None = None) -> TracingError:
        return TracingError(
            what, where=self.program.module_name if node is None else describe(node, self.program),
            expected=UNDERSTOOD,
            cure=cure or "rewrite that operation with the ones expected, or leave this network out",
        )  # fmt: skip


def _replace(node: fx.Node, target: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """Let another function compute a node."""
    node.target, node.args, node.kwargs = target, args, {}


def _names(draft: _Draft) -> tuple[str | None, ...]:
    return draft.weight, draft.bias, None if draft.norm is None else draft.norm.weight


def _owner(parameter: str) -> str:
    """Name of the module that holds a parameter; a parameter of the root module names itself.

    >>> _owner("hidden.0.weight"), _owner("scale")
    ('hidden.0', 'scale')
    """
    return parameter.rpartition(".")[0] or parameter


def _activation(node: fx.Node) -> str:
    """Name of an activation, with its arguments where they are not the defaults: ``relu``, ``leaky_relu(0.2)``."""
    arguments = [str(a) for a in node.args[1:]] + [f"{key}={value}" for key, value in node.kwargs.items()]
    return ELEMENTWISE[node.target] + (f"({', '.join(arguments)})" if arguments else "")


def _dims(value: fx.Node) -> int:
    return int(value.meta["val"].dim())


def _sizes(value: fx.Node) -> list[int]:
    """The shape, with `BATCH` for the number of samples."""
    return [
        size if isinstance(size, int) else int(size.node.expr.subs(dict.fromkeys(size.node.expr.free_symbols, BATCH)))
        for size in value.meta["val"].shape
    ]


def _size(value: fx.Node) -> int:
    return math.prod(_sizes(value))
