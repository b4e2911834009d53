"""One network out of any basis per layer: the common end of all methods that match, transport or concatenate units.

With mixing ``A⁽ᵏ⁾`` (u, c) and projections ``P⁽ᵏ⁾`` (u, c) per layer, ``W̃ = Σ_k A⁽ᵏ⁾ᵀ W⁽ᵏ⁾ P⁽ᵏ⁾``; the readout is
``Σ_k ω⁽ᵏ⁾ W_out⁽ᵏ⁾ P⁽ᵏ⁾`` with the pooling's weights ω. Corrections and poolings are those of an assembly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from consilience.assembly.build import Builder, check_correction
from consilience.assembly.draft import Draft
from consilience.assembly.pooling import POOLINGS, Pooled, check_pooling
from consilience.bases.grounding import Basis
from consilience.bases.hyperplanes import Projection
from consilience.checks import Width, check_choice, check_size, resolve_width
from consilience.errors import InputError
from consilience.population.checks import calibration_inputs, check_population
from consilience.population.population import Population
from consilience.signals.responses import Responses
from consilience.units.architecture import Architecture, TracedNetwork
from consilience.units.axes import Axis

Widths = Width | Mapping[str, Width]


def fuse(
    population: Population,
    bases: Mapping[str, Basis],
    *,
    members: Sequence[TracedNetwork] | None = None,
    correction: str = "none",
    calibration: Tensor | None = None,
    pooling: str = "mean",
    random_state: int = 0,
) -> nn.Module:
    """Return the network that the bases make of the members, a plain module of their class in eval mode.

    Bases are of every hidden layer that is not tied to an earlier one, with one mixing and one projection per member;
    tied layers have the same, or one of their own.
    By default the networks mixed are the population's; its first member is the template. Outputs are pooled as in an
    assembly (`consilience.assembly.pooling`). A distillation is always towards the ensemble of the population.
    """
    widths = {layer.name: bases[layer.name].width for layer in population.architecture.free}
    members = population.networks if members is None else members
    x = population.example_input
    responses = Responses.without_data(members, x) if calibration is None else Responses(members, calibration)
    whole = Responses(population.networks, responses.x) if calibration is not None else responses
    teacher = Pooled(population.networks, POOLINGS[pooling](whole)) if correction == "distill" else None
    builder = Builder(population, responses, POOLINGS[pooling](responses), teacher)
    builder.check_rows(widths, correction)
    network = builder.layers(widths, _Given(bases), correction)
    if correction == "distill":  # from the network of second-order steps, as an assembly is
        network = builder.refined(network)
    return builder.finish(network, correction, random_state)


@dataclass(frozen=True)
class _Given:
    """Bases that do not depend on the layers below as built."""

    bases: Mapping[str, Basis]

    def basis(self, draft: Draft, layer: str) -> Basis:
        """Return the layer's basis; tied layers without one of their own share that of the first."""
        return self.bases[layer if layer in self.bases else draft.architecture.first(layer)]

    def express(self, draft: Draft, axis: Axis) -> Sequence[Projection]:
        """Return the projections of the basis as they are."""
        assert axis.layer is not None
        return draft.bases[axis.layer].rows(axis.inside).projections


def basis_from(mixing: Sequence[Tensor], reading: Sequence[Tensor]) -> Basis:
    """Return the basis with these A and P, each (u, c) per member, and no offsets."""
    return Basis(tuple(mixing), tuple(Projection(p, p.new_zeros(len(p))) for p in reading))


def placed(architecture: Architecture, bases: Mapping[str, Basis]) -> dict[Axis, Sequence[Projection]]:
    """Return the projections by place where layers with a basis, and those tied to them, are read."""
    return {
        axis: basis.rows(axis.inside).projections
        for name, basis in bases.items()
        for layer in architecture.family(name)
        for axis in architecture.read(layer.name)
    }


def check_fusion(
    population: Population, correction: str, calibration: Tensor | None, pooling: str = "mean"
) -> Tensor | None:
    """Return the calibration data as the members take it.

    Raise for no member, an unknown correction or pooling, and calibration data that is missing or does not fit.
    """
    check_population(population)
    if len(population) == 0:
        cure = "train members, or give modules to Population.from_modules"
        raise InputError("population must have at least 1 member, got none", cure=cure)
    check_correction(correction, calibration is not None)
    check_pooling(pooling, calibration is not None)
    return None if calibration is None else calibration_inputs(population, calibration, "calibration")


def needed(calibration: Tensor | None) -> Tensor:
    """Return the calibration data of a method that compares activations, or raise."""
    if calibration is None:
        cure = "pass unlabelled inputs (n, ...), or use a method that compares weights"
        raise InputError("calibration must be inputs for a method that compares activations, got None", cure=cure)
    return calibration


def layer_widths(population: Population, width: Widths, default: Mapping[str, int]) -> dict[str, int]:
    """Return the width of each hidden layer; layers that a dict of widths does not name get their default."""
    names = [layer.name for layer in population.architecture.free]
    width = width if isinstance(width, Mapping) else dict.fromkeys(names, width)
    for name in width:
        check_choice("width", name, names)
    chosen: dict[str, Width] = {**default, **width}
    widths = {name: resolve_width(chosen[name], population.median_width(name), "width") for name in names}
    for number in widths.values():
        check_size("width", number)
    return widths
