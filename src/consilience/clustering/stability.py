"""Stability of clusters: a bootstrap over members (Hennig 2007). Its draws are tasks of the engine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from consilience import seeds
from consilience.clustering.clusterers import Clusterer, Resampled
from consilience.clustering.distances import Points
from consilience.engines import current

WORTH = 1000  # points from which on a draw takes longer than to be sent to a worker


def stability(
    points: Points,
    labels: NDArray[np.int64],  # (U,) cluster of each point, from 0 on
    member: NDArray[np.int64],  # (U,)
    clusterer: Clusterer,
    n_resamples: int,
    random_state: int,
) -> NDArray[np.float64]:
    """Return each cluster's mean best Jaccard overlap with the clusters of resampled members (K,); NaN without any.

    Members are drawn with replacement. The points of the distinct ones are clustered again, into as many clusters as
    still have a point; the mean is over the resamples that hold a point of the cluster.
    """
    generator = seeds.numpy_generator(random_state)
    n_clusters, members = int(labels.max(initial=-1)) + 1, np.unique(member)
    draws = []
    for _ in range(n_resamples):
        drawn = np.unique(generator.choice(members, len(members)))
        draws.append(np.flatnonzero(np.isin(member, drawn)))
    if isinstance(clusterer, Resampled):
        points = clusterer.micro.points  # which are fewer numbers to send
    shared = {"points": points, "labels": labels, "clusterer": clusterer, "random_state": random_state}
    total, held = np.zeros(n_clusters), np.zeros(n_clusters)
    for best in current(worth=len(points) >= WORTH).map(overlaps, draws, shared=shared):
        present = ~np.isnan(best)
        total[present] += best[present]
        held += present
    mean: NDArray[np.float64] = np.divide(total, held, out=np.full(n_clusters, np.nan), where=held > 0)
    return mean


def overlaps(
    kept: NDArray[np.int64],
    *,
    points: Points,
    labels: NDArray[np.int64],
    clusterer: Clusterer,
    random_state: int,
) -> NDArray[np.float64]:
    """Cluster some of the points again, and return the best overlap of each cluster (K,) with the new ones: a task."""
    n_again = len(np.unique(labels[kept]))
    clustering = clusterer(points.subset(kept), n_again, random_state)
    again = clustering.labels if clustering.tree is None else clustering.cut(min(n_again, clustering.n_leaves))
    return _best_jaccard(labels[kept], again, int(labels.max(initial=-1)) + 1)


def _best_jaccard(labels: NDArray[np.int64], again: NDArray[np.int64], n_clusters: int) -> NDArray[np.float64]:
    """Return the best |A ∩ B| / |A ∪ B| of each cluster A of ``labels`` with one of ``again``; NaN if A is empty."""
    both = np.zeros((n_clusters, int(again.max()) + 1))
    np.add.at(both, (labels, again), 1)
    sizes, sizes_again = both.sum(1, keepdims=True), both.sum(0, keepdims=True)
    jaccard = (both / np.maximum(sizes + sizes_again - both, 1)).max(1)
    return np.where(sizes[:, 0] > 0, jaccard, np.nan)
