"""Receptive fields: which pixels of an image a unit sees from each of its positions.

NaN goes through every operation that reads it, whatever the weights are and whichever inputs a rectifier lets pass: a
position sees the rows of pixels that make its units NaN when they are NaN. (Gradients would be zero behind an inactive
rectifier.) One forward pass for each row of pixels and one for each column give the boxes of all positions.

Axis legend: ``n`` rows or columns of pixels, one in each sample, ``u`` units, ``p`` positions.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Collection, Iterator

import torch
from torch import Tensor

from consilience.errors import InputError
from consilience.signals.batches import batch_size
from consilience.units.architecture import TracedNetwork
from consilience.units.axes import Axis


def receptive_fields(network: TracedNetwork, axes: Collection[Axis]) -> dict[Axis, Tensor]:
    """Return the box of pixels that units see from each position, in several places: (p, 4) for each axis.

    A box (top, left, bottom, right) holds rows top … bottom − 1 and columns left … right − 1. It ends at the border of
    the image. A position that sees no pixel has the whole image. Raises an `InputError` if inputs are no images.

    >>> from torch import nn
    >>> from consilience.population import Population
    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    >>> (network,) = Population.from_modules([net], torch.randn(8, 1, 5, 5)).networks
    >>> (axis,) = network.architecture.written("0")
    >>> receptive_fields(network, [axis])[axis].tolist()
    [[0, 0, 3, 3], [0, 2, 3, 5], [2, 0, 5, 3], [2, 2, 5, 5]]
    """
    shape = network.architecture.program.input_shape
    if len(shape) != 3:
        raise InputError(f"the network must read images of shape (C, H, W), got samples of shape {shape}")
    with _plain_convolutions():
        vertical, horizontal = _extents(network, axes, 1), _extents(network, axes, 2)
    return {axis: torch.stack([vertical[axis], horizontal[axis]], dim=2).flatten(1) for axis in axes}


def _extents(network: TracedNetwork, axes: Collection[Axis], dim: int) -> dict[Axis, Tensor]:
    """First and last + 1 of the rows (dim 1) or columns (dim 2) of pixels that each position sees: (p, 2)."""
    shape, widths = network.architecture.program.input_shape, network.architecture.widths
    seen: dict[Axis, list[Tensor]] = {axis: [] for axis in axes}
    example = next(iter(network.state.values()))
    for lines in torch.arange(shape[dim]).split(batch_size(network)):
        x = example.new_zeros(len(lines), *shape)
        x.movedim(dim + 1, 1)[torch.arange(len(lines)), lines] = torch.nan
        values = network.values(x, list({axis.name for axis in axes}))
        for axis, rows in seen.items():
            rows.append(axis.units(values[axis.name], widths, len(x)).isnan().any(1))
    return {axis: _ends(torch.cat(rows)) for axis, rows in seen.items()}


@contextlib.contextmanager
def _plain_convolutions() -> Iterator[None]:
    """Switch off fast convolution algorithms, which mix neighboring outputs and spread NaN beyond a field."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a GPU is missing, of all things
        with torch.backends.mkldnn.flags(enabled=False), torch.backends.nnpack.flags(enabled=False):
            yield


def _ends(seen: Tensor) -> Tensor:
    """First and last + 1 of the lines (n, p) that each position sees; of all where it sees none: (p, 2)."""
    seen = seen | ~seen.any(0)
    number = torch.arange(len(seen))[:, None]
    return torch.stack([torch.where(seen, number, len(seen)).amin(0), torch.where(seen, number, -1).amax(0) + 1], dim=1)
