"""Averages of transformers whose streams are turned onto a reference's, and whose heads and units are permuted.

A stream that only norms read is the same network after any rotation, with the gains of the norms in the maps that read
them. Permutations are a small part of these.

Axis legend: ``r`` rows, ``u`` units of a member, ``c`` fused units.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from consilience.assembly.directions import complement, has_means_removed, turnable
from consilience.baselines.fuse import basis_from, check_fusion, fuse, needed
from consilience.baselines.matching import activation_orders
from consilience.baselines.permutations import average_of
from consilience.bases.grounding import Basis
from consilience.bases.hyperplanes import Projection
from consilience.checks import check_count
from consilience.population.checks import check_equal_widths
from consilience.population.population import Population
from consilience.signals.responses import Responses


def orthogonal_matching(
    population: Population,
    *,
    reference: int = 0,
    correction: str = "none",
    calibration: Tensor | None = None,
    pooling: str = "mean",
    random_state: int = 0,
) -> nn.Module:
    """Average the members after turning each one's streams, and permuting its heads and units, onto a reference.

    Streams are turned by the rotation O that minimizes ``‖z_ref − z⁽ᵏ⁾ O‖`` over all places on calibration data; where
    norms subtract the mean over units, O keeps it. All else is permuted as in `activation_matching`, which this is for
    networks without such streams. Source: Theus et al. 2025, with activations in place of weights and without their
    training of the rotations.

    Parameters
    ----------
    population : members of equal widths.
    reference : index of the member that the others are matched with.
    correction, pooling : as in `consilience.assemble`.
    calibration : inputs (n, ...) without labels; always needed.
    random_state : seed of a distillation.
    """
    x = needed(check_fusion(population, correction, calibration, pooling))
    check_equal_widths(population)
    check_count("reference", reference, least=0, most=len(population) - 1)
    bases = average_of(population, activation_orders(population, x, reference, "activations"))
    responses = Responses(population.networks, x)
    for layer in turnable(population.architecture):
        bases |= _turned(responses, layer, reference)
    return fuse(population, bases, correction=correction, calibration=x, pooling=pooling, random_state=random_state)


def _turned(responses: Responses, layer: str, reference: int) -> dict[str, Basis]:
    """The bases of a stream and of what norms write of it: ``γ ⊙ n(z) + β = diag(γ) O n(ã) + β``."""
    architecture = responses.networks[0].architecture
    centred, values = has_means_removed(architecture, layer), list(responses.read(layer))
    turns = [_rotation(z, values[reference], centred).to(z.dtype) for z in values]
    turned = basis_from([turn / len(turns) for turn in turns], turns)
    bases = {layer: replace(turned, turned=True)}
    for tied in architecture.family(layer):
        for m in architecture.writing(tied.name) if tied.name != layer else ():
            weights = [network.weights(m) for network in responses.networks]
            written = (
                Projection(own.parts[0].flatten(1).sum(1)[:, None] * turn, own.bias)
                for own, turn in zip(weights, turns, strict=True)
            )
            bases[tied.name] = Basis(turned.mixing, tuple(written), turned=True)
    return bases


def _rotation(z: Tensor, target: Tensor, centred: bool) -> Tensor:
    """The orthogonal O (u, c) that minimizes ‖target − z O‖ (Procrustes); if centred, one that keeps the mean."""
    z, target = z.double(), target.double()
    ones = z.new_ones(z.shape[1], 1) / z.shape[1] ** 0.5
    inside = complement(z.shape[1]) if centred else torch.eye(z.shape[1], dtype=torch.float64)
    u, _, v = torch.linalg.svd(inside.T @ z.T @ target @ inside)
    turn: Tensor = inside @ u @ v @ inside.T
    return turn + ones @ ones.T if centred else turn
