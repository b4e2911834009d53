"""Clusters of samples by activations: planted clusters, and changes of units that do not matter."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import adjusted_rand_score

from conftest import blobs
from consilience.clustering.samples import CLUSTERERS, cluster, majority_labels, purity, reduce

pytestmark = pytest.mark.numerical


def clusters(
    x: ArrayLike, n: int, clusterer: str = "kmeans", reduction: str = "pca", n_components: int = 50
) -> NDArray:
    points = reduce(np.asarray(x, dtype=np.float32).copy(), reduction, n_components, random_state=0, where="x")
    return cluster(points, clusterer, n, random_state=0, where="x")


@pytest.mark.parametrize("clusterer", list(CLUSTERERS))
@pytest.mark.parametrize("reduction", ["pca", "none"])
def test_every_clusterer_finds_blobs(clusterer: str, reduction: str) -> None:
    x, y = blobs(150, n_inputs=8)
    labels = clusters(x, 3, clusterer=clusterer, reduction=reduction, n_components=3)
    assert adjusted_rand_score(labels, y) == 1
    assert labels[0] == 0  # numbered by first sample
    assert (np.diff([np.flatnonzero(labels == c)[0] for c in range(3)]) > 0).all()


def test_offsets_scales_and_constant_units_do_not_matter() -> None:
    x, _ = blobs(80)
    wide = np.concatenate([1000 + x.numpy() * np.float32([1e3, 1, 1e-3, 1, 7, 1]), np.full((80, 2), 5e4)], 1)
    expected = clusters(x, 5, reduction="none")
    assert adjusted_rand_score(clusters(wide, 5, reduction="none"), expected) > 0.99


@pytest.mark.parametrize("clusterer", list(CLUSTERERS))
def test_denormal_units_are_constant(clusterer: str) -> None:
    x, _ = blobs(80)
    with_tiny = np.concatenate([x, np.float32(1e-44) * np.arange(80)[:, None] % np.float32(5e-44)], 1)
    labels = clusters(with_tiny, 3, clusterer=clusterer)
    assert (labels == clusters(x, 3, clusterer=clusterer)).all()


def test_spectral_clusters_of_one_sample_each_and_of_as_many_samples_as_units() -> None:
    x, _ = blobs(6)
    assert clusters(x, 6, clusterer="spectral").tolist() == [0, 1, 2, 3, 4, 5]
    assert len(set(clusters(x, 2, clusterer="spectral", reduction="none").tolist())) == 2


@given(labels=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=30))
def test_majority_and_purity_count_as_by_hand(labels: list[tuple[int, int]]) -> None:
    cluster_of, y = np.array(labels).T
    majority = majority_labels(cluster_of, y)
    for c in set(cluster_of.tolist()):
        counts = np.bincount(y[cluster_of == c])
        assert set(majority[cluster_of == c]) == {int(counts.argmax())}
    total = sum(max(np.bincount(y[cluster_of == c])) for c in set(cluster_of.tolist()))
    assert purity(cluster_of, y) == pytest.approx(total / len(y))


def test_permuted_units_give_the_same_labels_though_the_reduction_takes_random_directions() -> None:
    generator = np.random.RandomState(0)
    wide = generator.standard_normal((700, 600))  # of both more than 500, few components; and no clusters
    first, second = (clusters(a, 12, n_components=20) for a in (wide, wide[:, generator.permutation(600)]))
    assert (first == second).all()
