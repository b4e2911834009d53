"""Linear layers, convolutions and norms: a weight writes new units, as a map of those that it reads.

A batch norm is folded into the map that it follows where it can be; any other norm writes units paired with those that
it reads.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, fx
from torch.nn import functional
from torch.ops import aten

from consilience.units.drafts import Draft, Label, Run
from consilience.units.maps import Kernel, Norm
from consilience.units.operations.embedding import promote
from consilience.units.operations.factors import spread
from consilience.units.operations.sections import MOST, cut_units
from consilience.units.operations.shapes import are_then_heads
from consilience.units.trace import BATCH_NORMS
from consilience.units.walk import PARAMETER, UNSUPPORTED, Walk, layer_name, n_dims, size

SPATIAL_DIMS = {
    getattr(getattr(aten, f"conv{dims}d"), form): dims for dims in (1, 2, 3) for form in ("default", "padding")
}

MIXING = {aten.linear.default, *SPATIAL_DIMS}
TRANSPOSED: dict[object, int] = {
    aten.conv_transpose1d.default: 1,
    aten.conv_transpose2d.input: 2,
    aten.conv_transpose3d.input: 3,
}


def linear(walk: Walk, node: fx.Node) -> Label:
    """``linear(value, weight, bias)``; units along other dimensions pass through, each with the same weight."""
    value, weight, bias = walk.arguments(node, 3)
    last = n_dims(value) - 1
    draft = mix_units(walk, node, (value, last), last, weight, bias)
    others = {dim: runs for dim, runs in walk.label(value).items() if dim != last}
    if others:
        walk.crossing.append(draft.name)
        if bias is not None:
            walk.record(others, "shift")
    return {**others, last: draft.along}


def convolution(walk: Walk, node: fx.Node) -> Label:
    """``conv(value, weight, bias, stride, padding, dilation, groups)`` in one group, or one for each channel."""
    target: Any = node.target
    dims = SPATIAL_DIMS[target]
    value, weight, bias, stride, padding, dilation, groups = walk.arguments(node, 7)
    walk.check_fixed(node, value, range(2, 2 + dims))
    shape = tuple(weight.meta["val"].shape[2:])
    stride, dilation = _by_dimension(stride, dims, 1), _by_dimension(dilation, dims, 1)
    kernel = Kernel(shape, stride, _zeros_around(padding, shape, dilation), dilation)
    if value in walk.scaled and any(zeros != (0, 0) for zeros in kernel.padding):
        cure = "pad the inputs before the norm, or scale them before the network"
        raise walk.error("a batch norm of inputs that a convolution then pads", node, cure)
    if groups in (None, 1):
        draft = mix_units(walk, node, (value, 1), 1, weight, bias)
        draft.kernel = draft.kernel or kernel
        return {1: draft.along}
    if groups == size(value, 1) == size(weight, 0) and _is_one_kernel(walk, weight, bias):
        walk.functions[node.name] = functools.partial(_depthwise_alike, target)
        return walk.pass_through(node, "avg_pool")
    if not groups == size(value, 1) == size(weight, 0):
        raise walk.error(f"a convolution in {groups} groups", node, "use groups=1, or one group for each channel")
    label = scale_units(walk, node, (value, 1), weight, bias, kernel=kernel)
    walk.functions[node.name] = functools.partial(_depthwise, target)
    return label


def transposed_convolution(walk: Walk, node: fx.Node) -> Label:
    """``conv_transpose(value, weight, bias, stride, padding, output_padding, groups, dilation)`` in one group.

    It is a convolution of the value with zeros between its entries, by the weight with its entries reversed.
    """
    dims = TRANSPOSED[node.target]
    value, weight, bias, stride, padding, more, groups, dilation = walk.arguments(node, 8)
    walk.check_fixed(node, value, range(2, 2 + dims))
    if groups not in (None, 1):
        raise walk.error(f"a transposed convolution in {groups} groups", node, "use groups=1")
    shape = tuple(weight.meta["val"].shape[2:])
    spread, steps = _by_dimension(stride, dims, 1), _by_dimension(dilation, dims, 1)
    cut, added = _by_dimension(padding, dims, 0), _by_dimension(more, dims, 0)
    reach = [(size - 1) * step for size, step in zip(shape, steps, strict=True)]
    zeros = tuple((r - c, r - c + a) for r, c, a in zip(reach, cut, added, strict=True))
    draft = mix_units(walk, node, (value, 1), 1, weight, bias, dim=1)
    draft.kernel = draft.kernel or Kernel(shape, (1,) * dims, zeros, steps, spread)
    return {1: draft.along}


def batch_norm(walk: Walk, node: fx.Node) -> Label:
    """``batch_norm(value, weight, bias, mean, variance, ...)`` over dimension 1, with running statistics."""
    training, eps = BATCH_NORMS[node.target]
    value, weight, *rest = arguments = walk.arguments(node, 9)
    if training is not None and arguments[training]:
        raise walk.error("a batch norm that uses the batch's statistics", node, "keep running statistics")
    tensors = [weight, *rest[:3]]
    names = [walk.program.parameters.get(v.name, "") if isinstance(v, fx.Node) else "" for v in tensors]
    if not all(names):
        raise walk.error("a batch norm without weight, bias or statistics of its own", node, "use affine=True")
    if value not in walk.labels:
        norm = Norm(names[0], names[1], names[2], names[3], float(arguments[eps]))
        walk.scaled[node] = value, norm
        if [user.target in MIXING and user.args[0] is node for user in node.users] != [True]:
            cure = "scale the inputs before the network, or let one linear layer or convolution read it"
            raise walk.error("a batch norm of inputs that not one weight reads", node, cure)
        return {}
    if 1 not in walk.labels[value]:
        raise walk.error("a batch norm over positions", node, "put the units second: (n, u, ...)")
    norm = Norm(names[0], names[1], names[2], names[3], float(arguments[eps]))
    source = walk.sources.get(value)
    if source is not None and source.weight == norm.weight:
        raise walk.error("a batch norm is used twice in a row", node, "give each use its own module")
    apart = source is None or not source.fitted or bool(source.factors) or source.norm not in (None, norm)
    if source is None or apart or len(value.users) > 1:
        return scale_units(walk, node, (value, 1), weight, None, norm=norm)
    if source.norm is None:
        walk.check_unused(node, norm.weight)
    source.norm = norm
    walk.folded.add(value)
    if source.output[0] == value.name:
        source.output = (node.name, source.output[1])
    return walk.labels[value]


def layer_norm(walk: Walk, node: fx.Node) -> Label:
    """``layer_norm(value, shape, weight, bias, eps)`` over units, or over positions, as of rows of heads."""
    value, shape, weight, bias, _ = walk.arguments(node, 5)
    last, label = n_dims(value) - 1, walk.record(walk.label(value), "layer_norm")
    if last not in label:
        own = [parameter for parameter in (weight, bias) if isinstance(parameter, fx.Node)]
        if own and not all(spread(walk, node, value, parameter) for parameter in own):
            cure = "let a linear layer or an embedding write the features: the inputs' own have no units"
            raise walk.error(PARAMETER, node, cure)
        return label
    if len(shape) != 1:
        raise walk.error(UNSUPPORTED, node, "normalize over units only")
    walk.functions[node.name] = _normalize_last
    walk.mix_statistics(node, label[last])
    if weight is None:
        return label
    if are_then_heads(walk, node):
        return _rows_of_heads(walk, node, label, weight, bias)
    return scale_units(walk, node, (value, last), weight, bias, fitted=False)


def rms_norm(walk: Walk, node: fx.Node) -> Label:
    """``rms_norm(value, shape, weight, eps)`` over units, or over positions, as of rows of heads."""
    value, shape, weight, _ = walk.arguments(node, 4)
    last = n_dims(value) - 1
    if last not in walk.label(value) and (weight is None or spread(walk, node, value, weight)):
        return walk.record(walk.label(value), "rms_norm")
    if last not in walk.label(value) or len(shape) != 1:
        raise walk.error(UNSUPPORTED, node, "normalize over units only")
    label = walk.record(walk.label(value), "rms_norm")
    walk.functions[node.name] = _rms_last
    walk.mix_statistics(node, label[last])
    if weight is None:
        return label
    if are_then_heads(walk, node):
        return _rows_of_heads(walk, node, label, weight, None)
    return scale_units(walk, node, (value, last), weight, None, fitted=False)


def _rows_of_heads(walk: Walk, node: fx.Node, label: Label, weight: fx.Node, bias: fx.Node | None) -> Label:
    """The label of rows of heads that parameters scale and shift, which write units themselves, paired with these."""
    for parameter in (weight, bias):
        if parameter is not None:
            promote(walk, parameter, 0)
            walk.check_alike(node, label[n_dims(node) - 1], walk.label(parameter)[0])
            walk.multiply(label[n_dims(node) - 1], walk.label(parameter)[0])
    return label


def group_norm(walk: Walk, node: fx.Node) -> Label:
    """``group_norm(value, groups, weight, bias, eps, ...)`` over units of each group, and over positions.

    Units of two groups cannot change places: each group is a layer, and they are tied.
    """
    value, groups, weight, bias = walk.arguments(node, 4)
    if 1 not in walk.label(value):
        raise walk.error("a group norm over positions", node, "put the units second: (n, u, ...)")
    parts = [walk.label(value)[1]]
    if groups > MOST:
        cure = f"use at most {MOST} groups, instance norm or batch norm: units of two groups cannot change places"
        raise walk.error(f"a group norm in {groups} groups", node, cure)
    if groups > 1:
        each = size(value, 1) // groups
        parts = cut_units(walk, node, value, 1, range(0, size(value, 1) + 1, each))
    label = walk.record(walk.label(value), "layer_norm")
    walk.mix_statistics(node, *parts)
    return label if weight is None else scale_units(walk, node, (value, 1), weight, bias, fitted=False)


def instance_norm(walk: Walk, node: fx.Node) -> Label:
    """``instance_norm(value, weight, bias, mean, variance, ...)`` of each channel by itself."""
    value, weight, bias, mean, _ = walk.arguments(node, 5)
    if mean is not None:
        raise walk.error("an instance norm with running statistics", node, "use track_running_stats=False")
    label = walk.record(walk.label(value), "instance_norm")
    return label if weight is None else scale_units(walk, node, (value, 1), weight, bias, fitted=False)


def prelu(walk: Walk, node: fx.Node) -> Label:
    """``prelu(value, slopes)`` with a slope for each channel."""
    value, slopes = walk.arguments(node, 2)
    if slopes.meta["val"].shape[0] == 1:
        cure = "give each unit a slope of its own, nn.PReLU(units), or use nn.LeakyReLU"
        raise walk.error("one slope for all units, which each member has another of", node, cure)
    walk.record(walk.label(value), "prelu")
    return walk.record(scale_units(walk, node, (value, 1), slopes, None, fitted=False), "prelu")


HANDLERS: dict[object, Callable[[Walk, fx.Node], Label]] = {
    aten.linear.default: linear,
    aten.rms_norm.default: rms_norm,
    aten.group_norm.default: group_norm,
    aten.instance_norm.default: instance_norm,
    aten.prelu.default: prelu,
    aten.layer_norm.default: layer_norm,
    **dict.fromkeys(SPATIAL_DIMS, convolution),
    **dict.fromkeys(TRANSPOSED, transposed_convolution),
    **dict.fromkeys(BATCH_NORMS, batch_norm),
}


def mix_units(
    walk: Walk,
    node: fx.Node,
    read: tuple[fx.Node, int],
    written: int,
    weight: fx.Node,
    bias: fx.Node | None,
    *,
    dim: int = 0,
) -> Draft:
    """Return the map of a weight that reads dimension ``read`` of a value and writes one of the result.

    The weight is (u, i, ...), or (i, u) where ``dim`` is 1.
    """
    value, last = read
    name, bias_name = _parameter_names(walk, node, weight, bias)
    if value.name in walk.program.parameters and value not in walk.labels:
        raise walk.error(PARAMETER, node)
    runs = walk.label(value).get(last) or (Run(None, size(value, last)),)
    for draft in walk.drafts:
        if draft.weight == name and not draft.per_unit and draft.bias == bias_name:  # the module is used again
            walk.check_alike(node, draft.inputs, runs)
            walk.join(draft.inputs, runs)
            if ".weight_hh_l" in f".{name}":  # the first step of a recurrence reads zeros; a later one tells more
                for own in walk.drafts:
                    if own.weight == name:
                        own.input, own.output = (value.name, last), (node.name, written)
            walk.sources[node] = draft
            return draft
    walk.check_unused(node, name, bias_name)
    group = walk.new_group(layer_name(walk, name), size(weight, dim))
    source, scaled = walk.scaled.get(value, (value, None))
    places = (source.name, last), (node.name, written)
    draft = Draft(walk.groups[group].name, name, bias_name, runs, *places, group, dim=dim, scaled=scaled)
    walk.drafts.append(draft)
    walk.sources[node] = draft
    return draft


def scale_units(
    walk: Walk,
    node: fx.Node,
    read: tuple[fx.Node, int],
    weight: fx.Node,
    bias: fx.Node | None,
    *,
    kernel: Kernel | None = None,
    norm: Norm | None = None,
    fitted: bool = True,
    shift: float = 0.0,
    weight_dim: int = 0,
) -> Label:
    """Return the label after a weight that acts on each unit along dimension ``read`` by itself.

    It writes new units along the same dimension, tied to those that it reads.
    """
    value, dim = read
    name, bias_name = _parameter_names(walk, node, weight, bias)
    runs = walk.label(value).get(dim)
    if runs is None or any(run.group is None or run.block != 1 for run in runs):
        raise walk.error("a weight of its own for each input feature", node)
    again = [draft for draft in walk.drafts if draft.per_unit and draft.weight == name and draft.bias == bias_name]
    if again and len(again) == len(runs):  # the module is used again
        earlier = [draft.inputs[draft.place] for draft in again]
        walk.check_alike(node, earlier, runs)
        walk.join(earlier, runs)
        return walk.label(value) | {dim: again[0].along}
    walk.check_unused(node, name, bias_name)
    places, new = ((value.name, dim), (node.name, dim)), list[Run]()
    layer = layer_name(walk, name)
    for i, run in enumerate(runs):
        assert run.group is not None
        source = walk.groups[walk.root(run.group)]
        group = walk.new_group(layer if i == 0 else walk.unique(f"{layer}[{source.name}]"), source.width)
        walk.tied.append((group, run.group))
        new.append(run._replace(group=group))
    for run in new:
        assert run.group is not None
        own = walk.groups[run.group].name
        draft = Draft(own, name, bias_name, runs, *places, run.group, tuple(new), kernel, norm, per_unit=True)
        draft.fitted, draft.dim, draft.shift = fitted, weight_dim, shift
        walk.drafts.append(draft)
    if len(runs) == 1:
        walk.sources[node] = walk.drafts[-1]
    return walk.label(value) | {dim: tuple(new)}


def _parameter_names(walk: Walk, node: fx.Node, weight: object, bias: object) -> tuple[str, str | None]:
    names = [walk.program.parameters.get(v.name) if isinstance(v, fx.Node) else None for v in (weight, bias)]
    if names[0] is None or (bias is not None and names[1] is None):
        raise walk.error("a weight is computed, not a parameter", node)
    return names[0], names[1]


def _is_one_kernel(walk: Walk, weight: fx.Node, bias: fx.Node | None) -> bool:
    """Whether a depthwise convolution has one kernel for all channels, the same in all members, and no bias."""
    if bias is not None or weight in walk.labels or walk.varies(weight):
        return False
    needed = walk.program.needed([weight.name])
    constants = {name: value for name, value in walk.program.constants.items() if name in needed}
    if not constants or needed & {*walk.program.parameters}:
        return False
    kernels = walk.program.run({}, next(iter(constants.values())), [weight.name])[weight.name]
    return bool((kernels == kernels[:1]).all())


def _depthwise_alike(convolve: Callable[..., Tensor], value: Tensor, weight: Tensor, *options: Any) -> Tensor:
    """Convolve each of any number of channels with one kernel; the options end with the number of groups."""
    return convolve(value, weight[:1].expand(value.shape[1], *weight.shape[1:]), *options[:-1], value.shape[1])


def _depthwise(convolve: Callable[..., Tensor], value: Tensor, weight: Tensor, *options: Any) -> Tensor:
    """Convolve each channel with its own kernel, whatever number of groups the options end with."""
    return convolve(value, weight, *options[:-1], len(weight))


def _by_dimension(value: Any, n_dims: int, default: int) -> tuple[int, ...]:
    if value is None:
        return (default,) * n_dims
    given = [value] if isinstance(value, int) else list(value)
    return tuple(given * n_dims if len(given) == 1 else given)


def _zeros_around(padding: Any, shape: Sequence[int], dilation: Sequence[int]) -> tuple[tuple[int, int], ...]:
    if padding == "same":
        totals = [d * (k - 1) for k, d in zip(shape, dilation, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    return tuple((p, p) for p in _by_dimension(0 if padding == "valid" else padding, len(shape), 0))


def _rms_last(value: Tensor, shape: object, *options: Any) -> Tensor:
    """RMS norm over the last dimension, of whatever size; the options are weight and ε."""
    return functional.rms_norm(value, value.shape[-1:], *options)


def _normalize_last(value: Tensor, shape: object, *options: Any) -> Tensor:
    """Layer norm over the last dimension, of whatever size; the options are weight, bias, ε and a flag."""
    return functional.layer_norm(value, value.shape[-1:], *options[:3])
