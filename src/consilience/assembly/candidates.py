"""The candidate clusters of a layer: those at every height of the census's tree.

Axis legend: ``r`` samples, ``U`` units of all members, ``v`` candidates, ``c`` clusters of a cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from consilience.bases.grounding import SMALLEST, Groups
from consilience.census.layer_census import LayerCensus
from consilience.clustering.clusters import Clusters
from consilience.clustering.distances import unit_norm
from consilience.clustering.tree import Tree
from consilience.units.symmetry import Symmetry

MAX_CANDIDATES = 8192  # of a layer; the highest nodes of a larger tree


@dataclass(frozen=True)
class Candidates:
    """Clusters to choose from, the highest merge first."""

    values: Tensor  # (v, r) pre-activations of the centroids
    leaves: NDArray[np.int64]  # (U,) leaf of each unit of the layer, −1 for dead ones
    tree: Tree  # over the leaves; without merges if the clustering is flat
    nodes: NDArray[np.int64]  # (v,) nodes of the tree
    cut: list[int]  # (c,) the candidates that are the clusters of the census's own cut
    kept: list[int]  # the candidates that are leaves asked for, without repetition

    def groups(self, picked: Sequence[int]) -> Groups:
        """Return the units of some candidates."""
        tree = self.tree
        below = (tree.leaves(v) if v >= tree.n_leaves else np.array([v]) for v in self.nodes[picked])
        return Groups.of_sets([np.flatnonzero(np.isin(self.leaves, leaves)) for leaves in below])


def candidate_clusters(
    layer: LayerCensus, cut: Clusters, units: Tensor, symmetry: Symmetry, own: NDArray[np.int64]
) -> Candidates:
    """Return the highest nodes of a layer's tree (of a flat clustering, its clusters), and the clusters of a cut.

    ``units`` (U, r) are pre-activations, ``own`` live units whose leaves are among the candidates in any case.
    """
    live, leaf, n_leaves = np.flatnonzero(layer.alive), layer.clustering.labels, layer.clustering.n_leaves
    tree = layer.clustering.tree or Tree(np.empty((0, 2), dtype=np.int64), np.empty(0), n_leaves)
    leaves = np.full(len(layer.alive), -1)
    leaves[live] = leaf
    nodes = _nodes_of(cut, leaves, tree)
    own_leaves = leaves[own][np.sort(np.unique(leaves[own], return_index=True)[1])]
    kept = np.union1d(np.arange(tree.n_nodes)[-MAX_CANDIDATES:], np.union1d(nodes, own_leaves))[::-1].copy()
    place = np.empty(tree.n_nodes, dtype=np.int64)
    place[kept] = np.arange(len(kept))
    values = torch.from_numpy(_centroids(units[live], leaf, tree, symmetry)[kept])
    if symmetry.homogeneous:
        values = unit_norm(values)
    return Candidates(values, leaves, tree, kept, place[nodes].tolist(), place[own_leaves].tolist())


def _centroids(points: Tensor, leaf: NDArray[np.int64], tree: Tree, symmetry: Symmetry) -> NDArray[np.floating]:
    """The mean point of each node of a tree (v, r), from points (V, r); each merge turns its second child if need be.

    Units that may be rescaled are at unit norm.
    """
    x: NDArray[np.floating] = (unit_norm(points) if symmetry.homogeneous else points).numpy()

    def union(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.floating]:
        if symmetry.flippable and a @ b < -SMALLEST * np.sqrt((a @ a) * (b @ b)):  # not those at right angles
            return a - b
        return a + b

    first = np.unique(leaf, return_index=True)[1]
    sums = x[first]
    for row in np.setdiff1d(np.arange(len(x)), first):  # of leaves with several points
        sums[leaf[row]] = union(sums[leaf[row]], x[row])
    sizes = tree.accumulate(np.bincount(leaf, minlength=tree.n_leaves))
    means: NDArray[np.floating] = tree.accumulate(sums, union) / sizes[:, None].astype(x.dtype)
    return means


def _nodes_of(clusters: Clusters, leaves: NDArray[np.int64], tree: Tree) -> NDArray[np.int64]:
    """The highest node of the tree whose leaves are all in a cluster, for each cluster: (c,)."""
    labels = np.full(tree.n_leaves, -1)
    labels[leaves[leaves >= 0]] = clusters.labels[leaves >= 0]
    label = tree.accumulate(labels, lambda a, b: a if a == b else -1)
    nodes = np.zeros(len(clusters), dtype=np.int64)
    nodes[label[label >= 0]] = np.flatnonzero(label >= 0)  # of several, the last: the highest
    return nodes
