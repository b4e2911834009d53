"""Operations on several values: sums, products, concatenation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import fx
from torch.ops import aten

from consilience.units.drafts import Label, Run
from consilience.units.operations.elementwise import GAINS
from consilience.units.operations.embedding import promote, promote_row
from consilience.units.operations.factors import multiplied, spread, spread_unit
from consilience.units.operations.piles import alternate_alike, combine_branches, pass_branches
from consilience.units.operations.sections import align
from consilience.units.operations.shapes import are_then_heads
from consilience.units.operations.weights import scale_units
from consilience.units.program import N_SAMPLES, sizes
from consilience.units.tail import operation_name, reads_number
from consilience.units.walk import PARAMETER, UNSUPPORTED, Walk, is_tensor, n_dims, size

VIEWS = {
    *("slice", "select", "narrow", "index", "index_select", "embedding", "unsqueeze", "squeeze", "view", "reshape"),
    *("expand", "permute", "transpose", "clone", "alias", "detach", "to", "_to_copy"),
}
SUMS = (aten.add.Tensor, aten.sub.Tensor)
ONE_UNIT = "let it be what one linear layer or convolution writes and nothing else reads, or give each unit its own"
PRODUCTS = (aten.mul.Tensor, aten.div.Tensor)


def combine(walk: Walk, node: fx.Node) -> Label:
    """A sum makes one layer of what it adds; a product ties units, and the second factor is the gate."""
    is_sum = node.target in SUMS
    first, second = walk.arguments(node, 2)
    if not is_sum and (label := multiplied(walk, node, first, second)) is not None:
        return label
    reads = walk.reads_parameter(node) or reads_number(walk.program, node)
    if reads and (label := (_bias if is_sum else _gain)(walk, node, first, second)) is not None:
        return label
    if not is_tensor(first) or not is_tensor(second):
        value, name = first if is_tensor(first) else second, "shift" if is_sum else "scale"
        return pass_branches(walk, node, value, name) if value in walk.piled else walk.record(walk.label(value), name)
    if node.target is aten.mul.Tensor and _numbers(second) > _numbers(first):
        first, second = second, first
    if first in walk.piled or second in walk.piled:
        return combine_branches(walk, node, (first, second), walk.join if is_sum else walk.multiply)
    label, all_paired = {}, True
    for dim in range(n_dims(node)):
        at = [dim - n_dims(node) + n_dims(value) for value in (first, second)]
        if all(d in walk.label(value) for value, d in zip((first, second), at, strict=True)):
            align(walk, node, (first, second), at)
            _alternate(walk, node, (first, second), at)
        runs = [walk.label(value).get(d) for value, d in zip((first, second), at, strict=True)]
        alone = [d < 0 or _is_one(value, d) for value, d in zip((first, second), at, strict=True)]
        if runs[0] is not None and runs[1] is not None:
            label[dim] = _of_both(walk, node, dim, (runs[0], runs[1]), alone)
            continue
        units, apart = (runs[0], alone[1]) if runs[0] is not None else (runs[1], alone[0])
        if units is None:
            continue
        all_paired = False
        walk.record({dim: units}, "shift" if is_sum else "product")
        if apart:
            label[dim] = units
        else:
            if node.target is aten.add.Tensor and (table := _table(walk, second if runs[0] is not None else first)):
                walk.tables.add(table)
            walk.fix(units)  # they meet features that keep their index
    if not is_sum and not all_paired and first in walk.labels and second in walk.labels:
        walk.record(walk.labels[second], "product")
    return label


def _table(walk: Walk, value: fx.Node) -> str:
    """The graph input of the constant of which a value is a view or some rows; empty if it is none."""
    while operation_name(value) in VIEWS and isinstance(value.args[0], fx.Node):
        value = value.args[0]
    return value.name if value.name in walk.program.constants else ""


def _of_both(
    walk: Walk, node: fx.Node, dim: int, runs: tuple[tuple[Run, ...], tuple[Run, ...]], alone: Sequence[bool]
) -> tuple[Run, ...]:
    """Units of two values along one dimension: each with its partner, or the one of one value with each of the other.

    ``alone`` says of each value whether it has one entry there.
    """
    is_sum, (first, second) = node.target in SUMS, runs
    if alone[0] != alone[1]:
        one, several = (first, second) if alone[0] else (second, first)
        if (is_sum and walk.in_tail) or not spread_unit(walk, node, one, several):
            raise walk.error("one unit is combined with several", node, ONE_UNIT)
        return several
    if is_sum and _are_scores(walk, first) != _are_scores(walk, second) and walk.pair(first, second):
        walk.record({dim: first + second}, "attention scores")  # biases of heads
        return first if _are_scores(walk, first) else second
    walk.check_alike(node, first, second)
    (walk.join if is_sum else walk.multiply)(first, second)
    return first


def _gain(walk: Walk, node: fx.Node, first: fx.Node, second: fx.Node) -> Label | None:
    """A product with a parameter that has one number for each unit writes new units, each of the one that it reads.

    Where more is computed of the parameter, it writes units itself: None, for a product of two values with units.
    """
    value, gain = (second, first) if walk.is_parameter(first) else (first, second)
    own, shift = walk.shifted.get(gain, (gain, 0.0))
    more = own is gain and any(user.target not in GAINS for user in gain.users)
    if walk.is_parameter(own) and (more or value not in walk.labels):
        factors = [factor for factor in dict.fromkeys((first, second)) if walk.is_parameter(factor)]
        if all(promote_row(walk, factor) for factor in factors):
            return None
    if own is gain and value in walk.labels and n_dims(gain) == 1 and are_then_heads(walk, node):
        promote(walk, gain, 0)
        return None
    gain = own
    if not walk.is_parameter(gain) or value not in walk.labels or node.target not in GAINS:
        raise walk.error(PARAMETER, node)
    name, shape, label = walk.program.parameters[gain.name], tuple(gain.meta["val"].shape), walk.label(value)
    offset = n_dims(value) - len(shape)
    along = [d - offset for d in label if d >= offset and math.prod(shape) == shape[d - offset] == size(value, d)]
    (dim, *others), several = label, math.prod(shape[1:]) > 1
    if several and not (others or shift) and len(shape) == n_dims(value) - dim and shape[0] == size(value, dim):
        return _of_rows(walk, value, gain, dim, "gate")
    if len(along) != 1 and not shift and spread(walk, node, value, gain):
        return label
    if len(along) != 1:
        cure = f"give '{name}' one number for each unit, with the shape (units,) or (units, 1, 1), or leave it out"
        raise walk.error(f"'{name}' does not have one number for each unit", node, cure)
    return scale_units(walk, node, (value, along[0] + offset), gain, None, shift=shift, weight_dim=along[0])


def _of_rows(walk: Walk, value: fx.Node, parameter: fx.Node, dim: int, name: str) -> Label:
    """A product or sum with a parameter of several numbers for each unit, which it writes as its features."""
    (runs,) = walk.label(value).values()
    promote(walk, parameter, 0)
    (own,) = walk.label(parameter).values()
    walk.record({dim: runs}, "product" if name == "gate" else name)
    walk.record({0: own}, name)
    if not walk.pair(runs, own):
        raise walk.error("units of unlike layers are combined", parameter)
    return walk.label(value)


def _bias(walk: Walk, node: fx.Node, first: fx.Node, second: fx.Node) -> Label | None:
    """A parameter that is added to what a weight without a bias has just written is its bias.

    Any other parameter that is added to units writes units itself: None, for a sum of two values with units.
    """
    value, bias = (first, second) if first in walk.labels else (second, first)
    if walk.is_parameter(bias) and isinstance(value, int | float) and all(user.target in GAINS for user in node.users):
        parameter, shift = walk.shifted.get(bias, (bias, 0.0))
        walk.shifted[node] = parameter, shift + value  # 1 + γ
        return {}
    if not isinstance(bias, fx.Node) or value not in walk.labels or node.target is not aten.add.Tensor:
        raise walk.error(PARAMETER, node)
    if bias.meta["val"].numel() == 1 and spread(walk, node, value, bias):
        return walk.label(value)
    if not walk.is_parameter(bias):
        raise walk.error(PARAMETER, node)
    name, draft, dim = walk.program.parameters[bias.name], walk.sources.get(value), n_dims(value) - n_dims(bias)
    shape = tuple(bias.meta["val"].shape)
    fits = draft is not None and draft.output == (value.name, dim) and len(value.users) == len(bias.users) == 1
    fits = fits and shape == (size(value, dim), *[1] * (len(shape) - 1))
    if draft is not None and fits and not (draft.bias or draft.norm or draft.per_unit):
        walk.check_unused(node, name)
        draft.bias, draft.output = name, (node.name, dim)
        walk.sources[node] = draft
        return walk.label(value)
    along = [d - dim for d in walk.label(value) if d >= dim and shape[d - dim] == size(value, d)]
    if along == [0] and math.prod(shape[1:]) > 1 and len(walk.label(value)) == 1:
        return _of_rows(walk, value, bias, dim, "shift")
    if len(along) != 1 and spread(walk, node, value, bias):
        return walk.label(value)
    if len(along) != 1:
        raise walk.error(f"'{name}' does not have one number for each unit", node)
    promote(walk, bias, along[0])
    return None


def _values_along(walk: Walk, node: fx.Node) -> tuple[Sequence[fx.Node], int]:
    """The values that are put together, and the dimension along which they are, which is not that of samples."""
    values, dim = walk.arguments(node, 2)
    dim = (dim or 0) % n_dims(node)
    if dim == 0:
        raise walk.error(UNSUPPORTED, node)
    for value in values:
        if walk.is_parameter(value):
            promote(walk, value, n_dims(value) - 1)
    return values, dim


def concatenate(walk: Walk, node: fx.Node) -> Label:
    """``cat(values, dim)`` along units puts layers side by side; along positions it joins them."""
    values, dim = _values_along(walk, node)
    labels = [walk.label(value) for value in values]
    result = dict[int, tuple[Run, ...]]()
    for d in sorted({d for label in labels for d in label}):
        runs = [label.get(d) for label in labels]
        if d == dim:
            beside = (units or (Run(None, size(v, d)),) for units, v in zip(runs, values, strict=True))
            result[d] = tuple(run for stretch in beside for run in stretch)
            continue
        first, *others = [units for units in runs if units is not None]
        for units in others:
            walk.check_alike(node, first, units)
            walk.join(first, units)
        if None in runs:
            walk.fix(first)  # they meet features that keep their index
        else:
            result[d] = first
    return result


def stack(walk: Walk, node: fx.Node) -> Label:
    """``stack(values, dim)`` along a new dimension of positions makes one layer of the values' units.

    Values put in a list, as the last states of a recurrence, and taken from it one by one, are as they were.
    """
    each, along = walk.arguments(node, 2)
    taken = [user.target is aten.select.int and walk.arguments(user, 2)[1] == 0 for user in node.users]
    if (along or 0) % n_dims(node) == 0 and all(taken) and all(value in walk.labels for value in each):
        walk.parts[node] = [walk.label(value) for value in each]
        return {dim + 1: runs for dim, runs in walk.parts[node][-1].items()}
    values, dim = _values_along(walk, node)
    return {d + (d >= dim): runs for d, runs in _joined(walk, node, values).items()}


def choose(name: str) -> Callable[[Walk, fx.Node], Label]:
    """Return the handler of an operation that takes one of several values, number by number: one layer of them all."""

    def handle(walk: Walk, node: fx.Node) -> Label:
        walk.check_no_parameter(node)
        values = [value for value in walk.arguments(node, 3) if is_tensor(value)]
        shape = node.meta["val"].shape[1:]
        whole = [value for value in values if value in walk.labels and value.meta["val"].shape[1:] == shape]
        for value in values:
            if value in walk.labels and value not in whole and not _spread(walk, node, value, whole):
                raise walk.error("one unit is combined with several", node, ONE_UNIT)
        others = [value for value in values if value not in walk.labels]
        label = _joined(walk, node, whole)
        for other in others:
            for dim, runs in label.items():
                at = dim - n_dims(node) + n_dims(other)
                if at >= 0 and not _is_one(other, at):
                    walk.fix(runs)  # they meet features that keep their index
        return walk.record(label, name if not others else "clamp")

    return handle


CHOICES = (
    aten.where.self,
    aten.where.ScalarOther,
    aten.where.ScalarSelf,
    aten.masked_fill.Scalar,
    aten.masked_fill.Tensor,
)
COMPARISONS = [getattr(getattr(aten, name), form) for name in ("gt", "ge", "lt", "le") for form in ("Scalar", "Tensor")]
HANDLERS = {
    **dict.fromkeys((*SUMS, *PRODUCTS), combine),
    aten.cat.default: concatenate,
    aten.stack.default: stack,
    **dict.fromkeys((aten.maximum.default, aten.minimum.default, aten.max.other, aten.min.other), choose("max_pool")),
    **dict.fromkeys(CHOICES, choose("where")),
    **dict.fromkeys(COMPARISONS, choose("compare")),
}


def _are_scores(walk: Walk, runs: Sequence[Run]) -> bool:
    """Whether units are heads with scores of attention."""
    groups = [walk.groups[run.group] for run in runs if run.group is not None]
    return any("attention scores" in group.activations and group.inside > 1 for group in groups)


def _alternate(walk: Walk, node: fx.Node, values: Sequence[fx.Node], dims: Sequence[int]) -> None:
    """Let the units along a dimension of each value alternate as those of the others do, where as many of them meet."""

    def runs() -> list[tuple[Run, ...]]:
        return [walk.label(value)[dim] for value, dim in zip(values, dims, strict=True)]

    unlike = len({tuple(run[1:] for run in own) for own in runs()}) > 1
    alternating = any(run.step for own in runs() for run in own)
    if unlike and alternating and len({size(value, dim) for value, dim in zip(values, dims, strict=True)}) == 1:
        alternate_alike(walk, node, runs)


def _spread(walk: Walk, node: fx.Node, value: fx.Node, others: Sequence[fx.Node]) -> bool:
    """Note that a value of one unit needs one for each unit of others; False if it cannot have them."""
    if walk.in_tail or len(walk.label(value)) != 1 or not others or n_dims(value) != n_dims(others[0]):
        return False
    ((dim, one),) = walk.label(value).items()
    several = walk.label(others[0]).get(dim)
    return several is not None and size(value, dim) == 1 and spread_unit(walk, node, one, several)


def _joined(walk: Walk, node: fx.Node, values: Sequence[fx.Node]) -> Label:
    """The label of values of one shape, whose units are made one layer; they keep their index where one has none."""
    for dim in sorted({dim for value in values for dim in walk.label(value)}):
        with_units = [value for value in values if dim in walk.label(value)]
        _alternate(walk, node, with_units, [dim] * len(with_units))
    labels, result = [walk.label(value) for value in values], dict[int, tuple[Run, ...]]()
    for dim in sorted({dim for label in labels for dim in label}):
        first, *others = [label[dim] for label in labels if dim in label]
        for runs in others:
            walk.check_alike(node, first, runs)
            walk.join(first, runs)
        if len(others) + 1 < len(labels):
            walk.fix(first)
        else:
            result[dim] = first
    return result


def _numbers(value: fx.Node) -> int:
    """Numbers in a value of very many samples."""
    return math.prod(sizes(value.meta["val"], N_SAMPLES))


def _is_one(value: fx.Node, dim: int) -> bool:
    extent = value.meta["val"].shape[dim]
    return isinstance(extent, int) and extent == 1
