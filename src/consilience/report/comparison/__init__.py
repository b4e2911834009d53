"""The page of a comparison of models: result, table, plots."""

from consilience.report.comparison.page import render_comparison
from consilience.report.comparison.result import (
    ComparisonResult,
    DisputedSample,
    comparison_sentences,
    comparison_table,
)

__all__ = ["ComparisonResult", "DisputedSample", "comparison_sentences", "comparison_table", "render_comparison"]
