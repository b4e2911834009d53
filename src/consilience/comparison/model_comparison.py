"""Which networks behave alike, where, and since when in training.

Every model clusters the same samples by its activations at every place, and models are compared by these clusterings
(Zhao 2019), or by the activations themselves.

Axis legend: ``m`` model, ``P`` places, ``n`` sample.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from consilience.clustering.samples import Labels, purity
from consilience.comparison.checks import check_cache, check_parameters, resolve_n_clusters
from consilience.comparison.clusterings import View, Viewing
from consilience.comparison.consensus import Consensus, check_method, find_consensus
from consilience.comparison.groups import Groups, group_models
from consilience.comparison.inputs import Samples, check_samples
from consilience.comparison.modules import Models, modules_of, snapshots_of
from consilience.comparison.places import Patterns, calls, find_places
from consilience.comparison.similarity import (
    Measure,
    as_distance,
    clustering_similarities,
    get_measure,
    null_z,
    representation_similarities,
)
from consilience.errors import InputError

Array = NDArray[np.float64]


class ModelComparison:
    """Compare models by what they make of the same samples.

    At each place (one layer in every model) activations are standardised by unit, reduced and clustered; models are as
    alike as these clusterings are. No clustering of a layer depends on which other models there are.

    Parameters
    ----------
    measure : one of `MEASURES`, of clusterings or of representations. One of representations compares activations as
        they are recorded, which then are all in memory: m P n d numbers, and as many again for each epoch.
    layers : what is compared: names or globs of `named_modules`, a mapping place → names or globs (the first that
        matches counts, in each model), or None for all layers with weights but the readout, aligned by name or, if
        names differ, by depth. See `find_places`. A module's output is what it returns: of a linear layer or a
        convolution, what comes before the activation. Of several calls in one forward pass the last counts.
    n_clusters : of a clustering of the samples; None for the number of classes in y, or without y of outputs.
    reduction : "pca", "umap" (needs umap-learn) or "none".
    n_components : coordinates after the reduction, at most.
    clusterer : "kmeans", "ward", "gmm", "spectral" or "hdbscan" (which finds its own number of clusters).
    positions : of convolutions and tokens: "flatten" them, or "pool" them by their mean.
    consensus : how the clustering that all models agree on is found: "average", "spectral", or None for not at all.
    n_null : shuffles of the samples for ``z_``, 2 or more; 0 skips it.
    cache : directory in which activations are kept, so that nothing is recorded twice, and layers of a model are looked
        at one at a time. Without one, all layers of a model are in memory at once.
    random_state : seed, the same for all models and places.

    Attributes
    ----------
    names_ : tuple of m models.
    places_ : dict, place → the name of its module in every model.
    n_clusters_ : the number asked for.
    ids_ : of the samples.
    labels_ : dict, place → (m, n) clusters.
    matrix_ : dict, place → (m, m) values of the measure.
    z_ : dict, place → (m, m) values of the measure in standard deviations from those after shuffling the samples
        (`null_z`); empty for measures of representations.
    purity_ : dict, place → (m,) share of samples in a cluster whose majority is of their class; empty without y.
    groups_ : dict, place → `Groups` of models.
    consensus_ : dict, place → `Consensus` of their clusterings; empty with consensus=None.
    epochs_ : dict, epoch → dict, place → (m, m) values of the measure; empty without epochs.
    combined_ : dict, place → (m, m) values of the measure between models, each represented by its reduced activations
        at all the epochs side by side; empty without epochs.

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
        models : at least two modules (a mapping name → module or a sequence), which may be of different architectures;
            or a population, or a mapping name → population.
        X : inputs (n, ...), or a mapping model → inputs of the same samples, where models take different forms of them.
        y : (n,) classes; for ``purity_`` and the number of clusters.
        ids : n ints or strings that tell samples apart; or a mapping model → ids, which must be the same in the same
            order.
        epochs : of populations with snapshots (``train_population(checkpoint_epochs=...)``), for ``epochs_`` and
            ``combined_``.

        Raises
        ------
        InputError
            If a parameter is unknown or makes no sense; there is one model only; a layer matches nothing; there are
            fewer samples than clusters; samples differ in their ids or order; inputs or activations are not finite, or
            activations constant; an epoch has no snapshot.
        ArtefactError
            If the cache holds something else, or is damaged.
        """
        check_parameters(self)
        measure, modules = get_measure(self.measure), modules_of(models)
        names = tuple(modules)
        samples = check_samples(names, X, y, ids)
        snapshots = snapshots_of(models, epochs)
        called = {name: calls(module, samples.x[name], name) for name, module in modules.items()}
        places = find_places(called, self.layers)
        n_clusters = resolve_n_clusters(self.n_clusters, samples, called)
        if self.consensus is not None:
            check_method(self.consensus, len(samples), where="ModelComparison(consensus=...)")
        viewing = Viewing(
            self.positions, self.reduction, self.n_components, self.clusterer, n_clusters, self.random_state,
            check_cache(self.cache), keep_points=bool(epochs), keep_activations=measure.of == "representations",
        )  # fmt: skip
        views, early, combined = list[View](), {epoch: list[View]() for epoch in snapshots}, list[View]()
        for k, (name, module) in enumerate(modules.items()):
            own = {place: found[k] for place, found in places.items()}
            views.append(viewing.view(module, own, samples.x[name], samples.ids, f"'{name}'").without_points())
            then = [
                viewing.view(earlier[name], own, samples.x[name], samples.ids, f"'{name}' at epoch {epoch}")
                for epoch, earlier in snapshots.items()
            ]
            for epoch, view in zip(snapshots, then, strict=True):
                early[epoch].append(view.without_points())
            if then:
                combined.append(viewing.combined(then, f"'{name}'"))
        self._views = tuple(views)
        self._layer_matrix: Array | None = None
        self._results(measure, names, places, samples, n_clusters)
        self.epochs_ = {
            epoch: _matrices(found, measure, places, [f"'{name}' at epoch {epoch}" for name in names])
            for epoch, found in early.items()
        }
        together = [f"'{name}' at all epochs" for name in names]
        self.combined_ = _matrices(combined, measure, places, together) if combined else {}
        return self

    @property
    def layer_index_(self) -> tuple[tuple[str, str], ...]:
        """(model, place) of each row of ``layer_matrix_``: all places of the first model, then of the second, …."""
        self._check_fitted("layer_index_")
        return tuple((name, place) for name in self.names_ for place in self.places_)

    @property
    def layer_matrix_(self) -> Array:
        """(m P, m P) values of the measure between all layers, within and across models; made when first asked for."""
        self._check_fitted("layer_matrix_")
        if self._layer_matrix is None:
            self._layer_matrix = _compared(
                [_seen(view, self._measure)[place] for view in self._views for place in self.places_],
                self._measure, [f"'{name}', place '{place}'" for name, place in self.layer_index_],
            )  # fmt: skip
        return self._layer_matrix

    def _check_fitted(self, where: str) -> None:
        if not hasattr(self, "places_"):
            raise InputError("nothing has been compared", where=where, cure="call fit first")

    def _results(
        self, measure: Measure, names: tuple[str, ...], places: dict[str, tuple[str, ...]], samples: Samples, k: int
    ) -> None:
        self._measure, self.names_, self.places_ = measure, names, places
        self.n_clusters_, self.ids_ = k, samples.ids
        self.labels_: dict[str, Labels] = {
            place: np.stack([view.labels[place] for view in self._views]) for place in places
        }
        self.z_: dict[str, Array] = {}
        if measure.of == "clusterings" and self.n_null:
            nulls = {
                place: null_z(labels, measure, self.n_null, self.random_state) for place, labels in self.labels_.items()
            }
            self.z_ = {place: null.z for place, null in nulls.items()}
            self.matrix_ = {place: null.value for place, null in nulls.items()}
        else:
            self.matrix_ = _matrices(self._views, measure, places, [f"'{name}'" for name in names])
        self.groups_: dict[str, Groups] = {
            place: group_models(as_distance(matrix, measure)) for place, matrix in self.matrix_.items()
        }
        self.purity_: dict[str, Array] = {}
        if samples.y is not None:
            self.purity_ = {
                place: np.array([purity(own, samples.y) for own in labels]) for place, labels in self.labels_.items()
            }
        self.consensus_: dict[str, Consensus] = {}
        if self.consensus is not None:
            self.consensus_ = {
                place: find_consensus(labels, k, self.consensus, self.random_state)
                for place, labels in self.labels_.items()
            }


def _matrices(
    views: Sequence[View], measure: Measure, places: Mapping[str, Any], models: Sequence[str]
) -> dict[str, Array]:
    """Place → (m, m)."""
    return {
        place: _compared(
            [_seen(view, measure)[place] for view in views], measure, [f"{model}, place '{place}'" for model in models]
        )
        for place in places
    }


def _seen(view: View, measure: Measure) -> Mapping[str, NDArray[Any]]:
    """What the measure compares, by place."""
    return view.labels if measure.of == "clusterings" else view.activations


def _compared(seen: Sequence[NDArray[Any]], measure: Measure, names: Sequence[str]) -> Array:
    """Values of the measure between all that is seen; errors call it by these names."""
    if measure.of == "clusterings":
        return clustering_similarities(np.stack(seen), measure)
    try:
        return representation_similarities(seen, measure)
    except InputError as error:
        where = re.sub(r"^activations\[(\d+)\]", lambda found: names[int(found[1])], str(error.where))
        raise InputError(error.message, where=where, got=error.got, expected=error.expected, cure=error.cure) from error
