"""The page of motifs (``templates/motifs.html.j2``)."""

from __future__ import annotations

from consilience.report.motifs.plots import wiring
from consilience.report.motifs.result import MotifsResult, motifs_sentences, motifs_table
from consilience.report.page import render


def render_motifs(result: MotifsResult) -> str:
    """Return the report of motifs as one self-contained HTML page."""
    figures = {"wiring": wiring(result)} if result.recurring else {}
    return render(
        "motifs.html.j2", figures, summary=motifs_sentences(result), result=result, table=motifs_table(result)
    )
