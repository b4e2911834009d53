"""Shapes of values and how they change: arithmetic on sizes, without any units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def matching(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Return the dimensions of a shape that become dimensions of another, in the smallest groups.

    >>> matching([5, 3, 2, 2], [5, 12])
    [([0], [0]), ([1, 2, 3], [1])]
    """
    groups, i, j = [], 0, 0
    while i < len(before) and j < len(after):
        sources, targets, left, right = [i], [j], before[i], after[j]
        while left != right:
            if left < right:
                i += 1
                sources.append(i)
                left *= before[i]
            else:
                j += 1
                targets.append(j)
                right *= after[j]
        groups.append((sources, targets))
        i, j = i + 1, j + 1
    if (i < len(before) or j < len(after)) and groups:  # ones are left
        groups[-1][0].extend(range(i, len(before)))
        groups[-1][1].extend(range(j, len(after)))
    return groups


def by_dimension(value: Any, n_dims: int, default: int) -> tuple[int, ...]:
    """Return a number for each spatial dimension, from one for all, one each, or none."""
    if value is None:
        return (default,) * n_dims
    given = [value] if isinstance(value, int) else list(value)
    return tuple(given * n_dims if len(given) == 1 else given)


def zeros_around(padding: Any, size: Sequence[int], dilation: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Return the zeros that a convolution pads with before and after, by spatial dimension."""
    if padding == "same":
        totals = [d * (k - 1) for k, d in zip(size, dilation, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    given = by_dimension(0 if padding == "valid" else padding, len(size), 0)
    return tuple((p, p) for p in given)
