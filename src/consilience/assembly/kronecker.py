"""An approximate inverse of the Gauss–Newton matrix, map by map: Kronecker factors.

For a map with inputs a (with a 1 for the bias) and derivatives δ of the outputs by what it writes,

    G ≈ P · E[a aᵀ] ⊗ E[δ δᵀ],    (G + λ)⁻¹ [W | b] ≈ (E[δ δᵀ] + √λ/π)⁻¹ [W | b] (P E[a aᵀ] + √λ π)⁻¹,

over samples and the P positions of each (K-FAC: Martens and Grosse 2015; of convolutions: Grosse and Martens 2016),
with π² the ratio of the mean eigenvalues. A map of each unit by itself has a block for each unit,
``E[a aᵀ] · E[δ²]``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from consilience.assembly.fit import Fit
from consilience.units.axes import Sampling
from consilience.units.maps import Map

DAMPING = 1e-3  # of the product of the factors' mean eigenvalues
MAX_ROWS = 20_000  # of a map, over all samples


def inverse(fit: Fit, theta: Tensor, rows: Tensor, signs: Tensor) -> Callable[[Tensor], Tensor]:
    """Return v ↦ (G + λ)⁻¹ v, approximately, at θ on some samples; ``signs`` (n, o) are random, of these samples."""
    factors = [_inverted(m, *sums) for m, sums in zip(fit.maps, _sums(fit, theta, rows, signs), strict=True)]

    def product(v: Tensor) -> Tensor:
        parts = []
        for m, block, (left, right) in zip(fit.maps, fit.blocks(v), factors, strict=True):
            solved = torch.einsum("ud,ude->ue", block, right) * left[:, None] if m.per_unit else left @ block @ right
            parts.append(solved.flatten())
        return torch.cat(parts)

    return product


def _sums(fit: Fit, theta: Tensor, rows: Tensor, signs: Tensor) -> list[tuple[Tensor, Tensor]]:
    """E[δ δᵀ] and P·E[a aᵀ] of each map; of a map per unit E[δ²] (u,) and (u, d, d)."""
    architecture, network = fit.network.architecture, fit.at(theta.detach())
    output, widths, sampling = architecture.program.output, architecture.widths, Sampling(len(rows), MAX_ROWS)
    learned = {m.weight for m in fit.maps} & architecture.program.learned
    written, read = [m.output.name for m in fit.maps], [m.inputs[0].name for m in fit.maps]
    sums: list[tuple[Tensor, Tensor]] = [(torch.zeros(()), torch.zeros(())) for _ in fit.maps]
    counts, start = [0.0] * len(fit.maps), 0
    for part in fit.batches(rows):
        known = {name: value[part] for name, value in fit.known.items()}
        leaves = {name: value.detach().requires_grad_(name in learned) for name, value in network.state.items()}
        values = architecture.program.run(leaves, fit.x[part], list({output, *written, *read}), known)
        root = fit.curvature_root(values[output].detach(), signs[start : start + len(part)])
        slopes = torch.autograd.grad(values[output], [values[name] for name in written], root)
        for i, (m, slope) in enumerate(zip(fit.maps, slopes, strict=True)):
            a, delta = m.rows(values[m.inputs[0].name].detach(), slope, widths, sampling, start, len(part))
            if m.has_bias:
                a = torch.cat([a, a.new_ones(*a.shape[:-1], 1)], dim=-1)
            positions = m.output.units(slope, widths, len(part)).shape[2]
            counts[i] += len(a)
            if m.per_unit:
                a = a.movedim(0, 1)
                new = delta.square().sum(0).double(), (a.mT @ a).double() * positions
            else:
                new = (delta.T @ delta).double(), (a.T @ a).double() * positions
            sums[i] = sums[i][0] + new[0], sums[i][1] + new[1]
        start += len(part)
    return [(left / n, right / n) for (left, right), n in zip(sums, counts, strict=True)]


def _inverted(m: Map, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """The inverses of the two damped factors, as single precision numbers."""
    eye = torch.eye(right.shape[-1], dtype=right.dtype)
    size = right.diagonal(dim1=-2, dim2=-1).mean().clamp(min=1e-30)
    slope = (left if m.per_unit else left.diagonal()).mean().clamp(min=1e-30)
    ratio, root = (size / slope).sqrt(), (DAMPING * size * slope).sqrt()
    right = torch.linalg.inv(right + ratio * root * eye)
    if m.per_unit:
        return (1 / (left + root / ratio)).float(), right.float()
    return torch.linalg.inv(left + root / ratio * torch.eye(len(left), dtype=left.dtype)).float(), right.float()
