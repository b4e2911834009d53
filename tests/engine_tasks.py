"""Tasks of the tests of engines: workers import them."""

from __future__ import annotations

import importlib
import os
import signal
import time
from pathlib import Path

from torch import Tensor

from consilience.errors import InputError


def scaled(item: int, *, x: Tensor, by: float) -> Tensor:
    return item * by * x


def begins(item: int, **shared: Tensor) -> list[tuple[str, int, float]]:
    """Where each tensor begins in memory (bytes after a multiple of 64), its type, and its sum."""
    return [(str(x.dtype), x.data_ptr() % 64, float(x.double().sum())) for x in shared.values()]


def nothing(item: int) -> int:
    return item


def address(item: int, *, shared: bytes) -> str:
    """The address of the Dask worker that runs this, which takes a while."""
    from distributed import get_worker

    time.sleep(0.1)
    return str(get_worker().address)


def succeeds_at(item: tuple[int, Path]) -> int:
    """Fail until it has been called so many times."""
    needed, place = item
    (place / str(len([*place.iterdir()]))).touch()
    if len([*place.iterdir()]) < needed:
        raise OSError("not yet")
    return needed


def killed_until(item: tuple[int, Path]) -> int:
    """Kill the process until it has been called so many times."""
    needed, place = item
    (place / str(len([*place.iterdir()]))).touch()
    if len([*place.iterdir()]) < needed:
        os.kill(os.getpid(), signal.SIGKILL)
    return needed


def imports(place: Path) -> None:
    """Import a module that is not there."""
    (place / str(len([*place.iterdir()]))).touch()
    importlib.import_module("only_on_the_driver")


def refuses(item: int) -> int:
    raise InputError(f"item must be even, got {item}", cure="double it")
