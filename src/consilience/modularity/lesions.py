"""What a network loses when units are switched off: each cluster, two clusters at a time, or as many random units.

A unit is *off* if its activation, as other maps read it, is zero: its outgoing weights are zero in every map that mixes
units. Tied layers are lesioned together. A cluster is all units of one label in all layers. Specialisation is the
accuracy by class with a cluster off, and with the cluster alone. Of networks of numbers, R² stands for the accuracy
(1 − squared error / variance), by output, and the squared error for the cross-entropy.

Axis legend: ``n`` samples, ``o`` classes, ``u`` units, ``c`` clusters, ``r`` random sets of units.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from consilience.checks import check_count, check_seed, describe
from consilience.clustering.spectral import FloatArray
from consilience.errors import InputError
from consilience.modularity.outputs import as_told, logits
from consilience.modularity.unit_labels import Clusters, cluster_numbers, hidden_labels, hidden_layer
from consilience.units.architecture import TracedNetwork
from consilience.units.axes import by_row

EQUAL = 1e-6  # accuracies and losses in nats that differ by less are equal up to rounding


@dataclass(frozen=True, eq=False)
class Effects:
    """By how much lesions worsen the accuracy, R² or the loss: positive if the units are of use."""

    before: float  # accuracy, R² or loss of the whole network
    single: FloatArray  # (c,) change with one cluster off
    random: FloatArray  # (c, r) change with random units off instead, as many in each layer as the cluster has there
    double: FloatArray  # (c, c) change with two clusters off; `single` on the diagonal

    @property
    def mean(self) -> FloatArray:
        """Mean change over random sets: (c,)."""
        return np.asarray(self.random.mean(1))

    @property
    def sd(self) -> FloatArray:
        """Standard deviation of the change over random sets: (c,)."""
        return np.asarray(self.random.std(1, ddof=1))

    @property
    def importance(self) -> FloatArray:
        """How much more a cluster matters than random units, z = (single − mean) / sd: (c,).

        If all random sets have equal changes, it is ±∞, or NaN if the cluster's change is the same.
        """
        z: FloatArray = np.full(len(self.single), np.nan)
        alike = np.ptp(self.random, axis=1) <= EQUAL
        beyond = np.where(np.abs(self.single - self.random[:, 0]) > EQUAL, self.single - self.random[:, 0], 0)
        z[alike & (beyond != 0)] = np.sign(beyond[alike & (beyond != 0)]) * np.inf
        z[~alike] = (self.single - self.mean)[~alike] / self.sd[~alike]
        return z

    @property
    def p(self) -> FloatArray:
        """(1 + number of random sets that matter at least as much as the cluster) / (1 + r): (c,)."""
        at_least = (self.random >= self.single[:, None] - EQUAL).sum(1)
        return np.asarray((1 + at_least) / (1 + self.random.shape[1]))

    @property
    def excess(self) -> FloatArray:
        """Change with two clusters off minus the sum of the single changes: (c, c), NaN on the diagonal."""
        excess: FloatArray = self.double - self.single[:, None] - self.single
        np.fill_diagonal(excess, np.nan)
        return excess


@dataclass(frozen=True, eq=False)
class Lesions:
    """Effects of switching off clusters."""

    labels: tuple[int, ...]  # (c,) labels of the clusters, ascending
    sizes: tuple[int, ...]  # (c,) units of each in all layers; those of tied layers count once
    accuracy: Effects  # decreases of the accuracy, 0 to 1, or of R²
    loss: Effects  # increases of the mean cross-entropy, in nats, or of the mean squared error
    metric: str = "accuracy"  # or "R²"


def lesions(
    network: TracedNetwork, clusters: Clusters, x: Tensor, y: Tensor, *, n_random: int = 100, random_state: int = 0
) -> Lesions:
    """Switch off each cluster, every two of them, and random units, and measure accuracy and loss.

    Random units are drawn without replacement from all units of a layer, as many as the cluster has there.

    Parameters
    ----------
    network : any traced network.
    clusters : hidden layer → labels (u,) of its units, −1 for no cluster; a label is one cluster in all layers.
    x, y : inputs (n, ...) and their classes (n,), or numbers (n, o) of a floating point type.
    n_random : random sets for each cluster, 2 or more.
    random_state : seed; the random sets of a cluster do not depend on the other clusters.

    References
    ----------
    Filan, Casper, Hod, Wild, Critch and Russell (2021), Clusterability in neural networks. They lesion the units of a
    cluster one layer at a time; here, all layers are lesioned together.
    """
    x, y = as_told(network, x, y)
    of_unit = hidden_labels(clusters, network)
    check_count("n_random", n_random, 2)
    check_seed("random_state", random_state)
    labels = cluster_numbers(of_unit)
    off = [{name: values == label for name, values in of_unit.items()} for label in labels]
    before = _badness(network, x, y)

    def change(units: Mapping[str, Tensor]) -> FloatArray:
        return _badness(without_units(network, units), x, y) - before

    single = np.array([change(units) for units in off])
    drawn = [_random_sets(units, n_random, (random_state, label)) for label, units in zip(labels, off, strict=True)]
    random = np.array([[change(units) for units in sets] for sets in drawn])
    double = np.empty((len(labels), len(labels), 2))
    for a, first in enumerate(off):
        double[a, a] = single[a]
        for b, second in enumerate(off[:a]):
            double[a, b] = double[b, a] = change({name: first[name] | second[name] for name in of_unit})
    sizes = tuple(sum(int(mask.sum()) for mask in units.values()) for units in off)
    accuracy = Effects(-float(before[0]), single[:, 0], random[:, :, 0], double[:, :, 0])
    loss = Effects(float(before[1]), single[:, 1], random[:, :, 1], double[:, :, 1])
    return Lesions(labels, sizes, accuracy, loss, _metric(y))


def without_units(network: TracedNetwork, off: Mapping[str, Tensor]) -> TracedNetwork:
    """Return the network with units off: every map that mixes units reads zero from them.

    ``off`` has masks (u,) of hidden layers; in tied layers, the union is off. Maps of each unit to itself, such as
    depthwise convolutions and norms of a stream, lead to tied layers, which are lesioned too. A layer norm still reads
    the units. Batch norms of changed maps are folded.
    """
    architecture, dead = network.architecture, dict[str, Tensor]()
    for name, mask in off.items():
        width = hidden_layer(network, name).width
        if mask.shape != (width,) or mask.dtype != torch.bool:
            raise InputError(f"off[{name!r}] must be bool ({width},), got {describe(mask)}")
        first = architecture.first(name)
        dead[first] = dead[first] | mask if first in dead else mask
    dead = {name: mask for name, mask in dead.items() if bool(mask.any())}
    for m in architecture.maps:
        read = [None if axis.layer is None else dead.get(architecture.first(axis.layer)) for axis in m.inputs]
        if m.per_unit or all(mask is None for mask in read):
            continue
        weights = network.weights(m)
        parts = tuple(
            part if mask is None else part.masked_fill(by_row(mask, part.shape[1])[:, None], 0)
            for part, mask in zip(weights.parts, read, strict=True)
        )
        network = network.with_weights(m, replace(weights, parts=parts))
    return network


@dataclass(frozen=True, eq=False)
class Specialisation:
    """Accuracy by class, 0 to 1, NaN for classes without samples; or R² by output."""

    labels: tuple[int, ...]  # (c,) labels of the clusters, ascending
    before: FloatArray  # (o,) accuracy of the whole network
    off: FloatArray  # (o, c) accuracy with a cluster off
    alone: FloatArray  # (o, c) accuracy with all other clusters off; units in no cluster stay on
    metric: str = "accuracy"  # or "R²"

    @property
    def drop(self) -> FloatArray:
        """Accuracy lost with a cluster off: (o, c)."""
        return np.asarray(self.before[:, None] - self.off)


def specialisation(network: TracedNetwork, clusters: Clusters, x: Tensor, y: Tensor) -> Specialisation:
    """Switch off each cluster, then all other clusters, and measure the accuracy of every class.

    Parameters and errors are those of `lesions`.

    References
    ----------
    Golechha, Chaudhary, Velja, Abate and Schoots (2025), Studying cross-cluster modularity in neural networks.
    """
    x, y = as_told(network, x, y)
    of_unit = hidden_labels(clusters, network)
    labels = cluster_numbers(of_unit)
    off = [{name: values == label for name, values in of_unit.items()} for label in labels]
    others = [{name: (values >= 0) & (values != label) for name, values in of_unit.items()} for label in labels]
    lesioned = [[_by_class(without_units(network, units), x, y) for units in sets] for sets in (off, others)]
    without, alone = (np.stack(columns, axis=1) for columns in lesioned)
    return Specialisation(labels, _by_class(network, x, y), without, alone, _metric(y))


def _random_sets(units: Mapping[str, Tensor], n: int, seed: Sequence[int]) -> Iterator[dict[str, Tensor]]:
    generator = np.random.default_rng(seed)
    for _ in range(n):
        yield {name: mask[torch.from_numpy(generator.permutation(len(mask)))] for name, mask in units.items()}


def _badness(network: TracedNetwork, x: Tensor, y: Tensor) -> FloatArray:
    """Negative accuracy or R², and loss: (2,)."""
    outputs = logits(network, x)
    if y.is_floating_point():
        error = float((outputs.double() - y.double()).square().mean())
        return np.array([-float(_r2(outputs, y).mean()), error])
    accuracy = float((outputs.argmax(1) == y).double().mean())
    return np.array([-accuracy, float(functional.cross_entropy(outputs.double(), y.long()))])


def _metric(y: Tensor) -> str:
    return "R²" if y.is_floating_point() else "accuracy"


def _r2(outputs: Tensor, y: Tensor) -> FloatArray:
    """R² of each output: (o,)."""
    errors = (outputs.double() - y.double()).square().mean(0)
    return np.asarray((1 - errors / y.double().var(0, correction=0)).numpy())


def _by_class(network: TracedNetwork, x: Tensor, y: Tensor) -> FloatArray:
    outputs = logits(network, x)
    if y.is_floating_point():
        return _r2(outputs, y)
    correct, n_classes = outputs.argmax(1) == y, outputs.shape[1]
    n, hits = (np.bincount(classes.cpu().numpy(), minlength=n_classes) for classes in (y, y[correct]))
    accuracy: FloatArray = np.full(n_classes, np.nan)
    np.divide(hits, n, out=accuracy, where=n > 0)
    return accuracy
