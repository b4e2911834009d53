"""Units that do nothing, found before clustering: together they would form the largest cluster of their layer.

A unit's *contribution* is what it adds to the next layer: the spread of its activation times the norm of its outgoing
weights. Without data the norm of its incoming weights (bias apart) stands for the spread. A unit is dead where that is
under 1 % of the mean of its own member's layer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from consilience.units.architecture import TracedNetwork, incoming_norms, outgoing_norms

THRESHOLD = 0.01  # of the mean contribution (not the median: most units may be dead); live ones lie well above it


def find_alive(network: TracedNetwork, layer: str, read: Tensor | None) -> Tensor:
    """Return which units of a layer contribute: (u,) bool. Those of a gate, which no weight reads, all do.

    Parameters
    ----------
    network : a member in canonical form.
    layer : name of the layer.
    read : the layer's activations (r, u) on calibration data, or None to judge by the weights.
    """
    if not network.architecture.reading(layer):
        return torch.ones(network.architecture.layer(layer).width, dtype=torch.bool)
    spread = incoming_norms(network, layer, bias=False) if read is None else read.std(0, correction=0)
    contribution = spread * outgoing_norms(network, layer)
    return contribution > THRESHOLD * contribution.mean()
