"""Frozen dataclasses as JSON and tensors, and back.

`encode` sorts the fields of a dataclass into a config and tensors; `decode` puts them together again. Arrays become
tensors and come back as arrays where the field is one; dataclasses inside become objects and names with a ``/``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any, TypeVar, get_origin, get_type_hints

import numpy as np
import torch
from torch import Tensor

from consilience.errors import InputError

T = TypeVar("T")


def encode(record: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the plain fields of a dataclass, and its tensors by name, to be given to `write_artefact`.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Line:
    ...     name: str
    ...     ends: Tensor
    >>> encode(Line("a", torch.tensor([0, 1])))
    ({'name': 'a'}, {'ends': tensor([0, 1])})
    """
    config: dict[str, Any] = {}
    tensors: dict[str, Any] = {}
    for field in fields(record):
        name, value = field.name, getattr(record, field.name)
        if isinstance(value, Tensor | np.ndarray):
            tensors[name] = value if isinstance(value, Tensor) else torch.from_numpy(value.copy())
        elif is_dataclass(value) and not isinstance(value, type):
            config[name], tensors[name] = encode(value)
        elif isinstance(value, Mapping) and any(isinstance(v, Tensor) for v in value.values()):
            tensors[name] = value
        else:
            config[name] = value
    return config, tensors


def decode(kind: type[T], config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> T:
    """Return the dataclass that `encode` took apart; raises KeyError where a field without a default is missing."""
    hints, values = get_type_hints(kind), dict[str, Any]()
    for field in fields(kind):  # type: ignore[arg-type]
        name, hint = field.name, hints[field.name]
        inside = subset(tensors, f"{name}/")
        if name in tensors:
            values[name] = tensors[name] if hint in (Tensor, Tensor | None) else tensors[name].numpy()
        elif is_dataclass(hint) and isinstance(hint, type):
            values[name] = decode(hint, config[name], inside)
        elif inside:
            values[name] = inside
        elif name in config:
            values[name] = tuple(config[name]) if get_origin(hint) is tuple else config[name]
    return kind(**values)


def subset(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, by the rest of their names."""
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}


def plain(value: Any, where: str) -> Any:
    """Return the value as JSON can hold it: dataclasses as objects, arrays and tensors as lists.

    Raises
    ------
    InputError
        If a part of it, named by its path from ``where``, cannot be held.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value), where)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise InputError(f"keys of {where} must be strings, got {key!r}")
        return {key: plain(part, f"{where}.{key}") for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part, f"{where}[{i}]") for i, part in enumerate(value)]
    if hasattr(value, "tolist"):  # arrays, tensors and their scalars
        return plain(value.tolist(), where)
    raise InputError(f"{where} must be something that JSON can hold, got {type(value).__name__}")


def finite(value: Any) -> Any:
    """Return a `plain` value with None for infinities and NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def result_text(body: Mapping[str, Any], where: str) -> str:
    """Return results as JSON; ``where`` is the file, for errors. Numbers that are not finite are null."""
    return json.dumps(finite(plain(body, where)), indent=1) + "\n"
