"""Which networks behave alike, at which layers, and from which epoch on.

Every model clusters the same samples by its activations at every place, and models are compared by these clusterings
(Zhao 2019), or by the activations themselves.

Axis legend: ``m`` model, ``P`` places, ``n`` sample.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from consilience.checks import as_path, check_choice, check_count, is_count
from consilience.clustering.samples import CLUSTERERS, LARGEST_SEED, REDUCTIONS, Labels, explained, purity
from consilience.comparison import similarity
from consilience.comparison.clusterings import Clusterings, PlaceClusterer
from consilience.comparison.consensus import Consensus, check_method, find_consensus
from consilience.comparison.groups import Groups, group_models
from consilience.comparison.inputs import Models, Samples, Targets, check_samples, modules_of, snapshots_of
from consilience.comparison.places import Calls, Patterns, calls, find_places
from consilience.comparison.similarity import Measure, as_distance, get_measure, null_z
from consilience.errors import InputError
from consilience.signals.record import POSITIONS

Array = NDArray[np.float64]


@dataclass(eq=False, repr=False)
class ModelComparison:
    """Compare models by how they cluster the same samples.

    At each place (one layer in every model) activations are standardized by unit, reduced and clustered; models are as
    similar as these clusterings are. The clustering of a layer does not depend on the other models.

    Parameters
    ----------
    measure : one of `MEASURES`. One of representations compares activations as they are recorded, and keeps all of them
        in memory: m P n d numbers, and as many again for each epoch.
    layers : names or globs of `named_modules`; a mapping place → names or globs (in each model, the first match); or
        None for all layers with weights but the readout, aligned by name or else by depth (`find_places`). The value of
        a linear layer or a convolution is the one before the activation; of several calls the last counts.
    n_clusters : number of clusters of the samples; None for the number of classes in y, or without them of outputs.
    reduction : "pca", "umap" (needs umap-learn) or "none".
    n_components : largest number of coordinates after the reduction.
    clusterer : "kmeans", "ward", "gmm", "spectral" or "hdbscan" (which chooses the number of clusters).
    positions : of convolutions and tokens: "flatten" them, "pool" them by their mean, or take those of tokens as
        "rows": then each token (n, t) is a sample, in all layers compared.
    consensus : method for the clustering that all models agree on: "average", "spectral", or None for no consensus.
    n_null : shuffles of the samples for ``z_``, 2 or more; 0 skips it.
    cache : directory for recorded activations, so that one layer of a model is in memory at a time, instead of all.
    random_state : seed, the same for all models and places.

    Attributes
    ----------
    names_, ids_ : tuples of the names of the m models, and of the ids of the n samples.
    places_ : dict, place → the name of its module in every model.
    n_clusters_ : number of clusters.
    labels_ : dict, place → (m, n) clusters.
    matrix_ : dict, place → (m, m) values of the measure.
    z_ : dict, place → (m, m) z-scores of these values (`null_z`); empty for measures of representations.
    purity_ : dict, place → (m,) share of samples in a cluster whose majority is of their class; of numbers, share of
        their variance that lies between clusters, mean over columns; empty without y.
    groups_ : dict, place → `Groups` of models.
    consensus_ : dict, place → `Consensus` of their clusterings; empty with consensus=None.
    epochs_ : dict, epoch → dict, place → (m, m) values of the measure; empty without epochs.
    combined_ : dict, place → (m, m) values for reduced activations at all epochs side by side; empty without epochs.

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

    measure: str | Measure = "adjusted_rand"
    layers: Patterns | None = None
    n_clusters: int | None = None
    reduction: str = "pca"
    n_components: int = 50
    clusterer: str = "kmeans"
    positions: str = "flatten"
    consensus: str | None = "average"
    n_null: int = 20
    cache: str | os.PathLike[str] | None = None
    random_state: int = 0

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
        models : at least two modules (a mapping name → module or a sequence), a population or a mapping of populations.
        X : inputs (n, ...), or a mapping model → inputs of the same samples, if models take different forms of them.
        y : (n,) classes; for ``purity_`` and the number of clusters. With tokens as rows, (n, t). Or numbers (n, o), or
            (n,) not all whole, of a floating point type; for ``purity_``.
        ids : n different ints or strings; or a mapping model → ids, which must be the same in the same order.
        epochs : of populations with snapshots (``train_population(checkpoint_epochs=...)``).

        Raises
        ------
        InputError : also if samples are fewer than clusters, activations are constant, or an epoch has no snapshot.
        ArtefactError : if the cache has another artefact in place of a layer, or a damaged one.
        """
        measure, modules = self._check(), modules_of(models)
        names = tuple(modules)
        samples = check_samples(names, X, y, ids, tokens=self.positions == "rows")
        snapshots = snapshots_of(models, epochs)
        called = {name: calls(module, samples.x[name], name) for name, module in modules.items()}
        places = find_places(called, self.layers)
        n_clusters = _number_of_clusters(self.n_clusters, samples, called)
        if self.consensus is not None:
            check_method(self.consensus, len(samples), "consensus")
        how = self.positions, self.reduction, self.n_components, self.clusterer, n_clusters, self.random_state
        cache = None if self.cache is None else Path(self.cache)
        clusterer = PlaceClusterer(*how, cache, keep_activations=measure.of == "representations")
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
            layers = [(of_model, place) for of_model in self._clusterings for place in self.places_]
            names = [f"model '{name}', place '{place}'" for name, place in self.layer_index_]
            self._layer_matrix = self._similarities(layers, names)
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
        if not is_count(self.n_null, 0, 0):
            check_count("n_null", self.n_null, 2, cure="0 skips the null")
        check_count("random_state", self.random_state, 0, LARGEST_SEED)
        if self.reduction == "umap" and find_spec("umap") is None:
            message = "reduction must be 'pca' or 'none' without the package umap-learn, got 'umap'"
            raise InputError(message, cure="pip install umap-learn")
        if self.cache is not None:
            as_path(self.cache, "cache")
        if self.cache is not None and Path(self.cache).exists() and not Path(self.cache).is_dir():
            raise InputError(f"cache must be a directory, got the file {self.cache}")
        return get_measure(self.measure)

    def _compare(self, y: Targets | None) -> None:
        """Set all attributes that follow from the clusterings after training."""
        measure, seed = self._measure, self.random_state
        self.labels_, self.matrix_, self.z_ = dict[str, Labels](), dict[str, Array](), dict[str, Array]()
        self.groups_, self.purity_, self.consensus_ = dict[str, Groups](), dict[str, Array](), dict[str, Consensus]()
        if measure.of == "representations" or not self.n_null:
            self.matrix_ = self._matrices(self._clusterings)
        for place in self.places_:
            labels = self.labels_[place] = np.stack([of_model.labels[place] for of_model in self._clusterings])
            if measure.of == "clusterings" and self.n_null:
                null = null_z(labels, measure, self.n_null, seed)
                self.matrix_[place], self.z_[place] = null.value, null.z
            self.groups_[place] = group_models(as_distance(self.matrix_[place], measure))
            if y is not None:
                told = explained if y.ndim == 2 else purity
                self.purity_[place] = np.array([told(of_model, y) for of_model in labels])
            if self.consensus is not None:
                self.consensus_[place] = find_consensus(labels, self.n_clusters_, self.consensus, seed)

    def _matrices(self, clusterings: Sequence[Clusterings], when: str = "") -> dict[str, Array]:
        """Values of the measure between models: place → (m, m)."""
        matrices = {}
        for place in self.places_:
            names = [f"model '{name}'{when}, place '{place}'" for name in self.names_]
            matrices[place] = self._similarities([(of_model, place) for of_model in clusterings], names)
        return matrices

    def _similarities(self, layers: Sequence[tuple[Clusterings, str]], names: Sequence[str]) -> Array:
        """Values of the measure between layers, each by the clusterings of its model and its place."""
        if self._measure.of == "clusterings":
            return similarity.clustering_similarities(
                np.stack([of.labels[place] for of, place in layers]), self._measure
            )
        activations = [of.activations[place] for of, place in layers]
        return similarity.representation_similarities(activations, self._measure, names)


def _number_of_clusters(n_clusters: int | None, samples: Samples, called: Mapping[str, Calls]) -> int:
    """The number given, else of the classes in y, else of the models' outputs."""
    if n_clusters is None and samples.y is not None and samples.y.ndim == 1:
        n_clusters = int(samples.y.max()) + 1
        check_count("the number of classes in y", n_clusters, 2, cure="set n_clusters")
    elif n_clusters is None:
        n_outputs = {str(of_model.n_outputs): of_model.n_outputs for of_model in called.values()}
        n_clusters = next(iter(n_outputs.values()))
        if len(n_outputs) > 1 or n_clusters is None or n_clusters < 2:
            got, cure = f"o = {', '.join(sorted(n_outputs))}", "set n_clusters, or pass y"
            raise InputError(
                f"n_clusters must be given unless all models have outputs (n, o) with one o >= 2, got {got}", cure=cure
            )
    if len(samples) < n_clusters:
        message = f"X must have at least {n_clusters} samples, one for each cluster, got {len(samples)}"
        raise InputError(message, cure="give more samples, or set n_clusters")
    return n_clusters
