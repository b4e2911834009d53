"""The device that networks are trained and run on: a choice by a text, as that of an engine.

What is computed there comes back to the CPU, where trees, fits of maps and files are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from consilience.errors import InputError

if TYPE_CHECKING:
    import torch

MOST = 160  # letters of torch's reason

_current: ContextVar[str] = ContextVar("device", default="cpu")


@contextmanager
def device(name: str) -> Iterator[torch.device]:
    """Choose where networks inside the block are trained, distilled, fitted by steps or by recovery, and run on data.

    Results differ from those of the CPU by rounding. Each worker of an engine uses its own device of this name.

    Parameters
    ----------
    name : "cpu", which is used without a choice, "cuda", "cuda:1" and so on, or "mps", which has no float64:
        second-order steps and recovery stay on the CPU.

    Raises
    ------
    InputError : if torch cannot use such a device.

    Examples
    --------
    >>> with device("cpu") as chosen:
    ...     chosen
    device(type='cpu')
    """
    chosen = open_device(name)
    token = _current.set(name)
    try:
        yield chosen
    finally:
        _current.reset(token)


def current_device() -> str:
    """Return the name of the device that was chosen by the innermost `device` block."""
    return _current.get()


def precise_device() -> str:
    """Return the current device if it has float64, and the CPU otherwise."""
    return "cpu" if current_device() == "mps" else current_device()


def check_device(name: object) -> None:
    """Raise unless the value names a device; whether there is one is not looked at."""
    if not isinstance(name, str) or not re.fullmatch(r"[a-z]+(:\d{1,3})?", name):
        raise InputError(f"device must be cpu, cuda, cuda:N or mps, got {name!r}")


def open_device(name: str) -> torch.device:
    """Return a device, after a number has been there and back."""
    import torch

    check_device(name)
    try:
        torch.ones(1, device=name).cpu()
        return torch.device(name)
    except Exception as error:  # of torch or of a driver, of any class
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        cure = "consilience doctor lists the devices there are"
        raise InputError(f"device must be one that torch can use, got {name!r}: {reason[:MOST]}", cure=cure) from error
