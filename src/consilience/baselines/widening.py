"""One member made wider, with its function unchanged.

Axis legend: ``u`` unit of the member, ``c`` unit of the wider network.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from consilience import seeds
from consilience.assembly.norms import with_statistics
from consilience.baselines.fuse import Widths, basis_from, check_fusion, fuse, layer_widths
from consilience.bases.grounding import Basis
from consilience.checks import check_count, check_number
from consilience.errors import InputError
from consilience.population.checks import check_side_by_side
from consilience.population.population import Population
from consilience.units.architecture import TracedNetwork, read_state, write_state


def net2wider(
    population: Population,
    width: Widths = "2x",
    *,
    member: int = 0,
    noise: float = 0.0,
    correction: str = "none",
    calibration: Tensor | None = None,
    random_state: int = 0,
) -> nn.Module:
    """Widen one member by replicating units, without changing its function (Net2WiderNet).

    With g(c) = c for the member's own units and g(c) random for the rest, unit c copies the incoming weights of unit
    g(c), and the outgoing weights of unit u are divided among its copies:
    ``A[u, c] = 1`` and ``P[u, c] = 1/|{c : g(c) = u}|`` where g(c) = u. Source: Chen, Goodfellow & Shlens 2016, section
    2.3.

    Parameters
    ----------
    population : the member's population, without layer norms, whose statistics copies of units change.
    width : of each layer: an int, a multiple of the members' median width ("2x"), or a dict by layer, others as is.
    member : index of the member; pass the one that is best on validation data.
    noise : standard deviation of noise on the incoming weights of all but the first copy, relative to the root mean
        square of the unit's weights. The paper advises a little where training has no dropout to tell copies apart.
    correction, calibration : as in `consilience.assemble`. They work towards the member, but for
        "distill", which works towards the ensemble; noise comes last.
    random_state : seed of the replication, the noise, and a distillation.
    """
    calibration = check_fusion(population, correction, calibration)
    check_side_by_side(population)
    for m in population.architecture.maps:
        if not m.fitted:
            cure = "copies of units change its statistics: widen networks with batch norms, or none"
            raise InputError(f"population must be networks without layer norm, got {m.name!r}", cure=cure)
    check_count("member", member, least=0, most=len(population) - 1)
    check_number("noise", noise, least=0)
    noise = float(noise)
    network = population.networks[member]
    own = {layer.name: layer.width for layer in network.architecture.free}
    widths = layer_widths(population, width, own)
    for name, wanted in widths.items():
        if wanted < own[name]:
            least = f"{own[name]}, the width of member {member}"
            cure = "ask for more, or for an assembly"
            raise InputError(f"width of layer '{name}' must be at least {least}, got {wanted}", cure=cure)
    generator = seeds.generator(random_state)
    copied = replication(network, widths, generator)
    dtype = population.dtype
    bases = {name: replicated_basis(sources, own[name], dtype) for name, sources in copied.items()}
    wider = fuse(
        population, bases, members=[network], correction=correction, calibration=calibration, random_state=random_state
    )
    if noise > 0:
        for name in copied:
            perturb_copies(wider, network, name, noise, generator)
        if calibration is not None:
            noisy = TracedNetwork(network.architecture.with_widths(widths), read_state(wider))
            write_state(wider, with_statistics(noisy, calibration).state)
    return wider


def replication(network: TracedNetwork, widths: Mapping[str, int], generator: torch.Generator) -> dict[str, Tensor]:
    """Return g by hidden layer: the unit that each unit of the wider layer copies, (c,)."""
    copied = {}
    for layer in network.architecture.free:
        extra = torch.randint(layer.width, (widths[layer.name] - layer.width,), generator=generator)
        copied[layer.name] = torch.cat([torch.arange(layer.width), extra])
    return copied


def replicated_basis(sources: Tensor, width: int, dtype: torch.dtype) -> Basis:
    """Return the basis in which unit c stands for unit ``sources[c]`` of the one member."""
    copies = torch.eye(width, dtype=dtype)[:, sources]
    return basis_from([copies], [copies / copies.sum(1, keepdim=True)])


def perturb_copies(
    wider: nn.Module, network: TracedNetwork, layer: str, noise: float, generator: torch.Generator
) -> None:
    """Add noise to the incoming weights of every unit of a layer that comes after the member's own."""
    state, first_copy = read_state(wider), network.architecture.layer(layer).width
    noisy = TracedNetwork(network.architecture.with_widths(network.architecture.widths_in(state)), state)
    for m in network.architecture.writing(layer):
        weights = noisy.weights(m)
        matrix = weights.matrix.clone()
        copies = matrix[first_copy:]
        size = copies.square().mean(dim=1, keepdim=True).sqrt()
        copies += noise * size * torch.randn(copies.shape, dtype=copies.dtype, generator=generator)
        noisy = noisy.with_weights(m, weights.with_matrix(matrix, weights.bias))
    write_state(wider, noisy.state)
