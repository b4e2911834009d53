"""A tree of clusters that grows: new points become leaves of it, put where the linkage would have put them.

With d(v, C) the linkage's distance of a new point v and cluster C (`LINKAGES`), found for all nodes of the tree from
the point's distances to the leaves by the linkage's own recurrence (Lance and Williams 1967):

- *Where*: agglomeration merges v with the first cluster C that is nearer to it than to the cluster it merges with next,
  ``argmin_C max(d(v, C), height(C))`` over the C with ``d(v, C) ≤ height(parent of C)``. v and C get a parent of their
  own at that height. For one point and a tree that has not grown before this is exact: up to there, a fresh tree over
  all points is the old one.
- *What follows*: the clusters above have gained a point. Their heights become what the linkage gives them as they are
  now, but at least that of their children. Which clusters they merge with stays: here a fresh tree may differ.
- *In what order*: the points nearest to the old tree first, however they are numbered.

So no old point changes place among the old points: those in a cluster of the new tree, at any cut, were all the points
below some node of the old one. But heights change, and with them which merges a cut at a given number undoes.

Axis legend: ``m`` leaves of the old tree, ``V`` new points, ``U`` all points, ``d`` coordinates of a point.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array

from consilience.clustering.clusterers import Clustering
from consilience.clustering.distances import Points, squared_rounding
from consilience.clustering.tree import Tree

Floats = NDArray[np.float64]

# d(i ∪ j, k) from d(i, k), d(j, k), d(i, j) and the three sizes
Recurrence = Callable[[Floats, Floats, Floats, float, float, float], Floats]


def _ward(ik: Floats, jk: Floats, ij: Floats, n_i: float, n_j: float, n_k: float) -> Floats:
    """``((n_i + n_k) d_ik + (n_j + n_k) d_jk − n_k d_ij) / (n_i + n_j + n_k)``, d squared (as in SciPy)."""
    result: Floats = np.maximum(((n_i + n_k) * ik + (n_j + n_k) * jk - n_k * ij) / (n_i + n_j + n_k), 0)
    return result


def _average(ik: Floats, jk: Floats, ij: Floats, n_i: float, n_j: float, n_k: float) -> Floats:
    """``(n_i d_ik + n_j d_jk) / (n_i + n_j)``."""
    return (n_i * ik + n_j * jk) / (n_i + n_j)


@dataclass(frozen=True)
class Linkage:
    """How far apart clusters are: ``height = d^(1/power)``, d by a recurrence from ``‖p − q‖^power`` between leaves."""

    power: int
    union: Recurrence


WARD = Linkage(2, _ward)
LINKAGES: Mapping[str, Linkage] = {"ward": WARD, "average": Linkage(1, _average), "two-stage": WARD}


def grow(clustering: Clustering, points: Points, clusterer: str) -> Clustering:
    """Return the tree of the first points (U, d) with the other points put into it, each as a leaf of its own.

    A leaf of several points, as of the two-stage clusterer, is their mean.
    """
    assert clustering.tree is not None
    linkage, n_old, m = LINKAGES[clusterer], len(clustering.labels), clustering.n_leaves
    coordinates, floor = points.coordinates.astype(np.float64), squared_rounding(points.coordinates)
    leaves, new = _leaf_points(coordinates[:n_old], clustering.labels, points.projective), coordinates[n_old:]
    tree = _Tree(
        clustering.tree.to_linkage(),
        _apart(leaves, new, points.projective, floor) ** linkage.power,
        _apart(new, new, points.projective, floor) ** linkage.power,
        linkage,
    )
    for v in np.argsort(tree.places()[1], kind="stable"):
        tree.insert(int(v))
    return Clustering(Tree.from_linkage(tree.merges()), np.concatenate([clustering.labels, m + np.arange(len(new))]))


def _leaf_points(x: Floats, leaf: NDArray[np.int64], projective: bool) -> Floats:
    """Mean point of each leaf, in the sign of its first point if signs are free: (m, d)."""
    first = np.unique(leaf, return_index=True)[1]
    turned = (x * x[first][leaf]).sum(1) < 0 if projective else np.zeros(len(x), dtype=bool)
    total: Floats = coo_array((np.where(turned, -1.0, 1.0), (leaf, np.arange(len(x))))) @ x
    return total / np.bincount(leaf)[:, None]


def _apart(p: Floats, q: Floats, projective: bool, floor: float) -> Floats:
    """Distances (P, Q) of points (P, d) and (Q, d), as `Points.distances` has them."""
    along = np.abs(p @ q.T) if projective else p @ q.T
    squared = np.square(p).sum(1)[:, None] + np.square(q).sum(1) - 2 * along
    distances: Floats = np.sqrt(np.where(squared < floor, 0, squared))
    return distances


class _Tree:
    """A tree that grows. Nodes: the m old leaves, V new ones, then merges in the order in which they were made.

    It starts from SciPy's merges (m − 1, 4), distances between leaves (m, V), (V, V), and their linkage.
    """

    def __init__(self, merges: Floats, to_old: Floats, to_new: Floats, linkage: Linkage) -> None:
        self.m, self.n_new = to_old.shape
        n_leaves = self.m + self.n_new
        n_nodes = 2 * n_leaves - 1
        self.linkage, self.to_new = linkage, to_new
        self.next: int = n_leaves  # number of the next merge
        self.parent, self.children = np.full(n_nodes, -1), np.full((n_nodes, 2), -1)  # −1 where there is none
        self.size = np.zeros(n_nodes)  # leaves below; 0 for a node that is not in the tree yet
        self.distance = np.zeros(n_nodes)  # of a node's children, to the linkage's power
        self.height = np.zeros(n_nodes)  # the same, but at least that of the children
        self.joins = np.zeros((n_nodes, self.n_new))  # distance of each node and each new leaf
        self.size[: self.m], self.joins[: self.m] = 1, to_old
        pairs = merges[:, :2].astype(np.int64)
        pairs[pairs >= self.m] += self.n_new  # room for the new leaves
        for (a, b), height in zip(pairs.tolist(), merges[:, 2].tolist(), strict=True):
            self._merge(a, b, height**linkage.power)

    def _merge(self, a: int, b: int, distance: float) -> int:
        node = self.next
        self.next += 1
        self.children[node], self.parent[a], self.parent[b] = (a, b), node, node
        self.size[node] = self.size[a] + self.size[b]
        self.distance[node], self.height[node] = distance, max(distance, self.height[a], self.height[b])
        to_a, to_b = self.joins[a], self.joins[b]
        self.joins[node] = self.linkage.union(to_a, to_b, self.distance[node], self.size[a], self.size[b], 1)
        return node

    def places(self, new: slice | NDArray[np.int64] = slice(None)) -> tuple[NDArray[np.int64], Floats]:
        """Return where agglomeration would put new leaves: beside which nodes (V,), at what heights (V,)."""
        joins, limit = self.joins[:, new], np.where(self.parent >= 0, self.height[self.parent], np.inf)
        possible = (joins <= limit[:, None]) & (self.size > 0)[:, None]
        heights = np.where(possible, np.maximum(joins, self.height[:, None]), np.inf)
        return heights.argmin(0), heights.min(0)

    def insert(self, v: int) -> None:
        """Put new leaf v into its place, and let the nodes above have gained it."""
        (place,), _ = self.places(np.array([v]))
        above, leaf, joins = int(self.parent[place]), self.m + v, self.joins[:, v].copy()
        self.size[leaf], self.joins[leaf] = 1, self.to_new[v]
        node = self._merge(int(place), leaf, float(joins[place]))
        self.parent[node] = above
        child, was = node, int(place)  # of `above`: now, and what it was without v
        while above >= 0:
            first, second = self.children[above]
            beside = int(second) if first in (child, was) else int(first)
            self.children[above] = child, beside
            n_child, n_above = self.size[child] - 1, self.size[above]
            distance = self.distance[above], joins[beside], joins[was]
            self.distance[above] = self.linkage.union(*distance, n_child, 1, self.size[beside])
            self.height[above] = max(self.distance[above], self.height[child], self.height[beside])
            self.joins[above] = self.linkage.union(self.joins[above], self.to_new[v], joins[above], n_above, 1, 1)
            self.size[above] += 1
            child, was, above = above, above, int(self.parent[above])

    def merges(self) -> Floats:
        """Return SciPy's linkage matrix, lowest merge first."""
        n_leaves = self.m + self.n_new
        nodes = np.arange(n_leaves, self.next)
        order = nodes[np.lexsort((self.size[nodes], self.height[nodes]))]  # a child is smaller than its parent
        number = np.arange(self.next)
        number[order] = nodes
        pairs = np.sort(number[self.children[order]], axis=1)
        return np.column_stack([pairs, self.height[order] ** (1 / self.linkage.power), self.size[order]])
