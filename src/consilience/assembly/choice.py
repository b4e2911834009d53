"""The clusters of an assembly, chosen by how well they reconstruct the ensemble's outputs, not by distance alone.

A census's tree holds clusters at every height, from single units to all of a layer. From the outputs down, a layer's
*targets* t are its contribution to the members' pooled outputs, then to the pre-activations of the centroids chosen
above. Clusters are taken one at a time, each the one whose centroid's
activation h lowers the error of the best linear readout most,

    argmax_h  Σ_t ⟨r_t, h⟩² / ⟨h⊥, h⊥⟩,

with r the residual of t and h⊥ the part of h that the clusters taken before do not explain: orthogonal least squares
(Chen, Billings and Luo 1989, Int. J. Control 50). Their order is an order of importance: a prefix is a smaller basis.

Axis legend: ``r`` samples, ``U`` units of all members, ``v`` candidate clusters, ``c`` chosen ones, ``t`` targets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from consilience import seeds
from consilience.assembly.candidates import candidate_clusters
from consilience.assembly.draft import Draft
from consilience.assembly.pooling import output_basis
from consilience.bases.grounding import RIDGE, Basis, Groups, basis_of_groups, express, find_centroids, takes_offset
from consilience.bases.hyperplanes import Projection, hyperplanes
from consilience.census.census import Census
from consilience.clustering.clusters import Clusters
from consilience.signals.moments import Moments, ridge
from consilience.signals.responses import Responses, evenly
from consilience.ties import SINGLE, first_largest
from consilience.units.axes import Axis
from consilience.units.symmetry import usable_symmetry

MAX_TARGETS = 512  # columns; of more, random mixtures
SHRINKAGE = 1e-3  # of a candidate's squared norm: candidates of which less than this is new are left out


@dataclass(frozen=True)
class Choice:
    """The clusters of an assembly."""

    groups: Mapping[str, Groups]  # by free layer, the units of each cluster
    bases: Mapping[str, Basis]  # by hidden layer, tied ones too; only those that are known before the layers are built

    def prefix(self, widths: Mapping[str, int]) -> Choice:
        """Return the first clusters of each layer."""
        return Choice({name: groups.prefix(widths[name]) for name, groups in self.groups.items()}, {})


def choice_of(clusters: Mapping[str, Clusters]) -> Choice:
    """Return the choice of given clusters by free layer."""
    return Choice({name: Groups.of_labels(layer.labels) for name, layer in clusters.items()}, {})


def cut_at(census: Census, widths: Mapping[str, int]) -> Choice:
    """Return the clusters of a census's tree, cut at these numbers by free layer."""
    return choice_of({name: census.layers_[name].at(n) for name, n in widths.items()})


@dataclass(frozen=True)
class CensusPlan:
    """Bases of the clusters chosen from a census; see `consilience.assembly.build.Plan`."""

    census: Census
    choice: Choice

    def basis(self, draft: Draft, layer: str) -> Basis:
        """Return the basis of the clusters chosen, before the layer is built."""
        if layer in self.choice.bases:
            return self.choice.bases[layer]
        if draft.responses.has_data:
            points = draft.responses.units(layer)
        else:
            points = hyperplanes(draft.members, layer, draft.projections).augmented
        return _basis(self.census, points, layer, self.choice.groups[draft.architecture.first(layer)])

    def express(self, draft: Draft, axis: Axis) -> Sequence[Projection]:
        """Return the members' projections on a layer as it has been built, in a place where it is read."""
        assert axis.layer is not None
        shared = draft.rows(axis) if self.census.grounding == "activations" else None
        intercept = takes_offset(draft.architecture, axis)
        return express(draft.bases[axis.layer], draft.responses.at(axis), shared, intercept=intercept).projections


def reconstruct(census: Census, responses: Responses, widths: Mapping[str, int], pooling: Tensor) -> Choice:
    """Return the clusters of each layer, as many as ``widths`` has, in order of choice.

    If the census's own cut explains a layer's targets better than the greedy choice, the clusters of the cut are taken;
    also, in canonical order, if a layer is not pointwise (`Architecture.pointwise`): the activations of a centroid
    after pooling or a sum are not known before it is built.
    """
    architecture = census.population_.architecture
    bases = {architecture.output.name: output_basis(pooling, pooling.dtype)}
    chosen: dict[str, Groups] = {}
    for layer in reversed(architecture.free):
        name, family = layer.name, [tied.name for tied in architecture.family(layer.name)]
        if len(family) == 1 and architecture.pointwise(name):
            targets = _targets(census, responses, name, bases, widths)
            chosen[name], bases[name] = _choose(census, responses, name, targets, widths[name])
        else:
            chosen[name] = cut_at(census, {name: widths[name]}).groups[name]
            bases |= {tied: _basis(census, responses.units(tied), tied, chosen[name]) for tied in family}
    del bases[architecture.output.name]
    return Choice(chosen, bases)


