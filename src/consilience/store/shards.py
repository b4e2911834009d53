"""Tensors of safetensors files that are read when they are asked for, not mapped into memory.

The format: eight bytes that say how long the header is, the header as JSON (type, shape and place of each tensor by
name), and the numbers (https://huggingface.co/docs/safetensors). Files stay open, so that an artefact that is replaced
can be read to the end.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from weakref import finalize

import torch
from torch import Tensor

from consilience.errors import ArtefactError
from consilience.schema import AGAIN

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class _Place(NamedTuple):
    file: Any
    start: int
    shape: tuple[int, ...]
    dtype: torch.dtype


class Shards(Mapping[str, Tensor]):
    """The tensors of some files by name, in alphabetical order; each is read anew when it is asked for."""

    def __init__(self, paths: Iterable[Path]) -> None:
        places: dict[str, _Place] = {}
        for path in paths:
            try:
                file = path.open("rb", buffering=0)
                finalize(self, file.close)
                places |= _places_in(file, path.stat().st_size)
            except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
                raise ArtefactError(f"{path} must be a safetensors file, got {error}", cure=AGAIN) from error
        self._places = dict(sorted(places.items()))

    def __getitem__(self, name: str) -> Tensor:
        file, start, shape, dtype = self._places[name]
        tensor = torch.empty(shape, dtype=dtype)
        view = tensor.reshape(-1).view(torch.uint8).numpy().data
        file.seek(start)
        while len(view):
            n_read = file.readinto(view)
            if not n_read:
                raise ArtefactError(f"'{name}' must stay on disk while it is used, got a shorter file", cure=AGAIN)
            view = view[n_read:]
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _places_in(file: Any, size: int) -> dict[str, _Place]:
    """The tensors of an open file of so many bytes; raise unless they lie inside it."""
    length = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(min(length, size)))
    places = {}
    for name, entry in header.items():
        if name != "__metadata__":
            shape, dtype = tuple(entry["shape"]), DTYPES[entry["dtype"]]
            start, end = (8 + length + offset for offset in entry["data_offsets"])
            if end > size or end - start != math.prod(shape) * dtype.itemsize:
                raise ValueError(f"'{name}' from byte {start} to {end} of {size}")
            places[name] = _Place(file, start, shape, dtype)
    return places
