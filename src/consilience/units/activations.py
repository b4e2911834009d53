"""What the units of a network do on data, in batches.

Axis legend: ``n`` samples (times positions, where a layer has them), ``u`` units.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from consilience.errors import InputError
from consilience.units.layers import TracedNetwork

BATCH_SIZE = 1024


@dataclass(frozen=True)
class Activations:
    """What one layer of one network does on samples.

    Attributes
    ----------
    written : (n, u) pre-activations: what the layer's weights give.
    read : (n, u) activations: what the next layer, or for the outputs the user, gets to see.
    ids : (n,) which sample each row belongs to; networks are compared on equal ids.
    """

    written: Tensor
    read: Tensor
    ids: Tensor


def stream(
    network: TracedNetwork,
    x: Tensor,
    values: Sequence[str],
    batch_size: int = BATCH_SIZE,
    known: Mapping[str, Tensor] | None = None,
) -> Iterator[dict[str, Tensor]]:
    """Yield the named traced values for inputs x (n, ...), ``batch_size`` samples at a time and in order.

    ``known``: values (n, ...) that need not be computed again.
    """
    known = known or {}
    for start in range(0, len(x), batch_size):
        rows = slice(start, start + batch_size)
        yield network.values(x[rows], values, {name: value[rows] for name, value in known.items()})


def activations(
    network: TracedNetwork, x: Tensor, layer: str, *, ids: Tensor | None = None, batch_size: int = BATCH_SIZE
) -> Activations:
    """Return what one layer does on inputs x, in one pass.

    Parameters
    ----------
    network : the network.
    x : inputs (n, ...).
    layer : name of the layer.
    ids : (n,) of the samples; their row numbers by default.
    batch_size : samples at a time.

    Raises
    ------
    InputError
        If no layer has this name, or the ids do not fit the inputs.
    """
    architecture = network.architecture
    architecture.layer(layer)  # raises
    ids = torch.arange(len(x)) if ids is None else ids
    if ids.shape != (len(x),):
        raise InputError("each sample needs one id", where="ids", got=tuple(ids.shape), expected=(len(x),))
    names = architecture.written(layer), architecture.read(layer)
    batches = list(stream(network, x, names, batch_size))
    written, read = (torch.cat([batch[name] for batch in batches]) for name in names)
    return _of_layer(written, read, ids)


class Responses:
    """What the layers of several networks do on the same inputs, each computed once, when it is first asked for.

    Asked for from the inputs up, no layer is computed twice. Memory holds (n, u) pre-activations of every layer asked
    for.

    Parameters
    ----------
    networks : the networks.
    x : inputs (n, ...).
    """

    def __init__(self, networks: Sequence[TracedNetwork], x: Tensor) -> None:
        self.networks, self.x = tuple(networks), x
        self._written: list[dict[str, Tensor]] = [{} for _ in networks]  # by name of the traced value

    def __getitem__(self, layer: str) -> list[Activations]:
        """Return what each network does in a layer."""
        ids, found = torch.arange(len(self.x)), []
        for network, written in zip(self.networks, self._written, strict=True):
            names = network.architecture.written(layer), network.architecture.read(layer)
            batches = list(stream(network, self.x, names, known=written))
            before, after = (torch.cat([batch[name] for batch in batches]) for name in names)
            written.setdefault(names[0], before)
            found.append(_of_layer(before, after, ids))
        return found


def _of_layer(written: Tensor, read: Tensor, ids: Tensor) -> Activations:
    written, read = written.flatten(0, -2), read.flatten(0, -2)
    return Activations(written, read, ids.repeat_interleave(len(written) // len(ids)))
