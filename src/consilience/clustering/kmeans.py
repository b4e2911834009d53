"""K-means: Lloyd's algorithm, the best of several starts from k-means++ seeds (Arthur and Vassilvitskii 2007).

Axis legend: ``n`` points, ``d`` coordinates.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from consilience.clustering.tree import numbered
from consilience.seeds import legacy_generator
from consilience.ties import first_largest

MAX_TURNS = 20  # of signs; two or three are the rule


def kmeans_labels(
    x: NDArray[np.floating], n_clusters: int, n_starts: int, random_state: int, projective: bool = False
) -> NDArray[np.int64]:
    """Return the cluster (n,) of each point (n, d), numbered by their first points; fewer if fewer points differ.

    The best of ``n_starts`` runs; of starts with equal inertia, up to rounding, the first. If ``projective``, a point
    and its negative are the same: points are seeded by projective distance and take, between runs of Lloyd's algorithm,
    the sign nearer to their center, until none changes.
    """
    generator = legacy_generator(random_state)
    start = _projective_start if projective else _start
    runs = [start(x, n_clusters, generator) for _ in range(n_starts)]
    best = first_largest(torch.tensor([-run.inertia_ for run in runs], dtype=torch.float64))
    return numbered(runs[int(best)].labels_)


def _start(x: NDArray[np.floating], n_clusters: int, generator: np.random.RandomState) -> KMeans:
    return KMeans(n_clusters, n_init=1, random_state=generator).fit(x)


def _projective_start(x: NDArray[np.floating], n_clusters: int, generator: np.random.RandomState) -> KMeans:
    seeds = [int(generator.randint(len(x)))]
    while len(seeds) < n_clusters:
        squared = np.square(x).sum(1)[:, None] + np.square(x[seeds]).sum(1) - 2 * np.abs(x @ x[seeds].T)
        weight = np.maximum(squared, 0).min(1)
        weight[seeds] = 0
        weight = weight + (1e-12 * weight.max() or 1.0) * ~np.isin(np.arange(len(x)), seeds)  # points that all coincide
        seeds.append(int(generator.choice(len(x), p=weight / weight.sum())))
    centers = x[seeds]
    for _ in range(MAX_TURNS):
        along = x @ centers.T
        nearest = (np.square(centers).sum(1) - 2 * np.abs(along)).argmin(1)
        turned = np.take_along_axis(along, nearest[:, None], 1) < 0
        x = np.where(turned, -x, x)
        run = KMeans(n_clusters, init=centers, n_init=1).fit(x)
        centers = run.cluster_centers_
        if not turned.any():
            break
    return run
