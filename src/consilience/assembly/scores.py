"""Queries and keys of attention heads, merged over the heads of a cluster.

A head's scores ``(Q x)ᵀ (K y)`` of what it attends from and to are bilinear: the same for (G Q, G⁻ᵀ K) with any
invertible G, so that queries and keys have no means over heads. Their products have. With rows Q_h, K_h in the
coordinates of the assembly, a 1 beside x where queries have a bias, and weights w_h of the heads of a cluster,

    M = Σ_h w_h Q_hᵀ K_h / Σ_h w_h.

The cluster gets the map of a head's rank that is nearest to M in the metric of x and y: with ``⟨x, x⟩ = L Lᵀ``,
``⟨y, y⟩ = N Nᵀ`` and the leading part U S Vᵀ of ``Lᵀ M N``,

    Q = (L⁻ᵀ U S^½)ᵀ,    K = (N⁻ᵀ V S^½)ᵀ.

Since softmax ignores what is the same for all keys, y are centred over the positions of each sample, and keys need no
bias. A head counts by how much what it adds is like what the medoid adds: w_h is their cosine, at least 0.

Axis legend: ``n`` samples, ``h`` heads, ``j`` rows of a head, ``t`` positions that attend, ``s`` positions attended to,
``d`` entries read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from consilience.assembly.draft import Draft
from consilience.bases.hyperplanes import ground
from consilience.signals.attention import Attention
from consilience.signals.responses import stream
from consilience.units.architecture import Architecture, TracedNetwork
from consilience.units.maps import Map

FORM = 1e-4  # of the largest score: scores of another form are further from queries times keys than rounding
DAMPING = 1e-6  # of second moments, as a share of the mean of their diagonal


@dataclass(frozen=True)
class Scores:
    """The maps that write queries and keys of the heads of one layer."""

    heads: Attention
    queries: Map
    keys: Map

    @classmethod
    def completed_by(cls, m: Map, architecture: Architecture) -> Iterator[Scores]:
        """Yield which maps could be queries and keys of which heads, if ``m`` writes the later of the two."""
        if not _is_plain(m):
            return
        family = {layer.name for layer in architecture.family(m.writes)}
        for reader in architecture.maps:
            for heads in Attention.read_by(reader, architecture) if family & {*reader.reads} else ():
                if heads.values.output.inside != reader.inputs[0].inside:
                    continue
                pair = [own for own in architecture.maps if own.writes in family and own.output.inside > 1]
                pair = [own for own in pair if own not in (heads.values, reader)]
                if len(pair) == 2 and pair[1] is m and all(map(_is_plain, pair)):
                    yield cls(heads, pair[0], pair[1])
                    yield cls(heads, pair[1], pair[0])

    def multiple(self, network: TracedNetwork, x: Tensor) -> float | None:
        """Return m with attention patterns ``softmax(m q·k)`` on inputs x; None if they are of another form."""
        widths, names = network.architecture.widths, [self.queries.output.name, self.keys.output.name]
        values, sizes = network.values(x, names), (widths[self.heads.values.writes], self.heads.values.output.inside)
        queries, keys = (
            own.output.units(values[own.output.name], widths, len(x)).unflatten(1, sizes).double()
            for own in (self.queries, self.keys)
        )
        logs = self.heads.patterns(network, x).double().log()
        if logs.shape[2:] != (queries.shape[3], keys.shape[3]):
            return None
        seen = logs.isfinite()
        logs, products = (
            _centred(each.masked_fill(~seen, 0), seen)
            for each in (logs, torch.einsum("nhjt,nhjs->nhts", queries, keys))
        )
        multiple = float((logs * products).sum() / products.square().sum().clamp(min=torch.finfo(logs.dtype).tiny))
        wrong = float((logs - multiple * products).abs().max())
        return multiple if wrong <= FORM * float(logs.abs().max()) else None


def _is_plain(m: Map) -> bool:
    """Whether a map writes rows of heads from one layer, linearly and position by position."""
    plain = m.fitted and not m.per_unit and m.kernel is None and m.scaled is None and len(m.inputs) == 1
    return plain and m.output.block == m.output.inside > 1 and m.inputs[0].layer is not None


def _centred(scores: Tensor, seen: Tensor) -> Tensor:
    """Scores (n, h, t, s) less their mean over the positions seen; 0 elsewhere."""
    mean = scores.sum(3, keepdim=True) / seen.sum(3, keepdim=True).clamp(min=1)
    return (scores - mean).masked_fill(~seen, 0)


def with_merged_scores(draft: Draft, m: Map) -> Draft:
    """Return the draft with queries and keys merged, if a map completes them and some cluster has several heads.

    Scores of another form, as with rotary positions or norms of queries, stay those of the medoids.
    """
    for scores in Scores.completed_by(m, draft.architecture):
        first, *others = (scores.multiple(network, draft.responses.x[:2]) for network in draft.members)
        if first is not None and all(other is not None and abs(other - first) <= FORM * abs(first) for other in others):
            return _merged(draft, scores)
    return draft


def _merged(draft: Draft, scores: Scores) -> Draft:
    q, k, basis = scores.queries, scores.keys, draft.bases[scores.queries.writes]
    inside = q.output.inside
    cluster, medoids = torch.cat(basis.medoids or basis.mixing) != 0, torch.cat(basis.mixing).argmax(0)
    points = draft.responses.contributions(q.writes).double()
    weights = cluster * (points @ points[medoids].T).clamp(min=0)  # (heads of all members, clusters)
    several = (weights > 0).sum(0) > 1
    if not several.any():
        return draft
    queries, keys = _rows(draft, q, with_bias=q.has_bias), _rows(draft, k, with_bias=False)
    to_x, to_y = _root(_attending(draft, q)), _root(_attended(draft, k))
    old_q, old_k = draft.network.weights(q), draft.network.weights(k)
    rows_q, rows_k, bias_q, bias_k = (
        each.unflatten(0, (-1, inside)).clone() for each in (old_q.matrix, old_k.matrix, old_q.bias, old_k.bias)
    )
    for c in several.nonzero().flatten().tolist():
        own = weights[:, c].nonzero().flatten()
        share = (weights[own, c] / weights[own, c].sum())[:, None, None]
        u, v = _nearest((share * queries[own]).flatten(0, 1) @ to_x, keys[own].flatten(0, 1) @ to_y, inside)
        merged = torch.linalg.solve_triangular(to_x, u, upper=False, left=False)
        rows_q[c], bias_q[c] = merged[:, : rows_q.shape[2]], merged[:, -1] if q.has_bias else 0
        rows_k[c], bias_k[c] = torch.linalg.solve_triangular(to_y, v, upper=False, left=False), 0
    draft = draft.with_weights(q, old_q.with_matrix(rows_q.flatten(0, 1), bias_q.flatten()))
    draft = draft.with_weights(k, old_k.with_matrix(rows_k.flatten(0, 1), bias_k.flatten()))
    stale = {q.output.name, k.output.name}
    draft = replace(draft, values={name: value for name, value in draft.values.items() if name not in stale})
    return draft.with_values(q).with_values(k)


def _rows(draft: Draft, m: Map, *, with_bias: bool) -> Tensor:
    """A map's rows of each head of all members, in the assembly's coordinates: (heads, j, d)."""
    (axis,), rows = m.inputs, list[Tensor]()
    for network, projection in zip(draft.members, draft.projections[axis], strict=True):
        grounded = ground(m, network, {axis: projection})
        parts = [grounded.matrix, grounded.bias[:, None]] if with_bias else [grounded.matrix]
        rows.append(torch.cat(parts, 1).double().unflatten(0, (-1, m.output.inside)))
    return torch.cat(rows)


def _attending(draft: Draft, q: Map) -> Tensor:
    """Second moments (d, d) of what queries read where they reach the outputs."""
    total, n = torch.zeros((), dtype=torch.float64), 0
    for rows, _ in draft.patches(q):
        exact = rows.double()
        exact = torch.cat([exact, torch.ones_like(exact[:, :1])], 1) if q.has_bias else exact
        total, n = total + exact.T @ exact, n + len(exact)
    return total / n


def _attended(draft: Draft, k: Map) -> Tensor:
    """Second moments (d, d) of what keys read, about its mean over the positions of each sample."""
    (axis,), total, n = k.inputs, torch.zeros((), dtype=torch.float64), 0
    for which, batch in stream(draft.network, draft.responses.x, [axis.name], known=draft.values):
        units = axis.units(batch[axis.name], draft.architecture.widths, which.stop - which.start).double()  # (n, d, s)
        centred = units - units.mean(2, keepdim=True)
        total, n = total + torch.einsum("nds,nes->de", centred, centred), n + len(units) * units.shape[2]
    return total / n


def _root(moments: Tensor) -> Tensor:
    """L with L Lᵀ = moments (d, d), damped."""
    size = moments.diagonal().mean()
    damping = DAMPING * size if size > 0 else 1.0  # nothing varies
    root: Tensor = torch.linalg.cholesky(moments + damping * torch.eye(len(moments), dtype=moments.dtype))
    return root


def _nearest(left: Tensor, right: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return X and Y (rank, d) with the best Xᵀ Y of that rank for ``leftᵀ right``, of (r, d) each, and equal norms."""
    (one, upper), (other, lower) = torch.linalg.qr(left.T), torch.linalg.qr(right.T)
    u, s, v = torch.linalg.svd(upper @ lower.T, full_matrices=False)
    x, y = (one @ u * s.sqrt()).T[:rank], (other @ v.T * s.sqrt()).T[:rank]
    missing = (0, 0, 0, rank - len(x))  # where fewer entries are read than a head has rows
    return functional.pad(x, missing), functional.pad(y, missing)
