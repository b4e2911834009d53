"""Second moments of activations, accumulated in float64, and the linear fits that need nothing else.

Memory does not grow with the data: ``x`` (n, i) and ``y`` (n, u) come in batches and leave sums behind.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Moments:
    """Running sums of x, y, x xᵀ and y xᵀ over samples; of ``n_fits`` side by side, each with columns of its own."""

    def __init__(self, n_x: int, n_y: int, n_fits: int | None = None) -> None:
        self.count = 0
        fits = () if n_fits is None else (n_fits,)
        shapes = ((n_x,), (n_y,), (n_x, n_x), (n_y, n_x))
        sums = [torch.zeros(*fits, *shape, dtype=torch.float64) for shape in shapes]
        self.sum_x, self.sum_y, self.sum_xx, self.sum_yx = sums

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add samples x (n, n_x) and y (n, n_y); of fits side by side (n, n_fits, n_x) and (n, n_fits, n_y)."""
        x, y = x.double(), y.double()
        if x.dim() > 2:
            x, y = x.movedim(0, 1), y.movedim(0, 1)
        self.count += x.shape[-2]
        self.sum_x += x.sum(-2)
        self.sum_y += y.sum(-2)
        self.sum_xx += x.mT @ x
        self.sum_yx += y.mT @ x


def ridge(moments: Moments, strength: float, *, intercept: bool = True) -> tuple[Tensor, Tensor]:
    """Return W (n_y, n_x) and b (n_y,) that minimise Σ‖y − W x − b‖² + λ‖W‖²; of fits side by side with these in front.

    ``λ = strength · tr(Cov x) / n_x`` per sample, so that ``strength`` has no units; 0 gives the minimum-norm least
    squares. Without ``intercept``, b is zero and moments about zero stand in for covariances.
    """
    n = moments.count
    mean_x, mean_y = (moments.sum_x / n, moments.sum_y / n) if intercept else (0 * moments.sum_x, 0 * moments.sum_y)
    covariance = moments.sum_xx / n - mean_x[..., :, None] * mean_x[..., None, :]
    cross = moments.sum_yx / n - mean_y[..., :, None] * mean_x[..., None, :]
    size = covariance.shape[-1]
    trace = covariance.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None].clamp(min=0)
    if strength > 0:
        # What is constant up to rounding gets no weight, as any other direction that the samples never take.
        rounding = 1e-12 * (moments.sum_xx / n).diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
        penalty = torch.maximum(strength * trace / size, rounding)
        damped = covariance + torch.where(penalty > 0, penalty, 1) * torch.eye(size, dtype=torch.float64)
        weight = torch.cholesky_solve(cross.mT, torch.linalg.cholesky(damped)).mT
    else:
        values, vectors = torch.linalg.eigh(covariance)
        # A variance is rounded as the squares that it is a difference of.
        squares = (moments.sum_xx / n).diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True)
        floor = 1e-13 * torch.maximum(values[..., -1:], squares)
        inverse = torch.where(values > floor, 1 / values.clamp(min=1e-300), 0.0)
        weight = cross @ (vectors * inverse[..., None, :]) @ vectors.mT
    return weight, mean_y - (weight @ mean_x[..., None])[..., 0]
