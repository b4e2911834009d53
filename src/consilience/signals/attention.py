"""Heads of attention of any form, from what comes of other values than their own.

What a map reads of a head is linear in the head's values: ``z = A v`` for each row of the head, with a pattern A (t, s)
of weights on positions. So what else is fed in the place of values is attended to in the same way, however the pattern
is computed.

Axis legend: ``n`` samples, ``h`` heads, ``j`` rows of a head, ``t`` positions that attend, ``s`` positions attended to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from consilience.ties import SINGLE
from consilience.units.architecture import Architecture, TracedNetwork
from consilience.units.maps import Map


@dataclass(frozen=True)
class Attention:
    """The heads of one layer.

    Attributes
    ----------
    values : the map that writes their values.
    reader : the map that reads them; with grouped queries, a head of values is several heads there.
    """

    values: Map
    reader: Map

    @classmethod
    def read_by(cls, reader: Map, architecture: Architecture) -> Attention | None:
        """Return the heads that a map reads; None if it reads others, or is not the only one that reads them."""
        axis = reader.inputs[0]
        if axis.layer is None or axis.inside == 1 or len(reader.inputs) > 1 or reader.kernel is not None:
            return None
        writing, reading = architecture.writing(axis.layer), architecture.reading(axis.layer)
        if len(writing) != 1 or list(reading) != [reader]:
            return None
        output = writing[0].output
        plain = output.block == output.inside > 1 and axis.inside % output.inside == 0
        return cls(writing[0], reader) if plain else None

    def fed(self, value: Tensor, widths: Mapping[str, int], entries: Tensor) -> Tensor:
        """Return the traced value that has the heads' values with ``entries`` (n, h · j, s) in their place."""
        axis = self.values.output
        places = axis.take(value, widths).movedim(axis.dim, 1).shape
        if places[0] != len(entries):  # positions are parts of samples, as in `Axis.units`
            entries = entries.unflatten(2, (places[0] // len(entries), -1)).transpose(1, 2)
        return axis.put(value, widths, entries.reshape(places).movedim(1, axis.dim))

    def attends(self, network: TracedNetwork, x: Tensor) -> bool:
        """Return whether what is read is linear in the values and the same for each row of a head, on inputs x."""
        axis, draws = self.values.output, torch.Generator().manual_seed(0)
        value, widths = network.values(x, [axis.name])[axis.name], network.architecture.widths
        one, two = torch.randn(2, *axis.units(value, widths, len(x)).shape, generator=draws).to(value.dtype)
        turned = one.unflatten(1, (-1, axis.inside)).roll(1, 2).flatten(1, 2)
        first, *others = (self._read(network, x, value, entries) for entries in (one, two, one + two, turned))
        rolled = first.unflatten(1, (-1, axis.inside)).roll(1, 2).flatten(1, 2)
        size = max(float(read.abs().max()) for read in (first, *others))
        wrong = max(float((first + others[0] - others[1]).abs().max()), float((rolled - others[2]).abs().max()))
        return wrong <= 10 * SINGLE * size

    def patterns(self, network: TracedNetwork, x: Tensor) -> Tensor:
        """Return A of each head that attends, on inputs x: (n, h, t, s)."""
        axis = self.values.output
        value, widths = network.values(x, [axis.name])[axis.name], network.architecture.widths
        n_heads, inside = widths[self.values.writes], axis.inside
        n_positions = axis.units(value, widths, len(x)).shape[2]
        columns = []
        for places in torch.arange(n_positions).split(inside):
            entries = value.new_zeros(len(x), n_heads, inside, n_positions)
            entries[:, :, torch.arange(len(places)), places] = 1
            read = self._read(network, x, value, entries.flatten(1, 2)).unflatten(1, (-1, inside))
            columns.append(read[:, :, : len(places)].transpose(2, 3))  # (n, h, t, places)
        return torch.cat(columns, 3)

    def _read(self, network: TracedNetwork, x: Tensor, value: Tensor, entries: Tensor) -> Tensor:
        """What is read of heads with other values: (n, rows, t)."""
        (axis,), widths = self.reader.inputs, network.architecture.widths
        known = {self.values.output.name: self.fed(value, widths, entries)}
        return axis.units(network.values(x, [axis.name], known)[axis.name], widths, len(x))
