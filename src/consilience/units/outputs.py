"""What a module returns, as one tensor of outputs: of a tuple, dict or dataclass the one that is picked, or all.

Several outputs are flattened and put side by side, (n, o₁ + o₂ + …); one number for each sample, (n,), is (n, 1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass

import torch
from torch import Tensor

from consilience.checks import describe, did_you_mean
from consilience.errors import InputError

Pick = str | int | None  # a key or attribute, a number in a tuple, or None for all outputs
ALL = "leave it out to take all outputs, side by side"
CURE = "pass output=, the key or number of the one to take"


def check_pick(output: object) -> None:
    """Raise unless this is a key, a number or None."""
    if isinstance(output, bool) or not isinstance(output, str | int | None):
        raise InputError(f"output must be a key, a number or None, got {output!r}", cure=ALL)


def outputs_in(returned: object, name: str, output: Pick = None) -> Tensor:
    """Return the outputs (n, ...) in what module ``name`` returned, picked by key or number, as one tensor."""
    tensors = tensors_in(_picked(returned, name, output))
    for tensor in tensors:
        if not tensor.is_floating_point():
            raise InputError(f"{name} must return tensors of real numbers, got {describe(tensor)}", cure=CURE)
        if tensor.dim() == 0:
            raise InputError(f"{name} must return a row for each sample, got one number", cure=CURE)
    if not tensors:
        raise InputError(f"{name} must return one tensor of real numbers or several, got {_kind(returned)}", cure=CURE)
    if len({len(tensor) for tensor in tensors}) > 1:
        got = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
        raise InputError(f"{name} must return outputs for the same samples, got {got}", cure=CURE)
    return side_by_side(tensors)


def side_by_side(tensors: Sequence[Tensor]) -> Tensor:
    """Return one tensor (n, o, ...) as it is; several, or a number for each sample, as rows (n, o)."""
    rows = [tensor.unsqueeze(1) if tensor.dim() == 1 else tensor for tensor in tensors]
    return rows[0] if len(rows) == 1 else torch.cat([tensor.flatten(1) for tensor in rows], 1)


def tensors_in(returned: object) -> list[Tensor]:
    """Return all tensors in what a module returned, in order."""
    if isinstance(returned, Tensor):
        return [returned]
    parts = _parts(returned).values()
    return [tensor for part in parts for tensor in tensors_in(part)]


def _picked(returned: object, name: str, output: Pick) -> object:
    if output is None:
        return returned
    parts = _parts(returned)
    if isinstance(output, int):
        if isinstance(returned, Sequence) and -len(returned) <= output < len(returned):
            return returned[output]
    elif output in parts:
        return parts[output]
    if not parts:
        raise InputError(f"output={output!r} must be in what {name} returns, got {_kind(returned)} alone")
    keys = list(parts)
    wanted = f"output must be one of {', '.join(map(repr, keys))} for {name}"
    raise InputError(f"{wanted}, got {output!r}", cure=did_you_mean(output, map(str, keys)))


def _parts(returned: object) -> Mapping[str | int, object]:
    """Parts of a collection by key, attribute or number."""
    if isinstance(returned, Mapping):
        return returned
    if isinstance(returned, tuple) and hasattr(returned, "_fields"):
        return dict(zip(returned._fields, returned, strict=True))
    if isinstance(returned, list | tuple):
        return dict(enumerate(returned))
    if is_dataclass(returned) and not isinstance(returned, type):
        return {f.name: getattr(returned, f.name) for f in fields(returned)}
    return {}


def _kind(returned: object) -> str:
    return describe(returned) if isinstance(returned, Tensor) else type(returned).__name__
