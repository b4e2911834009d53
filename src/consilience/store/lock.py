"""One writer of a place at a time: a lock of the operating system, which ends with its process however that ends.

- The lock is on a file ``.NAME.lock`` beside the place, which holds the number of the process and is removed with the
  lock. A killed process leaves the file, but no lock: the next writer takes it over.
- ``flock`` on Linux and macOS, ``msvcrt.locking`` on Windows. On a file system without locks, writers are not kept
  apart, but what is there is still compared before it is replaced.
- A thread that has a lock may take it again.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from consilience.errors import ArtefactError
from consilience.store.config import beside
from consilience.store.system_errors import writing

FAR = 2**30  # the byte that Windows locks, far behind the text, which others can then read
POLL = 0.2  # seconds between two looks at a lock that is waited for
_holders: dict[Path, int] = {}  # lock files of this process, and the thread that has each


@contextmanager
def lock(place: str | os.PathLike[str], wait: float = 0) -> Iterator[None]:
    """Keep other writers away from a file or directory, which need not exist; ``wait`` so many seconds for the lock.

    Raises
    ------
    ArtefactError : if another process or thread has the lock, or the lock file is somebody's own file.
    """
    target = Path(place).resolve()
    path, thread = beside(target, "lock"), threading.get_ident()
    if _holders.get(path) == thread:
        yield
        return
    new = [parent for parent in target.parents if not parent.exists()]  # the innermost first
    with writing(target):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _acquire(path, target, time.monotonic() + wait)
    _holders[path] = thread
    try:
        yield
    finally:
        del _holders[path]
        try:
            with contextlib.suppress(OSError):  # Windows does not remove an open file; an empty one is taken over
                path.unlink()
        finally:
            os.close(descriptor)
        with contextlib.suppress(OSError):  # where something has been written
            for parent in new:
                parent.rmdir()


def remove_dead(place: str | os.PathLike[str]) -> None:
    """Remove the lock file of a process that died while it removed it; does nothing if a process has the lock."""
    if beside(Path(place).resolve(), "lock").exists():
        with contextlib.suppress(ArtefactError), lock(place):
            pass


def _acquire(path: Path, target: Path, until: float) -> int:
    """Return the open lock file of this process; raise if another process has it still at a time."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        except OSError as error:
            if path.is_symlink() or path.is_dir():
                raise _taken(path) from error
            raise
        try:
            text = os.read(descriptor, 64)
            if text.strip() and not text.strip().isdigit():
                raise _taken(path)
            free = _lock(descriptor)
            if not free and time.monotonic() >= until:
                holder = text.decode().strip() or "unknown"
                raise ArtefactError(
                    f"{target} must be written by one process at a time, got one that process {holder} is writing",
                    cure="wait until that process has ended, or choose another directory",
                )
            if free and _is_at(descriptor, path):  # and was not removed by the process that had it before
                os.ftruncate(descriptor, 0)
                os.lseek(descriptor, 0, os.SEEK_SET)
                os.write(descriptor, f"{os.getpid()}\n".encode())
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if not free:
            time.sleep(POLL)


def _lock(descriptor: int) -> bool:
    """Lock an open file; return False if another process has the lock, True also where there are no locks."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(descriptor, FAR, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # ENOLCK, ENOTSUP, …
        return True
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _taken(path: Path) -> ArtefactError:
    return ArtefactError(f"{path} must be free for a moment, got a file or directory", cure="move it away")
