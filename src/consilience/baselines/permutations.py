"""Networks as blocks of weights whose units can be reordered, and the basis that averages reordered members.

Axis legend: ``k`` member, ``u`` unit of a member, ``c`` fused unit, ``i`` input, ``s`` kernel position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from consilience.baselines.fuse import basis_from
from consilience.bases.grounding import Basis
from consilience.population.population import Population
from consilience.ties import rounded

Orders = dict[str, Tensor]  # by layer, (c,): the member's unit that takes place c


@dataclass(frozen=True)
class Block:
    """One weight or bias of all members, with batch norms folded in, in double precision.

    ``writes`` and ``reads`` are the layers whose units its axes u and i are; None where they keep their index: outputs
    and inputs. A bias is the weight of one input that is always 1.
    """

    writes: str | None
    reads: str | None
    values: Tensor  # (k, u, i, s)


def blocks_of(population: Population) -> list[Block]:
    """Return the parameters of members of equal widths as blocks."""
    architecture, blocks = population.architecture, list[Block]()
    hidden = {layer.name: architecture.first(layer.name) for layer in architecture.hidden}
    for m in architecture.maps:
        weights = [network.weights(m) for network in population.networks]
        writes = hidden.get(m.writes)
        for axis, parts in zip(m.inputs, zip(*(m.between_units(each) for each in weights), strict=True), strict=True):
            reads = None if m.per_unit or axis.layer is None else hidden.get(axis.layer)
            blocks.append(Block(writes, reads, torch.stack(parts).double()))
        if m.has_bias:
            biases = torch.stack([each.bias for each in weights])
            blocks.append(Block(writes, None, biases.unflatten(1, (-1, 1, m.output.inside)).double()))
    return blocks


def reorder(blocks: Sequence[Block], values: Sequence[Tensor], layer: str, order: Tensor) -> list[Tensor]:
    """Return one network's values (u, i, s) by block with the units of a layer in another order."""
    reordered = []
    for block, value in zip(blocks, values, strict=True):
        written = value[order] if block.writes == layer else value
        reordered.append(written[:, order] if block.reads == layer else written)
    return reordered


def assign(gain: Tensor) -> Tensor:
    """Return the order (c,) that maximizes ``Σ_c gain[c, order[c]]`` over permutations, for a gain (c, u)."""
    return torch.from_numpy(linear_sum_assignment(rounded(gain.numpy()), maximize=True)[1])


def average_of(population: Population, orders: Sequence[Orders]) -> dict[str, Basis]:
    """Return the bases that average reordered members: with Π[u, c] = 1 where u = order[c], A = Π/N and P = Π."""
    bases, dtype = {}, population.dtype
    for name, order in orders[0].items():
        ones = [torch.eye(len(order), dtype=dtype)[member[name]].T.contiguous() for member in orders]
        bases[name] = basis_from([one / len(orders) for one in ones], ones)
    return bases


def identity(population: Population) -> Orders:
    """Return the orders of a member that leave all units in place."""
    return {layer.name: torch.arange(layer.width) for layer in population.architecture.free}
