"""What the units of a network do on data, in batches.

Axis legend: ``n`` samples (times positions, where a layer has them), ``u`` units.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from consilience.units.layers import TracedNetwork

BATCH_SIZE = 1024

Stage = Literal["written", "read"]


def stream(
    network: TracedNetwork, x: Tensor, values: Sequence[str], batch_size: int = BATCH_SIZE
) -> Iterator[dict[str, Tensor]]:
    """Yield the named traced values for inputs x (n, ...), ``batch_size`` samples at a time and in order."""
    for batch in x.split(batch_size):
        yield network.values(batch, values)


def activations(
    network: TracedNetwork, x: Tensor, layer: str, stage: Stage = "read", batch_size: int = BATCH_SIZE
) -> Tensor:
    """Return one layer's units on inputs x: (n, u).

    Parameters
    ----------
    network : the network.
    x : inputs (n, ...); row i of the result belongs to row i of x.
    layer : name of the layer.
    stage : "written" for pre-activations, "read" for what the next layer (or the user, for the outputs) gets to see.
    batch_size : samples at a time.

    Raises
    ------
    InputError
        If no layer has this name.
    """
    architecture = network.architecture
    architecture.layer(layer)  # raises
    value = architecture.written(layer) if stage == "written" else architecture.read(layer)
    return torch.cat([batch[value].flatten(0, -2) for batch in stream(network, x, [value], batch_size)])
