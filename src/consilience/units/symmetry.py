"""The symmetries of units: changes of a member's parameters that leave its function alone.

Two hyperplanes that differ by a symmetry of the activation are the same unit. With pre-activation ``z = w·x + b``:

- homogeneous, ``f(s z) = s f(z)`` for s > 0: ``[w; b] ← s [w; b]``, outgoing ``a ← a / s``;
- odd, ``f(−z) = −f(z)``: ``[w; b] ← −[w; b]``, ``a ← −a``;
- odd up to a constant, ``f(z) + f(−z) = c``: the same, and the reader's bias takes ``c·a``;
- even up to a linear term, ``f(z) − f(−z) = m z``: only where a linear path can take the rest (recovery uses it, the
  census does not: the members' architecture has no such path).

Any elementwise activation lets units be permuted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from consilience.errors import InputError
from consilience.units.architecture import Architecture, Layer, TracedNetwork, incoming_norms, norms_read, norms_written
from consilience.units.axes import by_row, length
from consilience.units.maps import Map, Weights


@dataclass(frozen=True)
class Symmetry:
    """Changes of a unit, besides its index, that leave the function alone."""

    homogeneous: bool = False  # whether it may be rescaled by any positive factor
    odd_constant: float | None = None  # c of f(z) + f(−z) = c; None where there is none: no sign may be flipped
    even_slope: float | None = None  # m of f(z) − f(−z) = m z; None where there is none

    @property
    def flippable(self) -> bool:
        """Whether the sign of a unit may be flipped."""
        return self.odd_constant is not None


SYMMETRIES: dict[str, Symmetry] = {
    "identity": Symmetry(homogeneous=True, odd_constant=0.0),
    "relu": Symmetry(homogeneous=True, even_slope=1.0),
    "leaky_relu": Symmetry(homogeneous=True),  # even up to a linear term too: the slope 1 + s depends on the leak s
    "tanh": Symmetry(odd_constant=0.0),
    "erf": Symmetry(odd_constant=0.0),
    "sigmoid": Symmetry(odd_constant=1.0),
    "softplus": Symmetry(even_slope=1.0),
    "gelu": Symmetry(even_slope=1.0),
    "silu": Symmetry(even_slope=1.0),
    "scale": Symmetry(homogeneous=True, odd_constant=0.0),
    "avg_pool": Symmetry(homogeneous=True, odd_constant=0.0),
    "attention": Symmetry(homogeneous=True, odd_constant=0.0),  # values; queries and keys have none
    "upsample": Symmetry(homogeneous=True, odd_constant=0.0),
    "max_pool": Symmetry(homogeneous=True),
    "std": Symmetry(homogeneous=True),
}
NO_SYMMETRY = Symmetry()
BALANCING_SWEEPS = 20  # each halves what is left of an imbalance between neighbouring layers


def symmetry_of(activations: Sequence[str]) -> Symmetry:
    """Return what every one of the activations that a layer passes through allows.

    >>> symmetry_of(["relu"]).homogeneous, symmetry_of(["tanh"]).flippable, symmetry_of(["relu", "tanh"]) == NO_SYMMETRY
    (True, True, True)
    """
    names = [name.partition("(")[0] for name in activations] or ["identity"]
    symmetries = [SYMMETRIES.get(name, NO_SYMMETRY) for name in names]
    if len(symmetries) == 1:
        return symmetries[0]
    # After f with f(z) + f(−z) = c ≠ 0 nothing else may follow: the constant would have to pass through it.
    odd = all(symmetry.odd_constant == 0 for symmetry in symmetries)
    return Symmetry(all(symmetry.homogeneous for symmetry in symmetries), odd_constant=0.0 if odd else None)


def permute(network: TracedNetwork, layer: str, order: Tensor) -> TracedNetwork:
    """Return the network with the layer's units reordered: new unit i is old unit ``order[i]``. Tied layers follow."""
    width = _interchangeable(network, layer).width
    if order.shape != (width,) or not torch.equal(order.sort().values, torch.arange(width)):
        raise InputError(f"order must have each of 0…{width - 1} once, got {order.tolist()}")
    return permute_all(network, {layer: order})


def permute_all(network: TracedNetwork, orders: Mapping[str, Tensor]) -> TracedNetwork:
    """Return the network with the units of several layers reordered, layer → order; each parameter is copied once."""
    return replace(network, state=_selected(network, orders))


