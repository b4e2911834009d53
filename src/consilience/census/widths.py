"""Widths as users write them: a number, or a multiple of the members' median width."""

from __future__ import annotations

import re
from contextlib import suppress
from operator import index

from consilience.errors import InputError

Width = int | str

MULTIPLE = re.compile(r"(\d+(?:\.\d+)?)x")


def resolve_width(width: Width, median: int, where: str) -> int:
    """Return a number of units.

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
        with suppress(TypeError):  # of what is no whole number
            units = index(width)
    if units < 1:
        raise InputError(
            "not a width", where=where, got=repr(width), expected='a positive int, or a multiple such as "2x"'
        )
    return units
