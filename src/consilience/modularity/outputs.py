"""Outputs of a network on samples with classes."""

from __future__ import annotations

import torch
from torch import Tensor

from consilience.checks import check_inputs, check_labels
from consilience.signals.batches import batch_size
from consilience.units.architecture import TracedNetwork


def check_labelled(network: TracedNetwork, x: Tensor, y: Tensor) -> None:
    """Raise unless x are finite inputs of a network, and y their classes (n,)."""
    architecture = network.architecture
    dtype = next(value.dtype for value in network.state.values())
    check_inputs(x, architecture.program.input_shape, dtype, "x", least=1)
    check_labels(y, len(x), "y", architecture.output.width)


def logits(network: TracedNetwork, x: Tensor) -> Tensor:
    """Return the outputs (n, o) for inputs x (n, ...), in batches and without gradients."""
    with torch.no_grad():
        return torch.cat([network(batch) for batch in x.split(batch_size(network))])