def duplicate(network: TracedNetwork, layers: Sequence[str], share: int = 1) -> TracedNetwork:
    """Return the network with units of layers (and tied ones) twice, each twin with half the outgoing weights.

    Of layers whose width is a multiple of 8 · ``share``, one unit in ``share`` has a twin; of others all units.
    """
    architecture = network.architecture
    first, orders = {architecture.first(layer) for layer in layers}, dict[str, Tensor]()
    for name in first:
        units = torch.arange(architecture.layer(name).width)
        orders[name] = torch.cat([units, units if len(units) % (8 * share) else units[::share]])
    wide = architecture.with_widths({name: len(order) for name, order in orders.items()})
    state = _selected(network, orders)
    reading = {m.weight: m.dim for m in wide.maps if m.reads and not m.per_unit}
    for (name, dim), sections in wide.divided.items():
        twice = [layer is not None and architecture.first(layer) in first for layer, _ in sections]
        if any(twice) and dim != reading.get(name, dim):
            shares = list[Tensor]()
            for (layer, block), doubled in zip(sections, twice, strict=True):
                if layer is None or not doubled:
                    shares.append(torch.ones(length((layer, block), wide.widths)))
                    continue
                order = orders[architecture.first(layer)]
                shares.append((1 / order.bincount()[order]).repeat_interleave(block))
            state[name].movedim(dim, -1).mul_(torch.cat(shares).to(state[name].dtype))  # a copy of its own
    return TracedNetwork(wide, state)


def rescale(network: TracedNetwork, layer: str, factors: Tensor) -> TracedNetwork:
    """Return the network with hyperplane j multiplied by ``factors[j] > 0`` and its outgoing weights divided by it."""
    return rescale_all(network, {layer: factors})


def rescale_all(network: TracedNetwork, factors: Mapping[str, Tensor]) -> TracedNetwork:
    """Return the network with several layers rescaled, layer → factors; each map is written once; see `rescale`."""
    for layer, of_layer in factors.items():
        _check_factors(network, layer, of_layer)
    return _with_factors(network, factors)


def flip(network: TracedNetwork, layer: str, signs: Tensor) -> TracedNetwork:
    """Return the network with hyperplane j multiplied by ``signs[j]`` ∈ {−1, 1} and the function unchanged."""
    activations = _interchangeable(network, layer).activations
    constant = symmetry_of(activations).odd_constant
    if constant is None:
        raise InputError(f"the activation of layer '{layer}' must be odd, got {', '.join(activations)}")
    if not bool((signs.abs() == 1).all()):
        raise InputError(f"signs must be 1 or −1, got {signs.tolist()}")
    if not can_flip(network.architecture, layer):
        raise InputError(f"every map that reads layer '{layer}' must have a bias, which takes the constant of a flip")
    for m in network.architecture.reading(layer) if constant else ():
        weights = network.weights(m)
        flipped = (signs < 0).to(weights.bias.dtype)  # f(z) = c − f(−z) for these units
        parts = [part for part, axis in zip(weights.parts, m.inputs, strict=True) if axis.layer == layer]
        moved = sum(torch.einsum("uis,i->u", part.to(flipped), by_row(flipped, part.shape[1])) for part in parts)
        network = network.with_weights(m, Weights(weights.parts, weights.bias + constant * moved))
    return _with_factors(network, {layer: signs})


def can_flip(architecture: Architecture, layer: str) -> bool:
    """Whether `flip` applies: the activation allows it and, where a constant is left over, every reader has a bias."""
    constant = symmetry_of(architecture.layer(layer).activations).odd_constant
    if constant is None or constant == 0:
        return constant is not None
    # It must come to each reader as it left the activation, once, and the readers must have somewhere to put it.
    return architecture.pointwise(layer) and all(_takes_constant(m) for m in architecture.reading(layer))


def usable_symmetry(architecture: Architecture, layer: str) -> Symmetry:
    """Return the symmetry of a layer's activations, without the sign where `flip` does not apply.

    Tied layers keep their signs: clusters of pairs would need the signs of both.
    """
    symmetry = symmetry_of(architecture.layer(layer).activations)
    if can_flip(architecture, layer) and len(architecture.family(layer)) == 1:
        return symmetry
    return replace(symmetry, odd_constant=None)


def canonical(network: TracedNetwork) -> TracedNetwork:
    """Return the network with every rescalable hyperplane ``[w; b]`` at unit norm, bottom-up, and batch norms folded.

    Networks that differ by a rescaling of units become equal (to rounding). Hyperplanes that are zero stay as they are.
    """
    for m in network.architecture.maps:
        if m.norm is not None:
            network = network.with_weights(m, network.weights(m))
    for layer in network.architecture.hidden:
        if symmetry_of(layer.activations).homogeneous:
            norms = incoming_norms(network, layer.name)
            network = rescale(network, layer.name, torch.where(norms > 0, 1 / norms, 1))
    return network


