"""The proof of each layer where it is read, which no other layer can hide.

The proof on a module's outputs (`consilience.units.proof`) sees a layer only as far as it counts there: not a branch
whose scale is still its initial zero, and hardly one below many others. So the traced program, which it has shown to
be the module, is run up to the maps that read a layer:

- with the layer's units in another order, what each of these maps writes must stay as it is;
- as a *negative control*, with the units that one map writes in another order and all else as it is, what some reader
  writes must change; with those of all maps, what each reader writes. Otherwise a wrong reading would not be seen, and
  both are done again with random values in place of the parameters of the maps that write and read the layer.

It holds for a program, whatever its parameters: members that share a program share it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from consilience.errors import FunctionChangedError
from consilience.units.architecture import Layer, TracedNetwork
from consilience.units.deviation import deviation
from consilience.units.maps import Map, Weights
from consilience.units.precision import exact
from consilience.units.symmetry import permute

TOLERANCE = 1e-8  # of the spread over samples, in double precision
VISIBLE = 1e-4  # of the spread: what a wrong reading must change at least
SAMPLES = 4
CURE = "check that handlers you have added are right, or report it"


def prove_readings(network: TracedNetwork, x: Tensor) -> None:
    """Check on inputs x (n, ...) that the maps that read a layer read its units, for each hidden layer.

    Raises
    ------
    FunctionChangedError : what a map writes depends on the order of the units that it reads; it names map and layer.
    """
    network, x = network.computing_in_double(), exact(x[:SAMPLES])
    layers = [layer for layer in network.architecture.free if layer.width > 1 and _readers(network, layer)]
    before = {layer: network.architecture.program.frontier(_parameters(network, layer)) for layer in layers}
    known = network.values(x, list({name for names in before.values() for name in names}))
    for layer in layers:
        given = {name: known[name] for name in before[layer]}
        if not _seen(network, layer, x, given):
            _seen(_redrawn(network, layer), layer, x, given)


def _seen(network: TracedNetwork, layer: Layer, x: Tensor, given: Mapping[str, Tensor]) -> bool:
    """Check what the readers of a layer write; return whether a wrong reading would have been seen."""
    readers, writers = _readers(network, layer), _writers(network, layer)
    names = list(dict.fromkeys(m.output.name for m in readers))
    order = torch.randperm(layer.width, generator=_generator(layer.name))
    order = torch.empty_like(order).scatter(0, order, order.roll(1))  # no unit stays
    expected = network.values(x, names, given)

    def changes(changed: TracedNetwork) -> dict[str, float]:
        values = changed.values(x, names, given)
        return {name: deviation(values[name], expected[name]) for name in names}

    permuted = changes(permute(network, layer.name, order))
    for m in readers:
        if permuted[m.output.name] > TOLERANCE:
            message = (
                f"permuting the units of layer '{layer.name}' must not change what '{m.name}' writes, got a change "
            )
            raise FunctionChangedError(f"{message}of {permuted[m.output.name]:.2g} of its spread", cure=CURE)
    each = [changes(_out_of_order(network, [m], order)).values() for m in writers]
    every = each[0] if len(each) == 1 else changes(_out_of_order(network, writers, order)).values()
    return all(max(wrong) > VISIBLE for wrong in each) and min(every) > VISIBLE


def _out_of_order(network: TracedNetwork, writers: Iterable[Map], order: Tensor) -> TracedNetwork:
    """The network with the units that some maps write in another order, which nothing that reads them follows."""
    for m in writers:
        weights = network.weights(m)
        rows = torch.arange(len(weights.bias)).view(len(order), -1)[order].flatten()
        network = network.with_weights(m, Weights(tuple(part[rows] for part in weights.parts), weights.bias[rows]))
    return network


def _redrawn(network: TracedNetwork, layer: Layer) -> TracedNetwork:
    """The network with random parameters of all maps that write or read a layer or one tied to it."""
    state = dict(network.state)
    for m in _around(network, layer):
        for name in m.parameters:
            value, draw = state[name], torch.randn(state[name].shape, generator=_generator(name), dtype=torch.float64)
            if m.norm is not None and name in (m.norm.weight, m.norm.variance):
                state[name] = 0.5 + draw.abs()
            elif value.dim() > 1:
                state[name] = draw * (2 / value[0].numel()) ** 0.5
            else:
                state[name] = draw / 2 if name != m.weight else draw
    return replace(network, state=state)


def _around(network: TracedNetwork, layer: Layer) -> list[Map]:
    family = {tied.name for tied in network.architecture.family(layer.name)}
    return [m for m in network.architecture.maps if m.writes in family or family & set(m.reads)]


def _parameters(network: TracedNetwork, layer: Layer) -> set[str]:
    return {name for m in _around(network, layer) for name in m.parameters}


def _readers(network: TracedNetwork, layer: Layer) -> list[Map]:
    """The maps that read a layer or one tied to it, and write another."""
    family = {tied.name for tied in network.architecture.family(layer.name)}
    return [m for m in _around(network, layer) if m.writes not in family]


def _writers(network: TracedNetwork, layer: Layer) -> list[Map]:
    """The maps that write a layer or one tied to it from others."""
    family = {tied.name for tied in network.architecture.family(layer.name)}
    return [m for m in _around(network, layer) if m.writes in family and not m.per_unit]


def _generator(name: str) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(name.encode()))
