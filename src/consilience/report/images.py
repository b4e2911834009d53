"""The first layer's centroids as images: what the members look for in their inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from consilience.errors import InputError
from consilience.report.labels import size_of
from consilience.report.style import INK, SMALL, WIDTH, own_axes, styled

COLOUR_MAP = "RdBu_r"  # red above 0, blue below, white at 0; told apart by every eye
GAP = 0.14  # between images, of an image's width


@styled
def centroid_images(
    centroids: Sequence[Any] | NDArray[np.floating],
    frequency: Sequence[float],
    ax: Axes | None = None,
    *,
    n: int = 64,
    n_members: int | None = None,
) -> Axes:
    """Draw the n most frequent centroids in a grid, the frequency of each above it.

    Every image has its own scale, symmetric around 0, so that a pattern is seen however small its weights: with one
    channel red is above 0 and blue below; with three, 0 is grey and a channel above 0 adds its colour.

    Parameters
    ----------
    centroids : (K, C, H, W) with C = 1 or 3, as an array or nested lists.
    frequency : (K,) share of the members, in 0…1; there may be more of them than images.
    n : how many, from the most frequent; ties stay in the order given.
    n_members : writes "12/16" instead of "75 %", if all frequencies are multiples of 1/n_members.

    Raises
    ------
    InputError
        If there is no centroid, they have another shape, or there are fewer frequencies than centroids.
    """
    images = _check(centroids, frequency)
    share = np.asarray(frequency, float)[: len(images)]
    shown = np.argsort(-share, kind="stable")[:n]
    columns = _columns(len(shown))
    rows = -(-len(shown) // columns)
    height = images.shape[2] / images.shape[3]  # of an image; its width is 1
    ax, text_size, line = _grid(ax, rows, columns, height)
    for place, index in enumerate(shown):
        x, y = (place % columns) * (1 + GAP), (place // columns) * (height + line + GAP)
        image, limits = _picture(images[index])
        ax.imshow(image, extent=(x, x + 1, y + line + height, y + line), interpolation="none", zorder=2, **limits)
        ax.text(
            x + 0.5, y + line * 0.85, _share(share[index], share, n_members), ha="center", va="baseline",
            fontsize=text_size, color=INK,
        )  # fmt: skip
    ax.set(xlim=(-0.02, columns * (1 + GAP) - GAP + 0.02), ylim=(rows * (height + line + GAP) - GAP + 0.02, 0))
    return ax


def _check(centroids: Sequence[Any] | NDArray[np.floating], frequency: Sequence[float]) -> NDArray[np.float64]:
    expected = "(K, C, H, W) with K > 0 and C = 1 or 3"
    try:
        images = np.asarray(centroids, dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise InputError(
            "the centroids are no images of one shape", where="centroids", got=str(error), expected=expected
        ) from error
    if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape:
        raise InputError("the centroids are no images", where="centroids", got=images.shape, expected=expected)
    if len(frequency) < len(images):
        raise InputError(
            "some centroids have no frequency",
            where="frequency",
            got=len(frequency),
            expected=f"at least {len(images)}",
        )
    return images


def _columns(n: int) -> int:
    """Return a number of columns that fills the width: 16 for many small images, 8 or fewer for few."""
    return 16 if n > 36 else 12 if n > 16 else min(n, 8)


def _grid(ax: Axes | None, rows: int, columns: int, height: float) -> tuple[Axes, float, float]:
    """Return the axes, the size of the text in points, and the height of a line of it in widths of an image."""
    if ax is None:
        tile = 72 * min((WIDTH - 0.1) / (columns * (1 + GAP)), 0.85)  # points
        text_size, line = _text(tile)
        grid_height = rows * (height + line + GAP) * tile / 72
        ax = own_axes(
            columns * (1 + GAP) * tile / 72 + 0.1, grid_height + 0.1, left=0.05, right=0.05, bottom=0.05, top=0.05
        )
    else:
        text_size, line = _text(size_of(ax)[0] / (columns * (1 + GAP)))
    ax.set_axis_off()
    ax.set_aspect("equal", anchor="N")
    return ax, text_size, line


def _text(tile: float) -> tuple[float, float]:
    text_size = min(SMALL, tile / 3.2)  # "100 %" is 3.2 times as wide as it is high
    return text_size, 1.45 * text_size / tile


def _picture(image: NDArray[np.float64]) -> tuple[NDArray[np.float64], dict[str, Any]]:
    """Return what to show of one image (C, H, W), and the limits of its colours."""
    largest = float(np.abs(image).max()) or 1.0
    if len(image) == 1:
        return image[0], {"cmap": COLOUR_MAP, "vmin": -largest, "vmax": largest}
    return 0.5 + np.moveaxis(image, 0, -1) / (2 * largest), {}


def _share(value: float, all_values: NDArray[np.float64], n_members: int | None) -> str:
    if n_members and np.allclose(all_values * n_members, np.round(all_values * n_members), atol=1e-6):
        return f"{round(value * n_members)}/{n_members}"
    return f"{100 * value:.0f} %"
