"""The page of a measurement of modularity: result, table, plots."""

from consilience.report.modularity.page import render_modularity
from consilience.report.modularity.result import ModularityResult, NetworkRow, modularity_sentences, modularity_table

__all__ = ["ModularityResult", "NetworkRow", "modularity_sentences", "modularity_table", "render_modularity"]
