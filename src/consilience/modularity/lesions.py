"""What a network loses when units are switched off: each cluster, two clusters at a time, or as many random units.

A unit is *off* where its activation, as read, is zero: its outgoing weights are zero in every map that mixes units.
Layers that are tied are lesioned together. A cluster is all units of one label, whatever their layers.

Axis legend: ``n`` samples, ``u`` units, ``c`` clusters, ``r`` random sets of units.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from consilience.errors import InputError
from consilience.signals.batches import batch_size
from consilience.units.architecture import Layer, TracedNetwork

FloatArray = NDArray[np.float64]
Labels = Tensor | NDArray[np.integer]


@dataclass(frozen=True, eq=False)
class Effects:
    """By how much lesions worsen one measure: positive where the units were of use.

    Attributes
    ----------
    before : the measure of the whole network.
    single : (c,) change with one cluster off.
    random : (c, r) change with random units off instead, as many in each layer as the cluster has there.
    double : (c, c) change with two clusters off; the single one on the diagonal.
    """

    before: float
    single: FloatArray
    random: FloatArray
    double: FloatArray

    @property
    def mean(self) -> FloatArray:
        """Mean change over random sets: (c,)."""
        mean: FloatArray = self.random.mean(1)
        return mean

    @property
    def sd(self) -> FloatArray:
        """Standard deviation of the change over random sets: (c,)."""
        sd: FloatArray = self.random.std(1, ddof=1)
        return sd

    @property
    def importance(self) -> FloatArray:
        """How much more a cluster matters than random units, z = (single − mean) / sd: (c,).

        Where all random sets change the measure alike, it is ±∞, or NaN if the cluster does so too.
        """
        z: FloatArray = np.full(len(self.single), np.nan)
        alike = np.ptp(self.random, axis=1) == 0
        beyond = self.single - self.random[:, 0]
        z[alike & (beyond != 0)] = np.sign(beyond[alike & (beyond != 0)]) * np.inf
        z[~alike] = (self.single - self.mean)[~alike] / self.sd[~alike]
        return z

    @property
    def p(self) -> FloatArray:
        """(1 + random sets that matter at least as much as the cluster) / (1 + r): (c,)."""
        at_least = (self.random >= self.single[:, None]).sum(1)
        p: FloatArray = (1 + at_least) / (1 + self.random.shape[1])
        return p

    @property
    def excess(self) -> FloatArray:
        """What two clusters off change beyond the sum of what each does: (c, c), NaN on the diagonal."""
        excess: FloatArray = self.double - self.single[:, None] - self.single
        np.fill_diagonal(excess, np.nan)
        return excess


@dataclass(frozen=True, eq=False)
class Lesions:
    """What clusters are worth to a network.

    Attributes
    ----------
    labels : (c,) of the clusters, ascending.
    sizes : (c,) units of each, in all layers; those of tied layers count once.
    accuracy : drops of the accuracy, 0 to 1.
    loss : rises of the mean cross-entropy, in nats.
    """

    labels: tuple[int, ...]
    sizes: tuple[int, ...]
    accuracy: Effects
    loss: Effects


def lesions(
    network: TracedNetwork,
    clusters: Mapping[str, Labels],
    x: Tensor,
    y: Tensor,
    *,
    n_random: int = 100,
    random_state: int = 0,
) -> Lesions:
    """Switch off each cluster, every two of them, and random units, and read accuracy and loss.

    Random units are drawn without replacement from all units of the same layers, the cluster's own and those of no
    cluster among them: in each layer, as many as the cluster has there.

    Parameters
    ----------
    network : any traced network.
    clusters : hidden layer → labels (u,) of its units, −1 for no cluster. Layers that are not named have no clusters,
        and a label is one cluster in all layers.
    x, y : inputs (n, ...) and their classes (n,).
    n_random : random sets for each cluster, 2 or more.
    random_state : seed; the random sets of a cluster do not depend on which others there are.

    Raises
    ------
    InputError
        If the clusters do not fit the network or there are none, x and y are not inputs and classes of the network, or
        ``n_random`` or ``random_state`` is out of its range.

    References
    ----------
    Filan, Casper, Hod, Wild, Critch and Russell (2021), Clusterability in neural networks. There the units of a cluster
    in one layer are lesioned at a time; here, in all layers together.
    """
    found = read_clusters(network, clusters)
    check_labelled(network, x, y)
    if n_random < 2:
        raise InputError("too few random sets", where="n_random", got=n_random, expected="2 or more")
    if random_state < 0:
        raise InputError("the seed is negative", where="random_state", got=random_state, expected="0 or more")
    labels = cluster_labels(found)
    off = [{name: of == label for name, of in found.items()} for label in labels]
    whole = _badness(network, x, y)

    def change(units: Mapping[str, Tensor]) -> FloatArray:
        return _badness(without_units(network, units), x, y) - whole

    single = np.array([change(units) for units in off])
    random = np.array([
        [change(drawn) for drawn in _random_sets(units, n_random, (random_state, label))]
        for label, units in zip(labels, off, strict=True)
    ])  # fmt: skip
    double = np.empty((len(labels), len(labels), 2))
    for a, first in enumerate(off):
        double[a, a] = single[a]
        for b, second in enumerate(off[:a]):
            double[a, b] = double[b, a] = change({name: first[name] | second[name] for name in found})
    sizes = tuple(sum(int(mask.sum()) for mask in units.values()) for units in off)
    accuracy, loss = (
        Effects(before, single[:, i], random[:, :, i], double[:, :, i])
        for i, before in enumerate((-float(whole[0]), float(whole[1])))
    )
    return Lesions(labels, sizes, accuracy, loss)


def without_units(network: TracedNetwork, off: Mapping[str, Tensor]) -> TracedNetwork:
    """Return the network with units off: every map that mixes units reads zero of them.

    Maps per unit, as depthwise convolutions and norms of a stream, pass them on to tied layers, which are lesioned too.
    What follows an activation before it is read, as pooling, does not matter; a layer norm still sees the units.
    Batch norms of the maps concerned are folded.

    Parameters
    ----------
    network : any traced network.
    off : hidden layer → (u,) bool, True for units to switch off; of tied layers, the union.

    Raises
    ------
    InputError
        If there is no such layer, it is not hidden, or a mask does not fit it.
    """
    architecture, dead = network.architecture, dict[str, Tensor]()
    for name, mask in off.items():
        layer = _hidden(network, name)
        if mask.shape != (layer.width,) or mask.dtype != torch.bool:
            raise InputError(
                "not a mask of the layer's units", where=f"layer '{name}'", got=f"{mask.dtype} {tuple(mask.shape)}",
                expected=f"torch.bool ({layer.width},)",
            )  # fmt: skip
        first = architecture.first(name)
        dead[first] = dead[first] | mask if first in dead else mask
    dead = {name: mask for name, mask in dead.items() if bool(mask.any())}
    for m in architecture.maps:
        read = [None if axis.layer is None else dead.get(architecture.first(axis.layer)) for axis in m.inputs]
        if m.per_unit or all(mask is None for mask in read):
            continue
        weights = network.weights(m)
        parts = tuple(
            part if mask is None else part.masked_fill(mask[:, None], 0)
            for part, mask in zip(weights.parts, read, strict=True)
        )
        network = network.with_weights(m, replace(weights, parts=parts))
    return network


def read_clusters(network: TracedNetwork, clusters: Mapping[str, Labels]) -> dict[str, Tensor]:
    """Return the labels (u,) as int64, by the first layer of each family.

    Raises
    ------
    InputError
        If there is no such layer, it is not hidden, labels are not one whole number of −1 or more for each unit, tied
        layers differ, or there is no cluster at all.
    """
    found = dict[str, Tensor]()
    for name, labels in clusters.items():
        layer = _hidden(network, name)
        given = labels.cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
        if given.shape != (layer.width,):
            raise InputError(
                "not one label for each unit", where=f"layer '{name}'", got=given.shape, expected=(layer.width,)
            )
        if given.dtype.kind not in "iu" or int(given.min()) < -1:
            raise InputError(
                "not labels of clusters", where=f"layer '{name}'", got=f"{given.dtype}, at least {given.min()}",
                expected="whole numbers, 0 or more, or −1 for units of no cluster",
            )  # fmt: skip
        first, own = network.architecture.first(name), torch.from_numpy(given.astype(np.int64))
        if not torch.equal(found.setdefault(first, own), own):
            raise InputError(
                "tied layers have different clusters", where=f"layers '{first}' and '{name}'",
                cure="name one of them",
            )  # fmt: skip
    if not cluster_labels(found):
        raise InputError(
            "there are no clusters", where="clusters", got="no layer" if not found else "labels that are all −1"
        )
    return found


def cluster_labels(clusters: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Return the labels of all clusters, ascending."""
    return tuple(sorted({label for labels in clusters.values() for label in labels.tolist() if label >= 0}))


