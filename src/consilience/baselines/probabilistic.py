"""Probabilistic matching of the members' units to global units, whose number is inferred (PFNM).

Axis legend: ``k`` member, ``u`` unit of a member, ``c`` global unit, ``d`` coordinate, ``r`` rank of a new global unit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from consilience import seeds
from consilience.baselines.fuse import basis_from, check_fusion, fuse, placed
from consilience.bases.grounding import Basis
from consilience.bases.hyperplanes import Projection, hyperplanes
from consilience.checks import check_choice, check_count, check_positive
from consilience.population.population import Population
from consilience.ties import rounded
from consilience.units.axes import Axis

MAX_SWEEPS = 20  # over the members; of networks trained on MNIST, assignments stop changing after 2 to 15


def probabilistic_matching(
    population: Population,
    *,
    sigma: float = 0.3,
    sigma0: float = math.inf,
    gamma: float = 1.0,
    max_width: int | Mapping[str, int] | None = None,
    correction: str = "none",
    calibration: Tensor | None = None,
    pooling: str = "mean",
    random_state: int = 0,
) -> nn.Module:
    """Fuse members by matching their units to global ones, and opening new ones (PFNM).

    Units v (incoming weights on the global units below, bias, and outgoing weights where they lead to the outputs) are
    noisy copies of global units: ``v ~ N(θ_c, σ²)``, ``θ_c ~ N(0, σ0²)``; which member owns which is a beta process of
    concentration γ. Member by member, all units are assigned at once so as to maximize, with S_c the sum of the m_c
    units that other members have in c, ρ = σ²/σ0² and J = N,

        old c: ``(‖S_c + v‖² / (ρ + m_c + 1) − ‖S_c‖² / (ρ + m_c)) / σ² + 2 log(m_c / (J − m_c))``
        r-th new: ``‖v‖² / (ρ + 1) / σ² + 2 log(γ / J) − 2 log r``

    in sweeps over all members until nothing changes. Source: Yurochkin et al. 2019, Proposition 2 (prior mean 0).
    Layers are taken from the inputs up, so that incoming weights can be expressed in the global units below. A global
    unit is the posterior mean ``S_c / (ρ + m_c)``. Its weights to the outputs are the sum over its owners divided by N.
    The published mean over owners would not preserve the mean of the members' outputs.

    Parameters
    ----------
    population : members of any widths.
    sigma : standard deviation of copies, as a share of the root mean square length of the layer's units v. Members
        trained on digits or MNIST give hardly more global units than their width at 0.5, about twice at 0.3, four times
        at 0.2.
    sigma0 : standard deviation of global units, in the same unit. The default, a flat prior, gives identical members
        back; finite values scale global units down by m/(ρ + m).
    gamma : concentration: how readily new units are opened. With at most 1, a perfect match beats a new unit.
    max_width : most global units in a layer, at least the members' widths: one number or by layer; None for no limit.
    correction, calibration, pooling : as in `consilience.assemble`.
    random_state : seed of the order of members, and of a distillation.
    """
    calibration = check_fusion(population, correction, calibration, pooling)
    for name, value in (("sigma", sigma), ("sigma0", sigma0), ("gamma", gamma)):
        if not (isinstance(value, float) and value == math.inf):
            check_positive(name, value)
    sigma, sigma0, gamma = float(sigma), float(sigma0), float(gamma)
    caps = _caps(population, max_width)
    bases = global_bases(population, sigma, sigma0, gamma, caps, random_state)
    return fuse(
        population, bases, correction=correction, calibration=calibration, pooling=pooling, random_state=random_state
    )


def global_bases(
    population: Population, sigma: float, sigma0: float, gamma: float, caps: Mapping[str, int | None], random_state: int
) -> dict[str, Basis]:
    """Return the basis of each hidden layer: A[u, c] = 1/(ρ + m_c) where unit u belongs to c, and P[u, c] = 1 there."""
    rng, rho = seeds.numpy_generator(random_state), (sigma / sigma0) ** 2
    bases: dict[str, Basis] = {}
    for layer in population.architecture.free:
        points = units(population, layer.name, placed(population.architecture, bases))
        owners = match(points, sigma, sigma0, gamma, caps[layer.name], rng)
        n_global = 1 + max(int(owner.max()) for owner in owners)
        ones = [torch.eye(n_global, dtype=population.dtype)[owner] for owner in owners]
        counts = torch.stack([one.sum(0) for one in ones]).sum(0)
        bases[layer.name] = basis_from([one / (rho + counts) for one in ones], ones)
    return bases


def units(population: Population, layer: str, below: Mapping[Axis, Sequence[Projection]]) -> list[Tensor]:
    """Return each member's units (u, d) with a root mean square length of 1 over all members.

    Outgoing weights are part of a unit where they lead to the outputs, whose index is the same for all members; units
    of a hidden layer above are not matched yet.
    """
    table, output = hyperplanes(population.networks, layer, below), population.architecture.heads
    readers = [m for m in population.architecture.reading(layer) if m.writes in output]
    points = []
    for k, network in enumerate(population.networks):
        outgoing = [
            part.transpose(0, 1).flatten(1)
            for m in readers
            for part, axis in zip(network.weights(m).parts, m.inputs, strict=True)
            if axis.layer == layer
        ]
        points.append(torch.cat([table.augmented[table.member == k], *outgoing], dim=1).double())
    length = float(torch.cat(points).square().sum(1).mean().sqrt())
    return [p / length for p in points] if length > 0 else points


def match(
    points: Sequence[Tensor], sigma: float, sigma0: float, gamma: float, cap: int | None, rng: np.random.Generator
) -> list[Tensor]:
    """Return the global unit of every unit, per member (u,), numbered without gaps; points are per member (u, d)."""
    owners: list[Tensor | None] = [None] * len(points)
    for _ in range(MAX_SWEEPS):
        before = list(owners)
        for k in rng.permutation(len(points)):
            owners[k] = None
            sums, counts, others = _pool(points, owners)
            n_old, n_own = len(counts), len(points[k])
            n_new = n_own if cap is None else min(n_own, cap - n_old)
            gain = scores(points[k], sums, counts, sigma, sigma0, gamma, n_members=len(points), n_new=n_new)
            owners = list(others)
            owners[k] = torch.from_numpy(linear_sum_assignment(rounded(gain.numpy()), maximize=True)[1])
        _, _, owners = _pool(points, owners)
        if all(b is not None and o is not None and torch.equal(b, o) for b, o in zip(before, owners, strict=True)):
            break
    return [owner for owner in owners if owner is not None]


def scores(
    points: Tensor,
    sums: Tensor,
    counts: Tensor,
    sigma: float,
    sigma0: float,
    gamma: float,
    *,
    n_members: int,
    n_new: int,
) -> Tensor:
    """Return what it is worth to assign each unit to each global unit, old ones first (u, c + r); see the method.

    ``points`` (u, d) are one member's, ``sums`` (c, d) and ``counts`` (c,) ≥ 1 are of the other members' units in each
    global unit, and ``n_new`` new global units are on offer.
    """
    rho = (sigma / sigma0) ** 2
    own, old = points.square().sum(1), sums.square().sum(1)
    merged = own[:, None] + 2 * points @ sums.T + old  # ‖S + v‖²
    matched = (merged / (rho + counts + 1) - old / (rho + counts)) / sigma**2
    popularity = 2 * torch.log(counts / (n_members - counts))
    alone = (own / (rho + 1) / sigma**2)[:, None]
    rank = torch.arange(1, n_new + 1, dtype=points.dtype)
    return torch.cat([matched + popularity, alone + 2 * math.log(gamma / n_members) - 2 * torch.log(rank)], dim=1)


def _pool(points: Sequence[Tensor], owners: Sequence[Tensor | None]) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    """Sums (c, d) and counts (c,) of the units in each global unit, and the owners renumbered as they first occur."""
    present = [owner for owner in owners if owner is not None]
    flat = torch.cat([torch.empty(0, dtype=torch.int64), *present]).numpy()
    _, first, old = np.unique(flat, return_index=True, return_inverse=True)
    new = torch.from_numpy(first.argsort().argsort()[old])
    placed = iter(new.split([len(owner) for owner in present]))
    renumbered = [None if owner is None else next(placed) for owner in owners]
    units = torch.cat([p for p, each in zip(points, owners, strict=True) if each is not None] or [points[0][:0]])
    sums = torch.zeros(len(first), units.shape[1], dtype=units.dtype).index_add_(0, new, units)
    return sums, torch.bincount(new, minlength=len(first)).to(sums.dtype), renumbered


def _caps(population: Population, max_width: int | Mapping[str, int] | None) -> dict[str, int | None]:
    names = [layer.name for layer in population.architecture.free]
    caps = max_width if isinstance(max_width, Mapping) else dict.fromkeys(names, max_width)
    for name, cap in caps.items():
        check_choice("max_width", name, names)
        if cap is not None:
            cure = "no two units of one member share a global unit: give at least the members' widths"
            check_count(f"max_width of layer '{name}'", cap, least=max(population.widths(name)), cure=cure)
    return {name: caps.get(name) for name in names}
