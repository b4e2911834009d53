"""The page of a measurement of modularity (``templates/modularity.html.j2``)."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure

from consilience.report.modularity import plots
from consilience.report.modularity.result import ModularityResult, modularity_sentences, modularity_table
from consilience.report.page import render


def render_modularity(result: ModularityResult) -> str:
    """Return the report of a measurement of modularity as one self-contained HTML page.

    Sections about what was not measured are left out. Raises an `InputError` if there is no network.
    """
    return render(
        "modularity.html.j2",
        _drawn(result),
        summary=modularity_sentences(result),
        result=result,
        table=modularity_table(result.rows),
        gaps=np.diff(result.detail.eigenvalues_)[1:],
    )


def _drawn(result: ModularityResult) -> dict[str, Figure]:
    detail, labels, values = result.detail, result.detail.labels_, result.detail.eigenvalues_
    drawn = {"cuts": plots.n_cuts(result.rows, detail, result.name)}
    if len(values) > 2 and np.isfinite(values).all():
        drawn["gaps"] = plots.eigenvalue_gaps(values, len(detail.sizes_))
    if any((of >= 0).any() for of in labels.values()):
        drawn["units"] = plots.graph_embedding(labels, detail.coordinates_)
    if result.matrices:
        drawn["weights"] = plots.weight_matrices(result.matrices, labels)
    if result.probe is not None:
        drawn["classes"] = plots.class_clusters(result.probe)
    if any(math.isfinite(circuit.size) for circuit in result.circuits):
        drawn["circuits"] = plots.class_circuits(result.circuits)
    if result.lesions is not None and np.isfinite(result.lesions.accuracy.single).any():
        drawn["lesions"] = plots.cluster_lesions(result.lesions)
    return drawn
