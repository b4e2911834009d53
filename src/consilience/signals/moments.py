"""Second moments of activations, and the linear fits that need nothing else.

Memory does not grow with the data: ``x`` (n, i) and ``y`` (n, u) come in batches and leave sums behind. Products of a
batch are in the type of its values where it has `ROWS` for each column of x, and else in float64, as fits of few rows
are ill-conditioned. Values are less the means of the first batch, so that large means cost no digits. Batches are added
up in float64.

`cross_validated` chooses the strength of a ridge by generalized cross-validation (Golub, Heath and Wahba 1979): with
the eigenvalues d and eigenvectors V of Cov x, computed once, and C = Cov(y, x) V,

    df(λ) = 1 + Σ_i d_i / (d_i + λ),    RSS(λ) / n = Σ_u (Var y_u − Σ_i C_ui² (d_i + 2λ) / (d_i + λ)²),
    GCV(λ) = (RSS(λ) / n) / (1 − df(λ) / n)²,

an estimate of the squared error on rows that are left out, one by one. The solutions at several strengths, among them
λ = ∞, no weights at all, are averaged with weights ``GCV(λ)^(−n/2)``, as models are by their likelihoods (Akaike 1978,
The Statistician 27). The lowest one alone would jump between neighbors that rounding tells apart.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from consilience.ties import SINGLE

STRENGTHS = 10 ** torch.arange(2, -5.5, -0.5, dtype=torch.float64)  # of the mean variance of x; the strongest first
ROWS = 2  # of a batch for each column of x, from which on products are in the type of the values
MOST = 1000  # samples that weights of strengths count: of more, the lowest GCV would rest on its last digits


class Moments:
    """Running sums of x, y, x xᵀ, y xᵀ and y² over samples; of ``n_fits`` side by side, each with its own columns."""

    def __init__(self, n_x: int, n_y: int, n_fits: int | None = None) -> None:
        self.count = 0
        fits = () if n_fits is None else (n_fits,)
        shapes = ((n_x,), (n_y,), (n_x,), (n_y,), (n_x, n_x), (n_y, n_x), (n_y,))
        sums = [torch.zeros(*fits, *shape, dtype=torch.float64) for shape in shapes]
        self.shift_x, self.shift_y, self.sum_x, self.sum_y, self.sum_xx, self.sum_yx, self.sum_yy = sums

    @classmethod
    def side_by_side(cls, parts: Sequence[Moments]) -> Moments:
        """Return the moments of one x and of the y of several parts (n, n_y) side by side."""
        whole = copy.copy(parts[0])
        for name in ("shift_y", "sum_y", "sum_yy", "sum_yx"):
            setattr(whole, name, torch.cat([getattr(part, name) for part in parts]))
        return whole

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add samples x (n, n_x) and y (n, n_y); of fits side by side (n, n_fits, n_x) and (n, n_fits, n_y)."""
        if x.dim() > 2:
            x, y = x.movedim(0, 1), y.movedim(0, 1)
        if self.count == 0:
            self.shift_x, self.shift_y = (each.mean(-2).double() for each in (x, y))
        if x.shape[-2] < ROWS * x.shape[-1]:
            x, y = x.double(), y.double()
        x, y = x - self.shift_x[..., None, :].to(x.dtype), y - self.shift_y[..., None, :].to(y.dtype)
        self.count += x.shape[-2]
        self.sum_x += x.sum(-2, dtype=torch.float64)
        self.sum_y += y.sum(-2, dtype=torch.float64)
        self.sum_xx += x.mT @ x
        self.sum_yx += y.mT @ x
        self.sum_yy += y.square().sum(-2, dtype=torch.float64)

    @property
    def squares(self) -> Tensor:
        """The mean squares (..., n_x) of x."""
        return self.sum_xx.diagonal(dim1=-2, dim2=-1) / self.count + self.shift_x * (
            self.shift_x + 2 * self.sum_x / self.count
        )

    @property
    def rounding(self) -> Tensor:
        """The least penalty (..., 1, 1): what is constant up to rounding gets no weight, as what is never seen."""
        return (1e-12 * self.squares.mean(-1)[..., None, None]).clamp(min=torch.finfo(torch.float64).tiny)

    def centred(self, *, intercept: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return the means of x and y, Cov x, Cov(y, x) and Var y; without intercept, moments about zero."""
        n = self.count
        mean_x, mean_y = self.sum_x / n, self.sum_y / n
        covariance = self.sum_xx / n - _outer(mean_x, mean_x)
        cross = self.sum_yx / n - _outer(mean_y, mean_x)
        variance = (self.sum_yy / n - mean_y.square()).clamp(min=0)
        mean_x, mean_y = mean_x + self.shift_x, mean_y + self.shift_y
        if intercept:
            return mean_x, mean_y, covariance, cross, variance
        covariance, cross = covariance + _outer(mean_x, mean_x), cross + _outer(mean_y, mean_x)
        return 0 * mean_x, 0 * mean_y, covariance, cross, variance + mean_y.square()


def ridge(moments: Moments, strength: float, *, intercept: bool = True) -> tuple[Tensor, Tensor]:
    """Return W (n_y, n_x) and b (n_y,) that minimise Σ‖y − W x − b‖² + λ‖W‖²; of fits side by side with these in front.

    ``λ = strength · tr(Cov x) / n_x`` per sample, so that ``strength`` has no units; 0 gives the minimum-norm least
    squares. Without ``intercept``, b is zero and moments about zero stand in for covariances.
    """
    mean_x, mean_y, covariance, cross, _ = moments.centred(intercept=intercept)
    size = covariance.shape[-1]
    trace = covariance.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None].clamp(min=0)
    if strength > 0:
        penalty = torch.maximum(strength * trace / size, moments.rounding)
        damped = covariance + penalty * torch.eye(size, dtype=torch.float64)
        weight = torch.cholesky_solve(cross.mT, torch.linalg.cholesky(damped)).mT
    else:
        values, vectors = torch.linalg.eigh(covariance)
        # A variance is rounded as the squares that it is a difference of.
        floor = 1e-13 * torch.maximum(values[..., -1:], moments.squares.sum(-1, keepdim=True))
        inverse = torch.where(values > floor, 1 / values.clamp(min=1e-300), 0.0)
        weight = cross @ (vectors * inverse[..., None, :]) @ vectors.mT
    return weight, mean_y - (weight @ mean_x[..., None])[..., 0]


def cross_validated(
    moments: Moments, *, intercept: bool = True, rounding: Tensor | float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return W (n_y, n_x) and b (n_y,) as `ridge` does, averaged over strengths by their GCV, for each fit.

    ``rounding``, of each fit (..., 1), is a variance summed over y that is rounding: it is unexplained at any strength.
    """
    n = moments.count
    mean_x, mean_y, covariance, cross, variance = moments.centred(intercept=intercept)
    values, vectors = torch.linalg.eigh(covariance)
    values = values.clamp(min=0)[..., None, :]  # (..., 1, n_x)
    penalties = torch.maximum(STRENGTHS[:, None] * values.mean(-1, keepdim=True), moments.rounding)
    inverse = 1 / (values + penalties)  # (..., strengths, n_x)
    rotated = cross @ vectors
    squares = rotated.square().sum(-2, keepdim=True) * inverse  # of what is constant 0, not 0 · ∞
    explained = (squares * ((values + 2 * penalties) * inverse)).sum(-1)
    unexplained = (variance.sum(-1, keepdim=True) - explained).clamp(min=0) + rounding
    nothing = variance.sum(-1, keepdim=True) + rounding
    left = 1 - (int(intercept) + torch.cat([0 * penalties[..., :1, 0], (values * inverse).sum(-1)], -1)) / n
    errors = torch.cat([nothing, unexplained], -1) / left.clamp(min=SINGLE).square()  # (..., 1 + strengths)
    scores = errors.clamp(min=torch.finfo(torch.float64).tiny).log()
    shares = torch.softmax(-min(n, MOST) / 2 * scores, -1)[..., 1:]
    kept = (shares[..., None] * inverse).sum(-2, keepdim=True)
    weight = (rotated * kept) @ vectors.mT
    return weight, mean_y - (weight @ mean_x[..., None])[..., 0]


def _outer(a: Tensor, b: Tensor) -> Tensor:
    return a[..., :, None] * b[..., None, :]
