"""Choices among nearly equal numbers that are the same on every processor.

Kernels add up sums in different orders, so the last digits of a value depend on the processor. A choice between values
that differ only in these digits (the largest, an order, an assignment) must not: the lower index wins such a tie.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SINGLE = 1e-6  # of the largest: about ten roundings in single precision
DOUBLE = 1e-12  # the same where all that a value is made of is in double precision
BITS = 30  # of the largest value that `rounded` keeps: more than single precision has, fewer than double


def first_largest(values: Tensor, dim: int = -1, tolerance: float = SINGLE) -> Tensor:
    """Return the first index along an axis whose value is the largest, up to ``tolerance`` of the largest magnitude.

    >>> first_largest(torch.tensor([0.5, 1.0, 1.0 + 1e-7]))
    tensor(1)
    """
    finite = values.abs().masked_fill(~torch.isfinite(values), 0)
    lowest = values.amax(dim, keepdim=True) - tolerance * finite.amax(dim, keepdim=True)
    return (values >= lowest).int().argmax(dim)


def descending(values: NDArray[np.floating], tolerance: float = SINGLE) -> NDArray[np.int64]:
    """Return the order of values (n,), the largest first; neighbors that differ by rounding keep the order of indices.

    >>> descending(np.array([1.0, 2.0, 1.0 + 1e-9]))
    array([1, 0, 2])
    """
    order = np.argsort(-values, kind="stable")
    steps = -np.diff(values[order]) > tolerance * np.abs(values).max(initial=0)
    run = np.concatenate([[0], np.cumsum(steps)])[: len(order)]
    return order[np.lexsort((order, run))].astype(np.int64)


def rounded(values: NDArray[np.floating], bits: int = BITS) -> NDArray[np.float64]:
    """Return values as multiples of the power of two nearest to the largest magnitude times ``2**-bits``.

    >>> rounded(np.array([0.5, 0.5 - 1e-16, 1.0])).tolist()
    [0.5, 0.5, 1.0]
    """
    exact: NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    largest = float(np.abs(exact).max(initial=0))
    if largest == 0 or not np.isfinite(largest):
        return exact
    exponent = bits - round(np.log2(largest))
    multiples: NDArray[np.float64] = np.ldexp(np.rint(np.ldexp(exact, exponent)), -exponent)
    return multiples
