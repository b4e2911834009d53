"""The figures of the main report. Each takes plain data, draws on ``ax`` or on a figure of its own, returns the axes.

Blues, from light to dark, are assemblies in the order of what their correction costs; black is the ensemble, greys are
members and alternatives; the two trained networks stand out in vermilion and purple. Every series has a marker too.

>>> from consilience.report.results import LayerSummary
>>> ax = frequency_curve(LayerSummary("hidden.0", 6, 0, 3, [1.0, 0.5], [4, 2], [0.9, 0.4]))
>>> ax.figure.savefig("frequency.svg")  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, FixedLocator, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from consilience.errors import InputError
from consilience.evaluation import AnyScore
from consilience.report.numbers import counted, percent, with_spread
from consilience.report.plots import count_ticks, legend_above, legend_beside, note_below, plain_log_ticks
from consilience.report.results import REFERENCES, LayerSummary, LearningPoint, Role, Row, first
from consilience.report.style import MUTED, OTHER_COLOURS, OTHER_MARKERS, SMALL, new_figure, shortened, styled

RESAMPLING = "resampling stability"
FREQUENCY, STABILITY, SIZE = "#4a6fa5", "#b3541e", "#6b6f76"
MANY = 1000  # dots, beyond which a vector for each would make the page heavy and no sharper
STEP = 0.015  # between rows of one width, as a share of the range of x
SAME = 1.05  # numbers of parameters that differ by less are drawn as one width
ALTERNATIVES = "#8a8578"
LOOKS = {  # role or method → color and marker
    Role.MEAN_MEMBER: ("#8c8c8c", ""),
    Role.BEST_MEMBER: ("#5e5e5e", ""),
    Role.ENSEMBLE: ("#111111", ""),
    Role.SCRATCH: ("#9b3fa0", "X"),
    Role.FINE_TUNED: ("#d55e00", "*"),
    "assembly, none": ("#74b3e3", "o"),
    "assembly, moments": ("#3c94d4", "v"),
    "assembly, least-squares": ("#1c67ad", "s"),
    "assembly, second-order": ("#14508c", "^"),
    "assembly, distill": ("#0a2f66", "D"),
    "assembly, elastic": ("#2a8f83", "P"),
}
SIZES = {"*": 10.5, "X": 7.5}  # of markers, in points; 6 for others


@styled
def accuracy_against_width(table: Sequence[Row], ax: Axes | None = None) -> Axes:
    """Draw test accuracy (or R²) against parameters at inference (logarithmic), with 1-standard-error bars.

    One line for each correction of the assembly, widths written above; points for all other methods; horizontal lines
    for the mean member, the best member and the ensemble. Rows far below the others (`fence`) are named under the axes.
    Rows of one width are drawn side by side, so that their bars are seen. Raises an `InputError` if the table is empty.
    """
    if not table:
        raise InputError("table must have a row, got none")
    references = [row for row in table if row.role in REFERENCES]
    floor = fence([row.test for row in table])
    shown = [row for row in table if row.test.quality >= floor or row in references]
    low, high = limits([row.test for row in shown])
    ax = ax or new_figure(4.3).subplots()
    ax.set(xscale="log", xlabel="parameters at inference", ylabel=f"test {table[0].test.metric} (%)", ylim=(low, high))
    ax.yaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    for row in references:
        _reference(ax, row)
    series: dict[str, list[Row]] = {}
    for row in (row for row in table if row not in references):
        series.setdefault(row.method, []).append(row)
    points = [row for rows in series.values() for row in rows]
    places, looks = _side_by_side([row for row in points if row in shown]), _looks(series)
    for name, rows in series.items():
        if visible := [row for row in rows if row in shown]:
            _series(ax, visible, places, looks[name])
    _parameters(ax, points or table)
    legend_beside(ax)
    missing = [row for row in table if row not in shown]
    note_below(ax, [f"{row.method} {row.width}".strip() + f" {percent(row.test.quality)}" for row in missing])
    return ax


@styled
def learning_curves(
    learning: Mapping[str, Sequence[LearningPoint]], table: Sequence[Row] = (), ax: Axes | None = None
) -> Axes:
    """Draw test accuracy (or R²) against gradient steps, with 1-standard-error bands; the ensemble as a line.

    The range fits the second half of every curve. A curve that starts below it is named under the axes. Raises an
    `InputError` if there is no curve, or one without points.
    """
    if not learning or not all(learning.values()):
        got = {name: f"{len(points)} points" for name, points in learning.items()}
        raise InputError(f"learning must have curves, each with points, got {got or 'no curves'}")
    curves = {name: sorted(points, key=lambda point: point.step) for name, points in learning.items()}
    ensemble = first(table, Role.ENSEMBLE)
    late = [point.test for points in curves.values() for point in points if 2 * point.step >= points[-1].step]
    low, high = limits([*late, *([ensemble.test] if ensemble else [])])
    ax = ax or new_figure(3.4).subplots()
    ax.set(xlabel="gradient steps", ylabel=f"test {late[0].metric} (%)", ylim=(low, high))
    ax.margins(x=0.02)
    ax.yaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    count_ticks(ax.xaxis, 6)
    ax.xaxis.set_major_formatter("{x:,.0f}")
    if ensemble:
        _reference(ax, ensemble)
    others = cycle(zip(OTHER_COLOURS, OTHER_MARKERS, strict=False))
    roles = {row.method: row.role for row in table}
    for name, points in curves.items():
        color, marker = LOOKS.get(roles.get(name, name)) or next(others)
        step, (accuracy, error) = [point.step for point in points], _percents([point.test for point in points])
        ax.fill_between(step, accuracy - error, accuracy + error, color=color, alpha=0.16, linewidth=0)
        label = f"{shortened(name)} {_accuracy(points[-1].test)}"
        (line,) = ax.plot(step, accuracy, color=color, marker=marker, markevery=-(-len(step) // 20), label=label)
        line.set(markersize=0.8 * SIZES.get(marker, 6), markeredgecolor="white", markeredgewidth=0.4)
    legend_beside(ax)
    note_below(ax, [text for name, points in curves.items() if (text := _below(name, points, low))])
    return ax


@styled
def frequency_curve(layer: LayerSummary, ax: Axes | None = None) -> Axes:
    """Draw the share of the members that own each cluster (steps), and the stability of the clusters (dots), in %.

    Dashed lines are both by chance, where it was measured: the frequency, and the mean stability. Thin lines mark 1, 2,
    4, … times the median width of the members. Raises an `InputError` if the layer has no cluster, or not one
    frequency, size and stability for each.
    """
    ax = _axes(layer, ax)
    stability = 100 * np.asarray(layer.stability, float)
    _steps(ax, 100 * np.asarray(layer.frequency, float), FREQUENCY, "frequency")
    if np.isfinite(stability).any():
        n = len(stability)
        (dots,) = ax.plot(np.arange(n) + 1, stability, ".", color=STABILITY, label=RESAMPLING, rasterized=n > MANY)
        dots.set(markersize=2.5 + 3.5 * min(1.0, 40 / n), markeredgewidth=0)
    if layer.chance is not None:
        by_chance = 100 * np.asarray(layer.chance.frequency, float)
        dashed: dict[str, Any] = {"linestyle": (0, (3, 2)), "linewidth": 0.9}
        ax.stairs(
            by_chance, np.arange(len(by_chance) + 1) + 0.5, baseline=None, color=FREQUENCY, **dashed, label="by chance"
        )
        if np.isfinite(layer.chance.stability).any():
            ax.axhline(100 * float(np.nanmean(layer.chance.stability)), color=STABILITY, **dashed)
    ax.set(ylim=(0, 105), ylabel="share (%)")
    ax.yaxis.set_major_locator(FixedLocator([0, 25, 50, 75, 100]))
    _ranks(ax, layer)
    legend_above(ax, distance=1.8)  # above the marks of widths
    return ax


@styled
def size_curve(layer: LayerSummary, ax: Axes | None = None) -> Axes:
    """Draw the number of units of each cluster on a logarithmic scale; everything else as in `frequency_curve`."""
    ax = _axes(layer, ax)
    size = np.asarray(layer.size, float)
    ax.set_yscale("log")
    _steps(ax, size, SIZE, "", baseline=0.7)  # a cluster of one unit still has height
    ax.set(ylim=(0.7, max(10.0, size.max() * 1.25)), ylabel="size (units)")
    plain_log_ticks(ax.yaxis)
    _ranks(ax, layer)
    single = int((size == 1).sum())
    text = f"{counted(single, 'cluster')} of one unit; {layer.n_dead} of {layer.n_units} units dead"
    ax.set_title(text, loc="right", color=MUTED, pad=16)
    return ax


def fence(scores: Sequence[AnyScore]) -> float:
    """Return the accuracy (or R²) below which a score is not drawn:
    median − 3 · max(best − median, 2 · median standard error).

    Scores are skewed: a method that fails can fall by 80 points, one that excels gains one. So the distance below the
    median is measured by how far the best is above it.

    >>> from consilience.evaluation import Score
    >>> round(fence([Score(accuracy, 0.001, 0.1, 100) for accuracy in (0.2, 0.9, 0.96, 0.97, 0.98)]), 3)
    0.9
    """
    accuracy, error = (np.array([getattr(score, key) for score in scores]) for key in ("quality", "quality_se"))
    middle = float(np.median(accuracy))
    return middle - 3 * max(float(accuracy.max()) - middle, 2 * float(np.median(error)))


def limits(scores: Sequence[AnyScore]) -> tuple[float, float]:
    """Return a range of y, in %, that holds these scores with their standard errors, and some air."""
    accuracy, error = _percents(scores)
    low, high = float((accuracy - error).min()), float((accuracy + error).max())
    air = 0.06 * max(high - low, 0.5)
    return low - air, high + air


def _accuracy(score: AnyScore) -> str:
    return f"{with_spread(100 * score.quality, 100 * score.quality_se, 1)} %"


def _percents(scores: Sequence[AnyScore]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return 100 * np.array([s.quality for s in scores]), 100 * np.array([s.quality_se for s in scores])


def _reference(ax: Axes, row: Row) -> None:
    """Draw a row as a horizontal line; the ensemble with a band of 1 standard error, for which only one has room."""
    color, accuracy, error = LOOKS[row.role][0], 100 * row.test.quality, 100 * row.test.quality_se
    if row.role is Role.ENSEMBLE:
        ax.axhspan(accuracy - error, accuracy + error, color=color, alpha=0.07, linewidth=0, zorder=0.6)
    ax.axhline(accuracy, color=color, linewidth=1.1, zorder=1.5, label=f"{row.role} {_accuracy(row.test)}")


def _below(name: str, points: Sequence[LearningPoint], low: float) -> str:
    """Say how long a curve is below the range; "" if it never is."""
    below = [point for point in points if 100 * point.test.quality < low]
    if not below:
        return ""
    start, end = below[0], below[-1]
    return f"{name} up to step {end.step:,} (step {start.step:,}: {percent(start.test.quality)})"


def _looks(series: Mapping[str, Sequence[Row]]) -> dict[str, tuple[str, str]]:
    """Return color and marker of each series; alternatives are grey, other assemblies have one of the other colors."""
    looks, markers, colors = {}, cycle(OTHER_MARKERS), cycle(OTHER_COLOURS)
    for name, rows in series.items():
        is_grey = rows[0].role is Role.ALTERNATIVE
        known = LOOKS.get(rows[0].role) or LOOKS.get(name)
        looks[name] = known or (ALTERNATIVES if is_grey else next(colors), next(markers))
    return looks


def _side_by_side(rows: Sequence[Row]) -> dict[Row, float]:
    """Return where along x each row is drawn: rows of one width around their number of parameters, in equal steps."""
    parameters = [row.parameters for row in rows] or [1]
    step = max(1.02, (max(parameters) / min(parameters)) ** STEP)
    groups: list[list[Row]] = []
    for row in sorted(rows, key=lambda row: row.parameters):  # equal ones stay in the order of the table
        if not groups or row.parameters > SAME * groups[-1][0].parameters:
            groups.append([])
        groups[-1].append(row)
    return {row: row.parameters * step ** (i - (len(g) - 1) / 2) for g in groups for i, row in enumerate(g)}


def _series(ax: Axes, rows: Sequence[Row], places: Mapping[Row, float], look: tuple[str, str]) -> None:
    """Draw the rows of one method; assemblies of several widths are joined by a line."""
    rows = sorted(rows, key=lambda row: row.parameters)
    (y, error), (color, marker) = _percents([row.test for row in rows]), look
    joined = rows[0].role.group == "assembly" and len({row.parameters for row in rows}) == len(rows)
    x, line = [places[row] for row in rows], "-" if joined else "none"
    bars = ax.errorbar(x, y, error, color=color, marker=marker, linestyle=line, label=rows[0].method, zorder=3)
    bars.lines[2][0].set(linewidth=1.1)
    bars.lines[0].set(markersize=SIZES.get(marker, 6), markeredgecolor="white", markeredgewidth=0.5)


def _parameters(ax: Axes, rows: Sequence[Row]) -> None:
    """Fit the range of x to these rows, and write each width above the numbers of parameters that it comes with."""
    low, high = min(row.parameters for row in rows), max(row.parameters for row in rows)
    room = max(1.6, (high / low) ** 0.08)
    ax.set_xlim(low / room, high * room)
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 300 else (1,)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    ax.grid(visible=False, axis="x")
    marks: dict[int, list[str]] = {}
    for parameters, width in sorted({(row.parameters, row.width) for row in rows if row.width}):
        near = next((known for known in marks if parameters <= SAME * known), parameters)
        marks.setdefault(near, []).append(width)
    _mark(ax, {parameters: ", ".join(dict.fromkeys(widths)) for parameters, widths in marks.items()})


def _mark(ax: Axes, marks: Mapping[float, str]) -> None:
    """Draw thin vertical lines with a text above each."""
    for x, text in marks.items():
        ax.axvline(x, color="#b9b9b9", linewidth=0.7, linestyle=(0, (2, 2)), zorder=0.5)
        place: dict[str, Any] = {"xycoords": ax.get_xaxis_transform(), "textcoords": "offset points"}
        ax.annotate(text, (x, 1), (0, 3), ha="center", fontsize=SMALL, color=MUTED, **place)


def _axes(layer: LayerSummary, ax: Axes | None) -> Axes:
    counts = (len(layer.frequency), len(layer.size), len(layer.stability))
    if not counts[0] or len(set(counts)) > 1:
        got = "{} frequencies, {} sizes and {} stabilities".format(*counts)
        raise InputError(f"{layer.name} must have clusters, each with a frequency, a size and a stability, got {got}")
    return ax or new_figure(2.6, 4.4).subplots()


def _steps(ax: Axes, height: NDArray[np.float64], color: str, label: str, baseline: float = 0) -> None:
    edges, width = np.arange(len(height) + 1) + 0.5, 1.2 if len(height) <= 150 else 0.6
    ax.stairs(height, edges, baseline=baseline, fill=True, color=color, alpha=0.25, linewidth=0)
    ax.stairs(height, edges, baseline=baseline, color=color, linewidth=width, label=label)


def _ranks(ax: Axes, layer: LayerSummary) -> None:
    n, width = len(layer.frequency), layer.median_width
    ax.set(xlim=(0.5, n + 0.5), xlabel=f"rank of the cluster in {shortened(layer.name)}")
    count_ticks(ax.xaxis, 8)
    ax.grid(visible=False, axis="x")
    marks: dict[float, str] = {}
    for factor in (2**power for power in range(12) if width and width * 2**power <= n):
        has_room = not marks or width * factor - max(marks) > 0.06 * n
        marks |= {width * factor + 0.5: f"{factor}x"} if has_room else {}
    _mark(ax, marks)
