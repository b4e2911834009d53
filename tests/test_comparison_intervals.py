"""Intervals of similarities of activations, against the values of populations that are known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from consilience.comparison import Intervals, representation_similarities, similarity_intervals
from consilience.errors import InputError

pytestmark = pytest.mark.numerical

N_DRAWS, WIDTHS, LATENT = 40, (6, 9), 4
MAPS = [np.random.default_rng(k).normal(size=(LATENT, width)) for k, width in enumerate(WIDTHS)]


def draw(n: int, seed: int) -> list[NDArray]:
    """Two models that are linear in the same Gaussian variables, plus noise of unit variance."""
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(n, LATENT))
    return [latent @ m + rng.normal(size=(n, m.shape[1])) for m in MAPS]


def truth(measure: str) -> float:
    """Value of the population, from its covariances."""
    first, second = (m.T @ m + np.eye(m.shape[1]) for m in MAPS)
    both = MAPS[0].T @ MAPS[1]
    if measure == "procrustes":
        nuclear = np.linalg.svd(both, compute_uv=False).sum()
        return float(np.sqrt(2 - 2 * nuclear / np.sqrt(np.trace(first) * np.trace(second))))
    return float(np.square(both).sum() / (np.linalg.norm(first) * np.linalg.norm(second)))


@pytest.mark.parametrize("measure", ["cka", "unbiased_cka", "procrustes"])
def test_intervals_cover_the_value_of_the_population_and_the_bias_is_corrected(measure: str) -> None:
    intervals = [similarity_intervals(draw(24, seed), measure) for seed in range(N_DRAWS)]
    value, estimate, low, high = (
        np.array([getattr(each, name)[0, 1] for each in intervals]) for name in ("value", "estimate", "low", "high")
    )
    covering = (low <= truth(measure)) & (truth(measure) <= high)
    assert covering.sum() >= 32  # of 40; 38 are expected, and fewer than 32 have a probability of 0.0003
    assert abs(estimate.mean() - truth(measure)) < 0.025
    if measure != "unbiased_cka":
        assert abs(value.mean() - truth(measure)) > 0.03


def test_more_samples_make_intervals_narrower() -> None:
    few, many = (similarity_intervals(draw(n, 0), "cka") for n in (24, 384))
    assert (many.high - many.low)[0, 1] < 0.5 * (few.high - few.low)[0, 1]


def test_a_model_is_equal_to_itself_and_copies_have_no_error() -> None:
    x, y = draw(30, 0)
    for measure, best in (("cka", 1.0), ("procrustes", 0.0)):
        found = similarity_intervals([x, y, 3 * x + 1], measure)
        value = representation_similarities([x, y, 3 * x + 1], measure)
        np.testing.assert_allclose(found.value, value, rtol=0, atol=1e-12)
        for part in (found.estimate, found.low, found.high):
            np.testing.assert_array_equal(np.diag(part), best)
            np.testing.assert_array_equal(part, part.T)
            assert part[0, 2] == pytest.approx(best, abs=1e-5)
        assert (found.low <= found.high).all()


def test_a_wider_level_reaches_farther() -> None:
    narrow, wide = (similarity_intervals(draw(30, 0), "rsa", level=level) for level in (0.5, 0.99))
    assert wide.low[0, 1] < narrow.low[0, 1] < narrow.high[0, 1] < wide.high[0, 1]


@pytest.mark.parametrize(
    ("n", "options", "message"),
    [
        (7, {}, r"activations\[0\] must have at least 8 samples, got 7"),
        (20, {"level": 1.0}, r"level must be a number in \[0, 1\), got 1.0"),
        (20, {"measure": "rand"}, "measure must be one of 'cka', 'unbiased_cka', 'procrustes', 'rsa', got 'rand'"),
        (20, {"random_state": -1}, "random_state must be an int >= 0, got -1"),
    ],
)
def test_what_is_refused(n: int, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        similarity_intervals(draw(n, 0), **options)  # type: ignore[arg-type]


def test_the_seed_decides_the_parts() -> None:
    def ends(seed: int) -> Intervals:
        return similarity_intervals(draw(80, 0), "cka", random_state=seed)

    assert ends(0).low[0, 1] == ends(0).low[0, 1] != ends(1).low[0, 1]
