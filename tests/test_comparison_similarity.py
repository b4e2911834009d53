"""Similarity of models: every measure against another way to compute it, and held to what it declares of itself."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes
from scipy.spatial.distance import pdist
from scipy.stats import ortho_group
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score, rand_score

from consilience.clustering import partitions
from consilience.comparison import representations
from consilience.comparison.similarity import (
    MEASURES,
    Measure,
    as_distance,
    clustering_similarities,
    get_measure,
    null_z,
    representation_similarities,
)
from consilience.errors import InputError

pytestmark = pytest.mark.numerical

Array = NDArray[np.float64]
OF_CLUSTERINGS = [name for name, measure in MEASURES.items() if measure.of == "clusterings"]
OF_REPRESENTATIONS = [name for name, measure in MEASURES.items() if measure.of == "representations"]
SEEDS = st.integers(0, 10**6)


def noisy(m: int, n: int, k: int, share: float, seed: int = 0) -> NDArray[np.int64]:
    """Clusterings (m, n) that take a sample's true cluster with probability share, and any of k otherwise."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random((m, n)) < share, rng.integers(k, size=n), rng.integers(k, size=(m, n)))


def activations(m: int = 3, n: int = 20, d: int = 4, seed: int = 0) -> list[Array]:
    """Related activations (n, d + k) away from 0, with units of different spread."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(n, 3))
    return [
        (shared @ rng.normal(size=(3, d + k)) + 0.5 * rng.normal(size=(n, d + k))) * np.geomspace(1, 4, d + k) + 2
        for k in range(m)
    ]


# --- clusterings ---------------------------------------------------------------------------------------------------


def pair_confusion(a: NDArray, b: NDArray) -> tuple[int, int, int, int]:
    """By looking at every pair of samples: together in both, in the first alone, in the second alone, in neither."""
    pairs = [(a[i] == a[j], b[i] == b[j]) for i, j in combinations(range(len(a)), 2)]
    return tuple(pairs.count(case) for case in ((True, True), (True, False), (False, True), (False, False)))


def information_lost(a: NDArray, b: NDArray) -> float:
    """Variation of information 2 H(a, b) − H(a) − H(b)."""

    def entropy(*columns: NDArray) -> float:
        share = np.unique(np.stack(columns), axis=1, return_counts=True)[1] / len(a)
        return float(-(share * np.log(share)).sum())

    return 2 * entropy(a, b) - entropy(a) - entropy(b)


ORACLES: dict[str, tuple[Callable[[NDArray, NDArray], float], float]] = {
    "rand": (rand_score, 1e-12),
    "adjusted_rand": (adjusted_rand_score, 1e-12),
    "adjusted_mutual_information": (adjusted_mutual_info_score, 1e-9),
    "variation_of_information": (information_lost, 1e-12),
}


@pytest.mark.parametrize("table", ["full", "sorted"])
@pytest.mark.parametrize("name", OF_CLUSTERINGS)
@settings(max_examples=15)
@given(seed=SEEDS, n=st.integers(2, 60), k=st.integers(1, 12), share=st.floats(0, 1))
def test_clusterings_against_another_implementation(
    name: str, table: str, seed: int, n: int, k: int, share: float
) -> None:
    labels = noisy(4, n, k, share, seed)
    labels[1] = np.random.default_rng(seed).integers(1 + n // 2, size=n)  # another number of clusters
    oracle, tolerance = ORACLES[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partitions, "SPARSE", {"full": np.inf, "sorted": 0}[table])
        patch.setattr(partitions, "AT_ONCE", 3 * n)  # more than one block
        found, beside = clustering_similarities(labels, name), clustering_similarities(labels[:2], name, labels)
    expected = [[oracle(a, b) for b in labels] for a in labels]
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
    np.testing.assert_allclose(beside, expected[:2], rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", OF_CLUSTERINGS)
def test_one_cluster_and_singletons(name: str) -> None:
    one, singletons, two = np.zeros(9, int), np.arange(9), np.repeat([0, 1], [4, 5])
    labels = np.stack([one, singletons, two, one + 7, singletons[::-1]])
    found = clustering_similarities(labels, name)
    oracle, tolerance = ORACLES[name]
    np.testing.assert_allclose(found, [[oracle(a, b) for b in labels] for a in labels], rtol=0, atol=tolerance)
    same = [(i, i) for i in range(5)] + [(0, 3), (3, 0), (1, 4), (4, 1)]
    assert {found[i, j] for i, j in same} == {MEASURES[name].best}


@settings(max_examples=20)
@given(seed=SEEDS)
def test_pairs_of_samples_one_by_one(seed: int) -> None:
    a, b = noisy(2, 25, 3, 0.6, seed)
    both, first, second, neither = pair_confusion(a, b)
    assert clustering_similarities([a, b], "rand")[0, 1] == pytest.approx((both + neither) / 300, abs=1e-15)
    expected = (both + first) * (both + second) / 300
    most = (both + first + both + second) / 2
    assert clustering_similarities([a, b])[0, 1] == pytest.approx((both - expected) / (most - expected), abs=1e-12)


def test_chance_is_what_the_mean_over_shuffles_is() -> None:
    a, b = noisy(2, 12, 3, 0.5)
    a = np.minimum(a, 1)
    rng = np.random.default_rng(0)
    shuffled = np.stack([b[rng.permutation(12)] for _ in range(2000)])
    for name in ("adjusted_rand", "adjusted_mutual_information"):
        values = clustering_similarities([a], name, shuffled)[0]
        assert abs(values.mean()) < 4 * values.std() / np.sqrt(2000)
    assert clustering_similarities([a], "rand", shuffled).mean() > 0.3  # not corrected for chance


@pytest.mark.parametrize("name", OF_CLUSTERINGS)
@settings(max_examples=15)
@given(seed=SEEDS, n=st.sampled_from([4, 18, 40]), k=st.integers(1, 8))
def test_names_of_clusters_do_not_matter_but_who_is_in_them_does(name: str, seed: int, n: int, k: int) -> None:
    measure, rng = MEASURES[name], np.random.default_rng(seed)
    labels = noisy(2, n, k, 0.7, seed)
    renamed = rng.permutation(np.arange(-1, 3 * k))[labels]
    assert measure.invariances == {"relabelling"}
    before = clustering_similarities([labels[0]], name, [labels[1]])
    after = clustering_similarities([labels[0]], name, [renamed[1]])
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-12)
    assert clustering_similarities([labels[0], renamed[0]], name)[0, 1] == measure.best
    merged, halves = np.zeros(n, int), np.arange(n) % 2
    assert clustering_similarities([halves, merged], name)[0, 1] != measure.best
    assert clustering_similarities([halves, np.roll(halves, 1)], name)[0, 1] == measure.best  # names only
    assert clustering_similarities([halves, np.sort(halves)], name)[0, 1] != measure.best


@pytest.mark.parametrize("name", OF_CLUSTERINGS)
@settings(max_examples=15)
@given(seed=SEEDS, n=st.integers(2, 30), k=st.integers(1, 8), share=st.floats(0, 1))
def test_clusterings_range_and_symmetry(name: str, seed: int, n: int, k: int, share: float) -> None:
    labels = noisy(4, n, k, share, seed)
    found = clustering_similarities(labels, name)
    low, high = MEASURES[name].range
    assert low <= found.min()
    assert found.max() <= high
    assert MEASURES[name].symmetric
    np.testing.assert_array_equal(found, found.T)
    np.testing.assert_allclose(clustering_similarities(labels, name, labels), found, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(np.diag(found), MEASURES[name].best)


def test_the_lowest_adjusted_rand_index_is_minus_a_half() -> None:
    assert clustering_similarities([[0, 0, 1, 1], [0, 1, 0, 1]])[0, 1] == pytest.approx(-0.5)


def test_variation_of_information_is_a_metric_up_to_log_n() -> None:
    labels = noisy(8, 30, 4, 0.5)
    d = clustering_similarities(labels, "variation_of_information")
    assert (d[:, None, :] <= d[:, :, None] + d[None] + 1e-12).all()
    extremes = clustering_similarities([np.zeros(30, int), np.arange(30)], "variation_of_information")
    assert extremes[0, 1] == pytest.approx(np.log(30))


@pytest.mark.parametrize("name", OF_CLUSTERINGS)
def test_clusterings_are_counted_in_blocks_not_pair_by_pair(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    n_tables, counted = [], partitions._counted
    monkeypatch.setattr(partitions, "_counted", lambda *table: n_tables.append(1) or counted(*table))
    clustering_similarities(noisy(40, 1000, 10, 0.5), name)
    assert len(n_tables) == 40  # one block of AT_ONCE samples for each, of 820 pairs


# --- representations -----------------------------------------------------------------------------------------------


def gram(x: Array) -> Array:
    return x @ x.T


def cka_by_definition(x: Array, y: Array) -> float:
    centre = np.eye(len(x)) - 1 / len(x)

    def hsic(k: Array, kk: Array) -> float:
        return float(np.trace(k @ centre @ kk @ centre))

    k, kk = gram(x), gram(y)
    return hsic(k, kk) / np.sqrt(hsic(k, k) * hsic(kk, kk))


def unbiased_cka_by_definition(x: Array, y: Array) -> float:
    def hsic(k: Array, kk: Array) -> float:  # Song et al. 2012, equation 5
        n, one = len(k), np.ones(len(k))
        k, kk = k - np.diag(np.diag(k)), kk - np.diag(np.diag(kk))
        sums = (one @ k @ one) * (one @ kk @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * one @ k @ kk @ one
        return float(np.trace(k @ kk) + sums) / (n * (n - 3))

    k, kk = gram(x), gram(y)
    return hsic(k, kk) / np.sqrt(hsic(k, k) * hsic(kk, kk))


def procrustes_by_definition(x: Array, y: Array) -> float:
    width = max(x.shape[1], y.shape[1])
    x, y = (np.pad(each - each.mean(0), ((0, 0), (0, width - each.shape[1]))) for each in (x, y))
    x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)
    return float(np.linalg.norm(x @ orthogonal_procrustes(x, y)[0] - y))


def rsa_by_definition(x: Array, y: Array) -> float:
    return float(np.corrcoef(pdist(x), pdist(y))[0, 1])


DEFINITIONS: dict[str, Callable[[Array, Array], float]] = {
    "cka": cka_by_definition,
    "unbiased_cka": unbiased_cka_by_definition,
    "procrustes": procrustes_by_definition,
    "rsa": rsa_by_definition,
}


@pytest.mark.parametrize("name", OF_REPRESENTATIONS)
@settings(max_examples=15)
@given(seed=SEEDS, n=st.integers(4, 25), d=st.integers(1, 40))
def test_representations_against_their_definitions(name: str, seed: int, n: int, d: int) -> None:
    given_ = activations(3, n, d, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(representations, "AT_ONCE", 9 * n)  # more than one block
        found = representation_similarities(given_, name)
    assert found.dtype == np.float64
    expected = [[DEFINITIONS[name](x, y) for y in given_] for x in given_]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


CHANGES: dict[str, Callable[[Array, np.random.Generator], Array]] = {
    "permutation": lambda x, rng: x[:, rng.permutation(x.shape[1])],
    "rotation": lambda x, rng: x @ ortho_group.rvs(x.shape[1], random_state=rng),
    "scaling": lambda x, rng: 1e3 * x,
    "translation": lambda x, rng: x + rng.normal(size=x.shape[1]),
    "per-unit scaling": lambda x, rng: x / x.std(0) * np.geomspace(10, 1, x.shape[1]),
    "invertible linear": lambda x, rng: x @ (np.eye(x.shape[1]) + np.triu(np.full((x.shape[1],) * 2, 3.0), 1)),
}
HELD = [(name, change) for name in OF_REPRESENTATIONS for change in CHANGES if change in MEASURES[name].invariances]
BROKEN = [(name, change) for name in OF_REPRESENTATIONS for change in CHANGES if (name, change) not in HELD]


@pytest.mark.parametrize(("name", "change"), HELD)
@settings(max_examples=8)
@given(seed=SEEDS, n=st.sampled_from([6, 20]), d=st.sampled_from([3, 9]))
def test_what_a_measure_leaves_alone(name: str, change: str, seed: int, n: int, d: int) -> None:
    x, y, z = activations(3, n, d, seed)
    changed = CHANGES[change](x, np.random.default_rng(seed))
    before, after = (representation_similarities([each, y, z], name) for each in (x, changed))
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-10)
    assert representation_similarities([x, changed], name)[0, 1] == pytest.approx(MEASURES[name].best, abs=1e-10)


@pytest.mark.parametrize(("name", "change"), BROKEN)
def test_what_a_measure_does_not_leave_alone(name: str, change: str) -> None:
    x, y, z = activations(3, 20, 9)
    changed = CHANGES[change](x, np.random.default_rng(0))
    before, after = (representation_similarities([each, y, z], name) for each in (x, changed))
    assert change in {"per-unit scaling", "invertible linear"}
    assert abs(after - before)[0, 1:].max() > 0.01
    assert abs(representation_similarities([x, changed], name)[0, 1] - MEASURES[name].best) > 0.01


@pytest.mark.parametrize("name", OF_REPRESENTATIONS)
def test_other_samples_in_these_places_are_not_alike(name: str) -> None:
    x = activations(1, 200)[0]
    shuffled = np.random.default_rng(1).permutation(x)
    found = representation_similarities([x, x.copy(), shuffled], name)
    assert found[0, 1] == pytest.approx(MEASURES[name].best, abs=1e-12)
    assert abs(found[0, 2] - MEASURES[name].best) > 0.5


@pytest.mark.parametrize("name", OF_REPRESENTATIONS)
@settings(max_examples=15)
@given(seed=SEEDS, n=st.integers(4, 15), d=st.integers(1, 20))
def test_representations_range_and_symmetry(name: str, seed: int, n: int, d: int) -> None:
    rng = np.random.default_rng(seed)
    found = representation_similarities([rng.normal(size=(n, d + k)).astype(np.float32) for k in range(4)], name)
    low, high = MEASURES[name].range
    assert low <= found.min()
    assert found.max() <= high
    assert MEASURES[name].symmetric
    np.testing.assert_array_equal(found, found.T)
    np.testing.assert_array_equal(np.diag(found), MEASURES[name].best)


def test_only_the_unbiased_similarity_of_unrelated_activations_is_zero() -> None:
    rng = np.random.default_rng(0)
    unrelated = [rng.normal(size=(40, 200)) for _ in range(12)]
    pairs = np.triu_indices(12, 1)
    unbiased = representation_similarities(unrelated, "unbiased_cka")[pairs]
    assert abs(unbiased.mean()) < 0.01
    assert unbiased.min() < 0
    assert representation_similarities(unrelated, "cka")[pairs].min() > 0.5


def test_procrustes_where_divide_and_conquer_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise np.linalg.LinAlgError("SVD did not converge")

    given_ = activations()
    expected = representation_similarities(given_, "procrustes")
    monkeypatch.setattr(np.linalg, "svd", fail)
    np.testing.assert_allclose(representation_similarities(given_, "procrustes"), expected, rtol=0, atol=1e-12)


def test_procrustes_is_a_metric() -> None:
    d = representation_similarities(activations(6), "procrustes")
    assert (d[:, None, :] <= d[:, :, None] + d[None] + 1e-12).all()


def test_numbers_of_any_size_and_kind() -> None:
    x, y = activations(2)
    expected = representation_similarities([x, y], "cka")
    for other in (1e200 * y, 1e-200 * y, y.tolist()):
        np.testing.assert_allclose(representation_similarities([x, other], "cka"), expected, rtol=0, atol=1e-12)
    with_offset = representation_similarities([x, 1e6 + y], "cka")  # accumulated in float64
    np.testing.assert_allclose(with_offset, expected, rtol=0, atol=1e-8)


def test_activations_may_come_one_by_one() -> None:
    given_ = activations()
    found = representation_similarities((x for x in given_), "rsa")
    np.testing.assert_array_equal(found, representation_similarities(given_, "rsa"))


# --- chance, intervals, distances ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OF_CLUSTERINGS)
def test_z_is_large_only_for_clusterings_that_agree(name: str) -> None:
    labels = noisy(4, 300, 5, 0.0)
    labels[1] = labels[0]  # one network twice
    labels[3] = np.random.default_rng(3).permutation(labels[2])  # one against its own shuffled ids
    null = null_z(labels, name, n_null=60, random_state=1)
    sign = 1 if MEASURES[name].larger_is_more_similar else -1
    assert sign * null.z[0, 1] > 30
    assert (sign * np.diag(null.z) > 30).all()
    assert max(abs(null.z[i, j]) for i, j in ((0, 2), (0, 3), (1, 2), (1, 3), (2, 3))) < 3
    np.testing.assert_array_equal(null.z, null.z.T)
    np.testing.assert_allclose(null.z, (null.value - null.mean) / null.sd)


def test_the_null_is_that_of_shuffled_ids() -> None:
    a, b = labels = noisy(2, 40, 3, 0.5)
    null = null_z(labels, n_null=400, random_state=0)
    rng = np.random.default_rng(5)
    drawn = np.array([adjusted_rand_score(a, b[rng.permutation(40)]) for _ in range(400)])
    assert null.value[0, 1] == pytest.approx(adjusted_rand_score(a, b))
    assert abs(null.mean[0, 1] - drawn.mean()) < 5 * drawn.std() / np.sqrt(400)
    assert null.sd[0, 1] == pytest.approx(drawn.std(), rel=0.25)
    own = clustering_similarities([a], others=[rng.permutation(a) for _ in range(400)])
    assert null.sd[0, 0] == pytest.approx(own.std(), rel=0.25)


@pytest.mark.parametrize("name", OF_CLUSTERINGS)
def test_no_z_where_shuffles_change_nothing(name: str) -> None:
    labels = [np.zeros(20, int), np.arange(20), np.arange(20) % 3, np.arange(20) // 10]
    null = null_z(labels, name, n_null=5)
    assert np.isnan(null.z[:2]).all()
    assert (null.sd[:2] == 0).all()
    assert np.isfinite(null.z[2:, 2:]).all()


def test_a_seed_decides() -> None:
    labels = noisy(3, 60, 3, 0.5)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first, again, other = (null_z(labels, n_null=3, random_state=seed).z for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


@pytest.mark.parametrize("name", MEASURES)
def test_distances_are_symmetric_and_zero_of_a_model_with_itself(name: str) -> None:
    measure = MEASURES[name]
    values = (
        clustering_similarities(noisy(5, 50, 4, 0.6), name)
        if measure.of == "clusterings"
        else representation_similarities(activations(5), name)
    )
    apart = as_distance(values, name)
    off = ~np.eye(5, dtype=bool)
    np.testing.assert_array_equal(apart, apart.T)
    np.testing.assert_array_equal(np.diag(apart), 0)
    np.testing.assert_allclose(apart[off], (1 - values if measure.larger_is_more_similar else values)[off])
    assert (apart[off] > 0).all()


# --- the table, refusals -------------------------------------------------------------------------------------------


def test_the_table() -> None:
    assert all(name == measure.name for name, measure in MEASURES.items())
    assert OF_CLUSTERINGS == ["adjusted_rand", "rand", "adjusted_mutual_information", "variation_of_information"]
    assert OF_REPRESENTATIONS == ["cka", "unbiased_cka", "procrustes", "rsa"]
    assert get_measure("cka") is MEASURES["cka"]
    assert get_measure(MEASURES["cka"], "representations") is MEASURES["cka"]


def test_a_measure_of_ones_own() -> None:
    share = Measure("same_names", "clusterings", (0, 1), True, True, frozenset(), lambda ours: np.eye(len(ours)))
    np.testing.assert_array_equal(clustering_similarities([[0, 1], [0, 0]], share), np.eye(2))


X = np.arange(12.0).reshape(6, 2) ** 2
BAD_ROW = np.where(np.arange(6)[:, None] == 4, np.nan, X)
L = np.array([[0, 1, 0, 1], [0, 0, 1, 1]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: get_measure("rands"), "measure must be one of 'adjusted_rand', 'rand', .*, 'rsa', got 'rands'"),
        (lambda: clustering_similarities(L, "cka"), "measure must be one of 'adjusted_rand', .*, got 'cka'"),
        (lambda: representation_similarities([X, X], "rand"), "measure must be one of 'cka', .*, got 'rand'"),
        (
            lambda: null_z(L, MEASURES["rsa"]),
            "measure must compare clusterings, got 'rsa', which compares representations",
        ),
        (lambda: clustering_similarities(L[:1]), "labels must be of at least 2 models, got 1"),
        (lambda: clustering_similarities([]), r"labels must be labels \(m, n\) of at least one clustering"),
        (lambda: clustering_similarities(3), r"labels must be labels \(m, n\) of at least one clustering"),
        (
            lambda: clustering_similarities([[0, 1, 2], [0, 1]]),
            r"labels\[1\] must have 3 samples, as labels\[0\], got 2",
        ),
        (lambda: clustering_similarities(L, "rand", L[:, :3]), "others must have 4 samples, as labels, got 3"),
        (lambda: clustering_similarities([[0], [0]]), "labels must have at least 2 samples, got 1"),
        (
            lambda: clustering_similarities([L[0], [0, 1, np.nan, 1]]),
            r"labels\[1\] must be ints \(n,\), got float64 \(4,\)",
        ),
        (lambda: clustering_similarities(L[None]), r"labels\[0\] must be ints \(n,\), got int64 \(2, 4\)"),
        (lambda: representation_similarities([X]), "activations must be of at least 2 models, got 1"),
        (
            lambda: representation_similarities([X, X[:5]]),
            r"activations\[1\] must have 6 samples, as activations\[0\], got 5",
        ),
        (
            lambda: representation_similarities([X, X[:5]], names=["one", "two"]),
            "activations of two must have 6 samples, as activations of one, got 5",
        ),
        (
            lambda: representation_similarities([X, X[:, 0]]),
            r"activations\[1\] must be numbers \(n, d\) with d >= 1, got float64 \(6,\)",
        ),
        (
            lambda: representation_similarities([X, BAD_ROW]),
            r"activations\[1\] must be finite, got NaN or infinity in 1 of 6 rows, first row 4",
        ),
        (lambda: representation_similarities([X, 0 * X], "cka"), r"activations\[1\] must vary over samples"),
        (lambda: representation_similarities([X, 0 * X + 0.1], "cka"), r"activations\[1\] must vary over samples"),
        (lambda: representation_similarities([X[:3]] * 2), r"activations\[0\] must have at least 4 samples, got 3"),
        (lambda: representation_similarities([X, np.eye(6)]), r"activations\[1\] must have samples at different"),
        (
            lambda: representation_similarities([X, np.eye(6)[:, :1]]),
            r"activations\[1\] must have samples at different .* or all but one sample equal",
        ),
        (
            lambda: representation_similarities([X, np.eye(6)], "rsa"),
            r"activations\[1\] must have samples at different",
        ),
        (lambda: null_z(L, n_null=1), "n_null must be an int >= 2, got 1"),
        (lambda: null_z(L, random_state=-1), "random_state must be an int >= 0, got -1"),
        (lambda: as_distance(np.ones((2, 3)), "rand"), r"values must have shape \(m, m\), got \(2, 3\)"),
        (lambda: as_distance([[1, np.nan], [np.nan, 1]], "rand"), "values must be finite"),
        (lambda: as_distance([[1, 0.2], [0.3, 1]], "rand"), "values must be symmetric"),
        (lambda: as_distance([[0, 2.5], [2.5, 0]], "rand"), "values of rand must be from 0 to 1, got 0 to 2.5"),
    ],
)
def test_what_is_refused_and_why(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError) as refused:
        call()
    assert re.search(message, str(refused.value)), str(refused.value)
