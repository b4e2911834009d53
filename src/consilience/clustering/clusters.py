"""Clusters of one layer in their canonical order: by frequency, then size, then stability.

A prefix of that order is a smaller basis.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from consilience import seeds
from consilience.clustering.clusterers import Clusterer
from consilience.clustering.distances import Points


@dataclass(frozen=True)
class Clusters:
    """Labelled units of one layer.

    Attributes
    ----------
    labels : (U,) cluster of each unit; −1 for units in no cluster (dead ones).
    frequency : (K,) share of the members that own at least one unit of the cluster.
    size : (K,) number of units.
    stability : (K,) mean best Jaccard overlap when members are resampled; NaN where it was not measured.
    """

    labels: NDArray[np.int64]
    frequency: NDArray[np.float64]
    size: NDArray[np.int64]
    stability: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.size)


def count(labels: NDArray[np.int64], member: NDArray[np.int64], n_members: int) -> Clusters:
    """Return the clusters of ``labels`` (U,) as they are numbered, with frequency and size, stability unknown."""
    n_clusters = int(labels.max(initial=-1)) + 1
    owned = np.zeros((n_clusters, n_members), dtype=np.int64)
    inside = labels >= 0
    np.add.at(owned, (labels[inside], member[inside]), 1)
    return Clusters(
        labels, (owned > 0).mean(1) if n_clusters else np.empty(0), owned.sum(1), np.full(n_clusters, np.nan)
    )


def in_order(clusters: Clusters) -> Clusters:
    """Return the clusters in canonical order; clusters that tie in all three go by their first unit."""
    first = np.full(len(clusters), len(clusters.labels))
    inside = clusters.labels >= 0
    np.minimum.at(first, clusters.labels[inside], np.flatnonzero(inside))
    stability = np.nan_to_num(clusters.stability, nan=0.0).round(9)  # a mean, rounded by the order of its terms
    order = np.lexsort((first, -stability, -clusters.size, -clusters.frequency))
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    labels = np.where(inside, rank[clusters.labels], -1) if len(order) else clusters.labels
    return Clusters(labels, clusters.frequency[order], clusters.size[order], clusters.stability[order])


def with_stability(
    clusters: Clusters, points: Points, rows: NDArray[np.int64], member: NDArray[np.int64], clusterer: Clusterer,
    *, n_resamples: int, random_state: int,
) -> Clusters:  # fmt: skip
    """Return the clusters with their stability: a bootstrap over members (Hennig 2007).

    Members are drawn with replacement; the distinct ones drawn are clustered again, into as many clusters as still have
    a unit among them; a cluster's stability is the mean, over resamples that hold any of it, of its best Jaccard
    overlap.

    Parameters
    ----------
    clusters : K clusters.
    points : of the units in ``rows`` (those in a cluster).
    rows : (V,) indices of the points' units among all U.
    member : (U,) whose unit each is.
    clusterer : the one that made the clusters.
    n_resamples : how many times to draw; 0 leaves stability unknown.
    random_state : seed.
    """
    generator = seeds.numpy_generator(random_state)
    n_clusters, own, labels = len(clusters), member[rows], clusters.labels[rows]
    total, held = np.zeros(n_clusters), np.zeros(n_clusters)
    members = np.unique(own)
    for _ in range(n_resamples):
        drawn = np.unique(generator.choice(members, len(members)))
        kept = np.flatnonzero(np.isin(own, drawn))
        n_again = len(np.unique(labels[kept]))
        clustering = clusterer(points.subset(kept), n_again, random_state)
        again = clustering.labels if clustering.tree is None else clustering.cut(min(n_again, clustering.n_leaves))
        best = _best_jaccard(labels[kept], again, n_clusters)
        present = ~np.isnan(best)
        total[present] += best[present]
        held += present
    stability = np.divide(total, held, out=np.full(n_clusters, np.nan), where=held > 0)
    return replace(clusters, stability=stability)


def _best_jaccard(labels: NDArray[np.int64], again: NDArray[np.int64], n_clusters: int) -> NDArray[np.float64]:
    """Best |A ∩ B| / |A ∪ B| of each cluster A of ``labels`` with a cluster B of ``again``; NaN if A is empty."""
    both = np.zeros((n_clusters, int(again.max()) + 1))
    np.add.at(both, (labels, again), 1)
    sizes, sizes_again = both.sum(1, keepdims=True), both.sum(0, keepdims=True)
    jaccard = (both / np.maximum(sizes + sizes_again - both, 1)).max(1)
    return np.where(sizes[:, 0] > 0, jaccard, np.nan)
