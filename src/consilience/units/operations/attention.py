"""Attention: products of two values with units, and softmax over positions.

A unit is a head: a block of rows of the weights that write queries, keys and values. With grouped queries it is a key
and value head with the query heads that read it. Queries, keys and values of one head are paired; what the next weight
reads is the values, averaged over positions.
"""

from __future__ import annotations

import operator

from torch import fx
from torch.ops import aten

from consilience.units.drafts import Label, Run
from consilience.units.operations.embedding import promote
from consilience.units.operations.piles import pass_branches
from consilience.units.operations.weights import mix_units
from consilience.units.walk import PARAMETER, UNSUPPORTED, Walk, n_dims, size

SOFTMAX = (aten.softmax.int, aten._softmax.default, aten._safe_softmax.default)
MULTIPLY = (aten.mul.Tensor, aten.matmul.default, aten.bmm.default)
TAKEN = (
    *(aten.unsqueeze.default, aten.view.default, aten.reshape.default, aten.expand.default, aten.unbind.int),
    *(aten.slice.Tensor, aten.select.int, aten.split.Tensor, aten.chunk.default, operator.getitem),
    *(aten.transpose.int, aten.permute.default, aten.contiguous.default, aten.clone.default),
)
OTHERS = "write q, k and v as (n, heads, positions, features), each from a weight of its own"
SEVERAL = "one head alone is told from its features by a reshape to (n, positions, heads, features)"


def scaled_dot_product_attention(walk: Walk, node: fx.Node) -> Label:
    """``scaled_dot_product_attention(q, k, v, mask, dropout, causal, scale, grouped)`` of heads (n, h, ..., t, d).

    A mask may have numbers of its own for each head, as biases of relative positions are.
    """
    q, k, v, mask = walk.arguments(node, 4)
    heads = next(iter(walk.label(q)), n_dims(node))
    for value in (q, k, v):
        if set(walk.label(value)) != {heads} or n_dims(value) != n_dims(node) or heads > n_dims(node) - 3:
            cure = SEVERAL if size(value, n_dims(node) - 3) == 1 else OTHERS
            raise walk.error("heads of attention that are no units of a layer", node, cure)
    if walk.is_parameter(mask):
        promote(walk, mask, heads - n_dims(node) + n_dims(mask))
    if mask in walk.labels:
        biases, dim = walk.label(mask), heads - n_dims(node) + n_dims(mask)
        if set(biases) != {dim}:
            raise walk.error("a mask of attention that depends on units", node, "let masks depend on inputs or heads")
        _pair(walk, node, walk.label(q)[heads], biases[dim])
        walk.record(biases, "attention scores")
    elif isinstance(mask, fx.Node) and n_dims(mask) + heads >= n_dims(node) and _by_head(mask, heads - n_dims(node)):
        for value in (q, k, v):
            walk.fix(walk.label(value)[heads])  # they meet numbers that keep their index
    elif set(walk.carriers(node)) - {q, k, v}:
        raise walk.error("a mask of attention that depends on units", node, "let masks depend on inputs or heads")
    _pair(walk, node, walk.label(q)[heads], walk.label(k)[heads])
    _pair(walk, node, walk.label(k)[heads], walk.label(v)[heads])
    for value in (q, k):
        walk.record(walk.label(value), "attention scores")
    label = walk.record(walk.label(v), "attention")
    (values,) = label[heads]
    (queries,) = walk.label(q)[heads]
    return {heads: (Run(values.group, max(values.block, queries.block)),)}


def _by_head(mask: fx.Node, dim: int) -> bool:
    """Whether a mask has other numbers for each head, along a dimension counted from the last."""
    heads = mask.meta["val"].shape[dim]
    return isinstance(heads, int) and heads > 1


