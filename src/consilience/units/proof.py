"""The proof that a module was understood: its symmetries, applied to the module itself, do not change its function."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from consilience.errors import FunctionChangedError, InputError
from consilience.units.layers import TracedNetwork
from consilience.units.symmetry import can_flip, flip, permute, rescale, symmetry_of

SMALLEST = 1e-3  # output: below it, roundings of larger values inside may show
TOLERANCE = 1e-5  # of the largest output: some 100 roundings of float32


def prove(module: nn.Module, network: TracedNetwork, x: Tensor) -> None:
    """Check on inputs x (n, ...) that the layers found in ``module`` are its layers.

    The traced program must return what the module returns; then, layer by layer, units are permuted and, where the
    activation allows, rescaled and flipped, all at random, and the *module's own* forward pass must return the same.
    Its mode (train or eval) is left as it was.

    Raises
    ------
    InputError
        If the module's outputs on x are not finite.
    FunctionChangedError
        Naming the layer and the symmetry for which the outputs differ by more than 1e-5 of the largest output.
    """
    expected = forward(module, network.state, x)
    if not bool(torch.isfinite(expected).all()):
        raise InputError("the outputs are not finite", where=type(module).__name__, cure="leave this network out")
    _compare(network(x), expected, "the traced program", "the module as a whole")
    generator = torch.Generator().manual_seed(0)
    for layer in network.architecture.hidden:
        changed = {"permuting": permute(network, layer.name, torch.randperm(layer.width, generator=generator))}
        if symmetry_of(layer.activations).homogeneous:
            factors = 0.5 + 1.5 * torch.rand(layer.width, generator=generator)
            changed["rescaling"] = rescale(network, layer.name, factors)
        if can_flip(network.architecture, layer.name):
            signs = torch.randint(0, 2, (layer.width,), generator=generator) * 2.0 - 1.0
            changed["sign-flipping"] = flip(network, layer.name, signs)
        for change, equivalent in changed.items():
            _compare(forward(module, equivalent.state, x), expected, f"{change} the units", f"layer '{layer.name}'")


def forward(module: nn.Module, state: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Return the module's outputs in eval mode under other parameters, without gradients."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        with torch.no_grad():
            outputs: Tensor = functional_call(module.eval(), dict(state), (x,))
            return outputs
    finally:
        for part, training in modes:
            part.training = training


def _compare(got: Tensor, expected: Tensor, change: str, where: str) -> None:
    allowed = TOLERANCE * max(SMALLEST, float(expected.abs().max()))
    error = float((got - expected).abs().max())
    if not error <= allowed:
        raise FunctionChangedError(
            f"{change} changes what the module computes", where=where, got=f"outputs that differ by {error:.2g}",
            expected=f"at most {allowed:.2g}",
            cure="the module is not what it was traced as: check that it is deterministic in eval mode, or report it",
        )  # fmt: skip
