"""The census: the clusters of every layer of a population, each layer grounded in the clusters of the layer below."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from consilience.bases.grounding import Basis, basis_activations, basis_of, express, takes_offset
from consilience.bases.hyperplanes import Projection
from consilience.census.layer_units import LayerUnits, everywhere, layer_units
from consilience.checks import Width, resolve_width
from consilience.clustering.clusterers import CLUSTERERS, Clustering
from consilience.clustering.clusters import Clusters, count, in_order
from consilience.clustering.distances import DISTANCES
from consilience.clustering.stability import stability
from consilience.errors import InputError
from consilience.population.checks import check_inputs, check_side_by_side
from consilience.population.population import Population
from consilience.signals.responses import Responses
from consilience.units.architecture import Architecture, TracedNetwork
from consilience.units.axes import Axis
from consilience.units.symmetry import canonical, usable_symmetry

GROUNDINGS = ("weights", "activations")


@dataclass(frozen=True)
class LayerCensus:
    """One layer's units and clusters.

    Attributes
    ----------
    name : the layer.
    member, index : (U,) whose unit each is, and which one.
    alive : (U,) whether it does anything; dead units are in no cluster.
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
        """Number of units set aside."""
        return int((~self.alive).sum())

    def at(self, n_clusters: int) -> Clusters:
        """Return the clusters at another number, in canonical order, without clustering again.

        A tree is cut; of a flat clustering the most frequent ``n_clusters`` are kept and the other units get label −1.

        Raises
        ------
        InputError
            If there are not that many clusters.
        """
        self.check_exists(n_clusters)
        if n_clusters == self.n_clusters_:
            return self.clusters
        if self.clustering.tree is None:
            labels = np.where(self.clusters.labels < n_clusters, self.clusters.labels, -1)
            return count(labels, self.member, self.n_members)
        labels = everywhere(self.clustering.cut(n_clusters), self.alive)
        return in_order(count(labels, self.member, self.n_members))

    def check_exists(self, n_clusters: int) -> None:
        """Refuse a number of clusters that this layer does not have: more than leaves of its tree, or flat clusters.

        Raises
        ------
        InputError
            As said.
        """
        if not 1 <= n_clusters <= self.clustering.n_leaves:
            raise InputError(
                "this many clusters do not exist", where=f"layer '{self.name}'", got=n_clusters,
                expected=f"1 to {self.clustering.n_leaves}", cure="ask for fewer, or take more members",
            )  # fmt: skip

    def each_alone(self) -> Clusters:
        """Return every unit as its own cluster, dead ones too: the basis in which an assembly is the ensemble."""
        return count(np.arange(len(self.member)), self.member, self.n_members)


