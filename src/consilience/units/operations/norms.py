"""Batch and layer norms: folded into the map that they follow, or new units paired with those that they read."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx
from torch.nn import functional
from torch.ops import aten

from consilience.units.maps import Norm
from consilience.units.operations.weights import scale_units
from consilience.units.trace import BATCH_NORMS
from consilience.units.walk import PARAMETER, UNSUPPORTED, Label, Walk, n_dims


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
        cure = "scale the inputs before the network, or fold it into what follows"
        raise walk.error("a batch norm of the inputs", node, cure)
    if 1 not in walk.labels[value]:
        raise walk.error("a batch norm over positions", node, "put the units second: (n, u, ...)")
    norm = Norm(names[0], names[1], names[2], names[3], float(arguments[eps]))
    source = walk.sources.get(value)
    if source is not None and source.weight == norm.weight:
        raise walk.error("a batch norm is used twice in a row", node, "give each use its own module")
    if source is None or not source.fitted or len(value.users) > 1 or source.norm not in (None, norm):
        return scale_units(walk, node, (value, 1), weight, None, norm=norm)
    if source.norm is None:
        walk.check_unused(node, norm.weight)
    source.norm = norm
    walk.folded.add(value)
    if source.output[0] == value.name:
        source.output = (node.name, source.output[1])
    return walk.labels[value]


def layer_norm(walk: Walk, node: fx.Node) -> Label:
    """``layer_norm(value, shape, weight, bias, eps)`` over units, or without a weight over positions."""
    value, shape, weight, bias, _ = walk.arguments(node, 5)
    last, label = n_dims(value) - 1, walk.groups.pass_through(walk.label(value), "layer_norm")
    if last not in label:
        if isinstance(weight, fx.Node):
            raise walk.error(PARAMETER, node)
        return label
    if len(shape) != 1:
        raise walk.error(UNSUPPORTED, node, "normalize over units only")
    if weight is None:
        raise walk.error("a layer norm without weight", node, "use elementwise_affine=True")
    walk.functions[node.name] = _normalize_last
    return scale_units(walk, node, (value, last), weight, bias, fitted=False)


HANDLERS = {**dict.fromkeys(BATCH_NORMS, batch_norm), aten.layer_norm.default: layer_norm}


def _normalize_last(value: Tensor, shape: object, *options: Any) -> Tensor:
    """Layer norm over the last dimension, of whatever size; the options are weight, bias, ε and a flag."""
    return functional.layer_norm(value, value.shape[-1:], *options[:3])
