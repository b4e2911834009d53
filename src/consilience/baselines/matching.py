"""Averages of members that are permuted onto a reference, or onto each other's mean, by linear assignment.

Axis legend: ``k`` member, ``u`` unit of a member, ``c`` fused unit, ``i`` input, ``s`` kernel position, ``n`` sample.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from consilience import seeds
from consilience.baselines.fuse import check_fusion, fuse, needed
from consilience.baselines.permutations import Block, Orders, assign, average_of, blocks_of, identity, reorder
from consilience.checks import check_choice, check_count
from consilience.population.checks import check_equal_widths
from consilience.population.population import Population
from consilience.signals.responses import Responses

ROUNDING = 1e-12  # of the sum of all gains: a smaller gain is rounding
SEEN = ("activations", "pre-activations")


def weight_matching(
    population: Population,
    *,
    reference: int = 0,
    correction: str = "none",
    calibration: Tensor | None = None,
    pooling: str = "mean",
    random_state: int = 0,
) -> nn.Module:
    """Average the members after permuting each onto a reference by its weights (Git Re-Basin).

    For each member, permutations Π of all hidden layers that maximize ``Σ_maps ⟨W_ref, Πᵀ W⁽ᵏ⁾ Π'⟩ + ⟨b_ref, Πᵀ b⁽ᵏ⁾⟩``
    are sought by coordinate descent: with the other layers fixed, the best permutation of one layer is a linear
    assignment. Source: Ainsworth, Hayase & Srinivasa 2023, Algorithm 1.

    Parameters
    ----------
    population : members of equal widths.
    reference : index of the member that the others are permuted onto.
    correction, calibration, pooling : as in `consilience.assemble`.
    random_state : seed of the order in which layers are visited, and of a distillation.
    """
    calibration = check_fusion(population, correction, calibration, pooling)
    check_equal_widths(population)
    check_count("reference", reference, least=0, most=len(population) - 1)
    bases = average_of(population, weight_orders(population, reference, random_state))
    return fuse(
        population, bases, correction=correction, calibration=calibration, pooling=pooling, random_state=random_state
    )


def merge_many(
    population: Population,
    *,
    correction: str = "none",
    calibration: Tensor | None = None,
    pooling: str = "mean",
    random_state: int = 0,
) -> nn.Module:
    """Average the members after permuting each onto the mean of the others until nothing moves (MergeMany).

    Each step raises ``Σ_{a<b} ⟨Θ_a, Θ_b⟩`` over the reordered members, so it ends. Source: Ainsworth, Hayase &
    Srinivasa 2023, Algorithm 3. Parameters and errors are those of `weight_matching`, without a reference.
    """
    calibration = check_fusion(population, correction, calibration, pooling)
    check_equal_widths(population)
    bases = average_of(population, merging_orders(population, random_state))
    return fuse(
        population, bases, correction=correction, calibration=calibration, pooling=pooling, random_state=random_state
    )


def activation_matching(
    population: Population,
    *,
    reference: int = 0,
    seen: str = "activations",
    correction: str = "none",
    calibration: Tensor | None = None,
    pooling: str = "mean",
    random_state: int = 0,
) -> nn.Module:
    """Average the members after permuting each onto a reference by its units' activations.

    Layer by layer, the permutation that maximizes ``Σ_c corr(a_ref[:, c], a⁽ᵏ⁾[:, order[c]])`` over calibration data:
    one linear assignment. Constant units have correlation 0. Source: Li et al. 2016, section 3;
    Ainsworth, Hayase & Srinivasa 2023, section 3.1, have the uncentered product in place of the correlation.

    Parameters
    ----------
    population : members of equal widths.
    reference : index of the member that the others are permuted onto.
    seen : "activations", as published, or "pre-activations".
    correction, pooling : as in `consilience.assemble`.
    calibration : inputs (n, ...) without labels; always needed.
    random_state : seed of a distillation.
    """
    x = needed(check_fusion(population, correction, calibration, pooling))
    check_equal_widths(population)
    check_count("reference", reference, least=0, most=len(population) - 1)
    check_choice("seen", seen, SEEN)
    bases = average_of(population, activation_orders(population, x, reference, seen))
    return fuse(population, bases, correction=correction, calibration=x, pooling=pooling, random_state=random_state)


def weight_orders(population: Population, reference: int, random_state: int) -> list[Orders]:
    """Return each member's orders towards the reference."""
    blocks, rng = blocks_of(population), seeds.numpy_generator(random_state)
    target = [block.values[reference] for block in blocks]
    return [
        identity(population)
        if k == reference
        else coordinate_descent(blocks, target, [block.values[k] for block in blocks], identity(population), rng)
        for k in range(len(population))
    ]


