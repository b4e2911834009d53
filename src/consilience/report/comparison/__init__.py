"""Which models behave alike, where, and since when? Results, figures and the page of a comparison."""

from __future__ import annotations

from consilience.report.comparison.disputes import disputed_samples
from consilience.report.comparison.findings import comparison_sentences, comparison_table
from consilience.report.comparison.heatmaps import barrier_matrix, layer_matrix, similarity_matrices
from consilience.report.comparison.model_tree import tree_of_models
from consilience.report.comparison.page import render_comparison
from consilience.report.comparison.paths import paths_of_models, plane_at
from consilience.report.comparison.results import ComparisonResult, DisputedSample, GroupsOf

__all__ = [
    "ComparisonResult",
    "DisputedSample",
    "GroupsOf",
    "barrier_matrix",
    "comparison_sentences",
    "comparison_table",
    "disputed_samples",
    "layer_matrix",
    "paths_of_models",
    "plane_at",
    "render_comparison",
    "similarity_matrices",
    "tree_of_models",
]
