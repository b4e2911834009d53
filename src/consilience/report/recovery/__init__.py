"""The page of a recovery: result, sentences, plots."""

from consilience.report.recovery.page import render_recovery
from consilience.report.recovery.result import RecoveryResult, recovery_sentences

__all__ = ["RecoveryResult", "recovery_sentences", "render_recovery"]
