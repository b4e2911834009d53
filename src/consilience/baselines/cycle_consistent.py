"""Average of members that are permuted into one universe at once, so that any two are matched consistently.

- The objective has a term for every pair of members, but is computed from sums over members: O(N).
- Along a line it is a polynomial of degree 4, so the line search is exact.
- All layers of all members move together, from a start that tells one member apart.

Axis legend: ``k`` member, ``u``, ``i`` units of a member, ``c``, ``d`` units of the universe, ``s`` kernel position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.polynomial import Polynomial
from torch import Tensor, nn

from consilience import seeds
from consilience.baselines.fuse import check_fusion, fuse
from consilience.baselines.permutations import Block, Orders, assign, average_of, blocks_of
from consilience.population.checks import check_equal_widths
from consilience.population.population import Population
from consilience.ties import DOUBLE, first_largest

TIE = 1e-7  # of the largest slope: gains that differ by less are equal
TOLERANCE = 1e-7  # of the objective's size: a step that gains less is the last

Soft = dict[str, Tensor]  # by layer, (k, u, c): one doubly stochastic matrix for each member


def cycle_matching(
    population: Population,
    *,
    correction: str = "none",
    calibration: Tensor | None = None,
    pooling: str = "mean",
    random_state: int = 0,
) -> nn.Module:
    """Average the members after permuting all of them into a common universe (C2M3).

    One permutation P per member and hidden layer, so that ``P_ab = P_a P_bᵀ`` is consistent around any cycle. With
    ``U_k = P_kᵀ W⁽ᵏ⁾ P'_k`` for every map, and the same for biases, it maximizes over all layers jointly

        ``Σ_{a<b} ⟨U_a, U_b⟩ = ½ (‖Σ_k U_k‖² − Σ_k ‖U_k‖²)``

    by Frank–Wolfe steps over doubly stochastic P, each towards the permutations that the gradient points to, and then
    takes the nearest permutations. Source: Crisostomi et al. 2024 (Frank–Wolfe matching of n models).

    The paper starts from identities or barycenters for all members. This starts from the identity for one member, which
    numbers the universe, and barycenters for the others: from the published starts members must first agree on a
    numbering, which mostly fails, even for permuted copies of one network.

    Parameters
    ----------
    population : members of equal widths.
    correction, calibration, pooling : as in `consilience.assemble`.
    random_state : seed of which member numbers the universe, and of a distillation.
    """
    calibration = check_fusion(population, correction, calibration, pooling)
    check_equal_widths(population)
    bases = average_of(population, universe_orders(population, random_state))
    return fuse(
        population, bases, correction=correction, calibration=calibration, pooling=pooling, random_state=random_state
    )


def universe_orders(population: Population, random_state: int) -> list[Orders]:
    """Return each member's orders in the universe."""
    first = int(seeds.numpy_generator(random_state).integers(len(population)))
    soft = frank_wolfe(blocks_of(population), start(population, first))
    hard = {name: nearest_permutations(p).argmax(1) for name, p in soft.items()}
    return [{name: order[k] for name, order in hard.items()} for k in range(len(population))]


def start(population: Population, first: int) -> Soft:
    """Return the identity for one member, and barycenters (all entries equal) for the others."""
    soft = {}
    for layer in population.architecture.free:
        p = torch.full((len(population), layer.width, layer.width), 1 / layer.width, dtype=torch.float64)
        p[first] = torch.eye(layer.width, dtype=torch.float64)
        soft[layer.name] = p
    return soft


def frank_wolfe(blocks: Sequence[Block], soft: Soft) -> Soft:
    """Return P after steps until the gain is at most `TOLERANCE`."""
    soft = {name: p.clone() for name, p in soft.items()}
    placed = [into_universe(block, soft) for block in blocks]
    while step(blocks, soft, placed) > TOLERANCE:
        pass
    return soft


