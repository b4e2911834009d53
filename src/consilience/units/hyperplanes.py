"""The units of all members as one table, each as its hyperplane ``[w; b]`` in the coordinates of a common basis.

Axis legend: ``k`` member, ``u`` unit of one member, ``U`` units of all members, ``c`` basis cluster, ``s`` kernel
position.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from consilience.units.layers import Map, TracedNetwork
from consilience.units.symmetry import axis_norms


@dataclass(frozen=True)
class Projection:
    """How one member's activations are made of the basis activations: ``a ≈ matrix · ã + offset`` (DESIGN 3.2: P and
    c).

    Attributes
    ----------
    matrix : (u, c).
    offset : (u,).
    """

    matrix: Tensor
    offset: Tensor


@dataclass(frozen=True)
class Hyperplanes:
    """A table with one row per unit of any member.

    Attributes
    ----------
    incoming : (U, d) weights in the coordinates of the basis below.
    bias : (U,).
    outgoing_norm : (U,) norm of the unit's outgoing weights, in its member's own coordinates.
    member, index : (U,) whose unit it is, and which one.
    """

    incoming: Tensor
    bias: Tensor
    outgoing_norm: Tensor
    member: Tensor
    index: Tensor

    @property
    def augmented(self) -> Tensor:
        """Weights and bias side by side, ``[w; b]``: (U, d + 1)."""
        return torch.cat([self.incoming, self.bias[:, None]], dim=1)


def ground(m: Map, network: TracedNetwork, projection: Projection | None) -> tuple[Tensor, Tensor]:
    """Return a map's weight (u, c, s) and bias (u,) in the basis: ``w̃ = w P``, ``b̃ = b + Σ_s w c``.

    ``projection`` is None where the map reads the input, whose features are the same for all members.
    """
    matrix = m.matrix(network.state[m.weight])
    bias = network.state[m.bias] if m.bias else matrix.new_zeros(len(matrix))
    if projection is None:
        return matrix, bias
    return torch.einsum("uis,ic->ucs", matrix, projection.matrix), bias + torch.einsum(
        "uis,i->u", matrix, projection.offset
    )


def hyperplanes(
    networks: Sequence[TracedNetwork], layer: str, projections: Mapping[str, Sequence[Projection]]
) -> Hyperplanes:
    """Return the table of one layer's units, grounded.

    Parameters
    ----------
    networks : the members.
    layer : name of the layer.
    projections : for each layer that ``layer`` reads, one projection per member.
    """
    rows, biases = [], []
    for k, network in enumerate(networks):
        maps = network.architecture.writing(layer)
        grounded = [ground(m, network, projections[m.reads][k] if m.reads else None) for m in maps]
        rows.append(torch.cat([matrix.flatten(1) for matrix, _ in grounded], dim=1))
        biases.append(torch.stack([bias for _, bias in grounded]).sum(0))
    member, index = unit_index(networks, layer)
    outgoing = [axis_norms(network, network.architecture.layer(layer).readers) for network in networks]
    return Hyperplanes(torch.cat(rows), torch.cat(biases), torch.cat(outgoing), member, index)


def unit_index(networks: Sequence[TracedNetwork], layer: str) -> tuple[Tensor, Tensor]:
    """Return, for the units of all members one member after the other, whose and which each is: two (U,) tensors."""
    widths = [network.architecture.layer(layer).width for network in networks]
    return torch.arange(len(widths)).repeat_interleave(torch.tensor(widths)), torch.cat(
        [torch.arange(w) for w in widths]
    )
