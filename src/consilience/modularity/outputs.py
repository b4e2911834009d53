"""Outputs of a network on samples with classes."""

from __future__ import annotations

import torch
from torch import Tensor

from consilience.checks import as_inputs, as_labels, describe
from consilience.errors import InputError
from consilience.signals.batches import batch_size
from consilience.units.architecture import TracedNetwork


def check_traced(network: object) -> TracedNetwork:
    """Return a traced network, or raise."""
    if not isinstance(network, TracedNetwork):
        cure = "pass the network of a population's member, population.members[0].network"
        raise InputError(f"network must be a TracedNetwork, got {describe(network)}", cure=cure)
    return network


def as_labelled(network: object, x: object, y: object) -> tuple[Tensor, Tensor]:
    """Return inputs x (n, ...) of a network and their classes y (n,), or raise."""
    network = check_traced(network)
    architecture = network.architecture
    dtype = next(value.dtype for value in network.state.values())
    inputs = as_inputs(x, architecture.program.input_shape, dtype, "x", least=1)
    return inputs, as_labels(y, len(inputs), "y", architecture.n_outputs)


def logits(network: TracedNetwork, x: Tensor) -> Tensor:
    """Return the outputs (n, o) for inputs x (n, ...), in batches and without gradients."""
    with torch.no_grad():
        return torch.cat([network(batch) for batch in x.split(batch_size(network))])
