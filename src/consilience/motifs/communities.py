"""Communities of a graph, nested as a tree: connected parts, then halves of small n-cut, as long as there are any.

The n-cut of two halves is ``cut/vol_1 + cut/vol_2`` (Shi and Malik 2000); see `consilience.clustering.spectral`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from consilience.clustering.spectral import clusters_of, degrees, n_cut, spectrum

Nodes = NDArray[np.int64]
LARGEST_CUT = 0.5  # of halves that are communities: on average a quarter of each half's weight leaves it
LEAST_NODES = 3  # of a half


@dataclass(frozen=True, eq=False)
class Community:
    """Nodes that belong together."""

    nodes: Nodes  # ascending
    parent: int | None  # its number in the tree
    cut: float | None  # n-cut of its two halves, where they are communities too


def communities(weights: NDArray[np.float64], random_state: int = 0) -> list[Community]:
    """Return the communities of a graph with weights (m, m), each entry ≥ 0 one edge, parents before children.

    Nodes without an edge are in none. Roots are the connected parts, the largest first.

    >>> edges = np.zeros((5, 5))
    >>> edges[0, 1] = edges[1, 2] = edges[3, 4] = 1
    >>> [community.nodes.tolist() for community in communities(edges)]
    [[0, 1, 2], [3, 4]]
    """
    _, part = connected_components(csr_array(weights), directed=False)
    roots = [np.flatnonzero(part == number) for number in range(part.max(initial=-1) + 1)]
    roots = sorted((nodes for nodes in roots if len(nodes) > 1), key=lambda nodes: (-len(nodes), int(nodes[0])))
    tree: list[Community] = []
    for nodes in roots:
        _grow(tree, nodes, None, weights, random_state)
    return tree


def _grow(tree: list[Community], nodes: Nodes, parent: int | None, weights: NDArray[np.float64], seed: int) -> None:
    cut, halves = _halves(weights[np.ix_(nodes, nodes)], seed)
    splits = cut <= LARGEST_CUT and min(map(len, halves)) >= LEAST_NODES
    number = len(tree)
    tree.append(Community(nodes, parent, cut if splits else None))
    for half in halves if splits else ():
        _grow(tree, nodes[half], number, weights, seed)


def _halves(weights: NDArray[np.float64], seed: int) -> tuple[float, list[Nodes]]:
    """The n-cut of the best two halves, and these, that of the first node first."""
    m = len(weights)
    if m < 2 * LEAST_NODES:
        return np.inf, [np.arange(m)]
    blocks = [(slice(0, m), slice(0, m), weights)]
    degree = degrees(m, blocks)
    labels = clusters_of(spectrum(blocks, degree, 2), seed)
    return n_cut(blocks, degree, labels), [np.flatnonzero(labels == half) for half in (0, 1)]
