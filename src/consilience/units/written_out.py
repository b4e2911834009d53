"""Parameters that stand for more than they hold, written out: units then have parameters of their own.

- A convolution in groups becomes one of all channels, with zeros between the groups: its units can then be merged
  with units of other groups.
- `nn.PReLU` with one slope for all units gets a slope for each.
- LSTM, GRU and RNN become classes that can be traced (`consilience.units.recurrence`).
- `nn.MultiheadAttention` between two values gets weights of its own for queries, keys and values.
- A norm without scales gets scales of 1 and shifts of 0. A layer norm of the inputs, which have no units, loses its own
  to the one linear layer that reads it.
- A layer of one unit that is combined with all of others, as a gate of each position is, gets one unit for each.
- A buffer that is added to units, such as sines of positions, becomes a parameter without gradients: it goes with the
  units, of which each member has others.
- A learned number that multiplies all units, or is added to them, where it cannot be folded into a weight becomes one
  for each unit. So do the scales and shifts of a norm of each head of attention, which all heads have in common.

The module computes the same, and its class is the same; only these parts have other shapes. Depthwise convolutions stay
as they are.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from consilience.errors import ConsilienceError, FunctionChangedError
from consilience.units.architecture import Architecture, read_state
from consilience.units.attributes import SIZE_ATTRIBUTES
from consilience.units.forward import eval_mode, outputs_of
from consilience.units.inputs import called
from consilience.units.layers import numbers_in, tables_in
from consilience.units.multihead import CrossAttention, cross_attentions, unpack, unpacked
from consilience.units.outputs import Pick
from consilience.units.recurrence import TRACEABLE
from consilience.units.same import same_outputs

# Attributes of parts that were changed.
GROUPS, ONE_SLOPE, UNSCALED = "written_out_groups", "written_out_slope", "written_out_scales"
FOLDED = "written_out_reader"  # attribute of a norm: path of the linear layer that has its scales and shifts
TABLES = "written_out_tables"  # attribute of a part: names of the parameters that were buffers
NUMBERS = "written_out_numbers"  # attribute of a module: names of the parameters that were one number

NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm)


def write_out(modules: Sequence[nn.Module], x: Tensor, output: Pick = None) -> None:
    """Write out the parameters of modules, in place.

    They run on inputs x (n, ...); ``output`` is which of the values that they return are taken.
    """
    _fold_norms_of_inputs(modules, x, output)
    for module in modules:
        _unpack_attention(module, x, output)
        for part in module.modules():
            part.__class__ = TRACEABLE.get(type(part), type(part))
            if isinstance(part, nn.modules.conv._ConvNd) and _is_grouped(part):
                setattr(part, GROUPS, part.groups)
                part.weight = nn.Parameter(_of_all_channels(part.weight.detach(), part.groups))
                part.groups = 1
            unscaled = isinstance(part, NORMS) and getattr(part, "weight", 0) is None and not hasattr(part, FOLDED)
            if unscaled and (units := _units_of(part)):
                _scale(part, units)
        slopes = [part for part in module.modules() if isinstance(part, nn.PReLU) and part.num_parameters == 1]
        if slopes:
            for part, units in _channels(module, slopes, x):
                setattr(part, ONE_SLOPE, True)
                part.weight = nn.Parameter(part.weight.detach().expand(units).clone())
                part.num_parameters = units
    _write_out_tables(modules, x, output)
    _write_out_numbers(modules, x, output)


def let_train(module: nn.Module) -> None:
    """Let all parameters of a module have gradients, but those that are buffers in its class."""
    module.requires_grad_(True)
    for part in module.modules():
        for name in getattr(part, TABLES, ()):
            part.get_parameter(name).requires_grad_(False)


def written_out(state: Mapping[str, Tensor], module: nn.Module, architecture: Architecture) -> dict[str, Tensor]:
    """Return the state of a module as its class has it with the parameters that are written out in ``module``."""
    whole = dict(state)
    for path, part in module.named_modules():
        name = f"{path}.weight".lstrip(".")
        if name in whole and (groups := getattr(part, GROUPS, None)):
            whole[name] = _of_all_channels(whole[name], groups)
        if isinstance(part, CrossAttention):
            whole = unpacked(whole, path)
        if (reader := getattr(part, FOLDED, None)) and name in whole:
            scale, shift = whole.pop(name), whole.pop(f"{path}.bias".lstrip("."), None)
            weight, bias = f"{reader}.weight", f"{reader}.bias"
            whole[weight], whole[bias] = _folded(scale, shift, whole[weight], whole.get(bias))
    own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    numbers = {
        name
        for name in getattr(module, NUMBERS, ())
        if name in whole and (whole[name].dim() < max(1, own[name].dim()) or len(whole[name]) == 1)
    }
    widths = architecture.widths_in({name: value for name, value in whole.items() if name not in numbers})
    for m in architecture.maps:
        path = m.weight.rpartition(".")[0]
        part, norm = module.get_submodule(path), None if m.norm is None else m.norm.weight.rpartition(".")[0]
        for owner in (path, norm):
            if owner is not None and getattr(module.get_submodule(owner), UNSCALED, False):
                units, names = widths[m.writes], module.get_submodule(owner)._parameters
                scales = {"weight": torch.ones(units), "bias": torch.zeros(units)}
                whole = {f"{owner}.{name}": scales[name] for name in names} | whole
        if getattr(part, ONE_SLOPE, False) and whole[m.weight].numel() == 1:
            whole[m.weight] = whole[m.weight].expand(widths[m.writes]).clone()
    shapes = architecture.shapes(widths, read_state(module)) if numbers else {}
    for name in numbers:
        whole[name] = whole[name].expand(shapes[name]).clone()
    return whole


def _unpack_attention(module: nn.Module, x: Tensor, output: Pick) -> None:
    """Give each attention between two values weights of its own for queries, keys and values."""
    if not any(type(part) is nn.MultiheadAttention for part in module.modules()):
        return
    before: list[Tensor | None] = []
    parts = cross_attentions(module, lambda: before.append(_outputs(module, x, output)))
    for part in parts:
        unpack(part)
    after = _outputs(module, x, output) if parts else None
    if after is not None and before[0] is not None and not same_outputs(after, before[0]):
        message = "attention from one value to another must be the same with weights apart, got another function"
        raise FunctionChangedError(f"{message} of {type(module).__name__}")


def _fold_norms_of_inputs(modules: Sequence[nn.Module], x: Tensor, output: Pick) -> None:
    """Multiply scales and shifts of layer norms of the inputs into the linear layer that reads each.

    ``W (γ z + β) + b`` is ``(W γ) z + (b + W β)``. Where something else reads a norm too, it stays as it is.
    """
    met = dict[tuple[object, ...], list[tuple[str, str]]]()
    for module in modules:
        alike = _shapes(module)
        if alike not in met:
            met[alike] = _norms_of_inputs(module, x)
        for path, reading in met[alike]:
            norm: Any = module.get_submodule(path)
            reader: Any = module.get_submodule(reading)
            before, own = _outputs(module, x, output), (norm.weight, norm.bias, reader.weight, reader.bias)
            reader.weight, reader.bias = map(nn.Parameter, _folded(*own))
            norm.weight = norm.bias = None
            after = _outputs(module, x, output)
            if before is not None and after is not None and same_outputs(after, before):
                norm.elementwise_affine = False
                setattr(norm, FOLDED, reading)
            else:
                norm.weight, norm.bias, reader.weight, reader.bias = own


def _folded(scale: Tensor, shift: Tensor | None, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Weight and bias of a linear layer with the scale and shift of what it reads in them."""
    with torch.no_grad():
        added = weight.new_zeros(len(weight)) if shift is None else weight @ shift
        return weight * scale, added if bias is None else bias + added


