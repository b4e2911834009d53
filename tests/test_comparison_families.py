"""Families of models: contrasts within and between them, chance, and models as points of a plane."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist, squareform

from consilience.comparison.families import Contrast, chance_of, contrast, finite_pairs, least_chance
from consilience.comparison.plane import plane_of

NAN = float("nan")


def values(families: list[str], own: float = 0.8, other: float = 0.4, noise: float = 0.02, seed: int = 0) -> np.ndarray:
    """Similarities, ``own`` within families and ``other`` between them."""
    m = len(families)
    drawn = np.random.default_rng(seed).normal(size=(m, m)) * noise
    made = np.where(np.equal.outer(families, families), own, other) + (drawn + drawn.T) / 2
    np.fill_diagonal(made, 1)
    return made


@given(st.lists(st.sampled_from("abc"), min_size=2, max_size=7), st.integers(0, 99), st.booleans())
def test_contrasts_are_means_over_pairs(families: list[str], seed: int, with_nan: bool) -> None:
    matrix = values(families, noise=0.3, seed=seed)
    if with_nan:
        matrix[0, 1] = matrix[1, 0] = NAN
    pairs = [(i, j) for i, j in itertools.combinations(range(len(families)), 2) if np.isfinite(matrix[i, j])]
    assert finite_pairs(matrix).tolist() == [matrix[pair] for pair in pairs]
    both = contrast(matrix, families)
    for is_within, mean, sd in ((True, both.within, both.within_sd), (False, both.between, both.between_sd)):
        expected = [matrix[i, j] for i, j in pairs if (families[i] == families[j]) is is_within]
        assert mean == pytest.approx(np.mean(expected) if expected else NAN, nan_ok=True)
        assert sd == pytest.approx(np.std(expected) if len(expected) > 1 else NAN, nan_ok=True)


def test_a_gap_is_of_the_kind_of_the_measure() -> None:
    assert Contrast(0.8, 0, 0.5, 0).gap(True) == pytest.approx(0.3)
    assert Contrast(0.8, 0, 0.5, 0).gap(False) == pytest.approx(-0.3)


def test_chance_of_families_is_the_share_of_all_their_arrangements_that_do_as_well() -> None:
    families = ["a"] * 4 + ["b"] * 2
    matrix = values(families, 0.6, 0.5, noise=0.15, seed=3)
    gap = contrast(matrix, families).gap(True)
    splits = [["b" if i in two else "a" for i in range(6)] for two in itertools.combinations(range(6), 2)]
    exact = np.mean([contrast(matrix, split).gap(True) >= gap - 1e-12 for split in splits])
    assert 0.1 < exact < 0.9
    assert chance_of(matrix, families, True) == pytest.approx(exact, abs=0.05)
    assert chance_of(2 - matrix, families, False) == pytest.approx(chance_of(matrix, families, True))


def test_chance_is_bounded_by_the_ways_to_split_the_models() -> None:
    assert least_chance(["a"] * 4 + ["b"] * 2) == 1 / 15
    assert least_chance(["a"] * 3 + ["b"] * 3) == 1 / 10
    assert least_chance("abcdefgh") == 1
    assert least_chance(["a"] * 20 + ["b"] * 20) == 0.001
    families = [*"aaaaaabbbbbbcccccc"]
    assert chance_of(values(families), families, True) == 0.001
    assert chance_of(values(families), families, False) == 1.0
    assert math.isnan(chance_of(values([*"abc"]), [*"abc"], True))


@settings(max_examples=12)
@given(st.integers(0, 10_000), st.integers(2, 9))
def test_distances_of_a_plane_are_reproduced_at_every_moment(seed: int, m: int) -> None:
    moments = np.random.default_rng(seed).normal(size=(3, m, 2))
    expected = [squareform(pdist(points)) for points in moments]
    plane = plane_of({str(t): distances for t, distances in enumerate(expected)})
    for points, distances in zip(plane.positions, expected, strict=True):
        np.testing.assert_allclose(squareform(pdist(points)), distances, atol=0.35 * distances.max())
    np.testing.assert_allclose(squareform(pdist(plane.positions[-1])), expected[-1], atol=1e-6)
    assert plane.stress[-1] < 1e-6
    assert (plane.stress <= 0.3).all()


def test_points_do_not_jump_where_distances_say_nothing_of_directions() -> None:
    points = np.random.default_rng(0).normal(size=(7, 2))
    turns = [np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) for a in (0.5, 2.0, 4.0)]
    drifting = [squareform(pdist((1 + 0.01 * t) * points @ turn)) for t, turn in enumerate(turns)]
    plane = plane_of({str(t): distances for t, distances in enumerate(drifting)})
    assert plane.moments == ("0", "1", "2")
    assert np.abs(np.diff(plane.positions, axis=0)).max() < 0.05
    assert plane.stress.max() < 1e-3
    np.testing.assert_allclose(plane.positions.mean(1), 0, atol=1e-9)


def test_stress_says_what_a_plane_cannot_show() -> None:
    simplex = 1 - np.eye(5)
    plane = plane_of({"end": simplex})
    drawn = squareform(pdist(plane.positions[0]))
    assert plane.stress[0] == pytest.approx(math.sqrt(np.square(drawn - simplex).sum() / simplex.sum()))
    assert plane.stress[0] > 0.1


def test_models_that_are_one_and_the_same_are_one_point() -> None:
    apart = squareform([1.0, 1.0, 0.0])
    plane = plane_of({"early": apart, "late": np.zeros((3, 3))})
    np.testing.assert_array_equal(plane.positions[1], 0)
    np.testing.assert_allclose(squareform(pdist(plane.positions[0])), apart, atol=1e-3)
    assert plane.stress[1] == 0
