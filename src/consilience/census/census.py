"""The census: the clusters of every layer of a population, each layer grounded in the clusters of the layer below."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from consilience.bases.grounding import (
    Basis,
    Groups,
    basis_activations,
    basis_of_groups,
    basis_of_medoids,
    express,
    takes_offset,
)
from consilience.bases.hyperplanes import Projection
from consilience.census.head_effects import HeadEffects, head_effects
from consilience.census.head_roles import HeadRoles, head_roles
from consilience.census.layer_census import LayerCensus
from consilience.census.layer_units import LayerUnits, layer_units, turned_units
from consilience.census.significance import Significance, check_measurable, layer_significance
from consilience.census.untrained import BesideUntrained, beside_untrained
from consilience.checks import Width, check_choice, check_count, check_number, check_seed, resolve_width
from consilience.clustering.clusterers import CLUSTERERS, Clustering, resampled
from consilience.clustering.clusters import Clusters, in_order
from consilience.clustering.distances import DISTANCES
from consilience.clustering.significance import RADIUS
from consilience.clustering.stability import stability
from consilience.errors import InputError
from consilience.population.checks import calibration_inputs, check_population, check_side_by_side
from consilience.population.population import Population
from consilience.signals.responses import Responses
from consilience.units.architecture import TracedNetwork
from consilience.units.axes import Axis
from consilience.units.states import changed
from consilience.units.symmetry import NO_SYMMETRY, canonical, usable_symmetry

GROUNDINGS = ("weights", "activations")
UNTRAINED = "Census.beside_untrained compares them with heads before training"

# Clusters a layer's live units into a number of clusters: tree or labels, and clusters with stability, in any order.
ClusterStep = Callable[[LayerUnits, int | None], tuple[Clustering, Clusters]]


def check_fitted(census: object) -> None:
    """Raise unless the argument is a fitted census."""
    if not isinstance(census, Census):
        raise InputError(f"census must be a consilience.Census, got {type(census).__name__}")
    if not hasattr(census, "layers_"):
        raise InputError("census must be fitted, got one that is not", cure="call fit first")


class Census:
    """Cluster the units of a population, layer by layer.

    Parameters
    ----------
    grounding : basis of deeper layers: "activations" (ridge least squares on data) or "weights" (cluster membership).
    distance : "activation" (unit responses on calibration data), "cosine" or "l2" (grounded hyperplanes).
    clusterer : "ward", "average", "two-stage" (hierarchical), "kmeans" or "hdbscan" (flat).
    n_clusters : int, "2x" of the members' median width, or a dict of these by layer; by default "2x". A hierarchical
        clusterer keeps its whole tree: this sets only where it is cut for ``layers_`` and for grounding the next layer.
        "hdbscan" finds its own number.
    n_resamples : resamples of the members for stability; 0 skips it.
    random_state : seed.

    Attributes
    ----------
    layers_ : dict, layer name → `LayerCensus`.
    population_ : the population.
    calibration_ : the calibration inputs, or None.
    significance_ : dict, layer name → `Significance`, computed when first asked for and never saved.

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

    layers_: dict[str, LayerCensus]
    population_: Population
    calibration_: Tensor | None

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
        self._responses: Responses | None = None
        self._significance: dict[str, Significance] = {}  # of layers that were measured with defaults

    def __getstate__(self) -> dict[str, Any]:
        """Go to another process without the responses, which are computed again there."""
        return {**vars(self), "_responses": None}

    @property
    def responses_(self) -> Responses:
        """Responses of the members, in canonical form, to the calibration inputs; computed once, never saved."""
        check_fitted(self)
        return self._signals()

    @property
    def networks_(self) -> tuple[TracedNetwork, ...]:
        """The members in canonical form."""
        return self.responses_.networks

    def __repr__(self) -> str:
        fitted = getattr(self, "layers_", {})
        layers = ", ".join(f"{name} {own.n_units} units in {len(own.size_)} clusters" for name, own in fitted.items())
        return f"<Census of {len(self.population_)} networks: {layers}>" if fitted else "<Census, not fitted>"

    def fit(self, population: Population, x: object = None) -> Census:
        """Take the census of a population.

        Parameters
        ----------
        population : the members.
        x : calibration inputs (n, ...), or a data set that has them, or a DataLoader, torch Dataset or generator of
            batches, of which 20,000 samples are kept; not needed for grounding="weights" with distance "cosine", "l2".

        Raises
        ------
        InputError : also if there are fewer units than clusters, or every unit of a layer is dead.
        """
        calibration = self.check(population, x)
        self.__dict__.pop("layers_", None)  # a fit that fails leaves an unfitted census
        self.set_members(population, calibration)
        self.take_layers(self._cluster, known_alive={})
        return self

    def set_members(self, population: Population, x: Tensor | None) -> None:
        """Take a population and calibration inputs; their responses are computed when first needed."""
        self.population_, self.calibration_, self._responses, self._significance = population, x, None, {}

    def take_layers(self, step: ClusterStep, known_alive: Mapping[str, NDArray[np.bool_]]) -> None:
        """Cluster the layers by ``step`` from the inputs up, each grounded in the clusters of the one below.

        ``known_alive`` has, by layer, the earlier decision for the units of the first members.
        """
        architecture, responses = self.population_.architecture, self._signals()
        layers, projections = dict[str, LayerCensus](), dict[Axis, Sequence[Projection]]()
        for layer in architecture.free:
            known = known_alive.get(layer.name, np.empty(0, dtype=bool))
            units = layer_units(responses, layer.name, projections, distance=self.distance, known_alive=known)
            layers[layer.name], bases = self._take_layer(units, step)
            taken = {tied.name for own in layers for tied in architecture.family(own)}
            for name, basis in bases.items():
                for axis in architecture.read_later(name, taken):
                    projections[axis] = self._projections(axis, basis, responses.at(axis))
        self.layers_ = layers

    @property
    def significance_(self) -> dict[str, Significance]:
        """Recurrence of the clusters beside chance, by layer, as `significance` gives it with its defaults."""
        check_fitted(self)
        self.significance()
        return self._significance

    def significance(
        self, layers: Sequence[str] | None = None, *, radius: float = RADIUS, n_rotations: int | None = None
    ) -> dict[str, Significance]:
        """Return whether the units of clusters are found in other members, and more than if these were turned.

        Units are compared as the census compares them: by their responses for distance "activation", else by their
        grounded hyperplanes. See `consilience.clustering.significance` for the test.

        Parameters
        ----------
        layers : names; by default all but those of heads.
        radius : cosine above which two units count as alike, for ``recurrence`` and ``chance``; p-values do without it.
        n_rotations : random rotations of each member; by default 100, fewer (at least 20) for many wide members.

        Raises
        ------
        InputError : also if there is only one member, less calibration data than units of a member, or a layer is one
            of heads: those of untrained members recur more than mixtures of them.
        """
        check_fitted(self)
        check_number("radius", radius, least=0, below=1)
        if n_rotations is not None:
            check_count("n_rotations", n_rotations)
        heads = {name for name in self.layers_ if self.population_.architecture.has_insides(name)}
        names = [name for name in self.layers_ if name not in heads] if layers is None else list(layers)
        for name in names:
            check_choice("layers", name, self.layers_)
            if name in heads:
                message = f"layers must be of units for members to be turned, got the heads of '{name}'"
                raise InputError(f"{message}: mixtures of heads are not like heads", cure=UNTRAINED)
        is_default = radius == RADIUS and n_rotations is None
        measured = {name: self._significance[name] for name in names if is_default and name in self._significance}
        missing = [name for name in names if name not in measured]
        if not missing:
            return measured
        units_by_layer = self._units()
        for name in missing:
            layer, units = self.layers_[name], units_by_layer(name)
            check_measurable(layer, units.rows[name].shape[1] if self.distance == "activation" else None)
            wanted = None if self.clusterer == "hdbscan" else layer.n_clusters_
            turned = turned_units(units, self.population_.architecture, self.distance, self.random_state)
            measured[name] = layer_significance(
                layer,
                units,
                in_order(self._cluster(turned, wanted)[1]),
                radius=radius,
                n_rotations=n_rotations,
                random_state=self.random_state,
            )
        if is_default:
            self._significance |= measured
        return measured

    def head_roles(self) -> dict[str, HeadRoles]:
        """Return what heads of attention attend to, by layer of heads: mean patterns, and scores on repeated tokens.

        Patterns are of calibration inputs, or of the population's example inputs where the census has none.
        """
        check_fitted(self)
        return head_roles(self.population_, self.layers_, self.calibration_, self.random_state)

    def head_effects(self) -> dict[str, HeadEffects]:
        """Return what heads of attention write, by layer of heads: the outputs that each cluster moves most.

        Each head takes a run of what follows it. Inputs are those of `head_roles`.
        """
        check_fitted(self)
        return head_effects(self.population_, self.layers_, self.calibration_)

    def beside_untrained(
        self, layers: Sequence[str] | None = None, *, initial: Population | None = None
    ) -> dict[str, BesideUntrained]:
        """Return whether the units of clusters recur more, beside chance, than those of untrained members.

        Parameters
        ----------
        layers : names; all by default.
        initial : the members before training; by default the population's snapshot of epoch 0, which
            ``train_population(..., checkpoint_epochs=[0])`` keeps.

        Raises
        ------
        InputError : if the initial values are not known, or are not those of these members; or there is one member.
        """
        check_fitted(self)
        known = self.population_.snapshots
        if initial is None and 0 not in known:
            cure = "pass initial=population, or train with checkpoint_epochs=[0] (--checkpoint-epochs 0)"
            wanted = "the population must know its members' initial values"
            raise InputError(f"{wanted}, got no snapshot of epoch 0", cure=cure)
        initial = known[0] if initial is None else initial
        check_population(initial)
        ours, theirs = (
            {layer.name: population.widths(layer.name) for layer in population.architecture.free}
            for population in (self.population_, initial)
        )
        if theirs != ours:
            raise InputError(f"initial must have the layers and widths of the members, {ours}, got {theirs}")
        units_of, units = self._units(), dict[str, LayerUnits]()
        for name in self.layers_ if layers is None else layers:
            check_choice("layers", name, self.layers_)
            units[name] = units_of(name)
            n_rows = units[name].rows[name].shape[1] if self.distance == "activation" else None
            check_measurable(self.layers_[name], n_rows)
        before = copy.copy(self)
        before.n_resamples = 0
        untrained = before.fit(initial, self.calibration_)._units()
        return {
            name: beside_untrained(self.layers_[name], own, untrained(name), self.random_state)
            for name, own in units.items()
        }

    def _units(self) -> Callable[[str], LayerUnits]:
        """The units of each layer, as its clusters were found in them."""
        responses = self._signals()
        if self.distance == "activation":  # which is the same whatever the basis of the layer below
            alive = {name: layer.alive for name, layer in self.layers_.items()}
            return lambda name: layer_units(responses, name, {}, distance=self.distance, known_alive=alive[name])
        again, units = copy.copy(self), dict[str, LayerUnits]()

        def keep(layer: LayerUnits, n_clusters: int | None) -> tuple[Clustering, Clusters]:
            units[layer.name] = layer
            return self.layers_[layer.name].clustering, self.layers_[layer.name].clusters

        again.take_layers(keep, known_alive={name: layer.alive for name, layer in self.layers_.items()})
        return units.__getitem__

    def n_clusters_of(self, population: Population, layer: str, n_units: int) -> int | None:
        """Return the number of clusters of a layer of ``n_units`` units; None if the clusterer finds it."""
        wanted = self.n_clusters.get(layer) if isinstance(self.n_clusters, Mapping) else self.n_clusters
        median = population.median_width(layer)
        if self.clusterer == "hdbscan":
            return None
        if wanted is None:
            return min(n_units, 2 * median)
        return resolve_width(wanted, median, f"n_clusters of layer '{layer}'")

    def _signals(self) -> Responses:
        if self._responses is None:
            networks = changed(self.population_.networks, canonical)
            if self.calibration_ is None:
                self._responses = Responses.without_data(networks, self.population_.example_input)
            else:
                self._responses = Responses(networks, self.calibration_, self.population_.kind)
        return self._responses

    def _cluster(self, units: LayerUnits, n_clusters: int | None) -> tuple[Clustering, Clusters]:
        clusterer = CLUSTERERS[self.clusterer]
        clustering = clusterer(units.points, n_clusters, self.random_state)
        if self.n_clusters is None and n_clusters is not None:  # of many units, the tree is over micro-clusters
            n_clusters = min(n_clusters, clustering.n_leaves)
        clusters, live = units.count(clustering.cut(n_clusters)), units.alive
        labels, member = clusters.labels[live], units.member[live]
        again = resampled(clusterer, clustering)
        stable = stability(units.points, labels, member, again, self.n_resamples, self.random_state)
        return replace(clustering, micro=None), replace(clusters, stability=stable)

    def _take_layer(self, units: LayerUnits, step: ClusterStep) -> tuple[LayerCensus, dict[str, Basis]]:
        """One layer, and by layer of its family the basis that the clusters make."""
        name, population, n_live = units.name, self.population_, len(units.points)
        wanted, architecture = self.n_clusters_of(population, name, n_live), population.architecture
        clustering, clusters = step(units, None if wanted is None else min(wanted, n_live))
        clusters = in_order(clusters)
        widths, groups = population.widths(name), Groups.of_labels(clusters.labels)
        if architecture.has_insides(name) and self._signals().has_data:
            basis = basis_of_medoids(units.rows[name], groups, widths, units.alive)
            bases = {tied.name: basis for tied in architecture.family(name)}
        else:
            bases, first = dict[str, Basis](), next(iter(units.rows.values()))
            for tied in architecture.family(name):
                rows, symmetry = units.rows.get(tied.name), usable_symmetry(architecture, tied.name)
                if rows is None:  # nothing of its own to be compared by: its units are averaged as they are
                    rows, symmetry = first, NO_SYMMETRY
                bases[tied.name] = basis_of_groups(rows, groups, widths, symmetry, units.alive)
        centroids = units.centroids(bases[name].mixing).numpy()
        of_units = units.member, units.index, units.alive
        return LayerCensus(name, *of_units, units.n_members, clustering, clusters, centroids), bases

    def _projections(self, axis: Axis, basis: Basis, activations: Sequence[Tensor]) -> Sequence[Projection]:
        """Each member's projection on the clusters in one place, refitted to data for grounding "activations"."""
        architecture, shared = self.population_.architecture, None
        assert axis.layer is not None
        basis = basis.at(axis.inside, activations)
        if self.grounding == "activations":
            shared = basis_activations(basis, activations, usable_symmetry(architecture, axis.layer))
        return express(basis, activations, shared, intercept=takes_offset(architecture, axis)).projections

    def check(self, population: Population, x: object) -> Tensor | None:
        """Return the inputs as the members take them; raise unless `fit` can take this census of this population."""
        check_population(population)
        check_choice("grounding", self.grounding, GROUNDINGS)
        check_choice("distance", self.distance, DISTANCES)
        check_choice("clusterer", self.clusterer, CLUSTERERS)
        check_count("n_resamples", self.n_resamples, least=0)
        check_seed("random_state", self.random_state)
        architecture = population.architecture
        if not architecture.hidden:
            raise InputError("population must have members with a hidden layer, got none")
        check_side_by_side(population)
        for name in self.n_clusters if isinstance(self.n_clusters, Mapping) else ():
            layer = architecture.layer(name)  # or raises
            if not layer.interchangeable:
                raise InputError(f"n_clusters must be of hidden layers, got {name!r}, the outputs")
            if layer.tied is not None:
                raise InputError(f"n_clusters must name {layer.tied!r} in place of {name!r}, which is tied to it")
        if x is not None:
            x = calibration_inputs(population, x, "x")
        elif self.grounding == "activations" or self.distance == "activation":
            cure = 'pass unlabelled inputs, or use grounding="weights" and distance="cosine"'
            raise InputError("x must be calibration inputs for this grounding and distance, got None", cure=cure)
        for layer in architecture.free:
            n_units = sum(population.widths(layer.name))
            wanted = self.n_clusters_of(population, layer.name, n_units)
            if wanted is not None:
                check_count(f"n_clusters of layer '{layer.name}'", wanted, most=n_units, cure="ask for fewer clusters")
        return x
