"""Members side by side, of which the largest units are kept.

Axis legend: ``k`` member, ``u`` unit of a member, ``U`` units of all members, ``c`` fused unit.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from consilience.baselines.fuse import Widths, basis_from, check_fusion, fuse, layer_widths
from consilience.bases.grounding import Basis
from consilience.errors import InputError
from consilience.population.checks import check_side_by_side
from consilience.population.population import Population
from consilience.ties import descending
from consilience.units.architecture import incoming_norms


def transplantation(
    population: Population,
    width: Widths = "2x",
    *,
    correction: str = "none",
    calibration: Tensor | None = None,
    pooling: str = "mean",
    random_state: int = 0,
) -> nn.Module:
    """Concatenate the members and keep, in each hidden layer, the units of largest magnitude (Neuron Transplantation).

    All members side by side, with outputs averaged, are their ensemble; of its units the K with the largest norm of
    incoming weights, ``‖w_u‖₂`` in the member's own coordinates and without the bias, stay as they are, and the others
    are removed with their outgoing weights: ``A[u, c] = P[u, c] = 1`` where kept unit c is u. Source: Öz et al. 2024.
    Norms are taken before anything is removed; there is no fine-tuning.

    Parameters
    ----------
    population : members of any widths.
    width : units kept in each layer: an int, a multiple of the members' median width ("2x"), or a dict by layer.
    correction, calibration, pooling : as in `consilience.assemble`.
    random_state : seed of a distillation.
    """
    calibration = check_fusion(population, correction, calibration, pooling)
    check_side_by_side(population)
    names = [layer.name for layer in population.architecture.free]
    widths = layer_widths(population, width, {name: population.median_width(name) for name in names})
    for name, n_kept in widths.items():
        most = sum(population.widths(name))
        if n_kept > most:
            cure = "ask for less, or add members"
            raise InputError(f"width of layer '{name}' must be at most {most}, all units, got {n_kept}", cure=cure)
    bases = transplanted_bases(population, widths)
    return fuse(
        population, bases, correction=correction, calibration=calibration, pooling=pooling, random_state=random_state
    )


def transplanted_bases(population: Population, widths: Mapping[str, int]) -> dict[str, Basis]:
    """Return the basis of each hidden layer: the kept units, in the members' order."""
    bases = {}
    for name, n_kept in widths.items():
        largest_first = descending(torch.cat(magnitudes(population, name)).numpy())
        kept = torch.from_numpy(largest_first[:n_kept]).sort().values
        ones = torch.eye(sum(population.widths(name)), dtype=population.dtype)[:, kept]
        shares = ones.split(list(population.widths(name)))
        bases[name] = basis_from(shares, shares)
    return bases


def magnitudes(population: Population, layer: str) -> list[Tensor]:
    """Return the norm of every unit's incoming weights, per member (u,)."""
    return [incoming_norms(network, layer, bias=False) for network in population.networks]
