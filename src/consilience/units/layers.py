"""The layers of any traced module: which parameter axes index the same units.

A *layer* is a set of interchangeable units. Its units are *written* by the output axis of weights and biases and *read*
by the input axis of the weights that follow. The axes are found by following labels through the traced operations: a
weighted operation gives its output a new label, an elementwise operation passes labels on, and a label that arrives at
another weight's input axis ties that axis to the layer.

An operation is either in one of the tables below, with its effect on units known exactly, or the module is refused by
name. Axis legend: ``u`` units written, ``i`` units read, ``s`` positions of a kernel (1 for a linear map), ``n``
samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn

from consilience.errors import InputError, TracingError
from consilience.units.tracing import Program, describe, trace

aten = torch.ops.aten

# Elementwise operations and what the symmetry table calls them; those that it does not know have no symmetry.
ELEMENTWISE: dict[object, str] = {
    aten.relu.default: "relu",
    aten.leaky_relu.default: "leaky_relu",
    aten.tanh.default: "tanh",
    aten.erf.default: "erf",
    aten.sigmoid.default: "sigmoid",
    aten.softplus.default: "softplus",
    aten.gelu.default: "gelu",
    aten.silu.default: "silu",
    aten.elu.default: "elu",
    aten.selu.default: "selu",
    aten.celu.default: "celu",
    aten.mish.default: "mish",
    aten.hardtanh.default: "hardtanh",
    aten.hardsigmoid.default: "hardsigmoid",
    aten.hardswish.default: "hardswish",
    aten.relu6.default: "relu6",
    aten.log_sigmoid.default: "log_sigmoid",
    aten.sin.default: "sin",
    aten.cos.default: "cos",
}

# Operations that leave every value where it is (dropout: in eval mode).
PASSING = {
    aten.dropout.default,
    aten.feature_dropout.default,
    aten.alpha_dropout.default,
    aten.clone.default,
    aten.detach.default,
    aten.alias.default,
    aten.contiguous.default,
    aten.lift_fresh_copy.default,
    aten.detach_.default,
}
# The same, where the shape comes out as it went in; on values without units they may do anything.
RESHAPING = {
    aten.flatten.using_ints,
    aten.view.default,
    aten.reshape.default,
    aten._unsafe_view.default,
    aten.squeeze.default,
}


@dataclass(frozen=True)
class Axis:
    """One axis of one parameter that indexes the units of a layer."""

    parameter: str
    dim: int


@dataclass(frozen=True)
class Map:
    """One weighted operation, from the layer it reads to the layer it writes.

    Attributes
    ----------
    name : the module that holds the weight, or the weight's own name.
    weight, bias : parameter names.
    reads : the layer read; None where the map reads the input, whose features keep their index.
    writes : the layer written.
    input_value, output_value : names of the traced values, for `Program.run`.
    """

    name: str
    weight: str
    bias: str | None
    reads: str | None
    writes: str
    input_value: str
    output_value: str

    def matrix(self, weight: Tensor) -> Tensor:
        """Return the weight as (u, i, s)."""
        return weight.unsqueeze(-1)

    def weight_like(self, matrix: Tensor) -> Tensor:
        """Return a matrix (u, i, s) in the weight's own shape; the inverse of `matrix`."""
        return matrix.squeeze(-1)

    def rows(self, value: Tensor) -> Tensor:
        """Return what the map reads as one row per sample and position: (n, i, s)."""
        return value.reshape(-1, value.shape[-1], 1)

    def responses(self, value: Tensor) -> Tensor:
        """Return what the map writes as one row per sample and position: (n, u)."""
        return value.reshape(-1, value.shape[-1])


@dataclass(frozen=True)
class Layer:
    """A set of units.

    Attributes
    ----------
    name : the first module that writes it.
    width : number of units.
    activations : the elementwise functions that its units pass through, in order.
    writers, readers : the parameter axes that index its units.
    interchangeable : False where something outside tells the units apart, as for the outputs.
    """

    name: str
    width: int
    activations: tuple[str, ...]
    writers: tuple[Axis, ...]
    readers: tuple[Axis, ...]
    interchangeable: bool


