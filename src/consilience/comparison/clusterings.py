"""What one model makes of the samples: a clustering of them at every place, from its activations there.

Axis legend: ``n`` sample, ``d`` feature, ``c`` coordinate after reduction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from consilience.clustering.samples import Coordinates, Labels, cluster, reduce
from consilience.comparison.cache import recorded
from consilience.comparison.inputs import Ids
from consilience.errors import InputError


@dataclass(frozen=True, eq=False)
class Clusterings:
    """Clusterings of the samples by one model."""

    labels: Mapping[str, Labels]  # place → (n,) clusters
    points: Mapping[str, Coordinates]  # place → (n, c) standardized and reduced activations, if they are kept
    activations: Mapping[str, NDArray[np.floating]]  # place → (n, d) activations as recorded, if they are kept


@dataclass(frozen=True)
class PlaceClusterer:
    """Clusters the samples at each place; parameters are those of `ModelComparison`."""

    positions: str
    reduction: str
    n_components: int
    clusterer: str
    n_clusters: int
    random_state: int
    cache: Path | None
    keep_activations: bool

    def fit(
        self, module: nn.Module, places: Mapping[str, str], x: Tensor, ids: Ids, model: str, keep_points: bool = False
    ) -> Clusterings:
        """Cluster inputs x (n, ...) with these ids, at places → names of the model's modules."""
        labels, points, activations = dict[str, Labels](), dict[str, Coordinates](), dict[str, NDArray[np.floating]]()
        for layer, values in recorded(module, list(places.values()), x, ids, self.positions, self.cache, model):
            where = f"{model}, layer '{layer}'"
            if len(values) != len(ids):
                got = f"{len(values)} rows for {len(ids)} tokens"
                raise InputError(f"{where} must return a row for each token, got {got}", cure="leave this layer out")
            # a layer may be at several places, which have the same clustering
            of_layer = [place for place, name in places.items() if name == layer]
            if self.keep_activations:
                activations |= dict.fromkeys(of_layer, values.copy())
            reduced = reduce(values, self.reduction, self.n_components, self.random_state, where)
            labels |= dict.fromkeys(of_layer, self._labels(reduced, where))
            if keep_points:
                points |= dict.fromkeys(of_layer, reduced)
        return Clusterings(labels, points, activations)

    def fit_together(self, clusterings: Sequence[Clusterings], model: str) -> Clusterings:
        """Cluster a model's reduced activations at several epochs, side by side; these are its activations, too."""
        points = {
            place: np.concatenate([epoch.points[place] for epoch in clusterings], axis=1)
            for place in clusterings[0].points
        }
        labels = {place: self._labels(values, f"{model}, place '{place}'") for place, values in points.items()}
        return Clusterings(labels, {}, points if self.keep_activations else {})

    def _labels(self, points: Coordinates, where: str) -> Labels:
        return cluster(points, self.clusterer, self.n_clusters, self.random_state, where)
