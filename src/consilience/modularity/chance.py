"""A value beside those of shuffled copies."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

TIE = 1e-9  # values nearer than this, relatively, are equal but for rounding


def z_score(value: float, null: NDArray[np.float64]) -> float:
    """Return (value − mean of the null) / its standard deviation; NaN if the null has no spread beyond rounding."""
    known = null[np.isfinite(null)]
    if len(known) < 2:
        return math.nan
    mean, spread = float(known.mean()), float(known.std(ddof=1))
    return (value - mean) / spread if spread > TIE * abs(mean) else math.nan


def p_lower(value: float, null: NDArray[np.float64]) -> float:
    """Return (copies with a lower value, or an equal one, + 1) / (copies + 1)."""
    return (int((null <= value + TIE * max(1.0, abs(value))).sum()) + 1) / (len(null) + 1)
