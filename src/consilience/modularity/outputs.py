"""Outputs of a network on samples with classes or numbers, or on tokens with the next ones, as rows with targets."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from consilience.checks import as_inputs, as_labels, as_tensor, check_tokens, describe, is_integers, with_one_label
from consilience.errors import InputError
from consilience.signals.batches import batch_size
from consilience.tasks import as_targets, check_varies
from consilience.units.architecture import TracedNetwork


def check_traced(network: object) -> TracedNetwork:
    """Return a traced network, or raise."""
    if not isinstance(network, TracedNetwork):
        cure = "pass the network of a population's member, population.members[0].network"
        raise InputError(f"network must be a TracedNetwork, got {describe(network)}", cure=cure)
    return network


def as_labelled(network: object, x: object, y: object) -> tuple[Tensor, Tensor]:
    """Return inputs x (n, ...) of a network and the classes of its rows of outputs, or raise.

    The rows are those of samples, y (n,), or of all tokens of samples, y (n, t), which become (n·t,).
    """
    network = check_traced(network)
    program, n_outputs = network.architecture.program, network.architecture.n_outputs
    dtype = next(value.dtype for value in network.state.values())
    inputs = as_inputs(
        x, program.input_shape, dtype if program.input_dtype.is_floating_point else program.input_dtype, "x", least=1
    )
    labels = as_tensor(y, "y")
    if not is_integers(inputs) or labels.shape != inputs.shape:
        return inputs, as_labels(y, len(inputs), "y", n_outputs)
    check_tokens(labels, "y", n_outputs)
    return inputs, labels.flatten().long()


def as_told(network: object, x: object, y: object) -> tuple[Tensor, Tensor]:
    """Return inputs x (n, ...) of a network and the targets of its rows of outputs, or raise.

    They are classes, as of `as_labelled`, or y are numbers (n, o), of a floating point type and of the outputs' shape;
    (n,) for one output.
    """
    targets, n_outputs = as_tensor(y, "y"), check_traced(network).architecture.n_outputs
    several = n_outputs > 1 and targets.ndim > 1
    labels = with_one_label(targets, len(targets), "y", n_outputs) if several else targets
    if not labels.is_floating_point() or targets.ndim < min(n_outputs, 2):
        return as_labelled(network, x, y)
    inputs = as_labelled(network, x, torch.zeros(len(targets), dtype=torch.int64))[0]
    numbers = as_targets(targets, len(inputs), "y", "regression")
    if numbers.shape != (len(inputs), n_outputs):
        shape = f"({len(inputs)}, {n_outputs})"
        raise InputError(f"y must have shape {shape}, as the outputs, got {tuple(targets.shape)}")
    check_varies(numbers, "y")
    return inputs, numbers


def labelled_batches(network: TracedNetwork, x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield some inputs (n, ...) at a time, with the classes of their rows."""
    size = batch_size(network)
    yield from zip(x.split(size), y.split(size * (len(y) // len(x))), strict=True)


def rows(network: TracedNetwork, x: Tensor) -> Tensor:
    """Return the rows of outputs, (n, o) or of tokens (n·t, o), for inputs x (n, ...)."""
    return network(x).flatten(0, -2)


def logits(network: TracedNetwork, x: Tensor) -> Tensor:
    """Return the rows of outputs for inputs x (n, ...), in batches and without gradients."""
    with torch.no_grad():
        return torch.cat([rows(network, batch) for batch in x.split(batch_size(network))])
