"""Where the units of a layer lie in a tensor, and which rows of a traced value are used.

Along one dimension of a parameter or a value, units of several layers and fixed features may follow each other
(concatenation), and each unit may have several entries next to each other (flattened positions of its channel). What
precedes a layer there is given by name, so that an axis holds at any widths.

Some units are several rows: a head of attention is a row for each of its features, which keep their order inside the
head. Such a unit has ``inside`` rows where a map writes or reads it. Tables of hyperplanes and of values have rows; all
that is decided, clustered and permuted is a unit.

Axis legend: ``n`` samples, ``u`` rows of units (units, where ``inside`` is 1), ``p`` positions of one sample, ``r``
some positions of each sample.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from consilience.errors import InputError

GOLDEN = (math.sqrt(5) - 1) / 2  # multiples of it modulo 1 are spread evenly, however many there are

Section = tuple[str | None, int]  # a layer and the entries of each of its units, or None and a number of fixed features


@dataclass(frozen=True)
class Axis:
    """One stretch of one dimension of a parameter or a traced value, which indexes the units of a layer."""

    name: str  # of the parameter or value
    dim: int  # 0 is samples in values
    layer: str | None  # whose units; None for features that keep their index, of which there are `block`
    block: int = 1  # entries of each unit, next to each other
    before: tuple[Section, ...] = ()  # what precedes along the dimension
    inside: int = 1  # rows of each unit, each of block / inside entries
    step: int = 0  # where units alternate with those of other layers, of as many units: entries from one to the next
    at: int = 0  # entries before this layer's in each step

    def span(self, widths: Mapping[str, int]) -> tuple[int, int, int]:
        """Return where the stretch begins, its rows, and the entries of each."""
        offset = sum(length(section, widths) for section in self.before)
        if self.layer is None:
            return offset, self.block, 1
        return offset, widths[self.layer] * self.inside, self.block // self.inside

    def take(self, tensor: Tensor, widths: Mapping[str, int]) -> Tensor:
        """Return a view in which ``dim`` indexes the rows and ``dim + 1`` the entries of each."""
        offset, units, block = self.span(widths)
        reach = self.step or block
        stretch = tensor.narrow(self.dim, offset, units * reach)
        steps = stretch.view(*stretch.shape[: self.dim], units, reach, *stretch.shape[self.dim + 1 :])
        return steps.narrow(self.dim + 1, self.at, block)

    def put(self, tensor: Tensor, widths: Mapping[str, int], part: Tensor) -> Tensor:
        """Return the tensor with ``part``, of the shape that `take` gives, in the stretch."""
        changed = tensor.clone()
        self.take(changed, widths).copy_(part)
        return changed

    def units(self, value: Tensor, widths: Mapping[str, int], n_samples: int) -> Tensor:
        """Return the values of rows at every position of each sample: (n, u, p).

        Raises
        ------
        InputError : the value is the same for all samples and has no dimension of them.
        """
        units = self.take(value, widths).movedim(self.dim, 1).flatten(2)
        if len(units) in (1, n_samples):  # 1 where the value is the same for all samples
            return units.expand(n_samples, -1, -1)
        if len(units) % n_samples:
            what = f"units of layer '{self.layer}', which depend on no input, must have a dimension of samples"
            cure = "let it have a first dimension of 1, as in self.table[None], or take the census without data"
            raise InputError(f"{what} where they are read, got '{self.name}' of shape {tuple(value.shape)}", cure=cure)
        # Samples have been divided, as videos into frames: each part of a sample is a position.
        return units.view(n_samples, -1, *units.shape[1:]).transpose(1, 2).flatten(2)


@dataclass(frozen=True)
class Sampling:
    """Which positions of each sample are used: all, or evenly spread ones where there would be too many rows.

    Attributes
    ----------
    n_samples : how many samples there are.
    max_rows : in all; each sample has at least one.
    always : of values with so many positions, those that every sample has, up to half of its rows.
    numbers : of the samples at hand, among ``n_samples``.
    """

    n_samples: int
    max_rows: int
    always: Mapping[int, Tensor] = field(default_factory=dict, compare=False)
    numbers: Tensor | None = field(default=None, compare=False)

    def taken(self, which: Tensor) -> Sampling:
        """Return the sampling of some of the samples, at the same positions of each."""
        return replace(self, numbers=which if self.numbers is None else self.numbers[which])

    def rows(self, start: int, count: int, n_positions: int) -> tuple[Tensor, Tensor]:
        """Return the rows of samples ``start`` … ``start + count − 1``: sample (from 0) and position of each (r,)."""
        per_sample = min(n_positions, max(1, self.max_rows // max(1, self.n_samples)))
        sample, place = torch.arange(count).repeat_interleave(per_sample), torch.arange(per_sample).repeat(count)
        if per_sample == n_positions:
            return sample, place
        number = sample + start if self.numbers is None else self.numbers[sample + start]
        shifted = (number.double() * GOLDEN + place.double() / per_sample) % 1
        position = (shifted * n_positions).long().clamp(max=n_positions - 1)
        always = self.always.get(n_positions, position[:0])[: per_sample // 2]
        if len(always):
            position.view(count, per_sample)[:, : len(always)] = always
        return sample, position

    def of(self, units: Tensor, start: int) -> Tensor:
        """Return rows (r, u) of the values of units (n, u, p) of samples from ``start``."""
        if units.shape[2] == 1:
            return units[:, :, 0]
        sample, position = (index.to(units.device) for index in self.rows(start, len(units), units.shape[2]))
        return units[sample, :, position]


def by_unit(values: Tensor, units: int) -> Tensor:
    """Return values of rows (units · inside, ...) with the rows of each unit side by side: (units, inside, ...)."""
    result: Tensor = values.unflatten(0, (units, -1))
    return result


def by_row(values: Tensor, rows: int) -> Tensor:
    """Return values of units (u, ...), one for each row of a unit: (rows, ...)."""
    return values if len(values) == rows else values.repeat_interleave(rows // len(values), 0)


def length(section: Section, widths: Mapping[str, int]) -> int:
    """Return the entries that a section has along its dimension."""
    layer, block = section
    return block if layer is None else widths[layer] * block
