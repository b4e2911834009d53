"""Heat maps whose columns are many or have long names.

Rows and columns are named as far as there is room, and cells hold their numbers where these can be read.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, MaxNLocator
from numpy.typing import NDArray

from consilience.report.labels import LINE, size_of, width_of
from consilience.report.style import INK, shortened

PRINTED = 7.0  # points, numbers in cells
LONGEST = 30  # letters of a name
UNKNOWN = "#d4d4d0"


def heat(
    ax: Axes, values: NDArray[np.float64], colours: str, limits: tuple[float, float], names: Sequence[str]
) -> None:
    """Draw a heat map with a colour bar, rows named, and numbers in the cells where there is room."""
    image = ax.imshow(values, cmap=colours, vmin=limits[0], vmax=limits[1], interpolation="none", aspect="auto")
    n_rows, n_columns = values.shape
    width, height = size_of(ax)
    if width / n_columns >= width_of("-100", PRINTED) + 2 and height / n_rows >= PRINTED + 3:
        for row, column in np.argwhere(np.isfinite(values)):
            red, green, blue, _ = image.cmap(image.norm(values[row, column]))
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.55
            ax.text(
                column, row, f"{round(values[row, column]) + 0:d}", ha="center", va="center_baseline",
                fontsize=PRINTED, color="white" if dark else INK,
            )  # fmt: skip
    step = every(height / n_rows, LINE)
    ax.yaxis.set_major_locator(FixedLocator(list(range(0, n_rows, step))))
    ax.yaxis.set_ticklabels(names[::step])
    ax.tick_params(length=0)
    ax.grid(visible=False)
    ax.set_facecolor(UNKNOWN)
    for spine in ax.spines.values():
        spine.set_visible(False)
    bar = ax.figure.colorbar(image, cax=ax.inset_axes((1 + 10 / width, 0.0, 8 / width, 1.0)))
    bar.outline.set_visible(False)
    bar.locator = MaxNLocator(max(1, int(height / 26)), steps=[1, 2, 2.5, 5, 10])
    bar.update_ticks()


def name_columns(ax: Axes, names: Sequence[str]) -> None:
    """Name the columns below, upright where one is too long for its column; some are left out if they are too many."""
    ax.tick_params(axis="x", length=0)
    if not names:
        ax.xaxis.set_major_locator(FixedLocator([]))
        return
    texts = [shortened(name, LONGEST) for name in names]
    room = size_of(ax)[0] / len(texts)
    flat = max(map(width_of, texts)) + 3 <= room
    step = 1 if flat else every(room, LINE - 2)
    ax.xaxis.set_major_locator(FixedLocator(list(range(0, len(texts), step))))
    ax.xaxis.set_ticklabels(texts[::step], rotation=0 if flat else 90)


def room_below(names: Sequence[str]) -> float:
    """Height below the axes for the names of columns, in inches."""
    return 0.2 + max(width_of(shortened(name, LONGEST)) for name in names) / 72


def every(room: float, needed: float) -> int:
    """Every how many-th label can be written, each with ``room``."""
    return max(1, int(np.ceil(needed / room)))
