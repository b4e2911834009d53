"""The units of all members as one table, each as its hyperplane ``[w; b]`` in the coordinates of a common basis.

Axis legend: ``k`` member, ``u`` unit of one member, ``U`` units of all members, ``c`` basis cluster, ``s`` kernel
position.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from consilience.signals.responses import filled
from consilience.ties import first_largest
from consilience.units.architecture import TracedNetwork
from consilience.units.axes import Axis, by_row, by_unit
from consilience.units.maps import Map, Weights


@dataclass(frozen=True)
class Projection:
    """How one member's activations are made of the basis activations: ``a ≈ matrix · ã + offset``."""

    matrix: Tensor  # (u, c)
    offset: Tensor  # (u,)

    def rows(self, inside: int) -> Projection:
        """Return the projection of the rows of units, each on the same row of the clusters: (u·inside, c·inside)."""
        return Projection(in_rows(self.matrix, inside), by_row(self.offset, len(self.offset) * inside))


def in_rows(matrix: Tensor, inside: int) -> Tensor:
    """Return a matrix over units (u, c) as one over their rows: (u·inside, c·inside)."""
    return matrix if inside == 1 else torch.kron(matrix, torch.eye(inside, dtype=matrix.dtype))


@dataclass(frozen=True)
class Hyperplanes:
    """A table with one row per unit of any member."""

    augmented: Tensor  # (U, d + 1) weights in the coordinates of the basis below and bias, `[w; b]`
    member: Tensor  # (U,) the member that has the unit
    index: Tensor  # (U,) the number of the unit in its member

    @property
    def incoming(self) -> Tensor:
        """The weights (U, d)."""
        return self.augmented[:, :-1]

    @property
    def bias(self) -> Tensor:
        """The biases (U,)."""
        return self.augmented[:, -1]


def ground(m: Map, network: TracedNetwork, projections: Mapping[Axis, Projection]) -> Weights:
    """Return a map's hyperplanes in the bases below: ``w̃ = w P``, ``b̃ = b + Σ_s w c``.

    Parts are (u, c, s) for each layer read; fixed features stay as they are, and so does a map per unit where what it
    reads has no projection yet. With one, unit j reads its own centroid c alone: ``w̃ = w P[j, c]``, still (u, 1, s).
    """
    weights = network.weights(m)
    parts, bias = [], weights.bias
    for part, axis in zip(weights.parts, m.inputs, strict=True):
        if axis.layer is None or (m.per_unit and axis not in projections):
            parts.append(part)
            continue
        projection = projections[axis]
        if m.per_unit:
            own = projection.matrix.gather(1, first_largest(projection.matrix.abs())[:, None])
            parts.append(part * own[:, :, None])
            bias = bias + part.sum((1, 2)) * projection.offset
        else:
            parts.append(torch.einsum("uis,ic->ucs", part, projection.matrix))
            bias = bias + torch.einsum("uis,i->u", part, projection.offset)
    return Weights(tuple(parts), bias)


def hyperplanes(
    networks: Sequence[TracedNetwork], layer: str, projections: Mapping[Axis, Sequence[Projection]]
) -> Hyperplanes:
    """Return the table of one layer's units, grounded with one projection per member for each place below.

    A layer that is written again and again, as a residual stream is, has its hyperplanes from the maps that read only
    places that have been grounded; there may be none.
    """
    example = next(iter(networks[0].state.values()))

    def rows(k: int) -> Tensor:
        network = networks[k]
        own = {axis: each[k] for axis, each in projections.items()}
        writing = network.architecture.writing(layer)
        maps = [m for m in writing if m.per_unit or all(a.layer is None or a in projections for a in m.inputs)]
        units = network.architecture.layer(layer).width
        nothing, bias = example.new_zeros(units, 0), example.new_zeros(units)
        grounded = [nothing]
        for m in maps:
            weights = ground(m, network, own)
            grounded.append(by_unit(weights.matrix, units).flatten(1))
            if m.output.inside == 1:
                bias = bias + weights.bias
            else:  # the biases of the rows side by side
                grounded.append(by_unit(weights.bias, units))
        return torch.cat([*grounded, bias[:, None]], dim=1)

    member, index = unit_index(networks, layer)
    return Hyperplanes(filled(map(rows, range(len(networks))), len(member)), member, index)


def unit_index(networks: Sequence[TracedNetwork], layer: str) -> tuple[Tensor, Tensor]:
    """Return the member and the number of each unit, one member after the other: two (U,) tensors."""
    widths = [network.architecture.layer(layer).width for network in networks]
    member = torch.arange(len(widths)).repeat_interleave(torch.tensor(widths))
    return member, torch.cat([torch.arange(width) for width in widths])
