"""Which clusters an assembly is made of, chosen for what they have to reproduce (instead of by distance alone).

A census's tree holds clusters at every height, from single units to all of a layer. From the outputs down, a layer's
*targets* t are what the layers above need of it: what it adds to the members' pooled outputs, then to the
pre-activations of the centroids chosen above. Clusters are taken one at a time, each the one whose centroid's
activation h lowers the error of the best linear readout most,

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

from consilience import seeds
from consilience.assembly.pooling import output_basis
from consilience.bases.grounding import RIDGE, Basis, basis_of_groups, groups_of
from consilience.census.census import Census, LayerCensus
from consilience.census.layer_units import units_on_data
from consilience.clustering.clusters import Clusters
from consilience.clustering.distances import evenly, unit_norm
from consilience.signals.moments import Moments, ridge
from consilience.signals.responses import Responses
from consilience.ties import SINGLE, first_largest
from consilience.units.symmetry import Symmetry, usable_symmetry

MAX_TARGETS = 512  # columns; of more, random mixtures
MAX_CANDIDATES = 8192  # of a layer; the highest nodes of a larger tree
SHRINKAGE = 1e-3  # of a candidate's squared norm: what less than this of it is new is not looked at


def reconstruct(
    census: Census, responses: Responses, widths: Mapping[str, int], pooling: Tensor
) -> dict[str, NDArray[np.bool_]]:
    """Return the units of each cluster chosen, (U, c) by free layer; the columns are in the order of choice.

    Where the census's own cut explains a layer's targets better than the greedy choice, its clusters are taken; so they
    are, in canonical order, where a layer is not pointwise (`Architecture.pointwise`): what pooling or a sum makes of a
    centroid is not known before it is built.

    Parameters
    ----------
    census : a fitted census.
    responses : of its members in canonical form, on calibration data.
    widths : clusters to choose in each layer.
    pooling : weights (k, o) of the members' outputs.
    """
    architecture, some = census.population_.architecture, responses.networks[0]
    bases = {architecture.output.name: output_basis(pooling, responses.x.dtype)}
    chosen: dict[str, NDArray[np.bool_]] = {}
    for layer in reversed(architecture.free):
        name, taken = layer.name, census.layers_[layer.name]
        own, family = taken.at(widths[name]), [each.name for each in architecture.family(name)]
        options = [groups_of(own.labels)]
        if len(family) == 1 and architecture.pointwise(name):
            units, targets = units_on_data(responses, name).T, _targets(census, responses, name, bases, widths)
            candidates = _candidates(taken, own, units, usable_symmetry(architecture, name))
            features = _centred(some.activate(name, candidates.values.T))
            cut = [candidates.own[i] for i in forward_selection(features[:, candidates.own], targets, widths[name])]
            greedy = forward_selection(features, targets, widths[name])
            options = [candidates.groups(picked, units.shape[1]) for picked in (greedy, cut)]
        best = float("inf")
        least = SINGLE * float(targets.square().sum()) if len(options) > 1 else 0.0  # that an option must gain
        for groups in options:
            found = {each: _basis(census, responses, each, groups) for each in family}
            error = 0.0
            if len(options) > 1:
                centroids = units @ torch.cat(found[name].mixing)  # as they will be built
                error = unexplained(_centred(some.activate(name, centroids)), targets)
            if error < best - least:
                best, chosen[name] = error, groups
                bases |= found
    return chosen


def _targets(
    census: Census, responses: Responses, layer: str, bases: Mapping[str, Basis], widths: Mapping[str, int]
) -> Tensor:
    """What a layer adds to the centroids above, by kernel position of each map that reads it: (r, t), centred.

    In the sum over a kernel's positions these are the pre-activations above, all that they vary by.
    """
    architecture = census.population_.architecture
    (axis,), columns = architecture.read(layer), []
    reads = [a[evenly(a)] for a in responses.at(axis)]
    for m in architecture.reading(layer):
        above, part = bases.get(m.writes), m.inputs.index(axis)
        if above is None:  # chosen later, as the residual stream that this layer writes: the census's own cut
            first = census.layers_[architecture.first(m.writes)]
            above = _basis(census, responses, m.writes, groups_of(first.at(widths[first.name]).labels))
        shares = (
            a @ torch.einsum("uc,uis->ics", mixing, network.weights(m).parts[part]).flatten(1)
            for a, mixing, network in zip(reads, above.mixing, responses.networks, strict=True)
        )
        columns.append(torch.stack(list(shares)).sum(0))
    return _centred(_compressed(torch.cat(columns, dim=1)))


def _basis(census: Census, responses: Responses, layer: str, groups: NDArray[np.bool_]) -> Basis:
    """The basis that groups of units of a layer's family make of the layer."""
    population = census.population_
    symmetry = usable_symmetry(population.architecture, layer)
    alive = census.layers_[population.architecture.first(layer)].alive
    return basis_of_groups(units_on_data(responses, layer), groups, population.widths(layer), symmetry, alive)