@dataclass(frozen=True)
class Architecture:
    """All layers and maps of a module, in the order in which they are computed, and the traced program."""

    layers: tuple[Layer, ...]
    maps: tuple[Map, ...]
    program: Program = field(compare=False, repr=False)

    @cached_property
    def _by_name(self) -> Mapping[str, Layer]:
        return {layer.name: layer for layer in self.layers}

    def layer(self, name: str) -> Layer:
        """Return the layer called ``name``; raise `InputError` with the names there are."""
        if name not in self._by_name:
            raise InputError(
                "no layer has this name", got=repr(name), expected=", ".join(repr(n) for n in self._by_name)
            )
        return self._by_name[name]

    @property
    def hidden(self) -> tuple[Layer, ...]:
        """The layers whose units are interchangeable."""
        return tuple(layer for layer in self.layers if layer.interchangeable)

    @property
    def output(self) -> Layer:
        """The layer that the module returns."""
        return next(layer for layer in self.layers if not layer.interchangeable)

    def writing(self, layer: str) -> tuple[Map, ...]:
        """Return the maps that write ``layer``."""
        return tuple(m for m in self.maps if m.writes == layer)

    def reading(self, layer: str) -> tuple[Map, ...]:
        """Return the maps that read ``layer``."""
        return tuple(m for m in self.maps if m.reads == layer)

    @property
    def widths(self) -> dict[str, int]:
        """Number of units by layer."""
        return {layer.name: layer.width for layer in self.layers}

    def shapes(self, widths: Mapping[str, int], state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
        """Return the shape each parameter of ``state`` has at other widths; layers not named keep theirs."""
        new = {name: list(parameter.shape) for name, parameter in state.items()}
        for layer in self.layers:
            for axis in (*layer.writers, *layer.readers):
                new[axis.parameter][axis.dim] = widths.get(layer.name, layer.width)
        return {name: tuple(shape) for name, shape in new.items()}

    def fits(self, state: Mapping[str, Tensor]) -> bool:
        """Whether these are the parameters of such a network, at whatever widths."""
        axes = [axis for layer in self.layers for axis in layer.writers]
        if {axis.parameter for axis in axes} != set(state):
            return False
        widths = self.widths_in(state)
        return self.shapes(widths, state) == {name: tuple(parameter.shape) for name, parameter in state.items()}

    def widths_in(self, state: Mapping[str, Tensor]) -> dict[str, int]:
        """Return the layers' widths as the parameters have them."""
        first = {layer.name: layer.writers[0] for layer in self.layers}
        return {name: state[axis.parameter].shape[axis.dim] for name, axis in first.items()}

    def with_widths(self, widths: Mapping[str, int]) -> Architecture:
        """Return the same layers and maps at other widths; layers not named keep theirs."""
        layers = tuple(replace(layer, width=widths.get(layer.name, layer.width)) for layer in self.layers)
        return replace(self, layers=layers)

    def written(self, layer: str) -> str:
        """Return the name of the traced value in which the layer's units have been written: pre-activations."""
        return self.writing(layer)[0].output_value

    def read(self, layer: str) -> str:
        """Return the name of the traced value that is read of the layer: activations, or the outputs."""
        readers = self.reading(layer)
        return readers[0].input_value if readers else self.program.output

    @property
    def structure(self) -> tuple[object, ...]:
        """What members of one population must share: all of it but the widths."""
        return (
            self.program.input_shape,
            self.output.width,
            tuple((layer.name, layer.activations, layer.writers, layer.readers) for layer in self.layers),
        )


@dataclass(frozen=True)
class TracedNetwork:
    """A network as the rest of the package sees it: its layers, and its parameters by name."""

    architecture: Architecture
    state: Mapping[str, Tensor]

    def values(self, x: Tensor, names: Sequence[str], known: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return traced values for inputs x (n, ...); see `Program.run`."""
        return self.architecture.program.run(self.state, x, names, known)

    def activate(self, layer: str, written: Tensor) -> Tensor:
        """Return what pre-activations (n, c) of a layer, of any number of units, become when they are read: (n, c)."""
        program = self.architecture.program
        name, known = self.architecture.read(layer), {self.architecture.written(layer): written}
        return program.run(self.state, written, [name], known)[name]

    def __call__(self, x: Tensor) -> Tensor:
        """Return the outputs (n, o) for inputs x (n, ...)."""
        output = self.architecture.program.output
        return self.values(x, [output])[output]


def find_layers(module: nn.Module, example_input: Tensor) -> Architecture:
    """Trace ``module`` on ``example_input`` (n, ...) and return its layers.

    Raises
    ------
    TracingError
        If an operation on units is not understood (the message names the operation and its module), or the module's use
        of its parameters leaves a unit's axes unknown.
    """
    return _Labels(trace(module, example_input)).architecture()


class _Units(NamedTuple):
    """The label of a value's last axis: which weight wrote these units, and the activations they have passed since."""

    weight: str
    activations: tuple[str, ...] = ()


@dataclass
class _Labels:
    """Follows units through a program. A value without a label holds fixed features, such as the inputs."""

    program: Program
    labels: dict[fx.Node, _Units] = field(default_factory=dict)
    maps: list[Map] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)  # weight → name of its map and of the layer it writes
    reads: dict[str, list[tuple[str, _Units]]] = field(
        default_factory=dict
    )  # weight → (weight that reads it, what it reads)

    def architecture(self) -> Architecture:
        nodes = [node for node in self.program.nodes if node.op == "call_function"]
        for node in nodes:
            units = self.follow(node)
            if units is not None:
                self.labels[node] = units
        returned = next((node for node in nodes if node.name == self.program.output), None)
        output = self.labels.get(returned) if returned is not None else None
        if output is None:
            raise self.refuse("the module returns values that no layer of its own has written", returned)
        if output.activations:
            raise self.refuse(
                f"the outputs pass through '{output.activations[-1]}'", returned,
                cure="return the values before it (logits): the mean over members is taken there",
            )  # fmt: skip
        if returned is not None and returned.meta["val"].dim() != 2:
            raise self.refuse(
                f"the outputs have {returned.meta['val'].dim()} axes",
                returned,
                cure="return one row (o,) for each sample",
            )
        self.check_reached(output.weight)
        layers = tuple(self.layer(m, is_output=m.weight == output.weight) for m in self.maps)
        return Architecture(layers, tuple(self.maps), self.program)

    def follow(self, node: fx.Node) -> _Units | None:
        """Return the label of the operation's result, or refuse the operation."""
        if node.target is aten.linear.default:
            return self.linear(node)
        tensors = [value for value in node.all_input_nodes if isinstance(value.meta.get("val"), Tensor)]
        if any(value.name in self.program.parameters for value in tensors):
            raise self.refuse("a parameter is used in an operation that is not understood", node)
        units = [value for value in tensors if value in self.labels]
        if not units:
            return None  # preprocessing of the inputs: no unit is involved yet
        label = self.labels[units[0]]
        if node.target in PASSING or (node.target in RESHAPING and _same_shape(units[0], node)):
            return label
        if node.target in ELEMENTWISE:
            return _Units(label.weight, (*label.activations, _activation(node)))
        raise self.refuse("an operation on units is not understood", node)

    def linear(self, node: fx.Node) -> _Units:
        value, weight, bias, *_ = (*node.args, None)
        name = self.program.parameters.get(weight.name) if isinstance(weight, fx.Node) else None
        bias_name = self.program.parameters.get(bias.name) if isinstance(bias, fx.Node) else None
        if name is None or (bias is not None and bias_name is None) or not isinstance(value, fx.Node):
            raise self.refuse("a weight is computed, not a parameter", node)
        if value.name in self.program.parameters:
            raise self.refuse("a parameter is used in an operation that is not understood", node)
        if any(name == m.weight or (bias_name and bias_name == m.bias) for m in self.maps):
            raise self.refuse("a parameter is used twice", node, cure="give each use its own module")
        read = self.labels.get(value)
        if read is not None:
            self.reads[read.weight].append((name, read))
        self.reads[name] = []
        own = _owner(name) if all(m.name != _owner(name) for m in self.maps) else name
        self.names[name] = own
        self.maps.append(Map(own, name, bias_name, read and self.names[read.weight], own, value.name, node.name))
        return _Units(name)

    def check_reached(self, output: str) -> None:
        """Refuse parameters and layers that do not reach the output, and a returned layer that is read again."""
        used = {name for m in self.maps for name in (m.weight, m.bias)}
        unused = [name for name in self.program.parameters.values() if name not in used]
        unread = [m.name for m in self.maps if not self.reads[m.weight] and m.weight != output]
        if unused or unread:
            raise TracingError(
                "parameters do not reach the output",
                where=self.program.module_name,
                got=", ".join(repr(name) for name in unused or unread),
                cure="remove what the forward pass does not use",
            )
        if self.reads[output]:
            raise TracingError(
                "a layer is both returned and read again",
                where=f"layer '{self.names[output]}' of {self.program.module_name}",
                expected="outputs that nothing inside reads",
                cure="return the output of a layer of its own",
            )

    def layer(self, m: Map, *, is_output: bool) -> Layer:
        # One stage only: no operation in the tables joins two branches, so a layer has one reader.
        (activations,) = {read.activations for _, read in self.reads[m.weight]} or {()}
        (node,) = (node for node in self.program.nodes if node.name == m.output_value)
        return Layer(
            name=m.writes,
            width=int(node.meta["val"].shape[-1]),
            activations=activations,
            writers=(Axis(m.weight, 0), *((Axis(m.bias, 0),) if m.bias else ())),
            readers=tuple(Axis(weight, 1) for weight, _ in self.reads[m.weight]),
            interchangeable=not is_output,
        )

    def refuse(self, what: str, node: fx.Node | None, cure: str | None = None) -> TracingError:
        return TracingError(
            what, where=self.program.module_name if node is None else describe(node, self.program),
            expected="linear layers, elementwise activations, flatten, dropout and identity",
            cure=cure or "rewrite that operation with the ones expected, or leave this network out",
        )  # fmt: skip


def read_state(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters of a module by name, detached; they share memory with the module."""
    return {name: parameter.detach() for name, parameter in module.named_parameters()}


def _owner(parameter: str) -> str:
    """Name of the module that holds a parameter; a parameter of the root module names itself.

    >>> _owner("hidden.0.weight"), _owner("scale")
    ('hidden.0', 'scale')
    """
    return parameter.rpartition(".")[0] or parameter


def _same_shape(value: fx.Node, result: fx.Node) -> bool:
    before, after = value.meta["val"].shape, result.meta["val"].shape
    return len(before) == len(after) and all(str(b) == str(a) for b, a in zip(before, after, strict=True))


def _activation(node: fx.Node) -> str:
    """Name of an activation, with its arguments where they are not the defaults: ``relu``, ``leaky_relu(0.2)``."""
    arguments = [str(a) for a in node.args[1:]] + [f"{key}={value}" for key, value in node.kwargs.items()]
    return ELEMENTWISE[node.target] + (f"({', '.join(arguments)})" if arguments else "")