class Census:
    """Cluster the units of a population, layer by layer.

    Parameters
    ----------
    grounding : how deeper hyperplanes get into one coordinate system: "activations" (ridge least squares on calibration
        data) or "weights" (cluster membership; needs no data).
    distance : "activation" (unit responses on calibration data), "cosine" or "l2" (grounded hyperplanes).
    clusterer : "ward", "average", "two-stage" (hierarchical), "kmeans" or "hdbscan" (flat).
    n_clusters : int, "2x" of the members' median width, or a dict of these by layer. A hierarchical clusterer keeps its
        whole tree, so this sets only where it is cut for ``layers_`` and for grounding the next layer; None means "2x"
        there. "hdbscan" finds its own number.
    n_resamples : resamples of the members for stability; 0 skips it.
    random_state : seed.

    Attributes
    ----------
    layers_ : dict, layer name → `LayerCensus`.
    population_ : the population.
    calibration_ : the calibration inputs, or None.
    networks_ : the members in canonical form: what clusters and assemblies are made of.

    Examples
    --------
    >>> import torch
    >>> from consilience.nets import MLP
    >>> from consilience.population import Population
    >>> _ = torch.manual_seed(0)
    >>> twin = MLP(4, [5], 2)
    >>> population = Population.from_modules([twin, twin, twin], torch.randn(8, 4))
    >>> layer = Census(n_clusters=5).fit(population, torch.randn(64, 4)).layers_["hidden.0"]
    >>> layer.frequency_, layer.size_
    (array([1., 1., 1., 1., 1.]), array([3, 3, 3, 3, 3]))
    """

    def __init__(
        self,
        grounding: str = "activations",
        distance: str = "activation",
        clusterer: str = "ward",
        n_clusters: Width | Mapping[str, Width] | None = None,
        n_resamples: int = 10,
        random_state: int = 0,
    ) -> None:
        self.grounding = grounding
        self.distance = distance
        self.clusterer = clusterer
        self.n_clusters = n_clusters
        self.n_resamples = n_resamples
        self.random_state = random_state

    def fit(self, population: Population, x: Tensor | None = None) -> Census:
        """Take the census of a population.

        Parameters
        ----------
        population : the members.
        x : calibration inputs (n, ...); not needed for grounding="weights" with distance "cosine" or "l2".

        Raises
        ------
        InputError
            If a parameter is unknown, data is missing, of the wrong shape or not finite, or a number of clusters is
            larger than the number of units.
        """
        self._check(population, x)
        self.population_, self.calibration_ = population, x
        self.networks_ = tuple(canonical(network) for network in population.networks)
        self.__dict__.pop("layers_", None)  # a fit that fails leaves no census
        self.layers_ = take_layers(self, self._cluster, known_alive={})
        return self

    def n_clusters_of(self, population: Population, layer: str, n_units: int) -> int | None:
        """Return how many clusters the parameters ask for in a layer, of so many units; None: the clusterer decides."""
        wanted = self.n_clusters.get(layer) if isinstance(self.n_clusters, Mapping) else self.n_clusters
        if self.clusterer == "hdbscan":
            return None
        if wanted is None:
            return min(n_units, 2 * population.median_width(layer))
        return resolve_width(wanted, population.median_width(layer), f"n_clusters of layer '{layer}'")

    def _cluster(self, units: LayerUnits, n_clusters: int | None) -> tuple[Clustering, Clusters]:
        clusterer = CLUSTERERS[self.clusterer]
        clustering = clusterer(units.points, n_clusters, self.random_state)
        clusters, live = units.count(clustering.cut(n_clusters)), units.alive
        stable = stability(
            units.points, clusters.labels[live], units.member[live], clusterer, self.n_resamples, self.random_state
        )
        return clustering, replace(clusters, stability=stable)

    def _check(self, population: Population, x: Tensor | None) -> None:
        for what, got, known in (
            ("grounding", self.grounding, GROUNDINGS),
            ("distance", self.distance, DISTANCES),
            ("clusterer", self.clusterer, tuple(CLUSTERERS)),
        ):
            if got not in known:
                raise InputError(
                    f"unknown {what}", where=f"Census({what}=...)", got=repr(got), expected=", ".join(known)
                )
        for what, number in (("n_resamples", self.n_resamples), ("random_state", self.random_state)):
            if not isinstance(number, int) or number < 0:
                raise InputError(f"{what} must be an int, 0 or more", where=f"Census({what}=...)", got=repr(number))
        if not population.architecture.hidden:
            raise InputError("the members have no hidden layer", where="population", cure="there is nothing to cluster")
        check_side_by_side(population)
        if isinstance(self.n_clusters, Mapping):
            for name in self.n_clusters:
                layer = population.architecture.layer(name)  # or raises
                if not layer.interchangeable:
                    raise InputError("the outputs are not clustered", where="n_clusters", got=repr(name))
                if layer.tied is not None:
                    raise InputError(
                        "tied layers are clustered together", where="n_clusters", got=repr(name),
                        expected=repr(layer.tied), cure="name the first of them",
                    )  # fmt: skip
        if x is not None:
            check_inputs(population, x, "x")
        elif self.grounding == "activations" or self.distance == "activation":
            raise InputError(
                "this census needs calibration data", where="Census.fit(x=...)", got=None,
                cure='pass unlabelled inputs, or use grounding="weights" and distance="cosine"',
            )  # fmt: skip
        for layer in population.architecture.free:
            wanted = self.n_clusters_of(population, layer.name, sum(population.widths(layer.name)))
            if wanted is not None and wanted > sum(population.widths(layer.name)):
                raise InputError(
                    "more clusters than units", where=f"n_clusters of layer '{layer.name}'", got=wanted,
                    expected=f"at most {sum(population.widths(layer.name))}", cure="ask for fewer clusters",
                )  # fmt: skip


