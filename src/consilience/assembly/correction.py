"""Corrections of one layer of an assembly towards what its members' units do on calibration data.

The target of a centroid is the mixture of its units' pre-activations, ``t = Σ_k A⁽ᵏ⁾ᵀ z⁽ᵏ⁾`` (n, c). A layer is
corrected right after it is constructed, so each sees the activations of the layers below as they are in the assembly.

- `moments` (REPAIR, Jordan et al. 2023): each unit's mean becomes its target's mean, and its spread the mean spread of
  its units, which averages of units that agree only partly have lost;
- `least_squares`: the weights that reproduce the target best from what the layer reads, in closed form.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from consilience.assembly.construction import Draft
from consilience.census.grounding import RIDGE, Basis
from consilience.units.activations import stream
from consilience.units.layers import Map
from consilience.units.moments import Moments, ridge


def moments(draft: Draft, m: Map, basis: Basis, responses: Sequence[Tensor], x: Tensor) -> None:
    """Reset mean and spread of a map's outputs.

    Parameters
    ----------
    draft : the assembly; the map has been constructed.
    m : the map.
    basis : of the layer that the map writes.
    responses : per member, the map's outputs (n, u) on x.
    x : calibration inputs.
    """
    target = mixture(basis, responses)
    now = _outputs(draft, m, x)
    if draft.architecture.layer(m.writes).interchangeable:
        spread = torch.stack([z.std(0) @ a.abs() for z, a in zip(responses, basis.mixing, strict=True)]).sum(0)
    else:
        spread = target.std(0)  # outputs are a mean by design: their spread is not to be restored
    present = now.std(0)
    ratio = torch.where(present > 0, spread / torch.where(present > 0, present, 1), 1)
    draft.state[m.weight] = m.weight_like(m.matrix(draft.state[m.weight]) * ratio[:, None, None])
    if m.bias:
        draft.state[m.bias] = target.mean(0) + (draft.state[m.bias] - now.mean(0)) * ratio


def least_squares(draft: Draft, m: Map, basis: Basis, responses: Sequence[Tensor], x: Tensor) -> None:
    """Refit a map around its construction: ``min Σ‖t − W ã − b‖² + λ‖W − W̃‖²``; parameters as in `moments`.

    A map that reads the inputs is exact already: its target is linear in them.
    """
    if m.reads is None:
        return
    target = mixture(basis, responses)
    matrix = m.matrix(draft.state[m.weight])
    fit, done = Moments(matrix[0].numel(), len(matrix)), 0
    for batch in stream(draft.network, x, [m.input_value, m.output_value]):
        rows, outputs = m.rows(batch[m.input_value]).flatten(1), m.responses(batch[m.output_value])
        fit.add(rows, target[done : done + len(rows)] - outputs)
        done += len(rows)
    change, bias_change = ridge(fit, RIDGE, intercept=m.bias is not None)
    draft.state[m.weight] = m.weight_like(matrix + change.to(matrix.dtype).view_as(matrix))
    if m.bias:
        draft.state[m.bias] = draft.state[m.bias] + bias_change.to(matrix.dtype)


def mixture(basis: Basis, responses: Sequence[Tensor]) -> Tensor:
    """Return the centroids' targets ``Σ_k z⁽ᵏ⁾ A⁽ᵏ⁾``: (n, c)."""
    return torch.stack([z @ a for z, a in zip(responses, basis.mixing, strict=True)]).sum(0)


def _outputs(draft: Draft, m: Map, x: Tensor) -> Tensor:
    return torch.cat([m.responses(batch[m.output_value]) for batch in stream(draft.network, x, [m.output_value])])
