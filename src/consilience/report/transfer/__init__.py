"""The report of a transfer across tasks: clusters by task, and trunks for a new task."""

from consilience.report.transfer.page import render_transfer
from consilience.report.transfer.result import TransferResult, transfer_sentences, transfer_table, trunks_table

__all__ = ["TransferResult", "render_transfer", "transfer_sentences", "transfer_table", "trunks_table"]
