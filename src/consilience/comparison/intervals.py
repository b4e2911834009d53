"""Between which values the similarity of two networks lies on all samples like the ones given.

Few samples make activations look more alike than they are: of 8 and 12 units that share half of their variance, 20
samples give a mean `cka` of 0.34 where the population has 0.14, and a mean `procrustes` of 0.93 in place of 1.18. The
jackknife estimates that bias and the standard error from values with a part of the samples left out (Quenouille 1956,
Tukey 1958). For the values s of all samples and s_(k) without part k of g equal parts, in the scale of Fisher's
z = artanh s,

    z̃ = g z − (g − 1) mean z_(k),    se² = (g − 1)/g Σ_k (z_(k) − mean z_(k))²,    tanh(z̃ ± t se)

with t the quantile of Student's t of g − 1 degrees of freedom. A distance d of `procrustes` is s = 1 − d²/2.

The jackknife removes the part of the bias that falls with 1/n. That of `procrustes` falls with 1/√n where models share
fewer directions than they have units: of 95 % intervals for 30 and 40 units that share 5, with 20 to 200 samples, 47 to
62 % cover the value of the population, and the others say that models are more alike. For 8 and 12 units it is 88 to
96 %; for `cka` and `unbiased_cka`, 92 to 100 % in all of these cases (docs/results/calibration.md).

Axis legend: ``m`` models, ``n`` samples, ``d`` units, ``g`` parts of the samples.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student

from consilience.checks import check_iterable, check_number, check_seed
from consilience.comparison.representations import view
from consilience.comparison.similarity import Measure, get_measure, representation_similarities
from consilience.seeds import PARTS, numpy_generator

Array = NDArray[np.float64]
N_PARTS = 50  # of the samples; more change the interval little, and each costs a comparison
LARGEST = 1 - 1e-12  # correlation beyond which two models are equal


@dataclass(frozen=True, eq=False)
class Intervals:
    """A measure's values for all samples like the ones given, all (m, m); exactly the best on the diagonal.

    Attributes
    ----------
    value : on the samples given.
    estimate : the value without the part of its bias that falls with 1/n.
    low, high : ends of the interval.
    """

    value: Array
    estimate: Array
    low: Array
    high: Array


def similarity_intervals(
    activations: Iterable[ArrayLike],
    measure: str | Measure = "unbiased_cka",
    *,
    level: float = 0.95,
    random_state: int = 0,
) -> Intervals:
    """Return jackknife intervals of a measure between every two models, with less of the bias of few samples.

    Parameters
    ----------
    activations : m ≥ 2 matrices (n, d_k) on the same samples, which are a sample of independent ones.
    measure : name of one of representations.
    level : share of intervals that would cover the value of the population if nothing of the bias were left, between
        0 and 1.
    random_state : seed of the parts of the samples.

    Raises
    ------
    InputError : also if samples are fewer than twice what the measure needs.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(100, 5))
    >>> found = similarity_intervals([x, x + rng.normal(size=(100, 5))], "cka")
    >>> bool(found.low[0, 1] < 0.5 < found.high[0, 1])
    True
    """
    measure = get_measure(measure, "representations")
    check_number("level", level, 0, below=1)
    check_seed("random_state", random_state)
    check_iterable("activations", activations)
    needed = 2 * measure.min_samples
    views = [view(values, f"activations[{k}]", needed) for k, values in enumerate(activations)]
    matrices, names = [of_model.x for of_model in views], [of_model.name for of_model in views]
    value = representation_similarities(matrices, measure, names)
    n = len(matrices[0])
    n_parts = min(n, N_PARTS)
    part = numpy_generator(random_state, PARTS).permutation(n) % n_parts
    without = np.stack(
        [
            _fisher(representation_similarities([x[part != k] for x in matrices], measure, names), measure)
            for k in range(n_parts)
        ]
    )
    mean = without.mean(0)
    estimate = n_parts * _fisher(value, measure) - (n_parts - 1) * mean
    error = np.sqrt((n_parts - 1) / n_parts * np.square(without - mean).sum(0))
    reach = float(student.ppf((1 + level) / 2, n_parts - 1)) * error
    low, middle, high = (_from_fisher(z, measure) for z in (estimate - reach, estimate, estimate + reach))
    for matrix in (low, middle, high):
        np.fill_diagonal(matrix, measure.best)
    return Intervals(value, middle, np.minimum(low, high), np.maximum(low, high))


def _fisher(values: Array, measure: Measure) -> Array:
    correlations = values if measure.larger_is_more_similar else 1 - np.square(values) / 2
    return np.asarray(np.arctanh(np.clip(correlations, -LARGEST, LARGEST)))


def _from_fisher(z: Array, measure: Measure) -> Array:
    values = np.tanh(z) if measure.larger_is_more_similar else np.sqrt(2 - 2 * np.tanh(z))
    return np.asarray(np.clip(values, *measure.range))
