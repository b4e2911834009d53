"""How alike networks see the same samples: measures, what each leaves alone, what chance gives, how sure a value is.

A measure compares *clusterings* (each sample's cluster) or *representations* (each sample's activations), all pairs at
once. `MEASURES` has them all, with what they declare of themselves.

Axis legend: ``m`` models, ``p`` others they are compared with, ``n`` samples, ``d`` units, ``r`` resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from consilience.clustering.partitions import (
    Labels,
    Partitions,
    adjusted_mutual_information,
    adjusted_rand,
    rand,
    variation_of_information,
)
from consilience.comparison.representations import cka, procrustes, rsa, unbiased_cka, view
from consilience.errors import InputError
from consilience.seeds import HALVES, SHUFFLES, numpy_generator

Array = NDArray[np.float64]
Kind = Literal["clusterings", "representations"]
CONSTANT = 1e-9  # a standard deviation below this is rounding: measures are of the order of 1


@dataclass(frozen=True)
class Measure:
    """A similarity, or a distance, and what it declares of itself; the tests hold it to that.

    Attributes
    ----------
    name : as in `MEASURES`.
    of : "clusterings" or "representations".
    range : least and largest value.
    larger_is_more_similar : False for distances.
    symmetric : whether the order of two models does not matter.
    invariances : changes of one model that leave it alone. "relabelling" of clusters; of activations, "permutation" and
        "rotation" of units, "scaling" by one number, "per-unit scaling", "translation" by one vector for all samples,
        "invertible linear" maps of units.
    pairwise : the function of all models that gives the matrix.
    min_samples : the fewest it is defined for.
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
        """Of a model with itself."""
        return self.range[self.larger_is_more_similar]


def _of_clusterings(name: str, lowest: float, highest: float, larger: bool, pairwise: Callable[..., Array]) -> Measure:
    return Measure(name, "clusterings", (lowest, highest), larger, True, frozenset({"relabelling"}), pairwise)


def _of_representations(
    name: str, lowest: float, highest: float, larger: bool, pairwise: Callable[..., Array], min_samples: int
) -> Measure:
    shape = frozenset({"permutation", "rotation", "scaling", "translation"})
    return Measure(name, "representations", (lowest, highest), larger, True, shape, pairwise, min_samples)


_ALL = (
    _of_clusterings("adjusted_rand", -0.5, 1, True, adjusted_rand),
    _of_clusterings("rand", 0, 1, True, rand),
    _of_clusterings("adjusted_mutual_information", -np.inf, 1, True, adjusted_mutual_information),
    _of_clusterings("variation_of_information", 0, np.inf, False, variation_of_information),
    _of_representations("cka", 0, 1, True, cka, 2),
    _of_representations("unbiased_cka", -1, 1, True, unbiased_cka, 4),
    _of_representations("procrustes", 0, float(np.sqrt(2)), False, procrustes, 2),
    _of_representations("rsa", -1, 1, True, rsa, 3),
)
MEASURES: dict[str, Measure] = {measure.name: measure for measure in _ALL}


def get_measure(measure: str | Measure, of: Kind | None = None) -> Measure:
    """Return a measure by its name; one that is a measure already as it is.

    Raises
    ------
    InputError
        If there is none of this name, or it does not compare what ``of`` says.
    """
    names = [name for name, known in MEASURES.items() if of in (None, known.of)]
    if isinstance(measure, str) and measure not in MEASURES:
        raise InputError("unknown measure", where="measure", got=repr(measure), expected=", ".join(names))
    found = MEASURES[measure] if isinstance(measure, str) else measure
    if of not in (None, found.of):
        raise InputError(
            f"this measure compares {found.of}, not {of}", where="measure", got=repr(found.name),
            expected=", ".join(names),
        )  # fmt: skip
    return found


