"""Similarity of clusterings of the same samples, from contingency tables, never from pairs of samples.

With N_ab samples in cluster a of one clustering and b of another, A_a and B_b in each, n in all:

- pairs of samples together in both: Σ N² − n, of n² − n ordered ones (Rand index, adjusted Rand index);
- variation of information: Σ (N/n) (log A/N + log B/N), which is H(a|b) + H(b|a), in nats;
- adjusted mutual information: 1 − VI / (H_a + H_b − 2 E[MI]), the arithmetic mean of entropies as the normalizer.

In these forms clusterings that are equal up to the names of their clusters give 1, 1, 0 and 1 exactly.

Axis legend: ``m`` clusterings, ``p`` others they are compared with, ``n`` samples, ``c`` clusters of all clusterings,
one clustering after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from consilience.checks import as_array, describe
from consilience.errors import InputError

Array = NDArray[np.float64]
Counts = NDArray[np.int64]
Labels = Sequence[ArrayLike] | NDArray[np.integer]
AT_ONCE = 2**17  # samples of clusterings that are counted at once: small enough for the cache
SPARSE = 4  # entries of the tables to one sample, above which sorting is faster than counting in full tables


@dataclass(frozen=True)
class Partitions:
    """Clusterings of the same samples."""

    clusters: Counts  # (m, n) the cluster of each sample, numbered through all clusterings
    first: Counts  # (m + 1,) number of each clustering's first cluster
    sizes: Counts  # (c,) samples in each cluster

    @classmethod
    def of(cls, labels: Labels, where: str) -> Partitions:
        """Return labels (m, n) as partitions; any ints are names of clusters, −1 too."""
        rows = (
            [as_array(row, f"{where}[{k}]") for k, row in enumerate(labels)]
            if np.iterable(labels) and not isinstance(labels, str | bytes)
            else []
        )
        if not rows:
            raise InputError(f"{where} must be labels (m, n) of at least one clustering, got none")
        for k, row in enumerate(rows):
            if row.dtype.kind not in "iu" or row.ndim != 1:
                raise InputError(f"{where}[{k}] must be ints (n,), got {describe(row)}")
            if len(row) != len(rows[0]):
                wanted = f"{len(rows[0])} samples, as {where}[0]"
                cure = "cluster the same samples everywhere"
                raise InputError(f"{where}[{k}] must have {wanted}, got {len(row)}", cure=cure)
        if len(rows[0]) < 2:
            raise InputError(f"{where} must have at least 2 samples, got {len(rows[0])}")
        numbers = [np.unique(row, return_inverse=True)[1] for row in rows]
        first = np.cumsum([0, *(int(row.max()) + 1 for row in numbers)])
        clusters = np.stack(numbers) + first[:-1, None]
        return cls(clusters, first, np.bincount(clusters.ravel()))

    def __len__(self) -> int:
        return len(self.clusters)

    @property
    def n_samples(self) -> int:
        """Number of samples."""
        return int(self.clusters.shape[1])

    @property
    def owner(self) -> Counts:
        """The clustering that has each cluster (c,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.first))

    def summed(self, terms: NDArray[np.number]) -> Array:
        """Return the sums over the clusters of each clustering of terms (c,): (m,)."""
        sums: Array = np.bincount(self.owner, weights=terms).astype(np.float64, copy=False)
        return sums

    @property
    def entropy(self) -> Array:
        """In nats (m,)."""
        n = self.n_samples
        return self.summed(self.sizes / n * np.log(n / self.sizes))


def rand(ours: Partitions, theirs: Partitions | None = None) -> Array:
    """Rand index (Rand 1971): share of the pairs of samples that are together in both, or apart in both.

    Of m clusterings with p others, (m, p), or with each other, (m, m); in [0, 1].
    """
    both, first, second, neither = _pairs(ours, theirs)
    return (both + neither) / (both + first + second + neither)


def adjusted_rand(ours: Partitions, theirs: Partitions | None = None) -> Array:
    """Rand index corrected for chance (Hubert & Arabie 1985), as `sklearn.metrics.adjusted_rand_score`.

    1 for equal clusterings, whatever they are; 0 on average for shuffled ones; at least −1/2 (Chacón & Rastrojo 2023).
    Shapes as `rand`.
    """
    both, first, second, neither = _pairs(ours, theirs)
    above = 2 * (both * neither - first * second)
    below = (both + first) * (first + neither) + (both + second) * (second + neither)
    return np.divide(above, below, out=np.ones_like(above), where=(first > 0) | (second > 0))


def variation_of_information(ours: Partitions, theirs: Partitions | None = None) -> Array:
    """Variation of information (Meilă 2007): a metric, in nats, at most log n; shapes as `rand`."""
    n = ours.n_samples
    return _over_cells(ours, theirs, lambda both, a, b: both / n * (np.log(a / both) + np.log(b / both)))


