"""The basis of a layer, and how members' units are expressed in it.

For member k, with activations ``a`` of its own and ``ã`` of the basis:

- ``mixing`` A (u, c) makes a centroid of units: centroid pre-activation ``z̃_c = Σ_k Σ_u A⁽ᵏ⁾[u, c] z⁽ᵏ⁾_u``, hence
  also centroid hyperplane = the same sum of grounded hyperplanes;
- ``projection`` (P, c) makes the member's units of centroids: ``a ≈ P ã + c``.

Both follow from groups of units, with the scale of each unit along its centroid. With calibration data, P is then
refitted by ridge least squares *around* that first guess, so that where the guess is exact, as with every unit its own
cluster, it stays.

Axis legend: ``k`` member, ``u`` unit of one member, ``U`` units of all, ``c`` cluster, ``d`` coordinates of a point,
``g`` pairs of a unit and a cluster.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from consilience.agreement import spread_of
from consilience.bases.hyperplanes import Projection, in_rows
from consilience.signals.batches import MAX_BATCH
from consilience.signals.moments import Moments, cross_validated
from consilience.signals.shelf import TOGETHER, blocks
from consilience.ties import SINGLE, first_largest
from consilience.units.architecture import Architecture
from consilience.units.axes import Axis, by_row
from consilience.units.symmetry import Symmetry

SMALLEST = 1e-6  # of the points' norms: a centroid, or a share of one, that is less is nothing but rounding
RIDGE = 1e-3  # of the mean variance of the basis activations
AT_ONCE = 4096  # units whose points are in memory in double precision
MAX_TURNS = 200  # of the power iteration for a principal axis


@dataclass(frozen=True)
class Basis:
    """The clusters of one layer as coordinates."""

    mixing: tuple[Tensor, ...]  # per member, (u, c)
    projections: tuple[Projection, ...]  # per member, P (u, c) and c (u,)
    turned: bool = False  # whether the coordinates are directions, each of all units
    medoids: tuple[Tensor, ...] = ()  # (u, c) units of each cluster, if it is one of them and has its rows

    @property
    def width(self) -> int:
        """Number of clusters."""
        return self.mixing[0].shape[1]

    def rows(self, inside: int) -> Basis:
        """Return the basis of the rows of units, where a unit is several."""
        if inside == 1:
            return self
        mixing = tuple(in_rows(matrix, inside) for matrix in self.mixing)
        return Basis(mixing, tuple(projection.rows(inside) for projection in self.projections))

    def at(self, inside: int, activations: Sequence[Tensor]) -> Basis:
        """Return the basis of rows in a place where units have these activations (n, u · inside), by member."""
        return _rows_of_medoids(self, activations, inside) if self.medoids else self.rows(inside)


@dataclass(frozen=True, eq=False)
class Groups:
    """The units of each cluster, as pairs of a unit and a cluster. Clusters may overlap; none is empty."""

    units: Tensor  # (g,) counted over all members
    clusters: Tensor  # (g,)
    n_clusters: int

    @classmethod
    def of_labels(cls, labels: NDArray[np.int64]) -> Groups:
        """Return one group for each label; ``labels`` (U,) has the cluster of each unit, −1 for none."""
        inside = np.flatnonzero(labels >= 0)
        return cls(torch.from_numpy(inside), torch.from_numpy(labels[inside]), int(labels.max()) + 1)

    @classmethod
    def of_sets(cls, sets: Sequence[NDArray[np.int64]]) -> Groups:
        """Return one group for each set of units."""
        sizes = np.array([len(units) for units in sets])
        clusters = np.repeat(np.arange(len(sets)), sizes)
        return cls(torch.from_numpy(np.concatenate(sets)), torch.from_numpy(clusters), len(sets))

    def prefix(self, n_clusters: int) -> Groups:
        """Return the first ``n_clusters`` groups."""
        kept = self.clusters < n_clusters
        return Groups(self.units[kept], self.clusters[kept], n_clusters)

    def sets(self) -> set[frozenset[int]]:
        """Return the units of each group, without their order."""
        order = torch.argsort(self.clusters, stable=True)
        return {frozenset(units.tolist()) for units in self.units[order].split(self.sizes.tolist())}

    def with_units(self, units: Tensor) -> Groups:
        """Return the groups followed by one for each of these units (m,)."""
        clusters = torch.arange(self.n_clusters, self.n_clusters + len(units))
        joined = torch.cat([self.units, units]), torch.cat([self.clusters, clusters])
        return Groups(*joined, self.n_clusters + len(units))

    @property
    def sizes(self) -> Tensor:
        """(c,) units in each group."""
        return torch.bincount(self.clusters, minlength=self.n_clusters)


@dataclass(frozen=True, eq=False)
class Centroids:
    """The centroids of groups of units."""

    shares: Tensor  # (g,) weight of each unit in its centroid
    points: Tensor  # (c, d)


def find_centroids(points: Tensor, groups: Groups, symmetry: Symmetry) -> Centroids:
    """Return the centroids ``m_c = mean σ p`` of units' points, in double precision.

    ``points`` (U, d) are hyperplanes or any linear image of them, such as pre-activations. p are the same at unit norm
    where units may be rescaled, and so are the centroids; σ is a sign per unit, 1 unless the sign is free.
    """
    scales = _scales(points, symmetry)
    shares = 1 / (scales[groups.units] * groups.sizes[groups.clusters])
    if symmetry.flippable:
        shares = shares * _signs(points, scales, groups)
    centroids = torch.zeros(groups.n_clusters, points.shape[1], dtype=torch.float64)
    for some in blocks(len(shares), AT_ONCE):
        part = points[groups.units[some]].double() * shares[some, None]
        centroids.index_add_(0, groups.clusters[some], part)
    if symmetry.homogeneous:
        lengths = torch.linalg.vector_norm(centroids, dim=1)
        lengths = torch.where(lengths > SMALLEST, lengths, 1)
        shares, centroids = shares / lengths[groups.clusters], centroids / lengths[:, None]
    return Centroids(shares, centroids)


def find_medoids(points: Tensor, groups: Groups) -> Centroids:
    """Return the unit of each group that is nearest to its mean, in place of a centroid.

    Points (U, d) are at unit norm. Units whose rows may be written in any basis inside have no mean of their rows: the
    medoid stands for the others.
    """
    mean = torch.zeros(groups.n_clusters, points.shape[1], dtype=torch.float64)
    mean.index_add_(0, groups.clusters, points[groups.units].double())
    near = torch.einsum("gd,gd->g", points[groups.units].double(), mean[groups.clusters])
    shares, medoids = torch.zeros_like(near), torch.zeros(groups.n_clusters, dtype=torch.int64)
    for cluster, pairs in enumerate(torch.argsort(groups.clusters, stable=True).split(groups.sizes.tolist())):
        medoid = pairs[first_largest(near[pairs])]
        shares[medoid], medoids[cluster] = 1, groups.units[medoid]
    return Centroids(shares, points[medoids].double())


def basis_of_groups(
    points: Tensor,
    groups: Groups,
    widths: Sequence[int],
    symmetry: Symmetry,
    alive: NDArray[np.bool_],
    centroids: Centroids | None = None,
) -> Basis:
    """Return the basis whose centroids are those of groups of units.

    Unit u is ``s_u`` times the centroid m that it is projected on: ``s_u = σ ν (p·m) / (m·m)`` with its norm ν if units
    may be rescaled, ``s_u = σ`` if not. A unit in several groups is projected on the nearest of their centroids, a live
    one in no group on the nearest of all; a dead one (``alive`` (U,)) in no group on none. ``widths`` split the rows of
    ``points`` (U, d) into members.
    """
    if centroids is None:
        centroids = find_centroids(points, groups, symmetry)
    n_groups = torch.bincount(groups.units, minlength=len(points))
    nearest = torch.zeros(len(points), dtype=torch.int64)
    nearest[groups.units] = groups.clusters
    elsewhere = n_groups != 1
    allowed = (n_groups[elsewhere] == 0)[:, None].repeat(1, groups.n_clusters)
    pairs, row = elsewhere[groups.units], elsewhere.cumsum(0) - 1
    allowed[row[groups.units[pairs]], groups.clusters[pairs]] = True
    nearest[elsewhere] = _nearest(points[elsewhere], centroids.points.to(points.dtype), symmetry, allowed)
    along, norms = torch.zeros(2, len(points), dtype=torch.float64)
    for some in blocks(len(points), AT_ONCE):
        exact = points[some].double()
        along[some] = torch.einsum("ud,ud->u", exact, centroids.points[nearest[some]])
        norms[some] = torch.linalg.vector_norm(exact, dim=1)
    opposed = along < -SMALLEST * norms * torch.linalg.vector_norm(centroids.points, dim=1)[nearest]
    if symmetry.homogeneous:
        scale = along if symmetry.flippable else along.clamp(min=0)
    else:
        scale = torch.where(opposed, -1.0, 1.0).double() if symmetry.flippable else torch.ones_like(along)
    scale = torch.where(torch.from_numpy(alive) | (n_groups > 0), scale, 0)
    mixing, projection = (points.new_zeros(len(points), groups.n_clusters) for _ in range(2))
    mixing[groups.units, groups.clusters] = centroids.shares.to(points.dtype)
    projection[torch.arange(len(points)), nearest] = scale.to(points.dtype)
    offset = (symmetry.odd_constant or 0.0) * (scale < 0).to(points.dtype)  # a = constant − ã for a flipped unit
    split = list(widths)
    return Basis(mixing.split(split), tuple(map(Projection, projection.split(split), offset.split(split))))


def basis_of_medoids(points: Tensor, groups: Groups, widths: Sequence[int], alive: NDArray[np.bool_]) -> Basis:
    """Return the basis whose centroids are the medoids of groups; see `find_medoids` and `basis_of_groups`."""
    basis = basis_of_groups(points, groups, widths, Symmetry(), alive, find_medoids(points, groups))
    units = torch.zeros(len(points), groups.n_clusters, dtype=torch.bool)
    units[groups.units, groups.clusters] = True
    return replace(basis, medoids=units.split(list(widths)))


def by_index(n_members: int, width: int, dtype: torch.dtype) -> Basis:
    """Return the basis of a layer whose units are not interchangeable: cluster i is unit i of all members."""
    eye = torch.eye(width, dtype=dtype)
    return Basis((eye / n_members,) * n_members, (Projection(eye, torch.zeros(width, dtype=dtype)),) * n_members)


def express(basis: Basis, activations: Sequence[Tensor], shared: Tensor | None, *, intercept: bool) -> Basis:
    """Return the basis with the members' projections completed, and refitted to data where there is any.

    A unit projected on no cluster (a dead one) gets its mean activation as offset: what it adds is constant. Then, with
    the basis activations ã, each projection becomes the ridge solution of ``a ≈ P ã + c`` around what it was:
    ``min Σ‖a − P ã − c‖² + λ‖P − P₀‖²``, with λ by cross-validation, in which each unit counts by its own spread. One
    factorization serves all members.

    ``activations`` are a (n, u) per member, ``shared`` is ã (n, c); None keeps the projections of the weights. Offsets
    stay as they are without ``intercept``, for readers that have no biases (`takes_offset`).
    """
    priors, fits, spreads, squares = list(basis.projections), list[Moments](), list[Tensor](), list[Tensor]()
    for some in blocks(len(priors), TOGETHER):
        own = activations[some]
        if intercept:
            priors[some] = [_with_constants(p, a.mean(0)) for p, a in zip(priors[some], own, strict=True)]
        if shared is not None:
            spreads.append(torch.cat([spread_of(a) for a in own]))
            squares += [a.double().square().mean(0) for a in own]
            fits.append(_residual_moments(priors[some], own, shared, spreads[-1]))
    if shared is None:
        return replace(basis, projections=tuple(priors))
    widths, spread = [len(p.offset) for p in priors], torch.cat(spreads)
    rounding = SINGLE**2 * float((torch.cat(squares) / spread.double().square()).sum())
    matrix, offset = cross_validated(Moments.side_by_side(fits), intercept=intercept, rounding=rounding)
    matrix, offset = matrix * spread[:, None], offset * spread
    refitted = (
        Projection(p.matrix + m.to(p.matrix.dtype), p.offset + c.to(p.offset.dtype))
        for p, m, c in zip(priors, matrix.split(widths), offset.split(widths), strict=True)
    )
    return replace(basis, projections=tuple(refitted))


def _residual_moments(
    projections: Sequence[Projection], activations: Sequence[Tensor], shared: Tensor, spread: Tensor
) -> Moments:
    """Moments of ã (n, c) and of what projections of it leave of members' activations (n, u), in units of a spread."""
    moments = Moments(shared.shape[1], len(spread))
    for rows in blocks(len(shared), MAX_BATCH):
        residuals = [
            torch.addmm(a[rows] - p.offset, shared[rows], p.matrix.T, alpha=-1)
            for p, a in zip(projections, activations, strict=True)
        ]
        moments.add(shared[rows], torch.cat(residuals, dim=1) / spread)
    return moments


