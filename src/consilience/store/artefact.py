"""An artefact is a directory: ``config.json`` (what it is, and how it was made) and ``*.safetensors`` (its numbers).

- Never pickle. Nothing in a config is ever imported, and no file outside the directory is ever read.
- Same content, same bytes. Every file is listed with its SHA-256, and what is read is what was written.
- How it gets to its place, complete or not at all: see `consilience.store.destination`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from consilience.errors import ArtefactError, InputError
from consilience.store.config import CONFIG, FORMAT_VERSION, HEADER, config_text, is_plain_name, plain, read_config
from consilience.store.destination import UNFINISHED, atomic_write, check_destination, new_directory
from consilience.store.tensors import Tensors, check_tensor, fingerprint, flatten, shards_of, unshared

__all__ = [
    "FORMAT_VERSION",
    "Artefact",
    "atomic_write",
    "check_destination",
    "fingerprint",
    "read_artefact",
    "read_config",
    "write_artefact",
    "write_files",
]

SHARD_BYTES = 2**30  # so that no part of a large population needs more than 1 GiB beside it to be written


@dataclass(frozen=True, eq=False)
class Artefact:
    """What `read_artefact` returns.

    Parameters
    ----------
    config : everything in ``config.json``, the header (kind, format_version, versions, files) included.
    tensors : the tensors of all shards on the CPU, by name, in alphabetical order; nested names are joined by ``/``.
    directory : where it lies.
    """

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    directory: Path


def write_artefact(
    directory: str | os.PathLike[str],
    kind: str,
    config: Mapping[str, Any],
    tensors: Tensors,
    *,
    shard_bytes: int = SHARD_BYTES,
    extra_files: Mapping[str, bytes | str] | None = None,
) -> Path:
    """Write an artefact, in place of an older one of its kind if there is one; return its directory.

    Parameters
    ----------
    directory : where; it must be absent, empty, or an artefact of the same kind.
    kind : what it is, e.g. ``"population"``.
    config : what goes into ``config.json`` beside the header: mappings, sequences, strings, numbers (NaN and infinity
        as Python's ``json`` writes them), None, dataclasses, and arrays and tensors, which become lists.
    tensors : tensors by name, or mappings of them, to any depth; ``{"a": {"b": t}}`` is stored as ``"a/b"``. They may
        share memory, which is stored once for each name.
    shard_bytes : the size above which a new ``tensors-00001-of-00002.safetensors`` is begun; one tensor is never cut.
    extra_files : further files by name, e.g. a ``README.md``. Readers do not look at them.

    Raises
    ------
    InputError
        If the config, a tensor or a file name cannot be stored. Nothing has been written.
    ArtefactError
        If the directory holds anything else (see `check_destination`). Nothing has changed.
    """
    flat = flatten(tensors)
    if shard_bytes < 1:
        raise InputError("a shard needs a size", where="write_artefact(shard_bytes=...)", got=shard_bytes)
    return write_files(directory, kind, config, shards_of(flat, shard_bytes), extra_files or {})


def read_artefact(directory: str | os.PathLike[str], kind: str) -> Artefact:
    """Read an artefact of this kind, and make sure that every number in it is the one that was written.

    Raises
    ------
    ArtefactError
        If it is missing, no artefact, of another kind or of an unknown format version; or if one of its
        ``*.safetensors`` is missing or not, byte for byte, what was written.
    """
    path = Path(directory)
    config = read_config(path)
    if config["kind"] != kind:
        raise ArtefactError("the artefact is of another kind", where=path, got=config["kind"], expected=kind)
    tensors: dict[str, Tensor] = {}
    for name, digest in sorted(config["files"].items()):
        if name.endswith(".safetensors"):
            tensors |= _read_shard(path / name, digest)
    return Artefact(config, dict(sorted(tensors.items())), path)


def write_files(
    directory: str | os.PathLike[str],
    kind: str,
    config: Mapping[str, Any],
    shards: Mapping[str, Mapping[str, Tensor]],
    extra_files: Mapping[str, bytes | str],
) -> Path:
    """Do what `write_artefact` does, with tensors already sorted into files, ``{file name: {name: tensor}}``."""
    for name in extra_files:
        if not is_plain_name(name) or name in (CONFIG, UNFINISHED) or name.endswith(".safetensors"):
            raise InputError("an extra file cannot have this name", got=repr(name), expected="e.g. README.md")
    clash = [key for key in HEADER if key in config]
    if clash:
        raise InputError("the config uses names of the header", got=", ".join(clash), cure="rename them")
    body = plain(config, "config")
    for shard in shards.values():
        for name, tensor in shard.items():
            check_tensor(name, tensor)
    check_destination(directory, kind)
    with new_directory(directory) as new:
        for name, shard in shards.items():
            save_file(unshared(shard), new / name, metadata={"format": "pt"})
        for name, data in extra_files.items():
            (new / name).write_bytes(data.encode() if isinstance(data, str) else data)
        files = {name: _digest(new / name) for name in (*shards, *extra_files)}
        (new / CONFIG).write_text(config_text(kind, files, body), encoding="utf-8")
    return Path(directory)


def _read_shard(path: Path, digest: str) -> dict[str, Tensor]:
    if not path.is_file():
        raise ArtefactError("a file of the artefact is missing", where=path, cure="copy it again, or write it again")
    try:
        found = _digest(path)
        if found != digest:
            raise ArtefactError(
                "a file of the artefact is damaged", where=path, got=f"{path.stat().st_size} bytes, SHA-256 {found}",
                expected=f"SHA-256 {digest}", cure="copy it again, or write it again",
            )  # fmt: skip
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ArtefactError("a file of the artefact cannot be read", where=path, got=error) from error


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
