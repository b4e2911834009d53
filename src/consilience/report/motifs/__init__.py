"""The report of motifs: a table, what it says, and a diagram of the wiring."""

from consilience.report.motifs.page import render_motifs
from consilience.report.motifs.result import MotifsResult, motifs_sentences, motifs_table

__all__ = ["MotifsResult", "motifs_sentences", "motifs_table", "render_motifs"]
