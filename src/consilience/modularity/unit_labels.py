"""Clusters of units, given as labels by layer: checked, and compared for pairs of units.

Axis legend: ``u`` units written, ``i`` units read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from consilience.checks import as_tensor, check_size, describe
from consilience.errors import InputError
from consilience.modularity.graph import node_groups, parts_of
from consilience.units.architecture import Layer, TracedNetwork

Clusters: TypeAlias = Mapping[str, ArrayLike | Tensor]  # layer → cluster of each unit (u,), −1 for none
Labels: TypeAlias = NDArray[np.int64]


def contiguous(n_units: int, n_clusters: int) -> Labels:
    """Return equal blocks of units as clusters: (u,).

    >>> contiguous(5, 2)
    array([0, 0, 0, 1, 1])
    """
    check_size("n_units", n_units)
    check_size("n_clusters", n_clusters)
    return np.arange(n_units) * n_clusters // n_units


def same_cluster(rows: Labels, columns: Labels) -> NDArray[np.bool_]:
    """Return which rows and columns are in one cluster, (u, i); those of label −1 are in none."""
    return np.asarray((rows[:, None] == columns) & (rows >= 0)[:, None])


def matrix_labels(clusters: Clusters, network: TracedNetwork) -> dict[str, Labels]:
    """Return labels of the units of some layers, or of the inputs, with a weight matrix between two of them."""
    _check_mapping(clusters)
    groups, widths = node_groups(network), network.architecture.widths
    labels = {
        name: _of_layer(name, groups[name] if name in groups else network.architecture.layer(name).width, given)
        for name, given in clusters.items()
    }
    if not any(p.read in labels and p.written in labels and not p.per_unit for p in parts_of(network)):
        got, cure = ", ".join(labels) or "none", f"layers are {', '.join(widths)}"
        raise InputError(f"clusters must be of layers of which one reads another, got {got}", cure=cure)
    return labels


def hidden_labels(clusters: Clusters, network: TracedNetwork) -> dict[str, Tensor]:
    """Return labels (u,) of the units of hidden layers, as int64, by the first layer of each tied family."""
    _check_mapping(clusters)
    families = dict[str, Tensor]()
    for name, given in clusters.items():
        labels = torch.from_numpy(_of_layer(name, hidden_layer(network, name).width, given))
        first = network.architecture.first(name)
        if not torch.equal(families.setdefault(first, labels), labels):
            message = f"clusters of the tied layers {first!r} and {name!r} must be equal"
            raise InputError(message, cure="pass those of one layer")
    if not cluster_numbers(families):
        raise InputError(f"clusters must have a label >= 0, got {'only -1' if families else 'no layer'}")
    return families


def cluster_numbers(labels: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Return the labels of all clusters, ascending."""
    return tuple(sorted({label for values in labels.values() for label in values.tolist() if label >= 0}))


def hidden_layer(network: TracedNetwork, name: str) -> Layer:
    """Return a layer by name, or raise unless it is hidden."""
    layer = network.architecture.layer(name)
    if not layer.interchangeable:
        hidden = ", ".join(repr(other.name) for other in network.architecture.hidden)
        raise InputError(f"a layer with clusters or lesions must be hidden, got {name!r}", cure=f"hidden are {hidden}")
    return layer


def _check_mapping(clusters: object) -> None:
    if not isinstance(clusters, Mapping):
        raise InputError(f"clusters must be a mapping layer → cluster of each unit, got {describe(clusters)}")


def _of_layer(name: str, width: int, given: ArrayLike | Tensor) -> Labels:
    return checked_labels(f"clusters[{name!r}]", width, given)


def checked_labels(name: str, width: int | None, given: ArrayLike | Tensor) -> Labels:
    """Return labels (u,) of ``width`` units, or of any number, −1 for no cluster; ``name`` is for errors."""
    labels = as_tensor(given, name).cpu().numpy()
    if labels.ndim != 1 or not labels.size or labels.dtype.kind not in "iu" or len(labels) != (width or len(labels)):
        got, size = f"{labels.dtype} {labels.shape}", "n" if width is None else width
        raise InputError(f"{name} must be ints ({size},), one for each unit, got {got}")
    if int(labels.min()) < -1:
        raise InputError(f"{name} must be >= 0, or -1 for no cluster, got {labels.min()}")
    return labels.astype(np.int64)
