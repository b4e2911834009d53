"""The census: the clusters of every layer of a population, each layer grounded in the clusters of the layer below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from consilience.census.clusterers import CLUSTERERS, Clustering
from consilience.census.dead import find_alive
from consilience.census.distances import DISTANCES, embed
from consilience.census.grounding import Basis, basis_activations, basis_of, express, takes_offset
from consilience.census.ordering import Clusters, count, in_order, with_stability
from consilience.census.widths import Width, resolve_width
from consilience.errors import InputError
from consilience.population.population import Population
from consilience.units.activations import Activations, Responses
from consilience.units.hyperplanes import Projection, hyperplanes, unit_index
from consilience.units.layers import TracedNetwork
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
        if self.clustering.merges is None:
            labels = np.where(self.clusters.labels < n_clusters, self.clusters.labels, -1)
            return count(labels, self.member, self.n_members)
        return in_order(count(self._everywhere(self.clustering.cut(n_clusters)), self.member, self.n_members))

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

    def _everywhere(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        everywhere = np.full(len(self.alive), -1)
        everywhere[self.alive] = labels
        return everywhere


class Census:
    """Cluster the units of a population, layer by layer.

    Parameters
    ----------
    grounding : how deeper hyperplanes get into one coordinate system: "activations" (ridge least squares on calibration
        data) or "weights" (cluster membership; needs no data).
    distance : "activation" (unit responses on calibration data), "cosine" or "l2" (grounded hyperplanes).
    clusterer : "ward", "average", "two-stage" (hierarchical), "kmeans" or "hdbscan" (flat).
    n_clusters : int, "2x" of the members' median width, or a dict of these by layer. A hierarchical clusterer keeps its
        whole
        tree, so this sets only where it is cut for ``layers_`` and for grounding the next layer; None means "2x" there.
        "hdbscan" finds its own number.
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
        layers: dict[str, LayerCensus] = {}
        projections: dict[str, Sequence[Projection]] = {}
        # A constant unit does on zeros what it does anywhere, which is all that is asked of activations without data.
        shown = torch.zeros_like(population.example_input[:1]) if x is None else x
        hidden = {layer.name for layer in population.architecture.hidden}
        responses = Responses(self.networks_, shown)
        for layer in population.architecture.hidden:
            done = responses[layer.name]
            layers[layer.name], basis = self._layer(layer.name, projections, done)
            if any(m.writes in hidden for m in population.architecture.reading(layer.name)):
                projections[layer.name] = self._projections(layer.name, basis, [each.read for each in done])
        self.layers_ = layers
        return self

    def _layer(
        self, name: str, projections: Mapping[str, Sequence[Projection]], done: Sequence[Activations]
    ) -> tuple[LayerCensus, Basis]:
        symmetry = usable_symmetry(self.population_.architecture, name)
        member, index = (part.numpy() for part in unit_index(self.networks_, name))
        alive = torch.cat(
            [
                find_alive(network, name, None if self.calibration_ is None else each.read)
                for network, each in zip(self.networks_, done, strict=True)
            ]
        ).numpy()
        if not alive.any():
            raise InputError(
                "every unit of this layer is dead: the members are constant", where=f"layer '{name}'",
                cure="check the members, or pass calibration data like what they were trained on",
            )  # fmt: skip
        table = hyperplanes(self.networks_, name, projections)
        rows = table.augmented
        if self.distance == "activation":  # pre-activations of all members' units on (some of) the calibration data
            rows = torch.cat([each.written[evenly(each.written)].T for each in done])
        points = embed(rows[torch.from_numpy(alive)], self.distance, symmetry)
        wanted = self._n_clusters(self.population_, name, int(alive.sum()))
        clusterer = CLUSTERERS[self.clusterer]
        clustering = clusterer(points, wanted, self.random_state)

        cut = np.full(len(alive), -1)
        cut[alive] = clustering.cut(wanted)
        clusters = with_stability(
            count(cut, member, len(self.networks_)), points, np.flatnonzero(alive), member, clusterer,
            n_resamples=self.n_resamples, random_state=self.random_state,
        )  # fmt: skip
        clusters = in_order(clusters)
        basis = basis_of(rows, clusters.labels, self.population_.widths(name), symmetry, alive)
        centroids = torch.cat(basis.mixing).T @ table.augmented
        return (
            LayerCensus(name, member, index, alive, len(self.networks_), clustering, clusters, centroids.numpy()),
            basis,
        )

    def _projections(self, name: str, basis: Basis, own: Sequence[Tensor]) -> Sequence[Projection]:
        """Each member's projection on the layer's clusters; refitted to data where the grounding says so."""
        architecture, shared = self.population_.architecture, None
        if self.grounding == "activations":
            shared = basis_activations(basis, own, usable_symmetry(architecture, name))
        return express(basis, own, shared, intercept=takes_offset(architecture, name)).projections

    def _n_clusters(self, population: Population, name: str, n_units: int) -> int | None:
        wanted = self.n_clusters.get(name) if isinstance(self.n_clusters, Mapping) else self.n_clusters
        if self.clusterer == "hdbscan":
            return None
        if wanted is None:
            return min(n_units, 2 * population.median_width(name))
        return resolve_width(wanted, population.median_width(name), where=f"n_clusters of layer '{name}'")

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
        if isinstance(self.n_clusters, Mapping):
            for name in self.n_clusters:
                if not population.architecture.layer(name).interchangeable:  # or raises
                    raise InputError("the outputs are not clustered", where="n_clusters", got=repr(name))
        if x is None:
            if self.grounding == "activations" or self.distance == "activation":
                raise InputError(
                    "this census needs calibration data", where="Census.fit(x=...)", got=None,
                    cure='pass unlabelled inputs, or use grounding="weights" and distance="cosine"',
                )  # fmt: skip
            return
        check_inputs(population, x, "the calibration data")
        for layer in population.architecture.hidden:
            wanted = self._n_clusters(population, layer.name, sum(population.widths(layer.name)))
            if wanted is not None and wanted > sum(population.widths(layer.name)):
                raise InputError(
                    "more clusters than units", where=f"n_clusters of layer '{layer.name}'", got=wanted,
                    expected=f"at most {sum(population.widths(layer.name))}", cure="ask for fewer clusters",
                )  # fmt: skip


def member_networks(census: Census) -> Sequence[TracedNetwork]:
    """The members in canonical form; raises if the census has not been taken."""
    if not hasattr(census, "layers_"):
        raise InputError("the census has not been taken", where="Census", cure="call fit first")
    return census.networks_
