"""A binary tree of merges: cut it, list the leaves below its nodes, carry values from the leaves up.

Nodes are numbered as in SciPy: leaves ``0 … m − 1``, then merges ``m … 2m − 2`` from the lowest to the highest.

Axis legend: ``m`` leaves, ``v`` nodes.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consilience.checks import check_count

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Tree:
    """Merges of ``m`` leaves, two nodes at a time.

    >>> tree = Tree.from_linkage([[0, 1, 0.5, 2], [2, 3, 2.0, 3]])
    >>> tree.cut(2), tree.cut_at(0.1), tree.leaves(3)
    (array([0, 0, 1]), array([0, 1, 2]), array([0, 1]))
    >>> tree.accumulate(np.array([1.0, 2.0, 4.0]))
    array([1., 2., 4., 3., 7.])
    """

    children: Indices  # (m − 1, 2) the two nodes that each merge joins
    heights: NDArray[np.float64]  # (m − 1,) height of each merge, ascending
    n_leaves: int  # m

    @classmethod
    def from_linkage(cls, merges: Any) -> Tree:
        """Return the tree of SciPy's linkage matrix (m − 1, 4)."""
        matrix = np.asarray(merges, dtype=np.float64).reshape(-1, 4)
        return cls(matrix[:, :2].astype(np.int64), matrix[:, 2].copy(), len(matrix) + 1)

    def to_linkage(self) -> NDArray[np.float64]:
        """Return SciPy's linkage matrix (m − 1, 4)."""
        return np.column_stack([self.children, self.heights, self.sizes[self.n_leaves :]]).astype(np.float64)

    @property
    def n_nodes(self) -> int:
        """Leaves and merges: 2m − 1."""
        return self.n_leaves + len(self.children)

    def merges(self) -> Iterator[tuple[int, int, int]]:
        """Yield each merge, the lowest first: its node and the two nodes that it joins."""
        for node, (first, second) in enumerate(self.children.tolist(), self.n_leaves):
            yield node, first, second

    def accumulate(self, values: NDArray[Any], rule: Callable[[Any, Any], Any] = operator.add) -> NDArray[Any]:
        """Return values of all nodes (v, …) from the leaves' (m, …); a merge has rule(first child, second child)."""
        result = np.empty((self.n_nodes, *values.shape[1:]), dtype=values.dtype)
        result[: self.n_leaves] = values
        for node, first, second in self.merges():
            result[node] = rule(result[first], result[second])
        return result

    @cached_property
    def sizes(self) -> Indices:
        """Number of leaves below each node (v,); 1 for a leaf."""
        return self.accumulate(np.ones(self.n_leaves, dtype=np.int64))

    def leaf_order(self, swapped: NDArray[np.bool_] | None = None) -> Indices:
        """Return the leaves (m,) from left to right, in which those below any node are neighbors.

        ``swapped`` (m − 1,) has merges whose second child is on the left; by default none, as SciPy's ``leaves_list``.
        """
        order = np.empty(self.n_leaves, dtype=np.int64)
        order[self._starts(swapped)[: self.n_leaves]] = np.arange(self.n_leaves)
        return order

    def leaves(self, node: int) -> Indices:
        """Return the leaves below a node, ascending; a leaf is below itself."""
        start = self._spans[1][node]
        return np.sort(self._spans[0][start : start + self.sizes[node]])

    def roots(self, n_merges: int) -> Indices:
        """Return the nodes that are left, each a cluster, after the lowest ``n_merges`` merges; ascending."""
        return np.setdiff1d(np.arange(self.n_leaves + n_merges), self.children[:n_merges])

    def n_merges_below(self, height: float) -> int:
        """Return the number of merges at or below a height."""
        return int(np.searchsorted(self.heights, height, side="right"))

    def cut(self, n_clusters: int) -> Indices:
        """Return the labels (m,) of this many clusters, numbered by their first leaves.

        Merges of equal height are undone one by one, so that there are exactly this many clusters.
        """
        check_count("n_clusters", n_clusters, most=self.n_leaves, cure="ask for fewer clusters, or give more points")
        return self._labels(self.n_leaves - n_clusters)

    def cut_at(self, height: float) -> Indices:
        """Return the labels (m,) of the clusters that merges up to this height make, numbered by their first leaves."""
        return self._labels(self.n_merges_below(height))

    def _labels(self, n_merges: int) -> Indices:
        roots = self.roots(n_merges)
        starts, sizes = self._spans[1][roots], self.sizes[roots]
        owner = np.empty(self.n_leaves, dtype=np.int64)
        left_to_right = np.argsort(starts)
        owner[self._spans[0]] = np.repeat(left_to_right, sizes[left_to_right])
        return numbered(owner)

    @cached_property
    def _spans(self) -> tuple[Indices, Indices]:
        """The leaves from left to right (m,), and the place among them of each node's first leaf (v,)."""
        return self.leaf_order(), self._starts(None)

    def _starts(self, swapped: NDArray[np.bool_] | None) -> Indices:
        left, right = self.children.T
        if swapped is not None:
            left, right = np.where(swapped, right, left), np.where(swapped, left, right)
        sizes, starts = self.sizes, np.zeros(self.n_nodes, dtype=np.int64)
        for node in reversed(range(self.n_leaves, self.n_nodes)):
            a, b = left[node - self.n_leaves], right[node - self.n_leaves]
            starts[a], starts[b] = starts[node], starts[node] + sizes[a]
        return starts


def numbered(labels: NDArray[np.integer]) -> Indices:
    """Return labels (n,) numbered from 0 on by where they occur first.

    >>> numbered(np.array([7, 7, -1, 7, 3]))
    array([0, 0, 1, 0, 2])
    """
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].astype(np.int64)