def product(walk: Walk, node: fx.Node) -> Label:
    """``matmul(a, b)``: with a weight (i, u) as b a linear map; of two values a product head by head."""
    a, b = walk.arguments(node, 2)
    if b in walk.turned or (b.name in walk.program.parameters and b not in walk.labels):
        return transposed_linear(walk, node, a, b, None)
    walk.check_no_parameter(node)
    if n_dims(a) != n_dims(b) or n_dims(a) < 3:
        raise walk.error(UNSUPPORTED, node, OTHERS)
    dims, (first, second) = n_dims(node), (walk.label(a), walk.label(b))
    if dims - 1 in first or dims - 2 in second:
        raise walk.error("a product that sums over units", node, OTHERS)
    if not first or not second:  # positions are mixed by what has no units, as by a fixed adjacency matrix
        label, other = (first, b) if first else (second, a)
        for dim, runs in label.items():
            if dim < dims - 2 and size(other, dim) != 1:
                walk.fix(runs)  # each has another mixture, as heads with fixed slopes have
        walk.record(label, "avg_pool")
        return label
    if set(first) != set(second) or len(first) != 1 or max(first) >= dims - 2:
        raise walk.error(UNSUPPORTED, node, OTHERS)
    ((dim, runs),) = first.items()
    _pair(walk, node, runs, second[dim])
    scores = not any(
        "softmax" in walk.groups[run.group].activations for run in walk.label(a)[dim] if run.group is not None
    )
    walk.record(walk.label(a), "attention scores")
    walk.record(walk.label(b), "attention scores" if scores else "attention")
    return walk.label(b)


def softmax(walk: Walk, node: fx.Node) -> Label:
    """``softmax(value, dim)`` over positions, or over parts of units; or over units, which are then gates of experts.

    Each expert has its own weights, so that gates keep their index.
    """
    value = walk.only_value(node, piled=True)
    dim = int(walk.arguments(node, 2)[1]) % n_dims(value)
    gates = walk.label(value).get(dim, ()) if value not in walk.piled and _only_multiplies(node) else ()
    if gates and all(run.block == 1 and run.group is not None and walk.groups[run.group].inside == 1 for run in gates):
        walk.fix(gates)
        return {d: runs for d, runs in walk.record(walk.label(value), "softmax").items() if d != dim}
    walk.check_fixed(node, value, [dim])
    if value in walk.piled:
        return pass_branches(walk, node, value, "softmax")
    return walk.pass_through(node, "softmax")


def _only_multiplies(node: fx.Node) -> bool:
    """Whether all that is done with a value, or its parts, is to multiply others by it."""
    targets = {user: user.target for user in node.users}
    return bool(targets) and all(
        target in MULTIPLY or (target in TAKEN and _only_multiplies(user)) for user, target in targets.items()
    )


def addmm(walk: Walk, node: fx.Node) -> Label:
    """``addmm(bias, value, weight)`` with a weight (i, u)."""
    bias, value, weight = walk.arguments(node, 3)
    return transposed_linear(walk, node, value, weight, bias)


def transposed_linear(walk: Walk, node: fx.Node, value: fx.Node, weight: fx.Node, bias: fx.Node | None) -> Label:
    """Return the label of ``value @ weight + bias``, with a weight (i, u), or the transpose of one (u, i)."""
    if n_dims(weight) != 2:
        raise walk.error(PARAMETER, node, "use weights with two dimensions")
    weight, of_units = (walk.turned[weight], 0) if weight in walk.turned else (weight, 1)
    last = n_dims(value) - 1
    others = {dim: runs for dim, runs in walk.label(value).items() if dim != last}
    draft = mix_units(walk, node, (value, last), n_dims(node) - 1, weight, bias, dim=of_units)
    if others:
        walk.crossing.append(draft.name)
    return {**others, last: draft.along}


def _pair(walk: Walk, node: fx.Node, first: tuple[Run, ...], second: tuple[Run, ...]) -> None:
    if not walk.pair(first, second):
        raise walk.error("heads that cannot be paired", node, OTHERS)


HANDLERS = {
    aten.scaled_dot_product_attention.default: scaled_dot_product_attention,
    aten.matmul.default: product,
    aten.bmm.default: product,
    aten.mm.default: product,
    aten.addmm.default: addmm,
    **dict.fromkeys(SOFTMAX, softmax),
}
