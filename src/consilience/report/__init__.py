"""Results for people: figures, tables, and one offline page. Takes plain results, never models."""

from __future__ import annotations

from consilience.evaluation import Score
from consilience.report import figures
from consilience.report.overview import render_page
from consilience.report.portraits import LayerAtlas, Patch, Picture, Portrait
from consilience.report.results import ChanceSummary, Experiment, LayerSummary, LearningPoint, Role, Row
from consilience.report.scores import markdown_table
from consilience.report.summary import summary_sentences

__all__ = [
    "ChanceSummary",
    "Experiment",
    "LayerAtlas",
    "LayerSummary",
    "LearningPoint",
    "Patch",
    "Picture",
    "Portrait",
    "Role",
    "Row",
    "Score",
    "figures",
    "markdown_table",
    "render_page",
    "summary_sentences",
]
