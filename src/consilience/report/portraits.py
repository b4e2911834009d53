"""Clusters as pictures: what a unit is made of and what excites it, as plain data for a report.

Pictures are kept with 8 bits for each number, which is what a screen shows, so that a report's results stay small.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consilience.errors import InputError

LEVELS = 255
Box = tuple[int, int, int, int]  # top, left, bottom, right: rows top … bottom − 1, columns left … right − 1


@dataclass(frozen=True)
class Picture:
    """A small picture.

    Attributes
    ----------
    shape : (C, H, W) with C = 1 or 3.
    pixels : C·H·W bytes in base64; 0 is darkest, 255 brightest. Of weights, 0 is 127.5.

    Examples
    --------
    >>> picture = Picture.of(np.array([[[0.0, 0.5], [0.25, 1.0]]]))
    >>> picture, picture.values.round(1).tolist()
    (Picture(shape=(1, 2, 2), pixels='AIBA/w=='), [[[0.0, 0.5], [0.3, 1.0]]])
    """

    shape: tuple[int, int, int]
    pixels: str

    def __post_init__(self) -> None:
        n_bytes = len(base64.b64decode(self.pixels, validate=True))
        if len(self.shape) != 3 or self.shape[0] not in (1, 3) or n_bytes != math.prod(self.shape) or not n_bytes:
            raise InputError(
                "this is no picture", got=f"shape {tuple(self.shape)}, {n_bytes} bytes",
                expected="shape (C, H, W) with C = 1 or 3, and a byte for each number",
            )  # fmt: skip

    @classmethod
    def of(cls, values: NDArray[np.floating]) -> Picture:
        """Return the picture of values (C, H, W) from 0 to 1; what lies outside is cut off.

        Raises
        ------
        InputError
            If they have another shape.
        """
        levels = np.rint(LEVELS * np.clip(values, 0, 1)).astype(np.uint8)
        return cls(levels.shape, base64.b64encode(levels.tobytes()).decode())

    @property
    def values(self) -> NDArray[np.float64]:
        """The numbers (C, H, W), from 0 to 1."""
        return np.frombuffer(base64.b64decode(self.pixels), np.uint8).reshape(self.shape) / LEVELS


@dataclass(frozen=True)
class Patch:
    """A part of an image that excites a cluster.

    Attributes
    ----------
    sample : which image, by its number among those given.
    box : which part; what a unit sees from one position, cut off at the border of the image.
    picture : its pixels, perhaps fewer than there were.
    """

    sample: int
    box: Box
    picture: Picture


@dataclass(frozen=True)
class Portrait:
    """One cluster.

    Attributes
    ----------
    frequency, size, stability : as in the census; a stability that was not measured is NaN.
    centroid : its weights from the inputs; None where it reads other layers.
    kernels : the same of some units, each of another member. They and the centroid have one scale, symmetric around 0.
    patches : what excites it, the strongest first, each of another image.
    """

    frequency: float
    size: int
    stability: float
    centroid: Picture | None
    kernels: tuple[Picture, ...]
    patches: tuple[Patch, ...]


@dataclass(frozen=True)
class LayerAtlas:
    """The most frequent clusters of a layer.

    Attributes
    ----------
    name : the layer.
    n_members : size of the population.
    n_clusters : how many the layer has.
    n_images : how many images were looked at.
    image_size : their height and width.
    portraits : of the first clusters, in canonical order.
    """

    name: str
    n_members: int
    n_clusters: int
    n_images: int
    image_size: tuple[int, int]
    portraits: tuple[Portrait, ...]

    @classmethod
    def from_plain(cls, raw: Mapping[str, Any]) -> LayerAtlas:
        """Return the atlas that `dataclasses.asdict` has made nested mappings of, with lists for tuples or not.

        Raises
        ------
        KeyError, TypeError, ValueError
            If they are damaged.
        """
        return cls(
            **{
                **raw,
                "image_size": tuple(raw["image_size"]),
                "portraits": tuple(_portrait(each) for each in raw["portraits"]),
            }
        )


def _portrait(raw: Mapping[str, Any]) -> Portrait:
    return Portrait(
        **{
            **raw,
            "centroid": None if raw["centroid"] is None else _picture(raw["centroid"]),
            "kernels": tuple(_picture(each) for each in raw["kernels"]),
            "patches": tuple(
                Patch(each["sample"], tuple(each["box"]), _picture(each["picture"])) for each in raw["patches"]
            ),
        }
    )


def _picture(raw: Mapping[str, Any]) -> Picture:
    return Picture(tuple(raw["shape"]), raw["pixels"])
