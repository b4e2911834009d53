"""Values from JSON as the types that a dataclass declares: a schema is a dataclass, and nothing is believed before it.

Integers are no bools, and floats may be whole. A key that the dataclass lacks is an error in nested objects only: the
top level of a ``config.json`` has the header, and entries of whoever wrote the artefact.
"""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from enum import StrEnum
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from consilience.errors import ArtefactError, ConsilienceError

T = TypeVar("T")
AGAIN = "copy it again, or write it again"


def read_entries(kind: type[T], config: Mapping[str, Any], source: object) -> T:
    """Return a dataclass from those entries of a JSON object that it declares; ``source`` is the file, for errors.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Sizes:
    ...     widths: tuple[int, ...]
    >>> read_entries(Sizes, {"widths": [3, 4], "more": 1}, "config.json")
    Sizes(widths=(3, 4))
    >>> read_entries(Sizes, {"widths": [3, "x"]}, "config.json")
    Traceback (most recent call last):
    consilience.errors.ArtefactError: widths[1] in config.json must be int, got 'x'
      cure: copy it again, or write it again
    """
    names = [entry.name for entry in fields(kind)]  # type: ignore[arg-type]
    return _read(kind, {name: config[name] for name in names if name in config}, "", f" in {source}")


def read_object(kind: type[T], value: Any, place: str) -> T:
    """Return a dataclass from a JSON object that has its entries and no others; ``place`` is where, for errors."""
    return _read(kind, value, place, "")


def _read(kind: type[T], value: Any, place: str, source: str) -> T:
    try:
        return _object(kind, value, place)  # type: ignore[no-any-return]
    except _MismatchError as mismatch:
        raise ArtefactError(f"{mismatch.place}{source} {mismatch}", cure=AGAIN) from None


class _MismatchError(Exception):
    def __init__(self, place: str, text: str) -> None:
        self.place = place.removeprefix(".") or "the object"
        super().__init__(text)


def _decode(kind: Any, value: Any, place: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if is_dataclass(kind):
        return _object(kind, value, place)
    if origin in (Union, types.UnionType):
        return _union(arguments, value, place)
    if origin is Literal:
        return _checked(value, value in arguments, f"one of {', '.join(map(repr, arguments))}", place)
    if origin in (list, tuple, Sequence):
        return _sequence(origin, arguments, value, place)
    if origin in (dict, Mapping):
        _checked(value, isinstance(value, dict), "an object", place)
        return {key: _decode(arguments[1], part, f"{place}.{key}") for key, part in value.items()}
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        _checked(value, value in list(kind), f"one of {', '.join(map(repr, map(str, kind)))}", place)
        return kind(value)
    return _plain(kind, value, place)


def _object(kind: Any, value: Any, place: str) -> Any:
    _checked(value, isinstance(value, dict), "an object", place)
    hints, entries = get_type_hints(kind), {entry.name: entry for entry in fields(kind) if entry.init}
    for name, entry in entries.items():
        if name not in value and entry.default is MISSING and entry.default_factory is MISSING:
            raise _MismatchError(f"{place}.{name}", "must be there, got nothing")
    for name in value:
        if name not in entries:
            raise _MismatchError(f"{place}.{name}", f"must not be there, got {_short(value[name])}")
    decoded = {name: _decode(hints[name], part, f"{place}.{name}") for name, part in value.items()}
    try:
        return kind(**decoded)
    except (ConsilienceError, ValueError, TypeError) as error:  # what the dataclass itself checks
        message = error.message if isinstance(error, ConsilienceError) else str(error)
        raise _MismatchError(place, f"is not valid: {message}") from error


def _union(arguments: tuple[Any, ...], value: Any, place: str) -> Any:
    if value is None and type(None) in arguments:
        return None
    mismatches = []
    for kind in arguments:
        if kind is type(None):
            continue
        try:
            return _decode(kind, value, place)
        except _MismatchError as mismatch:
            mismatches.append(mismatch)
    raise mismatches[-1]


def _sequence(origin: Any, arguments: tuple[Any, ...], value: Any, place: str) -> Any:
    _checked(value, isinstance(value, list), "a list", place)
    if origin is tuple and arguments[-1] is not ...:
        _checked(value, len(value) == len(arguments), f"a list of {len(arguments)}", place)
        return tuple(
            _decode(part, item, f"{place}[{i}]") for i, (part, item) in enumerate(zip(arguments, value, strict=True))
        )
    items = (_decode(arguments[0], item, f"{place}[{i}]") for i, item in enumerate(value))
    return list(items) if origin is list else tuple(items)


def _plain(kind: Any, value: Any, place: str) -> Any:
    accepted: tuple[type, ...] = (int, float) if kind is float else (kind,)
    is_flag = isinstance(value, bool) and kind is not bool
    return _checked(value, isinstance(value, accepted) and not is_flag, kind.__name__, place)


def _checked(value: Any, fits: bool, wanted: str, place: str) -> Any:
    if not fits:
        raise _MismatchError(place, f"must be {wanted}, got {_short(value)}")
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
