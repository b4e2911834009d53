"""One network out of any basis per layer: the common end of all methods that match, transport or concatenate units.

With mixing ``A⁽ᵏ⁾`` (u, c) and projections ``P⁽ᵏ⁾`` (u, c) per layer, ``W̃ = Σ_k A⁽ᵏ⁾ᵀ W⁽ᵏ⁾ P⁽ᵏ⁾``; the readout is the
mean over members of ``W_out P``. Corrections are those of an assembly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from consilience.assembly.building import build, check_correction
from consilience.assembly.pooling import mean
from consilience.bases.construction import Draft
from consilience.bases.grounding import Basis
from consilience.bases.hyperplanes import Projection
from consilience.census.census import without_data
from consilience.population.checks import check_inputs
from consilience.population.population import Population
from consilience.signals.responses import Responses
from consilience.units.architecture import Architecture, TracedNetwork
from consilience.units.axes import Axis


def fuse(
    population: Population,
    bases: Mapping[str, Basis],
    *,
    members: Sequence[TracedNetwork] | None = None,
    correction: str = "none",
    calibration: Tensor | None = None,
    random_state: int = 0,
) -> nn.Module:
    """Return the network that the bases make of the members, a plain module of their class in eval mode.

    Parameters
    ----------
    population : the population; its first member is the template.
    bases : of every hidden layer that is tied to none before it, with one mixing and one projection per member.
    members : the networks that are mixed; by default those of the population, their parameters as they are.
    correction : "none", "moments", "least-squares", "second-order" or "distill".
    calibration : inputs (n, ...) without labels; not needed for "none".
    random_state : seed of the distillation.

    Raises
    ------
    InputError
        If the correction is unknown, or calibration data is missing or does not fit.
    """
    check_correction(correction, calibration)
    if calibration is not None:
        check_inputs(population, calibration, "calibration")
    widths = {name: basis.width for name, basis in bases.items()}
    members = population.networks if members is None else members
    x = population.example_input
    responses = without_data(members, x) if calibration is None else Responses(members, calibration)
    return build(
        population, responses, widths, _Given(bases), pooling=mean(responses), correction=correction,
        random_state=random_state,
    )  # fmt: skip


@dataclass(frozen=True)
class _Given:
    """Bases that are known before anything is built."""

    bases: Mapping[str, Basis]

    def basis(self, draft: Draft, layer: str) -> Basis:
        """Return the layer's basis; tied layers share it."""
        return self.bases[draft.architecture.first(layer)]

    def express(self, draft: Draft, axis: Axis) -> Sequence[Projection]:
        """Return its projections as they are: the method has said how members are read off."""
        assert axis.layer is not None
        return draft.bases[axis.layer].projections


def placed(architecture: Architecture, bases: Mapping[str, Basis]) -> dict[Axis, Sequence[Projection]]:
    """Return the projections by place where layers with a basis, and those tied to them, are read."""
    return {
        axis: basis.projections
        for name, basis in bases.items()
        for layer in architecture.family(name)
        for axis in architecture.read(layer.name)
    }
