"""The page of a recovery (``templates/recovery.html.j2``)."""

from __future__ import annotations

from collections import Counter

from consilience.report.page import render
from consilience.report.recovery import plots
from consilience.report.recovery.result import (
    RecoveryResult,
    clusters_sentence,
    evidence_table,
    recovery_sentences,
)


def render_recovery(result: RecoveryResult) -> str:
    """Return the report of a recovery as one self-contained HTML page.

    Raises an `InputError` if no student has a finite error.
    """
    figures, stages = {"errors": plots.training_errors(result)}, result.layers
    if result.distance is not None and plots.has_pairs(result.distance):
        figures["weights"] = plots.recovered_weights(result.distance)
    for depth, stage in enumerate(stages.values()):
        if stage.cut is not None:
            figures[f"tree{depth}"] = plots.tree_of_units(stage)
            figures[f"matrix{depth}"] = plots.similarities(stage)
            figures[f"clusters{depth}"] = plots.kept_and_dropped(stage)
    return render(
        "recovery.html.j2",
        figures,
        summary=recovery_sentences(result),
        result=result,
        evidence=None if (evidence := result.diagnostics.evidence) is None else evidence_table(evidence),
        layers={name: clusters_sentence(name, stage) for name, stage in stages.items()},
        endings={name: dict(Counter(stage.students.status)) for name, stage in stages.items()},
    )
