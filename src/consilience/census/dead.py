"""Units that do nothing, found before clustering: together they would form the largest cluster of their layer.

A unit's *contribution* is what it adds to the next layer: the spread of its activation times the norm of its outgoing
weights. Without data the norm of its incoming weights (bias apart) stands for the spread. A unit is dead where that is
under 1 % of the mean of its own member's layer.
"""

from __future__ import annotations

from torch import Tensor

from consilience.units.layers import TracedNetwork
from consilience.units.symmetry import axis_norms

THRESHOLD = 0.01  # of the mean contribution (not the median: most units may be dead); live ones lie well above it


def find_alive(network: TracedNetwork, layer: str, read: Tensor | None) -> Tensor:
    """Return which units of a layer contribute: (u,) bool.

    Parameters
    ----------
    network : a member in canonical form.
    layer : name of the layer.
    read : the layer's activations (n, u) on calibration data, or None to judge by the weights.
    """
    found = network.architecture.layer(layer)
    weights = [axis for axis in found.writers if network.state[axis.parameter].dim() > 1]
    spread = axis_norms(network, weights) if read is None else read.std(0, correction=0)
    contribution = spread * axis_norms(network, found.readers)
    return contribution > THRESHOLD * contribution.mean()
