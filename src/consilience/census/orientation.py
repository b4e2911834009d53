"""The direction of each unit: units of one cluster may differ by a sign that no output depends on."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from consilience.bases.hyperplanes import hyperplanes
from consilience.census.census import Census
from consilience.census.layer_census import LayerCensus
from consilience.signals.responses import rows_of
from consilience.units.axes import Axis, Sampling
from consilience.units.symmetry import usable_symmetry

MAX_ROWS = 2000  # responses of each unit by which its sign is found


def place_of(census: Census, layer: str) -> Axis:
    """Return where a layer's pre-activations are read."""
    return census.population_.architecture.written(layer)[0]


def unit_signs(census: Census, layer: LayerCensus, x: Tensor) -> Tensor:
    """Return the sign of each unit (U,) that gives it the direction of its cluster; all 1 where no sign is free.

    The direction is that of the centroid where a layer reads the inputs only. Elsewhere it is that of the cluster's
    first unit, and responses to the images x (n, ...) are compared.
    """
    signs = torch.ones(len(layer.member), dtype=x.dtype)
    if usable_symmetry(census.population_.architecture, layer.name).flippable:
        points, towards = hyperplanes(census.networks_, layer.name, {}).augmented, torch.from_numpy(layer.centroid_)
        if points.shape[1] != towards.shape[1]:
            axis = place_of(census, layer.name)
            points = torch.cat(
                [rows_of(network, x, [axis], Sampling(len(x), MAX_ROWS))[axis].T for network in census.networks_]
            )
            labels, first = np.unique(layer.labels_, return_index=True)
            towards = points[first[labels >= 0]]
        signs[(points * towards[layer.labels_]).sum(1) < 0] = -1
    return signs
