"""The page of a transfer (``templates/transfer.html.j2``)."""

from __future__ import annotations

from consilience.report.page import render
from consilience.report.transfer.plots import accuracies, frequencies
from consilience.report.transfer.result import TransferResult, transfer_sentences, transfer_table, trunks_table


def render_transfer(result: TransferResult) -> str:
    """Return the report of a transfer as one self-contained HTML page."""
    figures = {"frequencies": frequencies(result)} | ({"accuracies": accuracies(result)} if result.trials else {})
    tables = {"table": transfer_table(result), "trunks": trunks_table(result) if result.trials else None}
    return render("transfer.html.j2", figures, summary=transfer_sentences(result), result=result, **tables)