def adjusted_mutual_information(ours: Partitions, theirs: Partitions | None = None) -> Array:
    """Mutual information corrected for chance (Vinh et al. 2010), as `sklearn.metrics.adjusted_mutual_info_score`.

    (MI − E[MI]) / ((H_a + H_b)/2 − E[MI]) with MI = (H_a + H_b − VI)/2. 1 for equal clusterings, whatever they are;
    0 where one of two different ones has a single cluster. Shapes as `rand`.
    """
    apart = variation_of_information(ours, theirs)
    theirs = ours if theirs is None else theirs
    room = ours.entropy[:, None] + theirs.entropy - 2 * _expected_information(ours, theirs)
    return 1 - np.divide(apart, room, out=np.zeros_like(apart), where=apart > 0)


def _pairs(ours: Partitions, theirs: Partitions | None) -> tuple[Array, Array, Array, Array]:
    """Ordered pairs of samples that are together in both, in the first or the second alone, in neither: (m, p) each."""
    n = ours.n_samples
    squares = _over_cells(ours, theirs, lambda both, a, b: np.square(both))
    theirs = ours if theirs is None else theirs
    first = ours.summed(np.square(ours.sizes))[:, None] - squares
    second = theirs.summed(np.square(theirs.sizes)) - squares
    return squares - n, first, second, float(n) ** 2 - squares - first - second


def _over_cells(
    ours: Partitions, theirs: Partitions | None, term: Callable[[Counts, Counts, Counts], NDArray[np.number]]
) -> Array:
    """Sums over the cells, not empty, of the table of each pair (m, p): term(N, A, B) of the counts that meet in one.

    One of ours against a block of theirs at a time, so that memory does not grow with the number of pairs.
    """
    within = theirs is None
    theirs = ours if theirs is None else theirs
    sums = np.empty((len(ours), len(theirs)))
    owner, block = theirs.owner, max(1, AT_ONCE // ours.n_samples)
    for i in range(len(ours)):
        sizes = ours.sizes[ours.first[i] : ours.first[i + 1]]
        for start in range(i if within else 0, len(theirs), block):
            stop = min(start + block, len(theirs))
            low, high = theirs.first[[start, stop]]
            cell = (theirs.clusters[start:stop] - low) * len(sizes) + (ours.clusters[i] - ours.first[i])
            used, both = _counted(cell, int(high - low) * len(sizes))
            b, a = np.divmod(used, len(sizes))
            terms = term(both, sizes[a], theirs.sizes[low + b])
            sums[i, start:stop] = np.bincount(owner[low + b] - start, weights=terms)
            if within:
                sums[start:stop, i] = sums[i, start:stop]
    return sums


def _counted(cell: Counts, n_cells: int) -> tuple[Counts, Counts]:
    if n_cells > SPARSE * cell.size:
        return np.unique(cell, return_counts=True)
    counts = np.bincount(cell.ravel(), minlength=n_cells)
    used = np.flatnonzero(counts)
    return used, counts[used]


def _expected_information(ours: Partitions, theirs: Partitions) -> Array:
    """E[MI] (m, p) over all ways to give the samples to clusters of these sizes (Vinh et al. 2010, equation 24a).

    It is Σ_ab f(A_a, B_b), and sizes recur: f once for each pair of sizes, then one product with the counts of sizes.
    """
    sizes, which = np.unique(np.concatenate([ours.sizes, theirs.sizes]), return_inverse=True)
    counts = np.zeros((len(ours) + len(theirs), len(sizes)))
    np.add.at(counts, (np.concatenate([ours.owner, len(ours) + theirs.owner]), which), 1)
    expected: Array = counts[: len(ours)] @ _expected_terms(sizes, ours.n_samples) @ counts[len(ours) :].T
    return (expected + expected.T) / 2 if ours is theirs else expected  # symmetric to the last digit


def _expected_terms(sizes: Counts, n: int) -> Array:
    """f(A, B) = Σ_k (k/n) log(n k / (A B)) P(k), P hypergeometric, for each pair of ascending sizes (s,): (s, s)."""
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    terms = np.empty((len(sizes), len(sizes)))
    for i, a in enumerate(sizes):
        b = sizes[i:, None]
        k = np.arange(1, a + 1)
        rest = n - a - b + k
        of_sizes = log_factorial[a] + log_factorial[n - a] - log_factorial[n] + log_factorial[b] + log_factorial[n - b]
        of_cells = log_factorial[k] + log_factorial[a - k] + log_factorial[b - k] + log_factorial[np.maximum(rest, 0)]
        chance = np.where(rest >= 0, np.exp(of_sizes - of_cells), 0)
        terms[i, i:] = terms[i:, i] = (k / n * np.log(n * k / (a * b)) * chance).sum(1)
    return terms