def clustering_similarities(
    labels: Labels, measure: str | Measure = "adjusted_rand",
    others: Labels | None = None,
) -> Array:  # fmt: skip
    """Compare clusterings of the same samples, each with each.

    Parameters
    ----------
    labels : (m, n) ints, the cluster of each sample. What they are called does not matter: −1 is one like any other.
    measure : its name.
    others : (p, n) to compare them with instead.

    Returns
    -------
    (m, m), or (m, p) with others, of float64. Clusterings that are equal up to names have exactly the best value, also
    those of one cluster and those of n.

    Raises
    ------
    InputError
        If the measure is not one of clusterings, there is one model only, clusterings differ in length, or labels are
        not ints.

    Examples
    --------
    >>> clustering_similarities([[0, 0, 1, 1], [5, 5, 3, 3], [0, 1, 0, 1]], "rand").round(2)
    array([[1.  , 1.  , 0.33],
           [1.  , 1.  , 0.33],
           [0.33, 0.33, 1.  ]])
    """
    found = get_measure(measure, "clusterings")
    ours = Partitions.of(labels, "labels")
    if others is None:
        _check_several(len(ours), "labels")
        return found.pairwise(ours)
    theirs = Partitions.of(others, "others")
    if theirs.n_samples != ours.n_samples:
        raise InputError(
            "clusterings of different numbers of samples", where="others", got=theirs.n_samples,
            expected=f"{ours.n_samples}, as in labels", cure="cluster the same samples everywhere",
        )  # fmt: skip
    return found.pairwise(ours, theirs)


def representation_similarities(activations: Iterable[ArrayLike], measure: str | Measure = "unbiased_cka") -> Array:
    """Compare activations on the same samples, in the same order, each model with each.

    Parameters
    ----------
    activations : m matrices (n, d_k), d_k may differ. They are read once, and of each no more than n columns are kept:
        a generator that loads them one by one never holds two wide ones.
    measure : its name.

    Returns
    -------
    (m, m) of float64; the diagonal has exactly the best value.

    Raises
    ------
    InputError
        If the measure is not one of representations, there is one model only, the models differ in samples, activations
        are not finite or the same for all samples, or the measure is undefined for them (see `unbiased_cka`, `rsa`).

    Examples
    --------
    >>> x = np.arange(12.0).reshape(4, 3) ** 2
    >>> representation_similarities([x, 7 * x[:, ::-1] + 1, x[:, :1]], "cka").round(3)
    array([[1.   , 1.   , 0.997],
           [1.   , 1.   , 0.997],
           [0.997, 0.997, 1.   ]])
    """
    found = get_measure(measure, "representations")
    views: list[Array] = []
    for k, each in enumerate(activations):
        views.append(view(each, f"activations[{k}]", found.min_samples))
        if len(views[k]) != len(views[0]):
            raise InputError(
                "activations on different numbers of samples", where=f"activations[{k}]", got=len(views[k]),
                expected=f"{len(views[0])}, as in activations[0]", cure="record all on the same samples, in one order",
            )  # fmt: skip
    _check_several(len(views), "activations")
    return found.pairwise(views)


def as_distance(values: ArrayLike, measure: str | Measure) -> Array:
    """Return a measure's values (m, m) as distances for hierarchical clustering: symmetric, 0 on the diagonal.

    Of a similarity, 1 − value; of a distance, itself.

    Raises
    ------
    InputError
        If the values are not a symmetric matrix, not finite, or out of the measure's range.
    """
    found, matrix = get_measure(measure), np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise InputError("values are not a square matrix", where="values", got=matrix.shape, expected="(m, m)")
    if not np.isfinite(matrix).all():
        raise InputError("values are not finite", where="values", got="NaN or infinity")
    if not np.allclose(matrix, matrix.T, rtol=0, atol=CONSTANT):
        raise InputError("values are not symmetric", where="values", cure="compare models with themselves, not others")
    low, high = found.range
    if matrix.min() < low - CONSTANT or matrix.max() > high + CONSTANT:
        raise InputError(
            "values are out of the measure's range", where="values", got=f"{matrix.min():.4g} to {matrix.max():.4g}",
            expected=f"{found.name}: {low:.4g} to {high:.4g}",
        )  # fmt: skip
    apart = found.best - matrix if found.larger_is_more_similar else matrix
    apart = np.maximum((apart + apart.T) / 2, 0)
    np.fill_diagonal(apart, 0)
    return apart


