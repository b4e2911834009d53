"""Which edges between clusters recur: they agree in sign and size among the members that own both clusters.

**Statistic.** In a member, the strengths of all units read, on a cluster written, are replaced by signed normal scores,
``sign(e) Φ⁻¹((1 + rank|e| / (u + 1)) / 2)``, less their mean (van der Waerden's scores for signed ranks); the cluster
read has the mean score of its m units. If the member's u units were permuted, it would have mean 0 and variance
``σ² (u − m) / (m (u − 1))``, with σ² the mean square of the scores. Summed over the members that own both clusters and
divided by its standard deviation, it is T_read. T_written is the same with the units written permuted. An edge must
stand out both among the edges to its target and among those from its source: T is the smaller of the two, and 0 where
their signs differ.

**Null.** Clusters of the layer written were found by what their units do, which is what they read: units are in one
cluster *because* their edges agree. So T is not compared with a normal distribution but with populations in which each
member's units read are permuted, the units written respond accordingly and are clustered again, in the same way. The T
of all edges of these populations together are the null distribution; q-values by Benjamini and Hochberg.

Axis legend: as in `consilience.motifs.edges`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm, rankdata
from torch import Tensor

from consilience.census import Census
from consilience.clustering.clusterers import CLUSTERERS
from consilience.clustering.distances import embed
from consilience.clustering.significance import false_discovery_rates
from consilience.motifs.edges import Edges, Wiring, membership
from consilience.seeds import PERMUTED_WIRING, generator
from consilience.units.symmetry import usable_symmetry

Floats = NDArray[np.float64]
LEAST_OWNERS = 3  # members that own both clusters: two may agree by chance, and nothing would tell


@dataclass(frozen=True, eq=False)
class Agreement:
    """How edges between clusters agree among members: arrays (c, b)."""

    t: Floats  # standardised; its sign is that of the edge
    strength: Floats  # mean over the members that own both clusters; 0 where none does
    owners: NDArray[np.int64]  # members that own both
    alike: Floats  # share of these in which the edge has the sign of the mean

    @property
    def tested(self) -> NDArray[np.bool_]:
        """Edges that enough members have."""
        return self.owners >= LEAST_OWNERS


def agreement(strengths: Sequence[Tensor], read: Sequence[Tensor], written: Sequence[Tensor]) -> Agreement:
    """Return the agreement of members, given their strengths (i, j) and memberships (j, b) and (i, c).

    Units in no cluster, dead ones, take no part.
    """
    shape = written[0].shape[1], read[0].shape[1]
    totals, variances, (mean, owners, positive) = np.zeros((2, *shape)), np.zeros((2, *shape)), np.zeros((3, *shape))
    for strength, of, to in zip(strengths, read, written, strict=True):
        b, c = of[of.any(1)].double().numpy(), to[to.any(1)].double().numpy()
        e = strength[to.any(1)][:, of.any(1)].numpy()
        n_read, n_written = b.sum(0), c.sum(0)
        both = (n_written > 0)[:, None] & (n_read > 0)
        on_clusters = (c / np.maximum(n_written, 1)).T @ e  # (c, j)
        from_clusters = e @ b  # (i, b)
        here = (c / np.maximum(n_written, 1)).T @ from_clusters
        by_read, square = _scores(on_clusters, 1)
        totals[0] += both * (by_read @ (b / np.maximum(n_read, 1)))
        variances[0] += both * square * _share(len(b), n_read)
        by_written, square = _scores(from_clusters, 0)
        totals[1] += both * ((c / np.maximum(n_written, 1)).T @ by_written)
        variances[1] += both * square * _share(len(c), n_written)[:, None]
        mean += both * here
        positive += both * (here > 0)
        owners += both
    t = np.divide(totals, np.sqrt(variances), out=np.zeros_like(totals), where=variances > 1e-12)
    smaller = np.where(np.sign(t[0]) == np.sign(t[1]), np.sign(t[0]) * np.minimum(abs(t[0]), abs(t[1])), 0.0)
    shares = positive / np.maximum(owners, 1)
    return Agreement(
        smaller, mean / np.maximum(owners, 1), owners.astype(np.int64), np.where(mean > 0, shares, 1 - shares)
    )


def observed(edges: Edges, census: Census, members: Sequence[int] | None = None) -> Agreement:
    """Return the agreement of the members of a census, or of some of them, which may come twice."""
    every = range(len(edges.wirings)) if members is None else members
    read, written = census.layers_[edges.reads], census.layers_[edges.writes]
    return agreement(
        [edges.wirings[k].strengths for k in every],
        [membership(read, k) for k in every],
        [membership(written, k) for k in every],
    )


def null(edges: Edges, census: Census, draw: int, random_state: int) -> Agreement:
    """Return the agreement of a population whose members' units read are permuted, and clustered again."""
    read, written = census.layers_[edges.reads], census.layers_[edges.writes]
    permuted = []
    for k, wiring in enumerate(edges.wirings):
        live = torch.from_numpy(np.flatnonzero(read.alive[read.member == k]))
        order = torch.arange(wiring.weights.shape[1])
        source = generator(random_state, PERMUTED_WIRING, draw, k)
        order[live] = live[torch.randperm(len(live), generator=source)]
        permuted.append(wiring.permuted(order))
    labels, signs = _clustered(permuted, census, edges.writes)
    of_member = [torch.from_numpy(labels[written.member == k]) for k in range(written.n_members)]
    clusters = torch.arange(written.n_clusters_)
    return agreement(
        [w.strengths * signs[written.member == k][:, None] for k, w in enumerate(permuted)],
        [membership(read, k) for k in range(read.n_members)],
        [own[:, None] == clusters for own in of_member],
    )


