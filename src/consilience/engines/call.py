"""How a worker calls a task."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch

from consilience.errors import EngineError
from consilience.versions import versions

# Tasks seed torch's global generator and set the number of its threads, so a process runs one of them at a time.
_one_at_a_time = threading.Lock()


def call(
    task: Callable[..., Any], item: Any, shared: Mapping[str, Any], threads: int, wanted: Mapping[str, str]
) -> Any:
    """Return the result of a task, computed with as many threads and in the same versions as its driver would have."""
    check_versions(versions(), wanted, "this worker")
    with _one_at_a_time:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return task(item, **shared)
        finally:
            torch.set_num_threads(before)


def check_versions(got: Mapping[str, str], wanted: Mapping[str, str], worker: str) -> None:
    """Raise an `EngineError` unless a worker has the versions of its driver: others may give other bytes."""
    for name, version in wanted.items():
        if got.get(name) != version:
            message = f"{worker} must have {name} {version}, as here, got {got.get(name, 'none')}"
            raise EngineError(message, cure="install the same versions everywhere")
