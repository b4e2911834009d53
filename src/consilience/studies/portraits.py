"""Portraits of the most frequent clusters of a census: pictures of what they are made of and excited by.

Axis legend: ``n`` images, ``c`` cluster, ``U`` units of all members, ``d`` weights of a unit and its bias.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from consilience.bases.hyperplanes import hyperplanes
from consilience.census import Census, LayerCensus, Significance
from consilience.census.orientation import place_of, unit_signs
from consilience.checks import check_count
from consilience.clustering.distances import unit_norm
from consilience.errors import InputError
from consilience.population.checks import as_inputs
from consilience.report.portraits import LayerAtlas, Patch, Picture, Portrait
from consilience.report.receptive_fields import receptive_fields
from consilience.studies.excitation import strongest
from consilience.units.symmetry import usable_symmetry

MAX_IMAGES = 1000  # that are searched, so that a report on many members does not take longer than their census
# Numbers in a picture, which is shown as a thumbnail: with them a layer takes up to about 300 kB of a page.
PATCH_NUMBERS, KERNEL_NUMBERS = 3 * 32 * 32, 1024
CHANNELS = (1, 3)  # that a picture can have


def portraits(
    census: Census,
    x: Tensor,
    *,
    n_clusters: int = 8,
    n_patches: int = 6,
    n_kernels: int = 4,
    significance: Mapping[str, Significance] | None = None,
) -> list[LayerAtlas]:
    """Return portraits of the most frequent clusters of each layer of networks of images with one channel or three.

    Heads of attention have none: see `consilience.studies.heads`.

    Of more than `MAX_IMAGES` images x (n, C, H, W), that many are searched, evenly spread. Where a layer reads the
    inputs, the weights of up to ``n_kernels`` members of each cluster are shown. ``significance`` of the census, by
    layer, puts chance beside frequency.

    >>> from torch import nn
    >>> from consilience.population import Population
    >>> nets = [nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(18, 3)) for _ in range(2)]
    >>> x = torch.rand(20, 1, 5, 5)
    >>> (layer,) = portraits(Census(n_clusters=1).fit(Population.from_modules(nets, x), x), x)
    >>> portrait = layer.portraits[0]
    >>> portrait.size, len(portrait.kernels), len(portrait.patches), portrait.patches[0].picture.shape
    (4, 2, 6, (1, 3, 3))
    """
    networks = census.networks_
    x = as_inputs(census.population_, x, "x")
    if x.dim() != 4 or x.shape[1] not in CHANNELS:
        raise InputError(f"x must be images (n, C, H, W) with C = 1 or 3, got shape {tuple(x.shape)}")
    for argument, number in (("n_clusters", n_clusters), ("n_patches", n_patches), ("n_kernels", n_kernels)):
        check_count(argument, number)
    images = _Images.of(x)
    has_insides = census.population_.architecture.has_insides
    shown = {name: layer for name, layer in census.layers_.items() if not has_insides(name)}
    places = {name: place_of(census, name) for name in shown}
    fields = receptive_fields(networks[0], places.values())
    signs = {name: unit_signs(census, layer, images.x) for name, layer in shown.items()}
    excitations = strongest(census, images.x, signs, n_clusters)
    size = int(x.shape[2]), int(x.shape[3])
    layers = []
    for name, layer in shown.items():
        response, boxes = excitations[name].response, fields[places[name]][excitations[name].position]  # (n, c, 4)
        weights = cluster_weights(census, layer, signs[name], x.shape[1:], n_kernels)
        row = []
        for c in range(response.shape[1]):
            _, rows = next(weights, (None, None))
            centroid, *kernels = (None,) if rows is None else _pictures(rows)
            numbers = float(layer.frequency_[c]), int(layer.size_[c]), float(layer.stability_[c])
            patches = images.patches(response[:, c], boxes[:, c], n_patches)
            measured = (significance or {}).get(name)
            beside = (measured.recurrence[c], measured.chance[c], measured.q[c]) if measured else ()
            row.append(Portrait(*numbers, centroid, tuple(kernels), patches, *map(float, beside)))
        layers.append(LayerAtlas(name, layer.n_members, layer.n_clusters_, len(images.x), size, tuple(row)))
    return layers


def kernel_shape(census: Census, layer: str, image_shape: Sequence[int]) -> tuple[int, int, int] | None:
    """Return the shape (C, h, w) in which the weights of a layer's centroids are pictures, or None.

    They are pictures where a layer reads nothing but the inputs, images (C, H, W) with one channel or three: by a
    convolution of its kernel, by a linear map of the whole image.
    """
    first = census.population_.architecture.writing(layer)[0]
    n_weights = census.layers_[layer].centroid_.shape[1] - 1
    channels, *size = image_shape if first.kernel is None else (image_shape[0], *first.kernel.size)
    if first.reads or channels not in CHANNELS or len(size) != 2 or channels * math.prod(size) != n_weights:
        return None
    return channels, size[0], size[1]


def cluster_weights(
    census: Census, layer: LayerCensus, signs: Tensor, image_shape: Sequence[int], n_units: int
) -> Iterator[tuple[list[int], Tensor]]:
    """Yield the weights of each cluster of a layer that reads images alone; nothing for other layers.

    They are those of the centroid, and of up to ``n_units`` members the unit most like it, whose numbers come first:
    (1 + units, C, h, w), in canonical scale.
    """
    shape = kernel_shape(census, layer.name, image_shape)
    if shape is None:
        return
    centroids, points = torch.from_numpy(layer.centroid_), hyperplanes(census.networks_, layer.name, {}).augmented
    if usable_symmetry(census.population_.architecture, layer.name).homogeneous:
        centroids = unit_norm(centroids)
    turned = points * signs.to(points)[:, None]
    for c, centroid in enumerate(centroids.to(turned)):
        units = np.flatnonzero(layer.labels_ == c)
        along, member = (turned[units] @ centroid).numpy(), layer.member[units]
        order = np.lexsort((-along, member))
        _, first = np.unique(member[order], return_index=True)
        chosen = units[order[first[:n_units]]]
        yield chosen.tolist(), torch.cat([centroid[None], turned[chosen]])[:, :-1].reshape(-1, *shape)


def _pictures(weights: Tensor) -> tuple[Picture, ...]:
    """Weights (n, C, h, w) in one scale, symmetric around 0."""
    small = _shrunk(weights, KERNEL_NUMBERS).numpy()
    largest = float(np.abs(small).max())
    return tuple(Picture.of_weights(each, largest) for each in small)


@dataclass(frozen=True)
class _Images:
    """The images (n, C, H, W) that are searched, their indices (n,) among those given, and each channel's range."""

    x: Tensor
    index: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, x: Tensor) -> _Images:
        index = torch.arange(min(len(x), MAX_IMAGES)) * len(x) // min(len(x), MAX_IMAGES)
        chosen = x[index]
        return cls(chosen, index, chosen.amin((0, 2, 3))[:, None, None], chosen.amax((0, 2, 3))[:, None, None])

    def patches(self, response: Tensor, box: Tensor, n: int) -> tuple[Patch, ...]:
        """What is in the box (n, 4) of each of the images of strongest response (n,), the strongest first."""
        order = response.argsort(descending=True, stable=True)[:n]
        return tuple(
            Patch(int(self.index[i]), (top, left, bottom, right), self._picture(self.x[i, :, top:bottom, left:right]))
            for i, (top, left, bottom, right) in zip(order.tolist(), box[order].tolist(), strict=True)
        )

    def _picture(self, part: Tensor) -> Picture:
        """A part (C, h, w) of an image. Each channel goes from its least value to its largest: inputs may be scaled."""
        bright = (part - self.low) / (self.high - self.low).clamp(min=1e-12)
        return Picture.of(_shrunk(bright[None], PATCH_NUMBERS)[0].numpy())


def _shrunk(pictures: Tensor, numbers: int) -> Tensor:
    """Pictures (n, C, H, W) with at most about so many numbers in each, as means over neighbouring pixels."""
    share = math.sqrt(numbers / pictures[0].numel())
    if share >= 1:
        return pictures
    return functional.interpolate(pictures, [max(1, round(share * side)) for side in pictures.shape[2:]], mode="area")
