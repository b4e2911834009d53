"""Operations that cut the units of one weight into equal parts: each part is a layer, and the parts are tied.

They stay of equal width, so that the cut is in the same place at any widths.
"""

from __future__ import annotations

import functools
import sys
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


def split_with_sizes(walk: Walk, node: fx.Node) -> Label:
    """``split(value, sizes, dim)`` into parts of one size."""
    value, parts, dim = walk.only_value(node), *walk.arguments(node, 3)[1:]
    dim = int(dim or 0) % n_dims(value)
    if dim == 0 or (dim in walk.label(value) and len({*parts}) > 1):
        cure = "give parts of units one size, or use a layer for each part"
        raise walk.error("units are cut into parts of several sizes", node, cure)
    if dim in walk.label(value):
        walk.functions[node.name] = functools.partial(_split, n=len(parts))
    return _parts(walk, node, value, dim, len(parts))


def part_of_units(walk: Walk, node: fx.Node, value: fx.Node, dim: int) -> Label:
    """``value[:, start:end]`` along units: one of equal parts, all of which are taken so."""
    value = _whole(walk, value)
    cuts = [_slice_of(walk, user, dim) for user in _users(walk, value)]
    start, width = _slice_of(walk, node, dim) or (0, 0)
    n = size(value, dim) // max(1, width)
    if width * n != size(value, dim) or {*cuts} != {(i * width, width) for i in range(n)} or n == 1:
        cure = "cut units into equal parts, and use each, or use a layer for each part"
        raise walk.error("units are cut into unequal parts", node, cure)
    if value not in walk.parts:
        runs = _cut(walk, node, value, dim, n, users=len(value.users))
        walk.parts[value] = [walk.label(value) | {dim: (run,)} for run in runs]
    walk.functions[node.name] = functools.partial(_part, n=n, i=start // width)
    return walk.parts[value][start // width]


def _slice_of(walk: Walk, node: fx.Node, dim: int) -> tuple[int, int] | None:
    """Where a slice along a dimension begins, and how long it is; None for anything else."""
    if node.target is not aten.slice.Tensor:
        return None
    value, along, start, end, step = walk.arguments(node, 5)
    if (along or 0) % n_dims(value) != dim or step not in (None, 1):
        return None
    total = size(value, dim)
    ends = [total if end is None else int(end), int(start or 0)]
    last, first = (min(total, place + total if place < 0 else place) for place in ends)
    return first, last - first


def is_all(walk: Walk, node: fx.Node) -> bool:
    """Whether an operation is a slice that takes everything, as in ``x[:]``."""
    if node.target is not aten.slice.Tensor:
        return False
    _, _, start, end, step = walk.arguments(node, 5)
    everything = end is None or (isinstance(end, int) and end >= sys.maxsize)
    return not start and everything and step in (None, 1)


def _whole(walk: Walk, value: fx.Node) -> fx.Node:
    """The value of which another is a slice that takes everything."""
    return _whole(walk, value.args[0]) if is_all(walk, value) else value  # type: ignore[arg-type]


def _users(walk: Walk, value: fx.Node) -> list[fx.Node]:
    """What uses a value, slices that take everything aside."""
    return [user for own in value.users for user in (_users(walk, own) if is_all(walk, own) else [own])]


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


def pixel_shuffle(walk: Walk, node: fx.Node) -> Label:
    """``pixel_shuffle(value, r)``: r² neighbouring channels become one channel at r² positions.

    They are one unit of r² rows where they are written, and of one where they are read.
    """
    value, r = walk.only_value(node), int(walk.option(node, "upscale_factor"))
    (run, *others), cure = walk.label(value).get(1, (Run(None, 0),)), "shuffle what one convolution writes, right after"
    drafts = [draft for draft in walk.drafts if draft.group == run.group]
    if others or len(drafts) != 1 or run.block != 1 or len(walk.label(value)) > 1 or len(value.users) > 1:
        raise walk.error("pixels are made of channels that are no layer of one weight", node, cure)
    if run.group is None or drafts[0].per_unit or not walk.refine(run.group, r * r):
        raise walk.error("pixels are made of channels that are no layer of one weight", node, cure)
    walk.record({1: (run,)}, "pixel_shuffle")
    return {1: (Run(run.group, 1),)}


HANDLERS = {
    aten.pixel_shuffle.default: pixel_shuffle,
    aten.chunk.default: chunk,
    aten.split.Tensor: split,
    aten.split_with_sizes.default: split_with_sizes,
    aten.glu.default: glu,
}


def _split(value: Tensor, size: object, dim: int = 0, *, n: int) -> Sequence[Tensor]:
    """Split into n parts, whatever the size."""
    return value.chunk(n, dim)


def _part(value: Tensor, dim: int = 0, *ends: object, n: int, i: int) -> Tensor:
    """The i-th of n parts, wherever it begins and ends."""
    return value.chunk(n, dim)[i]


def _cut(walk: Walk, node: fx.Node, value: fx.Node, dim: int, n: int, users: int = 1) -> list[Run]:
    """Make n layers of the one that a weight has just written."""
    cure = "cut what one linear layer or convolution writes, right after it, or use a layer for each part"
    run, *others = every = walk.label(value)[dim]
    of_weights = {draft.weight for own in every for draft in walk.drafts if draft.group == own.group}
    if len(every) == n > 1 and len(of_weights) == 1 and all(own.block == 1 for own in every):
        return list(every)  # of one weight that was cut before, and is used again
    drafts = [d for d in walk.drafts if run.group is not None and walk.root(d.group) == walk.root(run.group)]
    if others or len(drafts) != 1 or len(value.users) > users or size(value, dim) % n:
        raise walk.error("units are cut that are no layer of one weight", node, cure)
    (draft,) = drafts
    group = walk.groups[draft.group]
    read = any(other.group == draft.group for d in walk.drafts for other in d.inputs)
    tied = any(draft.group in pair for pair in walk.tied) or draft.group in walk.joined.values()
    if run.block != 1 or draft.per_unit or draft.norm or draft.factors or group.activations or read or tied:
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
