"""Operations on shapes: dimensions are merged, divided, reordered, or cut where no units lie."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Mapping, Sequence

from torch import Tensor, fx
from torch.ops import aten

from consilience.units.drafts import Label, Run
from consilience.units.operations.elementwise import CASTS
from consilience.units.operations.embedding import only_value
from consilience.units.operations.piles import COPIES, SWAPS, flatten_branches, order_of, pile_branches
from consilience.units.operations.sections import is_all, part_of_units, pile, take
from consilience.units.program import N_SAMPLES, sizes
from consilience.units.walk import PARAMETER, UNSUPPORTED, Walk, n_dims, size

SIZED = (aten.view.default, aten.reshape.default, aten._unsafe_view.default)  # they have the new sizes as argument
PRODUCTS = (aten.matmul.default, aten.mm.default, aten.addmm.default)
ROTARY = (aten.add.Tensor, aten.mul.Tensor, aten.neg.default, aten.cat.default, aten.slice.Tensor, aten.chunk.default)
PASSED = (*SWAPS, *ROTARY, aten.permute.default, aten.div.Tensor, operator.getitem)  # between heads and attention
REPEATED = (aten.unsqueeze.default, aten.expand.default, aten.repeat_interleave.self_int, *COPIES, *CASTS, *SIZED)
SAMPLES_FIRST = "keep samples first: (n, positions, features), with batch_first=True in torch's own attention"
SQUEEZES = (aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims)
UNSIZED = (aten.flatten.using_ints, aten.unflatten.int, aten.unsqueeze.default, *SQUEEZES)


def reshape(walk: Walk, node: fx.Node) -> Label:
    """Dimensions may be merged into blocks behind units, and such blocks divided again."""
    value = only_value(walk, node, piled=True)
    if value in walk.piled:
        return flatten_branches(walk, node, value)
    for divided in (pile, pile_branches):
        if (parts := divided(walk, node, value)) is not None:
            return parts
    label, result = walk.labels[value], dict[int, tuple[Run, ...]]()
    before, after = sizes(value.meta["val"], N_SAMPLES), sizes(node.meta["val"], N_SAMPLES)
    units = dict[int, tuple[list[int], int]]()
    for sources, targets in _matching(before, after):
        carrying = [d for d in sources if d in label]
        if not carrying:
            continue
        runs = label[carrying[0]]
        sources = [d for d in sources if before[d] != 1 or d in label]
        if not (after[targets[0]] == 1 and node.target in SIZED and _is_one_head(walk, node)):
            targets = [d for d in targets if after[d] != 1] or targets[:1]
        mixed = 0 in sources and walk.varies(value)
        if len(carrying) > 1 or carrying[0] != sources[0] or mixed or not targets:
            if before[carrying[0]] == 1:
                raise walk.error("one unit loses its dimension", node, "keep it: (n, 1), without squeeze")
            raise walk.error("units and positions change places", node, "flatten with units first: (n, u, ...)")
        rest, divisor = math.prod(before[d] for d in sources[1:]), math.prod(after[d] for d in targets[1:])
        if len(runs) == 1 and runs[0].group is not None and rest == 1 and divisor > runs[0].block:
            walk.refine(runs[0].group, divisor // runs[0].block)  # units of several rows, as heads are
            runs = walk.labels[value][carrying[0]]
        if any((entries * rest) % divisor for run in runs for entries in run[1:]):
            raise walk.error("the units of a layer are divided", node)
        result[targets[0]] = tuple(Run(run.group, *(entries * rest // divisor for entries in run[1:])) for run in runs)
        units[targets[0]] = (sources, divisor)
    if node.target in SIZED:
        walk.functions[node.name] = functools.partial(_reshape_units, units=units)
    elif any(divisor != 1 for _, divisor in units.values()):  # unflatten
        walk.functions[node.name] = functools.partial(_reshape_others, sizes=after[1:], units=units)
    return result


def _is_one_head(walk: Walk, node: fx.Node, more: Sequence[object] = ()) -> bool:
    """Whether a dimension of one entry is a head: its values go to attention, or to products of two values.

    They may pass through some operations, and those in ``more``, before.
    """
    seen, waiting = {node}, [node]
    while waiting:
        for user in waiting.pop().users:
            if user.target is aten.scaled_dot_product_attention.default:
                return True
            if user.target in (aten.matmul.default, aten.bmm.default):
                return not walk.reads_parameter(user)
            if user.target in (*PASSED, *more) and user not in seen:
                seen.add(user)
                waiting.append(user)
    return False


def are_then_heads(walk: Walk, node: fx.Node) -> bool:
    """Whether the last dimension of a value is divided into heads and their features, right after."""
    uses, waiting, last = list[fx.Node](), [node], n_dims(node) - 1
    while waiting:
        for user in waiting.pop().users:
            if user.users:  # no assertion
                (waiting if user.target in (*COPIES, *CASTS) else uses).append(user)
    divided = (use.target in SIZED and n_dims(use) == last + 2 and size(use, last + 1) > 1 for use in uses)
    return bool(uses) and all(divided) and all(_is_one_head(walk, use, REPEATED) for use in uses)


def permute(walk: Walk, node: fx.Node) -> Label:
    """``permute(value, order)``, ``transpose(value, a, b)`` and ``movedim(value, a, b)``; samples stay first."""
    if _turns_weight(walk, node):
        return {}
    value = only_value(walk, node, piled=True)
    order = order_of(walk, node)
    if value in walk.piled:
        along, labels = walk.piled[value]
        labels = [{order.index(d): runs for d, runs in label.items()} for label in labels]
        walk.piled[node] = order.index(along), labels
        if next(d for d in order if d != along) != 0:
            raise walk.error("samples change places with something else", node, SAMPLES_FIRST)
        return labels[0]
    if order[0] != 0 and walk.varies(value):
        raise walk.error("samples change places with something else", node, SAMPLES_FIRST)
    return {order.index(d): runs for d, runs in walk.labels[value].items()}


def transpose(walk: Walk, node: fx.Node) -> Label:
    """``weight.T`` and ``weight.t()``, in ``value @ weight.T``."""
    if not _turns_weight(walk, node):
        raise walk.error(PARAMETER if walk.reads_parameter(node) else UNSUPPORTED, node)
    return {}


def _turns_weight(walk: Walk, node: fx.Node) -> bool:
    """Whether an operation transposes a parameter that is then multiplied by values from the left; it is noted."""
    weight = node.args[0]
    if not walk.is_parameter(weight) or weight in walk.shifted or n_dims(weight) != 2 or n_dims(node) != 2:
        return False
    if any(user.target not in PRODUCTS or user.args[-1] is not node for user in node.users):
        return False
    walk.turned[node] = weight
    return True


def expand(walk: Walk, node: fx.Node) -> Label:
    """``expand(value, sizes)``; units stay as many as they are."""
    value = only_value(walk, node)
    extra = n_dims(node) - n_dims(value)
    label = {d + extra: runs for d, runs in walk.labels[value].items()}
    if any(size(node, d) != size(value, d - extra) for d in label):
        raise walk.error("one unit is expanded to several", node, "combine it with others as it is, without expand")
    walk.functions[node.name] = functools.partial(_expand_others, units=list(label))
    return label


def repeated(walk: Walk, node: fx.Node) -> Label:
    """``repeat_interleave(value, times, dim)``; units then have as many entries for each, next to each other."""
    value, times = only_value(walk, node), walk.option(node, "repeats")
    if node.args[2:3] in ((), (None,)) or not isinstance(times, int):
        raise walk.error(UNSUPPORTED, node, "repeat along one dimension, by one number")
    dim = int(walk.option(node, "dim")) % n_dims(value)
    if dim == 0 and walk.varies(value):
        raise walk.error("samples are mixed", node)
    label = walk.labels[value]
    if dim not in label:
        return walk.record(label, "upsample")
    return label | {dim: tuple(Run(run.group, *(entries * times for entries in run[1:])) for run in label[dim])}


def cut(walk: Walk, node: fx.Node) -> Label:
    """``slice`` and ``select``: positions may be left out, units and samples may not."""
    value = only_value(walk, node, piled=True)
    label, is_slice = walk.labels[value], node.target is aten.slice.Tensor
    dim = walk.arguments(node, 2)[1]
    dim = (dim or 0) % n_dims(value)
    if is_all(walk, node):
        if value in walk.piled:
            walk.piled[node] = walk.piled[value]
        return label
    if value in walk.piled:
        return take(walk, value, dim)[int(walk.arguments(node, 3)[2])]
    if dim == 0 and not is_slice and value in walk.parts:
        return dict(walk.parts[value][walk.arguments(node, 3)[2]])
    if dim == 0 and walk.varies(value) and (is_slice or value.meta["val"].shape[0] != 1):
        raise walk.error("samples are mixed", node)
    if is_slice and dim in label:
        return part_of_units(walk, node, value, dim)
    walk.check_fixed(node, value, [dim])
    return label if is_slice else {d - (d > dim): runs for d, runs in label.items()}


def unbind(walk: Walk, node: fx.Node) -> Label:
    """``unbind(value, dim)``: parts that a reshape has made of units, or positions one by one."""
    value = only_value(walk, node, piled=True)
    dim = (walk.arguments(node, 2)[1] or 0) % n_dims(value)
    if value in walk.piled:
        walk.parts[node] = take(walk, value, dim)
        return walk.parts[node][0]
    if dim == 0:
        raise walk.error("samples are mixed", node)
    walk.check_fixed(node, value, [dim])
    label = {d - (d > dim): runs for d, runs in walk.labels[value].items()}
    walk.parts[node] = [label] * size(value, dim)
    return label


def number_of(walk: Walk, node: fx.Node) -> Label:
    """``value.shape[dim]`` as a number: of samples, not of units."""
    value, dim = walk.arguments(node, 2)
    if dim % n_dims(value) in walk.label(value):
        raise walk.error(UNSUPPORTED, node)
    return {}


def without_units(walk: Walk, node: fx.Node) -> Label:
    """``new_zeros(value, sizes)`` and the like: new values, whatever the old ones."""
    return {}


HANDLERS = {
    **{getattr(aten, name).default: without_units for name in ("new_zeros", "new_ones", "new_full", "new_empty")},
    aten.sym_size.int: number_of,
    aten.unbind.int: unbind,
    **dict.fromkeys((*SIZED, *UNSIZED), reshape),
    **dict.fromkeys((aten.permute.default, aten.movedim.int, *SWAPS), permute),
    **dict.fromkeys((aten.numpy_T.default, aten.t.default), transpose),
    aten.expand.default: expand,
    aten.repeat_interleave.self_int: repeated,
    aten.slice.Tensor: cut,
    aten.select.int: cut,
}


def _reshape_units(value: Tensor, shape: Sequence[int], units: Mapping[int, tuple[Sequence[int], int]]) -> Tensor:
    """Reshape; dimensions with units take their size from the dimensions they come from, by a fixed divisor."""
    wanted = list(shape)
    for dim, (sources, divisor) in units.items():
        wanted[dim] = math.prod(value.shape[source] for source in sources) // divisor
    return value.reshape(wanted)


def _reshape_others(
    value: Tensor, *_: object, sizes: Sequence[int], units: Mapping[int, tuple[Sequence[int], int]]
) -> Tensor:
    """Reshape to these sizes of a sample; see `_reshape_units`."""
    return _reshape_units(value, [len(value), *sizes], units)


def _expand_others(value: Tensor, shape: Sequence[int], units: Sequence[int], implicit: bool = False) -> Tensor:
    """Expand; dimensions with units stay as they are."""
    return value.expand([-1 if dim in units else size for dim, size in enumerate(shape)])


def _matching(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Return the dimensions of a shape that become those of another, in the smallest groups.

    >>> _matching([5, 3, 2, 2], [5, 12])
    [([0], [0]), ([1, 2, 3], [1])]
    """
    groups, i, j = [], 0, 0
    while i < len(before) and j < len(after):
        sources, targets, left, right = [i], [j], before[i], after[j]
        while left != right:
            if left < right:
                i += 1
                sources.append(i)
                left *= before[i]
            else:
                j += 1
                targets.append(j)
                right *= after[j]
        groups.append((sources, targets))
        i, j = i + 1, j + 1
    if (i < len(before) or j < len(after)) and groups:  # ones are left
        groups[-1][0].extend(range(i, len(before)))
        groups[-1][1].extend(range(j, len(after)))
    return groups
