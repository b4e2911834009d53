"""Whether models of one family are more alike than models of different families, and more than by chance.

Axis legend: ``m`` model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import factorial

import numpy as np
from numpy.typing import NDArray

from consilience.seeds import FAMILIES, numpy_generator

Array = NDArray[np.float64]
N_SHUFFLES = 999  # of families among models: p is a multiple of 0.001
ROUNDING = 1e-12  # gaps that differ by less are equal


@dataclass(frozen=True)
class Contrast:
    """Mean and deviation of a measure over pairs of models of one family, and of different ones; NaN without pairs."""

    within: float
    within_sd: float  # NaN for one pair, too
    between: float
    between_sd: float

    def gap(self, larger_is_more_similar: bool) -> float:
        """Return how much more alike models of one family are."""
        return self.within - self.between if larger_is_more_similar else self.between - self.within


def contrast(values: Array, families: Sequence[str]) -> Contrast:
    """Compare pairs of models within and between families (m,), by values (m, m); pairs without a value do not count.

    >>> contrast(np.array([[1, 0.5, 0.25], [0.5, 1, 0.75], [0.25, 0.75, 1]]), ["a", "a", "b"])
    Contrast(within=0.5, within_sd=nan, between=0.5, between_sd=0.25)
    """
    first, second = np.triu_indices(len(values), 1)
    pairs, names = np.asarray(values, dtype=np.float64)[first, second], np.asarray(families)
    is_within = names[first] == names[second]
    return Contrast(*mean_and_sd(pairs[is_within]), *mean_and_sd(pairs[~is_within]))


def chance_of(values: Array, families: Sequence[str], larger_is_more_similar: bool) -> float:
    """Return p of a Mantel test: how often shuffled families differ as much as the families do.

    p = (#{shuffles with a gap at least as large} + 1) / (shuffles + 1), for symmetric values (m, m) and families (m,);
    NaN without pairs of both kinds (Mantel 1967, "The detection of disease clustering and a generalized regression
    approach").
    """
    first, second = np.triu_indices(len(values), 1)
    pairs = np.asarray(values, dtype=np.float64)[first, second]
    is_finite = np.isfinite(pairs)
    first, second, pairs = first[is_finite], second[is_finite], pairs[is_finite] * (1 if larger_is_more_similar else -1)

    def gap(names: NDArray[np.int64]) -> float:
        is_within = names[first] == names[second]
        n_within, within = int(is_within.sum()), float(pairs @ is_within)
        if n_within in (0, len(pairs)):
            return np.nan
        return within / n_within - (float(pairs.sum()) - within) / (len(pairs) - n_within)

    rng, names = numpy_generator(FAMILIES), np.unique(families, return_inverse=True)[1]
    observed = gap(names)
    if np.isnan(observed):
        return np.nan
    n_less = sum(gap(rng.permutation(names)) < observed - ROUNDING for _ in range(N_SHUFFLES))
    return (N_SHUFFLES - n_less + 1) / (N_SHUFFLES + 1)  # an undefined gap counts as more


def least_chance(families: Iterable[str]) -> float:
    """Return the smallest p that `chance_of` can give: 1 / the ways to split the models into families of these sizes.

    >>> round(least_chance(["a", "a", "a", "a", "b", "b"]), 3)
    0.067
    """
    of_size = Counter(Counter(families).values())  # size → families of that size
    ways = factorial(sum(size * count for size, count in of_size.items()))
    for size, count in of_size.items():
        ways //= factorial(size) ** count * factorial(count)
    return max(1 / ways, 1 / (N_SHUFFLES + 1))


def finite_pairs(values: Array) -> Array:
    """Return the finite values (m, m) between two models, each pair once."""
    pairs: Array = np.asarray(values, dtype=np.float64)[np.triu_indices(len(values), 1)]
    return pairs[np.isfinite(pairs)]


def mean_and_sd(values: Array) -> tuple[float, float]:
    """Return mean and standard deviation of the finite values; NaN where there are none, or only one."""
    finite = values[np.isfinite(values)]
    mean = float(finite.mean()) if len(finite) else np.nan
    return mean, float(finite.std()) if len(finite) > 1 else np.nan
