"""The layers and maps of a network: which parameter axes index the same units.

A *layer* is a set of interchangeable units, in all places where they occur: every convolution that writes into one
residual stream writes the same layer. Layers whose units come in pairs, as what a depthwise convolution reads and
writes, are *tied*: they are permuted together, and each has a scale of its own.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from consilience.errors import InputError
from consilience.units.axes import Axis, Section, by_unit, length
from consilience.units.grouped import Grouping, Statistic, with_grouped_norms
from consilience.units.maps import Map, Weights
from consilience.units.precision import doubled
from consilience.units.program import Program


@dataclass(frozen=True)
class Layer:
    """A set of units.

    Attributes
    ----------
    name : the first module that writes it.
    width : number of units.
    activations : the functions that its units pass through anywhere, in order.
    interchangeable : False where units keep their index, as outputs do.
    tied : the first layer whose units are paired with these, or None.
    """

    name: str
    width: int
    activations: tuple[str, ...]
    interchangeable: bool
    tied: str | None = None


@dataclass(frozen=True)
class Architecture:
    """All layers and maps of a module, and the traced program.

    Attributes
    ----------
    layers, maps : in the order in which they are computed.
    program : the traced module.
    returned : the outputs, in the value that the module returns.
    divided : parameter and dimension → the layers and fixed features along it, in order.
    traced : layer → its width in the program's own shapes.
    heads : layers whose units are outputs, or are read by nothing; these keep their index.
    tail : operations after the outputs that are pooled, which the module keeps: softmax, sigmoid and the like.
    kept : parameters that have no part in the outputs; copies have them as they are.
    crossing : maps that are applied once for each unit of another layer, as token mixing is: these units share them
        and cannot be put side by side.
    elementwise : traced values that are computed number by number, whatever the shape.
    statistics : norms over all units of layers.
    cuts : modules that cut units into parts, and the layers and fixed features of each part.
    grouped : whether these norms keep groups of units apart, which cannot change places then.
    """

    layers: tuple[Layer, ...]
    maps: tuple[Map, ...]
    program: Program = field(compare=False, repr=False)
    returned: Axis
    divided: Mapping[tuple[str, int], tuple[Section, ...]]
    traced: Mapping[str, int]
    heads: tuple[str, ...]
    tail: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    crossing: tuple[str, ...] = ()
    elementwise: frozenset[str] = frozenset()
    statistics: tuple[Statistic, ...] = ()
    cuts: tuple[tuple[str, tuple[tuple[Section, ...], ...]], ...] = ()
    grouped: bool = False

    def layer(self, name: str) -> Layer:
        """Return the layer called ``name``; raise `InputError` with the names there are."""
        if name not in self._by_name:
            raise InputError(f"layer must be one of {', '.join(map(repr, self._by_name))}, got {name!r}")
        return self._by_name[name]

    @property
    def hidden(self) -> tuple[Layer, ...]:
        """The layers whose units are interchangeable."""
        return tuple(layer for layer in self.layers if layer.interchangeable)

    @property
    def free(self) -> tuple[Layer, ...]:
        """The hidden layers that are tied to none before them: those that clusters and widths are chosen for."""
        return tuple(layer for layer in self.hidden if layer.tied is None)

    @property
    def output(self) -> Layer | None:
        """The layer whose units are the outputs, one by one; None where several heads are, or they are mixed."""
        return None if self.returned.layer is None else self.layer(self.returned.layer)

    @property
    def n_outputs(self) -> int:
        """Number of outputs, at each position where they have positions."""
        return self.returned.block if self.output is None else self.output.width

    @cached_property
    def kinds(self) -> dict[str, str]:
        """By free layer of a network with attention: "heads", "stream" (what norms over units read) or "mlp".

        Layers after the last stream that have its width, as the poolers of classifiers, are of its kind.
        """
        heads = {layer.name for layer in self.free if self.has_insides(layer.name)}
        kinds = dict.fromkeys((layer.name for layer in self.free if heads), "mlp")
        streams = self.normed & {*kinds}
        widths = {self.layer(name).width for name in streams - heads}
        after = {name for name in {*kinds} - self._before(streams) if self.layer(name).width in widths}
        return kinds | dict.fromkeys(streams | after, "stream") | dict.fromkeys(heads, "heads")

    def _before(self, layers: Collection[str]) -> set[str]:
        """The first layers of families that some of these layers depend on, those of these layers among them."""
        before, reached = set[str](), {*layers}
        while reached:
            before |= reached
            maps = [m for m in self.maps if self.first(m.writes) in reached]
            reached = {self.first(layer) for m in maps for layer in m.reads} - before
        return before

    @cached_property
    def normed(self) -> frozenset[str]:
        """The first layers of families whose units norms take together."""
        return frozenset(self.first(layer) for norm in self.statistics for layer in norm.layers)

    def has_insides(self, layer: str) -> bool:
        """Whether the units of a layer, or of one that is tied to it, are several rows, as heads of attention are."""
        return any(m.output.inside > 1 for tied in self.family(layer) for m in self.writing(tied.name))

    def family(self, layer: str) -> tuple[Layer, ...]:
        """Return the layers whose units are paired with those of ``layer``, itself among them."""
        first = self.first(layer)
        return tuple(layer for layer in self.layers if first in (layer.name, layer.tied))

    def first(self, layer: str) -> str:
        """Return the name of the first layer of a family: ``layer`` itself if it is tied to none before it."""
        return self.layer(layer).tied or layer

    def writing(self, layer: str) -> tuple[Map, ...]:
        """Return the maps that write ``layer``."""
        return tuple(m for m in self.maps if m.writes == layer)

    def reading(self, layer: str) -> tuple[Map, ...]:
        """Return the maps that read ``layer``."""
        return tuple(m for m in self.maps if layer in m.reads)

    @cached_property
    def widths(self) -> dict[str, int]:
        """Number of units by layer."""
        return {layer.name: layer.width for layer in self.layers}

    def shapes(self, widths: Mapping[str, int], state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
        """Return the shape each parameter of ``state`` has at other widths; layers not named keep theirs."""
        all_widths = self._all_widths(widths)
        shapes = {name: list(parameter.shape) for name, parameter in state.items()}
        for (name, dim), sections in self.divided.items():
            shapes[name][dim] = sum(length(section, all_widths) for section in sections)
        return {name: tuple(shape) for name, shape in shapes.items()}

    def fits(self, state: Mapping[str, Tensor]) -> bool:
        """Whether these are the parameters of such a network, at whatever widths."""
        if not {*self.program.parameters.values()} <= set(state):
            return False
        if any(dim >= state[name].dim() for name, dim in self.divided):
            return False
        shapes = self.shapes(self.widths_in(state), state)
        return all(shapes[name] == parameter.shape for name, parameter in state.items())

    def widths_in(self, state: Mapping[str, Tensor]) -> dict[str, int]:
        """Return the layers' widths as the parameters have them."""
        widths = dict[str, int]()
        for layer in self.layers:
            for (name, dim), sections in self.divided.items():
                families = {None if name is None else self.first(name) for name, _ in sections}
                if name in state and families == {self.first(layer.name)}:
                    entries = sum(block for _, block in sections)
                    widths.setdefault(self.first(layer.name), state[name].shape[dim] // entries)
        return self._all_widths(widths)

    def with_widths(self, widths: Mapping[str, int]) -> Architecture:
        """Return the same layers and maps at other widths; layers not named keep theirs, tied ones follow."""
        all_widths = self._all_widths(widths)
        if all_widths == self.widths:
            return self
        return replace(self, layers=tuple(replace(layer, width=all_widths[layer.name]) for layer in self.layers))

    def with_groups(self, groups: Mapping[str, Sequence[int]]) -> Architecture:
        """Return the architecture whose norms have these groups of neighbouring units, by free layer."""
        return replace(self, program=with_grouped_norms(self.program, self.groupings(groups)), grouped=True)

    def groupings(self, groups: Mapping[str, Sequence[int]]) -> dict[Statistic, Grouping]:
        """Return how norms keep these groups of neighbouring units apart, by free layer."""
        return {n: n.grouping([groups[self.first(layer)] for layer in n.layers]) for n in self.statistics}

    def written(self, layer: str) -> tuple[Axis, ...]:
        """Return where, in traced values, the layer's units have been written: pre-activations, by map.

        Maps that write the same for all samples, as positions are, are left out.
        """
        return tuple(m.output for m in self.writing(layer) if m.output.name in self.program.varying)

    def read(self, layer: str) -> tuple[Axis, ...]:
        """Return where, in traced values, the layer is read: activations by reading map, or the outputs."""
        if layer in self.heads:
            return (self.returned,)
        return tuple(dict.fromkeys(axis for m in self.reading(layer) for axis in m.inputs if axis.layer == layer))

    def read_later(self, layer: str, taken: Collection[str]) -> list[Axis]:
        """Return where maps that write hidden layers, other than those taken, read a layer."""
        later = {other.name for other in self.hidden}.difference(taken)
        inputs = {axis for m in self.reading(layer) if m.writes in later for axis in m.inputs}
        return [axis for axis in self.read(layer) if axis in inputs]

    def pointwise(self, layer: str) -> bool:
        """Whether a layer is written once and read in one place, and what lies between is elementwise."""
        written, read = self.written(layer), self.read(layer)
        if len(written) != 1 or len(read) != 1 or read[0].block != 1:
            return False
        if any(axis.before or axis.step for axis in (*written, *read)):
            return False
        between = self.program.needed([read[0].name], [written[0].name]) - {written[0].name}
        return between <= self.elementwise

    @property
    def largest_value(self) -> int:
        """Numbers that one sample has in the largest traced value, at these widths."""
        grown = max(1.0, *(layer.width / self.traced[layer.name] for layer in self.layers))
        return math.ceil(self.program.largest_value * grown)

    @property
    def structure(self) -> tuple[object, ...]:
        """What members of one population must share: all of it but the widths."""
        return (
            self.program.input_shape,
            self.n_outputs,
            tuple((layer.name, layer.activations, layer.tied) for layer in self.layers),
            tuple(sorted((name, dim, *sections) for (name, dim), sections in self.divided.items())),
            tuple((m.name, m.kernel, m.norm) for m in self.maps),
        )

    @cached_property
    def _by_name(self) -> Mapping[str, Layer]:
        return {layer.name: layer for layer in self.layers}

    def _all_widths(self, widths: Mapping[str, int]) -> dict[str, int]:
        """Widths of all layers; those of a family have the width of its first layer, if it is given."""
        return {own.name: widths.get(self.first(own.name), widths.get(own.name, own.width)) for own in self.layers}


@dataclass(frozen=True)
class TracedNetwork:
    """A network as the rest of the package sees it: its layers, and its parameters by name."""

    architecture: Architecture
    state: Mapping[str, Tensor]

    def values(self, x: Tensor, names: Sequence[str], known: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return traced values for inputs x (n, ...); see `Program.run`."""
        return self.architecture.program.run(self.state, x, names, known)

    def activate(self, layer: str, written: Tensor) -> Tensor:
        """Return what pre-activations (r, c) of a pointwise layer, of any number of units, become when read: (r, c)."""
        (before,), (after,) = self.architecture.written(layer), self.architecture.read(layer)
        program = self.architecture.program
        return program.run(self.state, written, [after.name], {before.name: written})[after.name]

    def weights(self, m: Map) -> Weights:
        """Return the hyperplanes of a map."""
        return m.weights(self.state, self.architecture.widths)

    def with_weights(self, m: Map, weights: Weights) -> TracedNetwork:
        """Return the network with other hyperplanes of a map."""
        return replace(self, state={**self.state, **m.written(self.state, self.architecture.widths, weights)})

    def double(self) -> TracedNetwork:
        """Return the network in double precision."""
        state = {name: value.double() for name, value in self.state.items()}
        return TracedNetwork(replace(self.architecture, program=self.architecture.program.double()), state)

    def computing_in_double(self) -> TracedNetwork:
        """Return the network that computes in double precision, with large parameters as they are."""
        return TracedNetwork(
            replace(self.architecture, program=self.architecture.program.double()), doubled(self.state)
        )

    def on(self, device: str) -> TracedNetwork:
        """Return the network on a device, for inputs there."""
        program = self.architecture.program.on(device)
        if program is self.architecture.program:
            return self
        state = {name: value.to(device) for name, value in self.state.items()}
        return TracedNetwork(replace(self.architecture, program=program), state)

    def outputs(self, x: Tensor) -> Tensor:
        """Return what the module returns for inputs x (n, ...), as one tensor."""
        returned = self.architecture.program.returned
        return self.values(x, [returned])[returned]

    def __call__(self, x: Tensor) -> Tensor:
        """Return the outputs (n, o, ...) for inputs x (n, ...), before a tail that is not affine."""
        output = self.architecture.program.output
        return self.values(x, [output])[output]


def read_state(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and floating-point buffers of a module by name, detached; they share its memory."""
    buffers = ((name, buffer) for name, buffer in module.named_buffers() if buffer.is_floating_point())
    return {name: value.detach() for name, value in (*module.named_parameters(), *buffers)}


def write_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy tensors by name into a module's parameters and buffers, those that its state dict leaves out too."""
    own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    with torch.no_grad():
        for name, value in state.items():
            own[name].copy_(value)


def outgoing_norms(network: TracedNetwork, layer: str, readers: Sequence[Map] | None = None) -> Tensor:
    """Return the norm of each unit's outgoing weights in the maps that read the layer, all by default: (u,)."""
    maps = network.architecture.reading(layer) if readers is None else readers
    weights, units = {m: network.weights(m) for m in maps}, network.architecture.layer(layer).width
    return norms_read(weights, layer, units).to(next(iter(network.state.values())).dtype)


def incoming_norms(network: TracedNetwork, layer: str, *, bias: bool = True) -> Tensor:
    """Return the norm of each unit's hyperplanes in all maps that write the layer: (u,)."""
    maps, units = network.architecture.writing(layer), network.architecture.layer(layer).width
    weights = {m: network.weights(m) for m in maps}
    return norms_written(weights, layer, units, bias=bias).to(next(iter(network.state.values())).dtype)


def norms_read(weights: Mapping[Map, Weights], layer: str, units: int) -> Tensor:
    """Return the norm of each unit's outgoing weights in the maps given, in double precision: (u,)."""
    total = torch.zeros(units, dtype=torch.float64)
    for m, hyperplanes in weights.items():
        for part, axis in zip(hyperplanes.parts, m.inputs, strict=True):
            if axis.layer == layer:
                squares = part.double().square()
                total += by_unit(squares.sum((1, 2)) if m.per_unit else squares.sum((0, 2)), units).sum(1)
    return total.sqrt()


def norms_written(weights: Mapping[Map, Weights], layer: str, units: int, *, bias: bool = True) -> Tensor:
    """Return the norm of each unit's hyperplanes in the maps given that write it, in double precision: (u,)."""
    total = torch.zeros(units, dtype=torch.float64)
    for m, hyperplanes in weights.items():
        if m.writes == layer:
            total += by_unit(hyperplanes.matrix.double().square().sum(1), units).sum(1)
            if bias:
                total += by_unit(hyperplanes.bias.double().square(), units).sum(1)
    return total.sqrt()
