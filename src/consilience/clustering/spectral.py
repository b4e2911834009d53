"""Eigenvectors of a graph's normalized Laplacian, and clusters from them.

With adjacency A, degrees d and D = diag d, the k smallest eigenvalues of L = I − D^{-1/2} A D^{-1/2} and their
eigenvectors u relax the minimal n-cut; ``y = D^{-1/2} u`` are the units' coordinates, in which k-means finds the
clusters (Shi and Malik 2000; von Luxburg 2007, "A tutorial on spectral clustering", section 5).

A is never built: products with the blocks of weights between groups of nodes are an order of magnitude faster than with
a sparse matrix. Every connected part is solved by itself, as one iteration cannot separate the equal eigenvectors of
several parts.

Axis legend: ``m`` nodes, ``k`` eigenvectors, clusters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import LinearOperator, eigsh

from consilience import seeds
from consilience.clustering.kmeans import kmeans_labels
from consilience.errors import InputError
from consilience.ties import descending, first_largest

FloatArray = NDArray[np.float64]
Block = tuple[slice, slice, FloatArray]  # nodes, nodes, and the weights of edges between them, 0 or more

DENSE = 300  # nodes up to which all eigenvectors at once are faster than a few by iteration
N_STARTS = 10  # of k-means, as published
EQUAL = 1e-9  # eigenvalues that differ by less are equal: equal parts of a graph have equal ones
NEGLIGIBLE = 1e-20  # weights that only decay acts on, as those of constant pixels, shrink to this in training


@dataclass(frozen=True)
class Spectrum:
    """The smallest eigenvalues of a normalized Laplacian, with their eigenvectors."""

    values: FloatArray  # (k,) ascending, from 0; no more than 2
    vectors: FloatArray  # (m, k) orthonormal; 0 for nodes without an edge
    degree: FloatArray  # (m,)

    @property
    def coordinates(self) -> FloatArray:
        """``D^{-1/2} u``: (m, k); 0 for nodes without an edge."""
        return self.vectors * _inverse_root(self.degree)[:, None]


def degrees(n_nodes: int, blocks: Sequence[Block]) -> FloatArray:
    """Return each node's sum of edge weights, (m,); an edge from a node to itself counts twice.

    A degree below `NEGLIGIBLE` of the largest is 0, and the node has no edge: coordinates divide by its root, and would
    be dominated by rounding errors.
    """
    total = np.zeros(n_nodes)
    for first, second, weights in blocks:
        total[first] += weights.sum(1)
        total[second] += weights.sum(0)
    total[total < NEGLIGIBLE * total.max(initial=0.0)] = 0
    return total


def adjacency(n_nodes: int, blocks: Sequence[Block]) -> sp.csr_array:
    """Return the symmetric matrix of edge weights, (m, m); weights of edges between the same nodes add up."""
    parts = [(first.start, second.start, sp.coo_array(weights)) for first, second, weights in blocks]
    rows = np.concatenate([part.row + start for start, _, part in parts])
    columns = np.concatenate([part.col + start for _, start, part in parts])
    half = sp.coo_array((np.concatenate([part.data for *_, part in parts]), (rows, columns)), shape=(n_nodes, n_nodes))
    return (half + half.T).tocsr()


def spectrum(blocks: Sequence[Block], degree: FloatArray, k: int) -> Spectrum:
    """Return the k smallest eigenvalues of the normalized Laplacian and their eigenvectors, to machine precision.

    Blocks between the same nodes add up; ``degree`` (m,) is from `degrees`. Where an eigenvalue is repeated, the
    eigenvectors are some orthonormal basis; the choice is the same every time.
    """
    n_nodes, n_connected = len(degree), int((degree > 0).sum())
    if not 1 <= k <= n_connected:
        raise InputError(f"number of clusters must be from 1 to {n_connected}, the nodes with an edge, got {k}")
    root = _inverse_root(degree)
    scaled = [(first, second, root[first, None] * w * root[second]) for first, second, w in blocks]
    if _in_one_piece(degree, scaled):
        nodes = np.flatnonzero(degree)
        pieces = [(nodes, *_largest(_operator(scaled, nodes, n_nodes), np.sqrt(degree[nodes]), k))]
    else:
        matrix = adjacency(n_nodes, scaled)
        _, component = connected_components(matrix, directed=False)
        component[degree == 0] = -1
        pieces = []
        for part in np.unique(component[component >= 0]):
            nodes = np.flatnonzero(component == part)
            pieces.append((nodes, *_largest(matrix[nodes][:, nodes], np.sqrt(degree[nodes]), min(k, len(nodes)))))
    values = np.concatenate([eigenvalues for _, eigenvalues, _ in pieces])
    order = descending(values, EQUAL)[:k]
    eigenvectors = [(nodes, vector) for nodes, _, columns in pieces for vector in columns.T]
    vectors = np.zeros((n_nodes, k))
    for column, which in enumerate(order):
        nodes, vector = eigenvectors[which]
        vectors[nodes, column] = vector
    return Spectrum(np.clip(1 - values[order], 0, 2), _with_largest_positive(vectors), degree)


def clusters_of(eigen: Spectrum, random_state: int) -> NDArray[np.int64]:
    """Return k-means clusters (m,) of the nodes by their spectral coordinates, numbered by first nodes; −1: no edge."""
    connected = eigen.degree > 0
    labels = np.full(len(eigen.degree), -1)
    labels[connected] = kmeans_labels(eigen.coordinates[connected], len(eigen.values), N_STARTS, random_state)
    return labels


def n_cut(blocks: Sequence[Block], degree: FloatArray, labels: NDArray[np.int64]) -> float:
    """Return Σ_c cut(c) / vol(c), between 0 and the number of clusters (Shi and Malik 2000).

    ``cut`` is the weight of edges that leave a cluster, ``vol`` the sum of its nodes' degrees. Nodes of label −1 and
    clusters without an edge are left out.
    """
    taking = labels >= 0
    k = int(labels.max()) + 1
    volume = np.bincount(labels[taking], degree[taking], minlength=k)
    inside = np.zeros(k)
    for first, second, weights in blocks:
        of, to = np.eye(k + 1)[labels[first], :k], np.eye(k + 1)[labels[second], :k]
        inside += 2 * np.einsum("ik,ik->k", of, weights @ to)
    used = volume > 0
    return float((1 - inside[used] / volume[used]).sum())


def _inverse_root(degree: FloatArray) -> FloatArray:
    return np.divide(1, np.sqrt(degree), out=np.zeros_like(degree), where=degree > 0)


def _in_one_piece(degree: FloatArray, blocks: Sequence[Block]) -> bool:
    reached = np.zeros_like(degree)
    reached[np.argmax(degree > 0)] = 1
    count = 0
    while count < (count := int(reached.sum())):
        reached = ((reached + _times(blocks, reached[:, None])[:, 0]) > 0).astype(np.float64)
    return count == int((degree > 0).sum())


def _times(blocks: Sequence[Block], x: FloatArray) -> FloatArray:
    """The product of the symmetric matrix of these blocks with x (m, c)."""
    product = np.zeros_like(x)
    for first, second, weights in blocks:
        product[first] += weights @ x[second]
        product[second] += weights.T @ x[first]
    return product


def _operator(blocks: Sequence[Block], nodes: NDArray[np.int64], n_nodes: int) -> LinearOperator:
    """The matrix of these blocks on some nodes, which have all the edges."""

    def times(x: FloatArray) -> FloatArray:
        whole = np.zeros((n_nodes, 1 if x.ndim == 1 else x.shape[1]))
        whole[nodes] = x.reshape(len(nodes), -1)
        return _times(blocks, whole)[nodes].reshape(x.shape)

    return LinearOperator((len(nodes), len(nodes)), matvec=times, matmat=times, dtype=np.float64)


def _largest(matrix: LinearOperator | sp.csr_array, top: FloatArray, k: int) -> tuple[FloatArray, FloatArray]:
    """The k largest eigenvalues (k,) and eigenvectors (m, k) of the normalized adjacency of one connected part.

    The first is 1, and its eigenvector is ``top`` = √d. For the others it is put below all of them, at −2.
    """
    m, top = len(top), top / np.linalg.norm(top)
    if k == 1:
        return np.ones(1), top[:, None]
    if m <= DENSE or k >= m - 1:
        dense = matrix @ np.eye(m)
        values, vectors = eigh(dense - 3 * np.outer(top, top), subset_by_index=[m - k + 1, m - 1])
    else:
        rest = LinearOperator((m, m), matvec=lambda x: matrix @ x - 3 * top * (top @ x), dtype=np.float64)
        v0 = seeds.numpy_generator(0).normal(size=m)
        values, vectors = eigsh(rest, k=k - 1, which="LA", v0=v0, rng=seeds.numpy_generator(0))
    return np.concatenate([np.ones(1), values[::-1]]), np.column_stack([top, vectors[:, ::-1]])


def _with_largest_positive(vectors: FloatArray) -> FloatArray:
    largest = first_largest(torch.from_numpy(np.abs(vectors)), 0).numpy()
    signed: FloatArray = vectors * np.sign(vectors[largest, np.arange(vectors.shape[1])])
    return signed
