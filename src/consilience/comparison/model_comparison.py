"""Which networks behave alike, at which layers, and from which epoch on.

Every model clusters the same samples by its activations at every place, and models are compared by these clusterings
(Zhao 2019), or by the activations themselves.

Axis legend: ``m`` model, ``P`` places, ``n`` sample.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from consilience.checks import check_choice, check_count
from consilience.clustering.samples import CLUSTERERS, LARGEST_SEED, REDUCTIONS, Labels, purity
from consilience.comparison.clusterings import Clusterings, PlaceClusterer
from consilience.comparison.consensus import Consensus, check_method, find_consensus
from consilience.comparison.groups import Groups, group_models
from consilience.comparison.inputs import Samples, check_samples
from consilience.comparison.modules import Models, modules_of, snapshots_of
from consilience.comparison.places import Calls, Patterns, calls, find_places
from consilience.comparison.similarity import (
    Measure,
    as_distance,
    clustering_similarities,
    get_measure,
    null_z,
    representation_similarities,
)
from consilience.errors import InputError
from consilience.signals.record import POSITIONS

Array = NDArray[np.float64]


class ModelComparison:
    """Compare models by how they cluster the same samples.

    At each place (one layer in every model) activations are standardized by unit, reduced and clustered; models are as
    similar as these clusterings are. The clustering of a layer does not depend on the other models.

    Parameters
    ----------
    measure : one of `MEASURES`, of clusterings or of representations. One of representations compares activations as
        they are recorded, and keeps all of them in memory: m P n d numbers, and as many again for each epoch.
    layers : names or globs of `named_modules`; a mapping place → names or globs (in each model, the first match); or
        None for all layers with weights but the readout, aligned by name or, if names differ, by depth. See
        `find_places`. The value of a linear layer or a convolution is the one before the activation. Of several calls
        in one forward pass the last counts.
    n_clusters : number of clusters of the samples; None for the number of classes in y, or without y of outputs.
    reduction : "pca", "umap" (needs umap-learn) or "none".
    n_components : largest number of coordinates after the reduction.
    clusterer : "kmeans", "ward", "gmm", "spectral" or "hdbscan" (which chooses the number of clusters).
    positions : of convolutions and tokens: "flatten" them, or "pool" them by their mean.
    consensus : method for the clustering that all models agree on: "average", "spectral", or None for no consensus.
    n_null : shuffles of the samples for ``z_``, 2 or more; 0 skips it.
    cache : directory in which activations are kept, so that each layer is recorded once, and one layer of a model is in
        memory at a time. Without it, all layers of a model are in memory together.
    random_state : seed, the same for all models and places.

    Attributes
    ----------
    names_ : tuple of m models.
    places_ : dict, place → the name of its module in every model.
    n_clusters_ : number of clusters.
    ids_ : ids of the samples.
    labels_ : dict, place → (m, n) clusters.
    matrix_ : dict, place → (m, m) values of the measure.
    z_ : dict, place → (m, m) distances of these values from those after shuffling the samples, in standard deviations
        (`null_z`); empty for measures of representations.
    purity_ : dict, place → (m,) share of samples in a cluster whose majority is of their class; empty without y.
    groups_ : dict, place → `Groups` of models.
    consensus_ : dict, place → `Consensus` of their clusterings; empty with consensus=None.
    epochs_ : dict, epoch → dict, place → (m, m) values of the measure; empty without epochs.
    combined_ : dict, place → (m, m) values of the measure between models, each represented by its reduced activations
        at all epochs side by side; empty without epochs.

    Examples
    --------
    >>> import torch
    >>> from consilience.nets import MLP
    >>> _ = torch.manual_seed(0)
    >>> one, two = MLP(4, [8, 8], 3), MLP(4, [8, 8], 3)
    >>> comparison = ModelComparison().fit({"one": one, "its twin": one, "two": two}, torch.randn(60, 4))
    >>> list(comparison.matrix_), comparison.matrix_["hidden.1"][0, 1].item()
    (['hidden.0', 'hidden.1'], 1.0)
    >>> comparison.groups_["hidden.1"].labels
    array([0, 0, 1])
    """

    def __init__(
        self,
        measure: str | Measure = "adjusted_rand",
        layers: Patterns | None = None,
        n_clusters: int | None = None,
        reduction: str = "pca",
        n_components: int = 50,
        clusterer: str = "kmeans",
        positions: str = "flatten",
        consensus: str | None = "average",
        n_null: int = 20,
        cache: str | os.PathLike[str] | None = None,
        random_state: int = 0,
    ) -> None:
        self.measure = measure
        self.layers = layers
        self.n_clusters = n_clusters
        self.reduction = reduction
        self.n_components = n_components
        self.clusterer = clusterer
        self.positions = positions
        self.consensus = consensus
        self.n_null = n_null
        self.cache = cache
        self.random_state = random_state

    def fit(
        self,
        models: Models,
        X: ArrayLike | Mapping[str, ArrayLike],
        y: ArrayLike | None = None,
        ids: Sequence[int | str] | Mapping[str, Sequence[int | str]] | None = None,
        epochs: Sequence[int] = (),
    ) -> ModelComparison:
        """Compare models.

        Parameters
        ----------
        models : at least two modules (a mapping name → module or a sequence), of any architectures; or a population, or
            a mapping name → population.
        X : inputs (n, ...), or a mapping model → inputs of the same samples, if models take different forms of them.
        y : (n,) classes; for ``purity_`` and the number of clusters.
        ids : n different ints or strings; or a mapping model → ids, which must be the same in the same order.
        epochs : of populations with snapshots (``train_population(checkpoint_epochs=...)``), for ``epochs_`` and
            ``combined_``.

        Raises
        ------
        InputError
            If a parameter is out of range; there are fewer than two models; a layer matches nothing; there are fewer
            samples than clusters; ids differ between models; inputs or activations are not finite, or activations
            constant; an epoch has no snapshot.
        ArtefactError
            If the cache has another artefact in place of a layer, or a damaged one.
        """
        measure, modules = self._check(), modules_of(models)
        names = tuple(modules)
        samples = check_samples(names, X, y, ids)
        snapshots = snapshots_of(models, epochs)
        called = {name: calls(module, samples.x[name], name) for name, module in modules.items()}
        places = find_places(called, self.layers)
        n_clusters = _number_of_clusters(self.n_clusters, samples, called)
        if self.consensus is not None:
            check_method(self.consensus, len(samples), "consensus")
        clusterer = PlaceClusterer(
            self.positions,
            self.reduction,
            self.n_components,
            self.clusterer,
            n_clusters,
            self.random_state,
            None if self.cache is None else Path(self.cache),
            keep_activations=measure.of == "representations",
        )
        last, early, combined = list[Clusterings](), {epoch: list[Clusterings]() for epoch in snapshots}, []
        for k, (name, module) in enumerate(modules.items()):
            layers, x, model = {place: of[k] for place, of in places.items()}, samples.x[name], f"model '{name}'"
            last.append(clusterer.fit(module, layers, x, samples.ids, model))
            of_epoch = {
                epoch: clusterer.fit(earlier[name], layers, x, samples.ids, f"{model} at epoch {epoch}", True)
                for epoch, earlier in snapshots.items()
            }
            for epoch, clusterings in of_epoch.items():
                early[epoch].append(replace(clusterings, points={}))
            if of_epoch:
                combined.append(clusterer.fit_together(list(of_epoch.values()), model))
        self._clusterings, self._measure = last, measure
        self._layer_matrix: Array | None = None
        self.names_, self.places_, self.n_clusters_, self.ids_ = names, places, n_clusters, samples.ids
        self._compare(samples.y)
        self.epochs_ = {epoch: self._matrices(of_models, f" at epoch {epoch}") for epoch, of_models in early.items()}
        self.combined_ = self._matrices(combined, " at all epochs") if combined else {}
        return self

    @property
    def layer_index_(self) -> tuple[tuple[str, str], ...]:
        """(model, place) of each row of ``layer_matrix_``: all places of the first model, then of the second, …."""
        self._check_fitted("layer_index_")
        return tuple((name, place) for name in self.names_ for place in self.places_)

    @property
    def layer_matrix_(self) -> Array:
        """(m P, m P) values of the measure between all layers, within and across models; computed on first access."""
        self._check_fitted("layer_matrix_")
        if self._layer_matrix is None:
            values = [self._compared(of_model)[place] for of_model in self._clusterings for place in self.places_]
            names = [f"model '{name}', place '{place}'" for name, place in self.layer_index_]
            self._layer_matrix = _similarities(values, self._measure, names)
        return self._layer_matrix

    def _check_fitted(self, attribute: str) -> None:
        if not hasattr(self, "places_"):
            raise InputError(f"{attribute} must be read after fit", cure="call fit first")

    def _check(self) -> Measure:
        """Return the measure, or raise unless all parameters are in range."""
        check_choice("reduction", self.reduction, REDUCTIONS)
        check_choice("clusterer", self.clusterer, CLUSTERERS)
        check_choice("positions", self.positions, POSITIONS)
        if self.n_clusters is not None:
            check_count("n_clusters", self.n_clusters, 2)
        check_count("n_components", self.n_components)
        if self.n_null != 0:
            check_count("n_null", self.n_null, 2, cure="0 skips the null")
        check_count("random_state", self.random_state, 0, LARGEST_SEED)
        if self.reduction == "umap" and find_spec("umap") is None:
            raise InputError(
                "reduction must be 'pca' or 'none' without the package umap-learn, got 'umap'",
                cure="pip install umap-learn",
            )
        if self.cache is not None and Path(self.cache).exists() and not Path(self.cache).is_dir():
            raise InputError(f"cache must be a directory, got the file {self.cache}")
        return get_measure(self.measure)

    def _compare(self, y: NDArray[np.int64] | None) -> None:
        """Set all attributes that follow from the clusterings after training."""
        measure, seed = self._measure, self.random_state
        self.labels_: dict[str, Labels] = {
            place: np.stack([of_model.labels[place] for of_model in self._clusterings]) for place in self.places_
        }
        self.z_: dict[str, Array] = {}
        if measure.of == "clusterings" and self.n_null:
            nulls = {place: null_z(labels, measure, self.n_null, seed) for place, labels in self.labels_.items()}
            self.z_ = {place: null.z for place, null in nulls.items()}
            self.matrix_ = {place: null.value for place, null in nulls.items()}
        else:
            self.matrix_ = self._matrices(self._clusterings)
        self.groups_: dict[str, Groups] = {
            place: group_models(as_distance(matrix, measure)) for place, matrix in self.matrix_.items()
        }
        self.purity_: dict[str, Array] = {}
        if y is not None:
            self.purity_ = {
                place: np.array([purity(of_model, y) for of_model in labels]) for place, labels in self.labels_.items()
            }
        self.consensus_: dict[str, Consensus] = {}
        if self.consensus is not None:
            self.consensus_ = {
                place: find_consensus(labels, self.n_clusters_, self.consensus, seed)
                for place, labels in self.labels_.items()
            }

    def _matrices(self, clusterings: Sequence[Clusterings], when: str = "") -> dict[str, Array]:
        """Values of the measure between models: place → (m, m)."""
        matrices = {}
        for place in self.places_:
            names = [f"model '{name}'{when}, place '{place}'" for name in self.names_]
            values = [self._compared(of_model)[place] for of_model in clusterings]
            matrices[place] = _similarities(values, self._measure, names)
        return matrices

    def _compared(self, clusterings: Clusterings) -> Mapping[str, NDArray[Any]]:
        """What the measure compares, by place."""
        return clusterings.labels if self._measure.of == "clusterings" else clusterings.activations


def _similarities(values: Sequence[NDArray[Any]], measure: Measure, names: Sequence[str]) -> Array:
    if measure.of == "clusterings":
        return clustering_similarities(np.stack(values), measure)
    return representation_similarities(values, measure, names)


def _number_of_clusters(n_clusters: int | None, samples: Samples, called: Mapping[str, Calls]) -> int:
    """The number given, else of the classes in y, else of the models' outputs."""
    if n_clusters is None and samples.y is not None:
        n_clusters = int(samples.y.max()) + 1
        check_count("the number of classes in y", n_clusters, 2, cure="set n_clusters")
    elif n_clusters is None:
        n_outputs = {str(of_model.n_outputs): of_model.n_outputs for of_model in called.values()}
        n_clusters = next(iter(n_outputs.values()))
        if len(n_outputs) > 1 or n_clusters is None or n_clusters < 2:
            raise InputError(
                f"n_clusters must be given unless all models have outputs (n, o) with one o >= 2, got o = "
                f"{', '.join(sorted(n_outputs))}",
                cure="set n_clusters, or pass y",
            )
    if len(samples) < n_clusters:
        raise InputError(
            f"X must have at least {n_clusters} samples, one for each cluster, got {len(samples)}",
            cure="give more samples, or set n_clusters",
        )
    return n_clusters
