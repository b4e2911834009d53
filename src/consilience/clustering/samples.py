"""The clustering of a data set that activations induce: standardize, reduce, cluster (Zhao 2019).

- A unit's activations are brought to mean 0 and variance 1; constant units are left out. So the result does not depend
  on scales and offsets of units.
- Units are sorted by their projection on a fixed direction of sample space, and take the sign in which it is positive.
  So the result does not depend on the numbers of units, even where the reduction takes random directions.
- Clusters are numbered by their first sample.

Axis legend: ``n`` sample, ``d`` feature, ``c`` coordinate after reduction.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.cluster import HDBSCAN, SpectralClustering
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture

from consilience.clustering.clusterers import ward
from consilience.clustering.distances import Points
from consilience.clustering.kmeans import kmeans_labels
from consilience.clustering.tree import numbered
from consilience.errors import InputError

REDUCTIONS = ("pca", "umap", "none")
SAME = 1e-6  # of a unit's mean: a spread below it is rounding in float32
TINY = float(np.finfo(np.float32).tiny)  # a spread below it has no reciprocal in float32
# The best of so many starts is kept. With 3 of k-means, similarities of 32 networks on digits were lower by 0.05 within
# a family, and groups another with every seed; 30 are no better than 10.
MEANS_STARTS, MIXTURE_STARTS = 10, 3
N_NEIGHBORS = 10  # of a sample in the graph of spectral clustering
SMALLEST_SHARE = 0.01  # of the samples: fewer are no cluster to hdbscan
LARGEST_SEED = 2**32 - 1  # of numpy.random.RandomState, on which scikit-learn's draws rest

Coordinates = NDArray[np.floating]
Labels = NDArray[np.int64]


def reduce(
    activations: NDArray[np.float32], reduction: str, n_components: int, random_state: int, where: str
) -> Coordinates:
    """Return standardized and reduced activations (n, c); those given (n, d) are overwritten.

    With no more units than coordinates they are only standardized, as PCA would only rotate them.
    """
    points = _standardized(activations, random_state, where)
    n_components = min(n_components, len(points))
    if reduction == "none" or points.shape[1] <= n_components:
        return points
    if reduction == "umap":
        from umap import UMAP  # its presence is checked before any work

        n_neighbors = min(15, len(points) - 1)  # 15 is its default
        reducer = UMAP(n_neighbors, n_components=n_components, random_state=random_state, n_jobs=1)
        return np.asarray(reducer.fit_transform(points))
    reduced: Coordinates = PCA(n_components, copy=False, random_state=random_state).fit_transform(points)
    return reduced


def cluster(points: Coordinates, clusterer: str, n_clusters: int, random_state: int, where: str) -> Labels:
    """Return the cluster (n,) of each point (n, c), numbered by their first points."""
    n_different = len(np.unique(points, axis=0))
    if clusterer != "hdbscan" and n_different < n_clusters:
        raise InputError(
            f"{where} must have at least {n_clusters} samples that differ, got {n_different} of {len(points)}",
            cure="ask for fewer clusters, or leave this layer out",
        )
    labels = CLUSTERERS[clusterer](points, n_clusters, random_state)
    if labels.max() < 0:
        raise InputError(f"{where} must have a dense region for hdbscan, got none", cure="use another clusterer")
    return numbered(labels)


def majority_labels(labels: ArrayLike, y: ArrayLike) -> Labels:
    """Return the most frequent class of each sample's cluster (n,); of equals, the smallest.

    >>> majority_labels([0, 0, 0, 1, 1], [7, 7, 2, 2, 2])
    array([7, 7, 7, 2, 2])
    """
    clusters, classes = np.asarray(labels), np.asarray(y)
    if clusters.shape != classes.shape or clusters.ndim != 1 or not len(clusters):
        raise InputError(f"labels and y must have the same shape (n,), got {clusters.shape} and {classes.shape}")
    rows = np.unique(clusters, return_inverse=True)[1]
    names, columns = np.unique(classes, return_inverse=True)
    counts = np.zeros((rows.max() + 1, len(names)), dtype=np.int64)
    np.add.at(counts, (rows, columns), 1)
    majority: Labels = names[counts.argmax(1)][rows]
    return majority


def purity(labels: ArrayLike, y: ArrayLike) -> float:
    """Return the share of samples of their cluster's most frequent class: (1/n) Σ_clusters max_class count."""
    return float(np.mean(majority_labels(labels, y) == np.asarray(y)))


