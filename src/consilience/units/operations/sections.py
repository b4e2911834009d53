"""Operations that cut units into parts: each part is a layer, and the parts are tied.

They stay in proportion, so that the cut is in the same place at any widths: units are divided into equal layers, of
which a part has one or more.
"""

from __future__ import annotations

import functools
import itertools
import math
import sys
from collections.abc import Sequence

from torch import Tensor, fx
from torch.ops import aten

from consilience.units.drafts import Label, Run, together
from consilience.units.program import N_SAMPLES, sizes
from consilience.units.walk import UNSUPPORTED, Walk, n_dims, size

MOST = 16  # layers into which units are divided for a cut
CURE = "cut units into equal parts, or use a layer for each part"
SHUFFLED = "give a stage of at most 5 blocks that shuffle and halve channels a multiple of 2^blocks of them"
ALONE = "use each layer before they are put side by side"


def chunk(walk: Walk, node: fx.Node) -> Label:
    """``chunk(value, n, dim)`` of units, or of positions."""
    value = walk.only_value(node)
    n, dim = int(walk.option(node, "chunks")), int(walk.option(node, "dim")) % n_dims(value)
    if dim in walk.label(value) and size(value, dim) % n:  # the last part is smaller by another share at other widths
        raise walk.error(f"units are cut into {n} unequal parts", node, CURE)
    return _in_parts(walk, node, value, dim, math.ceil(size(value, dim) / n) if dim else 0)


def split(walk: Walk, node: fx.Node) -> Label:
    """``split(value, size, dim)`` into parts of one size, but for the last."""
    value, part, dim = walk.only_value(node), *walk.arguments(node, 3)[1:]
    return _in_parts(walk, node, value, int(dim or 0) % n_dims(value), int(part))


def split_with_sizes(walk: Walk, node: fx.Node) -> Label:
    """``split(value, sizes, dim)``."""
    value, parts, dim = walk.only_value(node), *walk.arguments(node, 3)[1:]
    return _parts(walk, node, value, int(dim or 0) % n_dims(value), parts)


def _in_parts(walk: Walk, node: fx.Node, value: fx.Node, dim: int, part: int) -> Label:
    if dim == 0:
        raise walk.error(UNSUPPORTED, node)
    whole, rest = divmod(size(value, dim), part)
    return _parts(walk, node, value, dim, [part] * whole + [rest] * (rest > 0))


def _parts(walk: Walk, node: fx.Node, value: fx.Node, dim: int, parts: Sequence[int]) -> Label:
    """Note the labels of parts of a value; return that of the list of them."""
    if dim == 0:
        raise walk.error(UNSUPPORTED, node)
    if dim not in walk.label(value):
        walk.parts[node] = [walk.label(value)] * len(parts)
        return walk.label(value)
    bounds = [0, *itertools.accumulate(parts)]
    each = cut_units(walk, node, value, dim, bounds)
    label = walk.label(value)
    walk.parts[node] = [label | {dim: runs} for runs in each]
    walk.note_cut(node, each)
    walk.functions[node.name] = functools.partial(_split, bounds=bounds)
    return label


def part_of_units(walk: Walk, node: fx.Node, value: fx.Node, dim: int) -> Label:
    """``value[:, start:end]`` along units."""
    start, end = _slice_of(walk, node, dim)
    total = size(value, dim)
    parts = cut_units(walk, node, value, dim, [0, start, end, total])
    label, part = walk.label(value), parts[1]
    walk.note_cut(node, parts)
    walk.functions[node.name] = functools.partial(_part, start=start, end=end, total=total)
    return label | {dim: part}


def _slice_of(walk: Walk, node: fx.Node, dim: int) -> tuple[int, int]:
    """Where a slice along a dimension begins and ends."""
    value, _, start, end, step = walk.arguments(node, 5)
    if step not in (None, 1):
        raise walk.error("units are taken in steps", node, CURE)
    total = size(value, dim)
    ends = [int(start or 0), total if end is None else int(end)]
    first, last = (max(0, min(total, place + total if place < 0 else place)) for place in ends)
    if first >= last:
        raise walk.error(UNSUPPORTED, node)
    return first, last


