"""Tasks on the workers of a Dask cluster (dask.distributed, the extra ``dask``).

- Dask sends calls and results over its own connections, as pickles: whoever can reach the scheduler can run code on the
  workers. Use ``tls://`` addresses where the network is not your own.
- What all tasks share is sent to each worker once, before the tasks.
- Dask itself runs the tasks of a lost worker again, elsewhere; a task that has lost several workers has failed.
"""

from __future__ import annotations

import logging
import pickle
import threading
import time
import warnings
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import CancelledError, Future, wait
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import torch

from consilience.engines.call import call_packed, check_versions, packed
from consilience.engines.engine import Engine, Failure, Tasks
from consilience.errors import EngineError, InputError, warn
from consilience.versions import versions

Made = TypeVar("Made")
CONNECT = 10  # seconds until the scheduler answers, and until it has a worker
NO_WORKER = 60  # seconds for which a cluster may be without a worker
POLL = 5
ADDRESS = (
    "write the address that the scheduler prints, as in tcp://127.0.0.1:8786; tls:// needs certificates in Dask's "
    "configuration, distributed.comm.tls"
)
UNKNOWN = ("No module named", "Can't get attribute")  # in errors of a worker that lacks a module or a class
CLIENT_LOG = logging.getLogger("distributed.client")  # of tracebacks of what is one error here


