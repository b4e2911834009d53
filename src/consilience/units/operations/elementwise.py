"""Operations number by number: activations by name, and those that leave every value as it is."""

from __future__ import annotations

import operator
from collections.abc import Callable

from torch import fx
from torch.ops import aten

from consilience.units.groups import Label
from consilience.units.walk import UNSUPPORTED, Walk

# What the symmetry table calls them; those that it does not have no symmetry.
ACTIVATIONS: dict[object, str] = {
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
IDENTITIES = (
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
)


def activation(name: str) -> Callable[[Walk, fx.Node], Label]:
    """Return the handler of an elementwise function of one value, whose other arguments are numbers.

    Units pass through ``name``, with the arguments where they are not the defaults: ``relu``, ``leaky_relu(0.2)``.
    """

    def handle(walk: Walk, node: fx.Node) -> Label:
        arguments = [str(a) for a in node.args[1:]] + [f"{key}={value}" for key, value in node.kwargs.items()]
        label = walk.pass_through(node, name + (f"({', '.join(arguments)})" if arguments else ""))
        walk.elementwise.add(node.name)
        return label

    return handle


def identity(walk: Walk, node: fx.Node) -> Label:
    """An operation that leaves every value where it is, as dropout does in eval mode."""
    label = walk.labels[walk.only_value(node)]
    walk.elementwise.add(node.name)
    return label


def first_of_several(walk: Walk, node: fx.Node) -> Label:
    """``values[0]`` of an operation that returns several values."""
    value = walk.only_value(node)
    if node.args[1] != 0:
        raise walk.error(UNSUPPORTED, node)
    for draft in walk.drafts:
        if draft.output[0] == value.name:
            draft.output = (node.name, draft.output[1])
    return walk.labels[value]


HANDLERS = {
    **{target: activation(name) for target, name in ACTIVATIONS.items()},
    **dict.fromkeys(IDENTITIES, identity),
    operator.getitem: first_of_several,
}
