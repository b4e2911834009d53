"""The bases of an assembly, layer by layer, out of groups of a census's units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from consilience.assembly.construction import Draft
from consilience.census.census import Census
from consilience.census.distances import evenly
from consilience.census.grounding import Basis, basis_of_groups, express, takes_offset
from consilience.units.activations import Activations, activations
from consilience.units.hyperplanes import hyperplanes
from consilience.units.symmetry import usable_symmetry


@dataclass(frozen=True)
class CensusPlan:
    """Bases out of a census's clusters; see `consilience.assembly.building.Plan`.

    Attributes
    ----------
    census : the census.
    groups : by hidden layer, the units of each cluster, (U, c).
    has_data : whether activations are those on calibration data.
    """

    census: Census
    groups: Mapping[str, NDArray[np.bool_]]
    has_data: bool

    def basis(self, draft: Draft, layer: str, done: Sequence[Activations]) -> Basis:
        """Return the basis of the clusters chosen, before the layer is built."""
        architecture, population = draft.architecture, self.census.population_
        if not self.has_data:
            points = hyperplanes(draft.members, layer, draft.projections()).augmented
        else:
            points = torch.cat([each.written[evenly(each.written)] for each in done], dim=1).T
        symmetry, alive = usable_symmetry(architecture, layer), self.census.layers_[layer].alive
        return basis_of_groups(points, self.groups[layer], population.widths(layer), symmetry, alive)

    def express(self, draft: Draft, layer: str, basis: Basis, done: Sequence[Activations], x: Tensor) -> Basis:
        """Return the basis with the members expressed in the layer as it has been built."""
        shared = activations(draft.network, x, layer).read if self.census.grounding == "activations" else None
        intercept = takes_offset(draft.architecture, layer)
        return express(basis, [each.read for each in done], shared, intercept=intercept)
