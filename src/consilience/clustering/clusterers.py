"""Clusterers of units behind one protocol: points in, a tree or labels out.

A *hierarchical* clusterer (``ward``, ``average``, ``two-stage``) returns a tree, which can be cut at any number of
clusters. A *flat* one (``kmeans``, ``hdbscan``) returns labels. All come from SciPy, scikit-learn or, where installed,
FAISS. scikit-learn is imported where it is used, because that takes a second, and ward does not need it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.hierarchy import linkage

from consilience.checks import check_count
from consilience.clustering.distances import Points
from consilience.clustering.micro import LARGE, N_MICRO, Micro, micro_clusters
from consilience.clustering.tree import Tree
from consilience.errors import InputError
from consilience.seeds import legacy_generator
from consilience.ties import first_largest

SAME = 0.01  # of the median distance: points closer than this are equally close to hdbscan
N_STARTS = 3


@dataclass(frozen=True, eq=False)
class Clustering:
    """A tree over the points, or labels of the points."""

    tree: Tree | None  # of m leaves; None for a flat clustering
    labels: NDArray[np.int64]  # (U,) from 0 on: the leaf of each point or, without a tree, its cluster
    micro: Micro | None = None  # which leaves are, of more points than an exact tree can hold

    @property
    def n_leaves(self) -> int:
        """The largest number of clusters there can be."""
        return int(self.labels.max(initial=-1)) + 1

    def cut(self, n_clusters: int | None) -> NDArray[np.int64]:
        """Return labels (U,) for this many clusters; None gives `labels`."""
        if n_clusters is None or n_clusters == self.n_leaves:
            return self.labels
        cure = "ask for fewer clusters, or give more members"
        if self.tree is not None and self.n_leaves < len(self.labels):
            cure = f"ask for fewer clusters: the tree of many units has {self.n_leaves} leaves, micro-clusters of them"
        check_count("n_clusters", n_clusters, most=self.n_leaves, cure=cure)
        if self.tree is None:
            raise InputError(
                f"n_clusters must be {self.n_leaves}, as a flat clustering cannot be cut, got {n_clusters}",
                cure="use a hierarchical clusterer: ward, average or two-stage",
            )
        return self.tree.cut(n_clusters)[self.labels]


class Clusterer(Protocol):
    """Clusters points; ``n_clusters`` is None if the user gives no number, and hierarchical clusterers ignore it."""

    def __call__(self, points: Points, n_clusters: int | None, random_state: int) -> Clustering:
        """Return the clustering of the points."""


def ward(points: Points, n_clusters: int | None, random_state: int) -> Clustering:
    """Merge the pair of clusters that raises the within-cluster sum of squares least (Ward 1963).

    Of more than `LARGE` points, micro-clusters are merged (`consilience.clustering.micro`).
    """
    return _tree(points, "ward", random_state)


def average(points: Points, n_clusters: int | None, random_state: int) -> Clustering:
    """Merge the pair of clusters with the smallest mean distance between their points (UPGMA); as in `ward`."""
    return _tree(points, "average", random_state)


@dataclass(frozen=True)
class Resampled:
    """Clusters subsets of more than `LARGE` points, by the micro-clusters of all."""

    micro: Micro
    method: str

    def __call__(self, points: Points, n_clusters: int | None, random_state: int) -> Clustering:
        """Return the clustering of a subset of the points."""
        assert points.source is not None
        means, labels = self.micro.means(points.source[1])
        return Clustering(_exact(means, self.method).tree, labels)


def resampled(clusterer: Clusterer, clustering: Clustering) -> Clusterer:
    """Return how subsets of points are clustered again: of more than `LARGE` points, by the same micro-clusters."""
    if clustering.micro is None:
        return clusterer
    return Resampled(clustering.micro, "average" if clusterer is average else "ward")


def _tree(points: Points, method: str, random_state: int) -> Clustering:
    if len(points) <= LARGE:
        return _exact(points, method)
    micro = micro_clusters(points, random_state)
    means, labels = micro.means()
    return Clustering(_exact(means, method).tree, labels, micro)


def _exact(points: Points, method: str) -> Clustering:
    merges = linkage(points.condensed, method) if len(points) > 1 else []
    return Clustering(Tree.from_linkage(merges), np.arange(len(points)))


def kmeans(points: Points, n_clusters: int | None, random_state: int) -> Clustering:
    """K-means, the best of `N_STARTS` starts (`consilience.clustering.kmeans`).

    The points are sorted along their principal axis first, so that the result does not depend on the numbers of units.
    """
    from consilience.clustering.kmeans import kmeans_labels

    check_count("n_clusters", n_clusters, most=len(points), cure='for kmeans give a number, e.g. "2x", or use ward')
    assert n_clusters is not None
    order = np.argsort(np.abs(points.coordinates @ _principal_axis(points.coordinates)), kind="stable")
    labels = np.empty(len(points), dtype=np.int64)
    labels[order] = kmeans_labels(points.coordinates[order], n_clusters, N_STARTS, random_state, points.projective)
    return Clustering(None, labels)


def hdbscan(points: Points, n_clusters: int | None, random_state: int) -> Clustering:
    """Density clusters of at least two units; a unit in no dense region is a cluster of its own."""
    from sklearn.cluster import HDBSCAN

    if len(points) < 2:
        return Clustering(None, np.zeros(len(points), dtype=np.int64))
    distances = points.distances()
    same = SAME * float(np.median(distances))  # without a smallest distance, copies would be split by their rounding
    fitted = HDBSCAN(min_cluster_size=2, metric="precomputed", copy=True).fit(np.maximum(distances, same))
    labels = fitted.labels_.astype(np.int64)
    alone = labels < 0
    labels[alone] = labels.max(initial=-1) + 1 + np.arange(alone.sum())
    return Clustering(None, labels)


def two_stage(points: Points, n_clusters: int | None, random_state: int) -> Clustering:
    """Merge micro-clusters by `ward` from `N_MICRO` points on: k-means (FAISS where installed), then ward."""
    if not N_MICRO < len(points) <= LARGE:
        return ward(points, n_clusters, random_state)
    x = np.ascontiguousarray(points.coordinates, dtype=np.float32)
    if points.projective:  # one half-space: a point and its negative must meet in one micro-cluster
        x = x * np.where(x @ _principal_axis(x) < 0, -1, 1)[:, None].astype(np.float32)
    try:
        import faiss
    except ImportError:
        from sklearn.cluster import MiniBatchKMeans

        means = MiniBatchKMeans(
            N_MICRO, n_init=1, random_state=legacy_generator(random_state), batch_size=2 * N_MICRO
        ).fit(x)
        micro, centers = means.labels_, means.cluster_centers_
    else:
        index = faiss.Kmeans(x.shape[1], N_MICRO, niter=10, seed=random_state)
        index.train(x)
        micro, centers = index.index.search(x, 1)[1][:, 0], index.centroids
    used, labels = np.unique(micro, return_inverse=True)
    tree = ward(Points(centers[used], points.projective), None, random_state).tree
    return Clustering(tree, labels.astype(np.int64))


CLUSTERERS: dict[str, Clusterer] = {
    "ward": ward,
    "average": average,
    "kmeans": kmeans,
    "hdbscan": hdbscan,
    "two-stage": two_stage,
}


def _principal_axis(x: NDArray[np.floating]) -> NDArray[np.floating]:
    """Leading right singular vector (d,), by a few power iterations from the coordinate that varies most."""
    start = int(first_largest(torch.from_numpy(np.square(x).sum(0))))
    axis: NDArray[np.floating] = np.eye(1, x.shape[1], start, dtype=x.dtype)[0]
    for _ in range(20):
        axis = x.T @ (x @ axis)
        axis = axis / max(float(np.linalg.norm(axis)), 1e-30)
    return axis
