"""Values and outgoing weights of heads of attention fitted together, given their attention patterns.

With x what values are computed from, and a 1 where these have a bias, a head with pattern A_h, values V_h (j, d) and
outgoing weights O_h (o, j) adds ``O_h V_h X_h`` to a target t, with ``X_h = A_h x``. The sum is fitted one head after
the other: the map of rank j that is nearest to what the others leave, ``R_h = ⟨t, X_h⟩ − Σ_{g≠h} O_g V_g ⟨X_g, X_h⟩``,
is a reduced-rank regression (Izenman 1975),

    M = R_h G⁻¹,  G = ⟨X_h, X_h⟩ + λ,  O_h = the j leading left singular vectors of M G^½,  V_h = O_hᵀ M.

A mean of its units' values and weights, each fitted by itself, has lost what the units do not share. The fit that is
best on held-out samples is taken, and none if that is the mean.

Axis legend: ``r`` rows, ``h`` heads, ``j`` rows of a head, ``d`` entries read, ``o`` rows written.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from consilience.assembly.draft import Draft
from consilience.assembly.layerwise import reaching_target
from consilience.assembly.nearness import nearest
from consilience.signals.attention import Attention
from consilience.signals.held_out import held_out
from consilience.signals.moments import Moments
from consilience.signals.responses import stream
from consilience.units.maps import Map

STRENGTHS = (1e-6, 1e-4, 1e-2)  # of λ, as shares of the mean of G's diagonal
SWEEPS = 3
MOST_COLUMNS = 4096  # h d, whose moments take 0.13 GB; layers with more are left as they are


@dataclass(frozen=True)
class HeadMoments:
    """Centred second moments of what heads attend to and of a target.

    Attributes
    ----------
    features : ⟨X_g, X_h⟩ (h, d, h, d).
    cross : ⟨t, X_h⟩ (o, h, d).
    variance : of the target, summed over its rows.
    """

    features: Tensor
    cross: Tensor
    variance: float

    @classmethod
    def of(cls, moments: Moments, n_heads: int) -> HeadMoments:
        """Return those of running sums of X (h d) and t."""
        _, _, features, cross, variance = moments.centred(intercept=True)
        return cls(
            features.unflatten(1, (n_heads, -1)).unflatten(0, (n_heads, -1)),
            cross.unflatten(1, (n_heads, -1)),
            float(variance.sum()),
        )

    def error(self, values: Tensor, outgoing: Tensor) -> float:
        """Return the squared error of heads with V (h, j, d) and O (h, o, j), as a share of the target's variance."""
        maps = (outgoing @ values).transpose(0, 1)  # (o, h, d)
        explained = 2 * (self.cross * maps).sum() - (torch.einsum("ohd,hdge->oge", maps, self.features) * maps).sum()
        return 1 - float(explained) / self.variance if self.variance > 0 else 0.0

    def heads(self, values: Tensor, outgoing: Tensor, strength: float) -> Tensor:
        """Return V (h, j, d) after the sweeps, from V (h, j, d) and O (h, o, j)."""
        maps, values, rank = outgoing @ values, values.clone(), values.shape[1]
        for _ in range(SWEEPS):
            for h in range(len(values)):
                own, others = self.features[h, :, h], maps.clone()
                others[h] = 0
                left = self.cross[:, h] - torch.einsum("god,gde->oe", others, self.features[:, :, h])
                root = _root(own, strength)
                axes = torch.linalg.svd(
                    torch.linalg.solve_triangular(root, left.T, upper=False).T, full_matrices=False
                ).U[:, :rank]
                values[h, : axes.shape[1]] = axes.T @ torch.cholesky_solve(left.T, root).T
                values[h, axes.shape[1] :] = 0
                maps[h] = axes @ values[h, : axes.shape[1]]
        return values

    def outgoing(self, values: Tensor) -> Tensor:
        """Return the best O (h, o, j) of all heads together for V (h, j, d)."""
        products = torch.einsum("hjd,hdge,gke->hjgk", values, self.features, values)
        products = products.flatten(2).flatten(0, 1)
        wanted = torch.einsum("ohd,hjd->ohj", self.cross, values).flatten(1)
        root = _root(products, min(STRENGTHS))
        outgoing: Tensor = torch.cholesky_solve(wanted.T, root).T.unflatten(1, values.shape[:2]).transpose(0, 1)
        return outgoing


