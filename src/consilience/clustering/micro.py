"""Micro-clusters of layers of many units, so that a tree over them stands for the tree over all units.

The exact tree of n points takes n²/2 distances, and those of resampled members as many again. Of more than `LARGE`
points, points are projected on the leading directions of their second moment, k-means puts them into `N_MICRO`
micro-clusters, and the tree is over the means of these. Time and memory are linear in n.

- K-means is fitted to `FITTED` points, evenly spaced. All points are assigned in blocks, which are tasks of the engine.
- Distances between points hardly change: what the projection leaves out is the smallest part of the second moment.

Axis legend: ``n`` points, ``d`` coordinates, ``m`` micro-clusters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from consilience.clustering.distances import Points
from consilience.engines import current
from consilience.seeds import legacy_generator

Floats = NDArray[np.float32]

LARGE = 5_000  # points with an exact tree, at most: beyond, it takes longer than the one over micro-clusters
N_MICRO = 4096  # their tree takes about 2 s and 140 MB
N_DIRECTIONS = 64
FITTED = 2**17
PASSES = 10  # of k-means over the points that it is fitted to
BLOCK = 2**15  # points that are assigned by one task
ROWS = 2048  # points whose distances to all micro-clusters are in memory at a time: 32 MB


@dataclass(frozen=True, eq=False)
class Micro:
    """Micro-clusters of points."""

    labels: NDArray[np.int64]  # (n,) the micro-cluster of each point, from 0 on; none is empty
    points: Points  # (n, d') the points, projected

    def means(self, rows: NDArray[np.integer] | slice = slice(None)) -> tuple[Points, NDArray[np.int64]]:
        """Return the mean of each micro-cluster that holds any of the points chosen, and which of them each is in."""
        used, labels = np.unique(self.labels[rows], return_inverse=True)
        coordinates = self.points.coordinates[rows]
        sums = np.zeros((len(used), coordinates.shape[1]))
        np.add.at(sums, labels, coordinates)
        means = (sums / np.bincount(labels)[:, None]).astype(np.float32)
        return Points(means, self.points.projective), labels.astype(np.int64)


def micro_clusters(points: Points, random_state: int) -> Micro:
    """Return micro-clusters of points, at most `N_MICRO`."""
    x = _projected(np.ascontiguousarray(points.coordinates, dtype=np.float32))
    if points.projective:  # one half-space: a point and its negative must meet in one micro-cluster
        x = np.where(x[:, :1] < 0, -x, x)
    centers = _centers(x[:: -(-len(x) // FITTED)], random_state)
    blocks = [x[start : start + BLOCK] for start in range(0, len(x), BLOCK)]
    nearest = np.concatenate(current().map(_nearest, blocks, shared={"centers": centers}))
    return Micro(np.unique(nearest, return_inverse=True)[1].astype(np.int64), Points(x, points.projective))


def _projected(x: Floats) -> Floats:
    """Project points (n, d) on the leading eigenvectors of their second moment, the first of them first."""
    some = x[:: -(-len(x) // LARGE)].astype(np.float64)
    _, vectors = np.linalg.eigh(some.T @ some)
    projected: Floats = x @ vectors[:, : -N_DIRECTIONS - 1 : -1].astype(np.float32)
    return projected


def _centers(x: Floats, random_state: int) -> Floats:
    """The centers (m, d) of k-means, by FAISS where it is installed."""
    try:
        import faiss
    except ImportError:
        from sklearn.cluster import MiniBatchKMeans

        generator = legacy_generator(random_state)
        options = {"init": "random", "n_init": 1, "max_iter": PASSES, "batch_size": 2 * N_MICRO}
        means = MiniBatchKMeans(N_MICRO, random_state=generator, **options).fit(x)
        return np.asarray(means.cluster_centers_, dtype=np.float32)
    index = faiss.Kmeans(x.shape[1], N_MICRO, niter=PASSES, seed=random_state % 2**31)
    index.train(x)
    return np.asarray(index.centroids, dtype=np.float32)


def _nearest(x: Floats, *, centers: Floats) -> NDArray[np.int64]:
    """The nearest center (n,) of each point: a task."""
    squares = np.square(centers).sum(1)
    parts = [x[start : start + ROWS] for start in range(0, len(x), ROWS)]
    return np.concatenate([(squares - 2 * part @ centers.T).argmin(1) for part in parts])
