"""Spectra of graphs, their clusters and n-cuts, against NetworkX and NumPy."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consilience.clustering.spectral import adjacency, clusters_of, degrees, n_cut, spectrum

pytestmark = pytest.mark.numerical


@given(st.integers(0, 10_000), st.integers(2, 5), st.sampled_from([0.2, 1.0]))
def test_n_cut_agrees_with_networkx(seed: int, k: int, density: float) -> None:
    g = np.random.default_rng(seed)
    n = 14
    weights = np.triu(g.random((n, n)) * (g.random((n, n)) < density))  # edges of a unit with itself, too
    labels = g.integers(k, size=n)
    graph = nx.Graph()
    graph.add_nodes_from(range(n))
    graph.add_weighted_edges_from((i, j, weights[i, j]) for i, j in zip(*np.nonzero(weights), strict=True))
    expected = 0.0
    for c in range(k):
        own = set(np.flatnonzero(labels == c).tolist())
        volume = nx.volume(graph, own, weight="weight") if own else 0
        if volume:
            expected += nx.cut_size(graph, own, weight="weight") / volume
    block = (slice(0, n), slice(0, n), weights)
    assert n_cut([block], degrees(n, [block]), labels) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("n", [40, 700])  # by all eigenvectors at once, and by iteration
def test_eigenvalues_are_those_of_the_laplacian(n: int) -> None:
    g = np.random.default_rng(0)
    weights = g.random((n // 2, n // 2)) ** 4
    block = (slice(0, n // 2), slice(n // 2, n), weights)
    found = spectrum([block], degrees(n, [block]), 6)
    laplacian = nx.normalized_laplacian_matrix(nx.from_scipy_sparse_array(adjacency(n, [block]))).toarray()
    assert np.allclose(found.values, np.linalg.eigvalsh(laplacian)[:6], atol=1e-10)
    assert np.allclose(laplacian @ found.vectors, found.vectors * found.values, atol=1e-9)
    assert np.allclose(found.vectors.T @ found.vectors, np.eye(6), atol=1e-10)


def test_a_complete_graph_has_no_second_copy_of_its_first_eigenvector() -> None:
    weights = np.triu(np.ones((5, 5)), 1)
    block = (slice(0, 5), slice(0, 5), weights)
    found = spectrum([block], degrees(5, [block]), 5)
    assert np.allclose(found.values, [0, 1.25, 1.25, 1.25, 1.25])
    assert np.allclose(found.vectors.T @ found.vectors, np.eye(5), atol=1e-12)


def test_labels_of_clusters_are_the_same_every_time() -> None:
    block = (slice(0, 20), slice(20, 40), np.random.default_rng(0).random((20, 20)))
    found = spectrum([block], degrees(40, [block]), 3)
    assert np.array_equal(clusters_of(found, 0), clusters_of(found, 0))


def test_eigenvectors_are_the_same_where_an_iteration_begins_anew() -> None:
    weights = np.kron(np.eye(6), np.ones((60, 60))) + 0.1  # few different eigenvalues: Krylov spaces close early
    block = (slice(0, 360), slice(360, 720), weights)
    first, again = (spectrum([block], degrees(720, [block]), 8) for _ in range(2))
    assert np.array_equal(first.vectors, again.vectors)
