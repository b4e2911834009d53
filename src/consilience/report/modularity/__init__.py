"""The page of a measurement of modularity: result, table, plots."""

from __future__ import annotations

from consilience.report.modularity.page import render_modularity
from consilience.report.modularity.plots import (
    class_circuits,
    class_clusters,
    cluster_lesions,
    eigenvalue_gaps,
    graph_embedding,
    n_cuts,
    weight_matrices,
)
from consilience.report.modularity.result import ModularityResult, NetworkRow, modularity_sentences, modularity_table

__all__ = [
    "ModularityResult",
    "NetworkRow",
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
