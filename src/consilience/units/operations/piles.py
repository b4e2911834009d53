"""Units divided along a dimension of parts that stays: branches of which each has a part of one weight's units.

A reshape of units to ``(parts, units)``, a softmax over the parts, a product with them and their sum, as in networks
with selective kernels or split attention. Each part is a layer, and the parts are tied; a sum of parts makes one layer
of them. A walk keeps the label of each part (`Walk.piled`).

A channel shuffle turns ``(parts, units)`` to ``(units, parts)`` and makes one dimension of them: units of the parts
then alternate (`consilience.units.drafts.Run`), and are tied, so that the shuffle does the same at any width.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence

from torch import Tensor, fx
from torch.ops import aten

from consilience.units.drafts import Label, Run, together
from consilience.units.operations.sections import MOST, SHUFFLED, between, cut_units
from consilience.units.program import N_SAMPLES, sizes
from consilience.units.walk import UNSUPPORTED, Walk, n_dims, size

OVER = (aten.softmax.int, aten._softmax.default, aten.sum.dim_IntList, aten.mean.dim, aten.amax.default)
SWAPS = (aten.transpose.int, aten.swapaxes.default, aten.swapdims.default)
TURNS = (*SWAPS, aten.permute.default, aten.movedim.int)
THROUGH = (aten.mul.Tensor, aten.add.Tensor, aten.transpose.int, aten.permute.default)
COPIES = (aten.contiguous.default, aten.clone.default)
MERGES = (aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.flatten.using_ints)
READ_PARTS = {  # operations that take values that have parts along a dimension
    *(*OVER, *THROUGH, aten.sub.Tensor, aten.div.Tensor, aten.swapaxes.default, aten.swapdims.default),
    *(aten.movedim.int, *COPIES, *MERGES),
    *(aten.slice.Tensor, aten.select.int, aten.unbind.int, aten.amin.default),
}
CURE = "divide units into parts right before a softmax, product or sum over the parts"


def pile_branches(walk: Walk, node: fx.Node, value: fx.Node) -> Label | None:
    """``reshape(value, (..., parts, units, ...))`` of units, where the parts are then summed or compared.

    None where a reshape does something else.
    """
    label, before, after = walk.label(value), *(sizes(v.meta["val"], N_SAMPLES) for v in (value, node))
    if len(label) != 1 or 0 in label or value in walk.piled:
        return None
    (dim,) = label
    places = (k for k in range(1, len(after) - 1) if math.prod(after[:k]) == math.prod(before[:dim]))
    at = next((k for k in places if 1 < after[k] <= MOST and after[k] * after[k + 1] == before[dim]), None)
    if at is None or not ((shuffles := _is_turned(walk, node, at)) or _is_over(walk, node, at)):
        return None
    n = after[at]
    bounds = [i * before[dim] // n for i in range(n + 1)]
    parts = _apart(walk, node, value, dim, bounds) if shuffles else cut_units(walk, node, value, dim, bounds)
    walk.piled[node] = at, [{at + 1: runs} for runs in parts]
    walk.functions[node.name] = functools.partial(_reshaped, sizes=[*after[1 : at + 1], -1, *after[at + 2 :]])
    return walk.piled[node][1][0]


def flatten_branches(walk: Walk, node: fx.Node, value: fx.Node) -> Label:
    """``reshape(value, (..., parts · units, ...))`` of parts: they lie side by side again."""
    along, labels = walk.piled[value]
    before, after = (sizes(v.meta["val"], N_SAMPLES) for v in (value, node))
    (dim,), total = labels[0], before[along] * before[next(iter(labels[0]))]
    first = math.prod(before[: min(along, dim)])
    whole = next((k for k in range(1, len(after)) if math.prod(after[:k]) == first), None)
    beside = along < dim and math.prod(before[along + 1 : dim]) == 1
    if whole is None or after[whole] != total or not (beside or along == dim + 1):
        raise walk.error("parts of units change places with something else", node, CURE)
    walk.functions[node.name] = functools.partial(_reshaped, sizes=[*after[1:whole], -1, *after[whole + 1 :]])
    if not beside:
        return {whole: alternated(walk, node, lambda: [label[dim] for label in walk.piled[value][1]])}
    return {whole: tuple(itertools.chain.from_iterable(label[dim] for label in labels))}


def channel_shuffle(walk: Walk, node: fx.Node) -> Label:
    """``channel_shuffle(value, groups)``."""
    value, n = walk.arguments(node, 2)
    value = walk.only_value(node)
    if 1 not in walk.label(value):
        raise walk.error(UNSUPPORTED, node)
    bounds = [i * size(value, 1) // n for i in range(n + 1)]
    _apart(walk, node, value, 1, bounds)
    return {1: alternated(walk, node, lambda: between(walk, walk.label(value)[1], bounds))}


def order_of(walk: Walk, node: fx.Node) -> list[int]:
    """Return the dimensions of a value in the order of a permutation, transposition or move of them."""
    if node.target is aten.permute.default:
        return [d % n_dims(node) for d in walk.arguments(node, 2)[1]]
    order, (a, b) = list(range(n_dims(node))), (d % n_dims(node) for d in walk.arguments(node, 3)[1:])
    if node.target is aten.movedim.int:
        order.insert(b, order.pop(a))
    else:
        order[a], order[b] = b, a
    return order


def _apart(walk: Walk, node: fx.Node, value: fx.Node, dim: int, bounds: Sequence[int]) -> list[tuple[Run, ...]]:
    """The parts of units between bounds; where layers end there, they are parts as they are."""
    runs = walk.label(value)[dim]
    ends = {0, *itertools.accumulate(walk.lengths(runs))}
    return between(walk, runs, bounds) if ends >= {*bounds} else cut_units(walk, node, value, dim, bounds)


def alternated(walk: Walk, node: fx.Node, parts: Callable[[], Sequence[Sequence[Run]]]) -> tuple[Run, ...]:
    """Return the runs where one entry of each part follows one of the next; the units that meet are tied.

    Entry e of part i of n comes to e n + i. Units of several entries, as of runs that alternate already, need partners
    of as many: those of other parts are divided into layers whose units alternate.
    """
    alternate_alike(walk, node, parts)
    n, result = len(parts()), list[Run]()
    for beside in zip(*map(together, parts()), strict=True):
        step = beside[0][0].reach
        runs = [run._replace(step=step * n, at=run.at * n + i) for i, own in enumerate(beside) for run in own]
        walk.tied += [(run.group, runs[0].group) for run in runs if walk.root(run.group) != walk.root(runs[0].group)]
        result += sorted(runs, key=lambda run: run.at)
    return tuple(result)


def alternate_alike(walk: Walk, node: fx.Node, parts: Callable[[], Sequence[Sequence[Run]]]) -> None:
    """Divide units that meet others into layers whose units alternate, where those of the others do."""
    while (few := _unequal(walk, node, parts())) is not None:
        group, n = few
        if n > MOST or not walk.divide(group, n, alternate=True):
            raise walk.error("units are shuffled that cannot be divided", node, SHUFFLED)


def _unequal(walk: Walk, node: fx.Node, parts: Sequence[Sequence[Run]]) -> tuple[int, int] | None:
    """A group of parts to be shuffled that must be divided first, and by how much; None if all are alike."""
    if len({tuple(walk.lengths(part)) for part in parts}) > 1 or any(r.group is None for part in parts for r in part):
        raise walk.error("units of unlike layers are shuffled", node, SHUFFLED)
    for beside in zip(*map(together, parts), strict=True):
        steps = [own[0].reach for own in beside]
        if any(run.block != 1 for own in beside for run in own) or any(max(steps) % step for step in steps):
            raise walk.error("units of unlike layers are shuffled", node, SHUFFLED)
        for own, step in zip(beside, steps, strict=True):
            if step < max(steps) and own[0].group is not None:
                return own[0].group, max(steps) // step
    return None


def pass_branches(walk: Walk, node: fx.Node, value: fx.Node, name: str) -> Label:
    """Note that all parts of a value pass through something and stay parts; return the label of the first."""
    along, labels = walk.piled[value]
    walk.piled[node] = along, [walk.record(label, name) for label in labels]
    return labels[0]


def combine_branches(
    walk: Walk,
    node: fx.Node,
    values: Sequence[fx.Node],
    join: Callable[[Sequence[Run], Sequence[Run]], None],
) -> Label:
    """Join or tie the parts of a value with those of another, or with a value that is the same for all of them."""
    places = {walk.piled[value][0] for value in values if value in walk.piled}
    n = max(len(walk.piled[value][1]) for value in values if value in walk.piled)
    each = [walk.piled[value][1] if value in walk.piled else [walk.label(value)] * n for value in values]
    if len(places) != 1 or n_dims(values[0]) != n_dims(values[1]) or {len(own) for own in each} != {n}:
        raise walk.error(UNSUPPORTED, node, CURE)
    for first, second in zip(*each, strict=True):
        if first.keys() != second.keys():
            raise walk.error("units of unlike layers are combined", node, CURE)
        for dim in first:
            walk.check_alike(node, first[dim], second[dim])
            if size(values[0], dim) != size(values[1], dim):
                raise walk.error("one unit is combined with several", node)
            join(first[dim], second[dim])
    plain = next((value for value in values if value not in walk.piled), None)
    if plain is None:
        walk.piled[node] = places.pop(), each[0]
        return each[0][0]
    return walk.label(plain)


def reduce_branches(walk: Walk, node: fx.Node, value: fx.Node, gone: set[int], name: str, *, keep: bool) -> Label:
    """Sum parts, which makes one layer of them, or reduce each part over positions."""
    along, labels = walk.piled[value]
    if 0 in gone or gone & labels[0].keys():
        raise walk.error(UNSUPPORTED, node, CURE)

    def after(dim: int) -> int:
        return dim if keep else dim - sum(g < dim for g in gone)

    if along in gone:
        for label, dim in itertools.product(labels[1:], labels[0]):
            walk.join(labels[0][dim], label[dim])
        return {after(dim): runs for dim, runs in walk.record(labels[0], name).items()}
    labels = [{after(dim): runs for dim, runs in walk.record(label, name).items()} for label in labels]
    walk.piled[node] = after(along), labels
    return labels[0]


def _is_turned(walk: Walk, node: fx.Node, along: int) -> bool:
    """Whether all that uses a value lets two dimensions change places and makes one of them: a channel shuffle."""
    merged = list[bool]()
    for user in node.users:
        order = order_of(walk, user) if user.target in TURNS else []
        turned = order[along : along + 2] == [along + 1, along]
        merged += [turned and use.target in MERGES and n_dims(use) < n_dims(user) for use in _uses(user)]
    return bool(merged) and all(merged)


def _uses(node: fx.Node) -> list[fx.Node]:
    """What uses a value, or copies of it."""
    return [use for user in node.users for use in (_uses(user) if user.target in COPIES else [user])]


def _is_over(walk: Walk, node: fx.Node, along: int) -> bool:
    """Whether a softmax or sum over a dimension is computed of a value, perhaps after products and permutations.

    Units that are also used in another way, as heads of attention are, are no parts.
    """
    if any(user.target not in (*OVER, *THROUGH) for user in node.users):
        return False
    for user in node.users:
        if user.target in OVER:
            dims = walk.arguments(user, 2)[1]
            if along in {d % n_dims(node) for d in ([dims] if isinstance(dims, int) else dims or ())}:
                return True
        elif user.target in THROUGH:
            moved = along
            if user.target is aten.permute.default:
                moved = [d % n_dims(node) for d in walk.arguments(user, 2)[1]].index(along)
            elif user.target is aten.transpose.int:
                a, b = (d % n_dims(node) for d in walk.arguments(user, 3)[1:])
                moved = {a: b, b: a}.get(along, along)
            if n_dims(user) == n_dims(node) and _is_over(walk, user, moved):
                return True
    return False


def _reshaped(value: Tensor, shape: object, *, sizes: Sequence[int]) -> Tensor:
    """Reshape all but samples."""
    return value.reshape(len(value), *sizes)


HANDLERS = {aten.channel_shuffle.default: channel_shuffle}