def explained(labels: ArrayLike, y: ArrayLike) -> float:
    """Return the share of the variance of numbers y (n, o) that lies between clusters, mean over columns.

    >>> explained([0, 0, 1, 1], [[1.0], [1.0], [3.0], [3.0]]), explained([0, 1, 0, 1], [[1.0], [1.0], [3.0], [3.0]])
    (1.0, 0.0)
    """
    clusters, numbers = np.asarray(labels), np.asarray(y, dtype=np.float64)
    rows = np.unique(clusters, return_inverse=True)[1]
    counts = np.bincount(rows)
    means = np.stack([np.bincount(rows, weights=column) for column in numbers.T], 1) / counts[:, None]
    within = np.square(numbers - means[rows]).mean(0)
    return float(np.mean(1 - within / numbers.var(0)))


def _standardized(activations: NDArray[np.float32], random_state: int, where: str) -> NDArray[np.float32]:
    mean = activations.mean(0, dtype=np.float64)
    activations -= mean.astype(np.float32)
    spread = np.sqrt(np.einsum("nd,nd->d", activations, activations, dtype=np.float64) / len(activations))
    varies = np.flatnonzero(spread > np.maximum(SAME * np.abs(mean), TINY))
    if not len(varies):
        cure = "leave this layer, or this model, out"
        raise InputError(f"{where} must vary over the samples, got {activations.shape[1]} constant units", cure=cure)
    direction = np.random.RandomState(random_state).standard_normal(len(activations)).astype(np.float32)
    along = (direction @ activations)[varies] / spread[varies]
    order = np.argsort(np.abs(along))
    columns, scale = varies[order], np.where(along < 0, -1, 1) / spread[varies]
    standardized: NDArray[np.float32] = activations[:, columns]
    standardized *= scale[order].astype(np.float32)
    return standardized


def _gmm(points: Coordinates, n_clusters: int, random_state: int) -> NDArray[np.integer]:
    """Mixture of Gaussians with full covariances; the ridge keeps covariances of few samples regular."""
    ridge = 1e-3 * float(points.var(0).mean())
    mixture = GaussianMixture(n_clusters, reg_covar=ridge, n_init=MIXTURE_STARTS, random_state=random_state)
    return np.asarray(mixture.fit_predict(points.astype(np.float64)))


def _spectral(points: Coordinates, n_clusters: int, random_state: int) -> NDArray[np.integer]:
    """Normalized cut of the graph of nearest neighbors, which may have several components."""
    if n_clusters == len(points):  # ARPACK finds fewer eigenvectors than there are
        return np.arange(n_clusters)
    graph = SpectralClustering(
        n_clusters,
        affinity="nearest_neighbors",
        n_neighbors=min(N_NEIGHBORS, len(points) - 1),
        assign_labels="cluster_qr",
        random_state=random_state,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Graph is not fully connected", UserWarning)
        warnings.filterwarnings("ignore", "The spectral clustering API has changed", UserWarning)  # of square points
        return np.asarray(graph.fit(points).labels_)


def _hdbscan(points: Coordinates, n_clusters: int, random_state: int) -> NDArray[np.integer]:
    """Density clusters (Campello et al. 2013), of any number; −1 for samples in none."""
    smallest = max(5, round(SMALLEST_SHARE * len(points)))
    return np.asarray(HDBSCAN(min_cluster_size=min(smallest, len(points)), copy=True).fit(points).labels_)


CLUSTERERS: dict[str, Callable[[Coordinates, int, int], NDArray[np.integer]]] = {
    "kmeans": lambda points, k, random_state: kmeans_labels(points, k, MEANS_STARTS, random_state),
    "ward": lambda points, k, random_state: ward(Points(points, projective=False), k, random_state).cut(k),
    "gmm": _gmm,
    "spectral": _spectral,
    "hdbscan": _hdbscan,
}
