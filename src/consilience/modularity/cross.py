"""Cross-cluster modularity: the share of a weight matrix that stays within clusters (Golechha et al. 2025).

With clusters U_1 … U_k of the units written and V_1 … V_k of the units read,

    C(W) = Σ_c Σ_{i∈U_c, j∈V_c} W_ij² / Σ_ij W_ij²,        enmeshment = 1 − C.

Clusters that are looked for in W itself find some structure in noise too (0.39 with 4 clusters of 64 × 64 entries,
where fixed ones have 1/4), so a null stands beside every value: the same, clustering included, for W with its entries
shuffled.

Axis legend: ``u`` units written, ``i`` units read, ``s`` weights of one unit written for one read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.cluster import KMeans
from torch import Tensor
from torch.nn import functional

from consilience.clustering.spectral import N_INIT, FloatArray, clusters_of, spectrum
from consilience.errors import InputError
from consilience.modularity.chance import z_score
from consilience.modularity.graph import Part, node_groups, parts_of
from consilience.modularity.lesions import check_labelled
from consilience.modularity.nulls import permuted
from consilience.signals.batches import batch_size
from consilience.units.architecture import TracedNetwork

Labels = NDArray[np.int64]
Method = Literal["joint", "separate"]


@dataclass(frozen=True, eq=False)
class CrossModularity:
    """C of one weight matrix.

    Attributes
    ----------
    map, read, written : the map, and the layers between which it leads (or the inputs).
    value : C, 0 to 1.
    null : (n_null,) C of shuffled matrices, clusters found in the same way.
    rows, columns : clusters of the units written (u,) and read (i,).
    """

    map: str
    read: str
    written: str
    value: float
    null: FloatArray
    rows: Labels
    columns: Labels

    @property
    def enmeshment(self) -> float:
        """1 − C."""
        return 1 - self.value

    @property
    def z(self) -> float:
        """(C − mean of the null) / its standard deviation: above 0 is more modular than by chance."""
        return z_score(self.value, self.null)


def within_clusters(matrix: FloatArray, rows: Labels, columns: Labels) -> float:
    """Return C of a matrix (u, i) with clusters of its rows (u,) and columns (i,), −1 for none; NaN if W is zero."""
    squares = np.square(matrix)
    total = float(squares.sum())
    return float(squares[same_cluster(rows, columns)].sum()) / total if total > 0 else float("nan")


def same_cluster(rows: Labels, columns: Labels) -> NDArray[np.bool_]:
    """Return which rows and columns are of one cluster, (u, i); those of label −1 are of none."""
    same: NDArray[np.bool_] = (rows[:, None] == columns) & (rows >= 0)[:, None]
    return same


def contiguous(n_units: int, n_clusters: int) -> Labels:
    """Return equal blocks of units as clusters: (u,).

    >>> contiguous(5, 2)
    array([0, 0, 0, 1, 1])
    """
    return np.arange(n_units) * n_clusters // n_units


def bipartite_clusters(
    matrix: FloatArray, n_clusters: int, method: Method = "joint", random_state: int = 0
) -> tuple[Labels, Labels]:
    """Return clusters of a matrix's rows (u,) and columns (i,), by spectral clustering of |W|.

    Parameters
    ----------
    matrix : (u, i).
    n_clusters : k.
    method : "joint": rows and columns are the nodes of one graph, and clustered together (Dhillon 2001). "separate", as
        published by Golechha et al.: rows by the left, columns by the right singular vectors of
        ``D_U^{-1/2} |W| D_V^{-1/2}``, each for themselves. Cluster 1 of the rows then has nothing to do with cluster 1
        of the columns, and C means nothing; it is here for comparison.
    random_state : seed of k-means.

    Raises
    ------
    InputError
        If there are fewer rows or columns with an entry than clusters, or the method has another name.
    """
    check_method(method)
    weights = np.abs(matrix)
    used = weights.sum(1) > 0, weights.sum(0) > 0
    fewest = min(int(used[0].sum()), int(used[1].sum()))
    if not 2 <= n_clusters <= fewest:
        raise InputError(
            "a matrix cannot have as many clusters", where="n_clusters", got=n_clusters,
            expected=f"2 to {fewest}: its rows, or columns, that are not zero",
        )  # fmt: skip
    if method == "joint":
        n_rows, n_nodes = len(matrix), sum(matrix.shape)
        found = spectrum(n_nodes, [(slice(0, n_rows), slice(n_rows, n_nodes), weights)], n_clusters)
        labels = clusters_of(found, random_state)
        return labels[:n_rows], labels[n_rows:]
    own = weights[np.ix_(*used)]
    left, _, right = np.linalg.svd(own / np.sqrt(own.sum(1)[:, None] * own.sum(0)), full_matrices=False)
    sides = []
    for vectors, of in zip((left[:, :n_clusters], right[:n_clusters].T), used, strict=True):
        labels = np.full(len(of), -1)
        labels[of] = KMeans(n_clusters, n_init=N_INIT, random_state=random_state).fit_predict(vectors)
        sides.append(labels)
    return sides[0], sides[1]


def cross_modularity(
    network: TracedNetwork,
    clusters: Method | Mapping[str, ArrayLike] = "joint",
    n_clusters: int = 4,
    *,
    n_null: int = 20,
    random_state: int = 0,
    gradients_of: tuple[Tensor, Tensor] | None = None,
) -> list[CrossModularity]:
    """Return C of every weight matrix of a network that mixes units.

    Of a convolution, and of a linear map of flattened channels, an entry is the root of the sum of the squares of all
    weights between two units.

    Parameters
    ----------
    network : the network.
    clusters : how they are found in each matrix, matrices with fewer rows or columns than clusters being left out; or
        layer → clusters of its units (u,), to be kept, for matrices between two of these layers.
    n_clusters : for each matrix, where they are found.
    n_null : shuffled matrices for each.
    random_state : seed of shuffles and k-means.
    gradients_of : inputs (n, ...) and labels (n,): then entries are not weights but root mean squares, over batches, of
        the gradients of the cross-entropy.

    Raises
    ------
    InputError
        If clusters do not fit the layers, inputs or labels do not fit the network, or no matrix has as many rows and
        columns as there are to be clusters.
    """
    if isinstance(clusters, str):
        check_method(clusters)
    else:
        clusters = checked_clusters(clusters, network)
    found = list[CrossModularity]()
    if gradients_of is not None:
        check_labelled(network, *gradients_of)
    source = network if gradients_of is None else _with_gradients(network, *gradients_of)
    for part in parts_of(source):
        if part.per_unit:
            continue
        if isinstance(clusters, str):
            matrix = entries(part)
            if min(matrix.any(1).sum(), matrix.any(0).sum()) < n_clusters:
                continue
            sides = bipartite_clusters(matrix, n_clusters, clusters, random_state)
        elif part.read in clusters and part.written in clusters:
            matrix, sides = entries(part), (clusters[part.written], clusters[part.read])
        else:
            continue
        generator, null = np.random.default_rng([random_state, len(found)]), []
        for _ in range(n_null):
            shuffled = permuted(matrix, generator)
            own = sides
            if isinstance(clusters, str):  # a sparse matrix may have fewer rows with an entry once it is shuffled
                fewest = int(min(shuffled.any(1).sum(), shuffled.any(0).sum()))
                own = bipartite_clusters(shuffled, max(2, min(n_clusters, fewest)), clusters, random_state)
            null.append(within_clusters(shuffled, *own))
        value = within_clusters(matrix, *sides)
        found.append(CrossModularity(part.map, part.read, part.written, value, np.array(null), *sides))
    if not found:
        raise InputError(
            "no weight matrix has as many rows and columns", where="n_clusters", got=n_clusters, cure="ask for fewer"
        )
    return found


def check_method(method: str) -> None:
    """Refuse a name that no method of clustering has."""
    if method not in get_args(Method):
        raise InputError("there is no such method", where="method", got=repr(method), expected="joint or separate")


def checked_clusters(clusters: Mapping[str, ArrayLike], network: TracedNetwork) -> dict[str, Labels]:
    """Return clusters of the units of some layers, or of the inputs, as arrays; −1 is no cluster.

    Raises
    ------
    InputError
        If a layer does not exist or its units are not as many, or no weight matrix lies between two of the layers.
    """
    checked, groups = {name: np.array(labels) for name, labels in clusters.items()}, node_groups(network)
    for name, labels in checked.items():
        width = groups[name] if name in groups else network.architecture.layer(name).width
        if labels.shape != (width,) or labels.dtype.kind not in "iu":
            raise InputError(
                "each unit of a layer needs one cluster", where=f"clusters['{name}']",
                got=f"{labels.shape} of {labels.dtype}", expected=f"({width},) of integers",
            )  # fmt: skip
    if not any(p.read in checked and p.written in checked and not p.per_unit for p in parts_of(network)):
        raise InputError(
            "no weight matrix lies between layers with clusters", where="clusters", got=", ".join(checked) or "nothing",
            expected="layers of which one reads another: " + ", ".join(n for n in network.architecture.widths),
        )  # fmt: skip
    return checked


def entries(part: Part) -> FloatArray:
    """Return a number for each unit written and read, (u, i), whose square is the sum of all squares between them."""
    matrix: FloatArray = part.weights.detach().double().square().sum(2).sqrt().cpu().numpy()
    if not np.isfinite(matrix).all():
        raise InputError("a weight is not finite", where=f"'{part.map}'", cure="train the network anew")
    return matrix


def _with_gradients(network: TracedNetwork, x: Tensor, y: Tensor) -> TracedNetwork:
    """The network with, in the place of every weight, the root mean square of its gradient over batches."""
    maps = [m for m in network.architecture.maps if not m.is_norm]
    state = dict(network.state)
    squares = {m.weight: torch.zeros_like(state[m.weight]) for m in maps}
    size = batch_size(network)
    batches = list(zip(x.split(size), y.split(size), strict=True))
    for inputs, labels in batches:
        weights = {name: state[name].detach().requires_grad_() for name in squares}
        loss = functional.cross_entropy(replace(network, state={**state, **weights})(inputs), labels)
        for name, gradient in zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True):
            squares[name] += gradient.square() / len(batches)
    architecture = replace(
        network.architecture, maps=tuple(m if m.is_norm else replace(m, norm=None) for m in network.architecture.maps)
    )
    return TracedNetwork(architecture, {**state, **{name: value.sqrt() for name, value in squares.items()}})
