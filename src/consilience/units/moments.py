"""Second moments of activations, accumulated in float64, and the linear fits that need nothing else.

Memory does not grow with the data: ``x`` (n, i) and ``y`` (n, u) come in batches and leave sums behind.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Moments:
    """Running sums of x, y, x xᵀ and y xᵀ over samples.

    Parameters
    ----------
    n_x, n_y : columns of x and of y.
    """

    def __init__(self, n_x: int, n_y: int) -> None:
        self.count = 0
        self.sum_x = torch.zeros(n_x, dtype=torch.float64)
        self.sum_y = torch.zeros(n_y, dtype=torch.float64)
        self.sum_xx = torch.zeros(n_x, n_x, dtype=torch.float64)
        self.sum_yx = torch.zeros(n_y, n_x, dtype=torch.float64)

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add samples x (n, n_x) and y (n, n_y)."""
        x, y = x.double(), y.double()
        self.count += len(x)
        self.sum_x += x.sum(0)
        self.sum_y += y.sum(0)
        self.sum_xx += x.T @ x
        self.sum_yx += y.T @ x


def ridge(moments: Moments, strength: float, *, intercept: bool = True) -> tuple[Tensor, Tensor]:
    """Return W (n_y, n_x) and b (n_y,) that minimise Σ‖y − W x − b‖² + λ‖W‖².

    ``λ = strength · tr(Cov x) / n_x`` per sample, so that ``strength`` has no units; 0 gives the minimum-norm least
    squares. Without ``intercept``, b is zero and moments about zero stand in for covariances.
    """
    n = moments.count
    mean_x, mean_y = (moments.sum_x / n, moments.sum_y / n) if intercept else (0 * moments.sum_x, 0 * moments.sum_y)
    covariance = moments.sum_xx / n - torch.outer(mean_x, mean_x)
    cross = moments.sum_yx / n - torch.outer(mean_y, mean_x)
    values, vectors = torch.linalg.eigh(covariance)
    penalty = strength * float(values.clamp(min=0).mean())
    # Directions that the samples never take (eigenvalue 0 up to rounding) get no weight.
    floor = float(values[-1]) * len(values) * torch.finfo(torch.float64).eps
    inverse = torch.where(values > floor, 1 / (values + penalty).clamp(min=1e-300), 0.0)
    weight = cross @ (vectors * inverse) @ vectors.T
    return weight, mean_y - weight @ mean_x
