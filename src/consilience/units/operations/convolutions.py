"""Convolutions: new units along dimension 1, from all channels or each from one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, fx
from torch.ops import aten

from consilience.units.groups import Label, Run
from consilience.units.maps import Kernel
from consilience.units.operations.weights import mix_units, scale_units
from consilience.units.walk import Walk, size

SPATIAL_DIMS = {
    aten.conv1d.default: 1,
    aten.conv2d.default: 2,
    aten.conv3d.default: 3,
    aten.conv1d.padding: 1,
    aten.conv2d.padding: 2,
    aten.conv3d.padding: 3,
}


def convolution(walk: Walk, node: fx.Node) -> Label:
    """``conv(value, weight, bias, stride, padding, dilation, groups)`` in one group, or one for each channel."""
    target: Any = node.target
    dims = SPATIAL_DIMS[target]
    value, weight, bias, stride, padding, dilation, groups = walk.arguments(node, 7)
    walk.check_fixed(node, value, range(2, 2 + dims))
    shape = tuple(weight.meta["val"].shape[2:])
    stride, dilation = by_dimension(stride, dims, 1), by_dimension(dilation, dims, 1)
    kernel = Kernel(shape, stride, zeros_around(padding, shape, dilation), dilation)
    if groups in (None, 1):
        draft = mix_units(walk, node, (value, 1), 1, weight, bias)
        draft.kernel = draft.kernel or kernel
        return {1: (Run(draft.group, 1),)}
    if not groups == size(value, 1) == size(weight, 0):
        raise walk.error(f"a convolution in {groups} groups", node, "use groups=1, or one group for each channel")
    label = scale_units(walk, node, (value, 1), weight, bias, kernel=kernel)
    walk.functions[node.name] = functools.partial(depthwise, target)
    return label


HANDLERS = dict.fromkeys(SPATIAL_DIMS, convolution)


def depthwise(convolve: Callable[..., Tensor], value: Tensor, weight: Tensor, *options: Any) -> Tensor:
    """Convolve each channel with its own kernel, whatever number of groups the options end with."""
    return convolve(value, weight, *options[:-1], len(weight))


def by_dimension(value: Any, n_dims: int, default: int) -> tuple[int, ...]:
    """Return a number for each spatial dimension, from one for all, one each, or none."""
    if value is None:
        return (default,) * n_dims
    given = [value] if isinstance(value, int) else list(value)
    return tuple(given * n_dims if len(given) == 1 else given)


def zeros_around(padding: Any, shape: Sequence[int], dilation: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Return the zeros that a convolution pads with before and after, by spatial dimension of its kernel."""
    if padding == "same":
        totals = [d * (k - 1) for k, d in zip(shape, dilation, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    given = by_dimension(0 if padding == "valid" else padding, len(shape), 0)
    return tuple((p, p) for p in given)