def _with_constants(projection: Projection, mean: Tensor) -> Projection:
    placed = projection.matrix.any(1) | (projection.offset != 0)
    return Projection(projection.matrix, torch.where(placed, projection.offset, mean))


def _rows_of_medoids(basis: Basis, activations: Sequence[Tensor], inside: int) -> Basis:
    """Return the basis of the rows of units of which medoids stand for others (`basis_of_medoids`).

    A unit is projected on the rows of its medoid as the members' activations (n, u·inside) on data have it: by least
    squares, whatever bases the two are written in.
    """
    rows = basis.rows(inside)
    shared = mixture(rows, activations)
    mean, exact = shared.mean(0), shared.double()
    medoids = (exact - exact.mean(0)).unflatten(1, (-1, inside)).transpose(0, 1)  # (c, n, j)
    gram = medoids.transpose(1, 2) @ medoids
    floor = SMALLEST * gram.diagonal(dim1=1, dim2=2).mean(1)
    damped = gram + torch.where(floor > 0, floor, 1)[:, None, None] * torch.eye(inside, dtype=gram.dtype)
    projections = []
    for projection, values in zip(basis.projections, activations, strict=True):
        cluster, own = projection.matrix.argmax(1), projection.matrix.sum(1)
        centred = (values - values.mean(0)).double().unflatten(1, (-1, inside)).transpose(0, 1)  # (u, n, j)
        cross = medoids[cluster].transpose(1, 2) @ centred
        blocks = torch.linalg.solve(damped[cluster], cross).transpose(1, 2) * own[:, None, None]  # (u, j, j)
        matrix = torch.zeros(len(cluster), inside, basis.width, inside, dtype=values.dtype)
        matrix[torch.arange(len(cluster)), :, cluster] = blocks.to(values.dtype)
        matrix = matrix.flatten(2).flatten(0, 1)
        offset = values.mean(0) * by_row(own, values.shape[1]) - matrix @ mean
        projections.append(Projection(matrix, offset))
    return Basis(rows.mixing, tuple(projections))


