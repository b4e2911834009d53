"""The proof that a module was understood: its symmetries, applied to the module itself, do not change its function."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from consilience.errors import FunctionChangedError, InputError
from consilience.units.architecture import Layer, TracedNetwork
from consilience.units.forward import forward
from consilience.units.resize import resize
from consilience.units.symmetry import can_flip, duplicate, flip, permute, rescale, symmetry_of

VALUES = 2**18  # numbers in the largest value of all samples that are looked at, …
SAMPLES = (4, 16)  # … of which there are at least and at most so many
SMALLEST = 1e-3  # output: below it, roundings of larger values inside may show
TOLERANCE = 1e-5  # of the largest output: some 100 roundings of float32


def prove(module: nn.Module, network: TracedNetwork, x: Tensor) -> None:
    """Check on inputs x (n, ...) that the layers found in ``module`` are its layers.

    The traced program must return what the module returns. Then the units of all layers are permuted, rescaled and
    flipped (where the activations allow it), at random, and at last doubled, each twin with half of the outgoing
    weights; after each change the *module's own* forward pass must return the same. Where it does not, the changes are
    made layer by layer to name the one that is wrong. The module's mode (train or eval) is left as it was.

    Raises
    ------
    InputError
        If the module's outputs on x are not finite, or it does not run at other widths.
    FunctionChangedError
        Naming the layer and the change for which the outputs differ by more than 1e-5 of the largest output.
    """
    fewest, most = SAMPLES
    x = x[: min(most, max(fewest, VALUES // network.architecture.largest_value))]
    try:
        _prove(module, network, x)
    except FunctionChangedError:
        if x.dtype == torch.float64:
            raise
        # Roundings may grow; a wrong layer is wrong in double precision too.
        _prove(copy.deepcopy(module).double(), network.double(), x.double())


def _prove(module: nn.Module, network: TracedNetwork, x: Tensor) -> None:
    expected = forward(module, network.state, x)
    if not bool(torch.isfinite(expected).all()):
        raise InputError("the outputs are not finite", where=type(module).__name__, cure="leave this network out")
    error = _error(network(x), expected)
    if not error <= 1:
        raise _changed("the traced program", "the module as a whole", error, expected)
    for name, change in SYMMETRIES.items():
        _check(name, change, module, network, x, expected)
    if network.architecture.hidden:
        _check("doubling", _doubled, module, network, x, expected)


def _check(name: str, change: Change, module: nn.Module, network: TracedNetwork, x: Tensor, expected: Tensor) -> None:
    """Make a change to all layers at once; if that changes the function, to one after the other, to name the layer."""
    layers = network.architecture.hidden
    if _after(change, module, network, layers, x, expected) <= 1:
        return
    for layer in layers:
        error = _after(change, module, network, [layer], x, expected)
        if not error <= 1:
            raise _changed(f"{name} the units", f"layer '{layer.name}'", error, expected)
    raise _changed(f"{name} the units", "all layers together", float("nan"), expected)


def _after(
    change: Change, module: nn.Module, network: TracedNetwork, layers: Sequence[Layer], x: Tensor, expected: Tensor
) -> float:
    """The error of the module's outputs after a change to layers; infinite where it fails."""
    try:
        changed = change(network, layers)
        if changed is network:
            return 0.0
        if changed.architecture is not network.architecture:
            module = resize(module, network.architecture, changed.architecture.widths)
        return _error(forward(module, changed.state, x), expected)
    except (RuntimeError, IndexError):  # the parts do not fit together
        return float("inf")


def _permuted(network: TracedNetwork, layers: Sequence[Layer]) -> TracedNetwork:
    for layer in layers:
        if layer.tied is None and layer.width > 1:
            shuffled = torch.randperm(layer.width, generator=_seed(layer))
            order = torch.empty_like(shuffled).scatter(0, shuffled, shuffled.roll(1))  # one cycle: no unit stays
            network = permute(network, layer.name, order)
    return network


def _rescaled(network: TracedNetwork, layers: Sequence[Layer]) -> TracedNetwork:
    for layer in layers:
        if symmetry_of(layer.activations).homogeneous:
            powers = torch.tensor([-2.0, -1, 1, 2])[torch.randint(0, 4, (layer.width,), generator=_seed(layer))]
            network = rescale(network, layer.name, 2**powers)  # without rounding
    return network


def _flipped(network: TracedNetwork, layers: Sequence[Layer]) -> TracedNetwork:
    for layer in layers:
        if can_flip(network.architecture, layer.name):
            signs = torch.randint(0, 2, (layer.width,), generator=_seed(layer)) * 2.0 - 1.0
            network = flip(network, layer.name, signs)
    return network


def _doubled(network: TracedNetwork, layers: Sequence[Layer]) -> TracedNetwork:
    return duplicate(network, [layer.name for layer in layers]) if layers else network


Change = Callable[[TracedNetwork, Sequence[Layer]], TracedNetwork]
SYMMETRIES: dict[str, Change] = {"permuting": _permuted, "rescaling": _rescaled, "sign-flipping": _flipped}


def _seed(layer: Layer) -> torch.Generator:
    """Layers of one width are changed differently: else one could pass for another."""
    return torch.Generator().manual_seed(zlib.crc32(layer.name.encode()))


def _error(got: Tensor, expected: Tensor) -> float:
    """The largest difference, as a multiple of what is allowed."""
    allowed = TOLERANCE * max(SMALLEST, float(expected.abs().max()))
    return float((got - expected).abs().max()) / allowed


def _changed(change: str, where: str, error: float, expected: Tensor) -> FunctionChangedError:
    allowed = TOLERANCE * max(SMALLEST, float(expected.abs().max()))
    return FunctionChangedError(
        f"{change} changes what the module computes", where=where,
        got=f"outputs that differ by {error * allowed:.2g}", expected=f"at most {allowed:.2g}",
        cure="the module is not what it was traced as: check that it is deterministic in eval mode, or report it",
    )  # fmt: skip
