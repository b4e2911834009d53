"""One layer of a census."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from consilience.census.layer_units import everywhere
from consilience.checks import check_count
from consilience.clustering.clusterers import Clustering
from consilience.clustering.clusters import Clusters, count, in_order


@dataclass(frozen=True)
class LayerCensus:
    """One layer's units and clusters.

    Attributes
    ----------
    name : the layer.
    member, index : (U,) the member that has the unit, and the number of the unit in it.
    alive : (U,) whether the unit contributes to the next layer; dead units are in no cluster.
    n_members : size of the population.
    clustering : tree or labels of the live units.
    clusters : the clusters at the census's own number, in canonical order.
    centroid_ : (K, d) their hyperplanes ``[w̃; b̃]`` in the basis of the layer below.
    """

    name: str
    member: NDArray[np.int64]
    index: NDArray[np.int64]
    alive: NDArray[np.bool_]
    n_members: int
    clustering: Clustering
    clusters: Clusters
    centroid_: NDArray[np.float32]

    @property
    def labels_(self) -> NDArray[np.int64]:
        """(U,) cluster of each unit; −1 for dead units."""
        return self.clusters.labels

    @property
    def frequency_(self) -> NDArray[np.float64]:
        """(K,) share of the members that own a unit of the cluster, descending."""
        return self.clusters.frequency

    @property
    def size_(self) -> NDArray[np.int64]:
        """(K,) units in the cluster."""
        return self.clusters.size

    @property
    def stability_(self) -> NDArray[np.float64]:
        """(K,) how reliably the cluster reappears when members are resampled, 0 to 1."""
        return self.clusters.stability

    @property
    def n_clusters_(self) -> int:
        """Number of clusters at the census's own cut."""
        return len(self.clusters)

    @property
    def n_dead_(self) -> int:
        """Number of dead units."""
        return int((~self.alive).sum())

    @property
    def n_units(self) -> int:
        """Units of all members."""
        return len(self.member)

    @property
    def n_available(self) -> int:
        """Largest number of clusters: leaves of the tree (of a flat clustering, its clusters), then dead units."""
        return self.clustering.n_leaves + self.n_dead_

    def at(self, n_clusters: int) -> Clusters:
        """Return the clusters at another number, in canonical order, without clustering again.

        A tree is cut; of a flat clustering the most frequent ``n_clusters`` are kept and the other units get label −1.
        Beyond the leaves of the tree, dead units follow, each alone, in the order of members.
        """
        check_count(f"width of layer '{self.name}'", n_clusters, most=self.n_available)
        n_live = min(n_clusters, self.clustering.n_leaves)
        clusters = self._live(n_live)
        if n_clusters == n_live:
            return clusters
        labels = clusters.labels.copy()
        labels[self.dead_units(n_clusters - n_live)] = np.arange(n_live, n_clusters)
        return replace(count(labels, self.member, self.n_members), stability=_padded(clusters.stability, n_clusters))

    def dead_units(self, n_units: int) -> NDArray[np.int64]:
        """Return the first dead units, in the order of members."""
        return np.flatnonzero(~self.alive)[:n_units]

    def _live(self, n_clusters: int) -> Clusters:
        if n_clusters == self.n_clusters_:
            return self.clusters
        if self.clustering.tree is None:
            labels = np.where(self.clusters.labels < n_clusters, self.clusters.labels, -1)
            return count(labels, self.member, self.n_members)
        labels = everywhere(self.clustering.cut(n_clusters), self.alive)
        return in_order(count(labels, self.member, self.n_members))

    def each_alone(self) -> Clusters:
        """Return every unit as its own cluster, dead ones too: the basis in which an assembly is the ensemble."""
        return count(np.arange(len(self.member)), self.member, self.n_members)


def _padded(stability: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    return np.concatenate([stability, np.full(n - len(stability), np.nan)])
