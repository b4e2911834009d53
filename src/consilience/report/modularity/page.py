"""The page of a measurement of modularity (``templates/modularity.html.j2``)."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure

from consilience.report.modularity import plots
from consilience.report.modularity.result import ModularityResult, modularity_sentences, table_of
from consilience.report.page import illustration, render

ALTERNATIVES = {
    "cuts": "n-cuts beside those of shuffled copies",
    "gaps": "Eigenvalues and the gaps between them",
    "units": "Units in the plane, colored by cluster",
    "weights": "Weight matrices in the order of the clusters",
    "classes": "Accuracy by class and cluster",
    "circuits": "Weights that each class needs",
    "lesions": "Accuracy lost with clusters off",
}


def render_modularity(result: ModularityResult) -> str:
    """Return the report of a measurement of modularity as one self-contained HTML page.

    Sections about what was not measured are left out.

    Raises
    ------
    InputError
        If there is no network.
    """
    detail, n, gaps = result.detail, len(result.rows), np.diff(result.detail.eigenvalues_)[1:]
    facts = (
        f"{detail.graph_.n_nodes:,} units",
        f"{len(detail.sizes_)} clusters",
        f"{n} networks" if n > 1 else "",
        f"{detail.n_null} shuffled copies{' of each' if n > 1 else ''} ({detail.null})" if detail.n_null else "",
    )
    return render(
        "modularity.html.j2",
        title=f"How modular is {result.name}?",
        subtitle=" · ".join(fact for fact in facts if fact),
        summary=modularity_sentences(result),
        table=table_of(result.rows),
        pictures={name: illustration(drawn, name, ALTERNATIVES[name]) for name, drawn in _drawn(result).items()},
        largest_gap=f"{int(gaps.argmax()) + 2} ({gaps.max():.2g})" if len(gaps) else "",
        obtained={"Command, seed, versions": result.obtained},
    )


def _drawn(result: ModularityResult) -> dict[str, Figure]:
    """Return the figures of what was measured, by name."""
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
