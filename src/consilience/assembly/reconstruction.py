"""The clusters that best reconstruct the ensemble's outputs, from the outputs down.

A census's tree holds clusters at every height, from single units to all of a layer. A layer's *targets* t are its
contribution to the members' pooled outputs, then to the pre-activations of the centroids chosen above. Clusters are
taken one at a time, by what their centroids' activations explain of the targets (`consilience.assembly.selection`).
Their order is an order of importance: a prefix is a smaller basis.

Axis legend: ``r`` samples, ``U`` units of all members, ``v`` candidate clusters, ``c`` chosen ones, ``t`` targets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from consilience import seeds
from consilience.assembly.candidates import candidate_clusters
from consilience.assembly.choice import Choice, basis_of, cut_at, whole_members
from consilience.assembly.pooling import output_bases
from consilience.assembly.selection import forward_selection, unexplained
from consilience.bases.grounding import Basis, Groups, find_centroids
from consilience.bases.hyperplanes import in_rows
from consilience.census.census import Census
from consilience.signals.responses import Responses
from consilience.ties import SINGLE
from consilience.units.symmetry import usable_symmetry

MAX_TARGETS = 512  # columns; of more, random mixtures


def reconstruct(
    census: Census, responses: Responses, widths: Mapping[str, int], pooling: Tensor, first: Sequence[int] = ()
) -> Choice:
    """Return the clusters of each layer, as many as ``widths`` has, in order of choice.

    The units of the members ``first`` are taken before all others. Without any, if the census's own cut explains a
    layer's targets better than the greedy choice, the clusters of the cut are taken.

    If a layer is not pointwise (`Architecture.pointwise`), the activations of a centroid after pooling or a sum are not
    known before it is built: the cut is taken in canonical order, or units of members side by side (`whole_members`).
    Dead units come last.
    """
    architecture = census.population_.architecture
    bases = output_bases(architecture, pooling, pooling.dtype)
    apart = whole_members(census, responses, first, widths).groups if first else cut_at(census, widths).groups
    chosen: dict[str, Groups] = {}
    for layer in reversed(architecture.free):
        name, family = layer.name, [tied.name for tied in architecture.family(layer.name)]
        if len(family) == 1 and architecture.pointwise(name):
            targets = _targets(responses, name, bases, {**apart, **chosen}, census)
            chosen[name], bases[name] = _choose(census, responses, name, targets, widths[name], first)
        else:
            chosen[name] = apart[name]
            bases |= {tied: basis_of(census, responses, tied, chosen[name]) for tied in family}
    return Choice(chosen, {name: basis for name, basis in bases.items() if name not in architecture.heads})


def _choose(
    census: Census, responses: Responses, name: str, targets: Tensor, n: int, first: Sequence[int]
) -> tuple[Groups, Basis]:
    """The n clusters of a pointwise layer that explain its targets (r, t) best, in order, and their basis."""
    layer, network, units = census.layers_[name], responses.networks[0], responses.units(name)
    symmetry, n_live = usable_symmetry(network.architecture, name), min(n, layer.clustering.n_leaves)
    own = np.flatnonzero(np.isin(layer.member, first) & layer.alive)
    candidates = candidate_clusters(layer, layer.at(n_live), units, symmetry, own)
    features = _centred(network.activate(name, candidates.values.T))
    greedy = candidates.groups(forward_selection(features, targets, n_live, candidates.kept[:n_live]))
    if not first:
        groups = (greedy, candidates.groups(candidates.cut))
        points = [find_centroids(units, each, symmetry).points for each in groups]  # as they will be built
        built = (network.activate(name, each.T.to(units.dtype)) for each in points)
        by_choice, by_cut = (unexplained(_centred(values), targets) for values in built)
        if by_choice - by_cut > SINGLE * float(targets.square().sum()):
            order = forward_selection(features[:, candidates.cut], targets, n_live)
            greedy = candidates.groups([candidates.cut[i] for i in order])
    greedy = greedy.with_units(torch.from_numpy(layer.dead_units(n - n_live)))
    return greedy, basis_of(census, responses, name, greedy)


def _targets(
    responses: Responses, layer: str, bases: Mapping[str, Basis], expected: Mapping[str, Groups], census: Census
) -> Tensor:
    """The contribution of a layer to the centroids above, by kernel position of each map that reads it: centred (r, t).

    Summed over a kernel's positions these are the pre-activations above, up to a constant.
    """
    architecture = census.population_.architecture
    (axis,), columns = architecture.read(layer), []
    rows = responses.compared(layer)
    for m in architecture.reading(layer):
        above, part = bases.get(m.writes), m.inputs.index(axis)
        if above is None:  # chosen later, as the residual stream that this layer writes
            groups = expected[architecture.first(m.writes)]
            above = basis_of(census, responses, m.writes, groups)
        shares = (
            a[rows]
            @ torch.einsum("uc,uis->ics", in_rows(mixing, m.output.inside), network.weights(m).parts[part]).flatten(1)
            for a, mixing, network in zip(responses.at(axis), above.mixing, responses.networks, strict=True)
        )
        columns.append(sum(shares, torch.zeros(())))
    return _centred(_compressed(torch.cat(columns, dim=1)))


def _compressed(targets: Tensor) -> Tensor:
    """At most `MAX_TARGETS` columns that stand for all: what counts of targets is Σ_t ⟨r_t, h⟩² alone."""
    if targets.shape[1] <= MAX_TARGETS:
        return targets
    generator = seeds.generator(0)
    mixed = torch.randn(targets.shape[1], MAX_TARGETS, generator=generator, dtype=targets.dtype)
    compressed: Tensor = targets @ mixed / math.sqrt(MAX_TARGETS)
    return compressed


def _centred(features: Tensor) -> Tensor:
    return features - features.mean(0)