def p_values(t: Floats, by_chance: Floats) -> Floats:
    """Return ``(1 + #{|T*| ≥ |T|}) / (1 + #T*)``."""
    sorted_null = np.sort(np.abs(by_chance))
    at_least = len(sorted_null) - np.searchsorted(sorted_null, np.abs(t) - 1e-9)
    result: Floats = (1 + at_least) / (1 + len(sorted_null))
    return result


def q_values(p: Sequence[Floats]) -> list[Floats]:
    """Return q-values of the edges of several maps, as one family."""
    return np.split(false_discovery_rates(np.concatenate(p)), np.cumsum([len(each) for each in p])[:-1])


def _clustered(wirings: Sequence[Wiring], census: Census, layer: str) -> tuple[NDArray[np.int64], Tensor]:
    """Labels (U,) of the units written, −1 for dead ones, as the census clusters them; and their signs."""
    own = census.layers_[layer]
    symmetry = usable_symmetry(census.population_.architecture, layer)
    rows = torch.cat([wiring.written.T for wiring in wirings])
    points = embed(rows[torch.from_numpy(own.alive)], census.distance, symmetry)
    wanted = None if census.clusterer == "hdbscan" else own.n_clusters_
    labels = np.full(len(own.alive), -1)
    labels[own.alive] = CLUSTERERS[census.clusterer](points, wanted, census.random_state).cut(wanted)
    labels[labels >= own.n_clusters_] = -1
    signs = torch.ones(len(rows), dtype=rows.dtype)
    if symmetry.flippable:
        first = {label: int(np.flatnonzero(labels == label)[0]) for label in np.unique(labels)}
        towards = rows[[first[label] for label in labels.tolist()]]
        signs[(rows * towards).sum(1) < 0] = -1
    return labels, signs


def _scores(values: Floats, axis: int) -> tuple[Floats, Floats]:
    """Signed normal scores of sizes along an axis, less their mean, and the mean of their squares, the axis kept."""
    n = values.shape[axis]
    scores = np.sign(values) * norm.ppf((1 + rankdata(abs(values), axis=axis) / (n + 1)) / 2)
    scores = scores - scores.mean(axis, keepdims=True)
    return scores, np.square(scores).mean(axis, keepdims=True)


def _share(u: int, m: Floats) -> Floats:
    """Variance of the mean of m of u scores, drawn without replacement, as a share of their mean square."""
    share: Floats = np.maximum(u - m, 0) / (np.maximum(m, 1) * max(u - 1, 1))
    return share
