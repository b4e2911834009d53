"""Which clusters an assembly is made of, chosen for what they have to reproduce (instead of by distance alone).

A census's tree holds clusters at every height, from single units to all of a layer. From the outputs down, a layer's
*targets* t are what the layers above it need: first the members' pooled outputs, then the pre-activations of the
centroids chosen above. Clusters are taken one at a time, each the one whose centroid's activation h lowers the error of
the best linear readout most,

    argmax_h  Σ_t ⟨r_t, h⟩² / ⟨h⊥, h⊥⟩,

with r the residual of t and h⊥ the part of h that the clusters taken before do not explain: orthogonal least squares
(Chen, Billings and Luo 1989, Int. J. Control 50). Their order is an order of importance: a prefix is a smaller basis.

Axis legend: ``n`` samples, ``U`` live units of all members, ``v`` candidate clusters, ``c`` chosen ones, ``t`` targets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from consilience.assembly.pooling import output_basis
from consilience.census.census import Census, LayerCensus
from consilience.census.distances import evenly
from consilience.census.grounding import RIDGE, Basis, basis_of_groups, groups_of
from consilience.census.ordering import Clusters
from consilience.units.activations import Responses
from consilience.units.architecture import TracedNetwork
from consilience.units.moments import Moments, ridge
from consilience.units.symmetry import Symmetry, usable_symmetry

MAX_TARGETS = 512  # columns; of more, random mixtures
MAX_CANDIDATES = 8192  # of a layer; the highest nodes of a larger tree
SHRINKAGE = 1e-3  # of a candidate's squared norm: what less than this of it is new is not looked at


def reconstruct(
    census: Census, responses: Responses, widths: Mapping[str, int], pooling: Tensor
) -> dict[str, NDArray[np.bool_]]:
    """Return the units of each cluster chosen, (U, c) by free layer; the columns are in the order of choice.

    Where the census's own cut explains a layer's targets better than the greedy choice, its clusters are taken.

    Parameters
    ----------
    census : a fitted census.
    responses : of its members in canonical form, on calibration data.
    widths : clusters to choose in each layer.
    pooling : weights (k, o) of the members' outputs.
    """
    architecture = census.population_.architecture
    bases = {architecture.output.name: output_basis(pooling, responses.x.dtype)}
    chosen: dict[str, NDArray[np.bool_]] = {}
    for layer in reversed(architecture.free):
        taken, own = census.layers_[layer.name], census.layers_[layer.name].at(widths[layer.name])
        places = _places(census, responses, layer.name, bases, widths)
        candidates = _candidates(taken, own, places, responses)
        targets = [place.targets for place in places]
        blocks = list(zip((_centred(each) for each in candidates.features), targets, strict=True))
        few = [(features[:, candidates.own], wanted) for features, wanted in blocks]
        greedy = forward_selection(blocks, widths[layer.name])
        cut = [candidates.own[i] for i in forward_selection(few, widths[layer.name])]
        best = float("inf")
        for picked in (greedy, cut):
            groups = candidates.groups(picked, len(taken.alive))
            family = [each.name for each in architecture.family(layer.name)]
            found = {name: _basis(census, responses, name, groups) for name in family}
            error = sum(unexplained(_centred(place.features(found[place.layer])), place.targets) for place in places)
            if error < best:
                best, chosen[layer.name] = error, groups
                bases |= found
    return chosen


@dataclass(frozen=True)
class _Place:
    """Where a layer is read, and what it has to give there.

    Attributes
    ----------
    layer : the layer, or one that is tied to it.
    network : some member, whose activations say what becomes of pre-activations; None where what lies between is not
        elementwise: a centroid then does what its units do on average.
    units : (r, U) of all members: pre-activations, or activations where there is no ``network``.
    targets : (r, t) what the layer adds to the centroids above, by kernel position; centred.
    """

    layer: str
    network: TracedNetwork | None
    units: Tensor
    targets: Tensor

    def features(self, basis: Basis) -> Tensor:
        """Return what the centroids of a basis do here: (r, c)."""
        return self.activate(self.units @ torch.cat(basis.mixing))

    def activate(self, values: Tensor) -> Tensor:
        """Return what pre-activations (r, c) become here."""
        return values if self.network is None else self.network.activate(self.layer, values)


def _places(
    census: Census, responses: Responses, first: str, bases: Mapping[str, Basis], widths: Mapping[str, int]
) -> list[_Place]:
    """The places where the layers of a family are read by maps that mix units."""
    architecture, members = census.population_.architecture, responses.networks
    places = []
    for layer in architecture.family(first):
        pointwise = architecture.pointwise(layer.name)
        for axis in architecture.read(layer.name):
            readers = [m for m in architecture.reading(layer.name) if axis in m.inputs and not m.per_unit]
            if not readers:
                continue
            reads = [a[evenly(a)] for a in responses.at(axis)]
            columns = []
            for m in readers:
                above, part = bases.get(m.writes), m.inputs.index(axis)
                if above is None:  # chosen later, as the residual stream that this layer writes: the census's own cut
                    own = census.layers_[architecture.first(m.writes)]
                    groups = groups_of(own.at(widths[own.name]).labels)
                    above = _basis(census, responses, m.writes, groups)
                shares = (
                    a @ torch.einsum("uc,uis->ics", mixing, network.weights(m).parts[part]).flatten(1)
                    for a, mixing, network in zip(reads, above.mixing, members, strict=True)
                )
                columns.append(torch.stack(list(shares)).sum(0))
            targets = _centred(_compressed(torch.cat(columns, dim=1)))
            units = torch.cat([z[evenly(z)] for z in responses.written(layer.name)] if pointwise else reads, dim=1)
            places.append(_Place(layer.name, members[0] if pointwise else None, units, targets))
    return places


def _basis(census: Census, responses: Responses, layer: str, groups: NDArray[np.bool_]) -> Basis:
    """The basis that groups of units of a layer's family make of the layer."""
    population = census.population_
    symmetry = usable_symmetry(population.architecture, layer)
    alive = census.layers_[population.architecture.first(layer)].alive
    written = torch.cat([z[evenly(z)] for z in responses.written(layer)], dim=1)
    return basis_of_groups(written.T, groups, population.widths(layer), symmetry, alive)


