"""Incoming weights are centroids: one layer of an assembly from the members' grounded hyperplanes (DESIGN 3.4).

For a map from layer R to layer L, with mixing A of L and projections P, c on R:

    W̃ = Σ_k A⁽ᵏ⁾ᵀ W⁽ᵏ⁾ P⁽ᵏ⁾,    b̃ = Σ_k A⁽ᵏ⁾ᵀ (b⁽ᵏ⁾ + W⁽ᵏ⁾ c⁽ᵏ⁾).

The outputs are a layer whose clusters are "output i of every member" with A = 1/N, so that the same formula gives the
readout, the mean over members of ``W_out P``. Nothing here knows what kind of map it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from consilience.census.grounding import Basis
from consilience.units.hyperplanes import Projection, ground
from consilience.units.layers import Architecture, Map, TracedNetwork


@dataclass
class Draft:
    """An assembly that is being built from the inputs up.

    Attributes
    ----------
    architecture : the layers at the assembly's widths.
    state : parameters; those of layers not reached yet are zero.
    members : the members in canonical form.
    bases : by layer, for the layers built so far.
    """

    architecture: Architecture
    state: dict[str, Tensor]
    members: Sequence[TracedNetwork]
    bases: dict[str, Basis] = field(default_factory=dict)

    @property
    def network(self) -> TracedNetwork:
        """The assembly so far."""
        return TracedNetwork(self.architecture, self.state)

    def projections(self) -> Mapping[str, Sequence[Projection]]:
        """Each member's projections on the layers built so far."""
        return {name: basis.projections for name, basis in self.bases.items()}


def construct(draft: Draft, m: Map, basis: Basis) -> None:
    """Write the centroids of a map's hyperplanes into the draft."""
    weight: Tensor | None = None
    bias: Tensor | None = None
    for k, network in enumerate(draft.members):
        matrix, offset = ground(m, network, draft.bases[m.reads].projections[k] if m.reads else None)
        mixing = basis.mixing[k]
        share, share_of_bias = torch.einsum("uk,ucs->kcs", mixing, matrix), mixing.T @ offset
        weight = share if weight is None else weight + share
        bias = share_of_bias if bias is None else bias + share_of_bias
    assert weight is not None
    assert bias is not None
    draft.state[m.weight] = m.weight_like(weight).contiguous()
    if m.bias:
        draft.state[m.bias] = bias
