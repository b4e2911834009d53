"""The page of a recovery: result, sentences, plots."""

from __future__ import annotations

from consilience.report.recovery.page import render_recovery
from consilience.report.recovery.plots import (
    kept_and_dropped,
    recovered_weights,
    similarities,
    training_errors,
    tree_of_units,
)
from consilience.report.recovery.result import RecoveryResult, recovery_sentences

__all__ = [
    "RecoveryResult",
    "kept_and_dropped",
    "recovered_weights",
    "recovery_sentences",
    "render_recovery",
    "similarities",
    "training_errors",
    "tree_of_units",
]
