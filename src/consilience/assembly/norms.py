"""Batch norms of a network with new hyperplanes: new statistics, or folded into the weights.

Folded hyperplanes leave a norm with mean 0 and variance 1, which no data has. Training such a network would start with
a jump, from those statistics to the batch's. Here they become what calibration data gives, and scale and shift take up
the change, so that the function stays: with pre-norm values z, ``μ = E z``, ``σ² = Var z``,

    γ ← γ √(σ² + ε),    β ← β + γ μ    (old γ, with old μ = 0 and σ² = 1 − ε).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from consilience.errors import InputError
from consilience.signals.responses import stream
from consilience.units.architecture import Architecture, TracedNetwork, read_state
from consilience.units.axes import Axis
from consilience.units.maps import Map, Norm


def with_statistics(network: TracedNetwork, x: Tensor) -> TracedNetwork:
    """Return the network with the statistics of its batch norms estimated on inputs x (n, ...), n ≥ 2."""
    norms = [m for m in network.architecture.maps if m.norm is not None]
    if not norms:
        return network
    for m in norms:  # folded: the output of a norm is its input plus its shift
        network = network.with_weights(m, network.weights(m))
    places = {m.name: m.inputs[0] if m.is_norm else m.output for m in norms}
    moments = _moments(network, x, list(places.values()))
    for m in norms:
        network = replace(network, state={**network.state, **_restated(m, network, *moments[places[m.name]])})
    return network


def without_norms(module: nn.Module, architecture: Architecture) -> nn.Module:
    """Return a copy in eval mode in which batch norms are part of the weights that precede them: the same function.

    In their place stands ``nn.Identity``; a norm of a stream stays, as no weights precede it.
    """
    check_foldable(module, architecture)
    module, state = copy.deepcopy(module), read_state(module)
    widths = architecture.widths_in(state)
    for m, norm, own in _norms_after_weights(module, architecture):
        weights = m.weights(state, widths)
        with torch.no_grad():
            module.get_parameter(m.weight).copy_(m.written(state, widths, weights)[m.weight])
        own.bias = nn.Parameter(weights.bias.clone())
        module.set_submodule(_owner(norm.weight), nn.Identity())
    return module.eval()


def check_foldable(module: nn.Module, architecture: Architecture) -> None:
    """Raise unless batch norms are modules of torch, after weights of a module that can have a bias."""
    for m, norm, own in _norms_after_weights(module, architecture):
        place = _owner(norm.weight)
        if not isinstance(module.get_submodule(place), nn.modules.batchnorm._BatchNorm) or not hasattr(own, "bias"):
            got = f"'{place or norm.weight}' after '{m.name}'"
            raise InputError(
                f"batch_norm must be 'kept' unless each nn.BatchNorm follows an nn.Conv or nn.Linear, got {got}"
            )


def _norms_after_weights(module: nn.Module, architecture: Architecture) -> Iterator[tuple[Map, Norm, nn.Module]]:
    """Yield each map with a batch norm after it, the norm, and the module of the map's weights."""
    for m in architecture.maps:
        if m.norm is not None and not m.is_norm:
            yield m, m.norm, module.get_submodule(_owner(m.weight))


def _owner(parameter: str) -> str:
    return parameter.rpartition(".")[0]


def _restated(m: Map, network: TracedNetwork, mean: Tensor, variance: Tensor) -> dict[str, Tensor]:
    """The parameters of one norm under other statistics of its input (of its output, where weights precede)."""
    assert m.norm is not None
    weights = network.weights(m)
    gain = weights.parts[0][:, 0, 0] if m.is_norm else torch.ones_like(weights.bias)
    mean, variance = mean.to(gain.dtype), variance.to(gain.dtype)
    if not m.is_norm:
        mean = mean - weights.bias
    values = (gain * (variance + m.norm.eps).sqrt(), weights.bias + gain * mean, mean, variance)
    widths, new = network.architecture.widths, dict[str, Tensor]()
    for name, value in zip(m.norm.names, values, strict=True):
        axis = replace(m.output, name=name, dim=0)
        new[name] = axis.put(network.state[name], widths, value[:, None])
    return new


def _moments(network: TracedNetwork, x: Tensor, axes: list[Axis]) -> dict[Axis, tuple[Tensor, Tensor]]:
    """Mean and variance of rows of units over samples and positions."""
    widths, count = network.architecture.widths, dict.fromkeys(axes, 0)
    sums = {axis: torch.zeros(2, widths[axis.layer or ""] * axis.inside, dtype=torch.float64) for axis in axes}
    for which, batch in stream(network, x, list({axis.name for axis in axes})):
        for axis in axes:
            units = axis.units(batch[axis.name], widths, which.stop - which.start).double()
            count[axis] += units.shape[0] * units.shape[2]
            sums[axis] += torch.stack([units.sum((0, 2)), units.square().sum((0, 2))])
    moments = {axis: total / count[axis] for axis, total in sums.items()}
    return {axis: (mean, (square - mean.square()).clamp(min=0)) for axis, (mean, square) in moments.items()}
