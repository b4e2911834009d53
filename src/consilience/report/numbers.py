"""Numbers as texts of tables, sentences and figures. What is not finite is a dash."""

from __future__ import annotations

import math
from collections.abc import Sequence

MOST = 5  # decimals; a spread that is 0 to so many is rounding


def decimal(value: float | None, digits: int = 2) -> str:
    """Return a number with so many decimals; a dash for None and NaN.

    >>> decimal(8.884), decimal(float("nan")), decimal(-0.04, 1)
    ('8.88', '–', '0.0')
    """
    return f"{round(value, digits) + 0.0:.{digits}f}" if value is not None and math.isfinite(value) else "–"


def with_spread(mean: float, sd: float = math.nan, digits: int = 2) -> str:
    """Return a mean ± a standard deviation or error, if it is finite, both with so many decimals.

    >>> with_spread(0.724, 0.031), with_spread(-0.001), with_spread(float("nan"))
    ('0.72 ± 0.03', '0.00', '–')
    """
    return f"{decimal(mean, digits)} ± {decimal(sd, digits)}" if math.isfinite(sd) else decimal(mean, digits)


def with_precise_spread(mean: float, sd: float, digits: int = 2) -> str:
    """Return a mean ± a standard deviation, with as many decimals as one digit of the latter needs; none that is 0.

    >>> with_precise_spread(9.18, 0.03), with_precise_spread(9.1803, 0.0041), with_precise_spread(9.18, float("nan"))
    ('9.18 ± 0.03', '9.180 ± 0.004', '9.18')
    """
    if not sd >= 0.5 * 10**-MOST or not math.isfinite(mean):
        return decimal(mean, digits)
    return with_spread(mean, sd, min(MOST, max(digits, math.ceil(-math.log10(sd)))))


def percent(share: float, digits: int = 1) -> str:
    """Return a share of 1 in %."""
    return f"{100 * share:.{digits}f} %"


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number of things.

    >>> counted(1, "family", "families"), counted(1200, "sample")
    ('1 family', '1,200 samples')
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def listed(texts: Sequence[str], most: int = 4) -> str:
    """Join texts with commas and "and"; more than ``most`` are counted.

    >>> listed(["a", "b"]), listed(["a", "b", "c"]), listed(["a", "b", "c", "d"], 2)
    ('a and b', 'a, b and c', 'a, b and 2 more')
    """
    shown = list(texts) if len(texts) <= most else [*texts[:most], f"{len(texts) - most} more"]
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
