"""Test accuracy against gradient steps: what an assembly is worth as a place to start from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from consilience.errors import InputError
from consilience.evaluation import Score
from consilience.report import labels
from consilience.report.labels import Label
from consilience.report.ranges import limits, line, note, percent, roomy_axes, with_error
from consilience.report.results import LearningPoint, Row
from consilience.report.roles import ENSEMBLE, by_name, first
from consilience.report.style import COLOURS, looks, shortened, styled

MARKERS = 20  # on a curve at most, so that they stay apart
DASHES = ("-", (0, (5, 2)), (0, (2, 1.5)), (0, (6, 2, 1, 2)))  # for curves that share a role, and so a colour


@styled
def learning_curves(
    learning: Mapping[str, Sequence[LearningPoint]], table: Sequence[Row] = (), ax: Axes | None = None
) -> Axes:
    """Draw test accuracy (%) against gradient steps, with 1-standard-error bands; the ensemble of ``table`` as a line.

    The range fits the second half of every curve. One that starts below it comes in from the edge, and a note says so.

    Raises
    ------
    InputError
        If there is no curve, or one without points.
    """
    if not learning or not all(learning.values()):
        got = {name: f"{len(points)} points" for name, points in learning.items()}
        raise InputError("there is nothing to draw", where="learning", got=got or "no curves")
    curves = {name: sorted(points, key=lambda point: point.step) for name, points in learning.items()}
    ends = {name: with_error(shortened(name), points[-1].test) for name, points in curves.items()}
    ensemble = first(table, ENSEMBLE)
    low, high = limits(_late(curves.values(), [ensemble.test] if ensemble else []))
    outside = [text for name, points in curves.items() if (text := _below(name, points, low))]
    ax = ax or roomy_axes(3.2, list(ends.values()), outside, top=0.15)
    last = max(1, *(points[-1].step for points in curves.values()))
    ax.set(xlabel="gradient steps", ylabel="test accuracy (%)", xlim=(-0.02 * last, 1.02 * last), ylim=(low, high))
    ax.yaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))

    margin = []
    if ensemble:
        line(ax, ensemble)
        margin.append(Label(with_error(ENSEMBLE, ensemble.test), last, 100 * ensemble.test.accuracy, COLOURS[ENSEMBLE]))
    roles = [by_name(name) for name in curves]
    look = looks(list(dict.fromkeys(roles)))
    for index, (name, points) in enumerate(curves.items()):
        colour, marker = look[roles[index]]
        _draw(ax, points, name, colour, marker, DASHES[roles[:index].count(roles[index]) % len(DASHES)])
        margin.append(Label(ends[name], points[-1].step, 100 * points[-1].test.accuracy, colour))
    labels.right_of(ax, margin)
    note(ax, outside)
    return ax


def _late(curves: Iterable[Sequence[LearningPoint]], others: Sequence[Score]) -> list[Score]:
    """Return the scores that the range is to fit.

    These are the ``others``, the second half of every curve, and what lies below them by no more than they differ.
    """
    points = [(point, 2 * point.step >= curve[-1].step) for curve in curves for point in curve]
    scores = [*others, *(point.test for point, late in points if late)]
    low, high = (edge(score.accuracy for score in scores) for edge in (min, max))
    return [*scores, *(point.test for point, _ in points if point.test.accuracy >= 2 * low - high)]


def _draw(ax: Axes, points: Sequence[LearningPoint], name: str, colour: str, marker: str, dashes: Any) -> None:
    step = np.array([point.step for point in points])
    accuracy, error = (
        100 * np.array([getattr(point.test, key) for point in points]) for key in ("accuracy", "accuracy_se")
    )
    ax.fill_between(step, accuracy - error, accuracy + error, color=colour, alpha=0.16, linewidth=0)
    ax.plot(
        step, accuracy, color=colour, linestyle=dashes, marker=marker, markersize=8 if marker == "*" else 5,
        markeredgecolor="white", markeredgewidth=0.4, label=name,
        markevery=-(-len(step) // MARKERS),
    )  # fmt: skip


def _below(name: str, points: Sequence[LearningPoint], low: float) -> str | None:
    """Say how long a curve is below the range, if it is."""
    below = [point for point in points if 100 * point.test.accuracy < low]
    if not below:
        return None
    return f"{name} up to step {below[-1].step:,} (step {below[0].step:,}: {percent(below[0].test.accuracy)})"
