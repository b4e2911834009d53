"""What figures of several pages share: legends, notes and heat maps, in matplotlib's constrained layouts."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from consilience.clustering.tree import Tree
from consilience.report.style import INK, MUTED, SMALL

UNKNOWN = "#d4d4d0"  # cells without a value
SHARP = 500  # rows or columns, beyond which a heat map is drawn at the picture's resolution


def legend_beside(ax: Axes, **options: Any) -> None:
    """Write the legend to the right of the axes, in the order of drawing."""
    ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0, labelspacing=0.7, **options)


def legend_above(ax: Axes, handles: Sequence[Any] | None = None, n_columns: int = 4) -> None:
    """Write the legend above the axes, on the right."""
    handles = handles or ax.get_legend_handles_labels()[0]
    place: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "borderaxespad": 0.4}
    ax.legend(handles=handles, ncols=n_columns, handlelength=1.2, handletextpad=0.5, columnspacing=1.2, **place)


def note_below(ax: Axes, texts: Sequence[str]) -> None:
    """Name below the axes what lies below their range, if there is anything."""
    if texts:
        lines = fill("Below the range: " + "; ".join(texts).replace(" %", "\N{NO-BREAK SPACE}%"), 100)
        ax.annotate(lines, (0, 0), (0, -36), "axes fraction", "offset points", va="top", fontsize=SMALL, color=MUTED)


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
    """Draw a heat map with named rows and columns, numbers in its cells (``digits`` not None) and a color bar.

    Parameters
    ----------
    values : (rows, columns); NaN is drawn grey.
    limits : values of the first and the last color.
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
    """Return the places of a tree's leaves (m,), and its merges as lines of four points (place, height), (m − 1, 4, 2).

    Parameters
    ----------
    tree : of m leaves; it may be deep, as nothing here is recursive.
    swapped : (m − 1,) merges whose second branch comes first.
    """
    m, (first, second) = tree.n_leaves, tree.children.T
    places = np.empty(m)
    places[tree.leaf_order(swapped)] = np.arange(m)
    x = tree.accumulate(places, lambda one, other: (one + other) / 2)
    y = np.concatenate([np.zeros(m), tree.heights])
    corners = ((first, first), (first, slice(m, None)), (second, slice(m, None)), (second, second))
    return places, np.stack([np.column_stack([x[along], y[up]]) for along, up in corners], axis=1)
