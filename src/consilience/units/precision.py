"""Double precision without a second copy of the parameters: large ones become float64 only where they are used.

A proof in double precision runs a network a few times. Its large parameters stay in single precision, which double
precision holds exactly; an operation that reads one converts it, a linear layer portion by portion.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.ops import aten
from torch.overrides import TorchFunctionMode

LARGE = 2**18  # numbers of a parameter that stays in single precision until it is used
PORTION = 2**22  # numbers of a linear layer's weight that are converted at a time
LINEAR: tuple[object, ...] = (functional.linear, aten.linear.default)
ABOUT = frozenset({"dim", "size", "numel", "stride", "is_contiguous", "is_floating_point", "__deepcopy__", "__hash__"})


def doubled(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return parameters in double precision, but for large ones, which stay as they are until they are used."""
    return {name: value if value.numel() > LARGE else exact(value) for name, value in state.items()}


def exact(value: Tensor) -> Tensor:
    """Return a tensor in double precision, where it is of a floating point type."""
    return value.double() if value.is_floating_point() else value


def in_double(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return what a function gives with float64 in place of float32, in types that are written out and in tensors."""
    if function in LINEAR and len(args) == 3 and _is_large(args[1]) and isinstance(args[0], Tensor):
        return _linear(*args)
    named = {name: _double(value) for name, value in kwargs.items()}
    return function(*map(_double, args), **named)


class InDouble(TorchFunctionMode):
    """Inside, what a user's code writes as float32 is float64, so that a module runs in double precision."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in ABOUT:
            return func(*args, **(kwargs or {}))
        if name == "__get__":  # an attribute
            return _double_type(func(*args))
        return in_double(Tensor.double if func is Tensor.float else func, args, kwargs or {})


def _linear(value: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    value, rows = value.double(), max(1, PORTION // weight.shape[1])
    buffer = value.new_empty(rows, weight.shape[1])  # one for all portions: freed memory is not always found again
    written = value.new_empty(*value.shape[:-1], len(weight))
    for start in range(0, len(weight), rows):
        part = buffer[: len(weight) - start].copy_(weight[start : start + rows])
        written[..., start : start + rows] = value @ part.T
    return written if bias is None else written + bias.double()


def _is_large(value: object) -> bool:
    return isinstance(value, Tensor) and value.dim() == 2 and value.numel() > PORTION and value.dtype == torch.float32


def _double(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.double() if value.dtype == torch.float32 else value
    if type(value) in (list, tuple):
        return type(value)(map(_double, value))
    return _double_type(value)


def _double_type(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value
