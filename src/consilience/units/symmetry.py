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

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from consilience.errors import InputError
from consilience.units.layers import Architecture, Axis, Layer, TracedNetwork


@dataclass(frozen=True)
class Symmetry:
    """What may be done to a unit, besides permuting it.

    Attributes
    ----------
    homogeneous : it may be rescaled by any positive factor.
    odd_constant : c of ``f(z) + f(−z) = c``; None where no such constant exists and the sign may not be flipped.
    even_slope : m of ``f(z) − f(−z) = m z``; None where there is none.
    """

    homogeneous: bool = False
    odd_constant: float | None = None
    even_slope: float | None = None

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
}
NO_SYMMETRY = Symmetry()
BALANCING_SWEEPS = 20  # each halves what is left of an imbalance between neighbouring layers


def symmetry_of(activations: Sequence[str]) -> Symmetry:
    """Return what every one of the activations that a layer passes through allows.

    >>> symmetry_of(["relu"]).homogeneous, symmetry_of(["tanh"]).flippable, symmetry_of(["relu", "tanh"]) == NO_SYMMETRY
    (True, True, True)
    """
    known = [SYMMETRIES.get(name.partition("(")[0], NO_SYMMETRY) for name in activations] or [SYMMETRIES["identity"]]
    constants, slopes = {s.odd_constant for s in known}, {s.even_slope for s in known}
    return Symmetry(
        homogeneous=all(s.homogeneous for s in known),
        # Behind f with f(z) + f(−z) = c ≠ 0 nothing else may follow: the constant would have to pass through it.
        odd_constant=constants.pop() if len(constants) == 1 and (len(known) == 1 or constants == {0.0}) else None,
        even_slope=slopes.pop() if len(known) == 1 else None,
    )


def permute(network: TracedNetwork, layer: str, order: Tensor) -> TracedNetwork:
    """Return the network with the layer's units reordered: new unit i is old unit ``order[i]``.

    Raises
    ------
    InputError
        If ``order`` (u,) is not a permutation of the layer's units, or the layer's units are told apart by their index.
    """
    found = _interchangeable(network, layer)
    if order.shape != (found.width,) or not torch.equal(order.sort().values, torch.arange(found.width)):
        raise InputError(
            "not a permutation of the layer's units", where=f"layer '{layer}'", got=order.tolist(),
            expected=f"each of 0…{found.width - 1} once",
        )  # fmt: skip
    state = dict(network.state)
    for axis in (*found.writers, *found.readers):
        state[axis.parameter] = state[axis.parameter].index_select(axis.dim, order)
    return replace(network, state=state)


def rescale(network: TracedNetwork, layer: str, factors: Tensor) -> TracedNetwork:
    """Return the network with hyperplane j multiplied by ``factors[j] > 0`` and its outgoing weights divided by it.

    Raises
    ------
    InputError
        If the layer's activation is not positively homogeneous, or a factor is not positive.
    """
    found = _interchangeable(network, layer)
    if not symmetry_of(found.activations).homogeneous:
        raise InputError(
            "the activation does not allow rescaling", where=f"layer '{layer}'", got=", ".join(found.activations)
        )
    if not bool((factors > 0).all()):
        raise InputError("factors must be positive", where=f"layer '{layer}'", got=factors.tolist())
    state = dict(network.state)
    for axis in found.writers:
        state[axis.parameter] = _multiply(state[axis.parameter], axis, factors)
    for axis in found.readers:
        state[axis.parameter] = _multiply(state[axis.parameter], axis, 1 / factors)
    return replace(network, state=state)


