"""Checks of arguments that recur in every room. Each raises an `InputError` that names the argument and its value."""

from __future__ import annotations

import errno
import math
import os
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from numbers import Integral, Real
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from consilience.errors import ConsilienceError, InputError

if TYPE_CHECKING:  # plain arguments are checked without importing torch
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

Width = int | str
LARGEST = 2**31 - 1  # size of an array
LARGEST_SEED = 2**64 - 1  # of torch's generators
MULTIPLE = re.compile(r"(\d{1,18}(?:\.\d+)?)x")


def is_count(value: Any, least: int = 1, most: float = math.inf) -> TypeGuard[int]:
    """Return whether a value is an int (no bool) from ``least`` to ``most``."""
    return _is_a(value, Integral) and least <= value <= most


def is_number(value: Any) -> TypeGuard[float]:
    """Return whether a value is a finite number (no bool)."""
    return _is_a(value, Real) and math.isfinite(value)


def _is_a(value: object, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def check_choice(argument: str, value: object, allowed: Collection[str]) -> None:
    """Raise unless the value is one of the names allowed."""
    if not isinstance(value, str) or value not in allowed:
        raise InputError(f"{argument} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def check_names(argument: str, names: Iterable[str], known: Collection[str]) -> None:
    """Raise unless all names are known; the cure has the nearest that is.

    >>> check_names("arguments", ["tasks"], ["output", "task"])
    Traceback (most recent call last):
    consilience.errors.InputError: arguments must be among output, task, got 'tasks'
      cure: did you mean 'task'?
    """
    for name in names:
        if name not in known:
            wanted = f"{argument} must be among {', '.join(known)}"
            raise InputError(f"{wanted}, got {name!r}", cure=did_you_mean(name, known))


def did_you_mean(name: object, known: Iterable[str], similarity: float = 0.6) -> str | None:
    """Return a cure with the name that is most like the one given, from a similarity (0 to 1) on; None if none is.

    >>> did_you_mean("TEMPERATURE", ["salinity", "temperature"])
    "did you mean 'temperature'?"
    """
    names = {one.lower(): one for one in known}
    near = get_close_matches(str(name).lower(), list(names), 1, similarity)
    return f"did you mean {names[near[0]]!r}?" if near else None


def check_count(argument: str, value: object, least: int = 1, most: int | None = None, cure: str | None = None) -> None:
    """Raise unless the value is an int from ``least`` to ``most``."""
    if not is_count(value, least, math.inf if most is None else most):
        span = f">= {least}" if most is None else f"from {least} to {most}"
        raise InputError(f"{argument} must be an int {span}, got {value!r}", cure=cure)


def check_size(argument: str, value: object, least: int = 1) -> None:
    """Raise unless the value is an int from ``least`` on that can be the size of an array."""
    check_count(argument, value, least)
    check_count(argument, value, least, LARGEST)


def check_seed(argument: str, value: object) -> None:
    """Raise unless the value is an int from 0 to 2⁶⁴ − 1."""
    check_count(argument, value, 0)
    check_count(argument, value, 0, LARGEST_SEED)


def check_number(
    argument: str, value: object, least: float = -math.inf, most: float = math.inf, below: float = math.inf
) -> None:
    """Raise unless the value is a finite number from ``least`` to ``most``, both included, and less than ``below``."""
    if not is_number(value) or not least <= value <= most or value >= below:
        span = f"[{least:g}, {most:g}]" if below == math.inf else f"[{least:g}, {below:g})"
        raise InputError(f"{argument} must be a number in {span}, got {value!r}")


def check_positive(argument: str, value: object) -> None:
    """Raise unless the value is a finite number above 0."""
    if not is_number(value) or value <= 0:
        raise InputError(f"{argument} must be a number > 0, got {value!r}")


def describe(value: object) -> str:
    """Return the type and shape of a tensor or array, as in ``float32 (5, 3)``, or a class's name; else the type."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return type(value).__name__


def as_path(path: object, argument: str) -> Path:
    """Return the path that a text or a path names, or raise; also for names that are too long for the system."""
    given = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(given, str) or "\0" in given:
        raise InputError(f"{argument} must be a path, got {repr(path) if given else describe(path)}")
    try:
        os.lstat(given)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            message = f"{argument} must be a path that the system can hold, got one too long, {given[:40]}..."
            raise InputError(message, cure="choose a shorter name") from error
    return Path(given)


def check_finite(values: Tensor, argument: str) -> None:
    """Raise unless all values (n, ...) are finite."""
    import torch

    values = values.detach()
    if not values.numel() or not values.is_floating_point():
        return
    if bool(torch.isfinite(torch.stack(values.aminmax())).all()):  # NaN wins both: one pass without temporaries
        return
    bad = ~torch.isfinite(values).reshape(len(values), -1).all(1)
    rows = f"{int(bad.sum())} of {len(values)} rows, first row {int(bad.nonzero()[0])}"
    raise InputError(f"{argument} must be finite, got NaN or infinity in {rows}", cure="remove these rows")


def is_mask(values: Tensor) -> bool:
    """Return whether numbers are 0 and −∞, as those of a mask that is added to scores of attention."""
    return bool(((values == 0) | (values == -math.inf)).all())


def as_tensor(values: object, argument: str) -> Tensor:
    """Return a dense tensor of real numbers, without gradients: of a tensor, an array of any byte order, or lists."""
    import numpy as np
    import torch

    if isinstance(values, torch.Tensor):
        if values.layout != torch.strided or values.is_meta or values.is_complex() or values.is_quantized:
            got = "no values (meta)" if values.is_meta else f"{values.layout} {describe(values)}"
            raise InputError(f"{argument} must be a dense tensor of real numbers, got {got}")
        tensor = values.detach()
        return tensor.clone() if tensor.is_inference() else tensor
    try:
        array = np.asarray(values)
    except Exception as error:  # whatever a list, or the __array__ of an object, leads to
        raise InputError(f"{argument} must be an array of numbers, got {describe(values)}: {error}") from error
    if array.dtype.kind not in "fiub" or (isinstance(values, np.ma.MaskedArray) and np.ma.getmaskarray(values).any()):
        got = f"masked values in {describe(values)}" if array.dtype.kind in "fiub" else describe(values)
        raise InputError(f"{argument} must be a tensor or an array of numbers, got {got}")
    wide = {"f": np.float64, "u": np.int64}.get(array.dtype.kind)  # torch has no float128, and little for uint16 to 64
    if wide is not None and array.dtype.itemsize not in ((1,) if wide is np.int64 else (2, 4, 8)):
        array = array.astype(wide)
    return torch.as_tensor(np.require(array.astype(array.dtype.newbyteorder("="), copy=False), requirements=["C", "W"]))


def as_array(values: object, argument: str) -> NDArray[Any]:
    """Return a NumPy array of real numbers: of a tensor, also one with gradients, an array, or lists."""
    tensor = as_tensor(values, argument).cpu()
    array: NDArray[Any] = (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
    return array


def check_iterable(argument: str, value: object) -> None:
    """Raise unless the value can be iterated over, and is no text."""
    if isinstance(value, str | bytes) or not hasattr(value, "__iter__") or getattr(value, "ndim", 1) == 0:
        raise InputError(f"{argument} must be a list, or another iterable, got {describe(value)}")


@contextmanager
def of_the_user(argument: str) -> Iterator[None]:
    """Name the argument where a function of the user's raises."""
    try:
        yield
    except ConsilienceError:  # which names what is wrong
        raise
    except Exception as error:
        got = f"one that raises {type(error).__name__}: {error}"
        raise InputError(f"{argument} must be a function that takes what it is called with, got {got}") from error


def check_function(argument: str, value: object) -> None:
    """Raise unless the value can be called."""
    if not callable(value):
        raise InputError(f"{argument} must be a function, got {describe(value)}")


def as_inputs(x: object, shape: tuple[int, ...], dtype: torch.dtype, argument: str, least: int = 2) -> Tensor:
    """Return x as a finite tensor (n, \\*shape) of this dtype on the CPU with at least ``least`` rows, or raise.

    Floating point types are converted to each other, and integer types; one kind is not taken for the other.
    """
    tensor = as_tensor(x, argument)
    if tensor.is_floating_point() != dtype.is_floating_point or (str(tensor.dtype) == "torch.bool" != str(dtype)):
        cure = "pass x.float(), of bytes x.float() / 255" if dtype.is_floating_point else "pass integers"
        wanted = f"{argument} must be a tensor of {dtype}, as the members' inputs are"
        raise InputError(f"{wanted}, got {describe(x)}", cure=cure)
    if tuple(tensor.shape[1:]) != shape or tensor.ndim == 0 or len(tensor) < least:
        wanted = f"(n, {', '.join(map(str, shape))}) with n >= {least}"
        raise InputError(f"{argument} must have shape {wanted}, got {tuple(tensor.shape)}")
    if tensor.device.type != "cpu":
        raise InputError(f"{argument} must be on the CPU, got {tensor.device}", cure=f"{argument}.cpu()")
    tensor = tensor.to(dtype)
    check_finite(tensor, argument)
    if dtype.is_floating_point and tensor.numel():
        largest, most = float(tensor.abs().max()), _most_squared(dtype)
        if largest > most:
            cure = "scale them as the inputs that the members were trained on"
            wanted = f"values up to {most:.0e}, whose squares can be added"
            raise InputError(f"{argument} must have {wanted}, got {largest:.0e}", cure=cure)
    return tensor


def _most_squared(dtype: torch.dtype) -> float:
    import torch

    largest: float = torch.finfo(dtype).max
    return math.sqrt(largest) / 16


def check_rows(values: Tensor, n: int, argument: str, inputs: str = "x") -> None:
    """Raise unless there is one row of values for each of the n inputs."""
    if values.ndim == 0 or len(values) != n:
        message = f"{argument} must have one row for each of the {n} rows of {inputs}, got {describe(values)}"
        raise InputError(message, cure="check that both are of the same samples")


def as_labels(y: object, n: int, argument: str, n_classes: int | None = None) -> Tensor:
    """Return labels (n,) of int64: of a column (n, 1), one-hot rows (n, classes), booleans, or floats that are whole.

    >>> as_labels([[0.0, 1.0], [1.0, 0.0]], 2, "y"), as_labels([True, False], 2, "y")
    (tensor([1, 0]), tensor([1, 0]))
    """
    labels = with_one_label(y, n, argument, n_classes)
    check_labels(labels, n, argument, n_classes)
    return labels.long()


def with_one_label(y: object, n: int, argument: str, n_classes: int | None = None) -> Tensor:
    """Return what `as_labels` does where y are labels of an unambiguous kind, and y as a tensor where they are not."""
    import torch

    given = as_tensor(y, argument)
    labels = given.reshape(n) if given.shape == (n, 1) else given
    if labels.ndim == 2 and labels.shape == (n, n_classes or labels.shape[1]):
        if bool(((labels == 0) | (labels == 1)).all() and (labels.sum(1) == 1).all()):
            labels = labels.int().argmax(1)  # one class in each row
    elif labels.dtype == torch.bool or (labels.is_floating_point() and bool((labels == labels.round()).all())):
        labels = labels.long()  # NaN and infinity are no whole numbers: NaN != NaN, and infinity is out of range
    return labels


def check_labels(y: Tensor, n: int, argument: str, n_classes: int | None = None) -> None:
    """Raise unless y are n >= 1 labels (n,) of an integer type, each from 0 to below ``n_classes``."""
    if not is_integers(y) or y.shape != (n,) or n == 0:
        cure = "convert them: y.long() for whole numbers, y.argmax(1) for one-hot rows"
        if is_integers(y) and y.ndim == 2:
            cure = "pass task='next-token' if these are tokens, y.argmax(1) if they are one-hot rows"
        raise InputError(f"{argument} must be integer labels ({max(n, 1)},), got {describe(y)}", cure=cure)
    _check_range(y, argument, "labels", n_classes, "number the classes from 0, and remove rows without a label")


def check_tokens(tokens: Tensor, argument: str, n_tokens: int | None = None) -> None:
    """Raise unless these are tokens (n, t) of an integer type, each from 0 to below ``n_tokens``, n and t >= 1."""
    if not is_integers(tokens) or tokens.ndim != 2 or not tokens.numel():
        raise InputError(f"{argument} must be tokens (n, t) of an integer type, got {describe(tokens)}")
    _check_range(tokens, argument, "tokens", n_tokens, "use the vocabulary that the network was made for")


def is_integers(values: object) -> TypeGuard[Tensor]:
    """Return whether these are a tensor of integers (no booleans)."""
    import torch

    integers = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
    return isinstance(values, torch.Tensor) and values.dtype in integers


def _check_range(y: Tensor, argument: str, what: str, n: int | None, cure: str) -> None:
    bad = y < 0 if n is None else (y < 0) | (y >= n)
    if bool(bad.any()):
        place = bad.nonzero()[0]
        span = ">= 0" if n is None else f"from 0 to {n - 1}"
        got = f"{int(y[tuple(place)])} in row {int(place[0])}"
        raise InputError(f"{argument} must be {what} {span}, got {got}", cure=cure)


def check_targets(y: Tensor, outputs: Tensor, argument: str) -> None:
    """Raise unless y are labels (n,) of outputs (m, o), tokens (n, t) of (m, t, o), or floats (n, ...) of (m, ...)."""
    if y.is_floating_point():
        if y.shape[1:] != outputs.shape[1:]:
            wanted = ", ".join(["n", *map(str, outputs.shape[1:])])
            cure = "give the network an output for each target, or pass the task that the targets are for"
            raise InputError(f"{argument} must have shape ({wanted}), as the outputs, got {tuple(y.shape)}", cure=cure)
    elif outputs.ndim == 3:
        check_tokens(y, argument, outputs.shape[2])
        if y.shape[1] != outputs.shape[1]:
            wanted = f"(n, {outputs.shape[1]}), as the outputs"
            raise InputError(f"{argument} must have shape {wanted}, got {tuple(y.shape)}")
    elif outputs.ndim != 2:
        raise InputError(f"outputs must have shape (n, classes) for labels {argument}, got {tuple(outputs.shape)}")
    else:
        check_labels(y, len(y), argument, outputs.shape[1])


def resolve_width(width: Width, median: int, argument: str, cure: str | None = None) -> int:
    """Return a number of units from a positive int or a multiple of the members' median width.

    >>> resolve_width(48, 32, "width"), resolve_width("2x", 32, "width"), resolve_width("0.5x", 32, "width")
    (48, 64, 16)
    """
    units = 0
    if isinstance(width, str):
        multiple = MULTIPLE.fullmatch(width.strip())
        units = round(float(multiple[1]) * median) if multiple else 0
    elif not isinstance(width, bool):
        with suppress(TypeError):  # not a whole number
            units = index(width)
    if units < 1:
        got = width if not isinstance(width, str) or len(width) < 40 else f"{width[:40]}..."
        raise InputError(f'{argument} must be a positive int or a multiple such as "2x", got {got!r}', cure=cure)
    return units