@dataclass(frozen=True)
class Null:
    """A measure of clusterings beside what chance gives, all (m, m).

    Attributes
    ----------
    value : of the clusterings as they are.
    mean, sd : over shuffles of the samples.
    z : (value − mean) / sd: of a similarity large, of a distance very negative, where models agree more than by chance.
        NaN where the sd is 0: a clustering into one cluster, or into n, looks the same shuffled.
    """

    value: Array
    mean: Array
    sd: Array
    z: Array


def null_z(
    labels: Labels, measure: str | Measure = "adjusted_rand", n_null: int = 100,
    random_state: int = 0,
) -> Null:  # fmt: skip
    """Compare clusterings with what they would give if they had nothing to do with each other.

    The null keeps the sizes of all clusters and gives the samples of one of two models other ids. One shuffle serves
    all pairs: i as it is against j shuffled, and j as it is against i shuffled, which are two draws for the pair.

    Parameters
    ----------
    labels : (m, n) ints.
    measure : name of one of clusterings.
    n_null : shuffles, 2 or more.
    random_state : seed.

    Raises
    ------
    InputError
        As `clustering_similarities`; or if a number makes no sense.
    """
    _check_count("n_null", n_null, 2)
    _check_count("random_state", random_state, 0)
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


def bootstrap_interval(
    models: Sequence[ArrayLike] | NDArray[np.number], measure: str | Measure = "adjusted_rand", n_resamples: int = 200,
    level: float = 0.95, random_state: int = 0,
) -> tuple[Array, Array]:  # fmt: skip
    """Return between which values a measure would lie on other samples like these: low (m, m), high (m, m).

    A resample with replacement would hold samples twice. Those are together in every clustering and at distance 0 in
    every representation, so that models would look more alike than they are (of unrelated clusterings into K equal
    clusters the adjusted Rand index would be about K/n). A resample therefore is half of the samples, without
    replacement and the same for all models: values on halves vary about the one on all n samples as that one varies
    about its expectation, with variance σ²/(n/2) − σ²/n = σ²/n (the delete-d jackknife, Shao & Wu 1989, d = n/2).
    The interval holds the middle ``level`` of the values on halves; it is moved from their mean to the value on all
    samples, because some measures depend on n, and cut at the measure's range.

    Parameters
    ----------
    models : labels (m, n), or activations, a list of m matrices (n, d_k); as the measure compares.
    measure : its name.
    n_resamples : halves, 2 or more.
    level : share of the halves inside, in (0, 1).
    random_state : seed.

    Raises
    ------
    InputError
        As `clustering_similarities` or `representation_similarities`, also if a half of the samples gives reason; or if
        a number makes no sense.
    """
    _check_count("n_resamples", n_resamples, 2)
    _check_count("random_state", random_state, 0)
    if not 0 < level < 1:
        raise InputError("not a share of the resamples", where="level", got=level, expected="in (0, 1)")
    found = get_measure(measure)
    compare: Callable[[list[NDArray], Measure], Array] = clustering_similarities
    each = [np.asarray(model) for model in models]
    if found.of == "representations":
        compare = representation_similarities
        each = [view(x, f"activations[{k}]", found.min_samples) for k, x in enumerate(each)]  # made narrow only once
    value = compare(each, found)
    n = len(each[0])
    if n // 2 < found.min_samples:
        raise InputError(
            "too few samples to halve", where="models", got=n, expected=f"at least {2 * found.min_samples}"
        )
    rng = numpy_generator(random_state, HALVES)
    halves = (rng.permutation(n)[: n // 2] for _ in range(n_resamples))
    drawn = np.stack([compare([model[half] for model in each], found) for half in halves])  # (r, m, m)
    low, high = np.quantile(drawn - drawn.mean(0), [(1 - level) / 2, (1 + level) / 2], axis=0)
    return np.clip(value + low, *found.range), np.clip(value + high, *found.range)


def _check_several(n_models: int, where: str) -> None:
    if n_models < 2:
        raise InputError("there is nothing to compare", where=where, got=f"{n_models} models", expected="2 or more")


def _check_count(name: str, number: int, least: int) -> None:
    if not isinstance(number, int) or number < least:
        raise InputError("a number that makes no sense", where=name, got=repr(number), expected=f"an int ≥ {least}")