# Clusters a layer's live units, into so many: their tree or labels, and the clusters with stability, in any order.
ClusterStep = Callable[[LayerUnits, int | None], tuple[Clustering, Clusters]]


def take_layers(
    census: Census, step: ClusterStep, known_alive: Mapping[str, NDArray[np.bool_]]
) -> dict[str, LayerCensus]:
    """Return the layers of a census, from the inputs up, each grounded in the clusters of the one below.

    Parameters
    ----------
    census : its parameters, members and calibration data are what the layers are made from.
    step : how the units of a layer are clustered.
    known_alive : by layer, whether the units of the first members are alive, where that has been found before.

    Raises
    ------
    InputError
        If every unit of a layer is dead.
    """
    architecture, networks, x = census.population_.architecture, census.networks_, census.calibration_
    responses = Responses(networks, x) if x is not None else without_data(networks, census.population_.example_input)
    layers: dict[str, LayerCensus] = {}
    projections: dict[Axis, Sequence[Projection]] = {}
    for layer in architecture.free:
        units = layer_units(
            networks, layer.name, projections, None if x is None else responses, distance=census.distance,
            known_alive=known_alive.get(layer.name, np.empty(0, dtype=bool)),
        )  # fmt: skip
        layers[layer.name], bases = _take_layer(census, units, step)
        for name, basis in bases.items():
            for axis in _read_inside(architecture, name):
                projections[axis] = _projections(census, axis, basis, responses.at(axis))
    return layers


def without_data(networks: Sequence[TracedNetwork], example_input: Tensor) -> Responses:
    """Return responses to one input of zeros.

    A constant unit does there what it does anywhere, which is all that is asked of activations without data.
    """
    return Responses(networks, torch.zeros_like(example_input[:1]))


def _take_layer(census: Census, units: LayerUnits, step: ClusterStep) -> tuple[LayerCensus, dict[str, Basis]]:
    """One layer, and the basis that its clusters are to what reads it or a layer tied to it."""
    name, population = units.name, census.population_
    clustering, found = step(units, census.n_clusters_of(population, name, len(units.points)))
    clusters = in_order(found)
    bases = {
        layer: basis_of(
            rows, clusters.labels, population.widths(name), usable_symmetry(population.architecture, layer), units.alive
        )
        for layer, rows in units.rows.items()
    }
    centroids = (torch.cat(bases[name].mixing).T @ units.table.augmented).numpy()
    index = units.table.index.numpy()
    layer = LayerCensus(name, units.member, index, units.alive, units.n_members, clustering, clusters, centroids)
    return layer, bases


def _read_inside(architecture: Architecture, layer: str) -> list[Axis]:
    """Where a layer is read by what writes hidden layers."""
    hidden = {each.name for each in architecture.hidden}
    readers = [m for m in architecture.reading(layer) if m.writes in hidden]
    return [axis for axis in architecture.read(layer) if any(axis in m.inputs for m in readers)]


def _projections(census: Census, axis: Axis, basis: Basis, own: Sequence[Tensor]) -> Sequence[Projection]:
    """Each member's projection on the clusters in one place; refitted to data where the grounding says so."""
    architecture, shared = census.population_.architecture, None
    if census.grounding == "activations":
        assert axis.layer is not None
        shared = basis_activations(basis, own, usable_symmetry(architecture, axis.layer))
    return express(basis, own, shared, intercept=takes_offset(architecture, axis)).projections


def member_networks(census: Census) -> Sequence[TracedNetwork]:
    """The members in canonical form; raises if the census has not been taken."""
    if not hasattr(census, "layers_"):
        raise InputError("the census has not been taken", where="Census", cure="call fit first")
    return census.networks_