def _root(products: Tensor, strength: float) -> Tensor:
    """Cholesky factor of second moments (d, d) plus λ, which is above zero where nothing varies too.

    Moments of single precision may be below zero by more than λ, in directions of which nothing is left but rounding.
    """
    penalty = (strength * products.diagonal().mean()).clamp(min=torch.finfo(products.dtype).tiny)
    identity = torch.eye(len(products), dtype=products.dtype)
    root: Tensor
    root, failed = torch.linalg.cholesky_ex(products + penalty * identity)
    if failed:
        values, vectors = torch.linalg.eigh(products)
        root = torch.linalg.cholesky(vectors * (values.clamp(min=0) + penalty) @ vectors.T)
    return root


def with_fitted_heads(draft: Draft, m: Map) -> Draft:
    """Return the draft with the values that a map reads, and the map, fitted to the map's target.

    It is returned as it is where the map does not read heads of attention (`consilience.signals.attention`), or no fit
    is nearer to the target on held-out samples.
    """
    heads = Attention.of(m, draft.network, draft.responses.x[:2])
    if heads is None or not _is_fitted(draft, heads):
        return draft
    v, written = heads.values, (draft.architecture.widths[heads.values.writes], heads.values.output.inside)
    old_v, old_o = draft.network.weights(v), draft.network.weights(m)
    fitted, held = (_moments(draft.subset(samples), heads) for samples in held_out(len(draft.responses.x)))
    values = torch.cat([old_v.matrix, old_v.bias[:, None]], 1) if v.has_bias else old_v.matrix
    rows = values.double().unflatten(0, written)  # of queries and keys too, where one map writes them
    values, outgoing = rows[:, heads.own], old_o.matrix.double().unflatten(1, (len(rows), -1)).transpose(0, 1)
    tried = [values, *(fitted.heads(values, outgoing, strength) for strength in STRENGTHS)]
    weights = [fitted.outgoing(each) for each in tried]
    best = nearest([held.error(each, out) for each, out in zip(tried, weights, strict=True)])
    if best == 0:
        return draft
    rows[:, heads.own] = tried[best]
    matrix, bias = rows.flatten(0, 1).to(old_v.matrix.dtype), old_v.bias
    if v.has_bias:
        matrix, bias = matrix[:, :-1], matrix[:, -1]
    outgoing = weights[best].transpose(0, 1).flatten(1).to(old_o.matrix.dtype)
    changed = draft.with_weights(v, old_v.with_matrix(matrix, bias))
    changed = changed.with_weights(m, old_o.with_matrix(outgoing, old_o.bias))
    kept = {name: value for name, value in draft.values.items() if name != v.output.name}
    return replace(changed, values=kept).with_values(v)


def _is_fitted(draft: Draft, heads: Attention) -> bool:
    """Whether values are a linear map of one layer at each position, and heads not too many; no grouped queries."""
    v, m = heads.values, heads.reader
    plain = v.fitted and m.fitted and not v.per_unit and v.kernel is None and v.scaled is None and len(v.inputs) == 1
    if not plain or v.inputs[0].layer is None or m.inputs[0].inside != heads.inside:
        return False
    n_columns = draft.network.weights(v).matrix.shape[1] + v.has_bias
    return n_columns * draft.architecture.widths[v.writes] <= MOST_COLUMNS


def _moments(draft: Draft, heads: Attention) -> HeadMoments:
    """The moments of what heads attend to and of the target of the map that reads them, from running sums."""
    v, m, widths, inside = heads.values, heads.reader, draft.architecture.widths, heads.inside
    (source,), (read,), n_heads, target = v.inputs, m.inputs, widths[v.writes], reaching_target(draft, m)
    sums, done = None, 0
    names = [source.name, v.output.name, m.output.name, *draft.values]
    for which, batch in stream(draft.network, draft.responses.x, names, known=draft.values):
        x, value = draft.responses.x[which], batch[v.output.name]
        entries = source.units(batch[source.name], widths, len(x))  # (n, d, s)
        if v.has_bias:
            entries = torch.cat([entries, torch.ones_like(entries[:, :1])], 1)
        attended = []
        for some in entries.split(inside, 1):
            some = functional.pad(some, (0, 0, 0, inside - some.shape[1])).repeat(1, n_heads, 1)
            known = {name: batch[name] for name in draft.values} | {v.output.name: heads.fed(value, widths, some)}
            seen = draft.network.values(x, [read.name], known)[read.name]
            rows, _ = draft.rows_at(m, which, seen, batch[m.output.name])
            attended.append(rows.unflatten(1, (n_heads, inside)))
        every = torch.cat(attended, 2)[:, :, : entries.shape[1]].flatten(1)
        sums = sums or Moments(every.shape[1], target.shape[1])
        sums.add(every, target[done : done + len(every)])
        done += len(every)
    assert sums is not None
    return HeadMoments.of(sums, n_heads)