def _compressed(targets: Tensor) -> Tensor:
    """At most `MAX_TARGETS` columns that stand for all: what counts of targets is Σ_t ⟨r_t, h⟩² alone."""
    if targets.shape[1] <= MAX_TARGETS:
        return targets
    generator = seeds.generator(0)
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


def forward_selection(features: Tensor, targets: Tensor, n_chosen: int) -> list[int]:
    """Return the columns of ``features`` (n, v) that together explain ``targets`` (n, t) best, taken greedily.

    Columns of both are centred. Candidates that those taken before explain already come last, in their own order.
    """
    norms = features.square().sum(0)
    unit = torch.where(norms > 0, norms, 1).rsqrt()
    rows = (features * unit).T.contiguous()  # (v, n)
    left = (norms > 0).to(rows.dtype)  # of each candidate's squared norm
    shared = rows @ targets  # ⟨r_t, h⟩
    least = float(targets.square().sum()) * SINGLE**2  # a smaller gain is rounding
    directions = rows.new_zeros(len(rows), n_chosen)  # ⟨h_v, q_c⟩ for the orthonormal q spanning those chosen
    open_to_choice = torch.ones(len(rows), dtype=torch.bool)
    chosen: list[int] = []
    for step in range(n_chosen):
        gain = (shared.square().sum(1) / (left + SHRINKAGE)).clamp(min=least)
        gain = torch.where(left > SHRINKAGE, gain, 0)
        best = int(first_largest(torch.where(open_to_choice, gain, -torch.inf)))
        chosen.append(best)
        open_to_choice[best] = False
        length = (left[best] + SHRINKAGE).sqrt()
        along = (rows @ rows[best] - directions[:, :step] @ directions[best, :step]) / length
        shared = shared - torch.outer(along, shared[best] / length)
        left = (left - along.square()).clamp(min=0)
        directions[:, step] = along
    return chosen


@dataclass(frozen=True)
class _Candidates:
    """The clusters of a layer that there are to choose from, the highest merge first.

    Attributes
    ----------
    values : (v, r) pre-activations of their centroids.
    leaves : (U,) leaf of each unit of the layer, −1 for dead ones.
    nodes : (v,) which node of the tree each is; below ``n_leaves`` a leaf.
    merges : (m, 2) the two nodes below each node that is no leaf.
    own : (c,) the candidates that are the census's own clusters.
    """

    values: Tensor
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


def _candidates(layer: LayerCensus, own: Clusters, units: Tensor, symmetry: Symmetry) -> _Candidates:
    """The highest nodes of a layer's tree (of a flat clustering, its clusters), and the census's ``own`` clusters.

    ``units``: pre-activations (r, U).
    """
    live, leaf = np.flatnonzero(layer.alive), torch.from_numpy(layer.clustering.labels)
    points = units[:, live].T
    if symmetry.homogeneous:
        points = unit_norm(points)
    n_leaves = layer.clustering.n_leaves
    tree = layer.clustering.tree
    merges = np.empty((0, 2), dtype=np.int64) if tree is None else tree.children
    sizes = torch.zeros(n_leaves + len(merges))
    sizes[:n_leaves] = torch.bincount(leaf, minlength=n_leaves)
    values = points.new_zeros(n_leaves + len(merges), points.shape[1])
    first = torch.from_numpy(np.unique(leaf.numpy(), return_index=True)[1])
    signs = _side(points, points[first][leaf], symmetry)
    values.index_add_(0, leaf, points * signs[:, None])
    values[:n_leaves] /= sizes[:n_leaves, None]
    for node, (a, b) in enumerate(merges.tolist(), start=n_leaves):
        share = sizes[a] / (sizes[a] + sizes[b])
        sign = _side(values[b], values[a], symmetry)
        values[node] = share * values[a] + (1 - share) * sign * values[b]
        sizes[node] = sizes[a] + sizes[b]
    if symmetry.homogeneous:
        values = unit_norm(values)
    leaves = np.full(len(layer.alive), -1)
    leaves[live] = layer.clustering.labels
    nodes = _nodes_of(own, leaves, merges)
    kept = np.union1d(np.arange(len(values))[-MAX_CANDIDATES:], nodes)[::-1].copy()
    column = np.empty(len(values), dtype=np.int64)
    column[kept] = np.arange(len(kept))
    return _Candidates(values[torch.from_numpy(kept)], leaves, kept, merges, column[nodes].tolist())


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
