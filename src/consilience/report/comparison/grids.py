"""Square matrices over the same things, in rows and columns, with one colour scale: where everything is, and drawing.

All lengths are points (1/72 inch) on a page; in axes that are smaller everything shrinks, text too.

Axis legend: ``r`` row, ``c`` column, ``m`` what the matrices are about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from consilience.report.comparison.results import runs
from consilience.report.labels import LINE, size_of, spread, width_of
from consilience.report.style import GRID, INK, MUTED, SMALL, WIDTH, own_axes, readable, shortened

Array = NDArray[np.float64]
MARGIN, GAP, PAD = 6.0, 8.0, 5.0  # around all, between matrices, between a text and what it names
STRIP = 6.0  # width of the colours of families
BAR, BAR_ROOM = 9.0, 62.0  # width of the colour bar, and with its numbers
BAR_HEIGHTS = (130.0, 150.0)  # at least, for its name, and at most
LARGEST, LARGEST_CELL, TALLEST = 330.0, 64.0, 960.0  # width of a matrix and of a value, and height of all, at most
NAMED = 8.0  # height of a row that has room for a name
WRITTEN = 22.0  # width of a cell that has room for its value
SHARP = 0.55  # width of the smallest cell drawn: smaller ones are means over blocks
CROWDED = 3  # runs for each family, beyond which lines between them would hide what they divide
TITLE = 62.0  # width of a row's title


@dataclass(frozen=True)
class Scale:
    """Colours from low to high values, what they mean, and how values are written."""

    low: float
    high: float
    colours: str
    label: str
    decimals: int = 2


@dataclass(frozen=True, eq=False)
class Grid:
    """What is drawn.

    Attributes
    ----------
    matrices : (r, c, m, m); NaN is grey, and so is the diagonal, which says nothing and would outshine the rest.
    rows, columns : titles, (r,) and (c,); "" for none.
    names : (m,) of rows and columns of each matrix.
    families : (m,), equal ones are framed together where they are neighbours; all the same for none.
    colours : (m,) of the families.
    scale : of all values.
    """

    matrices: Array
    rows: Sequence[str]
    columns: Sequence[str]
    names: Sequence[str]
    families: Sequence[str]
    colours: Sequence[str]
    scale: Scale

    @cached_property
    def blocks(self) -> list[tuple[int, int]]:
        """Neighbours of one family."""
        return runs(self.families)

    @property
    def has_families(self) -> bool:
        """Whether there are several."""
        return len(set(self.families)) > 1


def draw_grid(grid: Grid, ax: Axes | None = None, room_below: float = 0.0) -> Axes:
    """Draw matrices; ``room_below`` stays empty for a key."""
    plan = Plan(grid, room_below)
    if ax is None:
        ax = own_axes(
            (plan.width + 2 * MARGIN) / 72, (plan.height + 2 * MARGIN) / 72,
            left=MARGIN / 72, right=MARGIN / 72, bottom=MARGIN / 72, top=MARGIN / 72,
        )  # fmt: skip
    ax.set_axis_off()
    ax.set_aspect("equal", anchor="N")
    size = plan.text_size(ax)
    image: AxesImage | None = None
    for r, title in enumerate(grid.rows):
        y = plan.top + r * plan.pitch
        ax.text(0, y + plan.side / 2, title, va="center", fontsize=size, color=INK)
        _gutter(ax, plan, y, size)
        for c in range(len(grid.columns)):
            image = _matrix(ax, grid, plan, grid.matrices[r, c], plan.left + c * plan.pitch, y, size)
    for c, title in enumerate(grid.columns):
        x = plan.left + c * plan.pitch + plan.side / 2
        ax.text(x, plan.top - PAD, plan.fitted(title), ha="center", va="bottom", fontsize=size, color=INK)
    assert image is not None
    _colour_bar(ax, plan, image, grid.scale, size)
    ax.set(xlim=(0, plan.width), ylim=(plan.height, 0))
    return ax


@dataclass(frozen=True, eq=False)
class Plan:
    """Where everything is."""

    grid: Grid
    room_below: float

    @cached_property
    def gutter(self) -> str:
        """What is written beside each row: "names" or "families" where there is room, else ""."""
        for kind in ("names", "families"):
            side, n = self._side(kind), len(set(self.grid.families))
            if kind == "names" and side / len(self.grid.names) >= NAMED:
                return kind
            if kind == "families" and 1 < n <= side / LINE:
                return kind
        return ""

    @cached_property
    def side(self) -> float:
        """Of a matrix."""
        return self._side(self.gutter)

    @property
    def pitch(self) -> float:
        """From one matrix to the next."""
        return self.side + GAP

    @property
    def cell(self) -> float:
        """Width of a value."""
        return self.side / len(self.grid.names)

    @property
    def top(self) -> float:
        """Upper edge of the first row."""
        return LINE + PAD if any(self.grid.columns) else 0.0

    @property
    def left(self) -> float:
        """Left edge of the first column."""
        return self._left(self.gutter)

    @property
    def right(self) -> float:
        """Right edge of the last column."""
        return self.left + len(self.grid.columns) * self.pitch - GAP

    @property
    def below(self) -> float:
        """Lower edge of the last row."""
        return self.top + len(self.grid.rows) * self.pitch - GAP

    @property
    def width(self) -> float:
        """Of all."""
        return self.right + BAR_ROOM

    @property
    def height(self) -> float:
        """Of all, with the room below."""
        return max(self.below, self.top + self.bar_height) + self.room_below + MARGIN

    @property
    def bar_height(self) -> float:
        """Of the colour bar."""
        return float(np.clip(self.below - self.top, *BAR_HEIGHTS))

    def text_size(self, ax: Axes) -> float:
        """Return the size of text in these axes."""
        return SMALL * min(1.0, *(a / b for a, b in zip(size_of(ax), (self.width, self.height), strict=True)))

    def fitted(self, title: str) -> str:
        """Return a title that is not wider than its column."""
        longest = len(title)
        while longest > 3 and width_of(shortened(title, longest)) > self.pitch - PAD:
            longest -= 1
        return shortened(title, longest)

    def _left(self, gutter: str) -> float:
        texts = {"names": self.grid.names, "families": self.grid.families, "": []}[gutter]
        beside = max([width_of(shortened(text)) + PAD for text in texts], default=0.0)
        return (TITLE if any(self.grid.rows) else 0.0) + beside + (STRIP + 2 if self.grid.has_families else 0.0)

    def _side(self, gutter: str) -> float:
        rows, columns = len(self.grid.rows), len(self.grid.columns)
        wide = (72 * WIDTH - 2 * MARGIN - BAR_ROOM - self._left(gutter) + GAP) / columns - GAP
        return min(LARGEST, LARGEST_CELL * len(self.grid.names), wide, (TALLEST + GAP) / rows - GAP)


def _gutter(ax: Axes, plan: Plan, y: float, size: float) -> None:
    """Write names or families left of a row, and draw the colours of families."""
    grid, x = plan.grid, plan.left - PAD
    if grid.has_families:
        for start, end in grid.blocks:
            place = (plan.left - STRIP - 2, y + start * plan.cell)
            ax.add_patch(Rectangle(place, STRIP, (end - start) * plan.cell, color=grid.colours[start], linewidth=0))
        x -= STRIP + 2 - PAD / 2
    labels: list[tuple[str, float, str]] = []
    if plan.gutter == "names":
        size = size * min(1.0, plan.cell / 9.5)
        labels = [
            (name, (i + 0.5) * plan.cell, colour)
            for i, (name, colour) in enumerate(zip(grid.names, grid.colours, strict=True))
        ]
    elif plan.gutter == "families":
        longest = {
            grid.families[start]: (start, end) for start, end in sorted(grid.blocks, key=lambda run: run[1] - run[0])
        }
        middles = [plan.cell * (start + end) / 2 for start, end in longest.values()]
        placed = spread(middles, [LINE] * len(middles), 0, plan.side)
        labels = [
            (family, middle, grid.colours[longest[family][0]]) for family, middle in zip(longest, placed, strict=True)
        ]
    for text, middle, colour in labels:
        ax.text(x, y + middle, shortened(text), ha="right", va="center", fontsize=size, color=readable(colour))


def _matrix(ax: Axes, grid: Grid, plan: Plan, values: Array, x: float, y: float, size: float) -> AxesImage:
    colours = mpl.colormaps[grid.scale.colours].with_extremes(bad=GRID)
    norm = Normalize(grid.scale.low, grid.scale.high, clip=True)
    apart = np.where(np.eye(len(values), dtype=bool), np.nan, values)
    shown = np.ma.masked_invalid(pooled(apart, ceil(plan.side / SHARP)))
    extent = (x, x + plan.side, y + plan.side, y)
    image = ax.imshow(shown, cmap=colours, norm=norm, extent=extent, interpolation="none", zorder=2)
    if grid.has_families and len(grid.blocks) <= CROWDED * len(set(grid.families)):
        for start, _ in grid.blocks[1:]:
            edge = start * plan.cell
            for ends in (((x, x + plan.side), (y + edge,) * 2), ((x + edge,) * 2, (y, y + plan.side))):
                ax.plot(*ends, color=INK, linewidth=0.6, zorder=3)
    if plan.cell >= WRITTEN:
        for (i, j), value in np.ndenumerate(values):
            if i == j:
                continue
            red, green, blue, _ = colours(norm(value))
            ink = "white" if 0.3 * red + 0.59 * green + 0.11 * blue < 0.55 else INK
            text = f"{value:.{grid.scale.decimals}f}" if np.isfinite(value) else "–"
            place = (x + (j + 0.5) * plan.cell, y + (i + 0.5) * plan.cell)
            ax.text(*place, text, ha="center", va="center", fontsize=0.94 * size, color=ink, zorder=4)
    return image


def pooled(values: Array, most: int) -> Array:
    """Return a matrix of at most so many rows and columns: means of the finite values of blocks as equal as can be."""
    if len(values) <= most:
        return values
    starts = np.linspace(0, len(values), most + 1).astype(int)[:-1]
    known = np.isfinite(values)
    sums, counts = (
        np.add.reduceat(np.add.reduceat(each, starts, axis=0), starts, axis=1)
        for each in (np.where(known, values, 0.0), known.astype(float))
    )
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def _colour_bar(ax: Axes, plan: Plan, image: AxesImage, scale: Scale, size: float) -> None:
    place = (
        (plan.right + 1.5 * GAP) / plan.width, 1 - (plan.top + plan.bar_height) / plan.height,
        BAR / plan.width, plan.bar_height / plan.height,
    )  # fmt: skip
    bar = ax.figure.colorbar(image, cax=ax.inset_axes(place))
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=0.94 * size, length=2, colors=MUTED)
    bar.ax.set_ylabel(scale.label, fontsize=size)
