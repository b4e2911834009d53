"""Measures of how similarly networks respond to the same samples, their invariances, and their values by chance.

A measure compares *clusterings* (each sample's cluster) or *representations* (each sample's activations), all pairs at
once. `MEASURES` has all of them, with their properties.

Axis legend: ``m`` models, ``p`` others they are compared with, ``n`` samples, ``d`` units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from consilience.checks import as_array, check_choice, check_count, check_iterable, check_seed, describe
from consilience.clustering import partitions
from consilience.clustering.partitions import Labels, Partitions
from consilience.comparison.representations import View, cka, procrustes, rsa, unbiased_cka, view
from consilience.errors import InputError
from consilience.seeds import SHUFFLES, numpy_generator

Array = NDArray[np.float64]
Kind = Literal["clusterings", "representations"]
CONSTANT = 1e-9  # a standard deviation below this is rounding: measures are of the order of 1


@dataclass(frozen=True)
class Measure:
    """A similarity, or a distance, and its properties, which the tests check.

    Attributes
    ----------
    name, of : its name in `MEASURES`, and what it compares.
    range : least and largest value.
    larger_is_more_similar : False for distances.
    symmetric : whether the order of two models does not matter.
    invariances : changes of one model that do not change the value. "relabelling" of clusters; of activations,
        "permutation" and "rotation" of units, "scaling" by one number, "per-unit scaling", "translation" by one vector
        for all samples, "invertible linear" maps of units.
    pairwise : function of all models (`Partitions` or a list of `View`) that returns the matrix.
    min_samples : the fewest samples for which it is defined.
    """

    name: str
    of: Kind
    range: tuple[float, float]
    larger_is_more_similar: bool
    symmetric: bool
    invariances: frozenset[str]
    pairwise: Callable[..., Array]
    min_samples: int = 2

    @property
    def best(self) -> float:
        """Value of a model with itself."""
        return self.range[self.larger_is_more_similar]


_RELABELLING = frozenset({"relabelling"})
_SHAPE = frozenset({"permutation", "rotation", "scaling", "translation"})
_AMI, _VI = partitions.adjusted_mutual_information, partitions.variation_of_information
_ALL = (
    Measure("adjusted_rand", "clusterings", (-0.5, 1), True, True, _RELABELLING, partitions.adjusted_rand),
    Measure("rand", "clusterings", (0, 1), True, True, _RELABELLING, partitions.rand),
    Measure("adjusted_mutual_information", "clusterings", (-np.inf, 1), True, True, _RELABELLING, _AMI),
    Measure("variation_of_information", "clusterings", (0, np.inf), False, True, _RELABELLING, _VI),
    Measure("cka", "representations", (0, 1), True, True, _SHAPE, cka, 2),
    Measure("unbiased_cka", "representations", (-1, 1), True, True, _SHAPE, unbiased_cka, 4),
    Measure("procrustes", "representations", (0, float(np.sqrt(2))), False, True, _SHAPE, procrustes, 2),
    Measure("rsa", "representations", (-1, 1), True, True, _SHAPE, rsa, 3),
)
MEASURES: dict[str, Measure] = {measure.name: measure for measure in _ALL}


def get_measure(measure: str | Measure, of: Kind | None = None) -> Measure:
    """Return a measure by name, or the measure given, which must compare ``of``."""
    if isinstance(measure, str):
        check_choice("measure", measure, [name for name, known in MEASURES.items() if of in (None, known.of)])
        measure = MEASURES[measure]
    if not isinstance(measure, Measure):
        raise InputError(f"measure must be one of {', '.join(MEASURES)}, or a Measure, got {describe(measure)}")
    if of not in (None, measure.of):
        raise InputError(f"measure must compare {of}, got {measure.name!r}, which compares {measure.of}")
    return measure


def clustering_similarities(
    labels: Labels, measure: str | Measure = "adjusted_rand", others: Labels | None = None
) -> Array:
    """Compare clusterings of the same samples, every two of them: (m, m), or (m, p) with others.

    Clusterings that are equal up to names have exactly the best value, also those of one cluster and those of n.

    Parameters
    ----------
    labels : (m, n) ints, the cluster of each sample, m ≥ 2; −1 is a cluster like any other.
    measure : name of one of clusterings.
    others : (p, n) to compare them with instead.

    Examples
    --------
    >>> clustering_similarities([[0, 0, 1, 1], [5, 5, 3, 3], [0, 1, 0, 1]], "rand").round(2)
    array([[1.  , 1.  , 0.33],
           [1.  , 1.  , 0.33],
           [0.33, 0.33, 1.  ]])
    """
    measure = get_measure(measure, "clusterings")
    first = Partitions.of(labels, "labels")
    if others is None:
        if len(first) < 2:
            raise InputError(f"labels must be of at least 2 models, got {len(first)}")
        return measure.pairwise(first)
    second = Partitions.of(others, "others")
    if second.n_samples != first.n_samples:
        raise InputError(f"others must have {first.n_samples} samples, as labels, got {second.n_samples}")
    return measure.pairwise(first, second)


def representation_similarities(
    activations: Iterable[ArrayLike], measure: str | Measure = "unbiased_cka", names: Sequence[str] | None = None
) -> Array:
    """Compare activations on the same samples, in the same order, every two models: (m, m), the best on the diagonal.

    Parameters
    ----------
    activations : m ≥ 2 matrices (n, d_k), d_k may differ. They are read once, and at most n columns of each are kept: a
        generator that loads them one by one never holds two wide ones.
    measure : name of one of representations.
    names : m names of the activations in errors.

    Raises
    ------
    InputError : also if activations are the same for all samples, or the measure is undefined (`unbiased_cka`, `rsa`).

    Examples
    --------
    >>> x = np.arange(12.0).reshape(4, 3) ** 2
    >>> representation_similarities([x, 7 * x[:, ::-1] + 1, x[:, :1]], "cka").round(3)
    array([[1.   , 1.   , 0.997],
           [1.   , 1.   , 0.997],
           [0.997, 0.997, 1.   ]])
    """
    measure = get_measure(measure, "representations")
    views: list[View] = []
    check_iterable("activations", activations)
    if names is not None and (not isinstance(names, Sequence) or isinstance(names, str)):
        raise InputError(f"names must be a list of names, got {describe(names)}")
    for k, values in enumerate(activations):
        if names is not None and k >= len(names):
            raise InputError(f"names must have one name for each of the activations, got {len(names)}")
        name = f"activations[{k}]" if names is None else f"activations of {names[k]}"
        views.append(view(values, name, measure.min_samples))
        if len(views[k].x) != len(views[0].x):
            n, reference = len(views[0].x), views[0].name
            raise InputError(f"{name} must have {n} samples, as {reference}, got {len(views[k].x)}")
    if len(views) < 2:
        raise InputError(f"activations must be of at least 2 models, got {len(views)}")
    return measure.pairwise(views)


def as_distance(values: ArrayLike, measure: str | Measure) -> Array:
    """Return a measure's values (m, m) as distances for hierarchical clustering: symmetric, 0 on the diagonal.

    For a similarity, 1 − value; for a distance, the value. Values must be finite, symmetric and in the range.
    """
    measure, matrix = get_measure(measure), as_array(values, "values").astype(np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise InputError(f"values must have shape (m, m), got {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise InputError("values must be finite, got NaN or infinity")
    if not np.allclose(matrix, matrix.T, rtol=0, atol=CONSTANT):
        raise InputError("values must be symmetric, got another matrix", cure="compare models with themselves")
    low, high = measure.range
    if matrix.min() < low - CONSTANT or matrix.max() > high + CONSTANT:
        got = f"{matrix.min():.4g} to {matrix.max():.4g}"
        raise InputError(f"values of {measure.name} must be from {low:.4g} to {high:.4g}, got {got}")
    distances = measure.best - matrix if measure.larger_is_more_similar else matrix
    distances = np.maximum((distances + distances.T) / 2, 0)
    np.fill_diagonal(distances, 0)
    return distances


@dataclass(frozen=True)
class Null:
    """Values of a measure of clusterings, compared with those by chance; all (m, m).

    Attributes
    ----------
    value : of the clusterings.
    mean, sd : over shuffles of the samples.
    z : (value − mean) / sd: large for a similarity, very negative for a distance, if models agree more than by chance.
        NaN if the sd is 0: shuffles do not change a clustering into one cluster, or into n.
    """

    value: Array
    mean: Array
    sd: Array
    z: Array


def null_z(labels: Labels, measure: str | Measure = "adjusted_rand", n_null: int = 100, random_state: int = 0) -> Null:
    """Compare the similarities of clusterings with those of shuffled ones.

    A shuffle keeps the sizes of all clusters and permutes the samples of one of two models. One shuffle serves all
    pairs: i as it is against j shuffled, and j as it is against i shuffled, are two draws for the pair.

    Parameters
    ----------
    labels : (m, n) ints.
    measure : name of one of clusterings.
    n_null : number of shuffles, 2 or more.
    random_state : seed.
    """
    check_count("n_null", n_null, 2)
    check_seed("random_state", random_state)
    value = clustering_similarities(labels, measure)
    rows, rng = np.asarray(labels), numpy_generator(random_state, SHUFFLES)
    sums, squares = np.zeros_like(value), np.zeros_like(value)
    for _ in range(n_null):
        shuffled = clustering_similarities(rows, measure, rows[:, rng.permutation(rows.shape[1])])
        apart = shuffled - value  # moments about it lose no digits, and are exactly 0 where nothing changes
        sums += apart + apart.T
        squares += np.square(apart) + np.square(apart).T
    mean = sums / (2 * n_null)
    variance = (squares / (2 * n_null) - np.square(mean)) * n_null / (n_null - 1)
    sd = np.sqrt(np.maximum(variance, 0))
    sd[sd < CONSTANT] = 0
    return Null(value, value + mean, sd, np.divide(-mean, sd, out=np.full_like(sd, np.nan), where=sd > 0))
