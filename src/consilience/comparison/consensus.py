"""The clustering of the data that all models agree on, and the samples on which they do not.

The *co-association* of two samples is the share of the models that put them into one cluster (Fred and Jain 2005). With
B the one-hot clusterings of all models side by side it is B Bᵀ/m, of which only blocks of rows are ever made.

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

from consilience.clustering.samples import check_seed, numbered
from consilience.comparison.groups import cut
from consilience.errors import InputError

METHODS = ("average", "spectral")
MAX_SAMPLES = 10_000  # of average linkage: the distances of all pairs take 0.4 GB
BLOCK = 2**22  # co-associations at a time, 16 MB
N_STARTS = 10  # of k-means in the few spectral coordinates


@dataclass(frozen=True, eq=False)
class Consensus:
    """What many clusterings of the same samples agree on.

    Attributes
    ----------
    labels : (n,) clusters, numbered by their first samples.
    disagreement : (n,) mean over the other samples of 4 p (1 − p), with p the co-association: 0 where all models agree
        on whether the two are together, 1 where half of them think so.
    disputed : (n,) the samples, those with the largest disagreement first.
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
    method : "average" (linkage on 1 − co-association; every pair of samples is looked at, so that n is limited to
        `MAX_SAMPLES`) or "spectral" (normalised cut of the co-associations, from the singular vectors of B; samples
        that all models have together stay together, so that there may be fewer clusters).
    random_state : seed of "spectral".

    Raises
    ------
    InputError
        If the labels are no matrix, the method is unknown, there are fewer or too many samples, or the seed makes no
        sense.

    Examples
    --------
    >>> found = find_consensus([[0, 0, 1, 1, 1], [0, 0, 0, 1, 1], [1, 1, 0, 0, 0]], 2)
    >>> found.labels, found.disputed[0]
    (array([0, 0, 1, 1, 1]), np.int64(2))
    """
    given = np.asarray(labels)
    if given.ndim != 2 or given.shape[1] < 2 or not 1 <= n_clusters <= given.shape[1]:
        raise InputError(
            "these are not clusterings of enough samples", where="find_consensus",
            got=f"labels of shape {given.shape}, n_clusters={n_clusters}", expected="(m, n), n ≥ 2 and n ≥ n_clusters",
        )  # fmt: skip
    check_method(method, given.shape[1], where="method")
    check_seed(random_state, "random_state")
    together = np.empty(given.shape[1] * (given.shape[1] - 1) // 2) if method == "average" else None
    m, n = given.shape
    disagreement = np.empty(n)
    for start, block in _coassociation(given):
        together_in = np.rint(m * block)  # whole numbers of models, so that sums are exact and equal ones tie
        disagreement[start : start + len(block)] = (together_in * (m - together_in)).sum(1, dtype=np.float64)
        if together is not None:
            _fill(together, start, block)
    disagreement *= 4 / (m * m * (n - 1))
    if together is None:
        found = numbered(_spectral(given, n_clusters, random_state))
    else:
        merges = linkage(np.subtract(1, together, out=together), "average")
        found = cut(merges, n_clusters)
    return Consensus(found, disagreement, np.argsort(-disagreement, kind="stable"))


def check_method(method: str, n_samples: int, where: str) -> None:
    """Refuse an unknown method, or one that cannot take so many samples.

    Raises
    ------
    InputError
        As said.
    """
    if method not in METHODS:
        raise InputError("unknown consensus", where=where, got=repr(method), expected=", ".join(METHODS))
    if method == "average" and n_samples > MAX_SAMPLES:
        raise InputError(
            "too many samples for average linkage", where=where, got=n_samples, expected=f"at most {MAX_SAMPLES}",
            cure='use "spectral"',
        )  # fmt: skip


def _one_hot(labels: NDArray[np.integer]) -> csr_array:
    """B (n, c): which clusters of all models a sample is in."""
    m, n = labels.shape
    columns = np.stack([np.unique(own, return_inverse=True)[1] for own in labels])
    offsets = np.concatenate([[0], np.cumsum(columns.max(1) + 1)])
    columns += offsets[:-1, None]
    ones = np.ones(m * n, dtype=np.float32)
    return csr_array((ones, columns.T.ravel(), np.arange(0, m * n + 1, m)), shape=(n, int(offsets[-1])))


def _coassociation(labels: NDArray[np.integer]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield (first row, rows (b, n)) of the shares of models that have two samples together."""
    one_hot, (m, n) = _one_hot(labels).toarray(), labels.shape
    rows = max(1, BLOCK // n)
    for start in range(0, n, rows):
        yield start, one_hot[start : start + rows] @ one_hot.T / np.float32(m)


def _fill(condensed: NDArray[np.float64], start: int, block: NDArray[np.float32]) -> None:
    """Put rows of a square matrix where they belong in SciPy's condensed one."""
    n = block.shape[1]
    for i, row in enumerate(block, start):
        begin = i * n - i * (i + 1) // 2
        condensed[begin : begin + n - i - 1] = row[i + 1 :]


def _spectral(labels: NDArray[np.integer], n_clusters: int, random_state: int) -> NDArray[np.integer]:
    """Cluster the rows of the leading left singular vectors of D^{−1/2} B, with D the degrees B Bᵀ 1 (Ng et al. 2001).

    They are the leading eigenvectors of the normalised co-associations D^{−1/2} B Bᵀ D^{−1/2}. Equal rows of B count
    as one, with the root of their number as a factor: this leaves the directions of the vectors' rows as they are.
    """
    different, inverse, counts = np.unique(labels, axis=1, return_inverse=True, return_counts=True)
    if n_clusters >= len(counts):
        return np.asarray(inverse)
    one_hot = _one_hot(different).astype(np.float64)
    degrees = one_hot @ (counts @ one_hot)
    scaled = diags_array((counts / degrees) ** 0.5) @ one_hot
    operator = aslinearoperator(scaled)
    n_vectors = min(n_clusters, min(scaled.shape) - 1)
    # svds would not seed what is drawn after a breakdown, as where no two different rows share a cluster
    vectors = eigsh(operator @ operator.T, n_vectors, rng=np.random.default_rng(random_state))[1]
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    kmeans = KMeans(n_clusters, n_init=N_STARTS, random_state=random_state)
    return np.asarray(kmeans.fit(vectors / lengths, sample_weight=counts).labels_)[inverse]
