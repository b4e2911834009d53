"""A second device on a machine that has one: tensors on it have values, and no operation takes them with CPU tensors.

It goes by the name of ``meta``, the one other device that every build of torch accepts. Inside `second_device`, tensors
that are made on it, or moved there, are `Elsewhere`, which hold a CPU tensor. An operation of one of these and a CPU
tensor that is no scalar is the error that CUDA would raise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

NAME = torch.device("meta")


class Elsewhere(Tensor):
    """A tensor on the second device."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Elsewhere:
        shape, strides = inner.shape, inner.stride()
        made = Tensor._make_wrapper_subclass(cls, shape, strides=strides, dtype=inner.dtype, device=NAME)  # type: ignore[attr-defined]
        made.inner = inner
        return made  # type: ignore[no-any-return]

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(function, args, kwargs or {})

    def tolist(self) -> Any:
        return self.inner.tolist()


class second_device(TorchDispatchMode):  # noqa: N801 (used as a function)
    """Inside, there is a second device."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(function, args, kwargs or {})


def run(function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Run an operation, on the device that its tensors are on or that it is told."""
    values = tree_flatten((args, kwargs))[0]
    there = [value for value in values if isinstance(value, Elsewhere)]
    here = [value for value in values if isinstance(value, Tensor) and not isinstance(value, Elsewhere) and value.dim()]
    device, moves = kwargs.get("device"), "copy" in str(function)
    if there and here and not moves:
        shapes = [tuple(value.shape) for value in here]
        raise RuntimeError(f"{function} must get tensors on one device, got some of shapes {shapes} on the CPU")
    inside = device == NAME or (device is None and bool(there))
    if str(function) == "aten.copy_.default":
        inside = isinstance(args[0], Elsewhere)
    if device is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    bare = tree_map_only(Elsewhere, lambda value: value.inner, (args, kwargs))
    result = function(*bare[0], **bare[1])
    if not inside:
        return result
    known = {id(value.inner): value for value in there}
    return tree_map_only(Tensor, lambda value: known[id(value)] if id(value) in known else Elsewhere(value), result)