def check_labelled(network: TracedNetwork, x: Tensor, y: Tensor) -> None:
    """Refuse what are not finite inputs of a network and their classes.

    Raises
    ------
    InputError
        As said.
    """
    shape, n_classes = network.architecture.program.input_shape, network.architecture.output.width
    dtype = next(value.dtype for value in network.state.values())
    if x.dtype != dtype:
        raise InputError("x has the wrong type", where="x", got=x.dtype, expected=f"{dtype}, as the parameters are")
    if tuple(x.shape[1:]) != shape or len(x) == 0:
        raise InputError(
            "x has the wrong shape", where="x", got=tuple(x.shape), expected=f"(n, {', '.join(map(str, shape))}), n ≥ 1"
        )
    bad = ~torch.isfinite(x).flatten(1).all(1)
    if bool(bad.any()):
        raise InputError(
            "x is not finite", where=f"row {int(bad.nonzero()[0])}", got=f"{int(bad.sum())} rows with NaN or infinity",
            cure="remove these rows",
        )  # fmt: skip
    if y.shape != (len(x),) or y.dtype != torch.int64:
        raise InputError(
            "not one class for each sample", where="y", got=f"{y.dtype} {tuple(y.shape)}",
            expected=f"torch.int64 ({len(x)},)",
        )  # fmt: skip
    if int(y.min()) < 0 or int(y.max()) >= n_classes:
        raise InputError(
            "the classes do not fit the outputs", where="y", got=f"{int(y.min())} to {int(y.max())}",
            expected=f"0 to {n_classes - 1}",
        )  # fmt: skip


