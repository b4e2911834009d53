"""How often members of each task own a cluster, and whether it depends on the task.

Under the null hypothesis a member's task says nothing about whether it owns the cluster: members may be permuted
between tasks. Of N members, M own the cluster; of the n members of a task, the number that own it then has the
hypergeometric distribution, so that the permutation test is exact and needs no draws (Fisher's test, one-sided):

    p = Σ_{j ≥ m} C(M, j) C(N − M, n − j) / C(N, n).

A cluster is *specific* to a task where q ≤ 0.05 (Benjamini and Hochberg, over clusters and tasks of a layer), and
*invariant* where at least a share of the members of every task own it and it is specific to none.

Axis legend: ``k`` member, ``c`` cluster, ``t`` task.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import hypergeom

from consilience.census.layer_census import LayerCensus
from consilience.clustering.significance import false_discovery_rates

Floats = NDArray[np.float64]
LEVEL = 0.05


@dataclass(frozen=True, eq=False)
class LayerTasks:
    """The clusters of one layer by task.

    Attributes
    ----------
    tasks : names.
    frequency : (c, t) share of the members of each task that own the cluster.
    p, q : (c, t) that as many own it, or more, if members were permuted between tasks; and false discovery rates.
    order : (c,) clusters, the most invariant first: by the number of tasks with members that own it, then the least
        frequency of a task, then the mean.
    invariant : (c,) whether the members of every task own the cluster often, and it is specific to none.
    n_invariant_by_chance : mean and standard deviation of the number of invariant clusters by frequency alone, where
        members are permuted between tasks: how many there would be if tasks made no difference.
    n_invariant_by_frequency : the same number as it is.
    """

    tasks: tuple[str, ...]
    frequency: Floats
    p: Floats
    q: Floats
    order: NDArray[np.int64]
    invariant: NDArray[np.bool_]
    n_invariant_by_frequency: int
    n_invariant_by_chance: tuple[float, float]

    @property
    def specific(self) -> NDArray[np.bool_]:
        """(c, t) whether a cluster is specific to a task."""
        return self.q <= LEVEL


def ownership(layer: LayerCensus) -> NDArray[np.bool_]:
    """Return which members own a unit of each cluster: (k, c)."""
    owned = np.zeros((layer.n_members, layer.n_clusters_), dtype=bool)
    inside = layer.labels_ >= 0
    owned[layer.member[inside], layer.labels_[inside]] = True
    return owned


def layer_tasks(
    owned: NDArray[np.bool_],
    task: NDArray[np.int64],
    names: tuple[str, ...],
    share: float,
    n_draws: int,
    random: np.random.Generator,
) -> LayerTasks:
    """Return the clusters that members own (k, c) by the task of each member (k,)."""
    n_members, sizes = len(task), np.bincount(task, minlength=len(names))
    counts = np.stack([owned[task == t].sum(0) for t in range(len(names))], axis=1)
    p = hypergeom.sf(counts - 1, n_members, owned.sum(0)[:, None], sizes)
    q = false_discovery_rates(p.ravel()).reshape(p.shape)
    frequency = counts / sizes
    often = (frequency >= share - 1e-12).all(1)
    by_chance = []
    for _ in range(n_draws):
        permuted = random.permutation(task)
        shares = np.stack([owned[permuted == t].mean(0) for t in range(len(names))], axis=1)
        by_chance.append(int((shares >= share - 1e-12).all(1).sum()))
    chance = float(np.mean(by_chance)), float(np.std(by_chance))
    invariant: NDArray[np.bool_] = np.logical_and(often, (q > LEVEL).all(1))
    keys = (counts > 0).sum(1), frequency.min(1), frequency.mean(1).round(12)
    order = np.lexsort([np.arange(len(counts)), *(-key for key in reversed(keys))])
    return LayerTasks(names, frequency, p, q, order, invariant, int(often.sum()), chance)