def _compressed(targets: Tensor) -> Tensor:
    """At most `MAX_TARGETS` columns that stand for all: what counts of targets is Σ_t ⟨r_t, h⟩² alone."""
    if targets.shape[1] <= MAX_TARGETS:
        return targets
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(targets.shape[1], MAX_TARGETS, generator=generator, dtype=targets.dtype)
    compressed: Tensor = targets @ mixed / math.sqrt(MAX_TARGETS)
    return compressed


def unexplained(features: Tensor, targets: Tensor) -> float:
    """Return the squared error of the best linear readout of ``features`` (n, c) for ``targets`` (n, t), both centred.

    Ridge, as everywhere in an assembly: features that differ by rounding alone explain nothing.
    """
    moments = Moments(features.shape[1], targets.shape[1])
    moments.add(features, targets)
    weight, _ = ridge(moments, RIDGE, intercept=False)
    return float((targets - features @ weight.T.to(features.dtype)).square().sum())


def forward_selection(blocks: Sequence[tuple[Tensor, Tensor]], n_chosen: int) -> list[int]:
    """Return the columns of features that together explain targets best, taken greedily.

    Parameters
    ----------
    blocks : features (n, v) and targets (n, t), columns centred; several where the same candidates have to explain
        targets in several places, each with a readout of its own.
    n_chosen : columns to take. Candidates that those taken before explain already come last, in their own order.
    """
    fits = [_Fit(features, targets, n_chosen) for features, targets in blocks]
    open_to_choice = torch.ones(blocks[0][0].shape[1], dtype=torch.bool)
    chosen: list[int] = []
    for step in range(n_chosen):
        gain = torch.stack([fit.gain() for fit in fits]).sum(0)
        best = int(torch.where(open_to_choice, gain, -2 * len(fits)).argmax())
        chosen.append(best)
        open_to_choice[best] = False
        for fit in fits:
            fit.take(best, step)
    return chosen


class _Fit:
    """Orthogonal least squares in one place: what each candidate would still explain."""

    def __init__(self, features: Tensor, targets: Tensor, n_chosen: int) -> None:
        norms = features.square().sum(0)
        self.rows = (features * torch.where(norms > 0, norms, 1).rsqrt()).T.contiguous()  # (v, n)
        self.left = (norms > 0).to(self.rows.dtype)  # of each candidate's squared norm
        self.shared = self.rows @ targets  # ⟨r_t, h⟩
        self.directions = self.rows.new_zeros(len(self.rows), n_chosen)  # ⟨h_v, q_c⟩, q orthonormal, of those taken

    def gain(self) -> Tensor:
        """Return what each candidate would take off the squared error, −1 where it has nothing new: (v,)."""
        return torch.where(self.left > SHRINKAGE, self.shared.square().sum(1) / (self.left + SHRINKAGE), -1)

    def take(self, best: int, step: int) -> None:
        """Take a candidate as the next one."""
        length = (self.left[best] + SHRINKAGE).sqrt()
        along = self.rows @ self.rows[best] - self.directions[:, :step] @ self.directions[best, :step]
        along = along / length
        self.shared = self.shared - torch.outer(along, self.shared[best] / length)
        self.left = (self.left - along.square()).clamp(min=0)
        self.directions[:, step] = along