def logits(network: TracedNetwork, x: Tensor) -> Tensor:
    """Return the outputs (n, o) for inputs x (n, ...), in batches and without gradients."""
    with torch.no_grad():
        return torch.cat([network(batch) for batch in x.split(batch_size(network))])


def _hidden(network: TracedNetwork, name: str) -> Layer:
    layer = network.architecture.layer(name)
    if not layer.interchangeable:
        raise InputError(
            "only hidden layers can be lesioned", where=f"layer '{name}'",
            expected=", ".join(repr(each.name) for each in network.architecture.hidden),
        )  # fmt: skip
    return layer


def _random_sets(units: Mapping[str, Tensor], n: int, seed: Sequence[int]) -> Iterator[dict[str, Tensor]]:
    """Masks of random units, as many in each layer as given."""
    generator = np.random.default_rng(seed)
    for _ in range(n):
        yield {name: mask[torch.from_numpy(generator.permutation(len(mask)))] for name, mask in units.items()}


def _badness(network: TracedNetwork, x: Tensor, y: Tensor) -> FloatArray:
    """Accuracy, negative, and loss: (2,)."""
    outputs = logits(network, x)
    accuracy = float((outputs.argmax(1) == y).double().mean())
    return np.array([-accuracy, float(functional.cross_entropy(outputs.double(), y))])
