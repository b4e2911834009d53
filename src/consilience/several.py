"""Several inputs of a network, a dict or a tuple of tensors (n, ...), as one thing with n samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, TypeGuard

from consilience.errors import InputError


def are_several(values: object) -> TypeGuard[Mapping[str, Any] | tuple[Any, ...]]:
    """Return whether inputs are a dict, or a tuple of tensors or arrays, and not one tensor."""
    if isinstance(values, Mapping):
        return True
    return isinstance(values, tuple) and bool(values) and all(getattr(value, "ndim", 0) > 0 for value in values)


def n_samples(values: Any) -> int:
    """Return the number of samples of inputs; 0 for a tensor without dimensions."""
    if are_several(values):
        return min((n_samples(value) for value in _parts(values)), default=0)
    return len(values) if values.ndim else 0


def check_same_samples(values: Any, argument: str) -> None:
    """Raise unless all of several inputs, or of a batch of them, have one row for each of the same samples."""
    if not are_several(values):
        return
    items = values.items() if isinstance(values, Mapping) else enumerate(values)
    lengths = {name: n_samples(value) for name, value in items}
    if len({*lengths.values()}) != 1:
        got = ", ".join(f"{n} of {name!r}" for name, n in lengths.items()) or "none"
        cure = "check that all are of the same samples, in the first dimension"
        raise InputError(f"inputs in {argument} must be of the same samples, got {got}", cure=cure)


def each_input(change: Callable[[Any], Any], values: Any) -> Any:
    """Return inputs with each tensor changed; one tensor is changed itself."""
    if isinstance(values, Mapping):
        return {name: change(value) for name, value in values.items()}
    return tuple(map(change, values)) if are_several(values) else change(values)


def in_batches(values: Any, size: int) -> Iterator[Any]:
    """Yield inputs some samples at a time."""
    for start in range(0, max(1, n_samples(values)), size):
        yield each_input(partial(_rows, start=start, size=size), values)


def _rows(value: Any, start: int, size: int) -> Any:
    return value[start : start + size]


def _parts(values: Mapping[str, Any] | tuple[Any, ...]) -> Any:
    return values.values() if isinstance(values, Mapping) else values
