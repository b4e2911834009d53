"""Are models of one family more alike than models of different ones, is that more than chance, and since when?

Axis legend: ``m`` model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import factorial

import numpy as np
from numpy.typing import NDArray

from consilience import seeds

Array = NDArray[np.float64]
N_SHUFFLES = 999  # of families among models: p is a multiple of 0.001
SEED = 61  # the same results give the same page


@dataclass(frozen=True)
class Contrast:
    """Mean and standard deviation of a measure over pairs of models of one family, and of different families.

    NaN where there is no such pair; the deviation also where there is one.
    """

    within: float
    within_sd: float
    between: float
    between_sd: float

    def gap(self, larger_is_more_similar: bool) -> float:
        """How much more alike models of one family are."""
        return self.within - self.between if larger_is_more_similar else self.between - self.within


def contrast(values: Array, families: Sequence[str]) -> Contrast:
    """Compare pairs of models within and between families; pairs without a value do not count.

    Parameters
    ----------
    values : (m, m), symmetric.
    families : (m,).

    Examples
    --------
    >>> contrast(np.array([[1, 0.5, 0.25], [0.5, 1, 0.75], [0.25, 0.75, 1]]), ["a", "a", "b"])
    Contrast(within=0.5, within_sd=nan, between=0.5, between_sd=0.25)
    """
    pairs, same = _pairs(values), _same(families)
    return Contrast(*_moments(pairs[same]), *_moments(pairs[~same]))


def chance_of(values: Array, families: Sequence[str], larger_is_more_similar: bool) -> float:
    """Return how often families that are shuffled among the models differ as much as they do: p of a Mantel test.

    p = (#{shuffles with a gap at least as large} + 1) / (shuffles + 1); NaN without pairs of both kinds.

    Parameters
    ----------
    values : (m, m), symmetric.
    families : (m,).
    larger_is_more_similar : as of the measure.

    References
    ----------
    Mantel 1967, "The detection of disease clustering and a generalized regression approach".
    """
    first, second = np.triu_indices(len(values), 1)
    pairs, rng = _pairs(values), seeds.numpy_generator(SEED)
    known = np.isfinite(pairs)
    first, second, pairs = first[known], second[known], pairs[known] * (1 if larger_is_more_similar else -1)

    def gap(number: NDArray[np.integer]) -> float:
        same = number[first] == number[second]
        n_within, within = int(same.sum()), float(pairs @ same)
        if n_within in (0, len(pairs)):
            return np.nan
        return within / n_within - (float(pairs.sum()) - within) / (len(pairs) - n_within)

    number = np.unique(families, return_inverse=True)[1]
    found = gap(number)
    if np.isnan(found):
        return np.nan
    drawn = np.array([gap(rng.permutation(number)) for _ in range(N_SHUFFLES)])
    n_less = np.sum(drawn < found - 1e-12)  # equal to rounding is equal, and what is undefined counts as more
    return float((N_SHUFFLES - n_less + 1) / (N_SHUFFLES + 1))


def least_chance(families: Sequence[str]) -> float:
    """Return the smallest p that `chance_of` could give: 1 / the ways to split the models into families so large.

    >>> round(least_chance(["a", "a", "a", "a", "b", "b"]), 3)
    0.067
    """
    sizes = Counter(Counter(families).values())  # size → families of that size
    ways = factorial(len(families))
    for size, count in sizes.items():
        ways //= factorial(size) ** count * factorial(count)
    return max(1 / ways, 1 / (N_SHUFFLES + 1))


def since(
    moments: Mapping[str, Mapping[str, Array]], place: str, families: Sequence[str], larger_is_more_similar: bool
) -> str | None:
    """Return the moment from which on, to the last, models of one family are more alike than others on average.

    None if they are not at the last; moments without such pairs are passed over.

    Parameters
    ----------
    moments : moment → place → (m, m), in the order of time.
    place : at which.
    families : (m,).
    larger_is_more_similar : as of the measure.
    """
    first = None
    for moment, found in reversed(list(moments.items())):
        gap = contrast(found[place], families).gap(larger_is_more_similar) if place in found else np.nan
        if np.isnan(gap):
            continue
        if gap <= 0:
            return first
        first = moment
    return first


def off_diagonal(values: Array) -> Array:
    """Return the finite values between two models, each pair once."""
    pairs = _pairs(values)
    return pairs[np.isfinite(pairs)]


def _pairs(values: Array) -> Array:
    """Return the values of all pairs, each once."""
    pairs: Array = np.asarray(values, dtype=np.float64)[np.triu_indices(len(values), 1)]
    return pairs


def _same(families: Sequence[str]) -> NDArray[np.bool_]:
    """Return of each pair whether it is of one family."""
    number = np.unique(families, return_inverse=True)[1]
    first, second = np.triu_indices(len(number), 1)
    return np.asarray(number[first] == number[second])


def _moments(values: Array) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    mean = float(known.mean()) if len(known) else np.nan
    return mean, float(known.std()) if len(known) > 1 else np.nan
