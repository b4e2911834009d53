"""An artefact is a directory: ``config.json`` (what it is, and how it was made) and ``*.safetensors`` (its numbers).

- Never pickle. Nothing in a config is ever imported, and no file outside the directory is ever read, through links
  neither.
- Same content, same bytes. Every file is listed with its SHA-256, and all of them are compared before one is used.
- How it gets to its place, complete or not at all: see `consilience.store.destination`.
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, takewhile
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from consilience.checks import as_path, check_count
from consilience.errors import ArtefactError, InputError
from consilience.schema import AGAIN, read_entries
from consilience.store.codec import Tensors, flatten, plain, shards_of, unshared
from consilience.store.config import CONFIG, HEADER, check_inside, config_text, is_plain_name, read_config
from consilience.store.destination import UNFINISHED, check_destination, new_directory
from consilience.store.shards import Shards

T = TypeVar("T")
SHARD_BYTES = 2**30  # so that no part of a large population needs more than 1 GiB beside it to be written


@dataclass(frozen=True, eq=False)
class Artefact:
    """What `read_artefact` returns.

    Attributes
    ----------
    config : everything in ``config.json``, the header (kind, format_version, versions, files) included.
    tensors : the tensors of all shards on the CPU, by name, in alphabetical order; nested names are joined by ``/``. Of
        an artefact that was opened, they are read when they are asked for.
    directory : where it lies.
    """

    config: dict[str, Any]
    tensors: Mapping[str, Tensor]
    directory: Path

    def entries(self, kind: type[T]) -> T:
        """Return what the config says as a dataclass, or raise an `ArtefactError`; see `consilience.schema`."""
        return read_entries(kind, self.config, self.directory / CONFIG)

    def has(self, name: str) -> bool:
        """Return whether the artefact has a file of this name."""
        return name in self.config["files"]

    def part(self, *names: object) -> dict[str, Tensor]:
        """Return the tensors inside ``names[0]/names[1]/…``, by the rest of their names."""
        prefix = "".join(f"{name}/" for name in names)
        first = bisect_left(self._names, prefix)
        inside = takewhile(lambda name: name.startswith(prefix), islice(self._names, first, None))
        return {name[len(prefix) :]: self.tensors[name] for name in inside}

    @cached_property
    def _names(self) -> list[str]:
        return list(self.tensors)


def write_artefact(
    directory: str | os.PathLike[str],
    kind: str,
    config: Mapping[str, Any],
    tensors: Tensors,
    *,
    shard_bytes: int = SHARD_BYTES,
    single_file: str | None = None,
    extra_files: Mapping[str, bytes | str] | None = None,
) -> Path:
    """Write an artefact, in place of an older one of its kind if there is one; return its directory.

    Parameters
    ----------
    directory : where; it must be absent, empty, or an artefact of the same kind.
    kind : what it is, e.g. ``"population"``.
    config : what goes into ``config.json`` beside the header; see `plain`. NaN and infinity stay, as in Python's json.
    tensors : tensors by name, or mappings of them to any depth; those that share memory are stored once for each name.
    shard_bytes : the size above which a new ``tensors-00001-of-00002.safetensors`` is begun; one tensor is never cut.
    single_file : name of the one file that takes all tensors, instead of shards.
    extra_files : further files by name, e.g. a ``README.md``.

    Raises
    ------
    InputError : if the config, a tensor or a file name cannot be stored; nothing has been written.
    ArtefactError : if the directory holds anything else (see `check_destination`); nothing has changed.
    """
    check_count("shard_bytes", shard_bytes)
    flat, extra_files = flatten(tensors), extra_files or {}
    shards = shards_of(flat, shard_bytes) if single_file is None else {single_file: flat}
    for name in extra_files:
        if not is_plain_name(name) or name in (CONFIG, UNFINISHED) or name.endswith(".safetensors"):
            raise InputError(f"extra_files must have names such as README.md, got {name!r}")
    clash = [key for key in HEADER if key in config]
    if clash:
        raise InputError(f"config must not use names of the header, got {', '.join(clash)}", cure="rename them")
    body = plain(config, "config")
    check_destination(directory, kind)
    with new_directory(directory) as new:
        for name, shard in shards.items():
            save_file(unshared(shard), new / name, metadata={"format": "pt"})
        for name, data in extra_files.items():
            (new / name).write_bytes(data.encode() if isinstance(data, str) else data)
        files = {name: digest_of_file(new / name) for name in (*shards, *extra_files)}
        (new / CONFIG).write_text(config_text(kind, files, body), encoding="utf-8")
    return Path(directory)


def read_artefact(directory: str | os.PathLike[str], kind: str) -> Artefact:
    """Read an artefact of this kind; raise an `ArtefactError` unless every byte of its files is as it was written."""
    path = as_path(directory, "directory")
    config = read_config(path, kind)
    check_files(path, config)
    tensors: dict[str, Tensor] = {}
    for name in sorted(config["files"]):
        if name.endswith(".safetensors"):
            tensors |= _read_shard(path / name)
    return Artefact(config, dict(sorted(tensors.items())), path)


def open_artefact(directory: str | os.PathLike[str], kind: str) -> Artefact:
    """Return what `read_artefact` does, after the same checks, with tensors that are read when they are asked for."""
    path = as_path(directory, "directory")
    config = read_config(path, kind)
    check_files(path, config)
    return Artefact(config, Shards(path / name for name in config["files"] if name.endswith(".safetensors")), path)


def check_files(directory: Path, config: Mapping[str, Any]) -> None:
    """Raise unless every file that a config lists is there, in the directory itself, with its SHA-256."""
    for name, digest in sorted(config["files"].items()):
        path = directory / name
        if not path.is_file():
            raise ArtefactError(f"{path} must be a file of the artefact, got none", cure=AGAIN)
        check_inside(path)
        try:
            actual = digest_of_file(path)
        except OSError as error:
            raise ArtefactError(f"{path} must be a file that can be read, got {error}", cure=AGAIN) from error
        if actual != digest:
            got = f"{path.stat().st_size} bytes of SHA-256 {actual}"
            raise ArtefactError(f"{path} must have SHA-256 {digest}, got {got}", cure=AGAIN)


def _read_shard(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)  # which compares the shapes in the header with the size of the file
    except (SafetensorError, OSError) as error:
        raise ArtefactError(f"{path} must be a safetensors file, got {error}", cure=AGAIN) from error


def digest_of_file(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