def basis_activations(basis: Basis, activations: Sequence[Tensor], symmetry: Symmetry) -> Tensor:
    """Estimate the centroids' activations from their units': ``ã ≈ Σ_k A⁽ᵏ⁾ᵀ a⁽ᵏ⁾`` (n, c), with a (n, u) per member.

    For an activation that is odd up to a constant, a flipped unit counts as ``constant − a``.
    """
    total = mixture(basis, activations)
    for mixing in basis.mixing:
        total += (symmetry.odd_constant or 0.0) * mixing.clamp(max=0).abs().sum(0)
    return total


def mixture(basis: Basis, values: Sequence[Tensor]) -> Tensor:
    """Return the members' values (n, u), mixed: ``Σ_k z⁽ᵏ⁾ A⁽ᵏ⁾`` (n, c)."""
    total = values[0] @ basis.mixing[0]
    for z, mixing in zip(values[1:], basis.mixing[1:], strict=True):
        total += z @ mixing
    return total


def takes_offset(architecture: Architecture, axis: Axis) -> bool:
    """Whether everything that reads a layer in this place has a bias, which takes the offset of a projection."""
    return all(m.has_bias for m in architecture.maps if axis in m.inputs)


def _scales(points: Tensor, symmetry: Symmetry) -> Tensor:
    if not symmetry.homogeneous:
        return torch.ones(len(points), dtype=torch.float64)
    parts = (points[some] for some in blocks(len(points), AT_ONCE))
    norms = torch.cat([torch.linalg.vector_norm(part, dim=1, dtype=torch.float64) for part in parts])
    return torch.where(norms > 0, norms, 1)