def is_all(walk: Walk, node: fx.Node) -> bool:
    """Whether an operation is a slice that takes everything, as in ``x[:]``."""
    if node.target is not aten.slice.Tensor:
        return False
    _, _, start, end, step = walk.arguments(node, 5)
    everything = end is None or (isinstance(end, int) and end >= sys.maxsize)
    return not start and everything and step in (None, 1)


def glu(walk: Walk, node: fx.Node) -> Label:
    """``glu(value, dim)``: the first half of the units, multiplied by the sigmoid of the second."""
    value = walk.only_value(node)
    dim = int(walk.option(node, "dim")) % n_dims(value)
    if dim not in walk.label(value):
        raise walk.error(UNSUPPORTED, node, "cut units in half, not positions")
    half = size(value, dim) // 2
    first, second = cut_units(walk, node, value, dim, [0, half, 2 * half])
    walk.record({dim: second}, "sigmoid")
    walk.multiply(first, second)
    return walk.label(value) | {dim: first}


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


def pile(walk: Walk, node: fx.Node, value: fx.Node) -> Label | None:
    """``reshape(value, (..., parts, heads, features, ...))`` of units, where each part is then taken by itself.

    The parts are layers, and a unit of each is a head. None where a reshape does something else.
    """
    label, before, after = walk.label(value), *(sizes(v.meta["val"], N_SAMPLES) for v in (value, node))
    if len(label) != 1 or 0 in label:
        return None
    (dim,) = label
    places = [k for k in range(1, len(after) - 2) if math.prod(after[:k]) == math.prod(before[:dim])]
    places = [
        k for k in places if math.prod(after[k : k + 3]) == before[dim] and after[k] > 1 and _each_taken(walk, node, k)
    ]
    if not places:
        return None
    (at, *_), bounds = places, [i * before[dim] // after[places[0]] for i in range(after[places[0]] + 1)]
    each = cut_units(walk, node, value, dim, bounds)
    first, alone = each[0][0], all(len(runs) == 1 and runs[0].block == 1 for runs in each)
    if not alone or first.group is None or not walk.refine(first.group, after[at + 2]):  # and those tied to it
        raise walk.error("heads that are no units of one layer", node, CURE)
    labels: list[Label] = [{at + 1: (Run(run.group, 1),)} for (run,) in cut_units(walk, node, value, dim, bounds)]
    walk.piled[node] = at, labels
    walk.functions[node.name] = functools.partial(_pile, sizes=[*after[1 : at + 1], -1, *after[at + 2 :]])
    return labels[0]


def _each_taken(walk: Walk, node: fx.Node, dim: int) -> bool:
    """Whether all that uses a value takes parts along a dimension of it, one by one, perhaps after a permutation."""
    taken = []
    for user in node.users:
        if user.target is aten.permute.default:
            order = [d % n_dims(node) for d in walk.arguments(user, 2)[1]]
            taken.append(_each_taken(walk, user, order.index(dim)))
        elif user.target is aten.transpose.int:
            a, b = (d % n_dims(node) for d in walk.arguments(user, 3)[1:])
            taken.append(_each_taken(walk, user, {a: b, b: a}.get(dim, dim)))
        elif is_all(walk, user):
            taken.append(_each_taken(walk, user, dim))
        else:
            taken.append(
                user.target in (aten.unbind.int, aten.select.int)
                and (walk.arguments(user, 2)[1] or 0) % n_dims(node) == dim
            )
    return bool(taken) and all(taken)


def take(walk: Walk, value: fx.Node, dim: int) -> list[Label]:
    """Return the labels of the parts of a value along a dimension, which is then gone."""
    _, labels = walk.piled[value]
    return [{d - (d > dim): runs for d, runs in label.items()} for label in labels]


HANDLERS = {
    aten.pixel_shuffle.default: pixel_shuffle,
    aten.chunk.default: chunk,
    aten.split.Tensor: split,
    aten.split_with_sizes.default: split_with_sizes,
    aten.glu.default: glu,
}


def _split(value: Tensor, size: object, dim: int = 0, *, bounds: Sequence[int]) -> Sequence[Tensor]:
    """Split in proportion, whatever the sizes."""
    cuts = [place * value.shape[dim] // bounds[-1] for place in bounds]
    parts: Sequence[Tensor] = value.split([end - start for start, end in itertools.pairwise(cuts)], dim)
    return parts


def _part(value: Tensor, dim: int = 0, *ends: object, start: int, end: int, total: int) -> Tensor:
    """The part between two places, which stay in proportion."""
    first, last = (place * value.shape[dim] // total for place in (start, end))
    return value.narrow(dim, first, last - first)


def _pile(value: Tensor, shape: object, *, sizes: Sequence[int]) -> Tensor:
    """Reshape into parts, heads and features, however many heads there are."""
    return value.reshape(len(value), *sizes)


def align(walk: Walk, node: fx.Node, values: Sequence[fx.Node], dims: Sequence[int]) -> None:
    """Divide the units along a dimension of each value where those of another are divided: they are paired next."""
    every = [walk.label(value)[dim] for value, dim in zip(values, dims, strict=True)]
    places = {place for runs in every for place in itertools.accumulate(walk.lengths(runs))}
    if len({sum(map(walk.entries, runs)) for runs in every}) == 1 and len({len(runs) for runs in every}) > 1:
        for value, dim in zip(values, dims, strict=True):
            _divide(walk, node, value, dim, sorted(places))


def _divide(walk: Walk, node: fx.Node, value: fx.Node, dim: int, bounds: Sequence[int]) -> None:
    """Divide the layers in which a bound lies, one after the other: those that are tied follow."""
    while (cut := _first_cut(walk, walk.label(value)[dim], bounds)) is not None:
        run, n = cut
        if n > MOST or run.group is None or not walk.divide(run.group, n):
            raise walk.error("units are cut that cannot be divided", node, SHUFFLED if run.step else CURE)


def _first_cut(walk: Walk, runs: Sequence[Run], bounds: Sequence[int]) -> tuple[Run, int] | None:
    """The first run of units in which bounds lie, and into how many equal parts it must be divided there."""
    start = 0
    for (run, *_), length in zip(together(runs), walk.lengths(runs), strict=True):
        inside = [place - start for place in bounds if start < place < start + length]
        if inside and run.group is not None:
            return run, length // math.gcd(length, *inside)
        start += length
    return None


def cut_units(walk: Walk, node: fx.Node, value: fx.Node, dim: int, bounds: Sequence[int]) -> list[tuple[Run, ...]]:
    """Return the runs between neighbouring bounds, after dividing layers in which a bound lies.

    Layers that are cut together are tied, so that they have one width and the bounds stay in place.
    """
    runs, message = walk.label(value)[dim], "units of several layers are cut"
    if any(run.group is None for run in runs):
        raise walk.error(message, node, ALONE)
    several = len({walk.first_tied(run.group) for run in runs if run.group is not None}) > 1
    if several and len({run.reach for run in runs}) > 1:
        raise walk.error(message, node, ALONE)
    places = [0, *itertools.accumulate(walk.lengths(runs))]
    _divide(walk, node, value, dim, range(0, places[-1] + 1, math.gcd(*places, *bounds)) if several else bounds)
    runs = walk.label(value)[dim]
    places = [0, *itertools.accumulate(walk.lengths(runs))]
    paired = not several or walk.pair(tuple(run._replace(group=runs[0].group) for run in runs), runs)
    if not paired or not {*bounds} <= {*places}:
        raise walk.error(message, node, ALONE)
    return between(walk, runs, bounds)


def between(walk: Walk, runs: Sequence[Run], bounds: Sequence[int]) -> list[tuple[Run, ...]]:
    """Return the runs between neighbouring bounds, at which runs end."""
    places, beside = [0, *itertools.accumulate(walk.lengths(runs))], together(runs)
    stretches = (beside[places.index(first) : places.index(last)] for first, last in itertools.pairwise(bounds))
    return [tuple(itertools.chain.from_iterable(stretch)) for stretch in stretches]
