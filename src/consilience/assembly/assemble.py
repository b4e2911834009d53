"""One larger network out of a census."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from consilience.assembly.building import build, check_correction
from consilience.assembly.construction import Draft
from consilience.assembly.selection import Selection, select
from consilience.census.census import Census, check_inputs, evenly, member_networks
from consilience.census.grounding import Basis, basis_of, express, takes_offset
from consilience.census.ordering import Clusters
from consilience.units.activations import Activations, activations
from consilience.units.hyperplanes import hyperplanes
from consilience.units.symmetry import usable_symmetry


def assemble(
    census: Census,
    width: Selection = "2x",
    *,
    correction: str = "least-squares",
    calibration: Tensor | None = None,
    random_state: int = 0,
) -> nn.Module:
    """Build one network of the members' class from the clusters of a census.

    Any width comes from the same census; nothing is clustered again. With ``width="full"`` the result is the ensemble
    of the members (the mean of their outputs).

    Parameters
    ----------
    census : a fitted census.
    width : an int, "2x", a dict by layer, "frequency>=0.5", "parameters<=100000" or "full"; see
    `consilience.assembly.selection`. correction : in order of cost, "none", "moments" (REPAIR), "least-squares" (closed
    form, layer by layer) or "distill"
        (least squares, then a few hundred steps towards the members' mean outputs; no labels).
    calibration : inputs (n, ...) without labels; by default those of the census. Not needed for correction="none" on a
        census
        grounded in weights.
    random_state : seed of the distillation.

    Returns
    -------
    A plain ``nn.Module`` in eval mode, a resized copy of the first member.

    Raises
    ------
    InputError
        If the width or correction is not understood, there are fewer clusters than units asked for, or data is missing
        or does not fit.
    """
    members = member_networks(census)
    x = census.calibration_ if calibration is None else calibration
    check_correction(correction, x, where="assemble")
    if calibration is not None:
        check_inputs(census.population_, calibration, "the calibration data")
    selected = select(census, width)

    widths = {name: len(clusters) for name, clusters in selected.items()}
    plan = _CensusPlan(census, selected, x)
    return build(census.population_, members, widths, plan, correction=correction, x=x, random_state=random_state)


@dataclass(frozen=True)
class _CensusPlan:
    """Bases out of a census's clusters; see `consilience.assembly.building.Plan`."""

    census: Census
    selected: Mapping[str, Clusters]
    x: Tensor | None

    def basis(self, draft: Draft, layer: str, done: Sequence[Activations]) -> Basis:
        """Return the basis of the clusters selected, before the layer is built."""
        architecture, population = draft.architecture, self.census.population_
        if self.x is None:
            points = hyperplanes(draft.members, layer, draft.projections()).augmented
        else:
            points = torch.cat([each.written[evenly(each.written)] for each in done], dim=1).T
        symmetry, alive = usable_symmetry(architecture, layer), self.census.layers_[layer].alive
        return basis_of(points, self.selected[layer].labels, population.widths(layer), symmetry, alive)

    def express(self, draft: Draft, layer: str, basis: Basis, done: Sequence[Activations], shown: Tensor) -> Basis:
        """Return the basis with the members expressed in the layer as it has been built."""
        shared = activations(draft.network, shown, layer).read if self.census.grounding == "activations" else None
        intercept = takes_offset(draft.architecture, layer)
        return express(basis, [each.read for each in done], shared, intercept=intercept)
