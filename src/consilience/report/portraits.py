"""Clusters as pictures, as plain data: what a unit is made of and what excites it.

Pictures keep 8 bits for each number, which is what a screen shows, so that a report's results stay small.
"""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from functools import cached_property

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from consilience.errors import InputError

LEVELS = 255
WEIGHTS = "RdBu_r"  # color map: red above 0, blue below, white at 0; color-blind readers see the difference
Box = tuple[int, int, int, int]  # top, left, bottom, right: rows top … bottom − 1, columns left … right − 1


@dataclass(frozen=True)
class Picture:
    """A small picture.

    >>> picture = Picture.of(np.array([[[0.0, 0.5], [0.25, 1.0]]]))
    >>> picture, picture.values.round(1).tolist()
    (Picture(shape=(1, 2, 2), pixels='AIBA/w=='), [[[0.0, 0.5], [0.3, 1.0]]])
    """

    shape: tuple[int, int, int]  # (C, H, W) with C = 1 or 3
    pixels: str  # C·H·W bytes in base64; 0 is darkest, 255 brightest. Of weights, 0 is 127.5.

    def __post_init__(self) -> None:
        n_bytes = len(base64.b64decode(self.pixels, validate=True))
        if len(self.shape) != 3 or self.shape[0] not in (1, 3) or n_bytes != math.prod(self.shape) or not n_bytes:
            raise InputError(
                f"a picture must have a shape (C, H, W) with C = 1 or 3 and one byte for each number, got shape "
                f"{tuple(self.shape)} and {n_bytes} bytes"
            )

    @classmethod
    def of(cls, values: NDArray[np.floating]) -> Picture:
        """Return the picture of values (C, H, W) from 0 to 1; values outside are clipped."""
        levels = np.rint(LEVELS * np.clip(values, 0, 1)).astype(np.uint8)
        return cls(levels.shape, base64.b64encode(levels.tobytes()).decode())

    @classmethod
    def of_weights(cls, weights: NDArray[np.floating], largest: float | None = None) -> Picture:
        """Return the picture of weights (C, H, W) in a scale symmetric around 0, by default their own."""
        return cls.of(0.5 + 0.5 * weights / (largest or float(np.abs(weights).max()) or 1.0))

    @property
    def levels(self) -> NDArray[np.uint8]:
        """The bytes, (C, H, W)."""
        return np.frombuffer(base64.b64decode(self.pixels), np.uint8).reshape(self.shape)

    @property
    def values(self) -> NDArray[np.float64]:
        """The numbers (C, H, W), from 0 to 1."""
        return self.levels / LEVELS

    def uri(self, colors: str = "gray") -> str:
        """Return the picture as a PNG in a data URI; with one channel in this color map of matplotlib."""
        if self.shape[0] == 3:
            rgb = np.moveaxis(self.levels, 0, -1)
        else:
            rgb = mpl.colormaps[colors](self.levels[0], bytes=True)[..., :3]
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(rgb)).save(buffer, "PNG")
        return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


@dataclass(frozen=True)
class Patch:
    """A part of an image that excites a cluster."""

    sample: int  # index of the image among those given
    box: Box  # which part: what a unit sees from one position, clipped at the border of the image
    picture: Picture  # its pixels, perhaps at a lower resolution


@dataclass(frozen=True)
class Portrait:
    """One cluster of a census."""

    frequency: float
    size: int
    stability: float  # NaN if it was not measured
    centroid: Picture | None  # its weights from the inputs; None where it reads other layers
    kernels: tuple[Picture, ...]  # the same of units, each of another member, in the scale of the centroid
    patches: tuple[Patch, ...]  # what excites it, the strongest first, each of another image
    recurrence: float | None = None  # share of the other members that have a unit like one of it; None: not measured
    recurrence_by_chance: float | None = None  # the same where members are turned at random
    q: float | None = None  # rate of false discoveries at which it counts as one

    @property
    def weights(self) -> tuple[Picture, ...]:
        """Return the centroid and the kernels, where they are pictures."""
        return (self.centroid, *self.kernels) if self.centroid else ()


@dataclass(frozen=True)
class LayerAtlas:
    """The most frequent clusters of a layer."""

    name: str  # the layer
    n_members: int  # size of the population
    n_clusters: int  # number of clusters of the layer
    n_images: int  # number of images that were searched
    image_size: tuple[int, int]  # their height and width
    portraits: tuple[Portrait, ...]  # of the first clusters, in canonical order

    @cached_property
    def patch_size(self) -> tuple[int, int]:
        """Height and width of the largest patch, in pixels of the image."""
        boxes = np.array([patch.box for portrait in self.portraits for patch in portrait.patches])
        if not len(boxes):
            raise InputError(f"the atlas of {self.name} must have clusters with patches, got none")
        height, width = (boxes[:, 2:] - boxes[:, :2]).max(0)
        return int(height), int(width)

    @property
    def is_clipped(self) -> bool:
        """Whether a patch lies at the border of its image, where units see less than their field."""
        patches = [patch for portrait in self.portraits for patch in portrait.patches]
        return any(self.place(patch)[2:] != (100, 100) for patch in patches)

    def place(self, patch: Patch) -> tuple[float, float, float, float]:
        """Return left, top, width and height of a patch in the field of a unit, in %.

        The field is as large as the largest patch; a patch at the border of the image lacks a part of it.
        """
        (top, height), (left, width) = (self._place(patch.box[i], patch.box[i + 2], i) for i in (0, 1))
        return left, top, width, height

    def _place(self, start: int, stop: int, direction: int) -> tuple[float, float]:
        """Return where lines start … stop − 1 of an image begin in a field, and their length, in %."""
        size, extent = self.image_size[direction], self.patch_size[direction]
        before = extent - (stop - start) if start == 0 and stop < size else 0
        return 100 * before / extent, 100 * (stop - start) / extent
