"""Families of models in figures: one colour and marker each, and a key that wraps.

The first eight colours differ in lightness as well as hue, for eyes that see few hues; beyond `MOST` families none are
told apart, and all models look alike.
"""

from __future__ import annotations

from math import ceil

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from consilience.report.comparison.results import ComparisonResult
from consilience.report.labels import width_of
from consilience.report.style import MUTED, OTHER_MARKERS, shortened

COLOURS = (
    "#1c67ad", "#e69f00", "#2a8f83", "#9b3fa0", "#74b3e3", "#b3541e", "#111111", "#e377a8",
    "#8a7a1f", "#9a9a9a", "#7fb96f", "#5b5fb0",
)  # fmt: skip
MARKERS = ("o", "s", "^", "D", "v", "P", "X", *OTHER_MARKERS)
MOST = len(COLOURS)
ROW, HANDLE = 13.0, 26.0  # points: height of a line of the key, and width of a marker with the space around its text


def tells_families(result: ComparisonResult) -> bool:
    """Whether there are several families, but no more than can be told apart."""
    return 2 <= len(result.family_names) <= MOST


def looks_of(result: ComparisonResult) -> dict[str, tuple[str, str]]:
    """Return the (colour, marker) of each family."""
    if not tells_families(result):
        return dict.fromkeys(result.family_names, (MUTED, "o"))
    return {name: (COLOURS[i], MARKERS[i]) for i, name in enumerate(result.family_names)}


def key_height(result: ComparisonResult, width: float) -> float:
    """Return the height of the key in points where it may be so wide; 0 if there is none."""
    return ROW * ceil(len(result.family_names) / _columns(result, width)) + 4 if tells_families(result) else 0.0


def family_key(ax: Axes, result: ComparisonResult, width: float, corner: tuple[float, float], size: float) -> None:
    """Write which colour is which family, from an upper left corner in shares of the axes; nothing for one family."""
    if not tells_families(result):
        return
    handles = [
        Line2D([], [], linestyle="", marker=marker, color=colour, markersize=0.7 * size, label=shortened(name))
        for name, (colour, marker) in looks_of(result).items()
    ]
    ax.legend(
        handles=handles, loc="upper left", bbox_to_anchor=corner, borderaxespad=0, borderpad=0, fontsize=size,
        ncols=_columns(result, width), handlelength=1.0, handletextpad=0.4, columnspacing=1.2, labelspacing=0.35,
    )  # fmt: skip


def _columns(result: ComparisonResult, width: float) -> int:
    widest = max(width_of(shortened(name)) for name in result.family_names) + HANDLE
    n = len(result.family_names)
    n_rows = ceil(n / max(1, int(width // widest)))
    return ceil(n / n_rows)
