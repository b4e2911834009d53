"""Cross-cluster modularity: the share of a weight matrix that is within clusters (Golechha et al. 2025).

With clusters U_1 … U_k of the units written and V_1 … V_k of the units read,

    C(W) = Σ_c Σ_{i∈U_c, j∈V_c} W_ij² / Σ_ij W_ij²,        enmeshment = 1 − C.

Clusters that are fitted to W have a large C in noise too: 0.39 with 4 clusters of 64 × 64 entries, where fixed clusters
have 1/4. Every C therefore comes with a null: C of random matrices, clustered in the same way. These keep the sums of
rows and columns of |W| (`nulls.degree_preserving`): C also depends on how unequal units are, and a permutation of all
entries makes units equal. Weights that are heavy-tailed lie above this null without any clusters; see
docs/results/calibration.md.

Axis legend: ``u`` units written, ``i`` units read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from torch.nn import functional

from consilience import seeds
from consilience.checks import as_array, check_choice, check_count, check_finite, describe
from consilience.clustering.samples import LARGEST_SEED
from consilience.clustering.spectral import FloatArray, clusters_of, degrees, spectrum
from consilience.errors import InputError
from consilience.modularity.graph import SCALES, Part, finite, parts_of, representative
from consilience.modularity.nulls import NULLS, p_lower, z_score
from consilience.modularity.outputs import as_labelled, check_traced, labelled_batches, rows
from consilience.modularity.unit_labels import Clusters, Labels, matrix_labels, same_cluster
from consilience.names import Null, Scale
from consilience.units.architecture import TracedNetwork
from consilience.units.symmetry import balanced

Sides = tuple[Labels, Labels]


@dataclass(frozen=True, eq=False)
class CrossModularity:
    """C of one weight matrix.

    Attributes
    ----------
    map, read, written : the map, the layer (or inputs) that it reads and the layer that it writes.
    value : C, 0 to 1.
    null : (n_null,) C of shuffled matrices, clustered in the same way; empty if the matrix has too few edges for them.
    rows, columns : clusters of the units written (u,) and read (i,).
    no_null : why there is no null, or "".
    """

    map: str
    read: str
    written: str
    value: float
    null: FloatArray
    rows: Labels
    columns: Labels
    no_null: str = ""

    @property
    def enmeshment(self) -> float:
        """1 − C."""
        return 1 - self.value

    @property
    def null_mean(self) -> float:
        """Mean of the null; NaN without one."""
        return float(self.null.mean()) if len(self.null) else float("nan")

    @property
    def z(self) -> float:
        """(C − mean of the null) / its standard deviation, above 0 if modular; NaN without a null that varies."""
        return z_score(self.value, self.null)

    @property
    def p(self) -> float:
        """(Number of shuffled matrices with an equal or larger C + 1) / (n_null + 1); NaN without a null."""
        return p_lower(-self.value, -self.null)


def within_clusters(matrix: FloatArray, rows: Labels, columns: Labels) -> float:
    """Return C of a matrix (u, i) with clusters of its rows (u,) and columns (i,), −1 for none; NaN if W is zero."""
    squares = np.square(matrix)
    total = float(squares.sum())
    return float(squares[same_cluster(rows, columns)].sum()) / total if total > 0 else float("nan")


def bipartite_clusters(matrix: FloatArray, n_clusters: int, random_state: int = 0) -> Sides:
    """Return clusters of a matrix's rows (u,) and columns (i,), the nodes of one bipartite graph (Dhillon 2001).

    Parameters
    ----------
    matrix : (u, i), of which the absolute values are the weights of edges.
    n_clusters : k, at most the number of rows, and of columns, with an entry other than 0.
    random_state : seed of k-means.
    """
    matrix = as_array(matrix, "matrix").astype(np.float64)
    if matrix.ndim != 2:
        raise InputError(f"matrix must have shape (u, i), got {matrix.shape}")
    check_finite(torch.from_numpy(matrix), "matrix")
    check_count("random_state", random_state, 0, LARGEST_SEED)
    n_used = _n_clusterable(matrix)
    check_count("n_clusters", n_clusters, 2, n_used, cure=f"only {n_used} rows, or columns, have an entry other than 0")
    n_rows, n_nodes = len(matrix), sum(matrix.shape)
    blocks = [(slice(0, n_rows), slice(n_rows, n_nodes), np.abs(matrix))]
    labels = clusters_of(spectrum(blocks, degrees(n_nodes, blocks), n_clusters), random_state)
    return labels[:n_rows], labels[n_rows:]


def cross_modularity(
    network: TracedNetwork,
    clusters: Literal["joint"] | Clusters = "joint",
    n_clusters: int = 4,
    *,
    n_null: int = 20,
    null: Null = "degree-preserving",
    scale: Scale = "balanced",
    random_state: int = 0,
    gradients_of: tuple[Tensor, Tensor] | None = None,
) -> list[CrossModularity]:
    """Return C of every weight matrix of a network that mixes units; see `entries`.

    Parameters
    ----------
    network : the network.
    clusters : "joint" applies `bipartite_clusters` to each of the `clusterable_matrices`. A mapping layer → clusters of
        its units (u,) keeps these, for matrices between two of its layers.
    n_clusters : number of clusters of each matrix, if they are joint.
    n_null : number of shuffled copies of each matrix, 0 or more.
    null : how weights are shuffled; see `consilience.modularity.nulls`. The default keeps every unit's sum of weights;
        matrices with too few edges for that have no null, and say why (``no_null``). With "permute" and
        "permute-nonzero", matrices of unequal units without clusters are far from their copies.
    scale : "balanced", so that a rescaling of units does not matter, or "as-given"; see `Clusterability`.
    random_state : seed of shuffles and k-means.
    gradients_of : inputs (n, ...) and labels (n,); weights are replaced by the RMS of their gradients over batches.
    """
    check_choice("null", null, NULLS)
    check_count("n_null", n_null, 0)
    check_traced(network)
    if gradients_of is not None and not (isinstance(gradients_of, Sequence) and len(gradients_of) == 2):
        raise InputError(f"gradients_of must be a pair of inputs and labels, got {describe(gradients_of)}")
    if gradients_of is None:
        source = representative(network, scale)
    else:
        check_choice("scale", scale, SCALES)
        source = _gradients(balanced(network, bias=False) if scale == "balanced" else network, *gradients_of)
    if isinstance(clusters, str):
        check_choice("clusters", clusters, ("joint",))
        check_count("n_clusters", n_clusters, 2)
        labels, matrices = None, clusterable_matrices(source, n_clusters)
    else:
        labels = matrix_labels(clusters, network)
        matrices = [(p, entries(p)) for p in _mixing(source) if p.read in labels and p.written in labels]
    if not matrices:
        message = f"n_clusters must be at most the rows and columns of some weight matrix, got {n_clusters}"
        raise InputError(message, cure="ask for fewer clusters")

    def sides_of(part: Part, matrix: FloatArray) -> Sides:
        if labels is not None:
            return labels[part.written], labels[part.read]
        # a sparse matrix may have fewer rows with an entry once it is permuted
        return bipartite_clusters(matrix, max(2, min(n_clusters, _n_clusterable(matrix))), random_state)

    results = []
    for k, (part, matrix) in enumerate(matrices):
        copies, no_null = _copies(matrix, null, n_null, seeds.numpy_generator(random_state, k))
        of_copies = np.array([within_clusters(copy, *sides_of(part, copy)) for copy in copies])
        sides = sides_of(part, matrix)
        value = within_clusters(matrix, *sides)
        results.append(CrossModularity(part.map, part.read, part.written, value, of_copies, *sides, no_null))
    return results


def clusterable_matrices(network: TracedNetwork, n_clusters: int) -> list[tuple[Part, FloatArray]]:
    """Return the weight matrices with at least ``n_clusters`` rows and columns other than 0, as `entries`."""
    matrices = [(part, entries(part)) for part in _mixing(network)]
    return [(part, matrix) for part, matrix in matrices if _n_clusterable(matrix) >= n_clusters]


def entries(part: Part) -> FloatArray:
    """Return (u, i) the root of the sum of squares of all weights between every two units."""
    return finite(part.weights.detach().double().square().sum(2).sqrt(), part)


def _copies(matrix: FloatArray, null: Null, n_null: int, generator: Generator) -> tuple[list[FloatArray], str]:
    """Shuffled matrices, or none and why."""
    try:
        return [NULLS[null](matrix, generator) for _ in range(n_null)], ""
    except InputError as error:
        return [], error.message


def _mixing(network: TracedNetwork) -> list[Part]:
    return [part for part in parts_of(network) if not part.per_unit]


def _n_clusterable(matrix: FloatArray) -> int:
    """Number of rows, or columns if they are fewer, with an entry other than 0."""
    return int(min(matrix.any(1).sum(), matrix.any(0).sum()))


def _gradients(network: TracedNetwork, x: Tensor, y: Tensor) -> TracedNetwork:
    """The network with the root mean square over batches of each weight's gradient in place of the weight."""
    x, y = as_labelled(network, x, y)
    maps = [m for m in network.architecture.maps if not m.is_norm]
    state = dict(network.state)
    squares = {m.weight: torch.zeros_like(state[m.weight]) for m in maps}
    batches = list(labelled_batches(network, x, y))
    for inputs, labels in batches:
        weights = {name: state[name].detach().requires_grad_() for name in squares}
        loss = functional.cross_entropy(rows(replace(network, state={**state, **weights}), inputs), labels)
        for name, gradient in zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True):
            squares[name] += gradient.square() / len(batches)
    unfolded = tuple(m if m.is_norm else replace(m, norm=None) for m in network.architecture.maps)
    roots = {name: value.sqrt() for name, value in squares.items()}
    return TracedNetwork(replace(network.architecture, maps=unfolded), {**state, **roots})
