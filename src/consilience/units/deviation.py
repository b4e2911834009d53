"""How far outputs are from expected ones, as a share of how much these vary over samples.

An output that is nearly constant says little about the units behind it: beside a constant of 1e4, an error as large as
all that a layer does is a rounding of the largest output. So errors are compared with the spread of each output.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDING = 1e-13  # of the largest output in double precision: some 500 roundings


def deviation(outputs: Tensor, expected: Tensor) -> float:
    """Return the largest ``|y − t| / s`` over samples and outputs, with s the standard deviation of t over samples.

    Of a single sample, s is its magnitude. In double precision roundings are allowed, so that outputs that are the same
    for all samples may be compared too; in single precision their deviation is 0 or infinite.

    >>> deviation(torch.tensor([[1.0], [3.1]]), torch.tensor([[1.0], [3.0]]))
    0.0999999...
    """
    if outputs.shape != expected.shape:
        return torch.inf
    error, spread = (outputs - expected).abs(), expected.abs()
    if len(expected) > 1:
        spread = expected.std(0, correction=0).expand_as(error)
    if expected.dtype == torch.float64:
        error = error - ROUNDING * max(1.0, float(expected.abs().max()))
    return float(torch.where(error <= 0, 0, error / spread).nan_to_num(nan=torch.inf, posinf=torch.inf).max())