def _choose(census: Census, responses: Responses, name: str, targets: Tensor, n: int) -> tuple[Groups, Basis]:
    """The n clusters of a pointwise layer that explain its targets (r, t) best, in order, and their basis."""
    layer, network, units = census.layers_[name], responses.networks[0], responses.units(name)
    population = census.population_
    symmetry = usable_symmetry(population.architecture, name)
    candidates = candidate_clusters(layer, layer.at(n), units, symmetry)
    features = _centred(network.activate(name, candidates.values.T))
    greedy = candidates.groups(forward_selection(features, targets, n))
    options = (greedy, candidates.groups(candidates.cut))
    centroids = [find_centroids(units, groups, symmetry) for groups in options]  # as they will be built
    built = (network.activate(name, each.points.T.to(units.dtype)) for each in centroids)
    by_choice, by_cut = (unexplained(_centred(values), targets) for values in built)
    if by_choice - by_cut <= SINGLE * float(targets.square().sum()):
        groups, points = greedy, centroids[0]
    else:
        order = forward_selection(features[:, candidates.cut], targets, n)
        groups = candidates.groups([candidates.cut[i] for i in order])
        points = find_centroids(units, groups, symmetry)
    return groups, basis_of_groups(units, groups, population.widths(name), symmetry, layer.alive, points)


def _targets(
    census: Census, responses: Responses, layer: str, bases: Mapping[str, Basis], widths: Mapping[str, int]
) -> Tensor:
    """The contribution of a layer to the centroids above, by kernel position of each map that reads it: centred (r, t).

    Summed over a kernel's positions these are the pre-activations above, up to a constant.
    """
    architecture = census.population_.architecture
    (axis,), columns = architecture.read(layer), []
    reads = [a[evenly(a)] for a in responses.at(axis)]
    for m in architecture.reading(layer):
        above, part = bases.get(m.writes), m.inputs.index(axis)
        if above is None:  # chosen later, as the residual stream that this layer writes: the census's own cut
            first = architecture.first(m.writes)
            groups = cut_at(census, {first: widths[first]}).groups[first]
            above = _basis(census, responses.units(m.writes), m.writes, groups)
        shares = (
            a @ torch.einsum("uc,uis->ics", mixing, network.weights(m).parts[part]).flatten(1)
            for a, mixing, network in zip(reads, above.mixing, responses.networks, strict=True)
        )
        columns.append(sum(shares, torch.zeros(())))
    return _centred(_compressed(torch.cat(columns, dim=1)))


def _basis(census: Census, points: Tensor, layer: str, groups: Groups) -> Basis:
    """The basis of a layer whose units, with points (U, d), are grouped as those of its family."""
    population = census.population_
    symmetry = usable_symmetry(population.architecture, layer)
    alive = census.layers_[population.architecture.first(layer)].alive
    return basis_of_groups(points, groups, population.widths(layer), symmetry, alive)


def _compressed(targets: Tensor) -> Tensor:
    """At most `MAX_TARGETS` columns that stand for all: what counts of targets is Σ_t ⟨r_t, h⟩² alone."""
    if targets.shape[1] <= MAX_TARGETS:
        return targets
    generator = seeds.generator(0)
    mixed = torch.randn(targets.shape[1], MAX_TARGETS, generator=generator, dtype=targets.dtype)
    compressed: Tensor = targets @ mixed / math.sqrt(MAX_TARGETS)
    return compressed


def unexplained(features: Tensor, targets: Tensor) -> float:
    """Return the squared error of the best linear readout of ``features`` (r, c) for ``targets`` (r, t), both centred.

    Ridge, as everywhere in an assembly: features that differ by rounding alone explain nothing.
    """
    moments = Moments(features.shape[1], targets.shape[1])
    moments.add(features, targets)
    weight, _ = ridge(moments, RIDGE, intercept=False)
    return float((targets - features @ weight.T.to(features.dtype)).square().sum())


def forward_selection(features: Tensor, targets: Tensor, n_chosen: int) -> list[int]:
    """Return the columns of ``features`` (r, v) that together explain ``targets`` (r, t) best, taken greedily.

    Columns of both are centred. Candidates that those taken before explain already come last, in their own order.
    """
    norms = features.square().sum(0)
    unit = torch.where(norms > 0, norms, 1).rsqrt()
    rows = (features * unit).T.contiguous()  # (v, r)
    left = (norms > 0).to(rows.dtype)  # of each candidate's squared norm
    shared = rows @ targets  # ⟨r_t, h⟩
    least = float(targets.square().sum()) * SINGLE**2  # a smaller gain is rounding
    directions = rows.new_zeros(n_chosen, len(rows))  # ⟨h_v, q_c⟩ for the orthonormal q spanning those chosen
    open_to_choice = torch.ones(len(rows), dtype=torch.bool)
    chosen: list[int] = []
    for step in range(n_chosen):
        gain = (shared.square().sum(1) / (left + SHRINKAGE)).clamp(min=least)
        gain = torch.where(left > SHRINKAGE, gain, 0)
        best = int(first_largest(torch.where(open_to_choice, gain, -torch.inf)))
        chosen.append(best)
        open_to_choice[best] = False
        length = (left[best] + SHRINKAGE).sqrt()
        along = (rows @ rows[best] - directions[:step, best] @ directions[:step]) / length
        shared -= torch.outer(along, shared[best] / length)
        left = (left - along.square()).clamp(min=0)
        directions[step] = along
    return chosen


def _centred(features: Tensor) -> Tensor:
    return features - features.mean(0)
