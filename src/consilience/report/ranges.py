"""The range of an axis of accuracies: it fits what differs little, and says what it leaves out."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap

import numpy as np
from matplotlib.axes import Axes

from consilience.evaluation import Score
from consilience.report.labels import TIE, size_of, width_of
from consilience.report.results import Row
from consilience.report.roles import ENSEMBLE, role
from consilience.report.style import COLOURS, MUTED, SMALL, WIDTH, own_axes

LEFT, NOTE_LINES = 0.6, 3


def fence(scores: Sequence[Score]) -> float:
    """Return the accuracy below which a score is left out: median − 3 · max(best − median, 2 · median standard error).

    Scores are skewed: a method that fails can fall by 80 points, one that excels gains one. So what is far below the
    median is measured by how far the best is above it, and is never within noise of it.

    >>> round(fence([Score(accuracy, 0.001, 0.1, 100) for accuracy in (0.2, 0.9, 0.96, 0.97, 0.98)]), 3)
    0.9
    """
    accuracy = np.array([score.accuracy for score in scores])
    middle, error = float(np.median(accuracy)), float(np.median([score.accuracy_se for score in scores]))
    return middle - 3 * max(float(accuracy.max()) - middle, 2 * error)


def limits(scores: Sequence[Score]) -> tuple[float, float]:
    """Return a range of y, in %, that holds these scores with their standard errors, and some air."""
    low = min(100 * (score.accuracy - score.accuracy_se) for score in scores)
    high = max(100 * (score.accuracy + score.accuracy_se) for score in scores)
    air = 0.06 * max(high - low, 0.5)
    return low - air, high + air


def roomy_axes(height: float, margin: Sequence[str], outside: Sequence[str], top: float) -> Axes:
    """Return axes of a page's width, with room for labels in the right margin and a note of what is out of range."""
    right = (TIE + max((width_of(text) for text in margin), default=0.0) + 8) / 72
    bottom = 0.5 + 0.15 * len(_wrapped(outside, 72 * (WIDTH - LEFT)))
    return own_axes(WIDTH, height + bottom, left=LEFT, right=min(right, WIDTH / 2), bottom=bottom, top=top)


def line(ax: Axes, row: Row, start: float = 0.0) -> None:
    """Draw one row as a horizontal line from ``start``, a share of the width; the ensemble with a 1-s.e. band.

    Bands of more rows would lie over each other and tell nothing; their errors are in the labels.
    """
    colour, accuracy, error = COLOURS[role(row)], 100 * row.test.accuracy, 100 * row.test.accuracy_se
    if role(row) == ENSEMBLE:
        ax.axhspan(accuracy - error, accuracy + error, xmin=start, color=colour, alpha=0.07, linewidth=0, zorder=0.6)
    ax.axhline(accuracy, xmin=start, color=colour, linewidth=1.1, zorder=1.5, label=role(row))


def note(ax: Axes, outside: Sequence[str]) -> None:
    """Name under the axes what lies below the range; what does not fit into three lines is counted."""
    room = size_of(ax)[0]
    if len(ax.figure.axes) == 1:  # nothing to the right of it
        room = (ax.figure.bbox.x1 - ax.get_window_extent().x0) * 72 / ax.figure.dpi
    ax.annotate(
        "\n".join(_wrapped(outside, room)), (0, 0), (0, -34), xycoords="axes fraction", textcoords="offset points",
        va="top", fontsize=SMALL, color=MUTED, linespacing=1.25,
    )  # fmt: skip


def _wrapped(outside: Sequence[str], room: float) -> list[str]:
    """Return the lines of a note that fit into so many points; a letter is 0.62 times as wide as the font is high."""
    lines: list[str] = []
    for kept in range(len(outside), -1, -1):
        rest = [f"and {len(outside) - kept} more"] if kept < len(outside) else []
        text = "Below the range: " + "; ".join([*outside[:kept], *rest])
        lines = wrap(text.replace(" %", "\N{NO-BREAK SPACE}%"), max(20, int(room / (0.62 * SMALL))))
        if len(lines) <= NOTE_LINES:
            break
    return lines if outside else []


def percent(share: float) -> str:
    """Write a share of 1 in % with one decimal."""
    return f"{100 * share:.1f} %"


def with_error(name: str, score: Score) -> str:
    """Write a name, an accuracy in %, and its standard error."""
    return f"{name} {100 * score.accuracy:.1f} ± {100 * score.accuracy_se:.1f} %"
