"""The bases of an assembly, layer by layer, out of groups of a census's units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from consilience.bases.construction import Draft
from consilience.bases.grounding import Basis, basis_of_groups, express, takes_offset
from consilience.bases.hyperplanes import Projection, hyperplanes
from consilience.census.census import Census
from consilience.census.layer_units import units_on_data
from consilience.units.axes import Axis
from consilience.units.symmetry import usable_symmetry


@dataclass(frozen=True)
class CensusPlan:
    """Bases out of a census's clusters; see `consilience.assembly.building.Plan`.

    Attributes
    ----------
    census : the census.
    groups : by layer that is free to choose, the units of each cluster, (U, c).
    has_data : whether activations are those on calibration data.
    """

    census: Census
    groups: Mapping[str, NDArray[np.bool_]]
    has_data: bool

    def basis(self, draft: Draft, layer: str) -> Basis:
        """Return the basis of the clusters chosen, before the layer is built."""
        architecture, population = draft.architecture, self.census.population_
        first = architecture.first(layer)
        if not self.has_data:
            points = hyperplanes(draft.members, layer, draft.projections).augmented
        else:
            points = units_on_data(draft.responses, layer)
        symmetry, alive = usable_symmetry(architecture, layer), self.census.layers_[first].alive
        return basis_of_groups(points, self.groups[first], population.widths(layer), symmetry, alive)

    def express(self, draft: Draft, axis: Axis) -> Sequence[Projection]:
        """Return the members' projections on a layer as it has been built, in a place where it is read."""
        assert axis.layer is not None
        shared = draft.rows(axis) if self.census.grounding == "activations" else None
        intercept = takes_offset(draft.architecture, axis)
        return express(draft.bases[axis.layer], draft.responses.at(axis), shared, intercept=intercept).projections