def _norms_of_inputs(module: nn.Module, x: Tensor) -> list[tuple[str, str]]:
    """Paths of layer norms, with scales, of what depends on no parameter, and of the linear layer that reads each."""
    parts = {part: path for path, part in module.named_modules()}
    norms = [part for part in parts if type(part) is nn.LayerNorm and part.weight is not None]
    if not norms:
        return []
    written, read = dict[nn.Module, Tensor](), list[tuple[nn.Module, nn.Module]]()

    def note(part: nn.Module, inputs: tuple[Any, ...], result: Tensor) -> None:
        if isinstance(part, nn.LayerNorm):
            if not inputs[0].requires_grad:
                written[part] = result
        else:
            read.extend((norm, part) for norm, value in written.items() if value is inputs[0])

    hooks = [part.register_forward_hook(note) for part in parts if part in norms or type(part) is nn.Linear]
    wanted = [(value, value.requires_grad) for value in module.parameters() if value.is_floating_point()]
    try:
        module.requires_grad_(True)
        with eval_mode(module), torch.enable_grad():
            called(module, x[:2])
    except Exception:  # an error of the user's, which tracing reports
        return []
    finally:
        for hook in hooks:
            hook.remove()
        for value, own in wanted:
            value.requires_grad_(own)
    return [(parts[norm], parts[part]) for norm, part in read if [other for other, _ in read].count(norm) == 1]


