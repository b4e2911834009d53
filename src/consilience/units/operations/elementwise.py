"""Operations number by number: activations by name, and those that leave every value as it is."""

from __future__ import annotations

import operator
from collections.abc import Callable

import torch
from torch import fx
from torch.ops import aten

from consilience.units.drafts import Label
from consilience.units.operations import piles
from consilience.units.operations.embedding import only_value, promote_row
from consilience.units.trace import DROPOUTS
from consilience.units.walk import UNSUPPORTED, Walk

# What the symmetry table calls them; those that it does not have no symmetry.
NAMES = (
    *("relu", "leaky_relu", "tanh", "erf", "sigmoid", "softplus", "gelu", "silu", "elu", "selu", "celu", "mish"),
    *("hardtanh", "hardsigmoid", "hardswish", "relu6", "log_sigmoid", "sin", "cos", "exp", "abs", "sqrt", "square"),
    *("clamp", "clamp_min", "rsqrt", "reciprocal"),
)
IDENTITIES = (*DROPOUTS, "clone", "detach", "detach_", "alias", "contiguous", "lift_fresh_copy")
GAINS, GAIN_SHIFTS = (aten.mul.Tensor,), (aten.add.Tensor,)  # what a norm's weight may meet
CASTS = (aten.to.dtype, aten.to.dtype_layout, aten.to.other, aten._to_copy.default, aten.type_as.default)


def activation(name: str) -> Callable[[Walk, fx.Node], Label]:
    """Return the handler of an elementwise function of one value, whose other arguments are numbers.

    Units pass through ``name``, with the arguments where they are not the defaults: ``relu``, ``leaky_relu(0.2)``.
    """

    def handle(walk: Walk, node: fx.Node) -> Label:
        arguments = [str(a) for a in node.args[1:]] + [f"{key}={value}" for key, value in node.kwargs.items()]
        if walk.is_parameter(node.args[0]):
            promote_row(walk, node.args[0])
        label = walk.pass_through(node, name + (f"({', '.join(arguments)})" if arguments else ""))
        walk.elementwise.add(node.name)
        return label

    return handle


def identity(walk: Walk, node: fx.Node) -> Label:
    """An operation that leaves every value where it is, as dropout does in eval mode."""
    value = only_value(walk, node, piled=node.target in piles.COPIES)
    if value in walk.piled:
        walk.piled[node] = walk.piled[value]
    walk.elementwise.add(node.name)
    return walk.labels[value]


def cast(walk: Walk, node: fx.Node) -> Label:
    """A conversion between float32 and float64, which the traced program leaves out: it computes in one precision."""
    if node.meta["val"].dtype not in (torch.float32, torch.float64):
        message, cure = (
            f"the forward pass converts units to {node.meta['val'].dtype}",
            "convert to float32, or not at all",
        )
        raise walk.error(message, node, cure)
    value = node.args[0]
    if walk.is_parameter(value) and all(user.target in (*GAINS, *GAIN_SHIFTS) for user in node.users):
        walk.shifted[node] = walk.shifted.get(value, (value, 0.0))
        return {}
    same_type = node.target is aten.type_as.default and isinstance(value, fx.Node) and value in walk.labels
    label = walk.labels[value if same_type else only_value(walk, node)]  # type: ignore[index]
    walk.functions[node.name] = lambda value, *_, **__: value
    walk.elementwise.add(node.name)
    return label


def first_of_several(walk: Walk, node: fx.Node) -> Label:
    """``values[i]`` of an operation that returns several values: parts of one, or the first of unlike ones."""
    value = walk.only_value(node)
    if value in walk.parts:
        return walk.parts[value][int(str(node.args[1]))]
    if node.args[1] != 0:
        raise walk.error(UNSUPPORTED, node)
    for draft in walk.drafts:
        if draft.output[0] == value.name:
            draft.output = (node.name, draft.output[1])
    return walk.labels[value]


HANDLERS = {
    **{getattr(aten, name).default: activation(name) for name in NAMES},
    aten.neg.default: activation("scale"),
    aten.rsub.Scalar: activation("shift"),
    aten.pow.Tensor_Scalar: activation("pow"),
    **{getattr(aten, name).default: identity for name in IDENTITIES},
    **dict.fromkeys(CASTS, cast),
    operator.getitem: first_of_several,
}
