"""Clusters of one layer in their canonical order: by frequency, then size, then stability.

A prefix of that order is a smaller basis.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Clusters:
    """Labelled units of one layer."""

    labels: NDArray[np.int64]  # (U,) cluster of each unit; −1 for units in no cluster (dead ones)
    frequency: NDArray[np.float64]  # (K,) share of the members that own at least one unit of the cluster
    size: NDArray[np.int64]  # (K,) number of units
    stability: NDArray[np.float64]  # (K,) mean best Jaccard overlap when members are resampled; NaN if unknown

    def __len__(self) -> int:
        return len(self.size)


def count(labels: NDArray[np.int64], member: NDArray[np.int64], n_members: int) -> Clusters:
    """Return the clusters of ``labels`` (U,) as they are numbered, with frequency and size, stability unknown."""
    n_clusters = int(labels.max(initial=-1)) + 1
    owned = np.zeros((n_clusters, n_members), dtype=np.int64)
    inside = labels >= 0
    np.add.at(owned, (labels[inside], member[inside]), 1)
    frequency = (owned > 0).mean(1) if n_clusters else np.empty(0)
    return Clusters(labels, frequency, owned.sum(1), np.full(n_clusters, np.nan))


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
