"""Labels beside what they name: moved apart so that none covers another, and held inside the figure.

All lengths are points (1/72 inch) from the lower left corner of the axes. Limits of the axes are to be set before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.textpath import TextPath

from consilience.report.style import FONT, MUTED, SMALL, readable

LINE = 11.5  # height of a line of small text, with some air
TIE = 16.0  # from the right edge of the axes to a label in the margin
HALO = (withStroke(linewidth=2.2, foreground="white"),)
SIDES = {"left": (0.0, 0.5), "right": (1.0, 0.5), "center": (0.5, 0.5)}  # where a line meets the text aligned this way
Point = tuple[float, float]
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


def width_of(text: str, size: float = SMALL) -> float:
    """Width of a text, with room for the rounding of letters to pixels."""
    if not text.strip():
        return 0.0
    return 1.04 * float(TextPath((0, 0), text, size=size, prop=FontProperties(FONT)).get_extents().width)


def at(ax: Axes, x: float, y: float) -> Point:
    """Where a point of the data lies; one outside the limits lies on the edge."""
    (left, right), (bottom, top) = sorted(ax.get_xlim()), sorted(ax.get_ylim())
    pixels = ax.transData.transform((float(np.clip(x, left, right)), float(np.clip(y, bottom, top))))
    x_pixels, y_pixels = pixels - ax.get_window_extent().p0
    return float(x_pixels) * 72 / ax.figure.dpi, float(y_pixels) * 72 / ax.figure.dpi


def right_of(ax: Axes, labels: Sequence[Label]) -> list[Text]:
    """Write labels in the right margin, at the height of their ``y``, each tied to it by a thin line."""
    width, height = size_of(ax)
    wanted = [at(ax, label.x, label.y)[1] for label in labels]
    placed = spread(wanted, [LINE] * len(labels), -LINE / 2, height + LINE / 2)
    return [
        _write(ax, label, (width, y), (width + TIE, y_label), "left")
        for label, y, y_label in zip(labels, wanted, placed, strict=True)
    ]


def left_of(ax: Axes, labels: Sequence[Label], x: float) -> list[Text]:
    """Write labels that end at ``x``, inside the axes, in one column left of what they name."""
    wanted = [_drawn(ax, label) for label in labels]
    placed = spread([y for _, y in wanted], [LINE] * len(labels), 0, size_of(ax)[1])
    return [
        _write(ax, label, point, (x, y_label), "right")
        for label, point, y_label in zip(labels, wanted, placed, strict=True)
    ]


def near(ax: Axes, labels: Sequence[Label], obstacles: Sequence[Box]) -> list[Text]:
    """Write each label where it and the line to its point cover least, nearest first, among places around its point."""
    taken, texts = list(obstacles), []
    for label in labels:
        point, length = _drawn(ax, label), width_of(label.text)
        places = [
            (_covered(box, taken) + 2 * _crossed(point, box, taken) + gap / 4, box)
            for gap, box in _places(ax, point, length)
        ]
        box = min(places, default=(0.0, (point[0], point[1], point[0] + length, point[1] + LINE)))[1]
        side = "left" if box[0] > point[0] else "right" if box[2] < point[0] else "center"
        x = {"left": box[0], "right": box[2], "center": (box[0] + box[2]) / 2}[side]
        texts.append(_write(ax, label, point, (x, (box[1] + box[3]) / 2), side, HALO))
        taken.append(box)
    return texts


def above(ax: Axes, texts: Sequence[str], xs: Sequence[float]) -> list[Text]:
    """Write texts in one line above the axes at these ``xs`` of the data, moved apart where they are too close."""
    width, height = size_of(ax)
    wanted = [at(ax, x, ax.get_ylim()[0])[0] for x in xs]
    placed = spread(wanted, [width_of(text) + 5 for text in texts], 0, width)
    return [
        ax.annotate(
            text, (x / width, 1 + 4 / height), xycoords="axes fraction", ha="center", fontsize=SMALL, color=MUTED
        )
        for text, x in zip(texts, placed, strict=True)
    ]


def along(ax: Axes, xs: Sequence[float], ys: Sequence[float]) -> list[Box]:
    """Boxes along a line through points of the data, as obstacles."""
    points = [at(ax, x, y) for x, y in zip(xs, ys, strict=True)]
    return [box for pair in pairwise(points) for box in _between(*pair)]


def box_of(text: Text) -> Box:
    """Where a text stands, without the line that ties it."""
    assert text.axes is not None
    extent, corner, scale = Text.get_window_extent(text), text.axes.get_window_extent().p0, 72 / text.axes.figure.dpi
    (x0, y0), (x1, y1) = (extent.p0 - corner) * scale, (extent.p1 - corner) * scale
    return float(x0), float(y0), float(x1), float(y1)


def _drawn(ax: Axes, label: Label) -> Point:
    x, y = at(ax, label.x, label.y)
    return x + label.shift, y


def _places(ax: Axes, point: Point, length: float) -> list[tuple[float, Box]]:
    """Return (distance, box) of the places around a point where a text of this length lies inside the axes."""
    width, height = size_of(ax)
    places = []
    for gap in (9.0, 16.0, 26.0, 38.0, 52.0, 68.0):
        for angle in np.radians(range(0, 360, 30)):
            dx, dy = float(np.cos(angle)), float(np.sin(angle))
            x, y = point[0] + dx * (gap + length / 2 * abs(dx)), point[1] + dy * (gap + LINE / 2 * abs(dy))
            box = (x - length / 2, y - LINE / 2, x + length / 2, y + LINE / 2)
            if min(box[0], box[1]) >= 2 and box[2] <= width - 2 and box[3] <= height - 2:
                places.append((gap, box))
    return places


def _write(ax: Axes, label: Label, point: Point, place: Point, side: str, effects: Sequence[withStroke] = ()) -> Text:
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
    return ax.annotate(
        label.text, (point[0] / width, point[1] / height), (place[0] / width, place[1] / height),
        xycoords="axes fraction", textcoords="axes fraction", ha=side, va="center", fontsize=SMALL,
        color=readable(label.colour), arrowprops=tie if far else None, annotation_clip=False,
        path_effects=effects or None, zorder=6,
    )  # fmt: skip


def _between(start: Point, end: Point, radius: float = 2.5) -> list[Box]:
    """Small boxes along a straight line."""
    n = max(2, int(np.hypot(end[0] - start[0], end[1] - start[1]) / 5))
    return [(x - radius, y - radius, x + radius, y + radius) for x, y in np.linspace(start, end, n)]


def _covered(box: Box, taken: Sequence[Box]) -> float:
    """Area of the box that is covered, boxes that overlap counted twice."""
    if not taken:
        return 0.0
    x0, y0, x1, y1 = np.array(taken).T
    sides = np.minimum(box[2], x1) - np.maximum(box[0], x0), np.minimum(box[3], y1) - np.maximum(box[1], y0)
    return float((np.maximum(sides[0], 0) * np.maximum(sides[1], 0)).sum())


def _crossed(point: Point, box: Box, taken: Sequence[Box]) -> float:
    """Area covered of the line from a point to the nearest edge of a box, without the surroundings of the point."""
    nearest = float(np.clip(point[0], box[0], box[2])), float(np.clip(point[1], box[1], box[3]))
    line = [(x - 1, y - 1, x + 1, y + 1) for x, y in np.linspace(point, nearest, 8)[2:]]
    return sum(_covered(dot, taken) for dot in line)
