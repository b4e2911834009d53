"""Inputs and outputs at mean zero and unit spread, as training wants them, and the way back.

Features that never change are left out: what a network does with them cannot be told from its biases.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Standard:
    """An affine map of each feature.

    Attributes
    ----------
    mean, scale : (d,); ``(x − mean) / scale`` has mean 0 and spread 1; a constant feature has scale 1.
    varies : (d,) bool; False for constant features.
    """

    mean: Tensor
    scale: Tensor
    varies: Tensor

    @classmethod
    def of(cls, x: Tensor, each: bool = True) -> Standard:
        """Return the one of these samples (n, d); without ``each``, all features keep their ratios."""
        spread = x.std(0, correction=0)
        varies = spread > 1e-12 * x.abs().amax(0)
        if not each:
            spread, varies = spread.square().mean().sqrt().expand_as(spread), torch.ones_like(varies)
        return cls(x.mean(0), spread.where(varies, 1.0), varies)

    def __call__(self, x: Tensor) -> Tensor:
        """Return samples (n, d) standardised, without constant features."""
        return ((x - self.mean) / self.scale)[:, self.varies]
