"""The proof of a module's layers: their symmetries, applied to the module itself, do not change its function."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from consilience.errors import FunctionChangedError, InputError
from consilience.units.architecture import Architecture, Layer, TracedNetwork
from consilience.units.deviation import deviation
from consilience.units.forward import forward
from consilience.units.multihead import plain_attention
from consilience.units.precision import InDouble, exact
from consilience.units.resize import hollow_double, resize
from consilience.units.symmetry import can_flip, duplicate, flip, permute_all, rescale_all, symmetry_of

VALUES = 2**18  # numbers in the largest value of all samples of a proof, …
SAMPLES = (4, 16)  # … of which there are at least and at most so many
LARGE = 2**24  # parameters of a network that is not changed in all layers at once, …
SHARE = 8  # … and of whose wide layers one unit in so many is doubled
SAME = 1e-3  # of the norm of outputs: roundings of single precision stay below
TOLERANCE = 1e-5  # of the spread of each output over samples: some 100 roundings of float32
WRITTEN_OUT = "let the forward pass take sizes from tensors, as in x.new_zeros(x.shape[1]), not write them out"
HEADS = (
    "write shapes of heads as (n, positions, -1, features), so that more rows are more heads, and call the features of "
    "a head head_dim where the module keeps them"
)
NESTED = "make nn.TransformerEncoder with enable_nested_tensor=False: with it, what is padded is 0 in eval mode alone"
CURE = "check that the module is deterministic in eval mode and that handlers you have added are right, or report it"


def prove(module: nn.Module, network: TracedNetwork, x: Tensor) -> None:
    """Check on inputs x (n, ...) that the layers found in ``module`` are its layers.

    The traced program must return what the module returns. Then the units of all layers are permuted, rescaled and
    flipped (where the activations allow it) at random, and doubled, each twin with half of the outgoing weights; after
    each change the *module's own* forward pass must return the same. Where it does not, the changes are made layer by
    layer to name the one that is wrong. The module's mode (train or eval) is left as it was.

    Raises
    ------
    InputError : the module's outputs on x are not finite, or it does not run at other widths.
    FunctionChangedError : a change, which it names, moves an output by more than 1e-5 of its spread over samples.
    """
    if not network.architecture.fits(network.state):
        message = f"the layers found in {type(module).__name__} must fit the shapes of its parameters"
        raise FunctionChangedError(message, cure=CURE)
    fewest, most = SAMPLES
    x = x[: min(most, max(fewest, VALUES // network.architecture.largest_value))]
    if x.dtype == torch.float64:
        _prove(module, network, x, by_layer=True)
        return
    try:
        _prove(module, network, x)
        return
    except FunctionChangedError:
        pass  # with what it holds
    double = hollow_double(module), network.computing_in_double(), exact(x)
    if _runs(*double):  # roundings may grow; a wrong layer is wrong in double precision too
        _check_fused(module, network, x)
        _prove(*double, by_layer=True, mode=InDouble())
    else:
        _prove(module, network, x, by_layer=True)


def _runs(module: nn.Module, network: TracedNetwork, x: Tensor) -> bool:
    """Whether a module runs in double precision."""
    try:
        with InDouble():
            forward(module, network.state, x, network.architecture.program.pick)
    except InputError:
        return False
    return True


def _check_fused(module: nn.Module, network: TracedNetwork, x: Tensor) -> None:
    """Raise if a module is another function in torch's fused path, which `InDouble` turns off."""
    if not _is_nested(module):
        return
    pick = network.architecture.program.pick
    own = forward(module, network.state, x, pick)
    with plain_attention():
        plain = forward(module, network.state, x, pick)
    if float((own - plain).norm()) > SAME * float(own.norm()):
        message = f"{type(module).__name__} must return the same without torch's fused path, got another function"
        raise FunctionChangedError(message, cure=NESTED)


def _is_nested(module: nn.Module) -> bool:
    """Whether a part skips padding in the fused path."""
    return any(isinstance(part, nn.TransformerEncoder) and part.use_nested_tensor for part in module.modules())


def _prove(
    module: nn.Module,
    network: TracedNetwork,
    x: Tensor,
    *,
    by_layer: bool = False,
    mode: AbstractContextManager[object] | None = None,  # for the module's own forward pass
) -> None:
    pick, mode = network.architecture.program.pick, mode or nullcontext()
    with mode:
        expected = forward(module, network.state, x, pick)
    if not bool(torch.isfinite(expected).all()):
        message = f"the outputs of {type(module).__name__} must be finite, got NaN or infinity"
        raise InputError(message, cure="leave this network out")
    _check_outputs("running the traced program in place of the module", network.outputs(x), expected)
    if network.architecture.grouped:  # members side by side, in an architecture that has been proved without groups
        return

    def check(name: str, layers: Sequence[Layer], whose: str) -> None:
        changed, own = CHANGES[name](network, layers), module
        if changed is network:  # the activations allow no such change
            return
        with mode:
            if changed.architecture is not network.architecture:
                own = resize(module, network.architecture, changed.architecture.widths, changed.state)
            outputs = forward(own, changed.state, x, pick)
        _check_outputs(f"{name} the units of {whose}", outputs, expected)
        if own is not module:
            _check_outputs("running the traced program at other widths", _of_program(changed, x), expected)

    for name in CHANGES:
        done = set[str]()
        try:
            for layers in _portions(network):
                left = [layer for layer in layers if layer.name not in done]
                if left:
                    check(name, left, "all layers")
                done |= _beside(network.architecture, left) if name == "doubling" else set()
        except FunctionChangedError:
            for layer in network.architecture.hidden if by_layer else ():
                try:
                    check(name, [layer], f"layer '{layer.name}'")
                except FunctionChangedError as error:
                    if name == "doubling" and network.architecture.has_insides(layer.name):
                        raise FunctionChangedError(error.message, cure=HEADS) from error
                    raise
            raise


