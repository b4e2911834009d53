"""Test accuracy against the number of parameters: what width buys, and what the alternatives do with as many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from matplotlib.transforms import ScaledTranslation

from consilience.errors import InputError
from consilience.report import labels
from consilience.report.labels import Box, Label
from consilience.report.ranges import fence, limits, line, note, percent, roomy_axes, with_error
from consilience.report.results import Row
from consilience.report.roles import REFERENCES, by_role, role
from consilience.report.style import COLOURS, looks, styled

DODGE = 6.0  # points sideways between series, so that the error bars of one width do not hide each other
SAME = 1.05  # numbers of parameters that differ by less are drawn as one width


@styled
def accuracy_against_width(table: Sequence[Row], ax: Axes | None = None) -> Axes:
    """Draw test accuracy (%) against the number of parameters at inference (logarithmic), with 1-standard-error bars.

    One line for each correction of the assembly, with its widths written above; points for all other methods;
    horizontal lines for the mean member, the best member and the ensemble, labelled in the right margin (on an ``ax``
    of yours, leave room for that). Rows far below the others (`consilience.report.ranges.fence`) are named under the
    axes, not drawn. Points that would hide each other's bars stand a few points beside their place.

    Raises
    ------
    InputError
        If the table is empty.
    """
    if not table:
        raise InputError("there is nothing to draw", where="table", got="no rows")
    floor = fence([row.test for row in table])
    references = [row for row in table if role(row) in REFERENCES]
    low, high = limits([row.test for row in table if row.test.accuracy >= floor or row in references])
    missing = [row for row in table if 100 * row.test.accuracy < low]
    margin = [with_error(role(row), row.test) for row in references]
    outside = [f"{row.method} {row.width}".strip() + f" {percent(row.test.accuracy)}" for row in missing]
    ax = ax or roomy_axes(4.0, margin, outside, top=0.3)
    ax.set(xscale="log", xlabel="parameters at inference", ylabel="test accuracy (%)", ylim=(low, high))
    ax.yaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))

    series = {name: sorted(rows, key=_parameters) for name, rows in by_role(table).items() if name not in REFERENCES}
    visible = {name: kept for name, rows in series.items() if (kept := [row for row in rows if row not in missing])}
    columns = [row for rows in series.values() for row in rows]
    shifts = _shifts(visible)
    start = [name for name, rows in visible.items() if rows[0].parameters <= SAME * min(map(_parameters, columns))]
    beside = max(map(abs, shifts.values()), default=0.0) + 12
    column = max((labels.width_of(name) + 10 for name in start), default=0.0)  # for labels, left of the narrowest
    _fit_parameters(ax, columns or table, column + beside, beside)
    _mark_widths(ax, columns)
    for row in references:
        line(ax, row, column / labels.size_of(ax)[0])
    colours = [COLOURS[role(row)] for row in references]
    labels.right_of(ax, [_label(*each, ax.get_xlim()[1]) for each in zip(margin, references, colours, strict=True)])

    look = looks(list(series), grey=[name for name, rows in series.items() if rows[0].group != "assembly"])
    obstacles = [box for name in visible for box in _draw(ax, series[name], name, look[name], shifts[name])]
    named = {
        name: _label(name, rows[0], look[name][0], rows[0].parameters, shifts[name]) for name, rows in visible.items()
    }
    written = labels.left_of(ax, [named[name] for name in start], column - 4)
    obstacles += [*written, *(_band(ax, row) for row in references)]
    labels.near(ax, [label for name, label in named.items() if name not in start], obstacles)
    note(ax, outside)
    return ax


def _parameters(row: Row) -> int:
    return row.parameters


def _label(text: str, row: Row, colour: str, x: float, shift: float = 0.0) -> Label:
    return Label(text, x, 100 * row.test.accuracy, colour, shift)


def _shifts(series: Mapping[str, Sequence[Row]]) -> dict[str, float]:
    """Return how many points each series stands beside its data: as few as keep error bars of one width apart."""
    shifts: dict[str, float] = {}
    for name in sorted(series, key=lambda name: -len(series[name])):
        hidden = {shifts[other] for other in shifts if any(_collide(a, b) for a in series[name] for b in series[other])}
        free = (sign * DODGE * slot for slot in range(len(series) + 1) for sign in (1, -1))
        shifts[name] = next(shift for shift in free if shift not in hidden)
    return {name: shifts[name] for name in series}


def _collide(a: Row, b: Row) -> bool:
    same_width = max(a.parameters, b.parameters) <= SAME * min(a.parameters, b.parameters)
    return same_width and abs(a.test.accuracy - b.test.accuracy) <= a.test.accuracy_se + b.test.accuracy_se + 0.001


def _fit_parameters(ax: Axes, rows: Sequence[Row], left: float, right: float) -> None:
    """Set the range of x to these rows, with ``left`` and ``right`` points of room beside them."""
    low, high = (float(np.log10(max(1, edge(map(_parameters, rows))))) for edge in (min, max))
    if high - low < 0.1:
        low, high = low - 0.02, high + 0.5
    points = max(labels.size_of(ax)[0] - left - right, 50.0)  # for the range of the rows
    decade = points / (high - low)
    ax.set_xlim(10 ** (low - left / decade), 10 ** (high + right / decade))
    steps = (1, 2, 5) if decade > 90 else (1, 3) if decade > 55 else (1,)
    ticks = [step * 10.0**power for power in range(13) for step in steps]
    ax.xaxis.set_major_locator(
        FixedLocator([tick for tick in ticks if low - 0.15 <= np.log10(tick) <= high + right / decade])
    )
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(_thousands))


def _thousands(value: float, _: object = None) -> str:
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{name}"
    return f"{value:g}"


def _mark_widths(ax: Axes, rows: Sequence[Row]) -> None:
    """Write each width above the numbers of parameters it comes with."""
    marks: list[tuple[int, str]] = []
    for parameters, width in sorted({(row.parameters, row.width) for row in rows if row.width}):
        if not any(width == other and parameters <= SAME * near for near, other in marks):
            marks.append((parameters, width))
            ax.axvline(parameters, color="#d4d4d4", linewidth=0.8, linestyle=(0, (3, 2)), zorder=0.5)
    labels.above(ax, [width for _, width in marks], [parameters for parameters, _ in marks])
    ax.grid(visible=False, axis="x")


def _band(ax: Axes, row: Row) -> Box:
    y = labels.at(ax, row.parameters, 100 * row.test.accuracy)[1]
    return 0.0, y - 1, labels.size_of(ax)[0], y + 1


def _draw(ax: Axes, rows: Sequence[Row], name: str, look: tuple[str, str], shift: float) -> list[Box]:
    """Draw one series, ``shift`` points beside its data; return where it is."""
    colour, marker = look
    x = np.array([row.parameters for row in rows], float)
    y, error = (100 * np.array([getattr(row.test, key) for row in rows]) for key in ("accuracy", "accuracy_se"))
    joined = rows[0].group == "assembly" and len(set(x)) == len(x)
    ax.errorbar(
        x, y, error, color=colour, marker=marker, linestyle="-" if joined else "none", label=name, elinewidth=1.1,
        markeredgecolor="white", markeredgewidth=0.5, markersize={"*": 10.5, "X": 7.5}.get(marker, 6), zorder=3,
        transform=ax.transData + ScaledTranslation(shift / 72, 0, ax.figure.dpi_scale_trans),
    )  # fmt: skip
    boxes = labels.along(ax, x.tolist(), y.tolist()) if joined else []
    for centre, low, high in zip(x, y - error, y + error, strict=True):
        (left, bottom), (_, top) = labels.at(ax, centre, low), labels.at(ax, centre, high)
        boxes.append((left + shift - 4, bottom - 2, left + shift + 4, top + 2))
    return boxes
