"""Several inputs as one tensor: what a module takes in a tuple or a dict, side by side in one row for each sample.

Everything in this package works on one tensor of inputs (n, ...). A module of several inputs gets a class of its own, a
subclass with the same name: its forward pass takes a *packed* tensor (n, d), cuts it into the inputs, and calls the
user's forward pass; it takes what the user's takes as well. Integers and booleans are packed as floating point numbers,
which hold them exactly, and cut out as what they were.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from consilience.checks import as_tensor, check_finite, describe, did_you_mean
from consilience.errors import InputError
from consilience.several import are_several, check_same_samples

NEARLY = 0.85  # likeness of two names, of `difflib`
EXACT = 2**24  # up to which float32 holds every integer
SIGNATURE = "_packed_inputs"  # attribute of the classes made here


@dataclass(frozen=True)
class Inputs:
    """What a module takes for each sample.

    Attributes
    ----------
    names : of the inputs; empty for a tuple.
    apart : whether they are arguments of the forward pass, each by itself; else one dict or tuple is.
    shapes, dtypes : of each input, without the dimension of samples.
    packed : type of the packed tensor.
    """

    names: tuple[str, ...]
    apart: bool
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    packed: str

    @classmethod
    def of(cls, example: object, module: nn.Module, argument: str = "example_input") -> Inputs:
        """Return what an example, a dict or a tuple of tensors (n, ...), says of the inputs of a module."""
        names, tensors = _named(example, argument)
        _check_taken(module, names, len(tensors), argument)
        shapes = tuple(tuple(value.shape[1:]) for value in tensors)
        double = any(value.dtype == torch.float64 or _exceeds(value) for value in tensors)
        dtypes = tuple(str(value.dtype).removeprefix("torch.") for value in tensors)
        return cls(
            names, _apart(module.forward, names, len(tensors)), shapes, dtypes, "float64" if double else "float32"
        )

    def pack(self, values: object, argument: str) -> Tensor:
        """Return inputs, a dict or a tuple, as one tensor (n, d); a tensor (n, d) is taken as packed already."""
        width = sum(map(math.prod, self.shapes))
        if isinstance(values, Tensor) and values.shape[1:] == (width,):
            return values
        names, tensors = _named(values, argument)
        if names != self.names and {*names} == {*self.names}:
            tensors = [dict(zip(names, tensors, strict=True))[name] for name in self.names]
        elif names != self.names or len(tensors) != len(self.shapes):
            wanted = ", ".join(map(repr, self.names)) or f"{len(self.shapes)} in a tuple"
            got = ", ".join(map(repr, names)) or f"{len(tensors)} in a tuple"
            raise InputError(f"{argument} must have the inputs {wanted}, got {got}")
        for name, value, shape, dtype in zip(self._called, tensors, self.shapes, self.dtypes, strict=True):
            kind = getattr(torch, dtype)
            if tuple(value.shape[1:]) != shape or value.is_floating_point() != kind.is_floating_point:
                wanted = f"{dtype} ({', '.join(['n', *map(str, shape)])})"
                raise InputError(f"{name} in {argument} must be {wanted}, got {describe(value)}")
            if self.packed == "float32" and _exceeds(value):
                cure = "pass an example input that has the largest numbers"
                raise InputError(f"{name} in {argument} must be at most {EXACT}, got larger integers", cure=cure)
        return torch.cat([value.reshape(len(value), -1).to(getattr(torch, self.packed)) for value in tensors], 1)

    def unpack(self, x: Tensor) -> list[Tensor]:
        """Cut a packed tensor (n, d) into the inputs."""
        values, start = list[Tensor](), 0
        for shape, dtype in zip(self.shapes, self.dtypes, strict=True):
            size = math.prod(shape)
            part = x[:, start : start + size] if shape else x[:, start]
            values.append((part.unflatten(1, shape) if len(shape) > 1 else part).to(getattr(torch, dtype)))
            start += size
        return values

    def together(self, x: Tensor) -> dict[str, Tensor] | tuple[Tensor, ...]:
        """Return the inputs in a packed tensor, as a dict or a tuple."""
        values = self.unpack(x)
        return dict(zip(self.names, values, strict=True)) if self.names else tuple(values)

    def call(self, function: Callable[..., Any], x: Tensor) -> Any:
        """Return what a function of the inputs gives for a packed tensor."""
        values = self.together(x)
        if not self.apart:
            return function(values)
        return function(**values) if isinstance(values, dict) else function(*values)

    def gathered(self, inputs: Sequence[object], named: Mapping[str, object]) -> Tensor:
        """Return the packed tensor of a call's arguments: packed already, a dict, a tuple, or each by itself."""
        return self.pack(inputs[0] if len(inputs) == 1 and not named else named or tuple(inputs), "inputs")

    @property
    def as_json(self) -> dict[str, Any]:
        """The entries of a ``config.json``."""
        return asdict(self)

    @property
    def _called(self) -> Sequence[str]:
        return [repr(name) for name in self.names] or [f"input {i}" for i in range(len(self.shapes))]


