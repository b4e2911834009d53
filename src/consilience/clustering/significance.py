"""Do units recur in other members, more than if every member's units were turned at random?

The null hypothesis takes a member's units away and keeps everything else. With Z (u, d) the points of its units,
``Q Z`` for a random orthogonal Q (Haar) has the same second moment ``ZᵀZ``: the same subspace, the same principal axes,
the same linear similarity (CKA, RSA) to every other member. Only the units are other ones.

For a unit, its *nearest* unit in another member is the one at the highest cosine. Its rank is the number of rotations
of the member that have a unit as near; by the null hypothesis every rank is equally likely, in all other members
independently. So the sum of scores of the ranks has a known distribution, and the unit an exact p-value. Clusters play
no part in it: it does not matter that they were fitted to the same units. A cluster has the median of its units'
p-values: it is significant where most of its units are.

A member *has* the unit where the nearest one is within a radius. The share of the members that have it, less the same
share when they are turned, is the *excess*; the jackknife over members gives its interval.

Axis legend: ``k`` member, ``u`` units of one member, ``U`` units of all members, ``d`` coordinates, ``c`` cluster.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import t as student
from torch import Tensor

from consilience.engines import current
from consilience.seeds import ROTATIONS, generator

Floats = NDArray[np.float64]
RADIUS = 0.9  # two units at cosine 0.95 of a centroid, each in a direction of its own, are at 0.95² of each other
CONFIDENCE = 0.95
ROUNDING = 1e-9  # of cosines: a turned unit that is nearer or as near, up to rounding, counts against the unit
SCORE = 10  # units of a score per nat: the scores of 100 rotations go from 0 to 46
BLOCK = 16  # members that units are looked for in by one task
TOGETHER = 16  # blocks whose results are in memory twice
WORTH = 1e9  # multiplications from which on tasks are sent to workers
SMALLEST = torch.finfo(torch.float64).tiny


@dataclass(frozen=True, eq=False)
class Recurrence:
    """Each unit in the other members; entries of its own member are 0."""

    nearest: Floats  # (U, k) highest cosine with a unit of the member
    turned: Floats  # (U, k) the same, mean over rotations of the member
    has: NDArray[np.bool_]  # (U, k) whether the nearest unit is within the radius
    chance: Floats  # (U, k) share of the rotations in which it is
    p: Floats  # (U,) of nearest units as near as these, or nearer, if the members' units were turned at random


@dataclass(frozen=True)
class Excess:
    """How many more members have a unit than by chance: means over units, then over pairs of members."""

    share: float  # of the other members that have a unit
    chance: float  # the same when they are turned
    standard_error: float  # of the difference, over members; NaN for two members
    interval: tuple[float, float]  # of the difference, at `CONFIDENCE`

    @property
    def excess(self) -> float:
        """The difference."""
        return self.share - self.chance

    @property
    def z(self) -> float:
        """The difference in standard errors; 0 where both are."""
        return self.excess / self.standard_error if self.standard_error != 0 else 0.0


def recurrence(
    points: Floats,
    member: NDArray[np.int64],
    n_members: int,
    *,
    radius: float,
    n_rotations: int,
    random_state: int,
    projective: bool,
) -> Recurrence:
    """Return where units, as points (U, d) of members (U,), are found in the other members.

    Points are at the scale that the units have in their networks: points brought to unit norm one by one would not be
    like turned ones, whose norms differ. ``projective`` counts opposite directions as one. The score of rank r among n
    rotations is ``log((1 + n) / (1 + r))``, as in Fisher's method (1932), in whole units of 1/`SCORE`.
    """
    z = torch.from_numpy(np.ascontiguousarray(points, dtype=np.float64))
    directions = z / torch.linalg.vector_norm(z, dim=1, keepdim=True).clamp(min=SMALLEST)
    score = np.rint(SCORE * np.log((1 + n_rotations) / np.arange(1, n_rotations + 2))).astype(np.int64)  # by rank
    shared: dict[str, Any] = {"z": z, "directions": directions, "member": member, "score": score, "radius": radius}
    shared |= {"random_state": random_state, "projective": projective}
    blocks = [range(k, min(k + BLOCK, n_members)) for k in range(0, n_members, BLOCK)]
    work = n_rotations * len(z) ** 2 / n_members * z.shape[1]
    columns, total = np.zeros((3, len(z), n_members)), np.zeros(len(z), dtype=np.int64)
    for first in range(0, len(blocks), TOGETHER):
        some = blocks[first : first + TOGETHER]
        found = current(worth=work >= WORTH).map(in_members, some, shared=shared)
        for block, (own, scores) in zip(some, found, strict=True):
            columns[:, :, block.start : block.stop] = own
            total += scores
    nearest, turned, chance = columns
    return Recurrence(nearest, turned, nearest > radius, chance, _upper_tail(score, n_members - 1)[total])


def in_members(
    members: range,
    *,
    z: Tensor,
    directions: Tensor,
    member: NDArray[np.int64],
    score: NDArray[np.int64],
    radius: float,
    random_state: int,
    projective: bool,
) -> tuple[Floats, NDArray[np.int64]]:
    """Return the nearest unit, the nearest when turned, and the chance of each unit in some members: a task.

    The first are (3, U, members); then the units' scores (U,), summed over these members.
    """
    columns, total, n_rotations = np.zeros((3, len(z), len(members))), np.zeros(len(z), dtype=np.int64), len(score) - 1
    nearest, turned, chance = columns
    for i, k in enumerate(members):
        mine, others = np.flatnonzero(member == k), np.flatnonzero(member != k)
        if not len(mine):
            continue
        gram, along = z[mine] @ z[mine].T, z[mine] @ directions[others].T  # (u, u), (u, U − u)
        norms = gram.diagonal()
        nearest[others, i] = highest = _highest(norms, along, projective)
        rank, source = np.zeros(len(others), dtype=np.int64), generator(random_state, ROTATIONS, k)
        for _ in range(n_rotations):
            q = rotation(len(mine), source)
            cosines = _highest(((q @ gram) * q).sum(1), q @ along, projective)
            rank += cosines >= highest - ROUNDING
            turned[others, i] += cosines / n_rotations
            chance[others, i] += (cosines > radius) / n_rotations
        total[others] += score[rank]
    return columns, total


def rotation(n: int, source: torch.Generator) -> Tensor:
    """Return a random orthogonal matrix (n, n), of Haar measure: Q of a Gaussian QR, R with a positive diagonal."""
    q, r = torch.linalg.qr(torch.randn(n, n, generator=source, dtype=torch.float64))
    turned: Tensor = q * torch.where(r.diagonal() < 0, -1.0, 1.0)
    return turned


def excess(units: Recurrence, member: NDArray[np.int64]) -> Excess:
    """Return the excess of units of members (U,).

    The mean over pairs is a U-statistic, whose standard error the jackknife gives (Arvesen 1969):
    ``(k − 1)/k Σ (e₍₋ₖ₎ − ē)²``.
    """
    n = units.has.shape[1]
    pairs = np.zeros((3, n, n))  # share, chance and 1, for the units of a member that has any (rows) in the others
    for k in np.unique(member):
        mine = member == k
        pairs[:, k] = units.has[mine].mean(0), units.chance[mine].mean(0), np.arange(n) != k
    share, chance, present = pairs
    total = present.sum()
    left = [np.delete(np.delete(pairs, k, 1), k, 2) for k in range(n)]
    left_out = np.array([(part[0] - part[1]).sum() / part[2].sum() if part[2].any() else np.nan for part in left])
    error = float(np.sqrt((n - 1) / n * np.square(left_out - left_out.mean()).sum()))
    middle, half = float((share - chance).sum() / total), error * float(student.ppf((1 + CONFIDENCE) / 2, n - 1))
    return Excess(float(share.sum() / total), float(chance.sum() / total), error, (middle - half, middle + half))


def false_discovery_rates(p: Floats) -> Floats:
    """Return the q-values of p-values (n,): the least rate of false discoveries at which each is one.

    ``q₍ᵢ₎ = min_{j ≥ i} n p₍ⱼ₎ / j``, p ascending (Benjamini and Hochberg 1995).

    >>> false_discovery_rates(np.array([0.01, 0.8, 0.03])).round(3).tolist()
    [0.03, 0.8, 0.045]
    """
    n, order = len(p), np.argsort(p, kind="stable")
    q = np.empty(n)
    q[order] = np.minimum.accumulate((p[order] * n / np.arange(1, n + 1))[::-1])[::-1]
    return np.minimum(q, 1)


def _upper_tail(score: NDArray[np.int64], n: int) -> Floats:
    """Chance that n scores, each drawn at random from ``score``, sum to at least 0, 1, 2, …"""
    single = np.bincount(score) / len(score)
    sums = np.ones(1)
    for _ in range(n):
        sums = np.convolve(sums, single)
    tail: Floats = sums[::-1].cumsum()[::-1]
    return np.minimum(tail, 1)


def _highest(squares: Tensor, along: Tensor, projective: bool) -> Floats:
    """The highest cosine of each direction with a unit, by squared norms (u,) and inner products (u, directions)."""
    cosines = along / squares.clamp(min=SMALLEST).sqrt()[:, None]
    highest: Floats = (cosines.abs() if projective else cosines).amax(0).numpy()
    return highest
