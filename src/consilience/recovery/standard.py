"""Inputs and outputs at mean zero and unit spread, as training wants them, and the way back."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Standard:
    """An affine map of each feature.

    Attributes
    ----------
    mean, scale : (d,); ``(x − mean) / scale`` has mean 0 and spread 1. A constant feature becomes 0.
    """

    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, x: Tensor, each: bool = True) -> Standard:
        """Return the one of these samples (n, d); without ``each``, all features keep their ratios."""
        spread = x.std(0, correction=0)
        if not each:
            spread = spread.square().mean().sqrt().expand_as(spread)
        return cls(x.mean(0), spread.where(spread > 1e-12 * x.abs().amax(0), 1.0))

    def __call__(self, x: Tensor) -> Tensor:
        """Return samples (n, d) standardised."""
        return (x - self.mean) / self.scale
