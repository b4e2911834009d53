"""Test accuracy against the number of parameters, and against gradient steps.

Whatever lies far below the rest is left out of the range and named in a note under the axes, so that it does not flatten
the differences that matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import ScaledTranslation

from consilience.errors import InputError
from consilience.report import labels
from consilience.report.labels import Label
from consilience.report.results import LearningPoint, Row
from consilience.report.roles import ENSEMBLE, REFERENCES, by_name, by_role, first
from consilience.report.style import COLOURS, GRID, MUTED, SMALL, WIDTH, looks, own_axes, styled

DODGE = 4.0  # points sideways between series of the same width, so that error bars do not hide each other
RIGHT = 1.75  # inches for labels in the right margin


@styled
def accuracy_against_width(table: Sequence[Row], ax: Axes | None = None) -> Axes:
    """Draw test accuracy (%) against the number of parameters at inference (logarithmic), with bars of ± 1 standard error.

    One line for each correction of the assembly, with its widths written above; points for all other methods; horizontal
    lines with bands of ± 1 standard error for the mean member, the best member and the ensemble. Rows below the lower outer
    fence of all rows (first quartile − 3 interquartile ranges; Tukey 1977) are named under the axes instead.

    Raises
    ------
    InputError
        If the table is empty.
    """
    if not table:
        raise InputError("there is nothing to draw", where="table", got="no rows")
    series = by_role(table)
    lines = {name: sorted(rows, key=lambda row: row.parameters) for name, rows in series.items() if name not in REFERENCES}
    look = looks(list(lines), grey=[name for name, rows in lines.items() if rows[0].group != "assembly"])
    ax = ax or own_axes(WIDTH, 4.5, left=0.6, right=RIGHT, bottom=0.85, top=0.35)
    floor = _fence([100 * row.test.accuracy for row in table], [100 * row.test.accuracy for row in table if _reference(row)])
    shown = [row for row in table if 100 * row.test.accuracy >= floor]
    _limit_y(ax, [(100 * row.test.accuracy, 100 * row.test.accuracy_se) for row in shown])
    ax.set_xscale("log")
    narrowest = min((row.parameters for rows in lines.values() for row in rows), default=0)
    starts = {name: rows for name, rows in lines.items() if rows[0].parameters <= 1.1 * narrowest and set(rows) & set(shown)}
    column = max((labels.width_of(ax, name) for name in starts), default=0)
    _limit_x(ax, [row.parameters for rows in lines.values() for row in rows] or [row.parameters for row in table], column)
    _references(ax, series)

    obstacles: list[labels.Box] = []
    for index, (name, rows) in enumerate(lines.items()):
        obstacles += _line(ax, rows, name, *look[name], shift=DODGE * (index - (len(lines) - 1) / 2))
    _widths(ax, [row for rows in lines.values() for row in rows])
    beginnings = [_label(name, rows[0], look[name][0]) for name, rows in starts.items()]
    edge = labels.at(ax, narrowest, 0)[0] - DODGE * len(lines) / 2 - 10
    written = labels.left_of(ax, beginnings, edge)
    others = [
        _label(name, next(row for row in rows if row in shown), look[name][0])
        for name, rows in lines.items()
        if name not in starts and set(rows) & set(shown)
    ]
    labels.near(ax, others, [*obstacles, *map(labels.box_of, written)])
    _note(ax, [f"{row.method} {row.width} {_percent(100 * row.test.accuracy)}".replace("  ", " ") for row in table if row not in shown])
    ax.set(xlabel="parameters at inference", ylabel="test accuracy (%)")
    return ax


@styled
def learning_curves(
    learning: Mapping[str, Sequence[LearningPoint]], table: Sequence[Row] = (), ax: Axes | None = None
) -> Axes:
    """Draw test accuracy (%) against gradient steps, with bands of ± 1 standard error; the ensemble of ``table`` as a line.

    The range fits the second half of every curve; a curve that starts below it comes in from the edge, with a note.

    Raises
    ------
    InputError
        If there is no curve, or one without points.
    """
    if not learning or not all(learning.values()):
        raise InputError("there is nothing to draw", where="learning", got={name: len(points) for name, points in learning.items()})
    curves = {name: sorted(points, key=lambda point: point.step) for name, points in learning.items()}
    look = looks([by_name(name) for name in curves])
    ax = ax or own_axes(WIDTH, 3.6, left=0.6, right=RIGHT, bottom=0.85, top=0.15)
    ensemble = first(table, ENSEMBLE)
    late = [point.test for points in curves.values() for point in points if 2 * point.step >= points[-1].step]
    scores = [*late, ensemble.test] if ensemble else late
    low, high = min(score.accuracy for score in scores), max(score.accuracy for score in scores)
    early = [point.test for points in curves.values() for point in points if point.test.accuracy >= low - (high - low)]
    _limit_y(ax, [(100 * score.accuracy, 100 * score.accuracy_se) for score in [*scores, *early]])
    last = max(points[-1].step for points in curves.values())
    ax.set_xlim(-0.02 * max(last, 1), 1.02 * max(last, 1))
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))

    margin, notes = [], []
    if ensemble:
        _reference_line(ax, ensemble)
        margin.append(Label(f"ensemble {_percent(100 * ensemble.test.accuracy)}", last, 100 * ensemble.test.accuracy, COLOURS[ENSEMBLE]))
    for name, points in curves.items():
        colour, marker = look[by_name(name)]
        step = np.array([point.step for point in points])
        accuracy, error = _accuracy([point.test.accuracy for point in points]), _accuracy([point.test.accuracy_se for point in points])
        ax.fill_between(step, accuracy - error, accuracy + error, color=colour, alpha=0.16, linewidth=0)
        ax.plot(step, accuracy, color=colour, marker=marker, markersize=4, markeredgewidth=0, label=name)
        margin.append(Label(f"{name} {_percent(accuracy[-1])}", float(step[-1]), float(accuracy[-1]), colour))
        below = step[accuracy < ax.get_ylim()[0]]
        if len(below):
            notes.append(f"{name} until step {below[-1]} (from {_percent(accuracy[0])})")
    labels.right_of(ax, margin)
    _note(ax, notes)
    ax.set(xlabel="gradient steps", ylabel="test accuracy (%)")
    return ax
