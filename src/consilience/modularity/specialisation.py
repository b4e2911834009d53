"""Which classes a cluster of units serves: accuracy by class with the cluster off, and with the cluster alone.

Axis legend: ``n`` samples, ``o`` classes, ``c`` clusters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from consilience.clustering.spectral import FloatArray
from consilience.modularity.lesions import without_units
from consilience.modularity.outputs import check_labelled, logits
from consilience.modularity.unit_labels import cluster_numbers, hidden_labels
from consilience.units.architecture import TracedNetwork


@dataclass(frozen=True, eq=False)
class Specialisation:
    """Accuracy by class, 0 to 1; NaN for classes without samples.

    Attributes
    ----------
    labels : (c,) labels of the clusters, ascending.
    before : (o,) accuracy of the whole network.
    off : (o, c) accuracy with a cluster off.
    alone : (o, c) accuracy with all other clusters off; units in no cluster stay on.
    """

    labels: tuple[int, ...]
    before: FloatArray
    off: FloatArray
    alone: FloatArray

    @property
    def drop(self) -> FloatArray:
        """Accuracy lost with a cluster off: (o, c)."""
        return np.asarray(self.before[:, None] - self.off)


def specialisation(
    network: TracedNetwork, clusters: Mapping[str, ArrayLike | Tensor], x: Tensor, y: Tensor
) -> Specialisation:
    """Switch off each cluster, then all other clusters, and measure the accuracy of every class.

    Parameters and errors are those of `consilience.modularity.lesions`.

    References
    ----------
    Golechha, Chaudhary, Velja, Abate and Schoots (2025), Studying cross-cluster modularity in neural networks.
    """
    of_unit = hidden_labels(clusters, network)
    check_labelled(network, x, y)
    labels = cluster_numbers(of_unit)
    off = [{name: values == label for name, values in of_unit.items()} for label in labels]
    others = [{name: (values >= 0) & (values != label) for name, values in of_unit.items()} for label in labels]
    lesioned = [[_by_class(without_units(network, units), x, y) for units in sets] for sets in (off, others)]
    return Specialisation(labels, _by_class(network, x, y), *(np.stack(columns, axis=1) for columns in lesioned))


def _by_class(network: TracedNetwork, x: Tensor, y: Tensor) -> FloatArray:
    outputs = logits(network, x)
    correct, n_classes = outputs.argmax(1) == y, outputs.shape[1]
    n, hits = (np.bincount(classes.cpu().numpy(), minlength=n_classes) for classes in (y, y[correct]))
    accuracy: FloatArray = np.full(n_classes, np.nan)
    np.divide(hits, n, out=accuracy, where=n > 0)
    return accuracy
