"""Which classes a cluster of units is for: accuracy by class with it off, and with it alone.

Axis legend: ``n`` samples, ``o`` classes, ``c`` clusters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from consilience.modularity.lesions import (
    FloatArray,
    Labels,
    check_labelled,
    cluster_labels,
    logits,
    read_clusters,
    without_units,
)
from consilience.units.architecture import TracedNetwork


@dataclass(frozen=True, eq=False)
class Specialisation:
    """Accuracy by class, 0 to 1; NaN for classes without samples.

    Attributes
    ----------
    labels : (c,) of the clusters, ascending.
    before : (o,) of the whole network.
    off : (o, c) with a cluster off.
    alone : (o, c) with all other clusters off; units of no cluster stay on.
    """

    labels: tuple[int, ...]
    before: FloatArray
    off: FloatArray
    alone: FloatArray

    @property
    def drop(self) -> FloatArray:
        """Accuracy lost with a cluster off: (o, c)."""
        drop: FloatArray = self.before[:, None] - self.off
        return drop


def specialisation(network: TracedNetwork, clusters: Mapping[str, Labels], x: Tensor, y: Tensor) -> Specialisation:
    """Switch off each cluster, then all but each, and read the accuracy on every class.

    Parameters
    ----------
    network, clusters, x, y : as in `consilience.modularity.lesions.lesions`.

    Raises
    ------
    InputError
        If the clusters do not fit the network or there are none, or x and y are not inputs and classes of the network.

    References
    ----------
    Golechha, Chaudhary, Velja, Abate and Schoots (2025), Studying cross-cluster modularity in neural networks.
    """
    found = read_clusters(network, clusters)
    check_labelled(network, x, y)
    labels = cluster_labels(found)
    off = [{name: of == label for name, of in found.items()} for label in labels]
    others = [{name: (of >= 0) & (of != label) for name, of in found.items()} for label in labels]
    lesioned = ([_by_class(without_units(network, units), x, y) for units in sets] for sets in (off, others))
    return Specialisation(labels, _by_class(network, x, y), *(np.stack(columns, axis=1) for columns in lesioned))


def _by_class(network: TracedNetwork, x: Tensor, y: Tensor) -> FloatArray:
    outputs = logits(network, x)
    right, n_classes = outputs.argmax(1) == y, outputs.shape[1]
    n, hits = (np.bincount(of.cpu().numpy(), minlength=n_classes) for of in (y, y[right]))
    accuracy: FloatArray = np.full(n_classes, np.nan)
    np.divide(hits, n, out=accuracy, where=n > 0)
    return accuracy
