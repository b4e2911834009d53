"""Pooling, interpolation, reductions and padding over positions, channel by channel.

Averages and interpolations are linear; maxima commute with positive factors only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx
from torch.ops import aten

from consilience.units.drafts import Label
from consilience.units.operations.piles import reduce_branches
from consilience.units.walk import UNSUPPORTED, Walk, n_dims

VARIANCE = "use (x.var(dim, unbiased=False, keepdim=True) + eps).sqrt(): with unbiased=True it changes with the width"
TOTAL = "sum units by a layer with a weight of ones, as nn.Linear(units, 1), which is the same"


def over_last(dims: int, name: str) -> Callable[[Walk, fx.Node], Label]:
    """Return the handler of an operation over the last dimensions, through which units pass as through ``name``."""

    def handle(walk: Walk, node: fx.Node) -> Label:
        value = walk.only_value(node)
        walk.check_fixed(node, value, range(n_dims(value) - dims, n_dims(value)))
        return walk.pass_through(node, name)

    return handle


def over_named(name: str) -> Callable[[Walk, fx.Node], Label]:
    """Return the handler of a reduction ``reduce(value, dims, ..., keepdim)``."""

    def handle(walk: Walk, node: fx.Node) -> Label:
        value = walk.only_value(node, piled=True)
        dims, keep = walk.option(node, "dim"), walk.option(node, "keepdim")
        gone = {d % n_dims(value) for d in ([dims] if isinstance(dims, int) else dims or range(n_dims(value)))}
        if value in walk.piled:
            return reduce_branches(walk, node, value, gone, name, keep=bool(keep))
        walk.check_fixed(node, value, sorted(gone))
        if 0 in gone and walk.varies(value):
            raise walk.error("samples are mixed", node)
        label = walk.pass_through(node, name)
        return {d if keep else d - sum(g < d for g in gone): runs for d, runs in label.items()}

    return handle


def mean(walk: Walk, node: fx.Node) -> Label:
    """``mean(value, dims, keepdim)`` over positions, or over all units of a layer, as in a norm written by hand."""
    value = walk.only_value(node, piled=True)
    dims, label = walk.option(node, "dim"), walk.label(value)
    gone = {d % n_dims(value) for d in dims or ()}
    if len(gone) != 1 or not gone & label.keys():
        return over_named("avg_pool")(walk, node)
    (dim,) = gone
    if len(label[dim]) > 1 or not walk.option(node, "keepdim"):
        cure = "take the mean of one layer, with keepdim=True, as norms do"
        raise walk.error("a mean of units that is no norm", node, cure)
    walk.record(label, "layer_norm")
    walk.mix_statistics(node, label[dim])
    return {d: runs for d, runs in label.items() if d != dim}


def var(walk: Walk, node: fx.Node) -> Label:
    """``var(value, dims, correction, keepdim)`` over positions, or over all units, as in a norm written by hand."""
    value = walk.only_value(node, piled=True)
    gone = {d % n_dims(value) for d in walk.option(node, "dim") or ()}
    correction = walk.option(node, "unbiased" if node.target is aten.var.dim else "correction")
    if len(gone) != 1 or not gone & walk.label(value).keys() or correction not in (0, False):
        if gone & walk.label(value).keys():
            raise walk.error(UNSUPPORTED, node, VARIANCE)
        return over_named("var")(walk, node)
    return mean(walk, node)


def total(walk: Walk, node: fx.Node) -> Label:
    """``sum(value, dims, keepdim)`` over positions."""
    value = walk.only_value(node, piled=True)
    if value not in walk.piled and {d % n_dims(value) for d in walk.option(node, "dim") or ()} & {*walk.label(value)}:
        raise walk.error(UNSUPPORTED, node, TOTAL)
    return over_named("avg_pool")(walk, node)


def std(walk: Walk, node: fx.Node) -> Label:
    """``std(value, dims, correction, keepdim)`` over positions."""
    value = walk.only_value(node, piled=True)
    if {d % n_dims(value) for d in walk.option(node, "dim") or ()} & walk.label(value).keys():
        raise walk.error(UNSUPPORTED, node, VARIANCE)
    return over_named("std")(walk, node)


def pad(walk: Walk, node: fx.Node) -> Label:
    """``pad(value, amounts, mode, constant)``; zeros and copies of values commute with factors."""
    value = walk.only_value(node)
    amounts: Any = node.args[1]
    padded = [n_dims(value) - 1 - i // 2 for i, amount in enumerate(amounts) if amount != 0]
    walk.check_fixed(node, value, padded)
    options = [*node.args[2:], *node.kwargs.values()]
    mode = next((option for option in options if isinstance(option, str)), "constant")
    constant = next((option for option in options if isinstance(option, int | float)), 0)
    return walk.pass_through(node, "scale" if mode != "constant" or constant == 0 else "shift")


def roll(walk: Walk, node: fx.Node) -> Label:
    """``roll(value, shifts, dims)`` of positions."""
    value = walk.only_value(node)
    dims = [d % n_dims(value) for d in walk.option(node, "dims")]
    walk.check_fixed(node, value, dims or range(n_dims(value)))
    if 0 in dims:
        raise walk.error("samples are mixed", node)
    return walk.pass_through(node, "scale")


HANDLERS: dict[object, Callable[[Walk, fx.Node], Label]] = {
    aten.max_pool2d_with_indices.default: over_last(2, "max_pool"),
    aten.upsample_linear1d.vec: over_last(1, "upsample"),
    aten.upsample_bilinear2d.vec: over_last(2, "upsample"),
    aten.upsample_trilinear3d.vec: over_last(3, "upsample"),
    aten.mean.dim: mean,
    aten.roll.default: roll,
    aten.sum.dim_IntList: total,
    aten.amax.default: over_named("max_pool"),
    aten.amin.default: over_named("max_pool"),
    aten.max.dim: over_named("max_pool"),
    aten.min.dim: over_named("max_pool"),
    aten.std.dim: std,
    aten.std.correction: std,
    aten.var.dim: var,
    aten.var.correction: var,
    aten.linalg_vector_norm.default: over_named("norm"),
    aten.pad.default: pad,
    aten.constant_pad_nd.default: pad,
}
for dims in (1, 2, 3):
    HANDLERS[getattr(aten, f"upsample_nearest{dims}d").vec] = over_last(dims, "upsample")
    for pool in ("max_pool", "avg_pool"):
        HANDLERS[getattr(aten, f"{pool}{dims}d").default] = over_last(dims, pool)
        HANDLERS[getattr(aten, f"adaptive_{pool}{dims}d").default] = over_last(dims, pool)