def _write_out_tables(modules: Sequence[nn.Module], x: Tensor, output: Pick) -> None:
    """Make buffers that are added to units parameters, one after the other, as a sum shows once those before it do."""
    met = dict[tuple[object, ...], list[str]]()
    for module in modules:
        if not _may_have_tables(module):
            continue
        alike = _shapes(module)
        if alike not in met:
            met[alike] = []
            with eval_mode(module), contextlib.suppress(ConsilienceError):  # which tracing reports
                while found := tables_in(module, x, output):
                    _to_parameters(module, found)
                    met[alike] += found
        _to_parameters(module, met[alike])


def _to_parameters(module: nn.Module, buffers: Sequence[str]) -> None:
    for name in buffers:
        path, _, attribute = name.rpartition(".")
        part = module.get_submodule(path)
        if attribute in part._buffers:
            value = part.get_buffer(attribute)
            delattr(part, attribute)
            part.register_parameter(attribute, nn.Parameter(value.clone(), requires_grad=False))
            setattr(part, TABLES, (*getattr(part, TABLES, ()), attribute))


def _may_have_tables(module: nn.Module) -> bool:
    """Whether a part that is not torch's has a buffer of several features, as wide as a weight of the module."""
    widths = {size for value in module.parameters() for size in value.shape}
    parts = (part for part in module.modules() if not type(part).__module__.startswith(("torch.", "consilience.")))
    buffers = (value for part in parts for value in part.buffers(recurse=False))
    return any(value.is_floating_point() and value.dim() > 1 and 1 < value.shape[-1] in widths for value in buffers)


def _shapes(module: nn.Module) -> tuple[object, ...]:
    """What modules have in common that are written out in the same way."""
    return (type(module), *((name, tuple(value.shape)) for name, value in module.named_parameters()))


def _write_out_numbers(modules: Sequence[nn.Module], x: Tensor, output: Pick) -> None:
    """Give modules one number for each unit, or row of a head, where one for all cannot be folded into a weight.

    A module that then returns something else, as its forward pass depends on their shape, stays as it is.
    """
    met = dict[tuple[object, ...], dict[str, tuple[int, ...]]]()
    for module in modules:
        if not _may_have_numbers(module):
            continue
        alike = _shapes(module)
        if alike not in met:
            met[alike] = {}
            with eval_mode(module), contextlib.suppress(ConsilienceError):  # which tracing reports
                met[alike] = numbers_in(module, x, output)
        if not met[alike]:
            continue
        own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        before, classes = _outputs(module, x, output), {part: type(part) for part in module.modules()}
        _set(module, {name: own[name].detach().expand(shape).clone() for name, shape in met[alike].items()})
        after = _outputs(module, x, output)
        if before is not None and after is not None and same_outputs(after, before):
            setattr(module, NUMBERS, tuple(met[alike]))
        else:
            for part, kind in classes.items():
                part.__class__ = kind
            _set(module, {name: own[name].detach() for name in met[alike]})


class LayerNormOfHeads(nn.LayerNorm):
    """Layer norm of the features of each head, with scales (and shifts) of its own for each head."""

    def forward(self, x: Tensor) -> Tensor:
        """Map values with features last to the same shape."""
        scaled = functional.layer_norm(x, x.shape[-1:], None, None, self.eps) * self.weight
        return scaled if self.bias is None else scaled + self.bias


class RMSNormOfHeads(nn.RMSNorm):
    """RMS norm of the features of each head, with scales of its own for each head."""

    def forward(self, x: Tensor) -> Tensor:
        """Map values with features last to the same shape."""
        return functional.rms_norm(x, x.shape[-1:], None, self.eps) * self.weight


