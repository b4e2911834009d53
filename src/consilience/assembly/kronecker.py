"""The Gauss–Newton matrix map by map, approximately, as Kronecker factors: its inverse and its diagonal.

For a map that reads a (with a 1 for the bias) and writes z, with ``δ = Rᵀ ∂y/∂z`` for random R with ``E[R Rᵀ] = H``,

    G ≈ E[δ δᵀ] ⊗ P E[a aᵀ],    (G + λ)⁻¹ [W | b] ≈ (E[δ δᵀ] + √λ/π)⁻¹ [W | b] (P E[a aᵀ] + √λ π)⁻¹,

with means over samples and the P positions of each, and π² the ratio of the factors' mean eigenvalues (K-FAC: Martens
and Grosse 2015; of convolutions: Grosse and Martens 2016). A map of each unit by itself has a block for each unit,
``E[δ²] · P E[a aᵀ]``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from consilience.assembly.fit import Fit
from consilience.units.axes import Sampling
from consilience.units.maps import Map

DAMPING = 1e-3  # λ, of the product of the factors' mean eigenvalues
MAX_ROWS = 20_000  # that a map reads, over all samples


@dataclass(frozen=True)
class Kronecker:
    """The factors of each map of a fit."""

    fit: Fit
    factors: tuple[tuple[Tensor, Tensor], ...]  # E[δ δᵀ] (u, u) and P E[a aᵀ] (d, d); per unit (u,) and (u, d, d)

    @classmethod
    def of(cls, fit: Fit, theta: Tensor, rows: Tensor, signs: Tensor) -> Kronecker:
        """Return the factors at θ on some samples; ``signs`` (r, o) are random, for their rows."""
        architecture, network = fit.network.architecture, fit.at(theta)
        widths, sampling = architecture.widths, Sampling(len(rows), MAX_ROWS)
        output, learned = architecture.program.output, {m.weight for m in fit.maps} & architecture.program.learned
        written, read = [m.output.name for m in fit.maps], [m.inputs[0].name for m in fit.maps]
        state = {name: value.detach().requires_grad_(name in learned) for name, value in network.state.items()}
        sums: list[tuple[Tensor, Tensor, int]] = []
        start = 0
        for part in fit.batches(rows):
            values = architecture.program.run(state, fit.x[part], list({output, *written, *read}), fit.given(part))
            outputs = fit.rows(values[output], part)
            root = fit.root(outputs.detach(), signs[start * fit.positions : (start + len(part)) * fit.positions])
            slopes = torch.autograd.grad(outputs, [values[name] for name in written], root)
            new = []
            for m, slope in zip(fit.maps, slopes, strict=True):
                a, delta = m.rows(values[m.inputs[0].name].detach(), slope, widths, sampling, start, len(part))
                n_positions = m.output.units(slope, widths, len(part)).shape[2]
                new.append((*_products(m, a, delta, n_positions), len(a)))
            pairs = zip(sums, new, strict=True) if sums else ()
            sums = [(s[0] + t[0], s[1] + t[1], s[2] + t[2]) for s, t in pairs] or new
            start += len(part)
        return cls(fit, tuple((left / n, right / n) for left, right, n in sums))

    @property
    def scale(self) -> Tensor:
        """The mean diagonal of each map's block of G, for each weight: (θ,).

        As a damping it does not depend on the units of the outputs, or of a layer.
        """
        parts = []
        for m, (left, right) in zip(self.fit.maps, self.factors, strict=True):
            slopes, squares = left if m.per_unit else left.diagonal(), right.diagonal(dim1=-2, dim2=-1)
            diagonal = (slopes[:, None] * squares).flatten()
            parts.append(diagonal.mean().expand(len(diagonal)))
        return torch.cat(parts)

    def inverse(self) -> Inverse:
        """Return v ↦ (G + λ)⁻¹ v."""
        pairs = zip(self.fit.maps, self.factors, strict=True)
        return Inverse(self.fit, tuple(_inverted(m, left, right) for m, (left, right) in pairs))


@dataclass(frozen=True)
class Inverse:
    """The damped factors, inverted."""

    fit: Fit
    factors: tuple[tuple[Tensor, Tensor], ...]

    def __call__(self, v: Tensor) -> Tensor:
        """Return the product with a vector (θ,)."""
        parts = []
        for m, block, factors in zip(self.fit.maps, self.fit.blocks(v), self.factors, strict=True):
            left, right = (factor.to(v.dtype) for factor in factors)
            solved = torch.einsum("ud,ude->ue", block, right) * left[:, None] if m.per_unit else left @ block @ right
            parts.append(solved.flatten())
        return torch.cat(parts)


def _products(m: Map, a: Tensor, delta: Tensor, n_positions: int) -> tuple[Tensor, Tensor]:
    """Σ δ δᵀ and P Σ a aᵀ of rows a (r, d) and δ (r, u); of a map per unit, with a (r, u, d), for each unit."""
    if m.has_bias:
        a = torch.cat([a, a.new_ones(*a.shape[:-1], 1)], dim=-1)
    if m.per_unit:
        a = a.movedim(0, 1)
        return delta.square().sum(0).double(), (a.mT @ a).double() * n_positions
    return (delta.T @ delta).double(), (a.T @ a).double() * n_positions


def _inverted(m: Map, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    tiny = torch.finfo(torch.float32).tiny
    size = float(right.diagonal(dim1=-2, dim2=-1).mean().clamp(min=tiny))
    slope = float((left if m.per_unit else left.diagonal()).mean().clamp(min=tiny))
    root, ratio = math.sqrt(DAMPING * size * slope), math.sqrt(size / slope)
    solved = torch.linalg.inv(right + root * ratio * _identity(right))
    if m.per_unit:
        return 1 / (left + root / ratio), solved
    return torch.linalg.inv(left + root / ratio * _identity(left)), solved


def _identity(like: Tensor) -> Tensor:
    return torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)
