"""Corrections of one layer of an assembly towards its members' pre-activations on calibration data.

The target of a centroid is the mixture of its units' pre-activations, ``t = Σ_k A⁽ᵏ⁾ᵀ z⁽ᵏ⁾`` (n, c). A layer is
corrected right after it is constructed, so each sees the activations of the layers below as they are in the assembly.

- `moments` (REPAIR, Jordan et al. 2023): each unit's mean becomes its target's mean, and its spread the mean spread of
  its units, which averages of units that agree only partly have lost;
- `least_squares`: the weights that reproduce the target best from the layer's inputs, in closed form. The strength of
  the ridge is chosen by cross-validation, map by map; a map that it does not help stays as it was constructed.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from consilience.agreement import spread_of
from consilience.assembly.draft import Draft
from consilience.bases.grounding import mixture
from consilience.signals.moments import Moments, cross_validated
from consilience.ties import SINGLE
from consilience.units.maps import Map, Weights

CONSTANT = 1e-6  # of the spread wanted, or of the mean: a spread below it is rounding, and is not multiplied


def moments(draft: Draft, m: Map) -> Weights:
    """Return a constructed map with the mean and spread of its outputs reset."""
    basis, responses = draft.bases[m.writes].rows(m.output.inside), draft.responses.at(m.output)
    target, now = mixture(basis, responses), draft.rows(m.output)
    if draft.architecture.layer(m.writes).interchangeable:
        spread = torch.stack([z.std(0) @ a.abs() for z, a in zip(responses, basis.mixing, strict=True)]).sum(0)
    else:
        spread = target.std(0)  # outputs are a mean by design: their spread is not to be restored
    present = now.std(0)
    varies = present > CONSTANT * torch.maximum(spread, now.mean(0).abs())
    ratio = torch.where(varies, spread / torch.where(varies, present, 1), 1)
    old = draft.network.weights(m)
    bias = target.mean(0) + (old.bias - now.mean(0)) * ratio if m.has_bias else old.bias
    return old.with_matrix(old.matrix * ratio[:, None], bias)


def carried(draft: Draft, m: Map) -> Draft:
    """Return the draft with what a finished map leaves of its target, which the next map that adds to it is to add."""
    left = target_of(draft, m) - draft.rows(m.output)
    return replace(draft, left={**draft.left, _place(draft, m): left})


def _place(draft: Draft, m: Map) -> tuple[str, int]:
    """The layer that a map writes, and at how many positions."""
    return m.writes, draft.architecture.program.n_positions(m.output.name, m.output.dim)


def target_of(draft: Draft, m: Map) -> Tensor:
    """Return the mixture of the members' pre-activations, with what maps before have left of theirs, (n, c)."""
    target = mixture(draft.bases[m.writes].rows(m.output.inside), draft.responses.at(m.output))
    left = draft.left.get(_place(draft, m))
    return target if left is None else target + left


def reaching_target(draft: Draft, m: Map) -> Tensor:
    """Return the rows of `target_of` that reach the outputs, as `Draft.patches` yields them."""
    target, reaching = target_of(draft, m), draft.responses.reaching(m.output)
    return target if reaching is None else target[reaching]


def least_squares(draft: Draft, m: Map) -> Weights:
    """Return a map refitted around its construction, with s the spread of the target t of each unit.

        min Σ‖(t − W ã − b)/s‖² + λ‖(W − W̃)/s‖²

    A map that reads the inputs is exact already: its target is linear in them. Of a map per unit, each unit is fitted
    by itself. Rows that do not reach the outputs are left out.
    """
    old, done = draft.network.weights(m), 0
    if not m.reads or not m.fitted or (m.per_unit and draft.bases[m.writes].turned):
        return old
    target = reaching_target(draft, m)
    spread = spread_of(target)
    rounding = SINGLE**2 * (target / spread).double().square().mean(0)
    fit: Moments | None = None
    for rows, outputs in draft.patches(m):
        residual = (target[done : done + len(rows)] - outputs) / spread
        if m.per_unit:
            fit = fit or Moments(rows.shape[2], 1, n_fits=rows.shape[1])
            fit.add(rows, residual[:, :, None])
        else:
            fit = fit or Moments(rows.shape[1], residual.shape[1])
            fit.add(rows, residual)
        done += len(rows)
    assert fit is not None
    change, shift = cross_validated(
        fit, intercept=m.has_bias, rounding=rounding[:, None] if m.per_unit else rounding.sum()
    )
    matrix = old.matrix + spread[:, None] * change.reshape(old.matrix.shape).to(old.matrix.dtype)
    bias = old.bias + spread * shift.flatten().to(old.bias.dtype)
    return old.with_matrix(matrix, bias)
