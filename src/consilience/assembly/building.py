"""One network from a basis per layer, from the inputs up: construct, correct, express the members in what was built.

Nothing here knows where the bases come from: clusters of a census, or the matchings and plans of the baselines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from consilience.assembly.construction import Draft, construct
from consilience.assembly.correction import least_squares, moments
from consilience.assembly.distillation import distill
from consilience.assembly.pooling import output_basis, pooled
from consilience.assembly.second_order import second_order
from consilience.census.grounding import Basis
from consilience.errors import InputError
from consilience.population.population import Population
from consilience.units.activations import Activations, Responses
from consilience.units.layers import Map, TracedNetwork, read_state
from consilience.units.proof import prove
from consilience.units.resize import resize
from consilience.units.symmetry import balanced

Correct = Callable[[Draft, Map, Basis, Sequence[Tensor], Tensor], None]
LAYERWISE: dict[str, Correct | None] = {
    "none": None,
    "moments": moments,
    "least-squares": least_squares,
    "second-order": least_squares,
    "distill": least_squares,
}
CORRECTIONS = tuple(LAYERWISE)
FITTED = tuple(name for name, correct in LAYERWISE.items() if correct is least_squares)  # weights are fitted to data


class Plan(Protocol):
    """Where the bases come from, layer by layer."""

    def basis(self, draft: Draft, layer: str, done: Sequence[Activations]) -> Basis:
        """Return the basis of a hidden layer, before it is built; ``done``: what each member does there."""
        ...

    def express(self, draft: Draft, layer: str, basis: Basis, done: Sequence[Activations], x: Tensor) -> Basis:
        """Return the basis with the members' projections on the layer as it has been built; ``x``: the inputs."""
        ...


def check_correction(correction: str, x: Tensor | None, where: str, allowed: Sequence[str] = CORRECTIONS) -> None:
    """Refuse a correction that is not allowed, or has no data to work on.

    Raises
    ------
    InputError
        In both cases.
    """
    if correction not in allowed:
        raise InputError(
            "unknown correction", where=f"{where}(correction=...)", got=repr(correction),
            expected=", ".join(allowed),
        )  # fmt: skip
    if x is None and correction != "none":
        raise InputError(
            "this correction needs calibration data", where=f"{where}(calibration=...)", got=correction,
            cure="pass unlabelled inputs" + (', or use correction="none"' if "none" in allowed else ""),
        )  # fmt: skip


def build(
    population: Population,
    responses: Responses,
    widths: Mapping[str, int],
    plan: Plan,
    *,
    pooling: Tensor,
    correction: str,
    random_state: int = 0,
) -> nn.Module:
    """Return a network of the population's class at other widths, in eval mode.

    Parameters
    ----------
    population : the members' population; its first member is the template.
    responses : of the networks that are mixed, in whatever form the plan's bases mean them, on calibration inputs; on
        any inputs if the correction is "none" and the plan does not look at them (see `without_data`).
    widths : by hidden layer.
    plan : the bases.
    pooling : weights (k, o) of the members' outputs.
    correction : one of `CORRECTIONS`.
    random_state : seed of the distillation.
    """
    template, architecture = population.members[0].module, population.architecture
    module = resize(template, architecture, widths)
    members, x = responses.networks, responses.x
    draft = Draft(architecture.with_widths(widths), read_state(module), members)
    correct = LAYERWISE[correction]
    for layer in architecture.layers:
        done = responses[layer.name]
        hidden = layer.interchangeable
        basis = plan.basis(draft, layer.name, done) if hidden else output_basis(pooling, x.dtype)
        for m in architecture.writing(layer.name):
            construct(draft, m, basis)
            if correct is not None:
                correct(draft, m, basis, [each.written for each in done], x)
        if hidden:
            draft.bases[layer.name] = plan.express(draft, layer.name, basis, done, x)
    network = balanced(draft.network)
    if correction == "second-order":
        network = balanced(second_order(network, x, pooled(responses, pooling)))
    module.load_state_dict({**module.state_dict(), **network.state})
    module.eval().requires_grad_(True)
    prove(module, network, population.example_input)
    if correction == "distill":
        module = distill(module, x, pooled(responses, pooling), random_state=random_state)
    return module


def without_data(members: Sequence[TracedNetwork], population: Population) -> Responses:
    """Return responses to one input of zeros.

    A constant unit does there what it does anywhere, which is all that is asked of activations without data.
    """
    return Responses(members, torch.zeros_like(population.example_input[:1]))
