"""How well a network splits into parts: its n-cut against those of shuffled networks (Filan et al. 2021)."""

from __future__ import annotations

from typing import Self

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from torch import Tensor, nn

from consilience.clustering.spectral import FloatArray, Spectrum, clusters_of, n_cut, spectrum
from consilience.errors import InputError
from consilience.modularity.chance import p_lower, z_score
from consilience.modularity.graph import UnitGraph, unit_graph
from consilience.modularity.nulls import Null, check_null, null_graph
from consilience.units.architecture import TracedNetwork


class Clusterability:
    """The n-cut of a network's best parts that spectral clustering finds, and what it is by chance.

    Parameters
    ----------
    n_clusters : parts, inputs and outputs among them; 12 as published.
    null : how weights are shuffled for comparison; see `consilience.modularity.nulls`.
    n_null : shuffled networks; 0 for none.
    random_state : seed of the shuffles and of k-means.
    n_jobs : processes for the shuffled networks; -1 for one per core. The result does not depend on it.

    Attributes
    ----------
    n_cut_ : Σ_c cut(c)/vol(c), 0 (parts without edges between them) to ``n_clusters``.
    null_ : (n_null,) n-cuts of the shuffled networks, each with clusters of its own.
    z_ : (n_cut_ − mean of the null) / its standard deviation: below 0 is more modular than by chance. NaN if the null
        has no spread.
    p_ : (number of shuffled networks with a lower or equal n-cut + 1) / (n_null + 1).
    labels_ : inputs and layers → cluster of each unit (u,), −1 for units without an edge.
    sizes_ : (n_clusters,) units of each cluster.
    eigenvalues_ : (n_clusters + 1,) of the normalised Laplacian, ascending (one less in the smallest graphs).
    coordinates_ : inputs and layers → spectral coordinates of each unit (u, n_clusters).
    removed_ : inputs and layers → units without an edge.
    graph_ : the graph.

    Examples
    --------
    >>> import torch
    >>> from consilience.nets import MLP
    >>> found = Clusterability(n_clusters=3, n_null=10).fit(MLP(8, [12, 12], 4), torch.randn(5, 8))
    >>> 0 < found.n_cut_ < 3, found.labels_["hidden.0"].shape
    (True, (12,))
    """

    n_cut_: float
    null_: FloatArray
    z_: float
    p_: float
    labels_: dict[str, NDArray[np.int64]]
    sizes_: NDArray[np.int64]
    eigenvalues_: FloatArray
    coordinates_: dict[str, FloatArray]
    removed_: dict[str, list[int]]
    graph_: UnitGraph

    def __init__(
        self,
        n_clusters: int = 12,
        null: Null = "permute",
        n_null: int = 50,
        random_state: int = 0,
        n_jobs: int = 1,
    ) -> None:
        self.n_clusters = n_clusters
        self.null = null
        self.n_null = n_null
        self.random_state = random_state
        self.n_jobs = n_jobs

    def fit(self, network: nn.Module | TracedNetwork | UnitGraph, example_input: Tensor | None = None) -> Self:
        """Cluster the network's units, and those of shuffled ones.

        Parameters
        ----------
        network : a module, the ``network`` of a population's member, or a graph.
        example_input : (n, ...) inputs on which a module is traced.

        Raises
        ------
        InputError
            If a setting makes no sense, there are more clusters than connected units, a weight is not finite, or all
            are zero.
        TracingError
            If a module is not understood.
        """
        self._check()
        graph = unit_graph(network, example_input)
        n_connected = int(graph.connected.sum())
        if self.n_clusters > n_connected:
            raise InputError(
                "there are more clusters than units with an edge", where="n_clusters", got=self.n_clusters,
                expected=f"at most {n_connected}",
            )  # fmt: skip
        found = spectrum(graph.n_nodes, graph.blocks, min(self.n_clusters + 1, n_connected))
        labels, value, coordinates = _clustered(graph, found, self.n_clusters, self.random_state)
        self.graph_, self.eigenvalues_, self.n_cut_ = graph, found.values, value
        self.labels_ = graph.by_group(labels)
        self.sizes_ = np.bincount(labels[labels >= 0], minlength=self.n_clusters)
        self.coordinates_ = graph.by_group(coordinates)
        self.removed_ = graph.removed
        self.null_ = self._null(graph)
        self.z_, self.p_ = z_score(value, self.null_), p_lower(value, self.null_)
        return self

    def _null(self, graph: UnitGraph) -> FloatArray:
        seeds = np.random.SeedSequence(self.random_state).spawn(self.n_null)
        run = Parallel(n_jobs=self.n_jobs)
        return np.array(
            run(delayed(_shuffled_cut)(graph, self.null, self.n_clusters, seed, self.random_state) for seed in seeds)
        )

    def _check(self) -> None:
        check_null(self.null)
        least_of = {"n_clusters": 2, "n_null": 0, "random_state": 0}
        for name, least in least_of.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
                raise InputError("a setting makes no sense", where=name, got=value, expected=f"{least} or more")


def _clustered(
    graph: UnitGraph, found: Spectrum, k: int, random_state: int
) -> tuple[NDArray[np.int64], float, FloatArray]:
    """Clusters of the nodes from k eigenvectors, their n-cut, and the coordinates."""
    first = Spectrum(found.values[:k], found.vectors[:, :k], found.degree)
    labels = clusters_of(first, random_state)
    return labels, n_cut(graph.n_nodes, graph.blocks, labels), first.coordinates


def _shuffled_cut(graph: UnitGraph, null: Null, k: int, seed: np.random.SeedSequence, random_state: int) -> float:
    """The n-cut of a shuffled graph, whose units without an edge may be more."""
    shuffled = null_graph(graph, null, np.random.default_rng(seed))
    n_connected = int(shuffled.connected.sum())
    found = spectrum(shuffled.n_nodes, shuffled.blocks, min(k + 1, n_connected))  # as many as of the network itself
    return _clustered(shuffled, found, min(k, n_connected), random_state)[1]
