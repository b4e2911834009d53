"""The clusters of an assembly, and the bases that they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from consilience.assembly.draft import Draft
from consilience.bases.grounding import (
    Basis,
    Groups,
    basis_of_groups,
    basis_of_medoids,
    express,
    takes_offset,
)
from consilience.bases.hyperplanes import Projection, hyperplanes
from consilience.census.census import Census
from consilience.census.layer_units import spread_of_units
from consilience.clustering.clusters import Clusters
from consilience.signals.responses import Responses
from consilience.ties import descending
from consilience.units.architecture import outgoing_norms
from consilience.units.axes import Axis
from consilience.units.symmetry import usable_symmetry


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
        groups, census = self.choice.groups[draft.architecture.first(layer)], self.census
        varies = draft.architecture.has_insides(layer) or bool(draft.architecture.written(layer))
        if draft.responses.has_data and varies:
            return basis_of(census, draft.responses, layer, groups)
        points = hyperplanes(draft.members, layer, draft.projections).augmented
        symmetry = usable_symmetry(draft.architecture, layer)
        alive = census.layers_[draft.architecture.first(layer)].alive
        return basis_of_groups(points, groups, census.population_.widths(layer), symmetry, alive)

    def express(self, draft: Draft, axis: Axis) -> Sequence[Projection]:
        """Return the members' projections on a layer as it has been built, in a place where it is read."""
        assert axis.layer is not None
        refit = self.census.grounding == "activations" and draft.responses.has_data
        shared = draft.rows(axis) if refit else None
        intercept = takes_offset(draft.architecture, axis)
        activations = draft.responses.at(axis)
        basis = draft.bases[axis.layer].at(axis.inside, activations)
        return express(basis, activations, shared, intercept=intercept).projections


def whole_members(census: Census, responses: Responses, members: Sequence[int], widths: Mapping[str, int]) -> Choice:
    """Return members side by side, each unit alone, dead ones too; then other members' units, up to ``widths``.

    Of those, the units that contribute most to what reads them come first.
    """
    groups = {}
    for name, layer in census.layers_.items():
        own = [np.flatnonzero(layer.member == k) for k in members]
        rest = np.flatnonzero(~np.isin(layer.member, members))
        if sum(map(len, own)) < widths[name]:
            rest = rest[descending(_contributions(responses, name)[rest])]
        units = np.concatenate([*own, rest])[: widths[name]]
        groups[name] = Groups.of_sets(list(units[:, None]))
    return Choice(groups, {})


def _contributions(responses: Responses, layer: str) -> NDArray[np.float64]:
    """What each unit of all members adds to the maps that read it or the units tied to it: spread × norm of weights."""
    architecture, parts = responses.networks[0].architecture, []
    family = [tied.name for tied in architecture.family(layer) if architecture.reading(tied.name)]
    for k, network in enumerate(responses.networks):
        units, total = network.architecture.layer(layer).width, torch.zeros(())
        for name in family:
            total = total + spread_of_units(responses.read(name)[k], units) * outgoing_norms(network, name)
        parts.append(total)
    return torch.cat(parts).double().numpy()


def basis_of(census: Census, responses: Responses, layer: str, groups: Groups) -> Basis:
    """Return the basis of a layer whose units are grouped as those of its family, by their responses to data."""
    population = census.population_
    architecture, widths = population.architecture, population.widths(layer)
    alive = census.layers_[architecture.first(layer)].alive
    if architecture.has_insides(layer):
        return basis_of_medoids(responses.contributions(layer), groups, widths, alive)
    return basis_of_groups(responses.units(layer), groups, widths, usable_symmetry(architecture, layer), alive)