def balanced(network: TracedNetwork, *, bias: bool = True) -> TracedNetwork:
    """Return the network with every rescalable unit's incoming weights (and bias) and outgoing weights at equal norm.

    Gradient descent works well at this scale; a fresh network has either norm near 0.5 (Stock et al. 2019). Units
    without incoming or outgoing weights stay as they are.
    """
    architecture = network.architecture
    layers = [layer for layer in architecture.hidden if symmetry_of(layer.activations).homogeneous]
    weights, dtype = {m: network.weights(m) for m in architecture.maps}, next(iter(network.state.values())).dtype
    for _ in range(BALANCING_SWEEPS):
        for layer in layers:
            incoming = norms_written(weights, layer.name, layer.width, bias=bias).to(dtype)
            outgoing = norms_read(weights, layer.name, layer.width).to(dtype)
            ratio = torch.where((incoming > 0) & (outgoing > 0), outgoing / incoming, 1)
            weights |= _multiplied(weights, {layer.name: ratio.sqrt()})
    for m in weights if layers else ():
        network = network.with_weights(m, weights[m])
    return network


def _interchangeable(network: TracedNetwork, name: str) -> Layer:
    layer = network.architecture.layer(name)
    if not layer.interchangeable:
        hidden = ", ".join(repr(other.name) for other in network.architecture.hidden)
        raise InputError(f"layer must be one whose units are interchangeable ({hidden}), got {name!r}")
    return layer


def _selected(network: TracedNetwork, orders: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters with units ``orders[layer]``, however many, in place of those of each layer and its family."""
    architecture, state = network.architecture, dict(network.state)
    for (name, dim), sections in architecture.divided.items():
        if not any(layer is not None and architecture.first(layer) in orders for layer, _ in sections):
            continue
        kept, start = [], 0
        for layer, block in sections:
            entries, order = length((layer, block), architecture.widths), None
            if layer is not None:
                order = orders.get(architecture.first(layer))
            if order is None:
                kept.append(torch.arange(start, start + entries))
            else:
                kept.append((start + order[:, None] * block + torch.arange(block)).flatten())
            start += entries
        state[name] = state[name].index_select(dim, torch.cat(kept))
    return state


def _check_factors(network: TracedNetwork, layer: str, factors: Tensor) -> None:
    activations = _interchangeable(network, layer).activations
    if not symmetry_of(activations).homogeneous:
        raise InputError(f"the activation of layer '{layer}' must be homogeneous, got {', '.join(activations)}")
    if not bool((factors > 0).all()):
        raise InputError(f"factors must be positive, got {factors.tolist()}")


def _with_factors(network: TracedNetwork, factors: Mapping[str, Tensor]) -> TracedNetwork:
    """The network with layers' hyperplanes multiplied by non-zero factors, and what reads them divided by these."""
    for m in network.architecture.maps:
        if m.writes in factors or not factors.keys().isdisjoint(m.reads):
            network = network.with_weights(m, _multiplied({m: network.weights(m)}, factors)[m])
    return network


def _multiplied(weights: Mapping[Map, Weights], factors: Mapping[str, Tensor]) -> dict[Map, Weights]:
    """The hyperplanes of layers multiplied by non-zero factors, and those that read them divided by these."""
    changed = {}
    for m, old in weights.items():
        written = factors.get(m.writes)
        if written is None and factors.keys().isdisjoint(m.reads):
            continue
        bias, parts = old.bias, list[Tensor]()
        if written is not None:
            written = by_row(written, len(bias))
            bias = bias * written.to(bias.dtype)
        for part, axis in zip(old.parts, m.inputs, strict=True):
            read, new = factors.get(axis.layer or ""), part
            if read is not None:
                inverse = 1 / by_row(read.to(part.dtype), part.shape[0 if m.per_unit else 1])
                new = new * (inverse[:, None, None] if m.per_unit else inverse[:, None])
            if written is not None:
                factor = written.to(part.dtype)[:, None, None]
                new = new * factor if new is part else new.mul_(factor)
            parts.append(new)
        changed[m] = Weights(tuple(parts), bias)
    return changed


def _takes_constant(m: Map) -> bool:
    return m.has_bias and not m.per_unit and not m.pads  # at a padded border the constant is not there to be moved
