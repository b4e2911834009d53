"""The clustering of the samples that models agree on, and the samples on which they disagree.

The *co-association* of two samples is the share of models that put them into one cluster (Fred and Jain 2005). With B
the one-hot clusterings of all models side by side it is B Bᵀ/m, which is computed in blocks of rows.

Axis legend: ``m`` model, ``n`` sample, ``c`` cluster of any model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.cluster.hierarchy import linkage
from scipy.sparse import csr_array, diags_array
from scipy.sparse.linalg import aslinearoperator, eigsh
from sklearn.cluster import KMeans

from consilience import seeds
from consilience.checks import as_array, check_choice, check_count
from consilience.clustering.samples import LARGEST_SEED
from consilience.clustering.tree import Tree, numbered
from consilience.errors import InputError

METHODS = ("average", "spectral")
MAX_SAMPLES = 10_000  # of average linkage: the distances of all pairs take 0.4 GB
BLOCK = 2**22  # co-associations at a time, 16 MB
N_STARTS = 10  # of k-means in the few spectral coordinates


@dataclass(frozen=True, eq=False)
class Consensus:
    """What several clusterings of the same samples agree on.

    Attributes
    ----------
    labels : (n,) clusters, numbered by their first samples.
    disagreement : (n,) mean of 4 p (1 − p) over the other samples, p the co-association: 1 where models are halved.
    disputed : (n,) the samples in descending order of disagreement.
    """

    labels: NDArray[np.int64]
    disagreement: NDArray[np.float64]
    disputed: NDArray[np.int64]


def find_consensus(labels: ArrayLike, n_clusters: int, method: str = "average", random_state: int = 0) -> Consensus:
    """Return the consensus of clusterings.

    Parameters
    ----------
    labels : (m, n) clusters of n samples in m models.
    n_clusters : k ≤ n, of the consensus.
    method : "average" (linkage on 1 − co-association, of at most `MAX_SAMPLES` samples because it takes all pairs) or
        "spectral" (normalized cut; samples that all models have together stay so, so that clusters may be fewer).
    random_state : seed of "spectral".

    Examples
    --------
    >>> consensus = find_consensus([[0, 0, 1, 1, 1], [0, 0, 0, 1, 1], [1, 1, 0, 0, 0]], 2)
    >>> consensus.labels, consensus.disputed[0]
    (array([0, 0, 1, 1, 1]), np.int64(2))
    """
    given = as_array(labels, "labels")
    if given.ndim != 2 or given.shape[0] < 1 or given.shape[1] < 2:
        raise InputError(f"labels must have shape (m, n) with m >= 1 and n >= 2, got {given.shape}")
    m, n = given.shape
    check_count("n_clusters", n_clusters, 1, n)
    check_method(method, n, "method")
    check_count("random_state", random_state, 0, LARGEST_SEED)
    apart = np.empty(n * (n - 1) // 2) if method == "average" else None
    disagreement = np.empty(n)
    for start, block in _coassociation(given):
        n_together = np.rint(m * block)  # whole numbers of models, so that sums are exact and equal ones tie
        disagreement[start : start + len(block)] = (n_together * (m - n_together)).sum(1, dtype=np.float64)
        if apart is not None:
            _fill(apart, start, block)
    disagreement *= 4 / (m * m * (n - 1))
    if apart is None:
        consensus = numbered(_spectral(given, n_clusters, random_state))
    else:
        consensus = Tree.from_linkage(linkage(np.subtract(1, apart, out=apart), "average")).cut(n_clusters)
    return Consensus(consensus, disagreement, np.argsort(-disagreement, kind="stable"))


def check_method(method: str, n_samples: int, argument: str) -> None:
    """Raise unless the method exists and can take so many samples."""
    check_choice(argument, method, METHODS)
    if method == "average" and n_samples > MAX_SAMPLES:
        got = f"'average' for {n_samples}"
        raise InputError(f"{argument} must be 'spectral' for more than {MAX_SAMPLES} samples, got {got}")


def _one_hot(labels: NDArray[np.integer]) -> csr_array:
    """B (n, c): which clusters of all models a sample is in."""
    m, n = labels.shape
    columns = np.stack([np.unique(of_model, return_inverse=True)[1] for of_model in labels])
    offsets = np.concatenate([[0], np.cumsum(columns.max(1) + 1)])
    columns += offsets[:-1, None]
    ones = np.ones(m * n, dtype=np.float32)
    return csr_array((ones, columns.T.ravel(), np.arange(0, m * n + 1, m)), shape=(n, int(offsets[-1])))


def _coassociation(labels: NDArray[np.integer]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield (first row, rows (b, n)) of the co-associations."""
    one_hot, (m, n) = _one_hot(labels).toarray(), labels.shape
    rows = max(1, BLOCK // n)
    for start in range(0, n, rows):
        yield start, one_hot[start : start + rows] @ one_hot.T / np.float32(m)


def _fill(condensed: NDArray[np.float64], start: int, block: NDArray[np.float32]) -> None:
    """Write rows of a square matrix to their places in SciPy's condensed matrix."""
    n = block.shape[1]
    for i, row in enumerate(block, start):
        begin = i * n - i * (i + 1) // 2
        condensed[begin : begin + n - i - 1] = row[i + 1 :]


def _spectral(labels: NDArray[np.integer], n_clusters: int, random_state: int) -> NDArray[np.integer]:
    """Cluster the rows of the leading left singular vectors of D^{−1/2} B, with D the degrees B Bᵀ 1 (Ng et al. 2001).

    They are the leading eigenvectors of the normalized co-associations D^{−1/2} B Bᵀ D^{−1/2}. Equal rows of B are one
    row, times the root of their number, which keeps the directions of the vectors' rows.
    """
    different, inverse, counts = np.unique(labels, axis=1, return_inverse=True, return_counts=True)
    inverse = inverse.reshape(-1)  # NumPy 2.0 has it as a row
    if n_clusters >= len(counts):
        return np.asarray(inverse)
    one_hot = _one_hot(different).astype(np.float64)
    degrees = one_hot @ (counts @ one_hot)
    scaled = diags_array((counts / degrees) ** 0.5) @ one_hot
    operator = aslinearoperator(scaled)
    n_vectors = min(n_clusters, min(scaled.shape) - 1)
    # svds does not seed the vectors that it draws after a breakdown, e.g. if no two different rows share a cluster
    vectors = eigsh(operator @ operator.T, n_vectors, rng=seeds.numpy_generator(random_state))[1]
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    kmeans = KMeans(n_clusters, n_init=N_STARTS, random_state=random_state)
    return np.asarray(kmeans.fit(vectors / lengths, sample_weight=counts).labels_)[inverse]
