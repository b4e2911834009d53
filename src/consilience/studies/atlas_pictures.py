"""The pictures of an atlas: samples that are images, and weights that are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from consilience.census import Census, LayerCensus
from consilience.census.orientation import place_of
from consilience.report.atlas import Sprite, sprite_of
from consilience.report.portraits import WEIGHTS, Picture
from consilience.report.receptive_fields import receptive_fields
from consilience.studies.portraits import CHANNELS, cluster_weights

IMAGE_NUMBERS, WEIGHT_NUMBERS = 2_000_000, 1_000_000  # of all images, and of the weights of a layer
N_UNITS = 4  # of a cluster, each of another member, whose weights are shown
Box = tuple[int, int, int, int]


@dataclass(eq=False)
class ImageShelf:
    """Images (n, C, H, W), of which those that are asked for become tiles of one picture."""

    x: Tensor
    boxes: Mapping[str, Tensor]  # by layer, what a unit sees from each position: (p, 4)
    tiles: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, census: Census, x: Tensor, layers: Mapping[str, LayerCensus]) -> ImageShelf | None:
        """Return a shelf of inputs, or None if they are no images of one channel or three."""
        if x.dim() != 4 or x.shape[1] not in CHANNELS or not x.is_floating_point():
            return None
        places = {name: place_of(census, name) for name in layers}
        fields = receptive_fields(census.networks_[0], places.values())
        return cls(x, {name: fields[place] for name, place in places.items()})

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of an image."""
        return int(self.x.shape[2]), int(self.x.shape[3])

    def tile(self, sample: int) -> int:
        """Return the number of the tile of a sample."""
        return self.tiles.setdefault(sample, len(self.tiles))

    def box(self, layer: str, position: int) -> Box:
        """Return what a unit sees from a position: top, left, bottom, right."""
        top, left, bottom, right = self.boxes[layer][position].tolist()
        return top, left, bottom, right

    def sprite(self) -> Sprite | None:
        """Return the tiles; each channel goes from its least value to its largest, since inputs may be scaled."""
        low, high = (edge[:, None, None] for edge in (self.x.amin((0, 2, 3)), self.x.amax((0, 2, 3))))
        bright = (self.x[list(self.tiles)] - low) / (high - low).clamp(min=1e-12)
        return sprite_of([*(255 * bright).round().byte().numpy()], IMAGE_NUMBERS)


@dataclass(frozen=True, eq=False)
class WeightShelf:
    """The weights of the clusters of one layer, and of some of their units, as tiles of one picture."""

    sprite: Sprite
    centroids: Sequence[int]  # (K,) tiles
    units: Mapping[int, int]  # unit → tile

    @classmethod
    def of(cls, census: Census, layer: LayerCensus, signs: Tensor, shape: Sequence[int]) -> WeightShelf | None:
        """Return the weights of a layer that reads images of a shape (C, H, W) alone; None for other layers.

        Shown are the centroid, and of up to four members the unit most like it, all of a cluster in one scale.
        """
        pictures, places, units = list[Picture](), list[int](), dict[int, int]()
        for chosen, rows in cluster_weights(census, layer, signs, shape, N_UNITS):
            places.append(len(pictures))
            units |= {unit: len(pictures) + 1 + i for i, unit in enumerate(chosen)}
            weights = rows.numpy()
            pictures += [Picture.of_weights(each, float(np.abs(weights).max())) for each in weights]
        sprite = sprite_of([picture.levels for picture in pictures], WEIGHT_NUMBERS, WEIGHTS)
        return None if sprite is None else cls(sprite, places, units)
