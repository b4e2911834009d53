"""Weighted operations as hyperplanes: linear maps, convolutions, and maps of each unit by itself.

A `Map` reads layers and writes one. Its weights come as ``[w; b]`` of each unit written, with a batch norm that follows
folded in:

    w ← γ w / √(σ² + ε),    b ← γ (b − μ) / √(σ² + ε) + β,

and are given back the same way: the norm is then the identity but for its bias. Convolutions are linear maps of
patches. A map is *per unit* where unit j reads unit j alone (depthwise convolutions, norms of a stream).

Axis legend: ``n`` samples, ``r`` rows (a sample at a position), ``u`` rows of units written, ``i`` rows of units read
(units, where a unit is one row: `consilience.units.axes`), ``s`` entries of a row read: kernel positions times
flattened positions; ``d`` all ``i·s`` of all layers read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from consilience.units.axes import Axis, Sampling


@dataclass(frozen=True)
class Kernel:
    """How a convolution slides, by spatial dimension."""

    size: tuple[int, ...]  # entries
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]  # zeros before and after; fewer than none where entries are left out
    dilation: tuple[int, ...]
    spread: tuple[int, ...] = ()  # of a transposed convolution: steps from one entry to the next, with zeros between

    def spread_out(self, value: Tensor) -> Tensor:
        """Return a value (n, c, *positions) with zeros between its entries, for a transposed convolution."""
        if not self.spread:
            return value
        positions = [(size - 1) * step + 1 for size, step in zip(value.shape[2:], self.spread, strict=True)]
        wide = value.new_zeros(*value.shape[:2], *positions)
        every: tuple[Any, ...] = (..., *(slice(None, None, step) for step in self.spread))
        wide[every] = value
        return wide


@dataclass(frozen=True)
class Norm:
    """A batch norm in eval mode: names of its parameters and statistics, and ε."""

    weight: str
    bias: str
    mean: str
    variance: str
    eps: float

    @property
    def names(self) -> tuple[str, str, str, str]:
        """All four names."""
        return self.weight, self.bias, self.mean, self.variance


@dataclass(frozen=True)
class Factor:
    """One number by which all that a map writes is multiplied: a temperature, a learned scale.

    Attributes
    ----------
    parameter : the number itself, or its inverse, which may be set to 1; None for what is computed in another way.
    of : its value under parameters.
    """

    parameter: str | None
    of: Callable[[Mapping[str, Tensor]], Tensor] = field(compare=False)


@dataclass(frozen=True)
class Weights:
    """The hyperplanes of a map."""

    parts: tuple[Tensor, ...]  # for each layer read, (u, i, s); for a map per unit (u, 1, s)
    bias: Tensor  # (u,), zero where there is none

    @property
    def matrix(self) -> Tensor:
        """All weights of a unit side by side: (u, d)."""
        return torch.cat([part.flatten(1) for part in self.parts], dim=1)

    def with_matrix(self, matrix: Tensor, bias: Tensor) -> Weights:
        """Return hyperplanes of the same parts, given side by side."""
        split = matrix.split([part[0].numel() for part in self.parts], dim=1)
        return Weights(tuple(m.reshape(p.shape) for m, p in zip(split, self.parts, strict=True)), bias)


@dataclass(frozen=True)
class Map:
    """One weighted operation.

    Attributes
    ----------
    name : the module that holds the weight, or the weight's own name.
    weight, bias : names of its parameters; those of a folded norm are in ``norm``.
    inputs : the layers read, or fixed features, in the value read; of a map per unit, one layer.
    output : the layer written, in the value written.
    kernel : of a convolution, else None.
    norm : the batch norm that follows, folded into the hyperplanes.
    per_unit : whether unit j reads unit j alone.
    fitted : whether it is linear in the value read; a layer norm's scale and shift are not, nor is an embedding.
    dim : dimension of the weight that indexes the units written; the last of two where it is stored transposed.
    shift : constant that is added to the weight where it is used, as in a norm that multiplies by 1 + γ.
    factors : numbers that multiply all that is written, weights, bias and norm.
    scaled : the batch norm of the inputs that it reads, folded into the hyperplanes too.
    """

    name: str
    weight: str
    bias: str | None
    inputs: tuple[Axis, ...]
    output: Axis
    kernel: Kernel | None = None
    norm: Norm | None = None
    per_unit: bool = False
    fitted: bool = True
    dim: int = 0
    shift: float = 0.0
    factors: tuple[Factor, ...] = ()
    scaled: Norm | None = None

    @property
    def writes(self) -> str:
        """The layer written."""
        assert self.output.layer is not None
        return self.output.layer

    @cached_property
    def reads(self) -> tuple[str, ...]:
        """The layers read; empty where the map reads the inputs, whose features keep their index."""
        return tuple(axis.layer for axis in self.inputs if axis.layer is not None)

    @property
    def has_bias(self) -> bool:
        """Whether there is a bias to write to."""
        return self.bias is not None or self.norm is not None

    @property
    def pads(self) -> bool:
        """Whether zeros are read, at the borders or between entries."""
        if self.kernel is None:
            return False
        return bool(self.kernel.spread) or any(before or after for before, after in self.kernel.padding)

    @property
    def is_norm(self) -> bool:
        """Whether it is a batch norm by itself, as of a residual stream."""
        return self.norm is not None and self.norm.weight == self.weight

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of everything that `written` changes."""
        names = (self.weight, self.bias, *(() if self.norm is None else self.norm.names), *self.others)
        return tuple(dict.fromkeys(name for name in names if name is not None))

    @property
    def others(self) -> tuple[str, ...]:
        """Names of the parameters among these that have nothing for single units."""
        return (*self.numbers, *(() if self.scaled is None else self.scaled.names))

    @property
    def numbers(self) -> tuple[str, ...]:
        """Names of the parameters of one number for all units, which `written` sets to 1."""
        return tuple(factor.parameter for factor in self.factors if factor.parameter is not None)

    def weights(self, state: Mapping[str, Tensor], widths: Mapping[str, int]) -> Weights:
        """Return the hyperplanes, folded."""
        weight = self._part_of(self.weight, state, widths)
        weight = weight + self.shift if self.shift else weight  # indices of entries stay integers
        if weight.dim() > 2 and (self.reads or self.fitted):
            weight = weight.flatten(2)
        else:
            weight = weight.reshape(len(weight), -1, 1)
        if self.is_norm:
            weight = torch.ones_like(weight)
        bias = self._part_of(self.bias, state, widths).flatten() if self.bias else weight.new_zeros(len(weight))
        if self.norm is not None:
            gain, shift, mean, variance = (self._part_of(name, state, widths) for name in self.norm.names)
            scale = gain / (variance + self.norm.eps).sqrt()
            weight, bias = weight * scale[:, None, None], (bias - mean) * scale + shift
        for factor in self.factors:
            number = factor.of(state).reshape(())
            weight, bias = weight * number, bias * number
        if self.scaled is not None:
            gain, shift, mean, variance = (state[name] for name in self.scaled.names)
            gain = gain / (variance + self.scaled.eps).sqrt()
            bias = bias + weight.sum(2) @ (shift - mean * gain)
            weight = weight * gain[:, None]
        return Weights((weight,) if self.per_unit else self._parts(weight, widths), bias)

    def between_units(self, weights: Weights) -> tuple[Tensor, ...]:
        """Return all weights between each two units, for each layer read: (u, i, s), in units where these are rows."""
        inside, parts = self.output.inside, list[Tensor]()
        for part, axis in zip(weights.parts, self.inputs, strict=True):
            if inside > 1 or axis.inside > 1:
                part = part.unflatten(1, (-1, axis.inside)).unflatten(0, (-1, inside)).permute(0, 2, 1, 3, 4).flatten(2)
            parts.append(part)
        return tuple(parts)

    def written(self, state: Mapping[str, Tensor], widths: Mapping[str, int], weights: Weights) -> dict[str, Tensor]:
        """Return the parameters under which `weights` are the hyperplanes; a bias that has no place is dropped."""
        matrix, bias = weights.parts[0], weights.bias
        if not self.per_unit:
            blocks = [axis.block // axis.inside if axis.layer is not None else 1 for axis in self.inputs]
            parts = zip(weights.parts, blocks, strict=True)
            wide = [part.reshape(len(part), part.shape[1] * block, -1) for part, block in parts]
            matrix = torch.cat(wide, dim=1) if len(wide) > 1 else wide[0]
            if any(axis.step for axis in self.inputs):
                for axis, part in zip(self.inputs, weights.parts, strict=True):
                    place = replace(axis, dim=1).take(matrix, widths)
                    place.copy_(part.reshape(place.shape))
        for factor in self.factors:
            if factor.parameter is None:
                number = factor.of(state).reshape(())
                matrix, bias = matrix / number, bias / number
        values = {self.bias: bias} if self.bias else {}
        if self.norm is not None:
            zero = torch.zeros_like(bias)
            values = {self.bias: zero} if self.bias else {}
            values |= dict(zip(self.norm.names, (zero + 1, bias, zero, zero + (1 - self.norm.eps)), strict=True))
        values[self.weight] = matrix - self.shift if self.shift else matrix
        ones = {name: torch.ones_like(state[name]) for name in self.others}
        if self.scaled is not None:
            _, shift, mean, variance = self.scaled.names
            ones |= {name: torch.zeros_like(state[name]) for name in (shift, mean)}
            ones[variance] = ones[variance] - self.scaled.eps
        return {name: self._replaced(name, state, widths, value) for name, value in values.items() if name} | ones

    def rows(
        self, value: Tensor, output: Tensor, widths: Mapping[str, int], sampling: Sampling, start: int, n_samples: int
    ) -> tuple[Tensor, Tensor]:
        """Return what the map reads and writes at sampled positions of samples ``start`` … ``start + n_samples − 1``.

        ``value`` and ``output`` are the traced values read and written. Returns rows (r, d), for a map per unit
        (r, u, s), in the order of `Weights.matrix`; and (r, u).
        """
        written = self.output.units(output, widths, n_samples)
        sample, position = sampling.rows(start, n_samples, written.shape[2])
        n_parts = len(output) // n_samples  # more than 1 where samples have been divided
        n_positions = written.shape[2] // n_parts  # of a part
        part = sample * n_parts + position // n_positions
        patches = self._patches(value, part, position % n_positions)  # (r, all entries read, kernel positions)
        parts = self._parts(patches, widths)
        rows = parts[0] if self.per_unit else torch.cat([part.flatten(1) for part in parts], dim=1)
        return rows, written[sample.to(value.device), :, position.to(value.device)]

    def _patches(self, value: Tensor, sample: Tensor, position: Tensor) -> Tensor:
        if self.kernel is None:
            entries = value.movedim(self.inputs[0].dim, -1).flatten(1, -2) if value.dim() > 2 else value[:, None]
            return entries[sample.to(value.device), position.to(value.device)][:, :, None]
        padding = [zeros for pair in reversed(self.kernel.padding) for zeros in pair]
        windows, n_dims = functional.pad(self.kernel.spread_out(value), padding), len(self.kernel.size)
        for i, (size, step) in enumerate(zip(self.kernel.size, self.kernel.dilation, strict=True)):
            windows = windows.unfold(2 + i, (size - 1) * step + 1, self.kernel.stride[i])  # a view
        places = torch.unravel_index(position, windows.shape[2 : 2 + n_dims])
        at: tuple[Any, ...] = (sample.to(value.device), slice(None), *(place.to(value.device) for place in places))
        chosen = windows[at]  # (r, channels, *reach)
        for i, step in enumerate(self.kernel.dilation):
            if step > 1:
                chosen = chosen.unfold(2 + i, 1, step).squeeze(-1)
        return chosen.flatten(2)

    def _parts(self, weight: Tensor, widths: Mapping[str, int]) -> tuple[Tensor, ...]:
        """Split a weight (u, entries read, s), or patches (r, entries read, s), by what is read."""
        return tuple(replace(axis, dim=1).take(weight, widths).flatten(2) for axis in self.inputs)

    def _part_of(self, parameter: str, state: Mapping[str, Tensor], widths: Mapping[str, int]) -> Tensor:
        """The entries of a parameter that belong to the units written: (u, ...)."""
        value = self._turned(parameter, state[parameter])
        return value if self._is_whole(value, widths) else self._axis(parameter).take(value, widths).flatten(0, 1)

    def _replaced(
        self, parameter: str, state: Mapping[str, Tensor], widths: Mapping[str, int], value: Tensor
    ) -> Tensor:
        """A parameter in which the units written have other values (u, ...)."""
        old = self._turned(parameter, state[parameter])
        if self._is_whole(old, widths):
            new = value.reshape(old.shape)
        else:
            axis = self._axis(parameter)
            new = axis.put(old, widths, value.reshape(axis.take(old, widths).shape))
        return (self._turned(parameter, new, back=True)).contiguous()

    def _turned(self, parameter: str, value: Tensor, *, back: bool = False) -> Tensor:
        """A parameter with the dimension of the units written first, and its entries in the order of patches."""
        if parameter != self.weight:
            return value
        turned = value.movedim(0, self.dim) if back else value.movedim(self.dim, 0)
        return turned.flip(list(range(2, turned.dim()))) if self.kernel is not None and self.kernel.spread else turned

    def _is_whole(self, parameter: Tensor, widths: Mapping[str, int]) -> bool:
        """Whether all of a parameter belongs to the units written; other layers may have parts of it."""
        return len(parameter) == widths[self.writes] * self.output.inside

    def _axis(self, parameter: str) -> Axis:
        return replace(self.output, name=parameter, dim=0)
