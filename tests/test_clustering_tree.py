"""`Tree` against brute force and SciPy."""

from __future__ import annotations

import operator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, leaves_list, linkage
from scipy.spatial.distance import pdist

from consilience.clustering.tree import Tree
from consilience.errors import InputError


@st.composite
def linkages(draw: st.DrawFn) -> np.ndarray:
    """Trees of up to 14 points; of points on a grid many merges are equally high."""
    n = draw(st.integers(2, 14))
    points = np.random.default_rng(draw(st.integers(0, 10**6))).normal(size=(n, 2))
    distances = pdist(np.round(points) if draw(st.booleans()) else points)
    return np.asarray(linkage(distances, draw(st.sampled_from(["average", "ward"]))))


def leaf_sets(merges: np.ndarray) -> list[set[int]]:
    """Brute force: the leaves below each node."""
    below = [{leaf} for leaf in range(len(merges) + 1)]
    for a, b in merges[:, :2].astype(int):
        below.append(below[a] | below[b])
    return below


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    return bool(((a[:, None] == a) == (b[:, None] == b)).all())


@given(linkages())
def test_nodes(merges: np.ndarray) -> None:
    tree, below = Tree.from_linkage(merges), leaf_sets(merges)
    assert [set(tree.leaves(node).tolist()) for node in range(tree.n_nodes)] == below
    assert tree.sizes.tolist() == [len(leaves) for leaves in below]
    children = merges[:, :2].astype(int).tolist()
    assert list(tree.merges()) == [(len(merges) + 1 + i, *pair) for i, pair in enumerate(children)]
    np.testing.assert_array_equal(tree.to_linkage(), merges)


@given(linkages())
def test_cuts(merges: np.ndarray) -> None:
    tree, n = Tree.from_linkage(merges), len(merges) + 1
    ranked = merges.copy()
    ranked[:, 2] = np.arange(1, n)  # so that SciPy undoes merges of equal height one by one
    for n_clusters in range(1, n + 1):
        labels = tree.cut(n_clusters)
        first = np.unique(labels, return_index=True)[1]
        assert len(first) == n_clusters
        np.testing.assert_array_equal(first, np.sort(first))  # numbered by their first leaves
        assert same_partition(labels, fcluster(ranked, n_clusters, "maxclust"))
    for height in [-1.0, *merges[:, 2], *(merges[:, 2] + 0.05)]:
        assert same_partition(tree.cut_at(height), fcluster(merges, height, "distance"))


@given(linkages())
def test_leaf_order(merges: np.ndarray) -> None:
    tree, below = Tree.from_linkage(merges), leaf_sets(merges)
    np.testing.assert_array_equal(tree.leaf_order(), leaves_list(merges))
    swapped = np.arange(len(merges)) % 2 == 0
    place = np.argsort(tree.leaf_order(swapped))
    for step, (a, b) in enumerate(tree.children):
        left, right = (b, a) if swapped[step] else (a, b)
        assert max(place[list(below[left])]) + 1 == min(place[list(below[right])])


@given(linkages())
def test_values_are_carried_up(merges: np.ndarray) -> None:
    tree, below = Tree.from_linkage(merges), leaf_sets(merges)
    values = np.random.default_rng(0).normal(size=(tree.n_leaves, 3))
    expected = [values[list(leaves)].sum(0) for leaves in below]
    np.testing.assert_allclose(tree.accumulate(values), expected, atol=1e-12)
    np.testing.assert_array_equal(tree.accumulate(values, np.maximum), [values[list(s)].max(0) for s in below])
    bits = np.array([1 << leaf for leaf in range(tree.n_leaves)], dtype=object)
    assert tree.accumulate(bits, operator.or_).tolist() == [sum(1 << leaf for leaf in leaves) for leaves in below]


def test_roots_are_the_clusters_after_so_many_merges() -> None:
    tree = Tree.from_linkage([[0, 2, 0.1, 2], [1, 3, 0.2, 2], [4, 5, 1.0, 4]])
    assert tree.roots(0).tolist() == [0, 1, 2, 3]
    assert tree.roots(2).tolist() == [4, 5]
    assert tree.roots(3).tolist() == [6]
    assert tree.n_merges_below(0.2) == 2


def test_a_chain_of_merges_is_no_deeper_than_any_other_tree() -> None:
    n = 20_000
    first = np.concatenate([[0], np.arange(n, 2 * n - 2)])
    chain = Tree(np.column_stack([first, np.arange(1, n)]), np.arange(1.0, n), n)
    np.testing.assert_array_equal(chain.leaf_order(), np.arange(n))
    np.testing.assert_array_equal(chain.cut(3), [0] * (n - 2) + [1, 2])


@pytest.mark.parametrize("n_leaves", [0, 1])
def test_a_tree_without_merges(n_leaves: int) -> None:
    tree = Tree(np.empty((0, 2), dtype=np.int64), np.empty(0), n_leaves)
    np.testing.assert_array_equal(tree.cut_at(1.0), np.arange(n_leaves))
    assert tree.to_linkage().shape == (0, 4)


@pytest.mark.parametrize("n_clusters", [0, 4])
def test_more_clusters_than_leaves_are_refused(n_clusters: int) -> None:
    tree = Tree.from_linkage([[0, 1, 0.5, 2], [2, 3, 2.0, 3]])
    with pytest.raises(InputError, match=rf"n_clusters must be an int from 1 to 3, got {n_clusters}"):
        tree.cut(n_clusters)