def step(blocks: Sequence[Block], soft: Soft, placed: list[Tensor]) -> float:
    """Take one Frank–Wolfe step, which changes P and U (placed); return its gain relative to the objective's size."""
    slopes = gradient(blocks, soft, placed)
    # Of permutations that are equally good, the one nearest to P: a barycenter has no preference.
    stay = {name: TIE * slope.abs().amax((1, 2), keepdim=True) * soft[name] for name, slope in slopes.items()}
    change = {name: nearest_permutations(slopes[name] + stay[name]) - p for name, p in soft.items()}
    line = along(blocks, soft, change, placed)
    best = highest(line)
    for name, p in soft.items():
        p += best * change[name]
    placed[:] = [into_universe(block, soft) for block in blocks]
    return float(line(best) - line(0.0)) / max(float(np.abs(line.coef).sum()), 1e-300)


def into_universe(block: Block, soft: Soft, *, left: bool = True, right: bool = True) -> Tensor:
    """Return ``P_kᵀ W⁽ᵏ⁾ P'_k`` of a block (k, c, d, s), or without one of the two sides."""
    values = block.values
    if left and block.writes:
        values = (soft[block.writes].mT @ values.flatten(2)).unflatten(2, values.shape[2:])
    if right and block.reads:
        values = torch.einsum("kuis,kid->kuds", values, soft[block.reads])
    return values


def pairs(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """Return ``½ Σ_blocks (⟨Σ_k A_k, Σ_k B_k⟩ − Σ_k ⟨A_k, B_k⟩)`` of two lists of (k, c, d, s); of U, the objective."""
    return sum(float((x.sum(0) * y.sum(0)).sum() - (x * y).sum()) / 2 for x, y in zip(a, b, strict=True))


def gradient(blocks: Sequence[Block], soft: Soft, placed: Sequence[Tensor]) -> Soft:
    """Return the objective's gradient in every P, with U (k, c, d, s) by block in ``placed``.

    For the layer that a map writes it is ``W⁽ᵏ⁾ P' (Σ_{j≠k} U_j)ᵀ``, for the layer that it reads
    ``W⁽ᵏ⁾ᵀ P Σ_{j≠k} U_j``.
    """
    total = {name: torch.zeros_like(p) for name, p in soft.items()}
    for block, u in zip(blocks, placed, strict=True):
        others = u.sum(0) - u
        if block.writes:
            read = into_universe(block, soft, left=False)
            total[block.writes] += read.flatten(2) @ others.flatten(2).mT
        if block.reads:
            written = into_universe(block, soft, right=False)
            total[block.reads] += torch.einsum("kcis,kcds->kid", written, others)
    return total


def along(blocks: Sequence[Block], soft: Soft, change: Soft, placed: Sequence[Tensor]) -> Polynomial:
    """Return the objective along P + tΔ as a polynomial in t, with U(0) by block in ``placed``.

    Each ``U(t) = U₀ + t U₁ + t² U₂``, since it is linear in the P on either side.
    """
    one, two = [torch.zeros_like(u) for u in placed], [torch.zeros_like(u) for u in placed]
    for block, slope, curvature in zip(blocks, one, two, strict=True):
        if block.writes:
            moving = replace(block, values=into_universe(block, change, right=False))
            slope += into_universe(moving, soft, left=False)
            if block.reads:
                curvature += into_universe(moving, change, left=False)
        if block.reads:
            slope += into_universe(replace(block, values=into_universe(block, soft, right=False)), change, left=False)
    constant, linear = pairs(placed, placed), 2 * pairs(placed, one)
    quadratic = 2 * pairs(placed, two) + pairs(one, one)
    return Polynomial([constant, linear, quadratic, 2 * pairs(one, two), pairs(two, two)])


def highest(line: Polynomial) -> float:
    """Return where in [0, 1] a polynomial is highest: at an end, or where its slope is zero."""
    roots = (complex(root) for root in line.deriv().roots())
    flat = [root.real for root in roots if abs(root.imag) < 1e-9 and 0 < root.real < 1]
    places = sorted((0.0, 1.0, *flat))
    values = torch.tensor([float(line(t)) for t in places], dtype=torch.float64)
    return places[int(first_largest(values, tolerance=DOUBLE))]


def nearest_permutations(slopes: Tensor) -> Tensor:
    """Return the permutation matrices P (k, u, c) that maximize ``⟨slopes, P⟩`` for each member."""
    return torch.stack([torch.eye(len(gain), dtype=gain.dtype)[assign(gain)] for gain in slopes])
