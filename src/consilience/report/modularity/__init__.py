"""Does a network split into parts? Results, figures and the page of a measurement of modularity."""

from __future__ import annotations

from consilience.report.modularity.cuts import eigenvalue_gaps, n_cuts
from consilience.report.modularity.networks import NetworkRow, modularity_table
from consilience.report.modularity.page import render_modularity
from consilience.report.modularity.parts import UnitsOf, WeightMatrix, graph_embedding, weight_matrices
from consilience.report.modularity.specialists import (
    CircuitRow,
    ClassClusters,
    LesionEffects,
    class_circuits,
    class_clusters,
    cluster_lesions,
)
from consilience.report.modularity.verdicts import ModularityResult, modularity_sentences

__all__ = [
    "CircuitRow",
    "ClassClusters",
    "LesionEffects",
    "ModularityResult",
    "NetworkRow",
    "UnitsOf",
    "WeightMatrix",
    "class_circuits",
    "class_clusters",
    "cluster_lesions",
    "eigenvalue_gaps",
    "graph_embedding",
    "modularity_sentences",
    "modularity_table",
    "n_cuts",
    "render_modularity",
    "weight_matrices",
]
