"""Heads of attention of any form, from what comes of other values than their own.

What a map reads of a head is linear in the head's values: ``z = A v`` for each row of the head, with a pattern A (t, s)
of weights on positions. So what else is fed in the place of values is attended to in the same way, however the pattern
is computed. Values may be some of the rows that one map writes of a head, as where it writes queries and keys too.

Axis legend: ``n`` samples, ``h`` heads, ``j`` rows of a head's values, ``t`` positions that attend, ``s`` positions
attended to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
    first : of the rows that ``values`` writes of a head, the first that is a value.
    """

    values: Map
    reader: Map
    first: int = 0

    @classmethod
    def of(cls, reader: Map, network: TracedNetwork, x: Tensor) -> Attention | None:
        """Return the heads that a map reads, tried on inputs x (n, ...); None if what it reads attends to no values."""
        return next((heads for heads in cls.read_by(reader, network.architecture) if heads._attends(network, x)), None)

    @classmethod
    def read_by(cls, reader: Map, architecture: Architecture) -> Iterator[Attention]:
        """Yield which heads a map could read: none if it reads others, or is not the only one that reads them."""
        axis = reader.inputs[0]
        if axis.layer is None or axis.inside == 1 or len(reader.inputs) > 1 or reader.kernel is not None:
            return
        writing, reading = architecture.writing(axis.layer), architecture.reading(axis.layer)
        if len(writing) != 1 or list(reading) != [reader]:
            return
        inside = writing[0].output.inside
        if writing[0].output.block == inside > 1 and (axis.inside % inside == 0 or inside % axis.inside == 0):
            for first in range(0, inside, axis.inside):
                yield cls(writing[0], reader, first)

    @property
    def inside(self) -> int:
        """Rows of a head's values."""
        return min(self.values.output.inside, self.reader.inputs[0].inside)

    @property
    def own(self) -> slice:
        """Which of the rows that are written of a head are its values."""
        return slice(self.first, self.first + self.inside)

    def fed(self, value: Tensor, widths: Mapping[str, int], entries: Tensor) -> Tensor:
        """Return the traced value that has the heads' values with ``entries`` (n, h · j, s) in their place."""
        axis = self.values.output
        written = axis.take(value, widths).movedim(axis.dim, 1)  # (parts of samples, rows, 1, positions)
        if len(written) != len(entries):  # positions are parts of samples, as in `Axis.units`
            entries = entries.unflatten(2, (len(written) // len(entries), -1)).transpose(1, 2)
        heads = written.unflatten(1, (-1, axis.inside)).clone()
        heads[:, :, self.own] = entries.reshape(heads[:, :, self.own].shape)
        return axis.put(value, widths, heads.flatten(1, 2).movedim(1, axis.dim))

    def entries(self, value: Tensor, widths: Mapping[str, int], n_samples: int) -> Tensor:
        """Return the heads' values in the traced value that has them: (n, h, j, s)."""
        axis = self.values.output
        heads: Tensor = axis.units(value, widths, n_samples).unflatten(1, (-1, axis.inside))
        return heads[:, :, self.own]

    def _attends(self, network: TracedNetwork, x: Tensor) -> bool:
        """Return whether what is read is linear in the values and the same for each row of a head, on inputs x."""
        name, draws = self.values.output.name, torch.Generator().manual_seed(0)
        value, widths = network.values(x, [name])[name], network.architecture.widths
        shape = self.entries(value, widths, len(x)).flatten(1, 2).shape
        one, two = torch.randn(2, *shape, generator=draws).to(value.dtype)
        turned = one.unflatten(1, (-1, self.inside)).roll(1, 2).flatten(1, 2)
        first, *others = (self._read(network, x, value, entries) for entries in (one, two, one + two, turned))
        rolled = first.unflatten(1, (-1, self.inside)).roll(1, 2).flatten(1, 2)
        size = max(float(read.abs().max()) for read in (first, *others))
        wrong = max(float((first + others[0] - others[1]).abs().max()), float((rolled - others[2]).abs().max()))
        return size > 0 and wrong <= 10 * SINGLE * size

    def patterns(self, network: TracedNetwork, x: Tensor) -> Tensor:
        """Return A of each head that attends, on inputs x: (n, h, t, s)."""
        name, inside = self.values.output.name, self.inside
        value, widths = network.values(x, [name])[name], network.architecture.widths
        _, n_heads, _, n_positions = self.entries(value, widths, len(x)).shape
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
