"""Incoming weights are centroids: one map of an assembly from the members' grounded hyperplanes.

For a map from layer R to layer L, with mixing A of L and projections P, c on R:

    W̃ = Σ_k A⁽ᵏ⁾ᵀ W⁽ᵏ⁾ P⁽ᵏ⁾,    b̃ = Σ_k A⁽ᵏ⁾ᵀ (b⁽ᵏ⁾ + W⁽ᵏ⁾ c⁽ᵏ⁾).

The outputs are a layer whose clusters are "output i of every member" with A = 1/N, so that the same formula gives the
readout, the mean over members of ``W_out P``. Nothing here knows what kind of map it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from consilience.bases.hyperplanes import Projection, ground, in_rows
from consilience.units.architecture import TracedNetwork
from consilience.units.axes import Axis
from consilience.units.maps import Map, Weights


def construct(
    m: Map,
    members: Sequence[TracedNetwork],
    mixing: Sequence[Tensor],
    projections: Mapping[Axis, Sequence[Projection]],
    *,
    turned: bool = False,
) -> Weights:
    """Return the centroids of a map's hyperplanes, from A (u, c) and, by place that the map reads, P of each member.

    A is over units, P over their rows. A map per unit of directions (``turned``) is 1: what reads it is fitted to that.
    """

    total: Weights | None = None
    for network, mixed, read in zip(members, mixing, _by_member(m, projections, len(members)), strict=True):
        if m.per_unit:
            share = _plain(m, network, mixed, len(members)) if turned else _per_unit(m, network, mixed, read)
            total = share if total is None else _sum(total, share)
            continue
        mixed = in_rows(mixed, m.output.inside)
        rows = _used(mixed)
        columns = [_used(read[axis].matrix) if axis in read else slice(None) for axis in m.inputs]
        narrow = {axis: Projection(p.matrix[:, _used(p.matrix)], p.offset) for axis, p in read.items()}
        share = _share(m, network, mixed[:, rows], narrow)
        if total is None:
            of_axes = [read[axis].matrix.shape[1] if axis in read else None for axis in m.inputs]
            total = _nothing(share, mixed.shape[1], of_axes)
        for whole, part, some in zip(total.parts, share.parts, columns, strict=True):
            whole[rows, some] += part
        total.bias[rows] += share.bias
    assert total is not None
    return total


def _by_member(
    m: Map, projections: Mapping[Axis, Sequence[Projection]], n_members: int
) -> Iterator[dict[Axis, Projection]]:
    axes = [axis for axis in m.inputs if axis.layer is not None]
    return ({axis: projections[axis][k] for axis in axes} for k in range(n_members))


def _used(matrix: Tensor) -> slice:
    """The columns from the first that is not zero to the last, if they are less than half of all; else all.

    At full width a member has few of the columns, and its share of a map is a small block.
    """
    used = matrix.any(0).nonzero()[:, 0]
    start, end = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 0)
    return slice(start, end) if 2 * (end - start) < matrix.shape[1] else slice(None)


def _nothing(share: Weights, n_rows: int, n_columns: Sequence[int | None]) -> Weights:
    parts = zip(share.parts, n_columns, strict=True)
    zeros = (part.new_zeros(n_rows, part.shape[1] if n is None else n, part.shape[2]) for part, n in parts)
    return Weights(tuple(zeros), share.bias.new_zeros(n_rows))


def _sum(a: Weights, b: Weights) -> Weights:
    return Weights(tuple(p + q for p, q in zip(a.parts, b.parts, strict=True)), a.bias + b.bias)


def _share(m: Map, network: TracedNetwork, mixing: Tensor, own: Mapping[Axis, Projection]) -> Weights:
    grounded = ground(m, network, own)
    parts = tuple(torch.einsum("uk,ucs->kcs", mixing, part) for part in grounded.parts)
    return Weights(parts, mixing.T @ grounded.bias)


def _per_unit(m: Map, network: TracedNetwork, mixing: Tensor, own: Mapping[Axis, Projection]) -> Weights:
    """A member's share in a map per unit: centroid c reads centroid c alone, ``w̃_c = Σ_u A[u, c] P[u, c] w_u``.

    A unit of several clusters that is projected on one of them has the same scale in the others.
    """
    weights, (projection,) = network.weights(m), own.values()
    part = weights.parts[0][:, 0]
    elsewhere = mixing.sign() * projection.matrix.abs().amax(1, keepdim=True)
    scales = torch.where(projection.matrix == 0, elsewhere, projection.matrix)
    mixed = torch.einsum("uc,uc,us->cs", mixing, scales, part)
    return Weights((mixed[:, None],), mixing.T @ (weights.bias + part.sum(1) * projection.offset))


def _plain(m: Map, network: TracedNetwork, mixing: Tensor, n_members: int) -> Weights:
    """A member's share in a map per unit that multiplies by 1."""
    (part,) = network.weights(m).parts
    ones = part.new_ones(mixing.shape[1], *part.shape[1:]) / n_members
    return Weights((ones,), ones.new_zeros(len(ones)))
