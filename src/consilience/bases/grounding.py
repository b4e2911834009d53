"""The basis of a layer, and how members' units are expressed in it (DESIGN 3.2).

For member k, with activations ``a`` of its own and ``ã`` of the basis:

- ``mixing`` A (u, c) makes a centroid of units: centroid pre-activation ``z̃_c = Σ_k Σ_u A⁽ᵏ⁾[u, c] z⁽ᵏ⁾_u``, hence
  also centroid hyperplane = the same sum of grounded hyperplanes;
- ``projection`` (P, c) makes the member's units of centroids: ``a ≈ P ã + c``.

Both follow from the labels, with the scale of each unit along its centroid. With calibration data, P is then refitted
by ridge least squares *around* that first guess, so that where the guess is exact, as with every unit its own cluster,
it stays.

Axis legend: ``k`` member, ``u`` unit of one member, ``U`` units of all, ``c`` cluster, ``d`` coordinates of a point.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from consilience.bases.hyperplanes import Projection
from consilience.signals.batches import MAX_BATCH
from consilience.signals.moments import Moments, ridge
from consilience.ties import first_largest
from consilience.units.architecture import Architecture
from consilience.units.axes import Axis
from consilience.units.symmetry import Symmetry

SMALLEST = 1e-6  # of the points' norms: a centroid, or a share of one, that is less is nothing but rounding
RIDGE = 1e-3  # of the mean variance of the basis activations; benchmarks/ridge.py has the sweep


@dataclass(frozen=True)
class Basis:
    """The clusters of one layer as coordinates.

    Attributes
    ----------
    mixing : per member, (u, c).
    projections : per member, P (u, c) and c (u,).
    """

    mixing: tuple[Tensor, ...]
    projections: tuple[Projection, ...]

    @property
    def width(self) -> int:
        """Number of clusters."""
        return self.mixing[0].shape[1]


def basis_of(
    points: Tensor, labels: NDArray[np.int64], widths: Sequence[int], symmetry: Symmetry, alive: NDArray[np.bool_]
) -> Basis:
    """Return the basis that labels define: `basis_of_groups` with one group for each label.

    ``labels`` (U,) has the cluster of each unit, −1 for none; all of 0…c−1 occur.
    """
    return basis_of_groups(points, groups_of(labels), widths, symmetry, alive)


def groups_of(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which units make up each cluster, (U, c), from the cluster of each unit (U,), −1 for none."""
    inside = np.flatnonzero(labels >= 0)
    groups = np.zeros((len(labels), int(labels.max()) + 1), dtype=bool)
    groups[inside, labels[inside]] = True
    return groups


def basis_of_groups(
    points: Tensor, groups: NDArray[np.bool_], widths: Sequence[int], symmetry: Symmetry, alive: NDArray[np.bool_]
) -> Basis:
    """Return the basis whose centroids are those of groups of units.

    Parameters
    ----------
    points : (U, d) hyperplanes, or any linear image of them (pre-activations on data); not normalised.
    groups : (U, c) which units make up each centroid; none is empty, and they may overlap.
    widths : units of each member; the rows of ``points`` are the members' units one member after the other.
    symmetry : of the layer's activation.
    alive : (U,); a live unit in no group, or in several, is projected on the nearest centroid; a dead one in no group
        on none.

    Notes
    -----
    With p the points (at unit norm ν where units may be rescaled) and σ a sign per unit (1 unless the sign is free),
    the centroid is ``m_c = mean σ p``, at unit norm where units may be rescaled, and unit u is ``s_u`` times it,
    ``s_u = σ ν (p·m) / (m·m)`` if rescalable, ``s_u = σ`` if not.
    """
    dtype, points = points.dtype, points.double()
    inside = torch.from_numpy(groups)
    norms = (
        torch.linalg.vector_norm(points, dim=1) if symmetry.homogeneous else torch.ones(len(points), dtype=points.dtype)
    )
    norms = torch.where(norms > 0, norms, 1)
    p = points / norms[:, None]
    signed = _signed(p, inside) if symmetry.flippable else inside.double()

    mixing = signed / norms[:, None] / inside.sum(0)
    centroids = mixing.T @ points
    lengths = torch.linalg.vector_norm(centroids, dim=1)
    lengths = torch.where(lengths > SMALLEST, lengths, 1)
    if symmetry.homogeneous:
        mixing, centroids = mixing / lengths, centroids / lengths[:, None]

    nearest, elsewhere = inside.int().argmax(1), inside.sum(1) != 1
    nearest[elsewhere] = _nearest(p[elsewhere], centroids, symmetry)
    along = (p * centroids[nearest]).sum(1)
    scale = torch.ones_like(along)
    if symmetry.flippable:
        scale[_opposed(p, centroids[nearest])] = -1
    if symmetry.homogeneous:
        scale = norms * (along if symmetry.flippable else along.clamp(min=0))
    placed = torch.zeros_like(mixing)
    placed[torch.arange(len(p)), nearest] = torch.where(torch.from_numpy(alive) | inside.any(1), scale, 0)
    offset = _flip_constant(placed, symmetry)
    split = list(widths)
    return Basis(
        tuple(part.to(dtype) for part in mixing.split(split)),
        tuple(
            Projection(m.to(dtype), c.to(dtype)) for m, c in zip(placed.split(split), offset.split(split), strict=True)
        ),
    )


