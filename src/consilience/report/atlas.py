"""A frequency atlas: the most frequent clusters of a layer, each with its weights and with what excites it most.

All lengths are points (1/72 inch) on a page; in axes that are smaller everything shrinks, text too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from consilience.errors import InputError
from consilience.report.images import COLOUR_MAP
from consilience.report.labels import size_of
from consilience.report.portraits import LayerAtlas, Patch, Picture, Portrait
from consilience.report.style import FREQUENCY, GRID, INK, MUTED, NORMAL, SMALL, WIDTH, own_axes, styled

MARGIN = 6.0
TEXT, LINES = 84.0, 40.0  # width and height of what is written beside a cluster
HEADING = 18.0
GAP, BREAK = 4.0, 16.0  # between pictures, and between columns of different things
LARGEST = 52.0  # width of a picture
OUTSIDE = "#f1ebdf"  # what lies beyond the border of an image: no grey, which might be in the image
FRAME = "#a8a8a8"  # around pictures, which may be as white as the page

Place = tuple[float, float, float, float]  # left, top, right, bottom


@styled
def frequency_atlas(atlas: LayerAtlas, ax: Axes | None = None) -> Axes:
    """Draw the clusters of a layer one under the other, in canonical order.

    From the left: the share of the members that own the cluster, its units and its stability; its centroid, and the
    weights of some of its units, each of another member, where they are pictures; what excites it most. Weights have
    one scale in each row, symmetric around 0, and the colours of `centroid_images`.

    Raises
    ------
    InputError
        If there is no cluster, or a cluster that nothing excites.
    """
    if not atlas.portraits or not all(portrait.patches for portrait in atlas.portraits):
        raise InputError(
            "an atlas cannot be drawn", where=atlas.name, got=f"{len(atlas.portraits)} clusters",
            expected="at least one cluster, and something that excites each",
        )  # fmt: skip
    plan = _Plan(atlas)
    if ax is None:
        ax = own_axes(
            (plan.width + 2 * MARGIN) / 72, (plan.height + 2 * MARGIN) / 72,
            left=MARGIN / 72, right=MARGIN / 72, bottom=MARGIN / 72, top=MARGIN / 72,
        )  # fmt: skip
    ax.set_axis_off()
    ax.set(xlim=(0, plan.width), ylim=(plan.height, 0))
    ax.set_aspect("equal", anchor="N")
    scale = min(1.0, *(have / need for have, need in zip(size_of(ax), (plan.width, plan.height), strict=True)))
    for x, text in plan.headings:
        ax.text(x, HEADING / 2, text, va="center", fontsize=scale * SMALL, color=MUTED)
    for row, portrait in enumerate(atlas.portraits):
        y = HEADING + (row + 0.5) * plan.pitch
        _tell(ax, portrait, atlas.n_members, y, scale)
        kernels = () if portrait.centroid is None else (portrait.centroid, *portrait.kernels)
        for x, kernel in zip(plan.kernels, kernels, strict=False):
            _show(ax, kernel, plan.kernel_place(kernel, x, y), COLOUR_MAP)
        for x, patch in zip(plan.patches, portrait.patches, strict=False):
            ax.add_patch(_rectangle(plan.field_place(x, y), facecolor=OUTSIDE, linewidth=0))
            _show(ax, patch.picture, plan.patch_place(patch, x, y), "gray")
    return ax


@dataclass(frozen=True)
class _Plan:
    """Where everything is."""

    atlas: LayerAtlas

    @cached_property
    def n_kernels(self) -> int:
        """Columns of weights, the centroid's among them."""
        return max(0 if each.centroid is None else 1 + len(each.kernels) for each in self.atlas.portraits)

    @cached_property
    def n_patches(self) -> int:
        return max(len(each.patches) for each in self.atlas.portraits)

    @cached_property
    def tile(self) -> float:
        """Width of a picture."""
        room = 72 * WIDTH - 2 * MARGIN - self._x(0, self.n_kernels + self.n_patches)
        return min(LARGEST, room / (self.n_kernels + self.n_patches))

    @cached_property
    def patch_size(self) -> tuple[int, int]:
        """Height and width of the largest patch, in pixels of the image."""
        boxes = np.array([patch.box for each in self.atlas.portraits for patch in each.patches])
        height, width = (boxes[:, 2:] - boxes[:, :2]).max(0)
        return int(height), int(width)

    @cached_property
    def cell(self) -> float:
        """Height of a picture at most."""
        height, width = self.patch_size
        return self.tile * float(np.clip(height / width, 0.5, 2))

    @property
    def pitch(self) -> float:
        """From one cluster to the next."""
        return max(self.cell, LINES) + 2 * GAP

    @property
    def width(self) -> float:
        return self._x(self.tile, self.n_kernels + self.n_patches) - GAP

    @property
    def height(self) -> float:
        return HEADING + len(self.atlas.portraits) * self.pitch

    @property
    def kernels(self) -> list[float]:
        """Left edges of the columns of weights."""
        return [self._x(self.tile, i) for i in range(self.n_kernels)]

    @property
    def patches(self) -> list[float]:
        """Left edges of the columns of what excites."""
        return [self._x(self.tile, self.n_kernels + i) for i in range(self.n_patches)]

    @property
    def headings(self) -> list[tuple[float, str]]:
        """Where each column begins, and what is in it."""
        found = [(0.0, "owned by"), (self.patches[0], "what excites it most")]
        names = ("centroid", "units of members" if self.n_kernels > 2 else "one unit")
        return [*found, *zip(self.kernels, names[: self.n_kernels], strict=False)]

    def _x(self, tile: float, column: int) -> float:
        """Left edge of a column of pictures of some width: the centroid, units of members, what excites."""
        apart = BREAK * ((column >= 1) + (column >= self.n_kernels)) if self.n_kernels else 0
        return TEXT + column * (tile + GAP) + apart

    def kernel_place(self, kernel: Picture, x: float, y: float) -> Place:
        """Left, top, right and bottom of weights in a column at x, around the height y."""
        return self._place(*kernel.shape[1:], x, y)

    def field_place(self, x: float, y: float) -> Place:
        """The same of what a unit sees where no border of an image is near."""
        return self._place(*self.patch_size, x, y)

    def patch_place(self, patch: Patch, x: float, y: float) -> Place:
        """The same of the part of it that is inside the image."""
        (rows, columns), (height, width) = self.patch_size, self.atlas.image_size
        (x0, y0, x1, _), (top, left, bottom, right) = self.field_place(x, y), patch.box
        pixel = (x1 - x0) / columns
        x0 += pixel * _before(left, right, width, columns)
        y0 += pixel * _before(top, bottom, height, rows)
        return x0, y0, x0 + pixel * (right - left), y0 + pixel * (bottom - top)

    def _place(self, rows: int, columns: int, x: float, y: float) -> Place:
        pixel = min(self.tile / columns, self.cell / rows)
        x0, y0 = x + (self.tile - pixel * columns) / 2, y - pixel * rows / 2
        return x0, y0, x0 + pixel * columns, y0 + pixel * rows


