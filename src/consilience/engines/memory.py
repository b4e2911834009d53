"""Memory that a worker has freed and will need again."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
LARGEST = 32 * 2**20  # bytes: the largest block that glibc keeps by itself once it has been freed


@cache
def keep_freed_memory() -> None:
    """Let malloc keep freed blocks, as it does where no setting has turned this off; nothing without glibc.

    Dask starts workers with ``MALLOC_TRIM_THRESHOLD_=65536``, and leaves it to other processes started after these.
    Every array of a training step is then mapped into memory and given back, page by page, and a training takes twice
    as long.
    """
    with suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, LARGEST)
        mallopt(M_TRIM_THRESHOLD, 2 * LARGEST)
