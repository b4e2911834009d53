"""Samples that groups of models see most differently: each with its picture and what every group makes of it.

All lengths are points (1/72 inch) on a page; in axes that are smaller everything shrinks, text too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from consilience.errors import InputError
from consilience.report.comparison.results import DisputedSample
from consilience.report.labels import LINE, size_of, width_of
from consilience.report.style import INK, MUTED, SMALL, WIDTH, own_axes, shortened, styled

MARGIN, GAP, PAD = 6.0, 14.0, 8.0  # around all, between samples, between a picture and its text
TILE = 62.0  # a picture
COLUMNS = 2
MOST_LINES = 8  # of a sample
TEXT = (72 * WIDTH - 2 * MARGIN - (COLUMNS - 1) * GAP) / COLUMNS  # width of a sample


@styled
def disputed_samples(samples: Sequence[DisputedSample], ax: Axes | None = None) -> Axes:
    """Draw samples in two columns, the first ones first: picture, name, class, disagreement, and each group's view.

    Raises
    ------
    InputError
        If there are none, or one is no picture.
    """
    pictures = [_checked(sample) for sample in samples]
    if not samples:
        raise InputError("there is nothing to draw", where="disputed_samples", got="no samples")
    indent = TILE + PAD if any(picture is not None for picture in pictures) else 0.0
    texts = [_lines(sample, TEXT - indent) for sample in samples]
    heights = [max(TILE if indent else 0.0, LINE * len(lines)) + GAP for lines in texts]
    tops = np.cumsum([0.0, *(max(heights[i : i + COLUMNS]) for i in range(0, len(samples), COLUMNS))])
    width, height = COLUMNS * TEXT + (COLUMNS - 1) * GAP, float(tops[-1]) - GAP
    if ax is None:
        edges = dict.fromkeys(("left", "right", "bottom", "top"), MARGIN / 72)
        ax = own_axes(WIDTH, (height + 2 * MARGIN) / 72, **edges)
    ax.set_axis_off()
    ax.set_aspect("equal", anchor="N")
    size = SMALL * min(1.0, *(a / b for a, b in zip(size_of(ax), (width, height), strict=True)))
    for i, (picture, lines) in enumerate(zip(pictures, texts, strict=True)):
        x, y = (i % COLUMNS) * (TEXT + GAP), float(tops[i // COLUMNS])
        if picture is not None:
            high, wide = (TILE * n / max(picture.shape[:2]) for n in picture.shape[:2])
            looks: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 1} if picture.ndim == 2 else {}
            ax.imshow(picture, extent=(x, x + wide, y + high, y), interpolation="none", zorder=2, **looks)
        for row, line in enumerate(lines):
            ax.text(x + indent, y + (row + 0.5) * LINE, line, va="center", fontsize=size, color=MUTED if row else INK)
    ax.set(xlim=(0, width), ylim=(height, 0))
    return ax


def _checked(sample: DisputedSample) -> NDArray[np.float64] | None:
    """Return what to show of a sample, cut to 0…1."""
    if sample.image is None:
        return None
    picture = np.asarray(sample.image, dtype=np.float64)
    if picture.ndim not in (2, 3) or 0 in picture.shape or (picture.ndim == 3 and picture.shape[2] != 3):
        raise InputError(
            "this is no picture", where=sample.id, got=f"shape {picture.shape}", expected="(h, w) or (h, w, 3)"
        )
    return np.clip(np.nan_to_num(picture), 0, 1)


def _lines(sample: DisputedSample, width: float) -> list[str]:
    """Return a heading and the views, broken to a width; what is beyond `MOST_LINES` is counted."""
    told = [shortened(sample.id), *([f"class {shortened(sample.label)}"] if sample.label is not None else [])]
    if np.isfinite(sample.disagreement):
        told.append(f"disagreement {sample.disagreement:.2f}")
    lines, left = [" · ".join(told)], len(sample.views)
    for view in sample.views:
        broken = _broken(view, width)
        if len(lines) + len(broken) + (left > 1) > MOST_LINES:
            return [*lines, f"… and {left} more group{'s' if left > 1 else ''}"]
        lines, left = lines + broken, left - 1
    return lines


def _broken(text: str, width: float) -> list[str]:
    """Break a text between words; a word that is too wide loses its middle."""
    lines: list[str] = []
    for word in text.split():
        while width_of(word) > width:
            word = shortened(word, len(word) - 1)
        if lines and width_of(f"{lines[-1]} {word}") <= width:
            lines[-1] = f"{lines[-1]} {word}"
        else:
            lines.append(word)
    return lines
