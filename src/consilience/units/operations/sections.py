"""Operations that cut the units of one weight into equal parts: each part is a layer, and the parts are tied.

They stay of equal width, so that the cut is in the same place at any widths.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, fx
from torch.ops import aten

from consilience.units.walk import UNSUPPORTED, Label, Run, Walk, n_dims, size


def chunk(walk: Walk, node: fx.Node) -> Label:
    """``chunk(value, n, dim)`` of units, or of positions."""
    value = walk.only_value(node)
    n, dim = int(walk.option(node, "chunks")), int(walk.option(node, "dim")) % n_dims(value)
    if dim == 0:
        raise walk.error(UNSUPPORTED, node)
    return _parts(walk, node, value, dim, n)


def _parts(walk: Walk, node: fx.Node, value: fx.Node, dim: int, n: int) -> Label:
    """Note the labels of n equal parts of a value; return that of the list of them."""
    label = walk.label(value)
    runs = _cut(walk, node, value, dim, n) if dim in label else []
    walk.parts[node] = [label | {dim: (run,)} for run in runs] or [label] * n
    return label


def split(walk: Walk, node: fx.Node) -> Label:
    """``split(value, size, dim)`` into parts of one size."""
    value, part, dim = walk.only_value(node), *walk.arguments(node, 3)[1:]
    dim = int(dim or 0) % n_dims(value)
    if dim == 0 or size(value, dim) % part:
        raise walk.error(UNSUPPORTED, node, "split into parts of one size")
    n = size(value, dim) // part
    if dim in walk.label(value):
        walk.functions[node.name] = functools.partial(_split, n=n)
    return _parts(walk, node, value, dim, n)


def glu(walk: Walk, node: fx.Node) -> Label:
    """``glu(value, dim)``: the first half of the units, multiplied by the sigmoid of the second."""
    value = walk.only_value(node)
    dim = int(walk.option(node, "dim")) % n_dims(value)
    label = walk.label(value)
    if dim not in label:
        raise walk.error(UNSUPPORTED, node, "cut units in half, not positions")
    first, second = _cut(walk, node, value, dim, 2)
    walk.record({dim: (second,)}, "sigmoid")
    walk.multiply([first], [second])
    return label | {dim: (first,)}


HANDLERS = {aten.chunk.default: chunk, aten.split.Tensor: split, aten.glu.default: glu}


def _split(value: Tensor, size: int, dim: int = 0, *, n: int) -> Sequence[Tensor]:
    """Split into n parts, whatever the size."""
    return value.chunk(n, dim)


def _cut(walk: Walk, node: fx.Node, value: fx.Node, dim: int, n: int) -> list[Run]:
    """Make n layers of the one that a weight has just written."""
    cure = "cut what one linear layer or convolution writes, right after it, or use a layer for each part"
    run, *others = walk.label(value)[dim]
    drafts = [d for d in walk.drafts if run.group is not None and walk.root(d.group) == walk.root(run.group)]
    if others or len(drafts) != 1 or len(value.users) > 1 or size(value, dim) % n:
        raise walk.error("units are cut that are no layer of one weight", node, cure)
    (draft,) = drafts
    group = walk.groups[draft.group]
    read = any(other.group == draft.group for d in walk.drafts for other in d.inputs)
    tied = any(draft.group in pair for pair in walk.tied) or draft.group in walk.joined.values()
    if run.block != 1 or draft.per_unit or draft.norm or group.activations or read or tied:
        raise walk.error("units are cut that are no layer of one weight", node, cure)
    group.width //= n
    runs = [run]
    for i in range(1, n):
        new = walk.new_group(walk.unique(f"{draft.name}[{i}]"), group.width)
        walk.tied.append((new, draft.group))
        part = replace(draft, name=walk.groups[new].name, group=new, before=tuple(runs))
        walk.drafts.insert(walk.drafts.index(draft) + i, part)
        runs.append(Run(new, 1))
    walk.sources.pop(value, None)
    return runs
