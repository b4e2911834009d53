"""The main report: an `Experiment` as one page (``templates/report.html.j2``)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from consilience.errors import InputError
from consilience.report import figures
from consilience.report.page import Illustration, illustration, render
from consilience.report.portraits import WEIGHTS, Picture
from consilience.report.results import Experiment, LayerSummary
from consilience.report.scores import score_table
from consilience.report.style import new_figure, styled
from consilience.report.summary import FULL, summary_sentences

SHOWN = 64  # centroids


def render_page(experiment: Experiment) -> str:
    """Return the report of an experiment as one self-contained HTML page.

    Raises
    ------
    InputError
        If the table is empty, or something in the experiment cannot be drawn.
    """
    table, learning = experiment.table, dict(sorted(experiment.learning.items()))
    width = illustration(figures.accuracy_against_width(table), "width", "Accuracy against parameters")
    curves = learning and illustration(figures.learning_curves(learning, table), "learning", "Accuracy against steps")
    return render(
        "report.html.j2",
        experiment=experiment,
        title=experiment.title,
        subtitle=_subtitle(experiment),
        summary=summary_sentences(experiment),
        table=score_table(table),
        width=width,
        has_full=any(row.width == FULL for row in table),
        has_alternatives=any(row.role.group == "alternative" for row in table),
        learning=curves,
        layers=[(layer, _curves(layer, i), _counts(layer, experiment)) for i, layer in enumerate(experiment.layers)],
        centroids=_centroids(experiment),
        weights=WEIGHTS,
        obtained={
            "Command, seed, versions": experiment.obtained,
            "Data": experiment.data,
            "Members": experiment.population,
            "Census": experiment.census,
        },
    )


def _subtitle(experiment: Experiment) -> str:
    n_members, data, n_layers = experiment.n_members, experiment.data.get("name"), len(experiment.layers)
    parts = (
        f"{n_members} members" if n_members else "",
        f"data: {data}" if data else "",
        f"{n_layers} layer{'' if n_layers == 1 else 's'}" if n_layers else "",
    )
    return " · ".join(part for part in parts if part)


@styled
def _curves(layer: LayerSummary, index: int) -> Illustration | None:
    if not layer.frequency:
        return None
    left, right = new_figure(2.6).subplots(1, 2)
    figures.size_curve(layer, right)
    ax = figures.frequency_curve(layer, left)
    return illustration(ax, f"layer{index}", f"Frequency, stability and size of the clusters of {layer.name}")


def _counts(layer: LayerSummary, experiment: Experiment) -> dict[str, int | bool | None]:
    """Return how many clusters are owned by all members, by half, by only one; whether stability was measured."""
    frequency, n_members = np.asarray(layer.frequency, float), experiment.n_members
    return {
        "shared": int((frequency > 1 - 1e-9).sum()),
        "half": int((frequency > 0.5 - 1e-9).sum()),
        "single": int((frequency < 1.5 / n_members).sum()) if n_members else None,
        "has_stability": bool(np.isfinite(np.asarray(layer.stability, float)).any()),
    }


def _centroids(experiment: Experiment) -> Sequence[tuple[str, Picture]]:
    """Return the most frequent centroids, each in its own scale, with the share of members that own it."""
    if not experiment.centroids or not experiment.layers:
        return []
    weights, frequency = experiment.centroids, experiment.layers[0].frequency
    if len(frequency) < len(weights):
        raise InputError(f"every centroid must have a frequency, got {len(weights)} and {len(frequency)}")
    shares = [_share(each, experiment.n_members) for each in frequency]
    return [
        (share, Picture.of_weights(np.asarray(w, float))) for share, w in zip(shares, weights[:SHOWN], strict=False)
    ]


def _share(frequency: float, n_members: int | None) -> str:
    owners = frequency * (n_members or np.nan)
    return f"{owners:.0f}/{n_members}" if abs(owners - np.round(owners)) < 1e-5 else f"{100 * frequency:.0f} %"
