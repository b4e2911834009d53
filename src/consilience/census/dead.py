"""Units that do nothing, found before clustering: together they would form the largest cluster of their layer.

A unit's *contribution* is what it adds to the next layer: the spread of its activation times the norm of its outgoing
weights. Without data the norm of its incoming weights (bias apart) stands for the spread. A unit is dead where that is
under 1 % of the mean of its own member's layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from consilience.units.architecture import TracedNetwork, incoming_norms, outgoing_norms

THRESHOLD = 0.01  # of the mean contribution (not the median: most units may be dead); live ones lie well above it


def find_alive(network: TracedNetwork, family: Sequence[str], reads: Mapping[str, Tensor] | None) -> Tensor:
    """Return which units contribute to a map that mixes units, as one or other of their layers: (u,) bool.

    Units that no such map reads, as those of a gate alone, all do.

    Parameters
    ----------
    network : a member in canonical form.
    family : names of layers that are tied, or of one.
    reads : by layer, the activations (r, u) on calibration data, or None to judge by the weights.
    """
    alive = []
    for layer in family:
        readers = [m for m in network.architecture.reading(layer) if not m.per_unit]
        if not readers:
            continue
        spread = incoming_norms(network, layer, bias=False) if reads is None else _spread(reads[layer])
        contribution = spread * outgoing_norms(network, layer, readers)
        alive.append(contribution > THRESHOLD * contribution.mean())
    if not alive:
        return torch.ones(network.architecture.layer(family[0]).width, dtype=torch.bool)
    return torch.stack(alive).any(0)


def _spread(activations: Tensor) -> Tensor:
    """Standard deviation over samples (r, u): several times as fast as `torch.std`."""
    return (activations - activations.mean(0)).square().mean(0).sqrt()
