"""Operations on several values: sums, products, concatenation."""

from __future__ import annotations

import math

from torch import fx
from torch.ops import aten

from consilience.units.program import N_SAMPLES, sizes
from consilience.units.walk import UNSUPPORTED, Label, Run, Walk, is_tensor, n_dims, size

SUMS = (aten.add.Tensor, aten.sub.Tensor)
PRODUCTS = (aten.mul.Tensor, aten.div.Tensor)


def combine(walk: Walk, node: fx.Node) -> Label:
    """A sum makes one layer of what it adds; a product ties units, and the second factor is the gate."""
    walk.check_no_parameter(node)
    is_sum = node.target in SUMS
    first, second = walk.arguments(node, 2)
    if not is_tensor(first) or not is_tensor(second):
        label = walk.label(first if is_tensor(first) else second)
        return walk.record(label, "shift" if is_sum else "scale")
    if node.target is aten.mul.Tensor and _numbers(second) > _numbers(first):
        first, second = second, first
    label, all_paired = {}, True
    for dim in range(n_dims(node)):
        at = [dim - n_dims(node) + n_dims(value) for value in (first, second)]
        runs = [walk.label(value).get(d) for value, d in zip((first, second), at, strict=True)]
        spread = [d < 0 or _is_one(value, d) for value, d in zip((first, second), at, strict=True)]
        if runs[0] is not None and runs[1] is not None:
            if spread[0] != spread[1]:
                raise walk.error("one unit is combined with several", node)
            walk.check_alike(node, runs[0], runs[1])
            (walk.join if is_sum else walk.multiply)(runs[0], runs[1])
            label[dim] = runs[0]
            continue
        units, alone = (runs[0], spread[1]) if runs[0] is not None else (runs[1], spread[0])
        if units is None:
            continue
        all_paired = False
        walk.record({dim: units}, "shift" if is_sum else "product")
        if alone:
            label[dim] = units
        else:
            walk.fix(units)  # they meet features that keep their index
    if not is_sum and not all_paired and first in walk.labels and second in walk.labels:
        walk.record(walk.labels[second], "product")
    return label


def concatenate(walk: Walk, node: fx.Node) -> Label:
    """``cat(values, dim)`` along units puts layers side by side; along positions it joins them."""
    walk.check_no_parameter(node)
    values, dim = walk.arguments(node, 2)
    dim = (dim or 0) % n_dims(node)
    if dim == 0:
        raise walk.error(UNSUPPORTED, node)
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


HANDLERS = {**dict.fromkeys((*SUMS, *PRODUCTS), combine), aten.cat.default: concatenate}


def _numbers(value: fx.Node) -> int:
    """Numbers in a value of very many samples."""
    return math.prod(sizes(value.meta["val"], N_SAMPLES))


def _is_one(value: fx.Node, dim: int) -> bool:
    extent = value.meta["val"].shape[dim]
    return isinstance(extent, int) and extent == 1
