"""The experts of a layer: groups of as many units each, that are active on the same samples.

Units are points: their activations on data, each with mean 0 and norm 1, so that inner products are correlations. The
points are divided along their principal axis into two parts of as many experts each, and the parts again, until each
is one expert. All experts have the same number of units, so that all cost the same.

Axis legend: ``n`` samples, ``u`` units, ``e`` experts, ``s`` units of an expert.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from consilience.bases.grounding import principal_sides
from consilience.seeds import EXPERTS, generator
from consilience.signals.responses import evenly
from consilience.ties import descending


def coactive_experts(activations: Tensor, n_experts: int) -> list[Tensor]:
    """Return the units of each expert, by their activations (n, u): they differ in number by at most one."""
    rows = activations[evenly(activations)]
    centred = rows - rows.mean(0)
    lengths = torch.linalg.vector_norm(centred, dim=0)
    points = (centred / torch.where(lengths > 0, lengths, 1)).T
    return _divided(points, torch.arange(len(points)), n_experts)


def random_experts(n_units: int, n_experts: int, random_state: int = 0) -> list[Tensor]:
    """Return the units of each expert, drawn at random: what co-activation is compared with."""
    order = torch.randperm(n_units, generator=generator(random_state, EXPERTS))
    return list(order.tensor_split(n_experts))


def _divided(points: Tensor, units: Tensor, n_experts: int) -> list[Tensor]:
    if n_experts == 1:
        return [units.sort().values]
    inside = points[units] - points[units].mean(0)
    order = units[torch.from_numpy(descending(np.asarray(principal_sides(inside))))]
    left = n_experts // 2
    cut = sum(map(len, order.tensor_split(n_experts)[:left]))
    return [*_divided(points, order[:cut], left), *_divided(points, order[cut:], n_experts - left)]
