"""Checks of arguments that recur in every room. Each raises an `InputError` that names the argument and its value."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from contextlib import suppress
from operator import index
from typing import TYPE_CHECKING

from consilience.errors import InputError

if TYPE_CHECKING:  # plain arguments are checked without importing torch
    import torch
    from torch import Tensor

Width = int | str
MULTIPLE = re.compile(r"(\d+(?:\.\d+)?)x")


def is_count(value: object, least: int = 1) -> bool:
    """Return whether a value is an int (no bool) of at least ``least``."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def check_choice(argument: str, value: object, allowed: Collection[str]) -> None:
    """Raise unless the value is one of the names allowed."""
    if value not in allowed:
        raise InputError(f"{argument} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def check_count(argument: str, value: object, least: int = 1, most: int | None = None, cure: str | None = None) -> None:
    """Raise unless the value is an int from ``least`` to ``most``."""
    if not is_count(value, least) or (most is not None and value > most):  # type: ignore[operator]
        span = f">= {least}" if most is None else f"from {least} to {most}"
        raise InputError(f"{argument} must be an int {span}, got {value!r}", cure=cure)


def check_number(argument: str, value: object, least: float = -math.inf, most: float = math.inf) -> None:
    """Raise unless the value is a finite number from ``least`` to ``most``, both included."""
    if not _is_finite(value) or not least <= value <= most:  # type: ignore[operator]
        raise InputError(f"{argument} must be a number in [{least:g}, {most:g}], got {value!r}")


def check_positive(argument: str, value: object) -> None:
    """Raise unless the value is a finite number above 0."""
    if not _is_finite(value) or value <= 0:  # type: ignore[operator]
        raise InputError(f"{argument} must be a number > 0, got {value!r}")


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_inputs(x: Tensor, shape: tuple[int, ...], dtype: torch.dtype, argument: str, least: int = 2) -> None:
    """Raise unless x is a finite tensor (n, \\*shape) of this dtype with at least ``least`` rows."""
    import torch

    if not isinstance(x, torch.Tensor) or x.dtype != dtype:
        got = str(x.dtype) if isinstance(x, torch.Tensor) else type(x).__name__
        raise InputError(f"{argument} must be a tensor of {dtype}, as the members' inputs are, got {got}")
    if tuple(x.shape[1:]) != shape or len(x) < least:
        wanted = f"(n, {', '.join(map(str, shape))}) with n >= {least}"
        raise InputError(f"{argument} must have shape {wanted}, got {tuple(x.shape)}")
    bad = ~torch.isfinite(x).flatten(1).all(1)
    if bool(bad.any()):
        raise InputError(
            f"{argument} must be finite, got NaN or infinity in {int(bad.sum())} rows, first {int(bad.nonzero()[0])}",
            cure="remove these rows",
        )


def resolve_width(width: Width, median: int, argument: str) -> int:
    """Return a number of units from an int or a multiple of the members' median width.

    >>> resolve_width(48, 32, "width"), resolve_width("2x", 32, "width"), resolve_width("0.5x", 32, "width")
    (48, 64, 16)

    Raises
    ------
    InputError
        If it is neither a positive int nor a multiple such as "2x".
    """
    units = 0
    if isinstance(width, str):
        multiple = MULTIPLE.fullmatch(width.strip())
        units = round(float(multiple[1]) * median) if multiple else 0
    elif not isinstance(width, bool):
        with suppress(TypeError):  # not a whole number
            units = index(width)
    if units < 1:
        raise InputError(f'{argument} must be a positive int or a multiple such as "2x", got {width!r}')
    return units
