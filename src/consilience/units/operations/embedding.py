"""Embeddings, and parameters that are values of their own: positions, class tokens, biases added later.

An embedding is a map of an index. A parameter that is added to units, or put beside them, is a map of nothing but where
it stands: its other dimensions are fixed features.
"""

from __future__ import annotations

import math

from torch import fx
from torch.ops import aten

from consilience.units.drafts import Draft, Label, Run
from consilience.units.walk import PARAMETER, UNSUPPORTED, Walk, layer_name, n_dims, size


def embedding(walk: Walk, node: fx.Node) -> Label:
    """``embedding(weight, indices)``: units along the last dimension."""
    weight, indices = walk.arguments(node, 2)
    if weight.name not in walk.program.parameters or indices in walk.labels:
        raise walk.error(PARAMETER, node, "let an embedding be a parameter, and its indices inputs")
    return {n_dims(node) - 1: (_written_by(walk, weight, 1, indices, node),)}


def promote(walk: Walk, parameter: fx.Node, dim: int) -> None:
    """Let a parameter be a value whose dimension ``dim`` indexes units that it writes."""
    walk.labels[parameter] = {dim: (_written_by(walk, parameter, dim, parameter, parameter),)}


def promote_row(walk: Walk, parameter: fx.Node) -> bool:
    """Let a parameter be a value of units along its one dimension of several numbers; False if it has more, or none."""
    along = [dim for dim in range(n_dims(parameter)) if size(parameter, dim) > 1]
    if len(along) != 1 or parameter in walk.shifted:
        return False
    promote(walk, parameter, along[0])
    return True


def only_value(walk: Walk, node: fx.Node, *, piled: bool = False) -> fx.Node:
    """Return what `Walk.only_value` does; a parameter becomes a value, with units last."""
    value = node.args[0]
    if walk.is_parameter(value) and value not in walk.shifted:
        promote(walk, value, n_dims(value) - 1)
    return walk.only_value(node, piled=piled)


def _written_by(walk: Walk, weight: fx.Node, dim: int, read: fx.Node, written: fx.Node) -> Run:
    """The units of a map from fixed features."""
    name = walk.program.parameters[weight.name]
    walk.check_unused(written, name)
    units = size(weight, dim)
    group = walk.new_group(layer_name(walk, name), units)
    features = Run(None, math.prod(weight.meta["val"].shape) // units)
    output = (written.name, dim if written is weight else n_dims(written) - 1)
    draft = Draft(
        walk.groups[group].name, name, None, (features,), (read.name, 0), output, group, fitted=False, dim=dim
    )
    walk.drafts.append(draft)
    return Run(group, 1)


def index(walk: Walk, node: fx.Node) -> Label:
    """``value[indices]`` along the first dimension of a parameter, or of a value that is the same for all samples."""
    value, indices = walk.arguments(node, 2)
    if walk.is_parameter(value):
        promote(walk, value, n_dims(value) - 1)
    label = walk.label(value)
    if walk.varies(value) or len(indices) != 1 or 0 in label or indices[0] in walk.labels:
        raise walk.error(UNSUPPORTED, node, "take rows of a parameter, by indices that depend on no unit")
    return {dim + n_dims(indices[0]) - 1: runs for dim, runs in label.items()}


HANDLERS = {aten.embedding.default: embedding, aten.index.Tensor: index}
