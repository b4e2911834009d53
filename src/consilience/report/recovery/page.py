"""The page of a recovery (``templates/recovery.html.j2``)."""

from __future__ import annotations

from collections import Counter

from markupsafe import Markup

from consilience.report.page import Illustration, illustration, render
from consilience.report.recovery import plots
from consilience.report.recovery.result import RecoveryResult, clusters_sentence, recovery_sentences


def render_recovery(result: RecoveryResult) -> str:
    """Return the report of a recovery as one self-contained HTML page.

    Raises
    ------
    InputError
        If no student has a finite error.
    """
    first, *rest = recovery_sentences(result)
    title = f"A network recovered: {result.network}"
    errors = illustration(plots.training_errors(result), "errors", "Errors of the students and of the network, sorted")
    distance, weights = result.distance, None
    if distance is not None and plots.has_pairs(distance):
        weights = illustration(plots.recovered_weights(distance), "weights", "Recovered against true weights")
    return render(
        "recovery.html.j2",
        title=title if result.diagnostics.exact else "Not recovered: do not trust this network",
        subtitle=f"{result.n_samples} inputs and their outputs · {result.sizes[0]} inputs, {result.sizes[-1]} outputs",
        summary=[Markup("<strong>{}</strong>").format(first), *rest],
        errors=errors,
        weights=weights,
        n_missing=distance.missing if distance else 0,
        layers=[(name, clusters_sentence(name, stage), _drawn(result, name)) for name, stage in result.layers.items()],
        obtained={
            "Command, seed, versions": result.obtained,
            "How training of the students ended": {
                name: dict(Counter(stage.students.status)) for name, stage in result.layers.items()
            },
            "Activations tried": {
                trial.name: f"median error {trial.loss:.1e}, plateau of e^{trial.plateau:.1f}"
                for trial in result.diagnostics.activations
            },
        },
    )


def _drawn(result: RecoveryResult, name: str) -> dict[str, Illustration]:
    """Return the figures of a layer: tree, matrix, clusters; none where no cluster survives."""
    stage = result.layers[name]
    if stage.cut is None:
        return {}
    drawn = {
        "tree": (plots.tree_of_units(stage), f"Tree of the students' units in {name}"),
        "matrix": (plots.similarities(stage), f"Similarities of hyperplanes in {name}"),
        "clusters": (plots.kept_and_dropped(stage), f"Clusters kept and dropped in {name}"),
    }
    depth = list(result.layers).index(name)
    return {key: illustration(figure, f"{key}{depth}", text) for key, (figure, text) in drawn.items()}
