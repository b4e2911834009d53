"""Tensors that are kept one after the other: in memory as far as there is room, and beyond that in a file.

The file has no name, so that it ends with its process, however that ends. It lies where temporary files do
(``TMPDIR``). What lies there is read when it is asked for, and not kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from tempfile import TemporaryFile, gettempdir
from typing import Any, Generic, TypeVar, overload
from weakref import finalize

import torch
from torch import Tensor

from consilience.errors import ConsilienceError

Item = TypeVar("Item")
ROOM = 2**28  # bytes that stay in memory: 64 members of 784-32-32-10 on 5000 rows
TOGETHER = 64  # members that are in memory together where sums are over members


class Each(Sequence[Item], Generic[Item]):
    """A sequence of items that are made when they are asked for, each time."""

    def __init__(self, n: int, make: Callable[[int], Item]) -> None:
        self._n, self._make = n, make

    def __len__(self) -> int:
        return self._n

    @overload
    def __getitem__(self, which: int) -> Item: ...
    @overload
    def __getitem__(self, which: slice) -> list[Item]: ...
    def __getitem__(self, which: int | slice) -> Item | list[Item]:
        numbers = range(self._n)[which]  # or raises IndexError
        return self._make(numbers) if isinstance(numbers, int) else [self._make(k) for k in numbers]


class Room:
    """Memory for so many bytes of tensors, and a file for those that come after."""

    def __init__(self, size: int | None = None) -> None:
        self._left = ROOM if size is None else size
        self._file: Any = None
        self._end = 0

    def shelf(self, tensors: Iterable[Tensor]) -> Sequence[Tensor]:
        """Return the tensors as a sequence of which those in memory take no more than the room that is left."""
        kept = [self._put(tensor) for tensor in tensors]
        return Each(len(kept), lambda k: self._get(kept[k]))

    def _put(self, tensor: Tensor) -> Tensor | tuple[int, torch.Size, torch.dtype]:
        if tensor.nbytes <= self._left:
            self._left -= tensor.nbytes
            return tensor
        start, self._end = self._end, self._end + tensor.nbytes
        try:
            if self._file is None:
                self._file = TemporaryFile(buffering=0)  # noqa: SIM115 (closed with the room)
                finalize(self, self._file.close)
            view = _bytes_of(tensor.contiguous())
            self._file.seek(start)
            while len(view):
                view = view[self._file.write(view) :]
        except OSError as error:
            message = (
                f"{gettempdir()} must have room for {self._end / 2**20:.0f} MiB of responses, got {error.strerror}"
            )
            cure = "free some space there, set TMPDIR to another directory, or pass fewer rows"
            raise ConsilienceError(message, cure=cure) from error
        return start, tensor.shape, tensor.dtype

    def _get(self, kept: Any) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        start, shape, dtype = kept
        tensor = torch.empty(shape, dtype=dtype)
        view = _bytes_of(tensor)
        self._file.seek(start)
        while len(view):
            view = view[self._file.readinto(view) :]
        return tensor


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def blocks(n: int, size: int) -> Iterator[slice]:
    """Yield the slices that cut n items into runs of ``size``."""
    return (slice(start, min(start + size, n)) for start in range(0, n, size))
