"""Tasks in processes of this machine: `concurrent.futures` with processes that are started afresh.

- Shared tensors and arrays go to the workers in a file, which each maps into memory once. Each begins at a multiple of
  64 bytes as torch's own tensors do, because the last digits of a product depend on where its rows begin.
- A pool is broken when one of its processes dies, and does not say which task that process was running. All tasks that
  were running are then run again, one at a time, so that no task fails because of another.
- Workers end with their driver, also if it is killed.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections import Counter, deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import lru_cache
from multiprocessing import get_context, parent_process
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from consilience.engines.call import call, packed
from consilience.engines.engine import ATTEMPTS, Engine, Failure, Tasks
from consilience.engines.memory import keep_freed_memory
from consilience.errors import EngineError
from consilience.versions import versions

ALIGNED = 64  # places of arrays in their file are multiples of it
_Shared = tuple[str, list[tuple[int, int]], bytes]  # file of tensors and arrays, their places in it, and a message
START = 300  # seconds until the first process answers: importing torch from a slow disk may take a minute


class Processes(Engine):
    """Tasks run in ``n`` processes of this machine, which start at once."""

    def __init__(self, n: int) -> None:
        self.n_workers = n
        self._pool = self._new()
        try:
            try:
                self._pool.submit(os.getpid).result(START)
            except BrokenProcessPool:  # one may have been killed
                self._restart()
                self._pool.submit(os.getpid).result(START)
        except (BrokenProcessPool, TimeoutError) as error:
            self.close()
            raise EngineError(
                f"engine processes:{n} must be able to start processes, got one that died or hung",
                cure='in a script, put what is run under: if __name__ == "__main__"',
            ) from error

    def close(self) -> None:
        """End the processes; running tasks are given up."""
        processes = list((self._pool._processes or {}).values())
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()

    def _new(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(self.n_workers, mp_context=get_context("spawn"), initializer=_begin)

    def _restart(self) -> None:
        self.close()
        self._pool = self._new()

    def _outcomes(self, tasks: Tasks, pending: Sequence[int]) -> Generator[tuple[int, Any], None, None]:
        together, alone = deque(pending), deque[int]()  # alone: those that were running when a process died
        deaths, running = Counter[int](), dict[Future[bytes], int]()
        context = torch.get_num_threads(), versions()
        with _in_file(tasks.shared) as shared:
            try:
                while together or alone or running:
                    waiting, most = (alone, 1) if alone else (together, self.n_workers)
                    try:
                        while waiting and len(running) < most:
                            what = packed((tasks.task, tasks.items[waiting[0]]))
                            running[self._pool.submit(_run, what, shared, *context)] = waiting[0]
                            waiting.popleft()
                        wait(running, return_when=FIRST_COMPLETED)
                        for future in [future for future in running if future.done()]:
                            outcome = _outcome(future)
                            yield running.pop(future), outcome
                    except BrokenProcessPool:
                        self._restart()
                        for i in sorted(running.values()):
                            deaths[i] += 1
                            if deaths[i] < ATTEMPTS:
                                alone.append(i)
                            else:
                                yield i, Failure(MemoryError(_DIED), final=True)
                        running.clear()
            finally:
                if running:  # the caller has given up
                    self._restart()


_DIED = "its process died, perhaps for want of memory"


def _outcome(future: Future[bytes]) -> Any:
    """Return what a task has returned, or its failure; raise if its process has died."""
    try:
        return pickle.loads(future.result())
    except BrokenProcessPool:
        raise
    except Exception as error:
        return Failure(error)


@contextmanager
def _in_file(shared: Mapping[str, Any]) -> Iterator[_Shared]:
    """Lend shared values as workers read them: a file of tensors and arrays, and the others as a message."""
    arrays, places = list[pickle.PickleBuffer](), list[tuple[int, int]]()
    others = packed({k: _Bytes.of(v) if isinstance(v, Tensor) else v for k, v in shared.items()}, arrays.append)
    with TemporaryDirectory(prefix="consilience-") as directory:
        file = Path(directory, "arrays")
        try:
            with file.open("wb") as stream:
                for array in arrays:
                    stream.write(bytes(-stream.tell() % ALIGNED))
                    places.append((stream.tell(), stream.tell() + array.raw().nbytes))
                    stream.write(array.raw())
        except OSError as error:
            message = (
                f"the directory of temporary files must hold what tasks share, got {type(error).__name__}: {error}"
            )
            raise EngineError(message, cure="free some space there, or name another in TMPDIR") from error
        yield str(file), places, others


class _Bytes(NamedTuple):
    """A tensor as an array of bytes."""

    values: NDArray[np.uint8]
    dtype: torch.dtype
    shape: torch.Size

    @classmethod
    def of(cls, tensor: Tensor) -> _Bytes:
        values = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
        return cls(values, tensor.dtype, tensor.shape)

    def tensor(self) -> Tensor:
        return torch.from_numpy(self.values).view(self.dtype).view(self.shape)


@lru_cache(maxsize=1)
def _arrays(file: str) -> memoryview:
    return np.memmap(file, mode="c").data if Path(file).stat().st_size else memoryview(b"")


def _run(what: bytes, shared: _Shared, threads: int, wanted: Mapping[str, str]) -> bytes:
    """Run a task in a worker."""
    (task, item), (file, places, others) = pickle.loads(what), shared
    values = pickle.loads(others, buffers=[_arrays(file)[start:end] for start, end in places])
    values = {name: value.tensor() if isinstance(value, _Bytes) else value for name, value in values.items()}
    return pickle.dumps(call(task, item, values, threads, wanted))


def _begin() -> None:
    """End this process when the driver ends, however it does; an interruption (Ctrl-C) is the driver's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_freed_memory()
    parent = parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