@dataclass(frozen=True)
class _Candidates:
    """The clusters of a layer that there are to choose from, the highest merge first.

    Attributes
    ----------
    features : by place where the layer is read, (r, v) what their centroids do there.
    leaves : (U,) leaf of each unit of the layer, −1 for dead ones.
    nodes : (v,) which node of the tree each is; below ``n_leaves`` a leaf.
    merges : (m, 2) the two nodes below each node that is no leaf.
    own : (c,) the candidates that are the census's own clusters.
    """

    features: list[Tensor]
    leaves: NDArray[np.int64]
    nodes: NDArray[np.int64]
    merges: NDArray[np.int64]
    own: list[int]

    def groups(self, picked: Sequence[int], n_units: int) -> NDArray[np.bool_]:
        """Return the units of the candidates picked: (U, c)."""
        n_leaves = int(self.leaves.max()) + 1
        groups = np.zeros((n_units, len(picked)), dtype=bool)
        for column, node in enumerate(self.nodes[picked]):
            below, found = [int(node)], []
            while below:
                node = below.pop()
                if node < n_leaves:
                    found.append(node)
                else:
                    below.extend(self.merges[node - n_leaves].tolist())
            groups[:, column] = np.isin(self.leaves, found)
        return groups


def _candidates(layer: LayerCensus, own: Clusters, places: Sequence[_Place], responses: Responses) -> _Candidates:
    """The highest nodes of a layer's tree (of a flat clustering, its clusters), and the census's ``own`` clusters."""
    merges = np.empty((0, 2), dtype=np.int64)
    if layer.clustering.merges is not None:
        merges = layer.clustering.merges[:, :2].astype(np.int64)
    leaves = np.full(len(layer.alive), -1)
    leaves[layer.alive] = layer.clustering.labels
    nodes, n_nodes = _nodes_of(own, leaves, merges), layer.clustering.n_leaves + len(merges)
    kept = np.union1d(np.arange(n_nodes)[-MAX_CANDIDATES:], nodes)[::-1].copy()
    features = []
    for place in places:
        written = torch.cat([z[evenly(z)] for z in responses.written(place.layer)], dim=1)
        symmetry = usable_symmetry(responses.networks[0].architecture, place.layer)
        shown = None if place.network is not None else place.units
        values = _centroids(layer, merges, written, shown, symmetry)[torch.from_numpy(kept)]
        features.append(place.activate(values.T))
    column = np.empty(n_nodes, dtype=np.int64)
    column[kept] = np.arange(len(kept))
    return _Candidates(features, leaves, kept, merges, column[nodes].tolist())


def _centroids(
    layer: LayerCensus, merges: NDArray[np.int64], written: Tensor, shown: Tensor | None, symmetry: Symmetry
) -> Tensor:
    """What the centroids of all nodes of a tree do: (v, r).

    ``written`` (r, U): pre-activations, which say how units are scaled and turned; ``shown`` (r', U): what they do
    elsewhere, to be shown of the centroids instead.
    """
    live, leaf = np.flatnonzero(layer.alive), torch.from_numpy(layer.clustering.labels)
    n_leaves, n_written = layer.clustering.n_leaves, len(written)
    points = (written if shown is None else torch.cat([written, shown]))[:, live].T
    if symmetry.homogeneous:
        points = points / _norms(points[:, :n_written])
    sizes = torch.zeros(n_leaves + len(merges))
    sizes[:n_leaves] = torch.bincount(leaf, minlength=n_leaves)
    values = points.new_zeros(n_leaves + len(merges), points.shape[1])
    first = torch.from_numpy(np.unique(leaf.numpy(), return_index=True)[1])
    signs = _side(points[:, :n_written], points[first][leaf][:, :n_written], symmetry)
    values.index_add_(0, leaf, points * signs[:, None])
    values[:n_leaves] /= sizes[:n_leaves, None]
    for node, (a, b) in enumerate(merges.tolist(), start=n_leaves):
        share = sizes[a] / (sizes[a] + sizes[b])
        sign = _side(values[b, :n_written], values[a, :n_written], symmetry)
        values[node] = share * values[a] + (1 - share) * sign * values[b]
        sizes[node] = sizes[a] + sizes[b]
    if symmetry.homogeneous:
        values /= _norms(values[:, :n_written])
    return values if shown is None else values[:, n_written:]


def _norms(rows: Tensor) -> Tensor:
    """The norms of rows (u, 1), 1 for rows that are zero."""
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return torch.where(norms > 0, norms, 1)


def _nodes_of(clusters: Clusters, leaves: NDArray[np.int64], merges: NDArray[np.int64]) -> NDArray[np.int64]:
    """The node of the tree that each cluster is: (c,), the highest one whose leaves are all in it."""
    n_leaves = int(leaves.max()) + 1
    label = np.full(n_leaves + len(merges), -1)
    label[leaves[leaves >= 0]] = clusters.labels[leaves >= 0]
    for node, (left, right) in enumerate(merges, start=n_leaves):
        label[node] = label[left] if label[left] == label[right] else -1
    nodes = np.zeros(len(clusters), dtype=np.int64)
    nodes[label[label >= 0]] = np.flatnonzero(label >= 0)  # of several, the last: the highest
    return nodes


def _side(points: Tensor, reference: Tensor, symmetry: Symmetry) -> Tensor:
    """−1 for points (…, n) whose sign is free and that lie across from their reference, else 1: (…)."""
    if not symmetry.flippable:
        return points.new_ones(points.shape[:-1])
    return torch.where((points * reference).sum(-1) < 0, -1.0, 1.0)


def _centred(features: Tensor) -> Tensor:
    return features - features.mean(0)
