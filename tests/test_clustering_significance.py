"""Recurrence of units beside chance: the test against its formula, its level, its power."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from consilience import seeds
from consilience.clustering.clusterers import ward
from consilience.clustering.distances import Points
from consilience.clustering.significance import (
    ROUNDING,
    SCORE,
    Excess,
    Recurrence,
    excess,
    false_discovery_rates,
    recurrence,
    rotation,
)

Floats = NDArray[np.float64]


def functions(
    n_members: int, width: int, n_inputs: int, seed: int, *, n_common: int = 0, share: float = 1.0, noise: float = 0.5
) -> tuple[Floats, NDArray[np.int64], NDArray[np.bool_]]:
    """Responses (U, 200) of random linear units to correlated inputs, members (U,), and which units are common ones.

    Members have nothing in common but, with the chance ``share`` for each, the units that are: unit vectors plus noise
    of length ``noise``.
    """
    g = np.random.default_rng(seed)
    spread = np.exp(-4 * np.arange(n_inputs) / n_inputs)
    inputs = (g.normal(size=(200, n_inputs)) + g.normal(size=n_inputs)) * spread
    common = unit_rows(g.normal(size=(n_common, n_inputs)))
    weights, planted = [], []
    for _ in range(n_members):
        w = unit_rows(g.normal(size=(width, n_inputs)))
        chosen = np.flatnonzero(g.random(n_common) < share)
        w[chosen] = unit_rows(common[chosen] + noise * w[chosen])
        weights.append(w)
        planted.append(np.isin(np.arange(width), chosen))
    return np.concatenate(weights) @ inputs.T, np.repeat(np.arange(n_members), width), np.concatenate(planted)


def unit_rows(x: Floats) -> Floats:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def measured(points: Floats, member: NDArray[np.int64], **options: object) -> Recurrence:
    defaults = {"radius": 0.9, "n_rotations": 30, "random_state": 0, "projective": False}
    return recurrence(points, member, int(member.max()) + 1, **(defaults | options))  # type: ignore[arg-type]


def test_a_rotation_is_orthogonal_and_its_first_entry_has_mean_0_and_variance_1_over_n() -> None:
    source = torch.Generator().manual_seed(0)
    drawn = torch.stack([rotation(4, source) for _ in range(800)])
    torch.testing.assert_close(drawn @ drawn.transpose(1, 2), torch.eye(4, dtype=torch.float64).expand(800, 4, 4))
    for entries in (drawn[:, 0, 0], drawn[:, 3, 3]):
        assert abs(float(entries.mean())) < 4 * 0.5 / math.sqrt(800)
        assert float(entries.var()) == pytest.approx(1 / 4, abs=0.05)


@pytest.mark.parametrize("projective", [False, True])
def test_recurrence_is_what_turning_the_points_and_comparing_all_pairs_gives(projective: bool) -> None:
    points, member, _ = functions(3, 4, 5, seed=1, n_common=2)
    member = np.repeat([0, 1, 2], [5, 3, 4])
    n, radius = 6, 0.7
    got = measured(points, member, n_rotations=n, radius=radius, projective=projective)

    def highest(unit: Floats, others: Floats) -> float:
        cosines = unit_rows(others) @ (unit / np.linalg.norm(unit))
        return float(np.abs(cosines).max() if projective else cosines.max())

    scores = [round(SCORE * math.log((1 + n) / (1 + rank))) for rank in range(n + 1)]
    for k in range(3):
        source = seeds.generator(0, seeds.ROTATIONS, k)
        mine = points[member == k]
        turned = [rotation(len(mine), source).numpy() @ mine for _ in range(n)]
        for i in np.flatnonzero(member != k):
            drawn = [highest(points[i], others) for others in turned]
            assert got.nearest[i, k] == pytest.approx(highest(points[i], mine))
            assert got.turned[i, k] == pytest.approx(np.mean(drawn))
            assert got.chance[i, k] == pytest.approx(np.mean(np.array(drawn) > radius))
            assert got.has[i, k] == (highest(points[i], mine) > radius)
    for i in range(len(points)):
        total = 0
        for k in {0, 1, 2} - {int(member[i])}:
            source = seeds.generator(0, seeds.ROTATIONS, k)
            mine = points[member == k]
            drawn = [highest(points[i], rotation(len(mine), source).numpy() @ mine) for _ in range(n)]
            total += scores[sum(value >= got.nearest[i, k] - ROUNDING for value in drawn)]
        sums = [sum(pair) for pair in itertools.product(scores, repeat=2)]
        assert got.p[i] == pytest.approx(np.mean(np.array(sums) >= total))
    own = member[:, None] == np.arange(3)
    assert not got.nearest[own].any()
    assert not got.chance[own].any()
    assert not got.has[own].any()


def test_scales_signs_and_orders_that_do_not_matter_change_nothing() -> None:
    points, member, _ = functions(3, 4, 6, seed=2, n_common=2)
    before = measured(points, member, projective=True)
    for other in (points * 1e4, points * np.where(member == 1, -1.0, 1.0)[:, None]):
        np.testing.assert_allclose(measured(other, member, projective=True).p, before.p)
    shuffled = np.random.default_rng(0).permutation(len(points))
    after = measured(points[shuffled], member[shuffled], projective=True)
    np.testing.assert_allclose(after.nearest, before.nearest[shuffled])


def test_without_free_signs_an_opposite_unit_is_not_the_same() -> None:
    points = np.eye(4)[[0, 1, 0, 2]] * np.array([1, 1, -1, 1])[:, None]
    member = np.array([0, 0, 1, 1])
    assert measured(points, member, projective=True).nearest[0, 1] == pytest.approx(1)
    assert measured(points, member).nearest[0, 1] == pytest.approx(0)


def test_copies_of_a_member_have_the_smallest_p_value_and_no_rounding_of_them_counts_against_it() -> None:
    points, _, _ = functions(1, 6, 8, seed=3)
    many = np.concatenate([points, points * (1 + 1e-12), points.astype(np.float32).astype(np.float64)])
    got = measured(many, np.repeat([0, 1, 2], 6), n_rotations=19)
    np.testing.assert_allclose(got.p, 1 / 20**2)
    assert bool(got.has[np.repeat([0, 1, 2], 6)[:, None] != np.arange(3)].all())


def test_a_member_without_units_has_none() -> None:
    points, _, _ = functions(2, 4, 6, seed=4)
    member = np.repeat([0, 2], 4)
    got = recurrence(points, member, 3, radius=0.5, n_rotations=10, random_state=0, projective=False)
    assert not got.has[:, 1].any()
    assert np.isfinite(got.p).all()
    assert np.isfinite(excess(got, member).share)


def test_p_values_are_uniform_where_members_have_nothing_in_common() -> None:
    p = np.concatenate([measured(*functions(4, 8, 12, seed)[:2], random_state=seed).p for seed in range(40)])
    for level in (0.05, 0.2, 0.5):  # the units of a draw depend on one another: about 40 · 4 independent ones
        assert np.mean(p <= level) == pytest.approx(level, abs=4 * math.sqrt(level / 160))


def test_the_excess_is_the_mean_over_pairs_of_members_and_its_error_the_jackknife() -> None:
    points, member, _ = functions(4, 5, 6, seed=5, n_common=3)
    member = np.repeat(np.arange(4), [7, 4, 5, 4])
    got, units = excess(measured(points, member), member), measured(points, member)

    def over(kept: list[int]) -> float:
        pairs = [
            (units.has[member == k, j] - units.chance[member == k, j]).mean() for k in kept for j in kept if j != k
        ]
        return float(np.mean(pairs))

    left_out = np.array([over([j for j in range(4) if j != k]) for k in range(4)])
    assert got.excess == pytest.approx(over([0, 1, 2, 3]))
    assert got.standard_error == pytest.approx(math.sqrt(3 / 4 * ((left_out - left_out.mean()) ** 2).sum()))
    low, high = got.interval
    assert (low + high) / 2 == pytest.approx(got.excess)
    assert high - low == pytest.approx(2 * 3.1824463 * got.standard_error)  # Student's t, 3 degrees of freedom
    assert got.z == pytest.approx(got.excess / got.standard_error)


def test_two_members_have_an_excess_without_an_interval() -> None:
    points, member, _ = functions(2, 5, 6, seed=6)
    got = excess(measured(points, member), member)
    assert np.isfinite(got.excess)
    assert math.isnan(got.standard_error)
    assert np.isnan(got.interval).all()


def test_no_excess_and_no_error_is_z_0() -> None:
    assert Excess(0.0, 0.0, 0.0, (0.0, 0.0)).z == 0


def test_false_discovery_rates_are_the_least_level_at_which_the_step_up_procedure_rejects() -> None:
    p = np.random.default_rng(0).random(12) ** 3
    q = false_discovery_rates(p)
    for level in (0.01, 0.05, 0.2, 0.5, 1.0):
        ranked = np.sort(p)
        passed = [i for i in range(12) if ranked[i] <= level * (i + 1) / 12]
        rejected = p <= (ranked[max(passed)] if passed else -1)
        np.testing.assert_array_equal(q <= level, rejected)
    assert false_discovery_rates(np.empty(0)).tolist() == []


def clusters_significant(
    points: Floats, member: NDArray[np.int64], seed: int, n_rotations: int = 30
) -> tuple[Floats, NDArray[np.int64]]:
    """q-values of ward's clusters, twice as many as a member has units, and the cluster of each unit."""
    n_clusters = 2 * len(points) // (int(member.max()) + 1)
    labels = ward(Points(unit_rows(points), False), None, 0).cut(n_clusters)
    p = measured(points, member, random_state=seed, n_rotations=n_rotations).p
    median = [np.sort(p[labels == c])[(labels == c).sum() // 2] for c in range(n_clusters)]
    return false_discovery_rates(np.array(median)), labels


def turned_members(seed: int) -> tuple[Floats, NDArray[np.int64]]:
    """Members that share all of their units, each turned at random."""
    points, member, _ = functions(4, 8, 12, seed, n_common=8, noise=0.1)
    for k in range(4):
        points[member == k] = rotation(8, torch.Generator().manual_seed(100 * seed + k)).numpy() @ points[member == k]
    return points, member


@pytest.mark.parametrize(
    ("kind", "n_draws"),
    [
        ("random functions", 40),
        pytest.param("random functions", 200, marks=pytest.mark.slow),
        pytest.param("turned members", 200, marks=pytest.mark.slow),
    ],
)
def test_of_members_with_nothing_in_common_at_most_the_level_of_clusters_is_significant(
    kind: str, n_draws: int
) -> None:
    shares = []
    for seed in range(n_draws):
        points, member = functions(4, 8, 12, seed)[:2] if kind == "random functions" else turned_members(seed)
        shares.append(np.mean(clusters_significant(points, member, seed)[0] <= 0.05))
    assert np.mean(shares) <= 0.05
    assert np.mean(np.array(shares) > 0) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / n_draws)  # any at all


@pytest.mark.parametrize(("share", "noise"), [(1.0, 0.5), (0.5, 0.25)])
def test_units_that_all_members_have_or_half_of_them_are_found(share: float, noise: float) -> None:
    found, false = [], []
    for seed in range(2):
        points, member, planted = functions(16, 32, 64, seed, n_common=16, share=share, noise=noise)
        q, labels = clusters_significant(points, member, seed, n_rotations=100)
        common = np.array([planted[labels == c].mean() for c in range(len(q))])
        found.append((q <= 0.05)[common > 0.5].mean())
        false.append((q <= 0.05)[common == 0].mean())
    assert np.mean(found) >= 0.9
    assert np.mean(false) <= 0.05
