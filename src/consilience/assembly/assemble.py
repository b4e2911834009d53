"""One larger network out of a census."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from consilience.assembly.construction import Draft, construct
from consilience.assembly.correction import least_squares, moments
from consilience.assembly.distillation import distill
from consilience.assembly.selection import Selection, select
from consilience.census.census import Census, check_inputs, evenly, member_networks
from consilience.census.grounding import Basis, basis_of, by_index, express, takes_offset
from consilience.census.ordering import Clusters
from consilience.errors import InputError
from consilience.units.activations import activations
from consilience.units.hyperplanes import hyperplanes
from consilience.units.layers import Map, read_state
from consilience.units.proof import prove
from consilience.units.resize import resize
from consilience.units.symmetry import balanced, usable_symmetry

Correct = Callable[[Draft, Map, Basis, Sequence[Tensor], Tensor], None]
LAYERWISE: dict[str, Correct | None] = {
    "none": None,
    "moments": moments,
    "least-squares": least_squares,
    "distill": least_squares,
}
CORRECTIONS = tuple(LAYERWISE)


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
    if correction not in LAYERWISE:
        raise InputError(
            "unknown correction",
            where="assemble(correction=...)",
            got=repr(correction),
            expected=", ".join(CORRECTIONS),
        )
    x = census.calibration_ if calibration is None else calibration
    if x is None and correction != "none":
        raise InputError(
            "this correction needs calibration data", where="assemble(calibration=...)", got=correction,
            cure='pass unlabelled inputs, or use correction="none"',
        )  # fmt: skip
    if calibration is not None:
        check_inputs(census.population_, calibration, "the calibration data")
    selected = select(census, width)

    template = census.population_.members[0].module
    architecture = census.population_.architecture
    widths = {name: len(clusters) for name, clusters in selected.items()}
    module = resize(template, architecture, widths)
    draft = Draft(architecture.with_widths(widths), read_state(module), members)
    for layer in architecture.layers:
        _build_layer(draft, census, layer.name, selected.get(layer.name), LAYERWISE[correction], x)
    network = balanced(draft.network)
    module.load_state_dict({**module.state_dict(), **network.state})
    module.eval().requires_grad_(True)
    prove(module, network, census.population_.example_input)
    if correction == "distill":
        assert x is not None
        module = distill(module, x, torch.stack([network(x) for network in members]).mean(0), random_state=random_state)
    return module


def _build_layer(
    draft: Draft, census: Census, layer: str, clusters: Clusters | None, correct: Correct | None, x: Tensor | None
) -> None:
    """Construct and correct everything that writes one layer, then express the members in it.

    ``clusters`` is None for the outputs.
    """
    architecture, members = draft.architecture, draft.members
    # A constant unit does on zeros what it does anywhere, which is all that is asked of activations without data.
    shown = torch.zeros_like(census.population_.example_input[:1]) if x is None else x
    done = [activations(network, shown, layer) for network in members]
    responses = [each.written for each in done]
    if clusters is None:
        basis = by_index(len(members), architecture.layer(layer).width, responses[0].dtype)
    else:
        if x is None:
            points = hyperplanes(members, layer, draft.projections()).augmented
        else:
            points = torch.cat([written[evenly(written)] for written in responses], dim=1).T
        symmetry, alive = usable_symmetry(architecture, layer), census.layers_[layer].alive
        basis = basis_of(points, clusters.labels, census.population_.widths(layer), symmetry, alive)
    for m in architecture.writing(layer):
        construct(draft, m, basis)
        if correct is not None and x is not None:
            correct(draft, m, basis, responses, x)
    if clusters is not None:
        shared = activations(draft.network, shown, layer).read if census.grounding == "activations" else None
        intercept = takes_offset(architecture, layer)
        draft.bases[layer] = express(basis, [each.read for each in done], shared, intercept=intercept)
