"""What the traced operations do to units. What is in none of these tables is refused by name.

Operations that write sizes out (``view``, ``layer_norm``, depthwise convolutions) are replaced by forms that hold at
any widths.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

aten = torch.ops.aten

# Elementwise operations and what the symmetry table calls them; those that it does not know have no symmetry.
ELEMENTWISE: dict[object, str] = {
    aten.relu.default: "relu",
    aten.leaky_relu.default: "leaky_relu",
    aten.tanh.default: "tanh",
    aten.erf.default: "erf",
    aten.sigmoid.default: "sigmoid",
    aten.softplus.default: "softplus",
    aten.gelu.default: "gelu",
    aten.silu.default: "silu",
    aten.elu.default: "elu",
    aten.selu.default: "selu",
    aten.celu.default: "celu",
    aten.mish.default: "mish",
    aten.hardtanh.default: "hardtanh",
    aten.hardsigmoid.default: "hardsigmoid",
    aten.hardswish.default: "hardswish",
    aten.relu6.default: "relu6",
    aten.log_sigmoid.default: "log_sigmoid",
    aten.sin.default: "sin",
    aten.cos.default: "cos",
    aten.exp.default: "exp",
    aten.abs.default: "abs",
    aten.sqrt.default: "sqrt",
    aten.square.default: "square",
    aten.clamp.default: "clamp",
    aten.clamp_min.default: "clamp_min",
    aten.neg.default: "scale",
    aten.rsub.Scalar: "shift",
    aten.pow.Tensor_Scalar: "pow",
}

# Operations that leave every value where it is (dropout: in eval mode).
PASSING = {
    aten.dropout.default,
    aten.feature_dropout.default,
    aten.alpha_dropout.default,
    aten.feature_alpha_dropout.default,
    aten.clone.default,
    aten.detach.default,
    aten.alias.default,
    aten.contiguous.default,
    aten.lift_fresh_copy.default,
    aten.detach_.default,
}

CONVOLUTIONS = {
    aten.conv1d.default: 1,
    aten.conv2d.default: 2,
    aten.conv3d.default: 3,
    aten.conv1d.padding: 1,
    aten.conv2d.padding: 2,
    aten.conv3d.padding: 3,
}

# Over the last so many dimensions, position by position and channel by channel, with the name that they have as an
# activation: averages and interpolations are linear, maxima commute with positive factors only.
SPATIAL: dict[object, tuple[int, str]] = {
    aten.max_pool1d.default: (1, "max_pool"),
    aten.max_pool2d.default: (2, "max_pool"),
    aten.max_pool3d.default: (3, "max_pool"),
    aten.max_pool2d_with_indices.default: (2, "max_pool"),
    aten.adaptive_max_pool1d.default: (1, "max_pool"),
    aten.adaptive_max_pool2d.default: (2, "max_pool"),
    aten.adaptive_max_pool3d.default: (3, "max_pool"),
    aten.avg_pool1d.default: (1, "avg_pool"),
    aten.avg_pool2d.default: (2, "avg_pool"),
    aten.avg_pool3d.default: (3, "avg_pool"),
    aten.adaptive_avg_pool1d.default: (1, "avg_pool"),
    aten.adaptive_avg_pool2d.default: (2, "avg_pool"),
    aten.adaptive_avg_pool3d.default: (3, "avg_pool"),
    aten.upsample_nearest1d.vec: (1, "upsample"),
    aten.upsample_nearest2d.vec: (2, "upsample"),
    aten.upsample_nearest3d.vec: (3, "upsample"),
    aten.upsample_linear1d.vec: (1, "upsample"),
    aten.upsample_bilinear2d.vec: (2, "upsample"),
    aten.upsample_trilinear3d.vec: (3, "upsample"),
}

# Over dimensions that are named.
REDUCTIONS: dict[object, str] = {
    aten.mean.dim: "avg_pool",
    aten.sum.dim_IntList: "avg_pool",
    aten.amax.default: "max_pool",
}

RESHAPING = {
    aten.flatten.using_ints,
    aten.view.default,
    aten.reshape.default,
    aten._unsafe_view.default,
    aten.unflatten.int,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.unsqueeze.default,
}
SIZED = {aten.view.default, aten.reshape.default, aten._unsafe_view.default}
SUMS = {aten.add.Tensor, aten.sub.Tensor}
BATCH_NORMS = {
    aten.batch_norm.default: (5, 7),  # where its arguments say: training (or None), and ε
    aten._native_batch_norm_legit_no_training.default: (None, 6),
}
# Operations whose result is a tensor of its own, never a view of what they get.
MAKES_NEW = {
    aten.linear.default, aten.cat.default, aten.mul.Tensor, aten.div.Tensor, *SUMS, *CONVOLUTIONS, *ELEMENTWISE,
    *SPATIAL, *REDUCTIONS, aten.batch_norm.default,
}  # fmt: skip


def reshape(value: Tensor, sizes: Sequence[int], units: Mapping[int, tuple[Sequence[int], int]]) -> Tensor:
    """Reshape; sizes of dimensions with units are those of the dimensions they come from, by a fixed divisor."""
    wanted = list(sizes)
    for dim, (sources, divisor) in units.items():
        wanted[dim] = math.prod(value.shape[source] for source in sources) // divisor
    return value.reshape(wanted)


def expand(value: Tensor, sizes: Sequence[int], units: Sequence[int]) -> Tensor:
    """Expand; dimensions with units stay as they are."""
    return value.expand([-1 if dim in units else size for dim, size in enumerate(sizes)])


def depthwise(
    convolution: Callable[..., Tensor],
    value: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int] | str,
    dilation: Sequence[int],
) -> Tensor:
    """Convolve each channel with a kernel of its own, however many there are."""
    return convolution(value, weight, bias, stride, padding, dilation, weight.shape[0])


def layer_norm(value: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Normalise over the last dimension, of whatever size."""
    return functional.layer_norm(value, value.shape[-1:], weight, bias, eps)