def _signs(points: Tensor, scales: Tensor, groups: Groups) -> Tensor:
    """A sign for each unit of each group (g,): the side of the group's principal axis.

    The axis itself is turned so that the signs of its group sum to > 0, or the first is 1. Units at right angles to the
    axis have the sign 1.
    """
    signs = torch.ones(len(groups.units), dtype=torch.float64)
    for pairs in torch.argsort(groups.clusters, stable=True).split(groups.sizes.tolist()):
        units = groups.units[pairs]
        side = principal_sides(points[units].double() / scales[units, None])
        clear = side.abs() > SMALLEST * side.abs().max()
        if len(units) > 1 and bool(clear.any()):
            side = torch.where(clear, side.sign(), 0)
            total = float(side.sum()) or float(side[clear][0])
            signs[pairs] = torch.where(clear, side * math.copysign(1, total), 1)
    return signs


def principal_sides(rows: Tensor) -> Tensor:
    """Return how far rows (m, d) lie along their principal axis, up to a factor: the first left singular vector (m,).

    Power iteration on their Gram matrix, from its largest row. Of several axes that are equally long, up to rounding,
    it takes one between them.
    """
    gram = rows @ rows.T
    side = gram[first_largest(gram.square().sum(1))]
    for _ in range(MAX_TURNS):
        turned = gram @ (side / torch.linalg.vector_norm(side).clamp(min=torch.finfo(side.dtype).tiny))
        settled = torch.linalg.vector_norm(turned - side) <= 1e-9 * torch.linalg.vector_norm(turned)
        side = turned
        if bool(settled):
            break
    return side


def _nearest(points: Tensor, centroids: Tensor, symmetry: Symmetry, allowed: Tensor) -> Tensor:
    """The nearest of the centroids (c, d) that are allowed (n, c) to each point (n, d)."""
    along = points @ centroids.T
    if symmetry.flippable:
        along = along.abs()
    squares = centroids.square().sum(1)
    angles = along / torch.where(squares > 0, squares, 1).sqrt()  # any multiple of a centroid will do
    near = angles if symmetry.homogeneous else 2 * along - squares
    return first_largest(near.masked_fill(~allowed, -math.inf))
