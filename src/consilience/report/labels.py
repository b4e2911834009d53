"""Labels beside what they name: moved apart so that none covers another, and held inside the figure.

All lengths are points (1/72 inch) from the lower left corner of the axes. Limits of the axes are to be set before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from numpy.typing import NDArray

from consilience.report.style import SMALL, readable

LINE = 11.5  # height of a line of small text, with some air
HALO = (withStroke(linewidth=2.2, foreground="white"),)
Box = tuple[float, float, float, float]  # x0, y0, x1, y1


@dataclass(frozen=True)
class Label:
    """A text, the point of the data that it names, and the colour of both."""

    text: str
    x: float
    y: float
    colour: str


def spread(wanted: Sequence[float], sizes: Sequence[float], low: float, high: float) -> list[float]:
    """Move intervals apart until none overlap, by the smallest sum of squared shifts, and keep their order.

    With offsets o_i = half the sizes up to i, the shifted centres minus o must not decrease: an isotonic regression.
    Intervals that do not fit between ``low`` and ``high`` run over ``high``.

    >>> spread([5, 5, 20], [4, 4, 4], 0, 100)
    [3.0, 7.0, 20.0]
    >>> spread([1, 1], [4, 4], 0, 100)
    [2.0, 6.0]
    """
    order = np.argsort(wanted, kind="stable")
    size = np.asarray(sizes, float)[order]
    offset = np.cumsum(size) - size / 2
    blocks: list[tuple[float, int]] = []  # mean, count: pool adjacent violators
    for value in np.asarray(wanted, float)[order] - offset:
        block = (float(value), 1)
        while blocks and blocks[-1][0] > block[0]:
            mean, count = blocks.pop()
            block = ((mean * count + block[0] * block[1]) / (count + block[1]), count + block[1])
        blocks.append(block)
    fitted = np.concatenate([np.full(count, mean) for mean, count in blocks]) if blocks else np.empty(0)
    centres = np.maximum(np.minimum(fitted, high - size.sum()), low) + offset
    placed = np.empty(len(centres))
    placed[order] = centres
    return [float(centre) for centre in placed]


def size_of(ax: Axes) -> tuple[float, float]:
    """Width and height of the axes."""
    extent = ax.get_window_extent()
    return extent.width * 72 / ax.figure.dpi, extent.height * 72 / ax.figure.dpi


def at(ax: Axes, x: float, y: float) -> tuple[float, float]:
    """Where a point of the data lies; one outside the limits lies on the edge."""
    (left, right), (bottom, top) = sorted(ax.get_xlim()), sorted(ax.get_ylim())
    inside = (float(np.clip(x, left, right)), float(np.clip(y, bottom, top)))
    pixels = ax.transData.transform(inside) - ax.get_window_extent().p0
    return float(pixels[0]) * 72 / ax.figure.dpi, float(pixels[1]) * 72 / ax.figure.dpi


def width_of(ax: Axes, text: str, size: float = SMALL) -> float:
    """Width of a text in the current font."""
    artist = ax.text(0, 0, text, fontsize=size, transform=None)
    width = float(artist.get_window_extent().width) * 72 / ax.figure.dpi
    artist.remove()
    return width


def right_of(ax: Axes, labels: Sequence[Label]) -> list[Text]:
    """Write labels in the right margin, at the height of their ``y``, each tied to it by a thin line."""
    width, height = size_of(ax)
    wanted = [at(ax, label.x, label.y)[1] for label in labels]
    placed = spread(wanted, [LINE] * len(labels), -LINE / 2, height + LINE / 2)
    return [
        _tied(ax, label, (width, y), (width + 16, y_label), "left")
        for label, y, y_label in zip(labels, wanted, placed, strict=True)
    ]


def left_of(ax: Axes, labels: Sequence[Label], x: float) -> list[Text]:
    """Write labels that end at ``x``, inside the axes, in one column left of what they name."""
    _, height = size_of(ax)
    wanted = [at(ax, label.x, label.y) for label in labels]
    placed = spread([y for _, y in wanted], [LINE] * len(labels), 0, height)
    return [
        _tied(ax, label, point, (x, y_label), "right", gap=4)
        for label, point, y_label in zip(labels, wanted, placed, strict=True)
    ]


def near(ax: Axes, labels: Sequence[Label], obstacles: Sequence[Box]) -> list[Text]:
    """Write each label where it covers least, nearest first, among places around its point."""
    width, height = size_of(ax)
    taken = list(obstacles)
    texts = []
    for label in labels:
        x, y = at(ax, label.x, label.y)
        length = width_of(ax, label.text)
        places = []
        for distance in (9, 16, 26, 38, 52, 68):
            for angle in range(0, 360, 30):
                dx, dy = np.cos(np.radians(angle)), np.sin(np.radians(angle))
                centre = (x + dx * (distance + length / 2 * abs(dx)), y + dy * (distance + LINE / 2 * abs(dy)))
                box = (centre[0] - length / 2, centre[1] - LINE / 2, centre[0] + length / 2, centre[1] + LINE / 2)
                if box[0] >= 2 and box[2] <= width - 2 and box[1] >= 2 and box[3] <= height - 2:
                    places.append((_covered(box, taken) + distance / 4, distance + angle / 1000, box, dx))
        _, _, box, dx = min(places, default=(0, 0, (x, y, x + length, y + LINE), 1.0))
        side = "left" if dx > 0.1 else "right" if dx < -0.1 else "center"
        x_text = {"left": box[0], "right": box[2], "center": (box[0] + box[2]) / 2}[side]
        texts.append(_tied(ax, label, (x, y), (x_text, (box[1] + box[3]) / 2), side))
        taken.append(box)
    return texts


def along(ax: Axes, xs: NDArray[np.float64], ys: NDArray[np.float64], radius: float = 2.5, step: float = 5.0) -> list[Box]:
    """Boxes along a line through data, as obstacles."""
    points = [at(ax, float(x), float(y)) for x, y in zip(xs, ys, strict=True)]
    boxes = []
    for (x0, y0), (x1, y1) in zip(points[:-1], points[1:], strict=True):
        n = max(2, int(np.hypot(x1 - x0, y1 - y0) / step))
        for share in np.linspace(0, 1, n):
            x, y = x0 + share * (x1 - x0), y0 + share * (y1 - y0)
            boxes.append((x - radius, y - radius, x + radius, y + radius))
    return boxes


def above(ax: Axes, texts: Sequence[str], xs: Sequence[float]) -> list[Text]:
    """Write texts in one line above the axes at these ``xs`` of the data, moved apart where they are too close."""
    width, height = size_of(ax)
    wanted = [at(ax, x, ax.get_ylim()[0])[0] for x in xs]
    placed = spread(wanted, [width_of(ax, text) + 5 for text in texts], 0, max(width, 0))
    return [
        ax.annotate(text, (x / width, 1 + 4 / height), xycoords="axes fraction", ha="center", va="bottom", fontsize=SMALL, color="#444444")
        for text, x in zip(texts, placed, strict=True)
    ]


def _tied(
    ax: Axes, label: Label, point: tuple[float, float], place: tuple[float, float], side: str, gap: float = 0
) -> Text:
    width, height = size_of(ax)
    far = abs(point[0] - place[0]) > 12 or abs(point[1] - place[1]) > 9
    arrow = {"arrowstyle": "-", "color": label.colour, "linewidth": 0.6, "shrinkA": 1, "shrinkB": gap, "relpos": _SIDES[side]}
    return ax.annotate(
        label.text, (point[0] / width, point[1] / height), (place[0] / width, place[1] / height),
        xycoords="axes fraction", textcoords="axes fraction", ha=side, va="center", fontsize=SMALL,
        color=readable(label.colour), arrowprops=arrow if far else None, annotation_clip=False, path_effects=HALO, zorder=6,
    )  # fmt: skip


def _covered(box: Box, taken: Sequence[Box]) -> float:
    """Area of ``box`` that is covered, square points."""
    total = 0.0
    for x0, y0, x1, y1 in taken:
        total += max(0.0, min(box[2], x1) - max(box[0], x0)) * max(0.0, min(box[3], y1) - max(box[1], y0))
    return total


_SIDES = {"left": (0.0, 0.5), "right": (1.0, 0.5), "center": (0.5, 0.5)}