def flip(network: TracedNetwork, layer: str, signs: Tensor) -> TracedNetwork:
    """Return the network with hyperplane j multiplied by ``signs[j]`` ∈ {−1, 1} and the function unchanged.

    Raises
    ------
    InputError
        If the activation is not odd (up to a constant), or a reader has no bias to take the constant.
    """
    found = _interchangeable(network, layer)
    constant = symmetry_of(found.activations).odd_constant
    if constant is None:
        raise InputError(
            "the activation does not allow sign flips", where=f"layer '{layer}'", got=", ".join(found.activations)
        )
    if not bool((signs.abs() == 1).all()):
        raise InputError("signs must be 1 or −1", where=f"layer '{layer}'", got=signs.tolist())
    state = dict(network.state)
    for reader in network.architecture.reading(layer) if constant else ():
        if reader.bias is None:
            raise InputError(
                "a sign flip needs a bias to take its constant", where=f"'{reader.name}', which reads layer '{layer}'"
            )
        moved = constant * (signs < 0).to(state[reader.weight].dtype)  # f(z) = c − f(−z) for the flipped units
        state[reader.bias] = state[reader.bias] + torch.einsum("uis,i->u", reader.matrix(state[reader.weight]), moved)
    for axis in (*found.writers, *found.readers):
        state[axis.parameter] = _multiply(state[axis.parameter], axis, signs)
    return replace(network, state=state)


def can_flip(architecture: Architecture, layer: str) -> bool:
    """Whether `flip` applies: the activation allows it and, where a constant is left over, every reader has a bias."""
    constant = symmetry_of(architecture.layer(layer).activations).odd_constant
    return constant is not None and (constant == 0 or all(reader.bias for reader in architecture.reading(layer)))


def usable_symmetry(architecture: Architecture, layer: str) -> Symmetry:
    """Return the symmetry of a layer's activations, without the sign where `flip` does not apply."""
    symmetry = symmetry_of(architecture.layer(layer).activations)
    return symmetry if can_flip(architecture, layer) else replace(symmetry, odd_constant=None)


def canonical(network: TracedNetwork) -> TracedNetwork:
    """Return the network with every rescalable hyperplane ``[w; b]`` at unit norm, bottom-up.

    Networks that differ by a rescaling of units become equal (to rounding). Hyperplanes that are zero stay as they are.
    """
    for layer in network.architecture.hidden:
        if symmetry_of(layer.activations).homogeneous:
            norms = axis_norms(network, layer.writers)
            network = rescale(network, layer.name, torch.where(norms > 0, 1 / norms, 1))
    return network


def balanced(network: TracedNetwork) -> TracedNetwork:
    """Return the network with every rescalable unit's incoming and outgoing weights at equal norm.

    The function is the same; the scale is one that gradient descent works well at, and near that of a fresh network,
    where either norm is about 0.5 (Stock et al. 2019). Units without incoming or outgoing weights stay as they are.
    """
    layers = [layer for layer in network.architecture.hidden if symmetry_of(layer.activations).homogeneous]
    for _ in range(BALANCING_SWEEPS if layers else 0):
        for layer in layers:
            incoming, outgoing = axis_norms(network, layer.writers), axis_norms(network, layer.readers)
            ratio = torch.where((incoming > 0) & (outgoing > 0), outgoing / incoming, 1)
            network = rescale(network, layer.name, ratio.sqrt())
    return network


def axis_norms(network: TracedNetwork, axes: Sequence[Axis]) -> Tensor:
    """Return, for each unit, the norm of all parameters that the axes index it in: (u,).

    With a layer's writers these are the norms of its hyperplanes, with its readers those of its outgoing weights.
    """
    squares = (network.state[axis.parameter].double().square().movedim(axis.dim, 0) for axis in axes)
    total = torch.stack([square.reshape(len(square), -1).sum(1) for square in squares]).sum(0)
    return total.sqrt().to(network.state[axes[0].parameter].dtype)


def _interchangeable(network: TracedNetwork, layer: str) -> Layer:
    found = network.architecture.layer(layer)
    if not found.interchangeable:
        raise InputError(
            "the units of this layer are told apart by their index",
            where=f"layer '{layer}'",
            cure="choose a hidden layer",
        )
    return found


def _multiply(parameter: Tensor, axis: Axis, factors: Tensor) -> Tensor:
    shape = [1] * parameter.dim()
    shape[axis.dim] = -1
    return parameter * factors.to(parameter.dtype).reshape(shape)