def called(function: Callable[..., object], values: Any) -> object:
    """Return what a user's function gives for inputs; for several, as it takes them, one by one or together."""
    if not are_several(values):
        return function(values)
    names = tuple(map(str, values)) if isinstance(values, Mapping) else ()
    if not _apart(getattr(function, "forward", function), names, len(values)):
        return function(values)
    return function(**values) if isinstance(values, Mapping) else function(*values)


def inputs_of(module: object) -> Inputs | None:
    """Return what a module takes, if it takes packed tensors; else None."""
    return getattr(type(module), SIGNATURE, None)


def take_packed(modules: Iterable[nn.Module], inputs: Inputs) -> None:
    """Let modules take packed tensors, in place."""
    for module in modules:
        if inputs_of(module) is None:
            module.__class__ = _packed_class(type(module), inputs)


def one_tensor(modules: Sequence[nn.Module], example: object, argument: str = "example_input") -> object:
    """Return example inputs as one tensor, if they are several; modules are then changed to take it, in place."""
    if not are_several(example):
        return example
    inputs = inputs_of(modules[0]) or Inputs.of(example, modules[0], argument)
    take_packed(modules, inputs)
    return inputs.pack(example, argument)


def _named(values: object, argument: str) -> tuple[tuple[str, ...], list[Tensor]]:
    """Names and tensors of inputs, all with the same number of samples."""
    if not are_several(values):
        raise InputError(f"{argument} must be a dict or a tuple of tensors, got {describe(values)}")
    items: Iterable[tuple[Any, Any]] = values.items() if isinstance(values, Mapping) else enumerate(values)
    given = {str(name): as_tensor(value, f"{name!r} in {argument}") for name, value in items}
    for name, value in given.items():
        if value.ndim == 0 or value.numel() == 0:
            raise InputError(f"{name!r} in {argument} must have shape (n, ...), got {tuple(value.shape)}")
        check_finite(value, f"{name!r} in {argument}")
    check_same_samples(given, argument)
    return tuple(given) if isinstance(values, Mapping) else (), [*given.values()]


def _exceeds(value: Tensor) -> bool:
    """Whether these are integers that single precision does not hold."""
    return not value.is_floating_point() and value.dtype != torch.bool and int(value.abs().max()) > EXACT


def _apart(function: Callable[..., object], names: Sequence[str], n: int) -> bool:
    """Whether a forward pass takes inputs as arguments, each by itself."""
    parameters = inspect.signature(function).parameters.values()
    kinds = {parameter.kind for parameter in parameters}
    if names:
        return inspect.Parameter.VAR_KEYWORD in kinds or {*names} <= {parameter.name for parameter in parameters}
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return inspect.Parameter.VAR_POSITIONAL in kinds or len(positional) >= n


def _check_taken(module: nn.Module, names: Sequence[str], n: int, argument: str) -> None:
    """Raise if the forward pass of a module takes neither these inputs, each by itself, nor all in one argument.

    A forward pass with ``**kwargs`` takes any name, and may ignore it: nearly one of its own names is an error.
    """
    parameters = inspect.signature(module.forward).parameters.values()
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    own, ignores = [p.name for p in named], len(named) < len(parameters)
    for name in sorted({*names} - {*own}) if ignores else ():
        if cure := did_you_mean(name, {*own} - {*names}, NEARLY):
            kind = type(module).__name__
            message = f"{argument} must have inputs that the forward pass of {kind} has by name, got {name!r}"
            raise InputError(message, cure=cure)
    needed = [p.name for p in named if p.default is p.empty]
    missing = [name for i, name in enumerate(needed) if (name not in names if names else i >= n)]
    if not missing if _apart(module.forward, names, n) else len(needed) <= 1:
        return
    wanted, got = ", ".join(repr(p.name) for p in named), ", ".join(map(repr, names)) or f"{n} in a tuple"
    message = f"{argument} must have the inputs that the forward pass of {type(module).__name__} takes, {wanted}"
    cure = "name them in a dict as the arguments are named, or pass a tuple of them in this order"
    raise InputError(f"{message}, got {got}", cure=cure)


_CLASSES: dict[tuple[type, Inputs], type[nn.Module]] = {}


def _packed_class(base: type[nn.Module], inputs: Inputs) -> type[nn.Module]:
    """The subclass of a module's class that takes packed tensors: the same one for the same inputs."""

    def forward(self: nn.Module, *given: Any, **named: Any) -> object:
        if len(given) == 1 and not named and not (are_several(given[0]) and not inputs.apart):
            return inputs.call(partial(base.forward, self), inputs.gathered(given, named))
        if not inputs.apart and (named or len(given) > 1):  # one by one, for one that takes them together
            return base.forward(self, named or given)
        return base.forward(self, *given, **named)

    def reduce(self: nn.Module, protocol: object) -> tuple[Any, ...]:
        return _again, (base, inputs), self.__dict__

    key = (base, inputs)
    if key not in _CLASSES:
        entries = {"forward": forward, "__reduce_ex__": reduce, SIGNATURE: inputs}
        names = {"__module__": base.__module__, "__qualname__": base.__qualname__, "__doc__": base.__doc__}
        _CLASSES[key] = type(base.__name__, (base,), {**entries, **names})
    return _CLASSES[key]


def _again(base: type[nn.Module], inputs: Inputs) -> nn.Module:
    made = _packed_class(base, inputs)
    return made.__new__(made)
