"""What figures of several pages share: legends, notes and heat maps, in matplotlib's constrained layouts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from consilience.clustering.tree import Tree
from consilience.report.style import INK, MUTED, SMALL

UNKNOWN = "#d4d4d0"  # cells without a value
SHARP = 500  # rows or columns, beyond which a heat map is drawn at the picture's resolution


def legend_beside(ax: Axes, **options: Any) -> None:
    """Write the legend to the right of the axes, in the order of drawing."""
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0, labelspacing=0.7, **options)


def legend_above(ax: Axes, handles: Sequence[Any] | None = None, n_columns: int = 4, distance: float = 0.4) -> None:
    """Write the legend above the axes, on the right; the distance is in heights of a line."""
    handles = handles or ax.get_legend_handles_labels()[0]
    place: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "borderaxespad": distance}
    ax.legend(handles=handles, ncols=n_columns, handlelength=1.2, handletextpad=0.5, columnspacing=1.2, **place)


def note_below(ax: Axes, texts: Sequence[str]) -> None:
    """Name below the axes what lies below their range, if there is anything."""
    if texts:
        lines = fill("Below the range: " + "; ".join(texts).replace(" %", "\N{NO-BREAK SPACE}%"), 100)
        ax.annotate(lines, (0, 0), (0, -36), "axes fraction", "offset points", va="top", fontsize=SMALL, color=MUTED)


def dot(color: str, label: str, marker: str = "o") -> Line2D:
    """Return the entry of a legend for points."""
    return Line2D([], [], color=color, marker=marker, linestyle="none", label=label)


def strip(ax: Axes, place: float, width: float, ends: tuple[float, float], color: str, is_row: bool = False) -> None:
    """Draw a strip of color beside the axes along some rows, or columns; place and width are shares of the axes."""
    start, end = ends
    corner, sizes = ((start, place), (end - start, width)) if is_row else ((place, start), (width, end - start))
    along = ax.get_xaxis_transform() if is_row else ax.get_yaxis_transform()
    ax.add_patch(Rectangle(corner, *sizes, transform=along, color=color, linewidth=0, clip_on=False))


def runs(keys: Sequence[Any]) -> list[tuple[Any, tuple[int, int]]]:
    """Return equal neighbors: what they are, where they begin and end.

    >>> runs("aab")
    [('a', (0, 2)), ('b', (2, 3))]
    """
    grouped = [(key, list(places)) for key, places in groupby(range(len(keys)), lambda i: keys[i])]
    return [(key, (places[0], places[-1] + 1)) for key, places in grouped]


def count_ticks(axis: Axis, most: int = 10) -> None:
    """Let an axis count in round numbers."""
    axis.set_major_locator(MaxNLocator(most, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))


def plain_log_ticks(axis: Axis) -> None:
    """Write 1, 2, 5, 10, … along a logarithmic axis."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter("{x:g}")


def heat_map(
    ax: Axes,
    values: NDArray[np.float64],
    *,
    colors: str,
    limits: tuple[float, float],
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    digits: int | None = None,
    has_bar: bool = True,
) -> AxesImage:
    """Draw a heat map, with numbers in its cells if ``digits`` is not None; NaN is grey.

    ``limits`` are the values of the first and the last color.
    """
    sharp: Any = {"interpolation": "none" if max(values.shape) <= SHARP else "auto", "aspect": "auto"}
    image = ax.imshow(values, cmap=colors, vmin=limits[0], vmax=limits[1], **sharp)
    for row, column in np.argwhere(np.isfinite(values)) if digits is not None else ():
        red, green, blue, _ = image.cmap(image.norm(values[row, column]))
        color = "white" if 0.299 * red + 0.587 * green + 0.114 * blue < 0.55 else INK
        text = f"{round(values[row, column], digits) + 0.0:.{digits}f}"
        ax.text(column, row, text, ha="center", va="center_baseline", fontsize=SMALL - 1, color=color)
    ax.set_yticks(range(len(rows)), rows)
    ax.set_xticks(range(len(columns)), columns, rotation=90 if max(map(len, columns), default=0) > 4 else 0)
    ax.tick_params(length=0)
    ax.grid(visible=False)
    ax.set_facecolor(UNKNOWN)
    ax.spines[:].set_visible(False)
    if has_bar:
        ax.figure.colorbar(image, ax=ax, fraction=0.03, pad=0.01).outline.set_visible(False)
    return image


def tree_branches(tree: Tree, swapped: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the places of a tree's m leaves, and its merges as lines of four points (place, height), (m − 1, 4, 2).

    Merges (m − 1,) that are ``swapped`` have their second branch first.
    """
    m, (first, second) = tree.n_leaves, tree.children.T
    places = np.empty(m)
    places[tree.leaf_order(swapped)] = np.arange(m)
    x = tree.accumulate(places, lambda one, other: (one + other) / 2)
    y = np.concatenate([np.zeros(m), tree.heights])
    corners = ((first, first), (first, slice(m, None)), (second, slice(m, None)), (second, second))
    return places, np.stack([np.column_stack([x[along], y[up]]) for along, up in corners], axis=1)
