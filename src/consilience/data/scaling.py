"""Columns of numbers at mean 0 and spread 1, as networks are trained on them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SCALES = ("auto", "none", "standardize")


@dataclass(frozen=True, eq=False)
class Scale:
    """Mean and spread (d,) of columns, in their own units; values (n, d) become ``(values − mean) / spread``."""

    mean: Tensor
    spread: Tensor

    @classmethod
    def of(cls, values: Tensor) -> Scale:
        """Return the scale of columns (n, d); a constant column has the spread 1."""
        exact = values.double()
        spread = exact.std(0, correction=0)
        constant = spread <= 1e-7 * exact.abs().amax(0)  # the rounding of float32
        return cls(exact.mean(0), torch.where(constant, 1.0, spread))

    def __call__(self, values: Tensor) -> Tensor:
        """Return values (n, d) at this scale."""
        return ((values.double() - self.mean) / self.spread).to(values.dtype)


@dataclass(frozen=True, eq=False)
class Scaling:
    """How inputs and targets were scaled; None where they were not."""

    inputs: Scale | None = None
    targets: Scale | None = None
