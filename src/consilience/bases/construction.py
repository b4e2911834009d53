"""Incoming weights are centroids: one map of an assembly from the members' grounded hyperplanes.

For a map from layer R to layer L, with mixing A of L and projections P, c on R:

    W̃ = Σ_k A⁽ᵏ⁾ᵀ W⁽ᵏ⁾ P⁽ᵏ⁾,    b̃ = Σ_k A⁽ᵏ⁾ᵀ (b⁽ᵏ⁾ + W⁽ᵏ⁾ c⁽ᵏ⁾).

The outputs are a layer whose clusters are "output i of every member" with A = 1/N, so that the same formula gives the
readout, the mean over members of ``W_out P``. Nothing here knows what kind of map it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce

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

    def share(k: int) -> Weights:
        own = {axis: projections[axis][k] for axis in m.inputs if axis.layer is not None}
        if m.per_unit and turned:
            return _plain(m, members[k], mixing[k], len(members))
        if m.per_unit:
            return _per_unit(m, members[k], mixing[k], own)
        return _share(m, members[k], in_rows(mixing[k], m.output.inside), own)

    return reduce(_sum, map(share, range(len(members))))


def _sum(a: Weights, b: Weights) -> Weights:
    return Weights(tuple(p + q for p, q in zip(a.parts, b.parts, strict=True)), a.bias + b.bias)


def _share(m: Map, network: TracedNetwork, mixing: Tensor, own: Mapping[Axis, Projection]) -> Weights:
    grounded = ground(m, network, own)
    parts = tuple(torch.einsum("uk,ucs->kcs", mixing, part) for part in grounded.parts)
    return Weights(parts, mixing.T @ grounded.bias)


def _per_unit(m: Map, network: TracedNetwork, mixing: Tensor, own: Mapping[Axis, Projection]) -> Weights:
    """A member's share in a map per unit: centroid c reads centroid c alone, ``w̃_c = Σ_u A[u, c] P[u, c] w_u``."""
    weights, (projection,) = network.weights(m), own.values()
    part = weights.parts[0][:, 0]
    mixed = torch.einsum("uc,uc,us->cs", mixing, projection.matrix, part)
    return Weights((mixed[:, None],), mixing.T @ (weights.bias + part.sum(1) * projection.offset))


def _plain(m: Map, network: TracedNetwork, mixing: Tensor, n_members: int) -> Weights:
    """A member's share in a map per unit that multiplies by 1."""
    (part,) = network.weights(m).parts
    ones = part.new_ones(mixing.shape[1], *part.shape[1:]) / n_members
    return Weights((ones,), ones.new_zeros(len(ones)))
