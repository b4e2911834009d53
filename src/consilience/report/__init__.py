"""What was found, for people: figures, a table, and one offline page. Takes plain results, never models."""

from __future__ import annotations

from consilience.evaluation import Score
from consilience.report import figures
from consilience.report.page import render_page, write_page
from consilience.report.portraits import LayerAtlas, Patch, Picture, Portrait
from consilience.report.results import Experiment, LayerSummary, LearningPoint, Row
from consilience.report.summary import summary_sentences
from consilience.report.table import markdown_table

__all__ = [
    "Experiment",
    "LayerAtlas",
    "LayerSummary",
    "LearningPoint",
    "Patch",
    "Picture",
    "Portrait",
    "Row",
    "Score",
    "figures",
    "markdown_table",
    "render_page",
    "summary_sentences",
    "write_page",
]
