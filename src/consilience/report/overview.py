"""The main report: an `Experiment` as one page (``templates/report.html.j2``)."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from consilience.errors import InputError
from consilience.report import figures
from consilience.report.page import render
from consilience.report.portraits import WEIGHTS, Picture
from consilience.report.results import LEVEL, Experiment, LayerSummary
from consilience.report.scores import score_table
from consilience.report.style import new_figure, styled
from consilience.report.summary import FULL, summary_sentences

SHOWN = 64  # centroids


def render_page(experiment: Experiment) -> str:
    """Return the report of an experiment as one self-contained HTML page.

    Raises an `InputError` if the table is empty, or something in the experiment cannot be drawn.
    """
    table, learning = experiment.table, dict(sorted(experiment.learning.items()))
    drawn = {"width": _figure_of(figures.accuracy_against_width(table))}
    if learning:
        drawn["learning"] = _figure_of(figures.learning_curves(learning, table))
    drawn |= {f"layer{i}": _curves(layer) for i, layer in enumerate(experiment.layers) if layer.frequency}
    return render(
        "report.html.j2",
        drawn,
        experiment=experiment,
        n_members=experiment.n_members,
        summary=summary_sentences(experiment),
        table=score_table(table),
        metric=table[0].test.metric,
        has_nearness=any(row.closeness for row in table),
        has_full=any(row.width == FULL for row in table),
        has_alternatives=any(row.role.group == "alternative" for row in table),
        centroids=_centroids(experiment),
        weights=WEIGHTS,
        starred=bool(experiment.layers and experiment.layers[0].chance),
    )


def _figure_of(ax: Axes) -> Figure:
    figure = ax.get_figure(root=True)
    assert figure is not None
    return figure


@styled
def _curves(layer: LayerSummary) -> Figure:
    left, right = new_figure(2.6).subplots(1, 2)
    figures.size_curve(layer, right)
    return _figure_of(figures.frequency_curve(layer, left))


def _centroids(experiment: Experiment) -> list[tuple[str, Picture]]:
    """Return the most frequent centroids, each in its own scale, with the share of members that own it.

    A star marks significant ones.
    """
    if not experiment.centroids or not experiment.layers:
        return []
    weights, frequency = experiment.centroids, experiment.layers[0].frequency
    if len(frequency) < len(weights):
        raise InputError(f"every centroid must have a frequency, got {len(weights)} and {len(frequency)}")
    chance = experiment.layers[0].chance
    stars = ["*" if q <= LEVEL else "" for q in chance.q] if chance else [""] * len(frequency)
    shown = zip(frequency[:SHOWN], stars, weights[:SHOWN], strict=False)
    return [
        (_share(share, experiment.n_members) + star, Picture.of_weights(np.asarray(w, float)))
        for share, star, w in shown
    ]


def _share(frequency: float, n_members: int | None) -> str:
    owners = frequency * (n_members or np.nan)
    return f"{owners:.0f}/{n_members}" if abs(owners - np.round(owners)) < 1e-5 else f"{100 * frequency:.0f} %"
