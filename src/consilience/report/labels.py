"""Labels beside what they name: moved apart so that none covers another, and held inside the figure.

All lengths are points (1/72 inch) from the lower left corner of the axes. Limits of the axes are to be set before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.patheffects import withStroke
from matplotlib.textpath import TextToPath
from numpy.typing import NDArray

from consilience.report.style import FONT, MUTED, SMALL, readable

LINE = 11.5  # height of a line of small text, with some air
TIE = 16.0  # from the right edge of the axes to a label in the margin
HALO = (withStroke(linewidth=2.2, foreground="white"),)
SIDES = {"left": (0.0, 0.5), "right": (1.0, 0.5), "center": (0.5, 0.5)}  # where a line meets the text aligned this way
Point = tuple[float, float]
Array = NDArray[np.float64]
Box = tuple[float, float, float, float]  # x0, y0, x1, y1


@dataclass(frozen=True)
class Label:
    """A text, the point of the data that it names, the colour of both, and how far beside its place that is drawn."""

    text: str
    x: float
    y: float
    colour: str
    shift: float = 0.0


def spread(wanted: Sequence[float], sizes: Sequence[float], low: float, high: float) -> list[float]:
    """Move intervals apart until none overlap, by the smallest sum of squared shifts, and keep their order.

    With offsets o_i = the sizes before i and half its own, the new centres minus o must not decrease: an isotonic
    regression, by pooling adjacent violators. Intervals that do not fit between ``low`` and ``high`` run over ``high``.

    >>> spread([5, 5, 20], [4, 4, 4], 0, 100)
    [3.0, 7.0, 20.0]
    >>> spread([1, 1], [4, 4], 0, 100)
    [2.0, 6.0]
    """
    order = np.argsort(wanted, kind="stable")
    size = np.asarray(sizes, float)[order]
    offset = np.cumsum(size) - size / 2
    pools: list[tuple[float, int]] = []  # mean, count
    for value in np.asarray(wanted, float)[order] - offset:
        mean, count = float(value), 1
        while pools and pools[-1][0] > mean:
            before, n = pools.pop()
            mean, count = (before * n + mean * count) / (n + count), n + count
        pools.append((mean, count))
    fitted = np.repeat([mean for mean, _ in pools], [count for _, count in pools])
    placed = np.empty(len(order))
    placed[order] = np.maximum(np.minimum(fitted, high - size.sum()), low) + offset
    return [float(centre) for centre in placed]


def size_of(ax: Axes) -> Point:
    """Width and height of the axes."""
    extent, scale = ax.get_window_extent(), 72 / ax.figure.dpi
    return float(extent.width) * scale, float(extent.height) * scale


@lru_cache(maxsize=1024)
def width_of(text: str, size: float = SMALL) -> float:
    """Width of a text, with room for the rounding of letters to pixels."""
    width, _, _ = TextToPath().get_text_width_height_descent(text, FontProperties(family=FONT, size=size), ismath=False)
    return 1.04 * float(width)


def at(ax: Axes, x: float, y: float) -> Point:
    """Where a point of the data lies; one outside the limits lies on the edge."""
    (left, right), (bottom, top) = sorted(ax.get_xlim()), sorted(ax.get_ylim())
    pixels = ax.transData.transform((float(np.clip(x, left, right)), float(np.clip(y, bottom, top))))
    x_pixels, y_pixels = pixels - ax.get_window_extent().p0
    return float(x_pixels) * 72 / ax.figure.dpi, float(y_pixels) * 72 / ax.figure.dpi


def right_of(ax: Axes, labels: Sequence[Label]) -> None:
    """Write labels in the right margin, at the height of their ``y``, each tied to it by a thin line."""
    width, height = size_of(ax)
    wanted = [at(ax, label.x, label.y)[1] for label in labels]
    placed = spread(wanted, [LINE] * len(labels), -LINE / 2, height + LINE / 2)
    for label, y, y_label in zip(labels, wanted, placed, strict=True):
        _write(ax, label, (width, y), (width + TIE, y_label), "left")


def left_of(ax: Axes, labels: Sequence[Label], x: float) -> list[Box]:
    """Write labels that end at ``x``, inside the axes, in one column left of what they name; return their places."""
    wanted = [_drawn(ax, label) for label in labels]
    placed = spread([y for _, y in wanted], [LINE] * len(labels), 0, size_of(ax)[1])
    for label, point, y in zip(labels, wanted, placed, strict=True):
        _write(ax, label, point, (x, y), "right")
    return [(x - width_of(label.text), y - LINE / 2, x, y + LINE / 2) for label, y in zip(labels, placed, strict=True)]


def near(ax: Axes, labels: Sequence[Label], obstacles: Sequence[Box]) -> None:
    """Write each label where it and the line to its point cover least, nearest first, among places around its point."""
    taken = list(obstacles)
    for label in labels:
        point, length = _drawn(ax, label), width_of(label.text)
        gaps, boxes = _places(ax, point, length)
        cost = _covered(boxes, taken) + 2 * _covered(_lines(point, boxes), taken).sum(-1) + gaps / 4
        best = boxes[int(cost.argmin())] if len(boxes) else (*point, point[0] + length, point[1] + LINE)
        x0, y0, x1, y1 = (float(edge) for edge in best)
        side = "left" if x0 > point[0] else "right" if x1 < point[0] else "center"
        x = {"left": x0, "right": x1, "center": (x0 + x1) / 2}[side]
        _write(ax, label, point, (x, (y0 + y1) / 2), side, HALO)
        taken.append((x0, y0, x1, y1))


def above(ax: Axes, texts: Sequence[str], xs: Sequence[float]) -> None:
    """Write texts in one line above the axes at these ``xs`` of the data, moved apart where they are too close."""
    width, height = size_of(ax)
    wanted = [at(ax, x, ax.get_ylim()[0])[0] for x in xs]
    placed = spread(wanted, [width_of(text) + 5 for text in texts], 0, width)
    for text, x in zip(texts, placed, strict=True):
        place = (x / width, 1 + 4 / height)
        ax.annotate(text, place, xycoords="axes fraction", ha="center", fontsize=SMALL, color=MUTED)


def along(ax: Axes, xs: Sequence[float], ys: Sequence[float]) -> list[Box]:
    """Boxes along a line through points of the data, as obstacles."""
    points = [at(ax, x, y) for x, y in zip(xs, ys, strict=True)]
    return [box for pair in pairwise(points) for box in _between(*pair)]


def _drawn(ax: Axes, label: Label) -> Point:
    x, y = at(ax, label.x, label.y)
    return x + label.shift, y


def _places(ax: Axes, point: Point, length: float) -> tuple[Array, Array]:
    """Return the distances (p,) and boxes (p, 4) of places around a point where a text fits into the axes."""
    width, height = size_of(ax)
    gap, angle = (
        grid.ravel() for grid in np.meshgrid((9, 16, 26, 38, 52, 68), np.radians(range(0, 360, 30)), indexing="ij")
    )
    dx, dy = np.cos(angle), np.sin(angle)
    x = point[0] + dx * (gap + length / 2 * abs(dx))
    y = point[1] + dy * (gap + LINE / 2 * abs(dy))
    boxes = np.stack([x - length / 2, y - LINE / 2, x + length / 2, y + LINE / 2], axis=1)
    inside = (boxes[:, :2] >= 2).all(1) & (boxes[:, 2] <= width - 2) & (boxes[:, 3] <= height - 2)
    return gap[inside], boxes[inside]


def _write(ax: Axes, label: Label, point: Point, place: Point, side: str, effects: Sequence[withStroke] = ()) -> None:
    """Write a label, and tie it to its point if it is not beside it."""
    width, height = size_of(ax)
    far = abs(point[0] - place[0]) > 14 or abs(point[1] - place[1]) > 9
    tie = {
        "arrowstyle": "-",
        "color": label.colour,
        "linewidth": 0.6,
        "shrinkA": 1,
        "shrinkB": 0,
        "relpos": SIDES[side],
    }
    ax.annotate(
        label.text, (point[0] / width, point[1] / height), (place[0] / width, place[1] / height),
        xycoords="axes fraction", textcoords="axes fraction", ha=side, va="center", fontsize=SMALL,
        color=readable(label.colour), arrowprops=tie if far else None, annotation_clip=False,
        path_effects=effects or None, zorder=6,
    )  # fmt: skip


def _between(start: Point, end: Point, radius: float = 2.5) -> list[Box]:
    """Small boxes along a straight line."""
    n = max(2, int(np.hypot(end[0] - start[0], end[1] - start[1]) / 5))
    return [(x - radius, y - radius, x + radius, y + radius) for x, y in np.linspace(start, end, n)]


def _lines(point: Point, boxes: Array) -> Array:
    """Return dots (p, 6, 4) along the lines from a point to the nearest edges of boxes (p, 4), but not at the point."""
    nearest = np.clip(point, boxes[:, :2], boxes[:, 2:])
    dots = np.linspace(np.broadcast_to(point, nearest.shape), nearest, 8, axis=1)[:, 2:]
    return np.concatenate([dots - 1, dots + 1], axis=-1)


def _covered(boxes: Array, taken: Sequence[Box]) -> Array:
    """Return the area (...,) of each box (..., 4) that is covered, where boxes overlap once for each."""
    if not taken:
        return np.zeros(boxes.shape[:-1])
    other = np.array(taken)
    sides = np.minimum(boxes[..., None, 2:], other[:, 2:]) - np.maximum(boxes[..., None, :2], other[:, :2])
    area: Array = np.maximum(sides, 0).prod(-1).sum(-1)
    return area
