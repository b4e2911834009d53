"""What units of several rows add to the maps that read them, in a form that no basis inside the unit changes.

A head of attention may be written in any basis of its features. What it adds to what reads it, ``C = z O`` (r, d) with
its values z (r, j) and its outgoing weights O (j, d), depends on none. Networks have other bases of d too, so that it
is compared by the products of its rows, ``K = C Cᵀ`` (r, r), centred. The inner product of two K at unit norm is linear
CKA.

Source: Kornblith, Norouzi, Lee and Hinton (2019), Similarity of neural network representations revisited, ICML.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from consilience.units.architecture import TracedNetwork
from consilience.units.axes import Axis, by_unit

ROWS = 192  # r: K has r (r + 1) / 2 numbers a unit


def contribution_grams(
    networks: Sequence[TracedNetwork], family: Collection[str], values: Callable[[Axis], Sequence[Tensor]]
) -> Tensor:
    """Return K of the units of all networks at unit norm, each number once, those off the diagonal times √2: (U, g).

    ``family`` are tied layers, of which one or more are read by maps; ``values`` gives the values of each network's
    units in one place: (r, rows).
    """
    architecture, every = networks[0].architecture, []
    readers = [m for m in architecture.maps if not m.per_unit and any(layer in family for layer in m.reads)]
    for k, network in enumerate(networks):
        total: Tensor | float = 0.0
        for m in readers:
            for axis, part in zip(m.inputs, network.weights(m).parts, strict=True):
                if axis.layer is not None and axis.layer in family:
                    total = total + _products(values(axis)[k], part, network.architecture.layer(axis.layer).width)
        assert isinstance(total, Tensor)
        every.append(total)
    products = torch.cat(every)
    row, column = torch.triu_indices(products.shape[1], products.shape[2])
    off = torch.where(row == column, 1.0, 2.0**0.5).to(products.dtype)
    return functional.normalize(products[:, row, column] * off)


def _products(values: Tensor, weights: Tensor, units: int) -> Tensor:
    """K (u, r, r) of units with values (r, rows), read with weights (d, rows, s)."""
    z = values[:: -(-len(values) // ROWS)]
    z = by_unit((z - z.mean(0)).T, units)  # (u, j, r)
    outgoing = by_unit(weights.transpose(0, 1).flatten(1), units)  # (u, j, d s)
    products: Tensor = z.transpose(1, 2) @ (outgoing @ outgoing.transpose(1, 2)) @ z
    return products