def _before(start: int, stop: int, size: int, extent: int) -> int:
    """How many lines of a field of ``extent`` lie before the image, of which it sees ``start`` … ``stop − 1``."""
    return extent - (stop - start) if start == 0 and stop < size else 0


def _tell(ax: Axes, portrait: Portrait, n_members: int, y: float, scale: float) -> None:
    """Write how frequent, large and stable a cluster is, with a bar for its frequency."""
    owners = f"{round(portrait.frequency * n_members)}/{n_members}"
    ax.text(0, y - 15, owners, va="center", fontsize=scale * NORMAL, color=INK)
    for share, colour in ((1.0, GRID), (portrait.frequency, FREQUENCY)):
        ax.add_patch(Rectangle((0, y - 6), share * (TEXT - BREAK), 3, facecolor=colour, linewidth=0))
    lines = [f"{portrait.size} unit{'' if portrait.size == 1 else 's'}"]
    if np.isfinite(portrait.stability):
        lines.append(f"stability {portrait.stability:.2f}")
    for i, line in enumerate(lines):
        ax.text(0, y + 5 + 11 * i, line, va="center", fontsize=scale * SMALL, color=MUTED)


def _show(ax: Axes, picture: Picture, place: Place, colours: str) -> None:
    """Draw a picture; one of three channels in its own colours."""
    left, top, right, bottom = place
    values = picture.values
    image: dict[str, Any] = {"X": np.moveaxis(values, 0, -1)}
    if len(values) == 1:
        image = {"X": values[0], "cmap": colours, "vmin": 0, "vmax": 1}
    ax.imshow(**image, extent=(left, right, bottom, top), interpolation="none", zorder=2)
    ax.add_patch(_rectangle(place, facecolor="none", edgecolor=FRAME, linewidth=0.5, zorder=3, clip_on=False))


def _rectangle(place: Place, **looks: Any) -> Rectangle:
    left, top, right, bottom = place
    return Rectangle((left, top), right - left, bottom - top, **looks)
