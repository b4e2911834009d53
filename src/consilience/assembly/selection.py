"""Columns that together explain targets best, chosen one at a time: orthogonal least squares.

Each is the column h that lowers the error of the best linear readout most,

    argmax_h  Σ_t ⟨r_t, h⟩² / ⟨h⊥, h⊥⟩,

with r the residual of target t and h⊥ the part of h that the columns taken before do not explain (Chen, Billings and
Luo 1989, Int. J. Control 50). Their order is an order of importance.

Axis legend: ``r`` samples, ``v`` columns to choose from, ``c`` chosen ones, ``t`` targets.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from consilience.bases.grounding import RIDGE
from consilience.signals.moments import Moments, ridge
from consilience.ties import SINGLE, first_largest

SHRINKAGE = 1e-3  # of a candidate's squared norm: candidates of which less than this is new are left out


def unexplained(features: Tensor, targets: Tensor) -> float:
    """Return the squared error of the best linear readout of ``features`` (r, c) for ``targets`` (r, t), both centred.

    Ridge, as everywhere in an assembly: features that differ by rounding alone explain nothing.
    """
    moments = Moments(features.shape[1], targets.shape[1])
    moments.add(features, targets)
    weight, _ = ridge(moments, RIDGE, intercept=False)
    return float((targets - features @ weight.T.to(features.dtype)).square().sum())


def forward_selection(features: Tensor, targets: Tensor, n_chosen: int, first: Sequence[int] = ()) -> list[int]:
    """Return the columns of ``features`` (r, v) that together explain ``targets`` (r, t) best, taken greedily.

    Columns of both are centred. Those of ``first`` are taken before any other, in this order. Columns that those taken
    before explain already come last, in their own order.
    """
    norms = features.square().sum(0)
    unit = torch.where(norms > 0, norms, 1).rsqrt()
    rows = (features * unit).T.contiguous()  # (v, r)
    left = (norms > 0).to(rows.dtype)  # of each candidate's squared norm
    shared = rows @ targets  # ⟨r_t, h⟩
    least = float(targets.square().sum()) * SINGLE**2  # a smaller gain is rounding
    directions = rows.new_zeros(n_chosen, len(rows))  # ⟨h_v, q_c⟩ for the orthonormal q spanning those chosen
    open_to_choice = torch.ones(len(rows), dtype=torch.bool)
    chosen: list[int] = []
    for step in range(n_chosen):
        if step < len(first):
            best = first[step]
        else:
            gain = (shared.square().sum(1) / (left + SHRINKAGE)).clamp(min=least)
            gain = torch.where(left > SHRINKAGE, gain, 0)
            best = int(first_largest(torch.where(open_to_choice, gain, -torch.inf)))
        chosen.append(best)
        open_to_choice[best] = False
        length = (left[best] + SHRINKAGE).sqrt()
        along = (rows @ rows[best] - directions[:step, best] @ directions[:step]) / length
        shared -= torch.outer(along, shared[best] / length)
        left = (left - along.square()).clamp(min=0)
        directions[step] = along
    return chosen
