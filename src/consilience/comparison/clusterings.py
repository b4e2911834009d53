"""What one model makes of the samples: a clustering of them at every place, from activations that are then forgotten.

Axis legend: ``n`` sample, ``d`` feature, ``c`` coordinate after reduction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from consilience.clustering.samples import Labels, Points, cluster, reduce
from consilience.comparison.cache import recorded
from consilience.comparison.inputs import Ids


@dataclass(frozen=True, eq=False)
class View:
    """One model's view of the samples.

    Attributes
    ----------
    labels : place → (n,) clusters.
    points : place → (n, c) standardised and reduced activations; empty if they were not to be kept.
    activations : place → (n, d) as recorded; empty if they were not to be kept.
    """

    labels: Mapping[str, Labels]
    points: Mapping[str, Points]
    activations: Mapping[str, NDArray[np.floating]]

    def without_points(self) -> View:
        """Return the view without its points."""
        return replace(self, points={})


@dataclass(frozen=True)
class Viewing:
    """How models look at samples; the parameters are those of `ModelComparison`.

    Attributes
    ----------
    keep_points, keep_activations : whether views hold them.
    """

    positions: str
    reduction: str
    n_components: int
    clusterer: str
    n_clusters: int
    random_state: int
    cache: Path | None
    keep_points: bool
    keep_activations: bool

    def view(self, module: nn.Module, places: Mapping[str, str], x: Tensor, ids: Ids, model: str) -> View:
        """Return a model's view of inputs x (n, ...) with these ids, at places → names of its modules.

        Raises
        ------
        InputError
            If activations are constant, not finite, or differ in fewer samples than there should be clusters; it names
            the model and the layer.
        """
        labels, points, activations = dict[str, Labels](), dict[str, Points](), dict[str, NDArray[np.floating]]()
        for name, found in recorded(module, list(places.values()), x, ids, self.positions, self.cache, model):
            where = f"{model}, layer '{name}'"
            own = [place for place in places if places[place] == name]
            for place in own:
                needed = self.keep_activations or place != own[-1]
                reduced = reduce(
                    found.copy() if needed else found, self.reduction, self.n_components, self.random_state, where
                )
                labels[place] = cluster(reduced, self.clusterer, self.n_clusters, self.random_state, where)
                if self.keep_points:
                    points[place] = reduced
                if self.keep_activations:
                    activations[place] = found
        return View(labels, points, activations)

    def combined(self, views: Sequence[View], model: str) -> View:
        """Return the view of a model at several times of its training: their reduced activations side by side.

        These stand for the activations, too.
        """
        points = {place: np.concatenate([view.points[place] for view in views], axis=1) for place in views[0].points}
        labels = {
            place: cluster(own, self.clusterer, self.n_clusters, self.random_state, f"{model}, place '{place}'")
            for place, own in points.items()
        }
        return View(labels, {}, points if self.keep_activations else {})