def _of_program(network: TracedNetwork, x: Tensor) -> Tensor:
    try:
        return network.outputs(x)
    except RuntimeError as error:
        message = f"the traced program must run at other widths, got {str(error).splitlines()[0]}"
        raise FunctionChangedError(message, cure=WRITTEN_OUT) from error


def _is_large(network: TracedNetwork) -> bool:
    return sum(value.numel() for value in network.state.values()) > LARGE


def _portions(network: TracedNetwork) -> list[list[Layer]]:
    """Hidden layers in portions to be changed: all together; of many parameters, no two that a map reads and writes."""
    architecture, portions = network.architecture, list[list[Layer]]()
    if not _is_large(network):
        return [list(architecture.hidden)]
    between = {frozenset(map(architecture.first, (m.writes, read))) for m in architecture.maps for read in m.reads}
    for layer in architecture.free:
        apart = (p for p in portions if not any(frozenset((layer.name, other.name)) in between for other in p))
        portion = next(apart, None)
        if portion is None:
            portions.append([layer])
        else:
            portion.append(layer)
    return [[tied for layer in portion for tied in architecture.family(layer.name)] for portion in portions]


def _check_outputs(change: str, outputs: Tensor, expected: Tensor) -> None:
    changed = deviation(outputs, expected)
    if changed > TOLERANCE:
        allowed = f"{TOLERANCE:.0e} of their spread over samples".replace("e-0", "e-")
        raise FunctionChangedError(
            f"{change} must change the outputs by at most {allowed}, got {changed:.2g}", cure=CURE
        )


def _permuted(network: TracedNetwork, layers: Sequence[Layer]) -> TracedNetwork:
    orders = {}
    for layer in layers:
        if layer.tied is None and layer.width > 1:
            shuffled = torch.randperm(layer.width, generator=_generator(layer))
            orders[layer.name] = torch.empty_like(shuffled).scatter(0, shuffled, shuffled.roll(1))  # no unit stays
    return permute_all(network, orders) if orders else network


def _rescaled(network: TracedNetwork, layers: Sequence[Layer]) -> TracedNetwork:
    factors = {}
    for layer in layers:
        if symmetry_of(layer.activations).homogeneous:
            powers = torch.tensor([-2.0, -1, 1, 2])[torch.randint(0, 4, (layer.width,), generator=_generator(layer))]
            factors[layer.name] = 2**powers  # without rounding
    return rescale_all(network, factors) if factors else network


def _flipped(network: TracedNetwork, layers: Sequence[Layer]) -> TracedNetwork:
    for layer in layers:
        if can_flip(network.architecture, layer.name):
            signs = torch.randint(0, 2, (layer.width,), generator=_generator(layer)) * 2.0 - 1.0
            network = flip(network, layer.name, signs)
    return network


def _doubled(network: TracedNetwork, layers: Sequence[Layer]) -> TracedNetwork:
    """The network with twins; norms keep their statistics where all units that these are of have one."""
    architecture = network.architecture
    names, normed = _beside(architecture, layers), {name for norm in architecture.statistics for name in norm.layers}
    whole = {name for name in names if normed & {layer.name for layer in architecture.family(name)}}
    for chosen, share in ((whole, 1), (names - whole, SHARE if _is_large(network) else 1)):
        network = duplicate(network, sorted(chosen), share) if chosen else network
    return network


def _beside(architecture: Architecture, layers: Sequence[Layer]) -> set[str]:
    """Names of layers, of those tied to them, and of those that lie beside these in a norm, and so on."""
    hidden, names = {layer.name for layer in architecture.hidden}, {layer.name for layer in layers}
    while True:
        tied = {own.name for name in names for own in architecture.family(name)}
        beside = {name for norm in architecture.statistics if tied & {*norm.layers} for name in norm.layers}
        if names == (names := names | tied | beside & hidden):
            return names


Change = Callable[[TracedNetwork, Sequence[Layer]], TracedNetwork]
CHANGES: dict[str, Change]
CHANGES = {"permuting": _permuted, "rescaling": _rescaled, "sign-flipping": _flipped, "doubling": _doubled}


def _generator(layer: Layer) -> torch.Generator:
    """A stream for each layer: if layers of one width were changed alike, one could pass for another."""
    return torch.Generator().manual_seed(zlib.crc32(layer.name.encode()))
