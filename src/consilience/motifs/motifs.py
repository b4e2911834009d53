"""Motifs: patterns of clusters over several layers that recur in a population.

An edge between clusters of consecutive layers recurs if it agrees in sign and size among the members that own both
clusters, beyond chance (`consilience.motifs.recurring`). Motifs are the communities of the graph of recurring edges,
weighted by the size of their mean strengths, nested as a tree (`consilience.motifs.communities`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from consilience import seeds
from consilience.census import Census
from consilience.census.census import check_fitted
from consilience.checks import check_count, check_number, check_seed
from consilience.errors import InputError
from consilience.motifs.communities import Community, communities
from consilience.motifs.edges import Edges, edges_of
from consilience.motifs.recurring import LEAST_OWNERS, Agreement, null, observed, p_values, q_values
from consilience.seeds import RESAMPLED

LEVEL = 0.05  # of q-values of edges that recur
Node = tuple[str, int]  # a layer and the number of a cluster in it


@dataclass(frozen=True)
class Edge:
    """An edge between two clusters that enough members own.

    Attributes
    ----------
    source, target : the clusters, as layer and number.
    strength : by how many of its standard deviations the target moves where the source moves by one; mean over owners.
    owners : number of members that own both clusters.
    alike : share of these in which the edge has the sign of the mean.
    t, p, q : as in `consilience.motifs.recurring`.
    """

    source: Node
    target: Node
    strength: float
    owners: int
    alike: float
    t: float
    p: float
    q: float


@dataclass(frozen=True)
class Motif:
    """A community of recurring edges.

    Attributes
    ----------
    number, parent : its number among the motifs, and that of the motif that it is a half of, or None.
    clusters : by layer, the numbers of its clusters.
    edges : the recurring edges inside it.
    members : those that have at least half of its edges: both clusters, and the sign of the mean.
    frequency : share of the members that are among these.
    stability : mean best Jaccard overlap of its clusters with a motif of resampled members; NaN without resamples.
    cut : n-cut of its two halves where these are motifs too, or None.
    """

    number: int
    parent: int | None
    clusters: Mapping[str, tuple[int, ...]]
    edges: tuple[Edge, ...]
    members: tuple[int, ...]
    frequency: float
    stability: float
    cut: float | None

    @property
    def n_clusters(self) -> int:
        """Number of its clusters."""
        return sum(map(len, self.clusters.values()))


class Motifs:
    """Find the motifs of a population by its census.

    Parameters
    ----------
    level : false discovery rate of recurring edges.
    n_permutations : populations with permuted units that give the null distribution.
    n_resamples : resamples of the members for stability; 0 skips it.
    random_state : seed.

    Attributes
    ----------
    edges_ : all edges that were tested, in the order of maps and clusters.
    recurring_ : those of them with q up to ``level``.
    motifs_ : the motifs, those with halves before these.
    untested_ : map → why its edges were not tested.

    Examples
    --------
    >>> import torch
    >>> from consilience.nets import MLP
    >>> from consilience.population import Population
    >>> _ = torch.manual_seed(12)
    >>> twin, x = MLP(6, [8, 6], 2), torch.randn(90, 6)
    >>> census = Census(n_clusters={"hidden.0": 8, "hidden.1": 6}, n_resamples=0)
    >>> found = Motifs(n_permutations=5, n_resamples=0).fit(census.fit(Population.from_modules([twin] * 8, x[:4]), x))
    >>> len(found.edges_), len(found.recurring_) > 0, all(edge.alike == 1 for edge in found.recurring_)
    (48, True, True)
    """

    edges_: list[Edge]
    recurring_: list[Edge]
    motifs_: list[Motif]
    untested_: dict[str, str]

    def __init__(
        self, level: float = LEVEL, n_permutations: int = 20, n_resamples: int = 20, random_state: int = 0
    ) -> None:
        self.level = level
        self.n_permutations = n_permutations
        self.n_resamples = n_resamples
        self.random_state = random_state

    def fit(self, census: Census) -> Motifs:
        """Find the motifs of a census.

        Raises
        ------
        InputError : also if the census has fewer than three members, no calibration data or another distance than
            "activation", or if no edges can be tested.
        """
        self.check(census)
        every = edges_of(census)
        tested = [edges for edges in every if edges.alone]
        self.untested_ = {e.map: f"several maps write layer '{e.writes}'" for e in every if not e.alone}
        if not tested:
            got = "; ".join(f"{name}: {reason}" for name, reason in self.untested_.items())
            raise InputError(f"population must have a layer that one map alone writes, got {got}")
        agreements = [observed(edges, census) for edges in tested]
        by_chance = [
            np.concatenate([_tested(null(edges, census, d, self.random_state)) for d in range(self.n_permutations)])
            for edges in tested
        ]
        p = [p_values(_tested(a), chance) for a, chance in zip(agreements, by_chance, strict=True)]
        q = q_values(p)
        listed = [_listed(*each) for each in zip(tested, agreements, p, q, strict=True)]
        self.edges_ = [edge for edges in listed for edge in edges]
        self.recurring_ = [edge for edge in self.edges_ if edge.q <= self.level]
        graph = _Graph.of(self.recurring_)
        tree = communities(graph.weights, self.random_state)
        overlap = self._stability(census, tested, listed, graph, tree)
        self.motifs_ = [
            self._motif(number, census, tested, graph, community, overlap[number])
            for number, community in enumerate(tree)
        ]
        return self

    def check(self, census: Census) -> None:
        """Raise unless `fit` can take this census."""
        check_number("level", self.level, least=0, below=1)
        check_count("n_permutations", self.n_permutations)
        check_count("n_resamples", self.n_resamples, least=0)
        check_seed("random_state", self.random_state)
        check_fitted(census)
        n = len(census.population_)
        if n < LEAST_OWNERS:
            raise InputError(f"census must have at least {LEAST_OWNERS} members for edges to recur, got {n}")
        if census.distance != "activation":
            cure = 'take the census with distance="activation"'
            raise InputError(f"census must have distance 'activation' for motifs, got {census.distance!r}", cure=cure)

    def _stability(
        self,
        census: Census,
        tested: Sequence[Edges],
        listed: Sequence[Sequence[Edge]],
        graph: _Graph,
        tree: Sequence[Community],
    ) -> list[float]:
        """Mean best Jaccard overlap of each community with those of resampled members.

        Clusters stay as they are. An edge recurs among m of n members where its |t| is at least √(m/n) times the least
        |t| of the edges that recur among all.
        """
        if not self.n_resamples or not tree:
            return [float("nan")] * len(tree)
        least, n = min(abs(edge.t) for edge in self.recurring_), len(census.population_)
        source, overlaps = seeds.numpy_generator(self.random_state, RESAMPLED), np.zeros(len(tree))
        for _ in range(self.n_resamples):
            drawn = np.unique(source.choice(n, n)).tolist()
            again: list[Edge] = []
            for edges, known in zip(tested, listed, strict=True):
                t = observed(edges, census, drawn).t
                bar = least * (len(drawn) / n) ** 0.5
                again += [edge for edge in known if abs(t[edge.target[1], edge.source[1]]) >= bar]
            found = _Graph.of(again)
            sets = [{found.nodes[i] for i in c.nodes} for c in communities(found.weights, self.random_state)]
            for number, community in enumerate(tree):
                own = {graph.nodes[i] for i in community.nodes}
                overlaps[number] += max((len(own & other) / len(own | other) for other in sets), default=0.0)
        return [float(overlap) for overlap in overlaps / self.n_resamples]

    def _motif(
        self, number: int, census: Census, tested: Sequence[Edges], graph: _Graph, community: Community, overlap: float
    ) -> Motif:
        nodes = [graph.nodes[i] for i in community.nodes]
        clusters = {name: tuple(sorted(c for layer, c in nodes if layer == name)) for name in census.layers_}
        inside = tuple(edge for edge in self.recurring_ if {edge.source, edge.target} <= set(nodes))
        n, has = len(census.population_), list[int]()
        for k in range(n):
            alone = {(e.reads, e.writes): observed(e, census, [k]) for e in tested}
            have = 0
            for edge in inside:
                own = alone[edge.source[0], edge.target[0]]
                at = edge.target[1], edge.source[1]
                have += bool(own.owners[at]) and own.strength[at] * edge.strength > 0
            if 2 * have >= len(inside):
                has.append(k)
        clusters = {name: numbers for name, numbers in clusters.items() if numbers}
        return Motif(number, community.parent, clusters, inside, tuple(has), len(has) / n, overlap, community.cut)


@dataclass(frozen=True, eq=False)
class _Graph:
    """Recurring edges as a graph."""

    nodes: list[Node]
    weights: NDArray[np.float64]  # (m, m)

    @classmethod
    def of(cls, edges: Sequence[Edge]) -> _Graph:
        nodes = sorted({node for edge in edges for node in (edge.source, edge.target)})
        number = {node: i for i, node in enumerate(nodes)}
        weights = np.zeros((len(nodes), len(nodes)))
        for edge in edges:
            weights[number[edge.source], number[edge.target]] += abs(edge.strength)
        return cls(nodes, weights)


def _tested(found: Agreement) -> NDArray[np.float64]:
    return found.t[found.tested]


def _listed(edges: Edges, found: Agreement, p: NDArray[np.float64], q: NDArray[np.float64]) -> list[Edge]:
    listed = []
    for (c, b), own_p, own_q in zip(np.argwhere(found.tested).tolist(), p.tolist(), q.tolist(), strict=True):
        numbers = float(found.strength[c, b]), int(found.owners[c, b]), float(found.alike[c, b]), float(found.t[c, b])
        listed.append(Edge((edges.reads, b), (edges.writes, c), *numbers, own_p, own_q))
    return listed
