"""Adding members to a census without clustering it again.

A hierarchical census keeps its tree, and a new unit is a new leaf of it, put where the linkage would have put it. With
d(v, C) the linkage's distance of the new unit v and cluster C (`LINKAGES`), found for all nodes of the tree from the
unit's distances to the leaves by the linkage's own recurrence (Lance and Williams 1967):

- *Where*: agglomeration merges v with the first cluster C that is nearer to it than to the cluster it merges with next,
  ``argmin_C max(d(v, C), height(C))`` over the C with ``d(v, C) ≤ height(parent of C)``. v and C get a parent of their
  own at that height. For one unit and a tree that has not grown before this is exact: up to there, a fresh tree over
  all units is the old one.
- *What follows*: the clusters above have gained a unit. Their heights become what the linkage gives them as they are
  now, but at least that of their children. Which clusters they merge with stays: here a fresh tree may differ.
- *In what order*: the units nearest to the old tree first, whichever of the new members they belong to.

So no old unit changes place among the old units: those in a cluster of the new tree, at any cut, were all the units
below some node of the old one. But heights change, and with them which merges a cut at a given number undoes; a cluster
that many members own gets harder to merge with another, as in a fresh census.

With distance "cosine" or "l2", deeper units are points in the basis of the layer below, and that is the new one: old
heights that no new unit changes stay those of the old basis, so that agreement with a fresh census is less.

Axis legend: ``m`` leaves of the old tree, ``V`` new units, ``U`` units of all members, ``d`` coordinates of a point.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from torch import nn

from consilience.census.census import Census, LayerCensus, evenly, member_networks
from consilience.census.clusterers import Clustering
from consilience.census.dead import find_alive
from consilience.census.distances import Points, embed
from consilience.census.grounding import Basis, basis_of
from consilience.census.ordering import Clusters, count, in_order
from consilience.errors import ConsilienceError, InputError
from consilience.population.population import Population, _check_alike, _member
from consilience.units.activations import Activations, activations
from consilience.units.hyperplanes import Projection, hyperplanes, unit_index
from consilience.units.symmetry import canonical, usable_symmetry

Floats = NDArray[np.float64]


def extend_census(census: Census, modules: Sequence[nn.Module] | Population) -> Census:
    """Return the census of its population and further members; the old one stays as it is.

    The new census can do all that a fresh one can: other widths, assemblies, storage (of its ``population_`` first).
    Its members are the old ones, then the new ones. In each layer the new units are put into the tree (see the module's
    docstring), which is then cut at the number of clusters that the census's parameters give for all members. Dead
    units are found, clusters counted and ordered, and hyperplanes grounded in the layer below as by `Census.fit`, with
    the new clusters as the basis and all members projected on them.

    A cluster that had all its old units to itself before keeps its stability, which is that among the old members. Of
    any other cluster it is unknown, NaN: it can be measured only by clustering again.

    With U old units and V new ones, the clustering takes O(V (U + V) d) operations and O(V (U + V)) memory, where that
    of a fresh census takes O((U + V)² d) and O((U + V)²). Activations and projections are computed for all members in
    either.

    Parameters
    ----------
    census : a fitted census with a hierarchical clusterer.
    modules : the members to add, trained modules (which are copied) or a population of them. Their order, and that of
        their units, changes nothing but numbering, ties apart. Adding them in several calls may change where a unit is
        put, for what was added before is part of the tree.

    Raises
    ------
    InputError
        If the census has not been taken or is flat, there are no modules, or they differ from the members in more than
        parameters and widths.
    TracingError, FunctionChangedError
        If a module is not understood, or the proof of its layers fails.

    Examples
    --------
    >>> from consilience.nets import MLP
    >>> _ = torch.manual_seed(0)
    >>> twin = MLP(4, [5], 2)
    >>> population = Population.from_modules([twin], torch.randn(8, 4))
    >>> census = Census(n_clusters=5).fit(population, torch.randn(64, 4))
    >>> extend_census(census, [twin, twin]).layers_["hidden.0"].size_
    array([3, 3, 3, 3, 3])
    """
    old_networks = member_networks(census)  # raises
    if any(layer.clustering.merges is None for layer in census.layers_.values()):
        raise InputError(
            "a flat clustering has no tree to put new units into", where="extend_census", got=repr(census.clusterer),
            expected=", ".join(LINKAGES), cure="fit a fresh census on all members, or use a hierarchical clusterer",
        )  # fmt: skip
    population = _append(census.population_, modules)
    extended = copy.copy(census)
    extended.population_ = population
    extended.networks_ = (*old_networks, *(canonical(n) for n in population.networks[len(old_networks) :]))
    x = census.calibration_
    shown = torch.zeros_like(population.example_input[:1]) if x is None else x  # as in Census.fit
    layers: dict[str, LayerCensus] = {}
    projections: dict[str, Sequence[Projection]] = {}
    for name in census.layers_:
        done = [activations(network, shown, name) for network in extended.networks_]
        layers[name], basis = _extend_layer(extended, census.layers_[name], projections, done)
        if any(m.writes in census.layers_ for m in population.architecture.reading(name)):
            projections[name] = extended._projections(name, basis, [each.read for each in done])
    extended.layers_ = layers
    return extended


def _append(population: Population, modules: Sequence[nn.Module] | Population) -> Population:
    """Return the population with further members, traced (where unlike the old ones) and proved; those are kept."""
    if isinstance(modules, nn.Module):
        raise InputError(
            "one module where several are expected", where="extend_census(modules=...)", got=type(modules).__name__,
            expected="a sequence of modules, or a population", cure="put it into a list",
        )  # fmt: skip
    new = [member.module for member in modules] if isinstance(modules, Population) else list(modules)
    if not new:
        raise InputError(
            "there is no member to add", where="extend_census(modules=...)", got="no modules",
            cure="pass at least one trained module",
        )  # fmt: skip
    known = [(member.module, member.network.architecture) for member in population]
    members = list(population.members)
    for module in new:
        try:
            members.append(_member(module, population.example_input, known))
        except ConsilienceError as error:
            error.add_note(f"this is member {len(members)} of the population, the old members being the first")
            raise
    _check_alike(members, population.example_input)
    provenance = {**population.provenance, "n_added": population.provenance.get("n_added", 0) + len(new)}
    return replace(population, members=tuple(members), provenance=provenance)


def _extend_layer(
    extended: Census, old: LayerCensus, projections: Mapping[str, Sequence[Projection]], done: Sequence[Activations]
) -> tuple[LayerCensus, Basis]:
    """Return a layer of the new census, and its basis; the counterpart of what `Census.fit` does for a layer."""
    name, networks, population = old.name, extended.networks_, extended.population_
    symmetry = usable_symmetry(population.architecture, name)
    member, index = (part.numpy() for part in unit_index(networks, name))
    new_alive = [
        find_alive(network, name, None if extended.calibration_ is None else each.read).numpy()
        for network, each in zip(networks[old.n_members :], done[old.n_members :], strict=True)
    ]
    alive = np.concatenate([old.alive, *new_alive])
    table = hyperplanes(networks, name, projections)
    rows = table.augmented
    if extended.distance == "activation":
        rows = torch.cat([each.written[evenly(each.written)].T for each in done])
    points = embed(rows[torch.from_numpy(alive)], extended.distance, symmetry)

    clustering = grow(old.clustering, points, extended.clusterer)
    labels = np.full(len(alive), -1)
    labels[alive] = clustering.cut(extended._n_clusters(population, name, int(alive.sum())))
    clusters = in_order(with_known_stability(count(labels, member, len(networks)), old.clusters))
    basis = basis_of(rows, clusters.labels, population.widths(name), symmetry, alive)
    centroids = (torch.cat(basis.mixing).T @ table.augmented).numpy()
    return LayerCensus(name, member, index, alive, len(networks), clustering, clusters, centroids), basis


def with_known_stability(clusters: Clusters, old: Clusters) -> Clusters:
    """Return clusters with the stability of the old cluster whose units, and no other old ones, they hold; else NaN.

    Parameters
    ----------
    clusters : of all units, those of ``old`` first.
    old : the clusters before.
    """
    among = clusters.labels[: len(old.labels)]
    both = np.zeros((len(clusters), len(old)), dtype=np.int64)
    np.add.at(both, (among[old.labels >= 0], old.labels[old.labels >= 0]), 1)
    best = both.argmax(1)
    held = both[np.arange(len(both)), best]
    same = (held == both.sum(1)) & (held == old.size[best])
    return replace(clusters, stability=np.where(same, old.stability[best], np.nan))


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


LINKAGES: Mapping[str, Linkage] = {
    "ward": Linkage(2, _ward),
    "average": Linkage(1, _average),
    "two-stage": Linkage(2, _ward),
}


def grow(clustering: Clustering, points: Points, clusterer: str) -> Clustering:
    """Return the tree with new points put into it, each as a leaf of its own.

    Parameters
    ----------
    clustering : a tree over the first points.
    points : (U, d), those of the tree first. A leaf of several points, as of the two-stage clusterer, is their mean.
    clusterer : the one that made the tree; see `LINKAGES`.
    """
    assert clustering.merges is not None
    linkage, n_old, m = LINKAGES[clusterer], len(clustering.labels), clustering.n_leaves
    coordinates = points.coordinates.astype(np.float64)
    leaves, new = _leaf_points(coordinates[:n_old], clustering.labels, points.projective), coordinates[n_old:]
    tree = _Tree(
        clustering.merges,
        _apart(leaves, new, points.projective) ** linkage.power,
        _apart(new, new, points.projective) ** linkage.power,
        linkage,
    )
    for v in np.argsort(tree.places()[1], kind="stable"):
        tree.insert(int(v))
    return Clustering(tree.merges(), np.concatenate([clustering.labels, m + np.arange(len(new))]))


def _leaf_points(x: Floats, leaf: NDArray[np.int64], projective: bool) -> Floats:
    """Mean point of each leaf, in the sign of its first point if signs are free: (m, d)."""
    first = np.unique(leaf, return_index=True)[1]
    turned = (x * x[first][leaf]).sum(1) < 0 if projective else np.zeros(len(x), dtype=bool)
    total: Floats = coo_array((np.where(turned, -1.0, 1.0), (leaf, np.arange(len(x))))) @ x
    return total / np.bincount(leaf)[:, None]


def _apart(p: Floats, q: Floats, projective: bool) -> Floats:
    """Distances (P, Q) of points (P, d) and (Q, d), as `Points.distances` has them."""
    along = np.abs(p @ q.T) if projective else p @ q.T
    squared = np.square(p).sum(1)[:, None] + np.square(q).sum(1) - 2 * along
    distances: Floats = np.sqrt(np.maximum(squared, 0))
    return distances


class _Tree:
    """A tree that grows. Nodes: the m old leaves, V new ones, then merges in the order in which they were made.

    Attributes
    ----------
    parent, children : by node; −1 where there is none.
    size : leaves below; 0 for a node that is not in the tree yet.
    distance : linkage's distance of a node's children, to the linkage's power.
    height : the same, but at least that of the children.
    joins : (nodes, V) linkage's distance of each node and each new leaf.
    """

    def __init__(self, merges: Floats, to_old: Floats, to_new: Floats, linkage: Linkage) -> None:
        """Start from SciPy's merges (m − 1, 4), distances between leaves (m, V), (V, V), and their linkage."""
        self.m, self.n_new = to_old.shape
        n_leaves = self.m + self.n_new
        n_nodes = 2 * n_leaves - 1
        self.linkage, self.to_new = linkage, to_new
        self.next: int = n_leaves  # number of the next merge
        self.parent, self.children = np.full(n_nodes, -1), np.full((n_nodes, 2), -1)
        self.size, self.distance, self.height = np.zeros(n_nodes), np.zeros(n_nodes), np.zeros(n_nodes)
        self.joins = np.zeros((n_nodes, self.n_new))
        self.size[: self.m], self.joins[: self.m] = 1, to_old
        pairs = merges[:, :2].astype(np.int64)
        pairs[pairs >= self.m] += self.n_new  # room for the new leaves
        for (a, b), height in zip(pairs.tolist(), merges[:, 2].tolist(), strict=True):
            self._merge(a, b, height**linkage.power)

    def _merge(self, a: int, b: int, distance: float) -> int:
        """Make a node of two roots, and return it."""
        node = self.next
        self.next += 1
        self.children[node], self.parent[a], self.parent[b] = (a, b), node, node
        self.size[node] = self.size[a] + self.size[b]
        self.distance[node], self.height[node] = distance, max(distance, self.height[a], self.height[b])
        self.joins[node] = self.linkage.union(
            self.joins[a], self.joins[b], self.distance[node], self.size[a], self.size[b], 1
        )
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
            self.distance[above] = self.linkage.union(
                self.distance[above], joins[beside], joins[was], n_child, 1, self.size[beside]
            )
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
