"""The bases of an assembly, layer by layer, out of clusters of a census."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from consilience.assembly.choice import Choice
from consilience.assembly.draft import Draft
from consilience.bases.grounding import Basis, basis_of_groups, express, takes_offset
from consilience.bases.hyperplanes import Projection, hyperplanes
from consilience.census.census import Census
from consilience.units.axes import Axis
from consilience.units.symmetry import usable_symmetry


@dataclass(frozen=True)
class CensusPlan:
    """Bases of the clusters chosen from a census; see `consilience.assembly.build.Plan`."""

    census: Census
    choice: Choice

    def basis(self, draft: Draft, layer: str) -> Basis:
        """Return the basis of the clusters chosen, before the layer is built."""
        if layer in self.choice.bases:
            return self.choice.bases[layer]
        responses, population = draft.responses, self.census.population_
        if responses.has_data:
            points = responses.units(layer)
        else:
            points = hyperplanes(draft.members, layer, draft.projections).augmented
        first = draft.architecture.first(layer)
        symmetry, alive = usable_symmetry(draft.architecture, layer), self.census.layers_[first].alive
        return basis_of_groups(points, self.choice.groups[first], population.widths(layer), symmetry, alive)

    def express(self, draft: Draft, axis: Axis) -> Sequence[Projection]:
        """Return the members' projections on a layer as it has been built, in a place where it is read."""
        assert axis.layer is not None
        shared = draft.rows(axis) if self.census.grounding == "activations" else None
        intercept = takes_offset(draft.architecture, axis)
        return express(draft.bases[axis.layer], draft.responses.at(axis), shared, intercept=intercept).projections
