"""How well a network splits into clusters: its n-cut, and those of shuffled networks (Filan et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray
from torch import Tensor, nn

from consilience.checks import check_choice, check_count, check_seed, is_count
from consilience.clustering.spectral import Spectrum, clusters_of, n_cut, spectrum
from consilience.errors import InputError
from consilience.modularity.graph import UnitGraph, representative, traced, unit_graph
from consilience.modularity.nulls import NULLS, null_graph, p_lower, warn_of_tails, z_score
from consilience.names import Null, Scale
from consilience.units.architecture import TracedNetwork

MOST_JOBS = 2**15  # processes


@dataclass(eq=False, repr=False)
class Clusterability:
    """The n-cut of the clusters that spectral clustering finds among a network's units, and those of shuffled networks.

    Parameters
    ----------
    n_clusters : number of clusters of all units, inputs and outputs included; 12 as published.
    null : how weights are shuffled; see `consilience.modularity.nulls`.
    n_null : number of shuffled networks, 0 or more.
    scale : "balanced" measures the network with every relu or linear unit's incoming and outgoing weights at equal
        norm, so that a rescaling of units does not matter; "as-given" its weights as they are (as published).
    random_state : seed of the shuffles and of k-means.
    n_jobs : processes for the shuffled networks; -1 for one per core. Results do not depend on it.

    Attributes
    ----------
    n_cut_ : Σ_c cut(c)/vol(c), 0 (no edges between clusters) to ``n_clusters``.
    null_ : (n_null,) n-cuts of the shuffled networks, which are clustered in the same way.
    z_ : (n_cut_ − mean of the null) / its standard deviation, below 0 if modular; NaN if the null does not vary, or has
        fewer than two networks.
    p_ : (number of shuffled networks with a lower or equal n-cut + 1) / (n_null + 1); NaN if ``n_null`` is 0.
    labels_ : inputs and layers → cluster of each unit (u,), −1 for units without an edge.
    sizes_ : (n_clusters,) number of units of each cluster.
    eigenvalues_ : (n_clusters + 1,) of the normalised Laplacian, ascending (one less in the smallest graphs).
    coordinates_ : inputs and layers → spectral coordinates of each unit (u, n_clusters).
    removed_ : inputs and layers → units without an edge.
    graph_ : the graph.

    Examples
    --------
    >>> import torch
    >>> from consilience.nets import MLP
    >>> result = Clusterability(n_clusters=3, n_null=10).fit(MLP(8, [12, 12], 4), torch.randn(5, 8))
    >>> 0 < result.n_cut_ < 3, result.labels_["hidden.0"].shape
    (True, (12,))
    """

    n_clusters: int = 12
    null: Null = "permute"
    n_null: int = 50
    scale: Scale = "balanced"
    random_state: int = 0
    n_jobs: int = 1

    def fit(self, network: nn.Module | TracedNetwork | UnitGraph, example_input: Tensor | None = None) -> Self:
        """Cluster the network's units, and those of shuffled networks.

        Parameters
        ----------
        network : a module, the ``network`` of a population's member, or a graph, which is measured as it is.
        example_input : (n, ...) inputs on which a module is traced.

        Raises
        ------
        InputError : also if a weight is not finite, all are zero, clusters are more than units with an edge, or edges
            are too few to be rewired (null "degree-preserving").

        Warns
        -----
        NullWarning : if weights are so heavy-tailed that p may be too small (null "degree-preserving").
        """
        check_choice("null", self.null, NULLS)
        check_count("n_null", self.n_null, 0)
        check_seed("random_state", self.random_state)
        check_count("n_clusters", self.n_clusters, 2)
        if not is_count(self.n_jobs, -MOST_JOBS, MOST_JOBS) or self.n_jobs == 0:
            raise InputError(f"n_jobs must be an int other than 0, -1 for one per core, got {self.n_jobs!r}")
        if not isinstance(network, UnitGraph):
            network = representative(traced(network, example_input), self.scale)
        graph = unit_graph(network)
        n_connected = int(graph.connected.sum())
        check_count("n_clusters", self.n_clusters, 2, n_connected, cure=f"only {n_connected} units have an edge")
        if self.null == "degree-preserving" and self.n_null:
            warn_of_tails(graph)
        eigen, labels, self.n_cut_ = _clustered(graph, self.n_clusters, self.random_state)
        self.graph_, self.eigenvalues_ = graph, eigen.values
        self.labels_, self.removed_ = graph.by_group(labels), graph.removed
        self.sizes_ = np.bincount(labels[labels >= 0], minlength=self.n_clusters)
        self.coordinates_ = graph.by_group(eigen.coordinates[:, : self.n_clusters])
        seeds = np.random.SeedSequence(self.random_state).spawn(self.n_null)
        cuts = (delayed(_shuffled_cut)(graph, self.null, self.n_clusters, seed, self.random_state) for seed in seeds)
        self.null_ = np.array(Parallel(self.n_jobs)(cuts))
        self.z_, self.p_ = z_score(self.n_cut_, self.null_), p_lower(self.n_cut_, self.null_)
        return self


def _clustered(graph: UnitGraph, k: int, random_state: int) -> tuple[Spectrum, NDArray[np.int64], float]:
    """The k + 1 first eigenvectors, the clusters of the nodes by k of them, and their n-cut; fewer in small graphs."""
    n_connected = int(graph.connected.sum())
    eigen = spectrum(graph.blocks, graph.degree, min(k + 1, n_connected))
    labels = clusters_of(Spectrum(eigen.values[:k], eigen.vectors[:, :k], eigen.degree), random_state)
    return eigen, labels, n_cut(graph.blocks, graph.degree, labels)


def _shuffled_cut(graph: UnitGraph, null: Null, k: int, seed: np.random.SeedSequence, random_state: int) -> float:
    return _clustered(null_graph(graph, null, np.random.default_rng(seed)), k, random_state)[2]