def merging_orders(population: Population, random_state: int) -> list[Orders]:
    """Return each member's orders towards the mean of the others."""
    blocks, rng = blocks_of(population), seeds.numpy_generator(random_state)
    orders = [identity(population) for _ in population]
    moved = len(orders) > 1
    while moved:
        moved = False
        for k in rng.permutation(len(orders)):
            placed = [reordered(blocks, j, order) for j, order in enumerate(orders) if j != k]
            mean = [torch.stack(values).mean(0) for values in zip(*placed, strict=True)]
            new = coordinate_descent(blocks, mean, reordered(blocks, k, orders[k]), orders[k], rng)
            moved = moved or any(not torch.equal(new[name], orders[k][name]) for name in new)
            orders[k] = new
    return orders


def activation_orders(population: Population, x: Tensor, reference: int, seen: str) -> list[Orders]:
    """Return each member's orders towards the reference by correlation on inputs x."""
    orders: list[Orders] = [{} for _ in population]
    responses = Responses(population.networks, x)
    for layer in population.architecture.free:
        values = responses.read_units(layer.name) if seen == "activations" else responses.written_units(layer.name)
        z = [_standardized(member) for member in values]
        for k, order in enumerate(orders):
            order[layer.name] = assign(z[reference].T @ z[k])
    return orders


def coordinate_descent(
    blocks: Sequence[Block],
    target: Sequence[Tensor],
    member: Sequence[Tensor],
    orders: Orders,
    rng: np.random.Generator,
) -> Orders:
    """Return the orders of a member after improving one layer at a time until no layer can be improved.

    ``target`` and ``member`` are values by block (u, i, s), the member's in the given orders.
    """
    orders, gained = dict(orders), True
    while gained:
        gained = False
        for name in rng.permutation(list(orders)):
            gain = gains(blocks, target, member, name)
            order = assign(gain)
            if gain.gather(1, order[:, None]).sum() - gain.trace() > ROUNDING * gain.abs().sum():
                member = reorder(blocks, member, name, order)
                orders[name] = orders[name][order]
                gained = True
    return orders


def gains(blocks: Sequence[Block], target: Sequence[Tensor], member: Sequence[Tensor], layer: str) -> Tensor:
    """Return (c, u): what the similarity ``Σ_blocks ⟨target, member⟩`` gets from unit u in place c of a layer."""
    width = next(len(value) for block, value in zip(blocks, member, strict=True) if block.writes == layer)
    total = torch.zeros(width, width, dtype=torch.float64)
    for block, theirs, mine in zip(blocks, target, member, strict=True):
        if block.writes == layer:
            total += theirs.flatten(1) @ mine.flatten(1).T
        if block.reads == layer:
            total += theirs.transpose(0, 1).flatten(1) @ mine.transpose(0, 1).flatten(1).T
    return total


def reordered(blocks: Sequence[Block], k: int, orders: Orders) -> list[Tensor]:
    """Return member k's values by block (u, i, s) in the given orders."""
    values = [block.values[k] for block in blocks]
    for name, order in orders.items():
        values = reorder(blocks, values, name, order)
    return values


def _standardized(values: Tensor) -> Tensor:
    """Columns at mean 0 and unit norm, constant ones at zero: products of columns are correlations."""
    centered = values.double() - values.double().mean(0)
    norms = torch.linalg.vector_norm(centered, dim=0)
    constant = norms <= 1e-6 * torch.linalg.vector_norm(values.double(), dim=0)  # float32 rounding of a constant
    return centered / torch.where(constant, torch.inf, norms)
