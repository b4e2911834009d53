"""Linear layers: new units along the last dimension."""

from __future__ import annotations

from torch import fx
from torch.ops import aten

from consilience.units.groups import Label, Run
from consilience.units.operations.weights import mix_units
from consilience.units.walk import Walk, n_dims


def linear(walk: Walk, node: fx.Node) -> Label:
    """``linear(value, weight, bias)``; units along other dimensions pass through, each with the same weight."""
    value, weight, bias = walk.arguments(node, 3)
    last = n_dims(value) - 1
    draft = mix_units(walk, node, (value, last), last, weight, bias)
    others = {dim: runs for dim, runs in walk.label(value).items() if dim != last}
    if others:
        walk.crossing.append(draft.name)
        if bias is not None:
            walk.groups.pass_through(others, "shift")
    return {**others, last: (Run(draft.group, 1),)}


HANDLERS = {aten.linear.default: linear}
