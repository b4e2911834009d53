"""How a worker calls a task."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch

from consilience.engines.memory import keep_freed_memory
from consilience.errors import EngineError, InputError
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


def packed(value: Any, arrays: Callable[[pickle.PickleBuffer], object] | None = None) -> bytes:
    """Return a message for another process. torch's own way to pass tensors takes a file descriptor for each.

    ``arrays`` is called with the numbers of arrays, which are then not in the message.
    """
    try:
        return pickle.dumps(value, protocol=5, buffer_callback=arrays)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        message = f"what a task is given must be of a module, and can be sent to another process, got {error}"
        raise InputError(message, cure="define functions and classes at the top of a module") from error


def call_packed(what: bytes, shared: bytes, *context: Any) -> bytes:
    """Call a `packed` task with its item, and what all tasks share; pack the result.

    Whatever else carries arrays may put them at odd addresses, where the linear algebra rounds in another way.
    """
    keep_freed_memory()
    task, item = pickle.loads(what)
    return pickle.dumps(call(task, item, pickle.loads(shared), *context))


def check_versions(got: Mapping[str, str], wanted: Mapping[str, str], worker: str) -> None:
    """Raise an `EngineError` unless a worker has the versions of its driver: others may give other bytes."""
    for name, version in wanted.items():
        if got.get(name) != version:
            message = f"{worker} must have {name} {version}, as here, got {got.get(name, 'none')}"
            raise EngineError(message, cure="install the same versions everywhere")