class Dask(Engine):
    """Tasks run on the workers of the scheduler at an address, as in ``tcp://10.0.0.1:8786``."""

    def __init__(self, address: str) -> None:
        try:
            import distributed
        except ImportError as error:
            message = f"engine dask:{address} must have the extra dask, got no package distributed"
            raise InputError(message, cure='pip install "consilience[dask]"') from error

        class Client(distributed.Client):
            """Is closed where it does not reach the scheduler: collected later, it may wait for a lock for ever."""

            def __init__(self) -> None:
                try:
                    super().__init__(address, timeout=CONNECT, set_as_default=False)
                except BaseException:
                    self.close()
                    raise

        self.address = address
        self._silence = logging.Filter(__name__)  # lets no record pass that another module makes
        CLIENT_LOG.addFilter(self._silence)
        try:
            self._client = _within(2 * CONNECT, Client)
        except (OSError, ValueError, TypeError, MemoryError) as error:  # MemoryError: of another protocol's numbers
            message = f"engine dask:{address} must be the address of a scheduler that answers, got {_line(error)}"
            CLIENT_LOG.removeFilter(self._silence)
            cure = "start one with: dask scheduler" if isinstance(error, OSError) else ADDRESS
            raise EngineError(message, cure=cure) from error
        try:
            self._check_workers()
        except BaseException:
            self.close()
            raise

    def _check_workers(self) -> None:
        try:
            self._client.wait_for_workers(1, timeout=CONNECT)
        except TimeoutError as error:
            message = f"engine dask:{self.address} must have a worker, got none within {CONNECT} s"
            raise EngineError(message, cure=f"start one with: dask worker {self.address} --nthreads 1") from error
        try:
            answers = self._client.run(versions)
        except Exception as error:  # whatever the import raises there
            message = f"workers of dask:{self.address} must have this package, got {_line(error)}"
            raise EngineError(message, cure="install the same version there") from error
        for worker, got in answers.items():
            check_versions(got, versions(), f"worker {worker}")
        self.n_workers = len(answers)
        here, there = kernels(), self._client.run(kernels)
        other = next((worker for worker, kind in there.items() if kind != here), None)
        if other is not None:
            message = f"worker {other} computes with kernels for {there[other]}, and this process for {here}"
            warn(f"{message}: the last digits of results depend on where tasks run")

    def check_directory(self, directory: Path) -> None:
        """Raise an `EngineError` unless every worker sees what this process writes into the directory."""
        above = next(parent for parent in (directory, *directory.parents) if parent.exists())
        mark = above / f".{uuid4().hex}.seen"
        mark.touch()
        try:
            blind = [worker for worker, seen in self._client.run(_exists, str(mark)).items() if not seen]
        finally:
            mark.unlink()
        if blind:
            message = f"{directory} must be a directory that every worker sees, got one that {blind[0]} does not"
            raise EngineError(message, cure="choose one on a shared file system")

    def close(self) -> None:
        """Leave the cluster; it goes on."""
        self._client.close()
        CLIENT_LOG.removeFilter(self._silence)

    def _outcomes(self, tasks: Tasks, pending: Sequence[int]) -> Generator[tuple[int, Any], None, None]:
        client, context = self._client, (torch.get_num_threads(), versions())
        running: dict[Any, int] = {}
        try:
            with warnings.catch_warnings():
                # Data that was scattered is lost with the workers that have it; the arguments of a task never are.
                warnings.filterwarnings("ignore", "Sending large graph", UserWarning)
                shared: Any = client.submit(bytes, packed(dict(tasks.shared)), pure=False)
            # The scheduler, which does not know how long tasks take, gives the first ones to the worker that has it.
            self._next([shared])
            client.replicate(shared)
            for i in pending:
                what = packed((tasks.task, tasks.items[i]))
                running[client.submit(call_packed, what, shared, *context, pure=False)] = i
            while running:
                done = self._next([*running])
                finished = [future for future in done if future.status == "finished"]
                for future, value in zip(finished, client.gather(finished), strict=True):
                    yield running.pop(future), pickle.loads(value)
                for future in [future for future in done if future in running]:
                    yield running.pop(future), _failure(future)
        except OSError as error:
            raise EngineError(
                f"engine dask:{self.address} must stay reachable, got {_line(error)}",
                cure="start the scheduler again, and run it again",
            ) from error
        finally:
            if running and client.status == "running":
                client.cancel([*running], force=True)

    def _next(self, futures: Sequence[Any]) -> list[Any]:
        """Wait until some futures are done and return them; raise if there are no workers for too long."""
        from distributed import wait as wait_for

        seen = time.monotonic()
        while time.monotonic() - seen <= NO_WORKER:
            try:
                with self._client.as_current():
                    return [*wait_for(futures, timeout=POLL, return_when="FIRST_COMPLETED").done]
            except CancelledError:  # by a scheduler that was started again
                return [future for future in futures if future.cancelled()]
            except TimeoutError:
                seen = time.monotonic() if self._client.scheduler_info(n_workers=-1)["workers"] else seen
        message = f"engine dask:{self.address} must have a worker, got none for {NO_WORKER} s"
        raise EngineError(message, cure="start workers, and run it again")


def _within(seconds: float, make: Callable[[], Made]) -> Made:
    """Return what is made in another thread, which is left alone if it takes longer: what answers is no scheduler."""
    made: Future[Made] = Future()

    def run() -> None:
        try:
            made.set_result(make())
        except BaseException as error:
            made.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    if not wait([made], seconds).done:
        raise TimeoutError(f"no answer within {seconds} s")
    return made.result()


def _failure(future: Any) -> Failure:
    from distributed import KilledWorker

    error = ConnectionError("the scheduler has forgotten it") if future.cancelled() else future.exception()
    if isinstance(error, ImportError | AttributeError) and str(error).startswith(UNKNOWN):
        message = f"what tasks are given must be of modules that workers can import, got {_line(error)}"
        unknown = EngineError(message, cure="define classes in a module that is installed on every worker")
        unknown.__cause__ = error
        return Failure(unknown)
    if isinstance(error, KilledWorker):
        return Failure(MemoryError("it has lost several workers, perhaps for want of memory"), final=True)
    return Failure(error)


def kernels() -> str:
    """Return the kind of processor that torch's kernels are chosen for."""
    return torch.backends.cpu.get_cpu_capability()


def _exists(path: str) -> bool:
    return Path(path).exists()


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
