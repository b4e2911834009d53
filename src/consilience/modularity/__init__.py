"""Modularity: whether a network splits into clusters, and how to train it so that it does."""

from __future__ import annotations

from consilience.modularity.circuits import Circuit, effective_circuit
from consilience.modularity.clusterability import Clusterability
from consilience.modularity.cross import CrossModularity, bipartite_clusters, cross_modularity
from consilience.modularity.graph import UnitGraph, unit_graph
from consilience.modularity.lesions import lesions, specialisation
from consilience.modularity.masks import BlockMask, clusterable_initialisation
from consilience.modularity.matrices import matrix_modularity
from consilience.modularity.pruning import MagnitudePruning
from consilience.modularity.regularizers import CrossClusterLoss, EigenvalueLoss, MatrixClusterLoss, Penalty
from consilience.modularity.unit_labels import contiguous

__all__ = [
    "BlockMask",
    "Circuit",
    "Clusterability",
    "CrossClusterLoss",
    "CrossModularity",
    "EigenvalueLoss",
    "MagnitudePruning",
    "MatrixClusterLoss",
    "Penalty",
    "UnitGraph",
    "bipartite_clusters",
    "clusterable_initialisation",
    "contiguous",
    "cross_modularity",
    "effective_circuit",
    "lesions",
    "matrix_modularity",
    "specialisation",
    "unit_graph",
]