def by_index(n_members: int, width: int, dtype: torch.dtype) -> Basis:
    """Return the basis of a layer whose units are told apart by their index: unit i of all members is cluster i."""
    eye = torch.eye(width, dtype=dtype)
    return Basis((eye / n_members,) * n_members, (Projection(eye, torch.zeros(width, dtype=dtype)),) * n_members)


def express(basis: Basis, activations: Sequence[Tensor], shared: Tensor | None, *, intercept: bool) -> Basis:
    """Return the basis with the members' projections completed, and refitted to data where there is any.

    A unit that no cluster stands for (a dead one) gets its mean activation as offset: what it adds is constant. Then,
    with the basis activations ã, each projection becomes the ridge solution of ``a ≈ P ã + c`` around what it was:
    ``min Σ‖a − P ã − c‖² + λ‖P − P₀‖²``. One factorisation serves all members.

    Parameters
    ----------
    basis : from `basis_of`.
    activations : per member, a (n, u) on calibration data; any one input will do if ``shared`` is None.
    shared : ã (n, c), or None to leave the projections to the weights.
    intercept : whether what reads the layer has biases to take offsets (`takes_offset`); without, they stay as they
        are.
    """
    priors = [
        _with_constants(p, a.mean(0)) if intercept else p for p, a in zip(basis.projections, activations, strict=True)
    ]
    if shared is None:
        return replace(basis, projections=tuple(priors))
    residuals = [a - shared @ p.matrix.T - p.offset for p, a in zip(priors, activations, strict=True)]
    widths = [len(p.offset) for p in priors]
    moments = Moments(shared.shape[1], sum(widths))
    for rows, targets in zip(shared.split(MAX_BATCH), torch.cat(residuals, dim=1).split(MAX_BATCH), strict=True):
        moments.add(rows, targets)
    matrix, offset = ridge(moments, RIDGE, intercept=intercept)
    refitted = (
        Projection(p.matrix + m.to(p.matrix.dtype), p.offset + c.to(p.offset.dtype))
        for p, m, c in zip(priors, matrix.split(widths), offset.split(widths), strict=True)
    )
    return replace(basis, projections=tuple(refitted))


def _with_constants(projection: Projection, mean: Tensor) -> Projection:
    placed = projection.matrix.any(1) | (projection.offset != 0)
    return Projection(projection.matrix, torch.where(placed, projection.offset, mean))


def basis_activations(basis: Basis, activations: Sequence[Tensor], symmetry: Symmetry) -> Tensor:
    """Estimate the centroids' activations from their units': ``ã ≈ Σ_k A⁽ᵏ⁾ᵀ a⁽ᵏ⁾`` (n, c), with a (n, u) per member.

    For an activation that is odd up to a constant, a flipped unit counts as ``constant − a``.
    """
    constant = symmetry.odd_constant or 0.0
    shares = (
        a @ mixing + constant * mixing.clamp(max=0).abs().sum(0)
        for a, mixing in zip(activations, basis.mixing, strict=True)
    )
    return torch.stack(list(shares)).sum(0)


def takes_offset(architecture: Architecture, axis: Axis) -> bool:
    """Whether everything that reads a layer in this place has a bias, which takes the offset of a projection."""
    return all(m.has_bias for m in architecture.maps if axis in m.inputs)


def _signed(p: Tensor, groups: Tensor) -> Tensor:
    """The groups (U, c) with a sign for each unit, so that a group's units point one way: the side of its principal
    axis.

    The axis itself is turned so that the signs of its group sum to > 0, or the first is 1. Units at right angles to the
    axis have the sign 1.
    """
    signed = groups.to(p.dtype)
    for c in range(groups.shape[1]):
        rows = groups[:, c].nonzero()[:, 0]
        if len(rows) > 1:
            gram = p[rows] @ p[rows].T
            side = torch.linalg.eigh(gram).eigenvectors[:, -1]
            clear = side.abs() > SMALLEST * side.abs().max()
            side = torch.where(clear, side.sign(), 0)
            total = float(side.sum()) or float(side[clear][0])
            signed[rows, c] = torch.where(clear, side * math.copysign(1, total), 1).to(p.dtype)
    return signed


def _nearest(p: Tensor, centroids: Tensor, symmetry: Symmetry) -> Tensor:
    """Index of the centroid that reproduces each point best: (U,)."""
    along = p @ centroids.T
    if symmetry.flippable:
        along = along.abs()
    squares = centroids.square().sum(1)
    if symmetry.homogeneous:  # any multiple of a centroid will do: the smallest angle
        return first_largest(along / torch.where(squares > 0, squares, 1).sqrt())
    return first_largest(2 * along - squares)


def _opposed(a: Tensor, b: Tensor) -> Tensor:
    """Which rows of a (U, d) and b (U, d) point away from each other: (U,) bool; not those at right angles."""
    norms = torch.linalg.vector_norm(a, dim=1) * torch.linalg.vector_norm(b, dim=1)
    opposed: Tensor = (a * b).sum(1) < -SMALLEST * norms
    return opposed


def _flip_constant(placed: Tensor, symmetry: Symmetry) -> Tensor:
    """``a = constant − ã`` for a unit that is flipped against its centroid: the constant goes into the offset (U,)."""
    constant = symmetry.odd_constant or 0.0
    return constant * (placed < 0).any(1).to(placed.dtype)