def _set(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Give a module other parameters and buffers, and its parts of torch's own classes the sizes of these."""
    for name, value in values.items():
        path, _, attribute = name.rpartition(".")
        part: Any = module.get_submodule(path)
        own = getattr(part, attribute)
        learned = isinstance(own, nn.Parameter)
        setattr(part, attribute, nn.Parameter(value, requires_grad=own.requires_grad) if learned else value)
        if value.dim() > 1 and isinstance(part, nn.LayerNorm | nn.RMSNorm):
            part.__class__ = LayerNormOfHeads if isinstance(part, nn.LayerNorm) else RMSNormOfHeads
        for kind, sizes in SIZE_ATTRIBUTES.items():
            for size, of in sizes.items() if isinstance(part, kind) else ():
                setattr(part, size, of(part))


def _outputs(module: nn.Module, x: Tensor, output: Pick) -> Tensor | None:
    with eval_mode(module), torch.no_grad(), contextlib.suppress(ConsilienceError):
        return outputs_of(module, x[:4], type(module).__name__, output=output)
    return None


def _may_have_numbers(module: nn.Module) -> bool:
    """Whether a module has a parameter of one number, a layer of one unit, or a norm of each head."""
    if type(module).__module__.startswith("consilience.nets."):
        return False
    layers = (part.weight for part in module.modules() if isinstance(part, nn.Linear | nn.modules.conv._ConvNd))
    one = any(math.prod(value.shape) == 1 for value in module.parameters()) or any(len(w) == 1 for w in layers)
    return one or _has_norms_of_heads(module)


def _has_norms_of_heads(module: nn.Module) -> bool:
    """Whether a part may have one scale for each row of a head: fewer than the rows that a weight beside it writes."""
    for part in module.modules():
        shapes = [child.weight.shape for child in part.children() if isinstance(child, nn.Linear)]
        for norm in part.children():
            of_torch = isinstance(norm, nn.LayerNorm | nn.RMSNorm)
            if type(norm).__module__.startswith("torch.") and not of_torch:
                continue
            sizes = {value.numel() for value in norm.parameters(recurse=False) if value.dim() == 1}
            for (rows, read), size in itertools.product(shapes, sizes):
                if rows > size and rows % size == 0 and not (of_torch and read == size):  # a norm of the stream
                    return True
    return False


def _scale(norm: nn.Module, units: int) -> None:
    """Give a norm without scales those that change nothing."""
    norm.register_parameter("weight", nn.Parameter(torch.ones(units)))
    if "bias" in norm._parameters:
        norm.register_parameter("bias", nn.Parameter(torch.zeros(units)))
    setattr(norm, "affine" if hasattr(norm, "affine") else "elementwise_affine", True)
    setattr(norm, UNSCALED, True)


def _units_of(norm: Any) -> int:
    """Units of a norm; 0 where it has none of its own, as a batch norm of the batch's statistics."""
    if isinstance(norm, nn.LayerNorm | nn.RMSNorm):
        return norm.normalized_shape[0] if len(norm.normalized_shape) == 1 else 0
    if isinstance(norm, nn.GroupNorm):
        return norm.num_channels
    return 0 if norm.running_mean is None else int(norm.num_features)


def _is_grouped(part: nn.modules.conv._ConvNd) -> bool:
    transposed = isinstance(part, nn.modules.conv._ConvTransposeNd)
    return not transposed and part.groups > 1 and not part.groups == part.in_channels == part.out_channels


def _of_all_channels(weight: Tensor, groups: int) -> Tensor:
    """The weight (o, i, ...) of one in groups (o, i / groups, ...), zero between them."""
    parts, (o, i) = weight.chunk(groups), (weight.shape[0] // groups, weight.shape[1])
    whole = weight.new_zeros(weight.shape[0], i * groups, *weight.shape[2:])
    for g, part in enumerate(parts):
        whole[g * o : (g + 1) * o, g * i : (g + 1) * i] = part
    return whole


def _channels(module: nn.Module, parts: Sequence[nn.Module], x: Tensor) -> Iterator[tuple[Any, int]]:
    """Parts that get values of one number of channels, and that number."""
    sizes: dict[nn.Module, set[int]] = {part: set() for part in parts}

    def note(part: nn.Module, inputs: tuple[Any, ...]) -> None:
        sizes[part].add(inputs[0].shape[1] if inputs[0].dim() > 1 else 1)

    hooks = [part.register_forward_pre_hook(note) for part in parts]
    try:
        with eval_mode(module):
            called(module, x[:2])
    except Exception:  # an error of the user's, which tracing reports
        return
    finally:
        for hook in hooks:
            hook.remove()
    yield from ((part, size.pop()) for part, size in sizes.items() if len(size) == 1)
