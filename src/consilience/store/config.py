"""``config.json``: what an artefact is, how it was made, and which files belong to it.

- A header (`HEADER`) that is the same for every kind, and whatever the kind adds.
- Keys are sorted and nothing holds a date, so the same content gives the same bytes.
- What is read is checked before it is believed: a listed file cannot lie outside the directory.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from consilience.errors import ArtefactError, InputError

FORMAT_VERSION = 1
CONFIG = "config.json"
HEADER = ("kind", "format_version", "versions", "files")


def read_config(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """Read only the ``config.json`` of an artefact of any kind.

    Raises
    ------
    ArtefactError
        If there is none, or it cannot be read, or it is not one of this package or of a format version it knows.
    """
    path = Path(directory)
    if not path.is_dir():
        old = beside(path.resolve(), "old")
        cure = f"rename {old} back: a process died while it replaced this" if old.is_dir() else "check the path"
        raise ArtefactError("there is no such artefact", where=path, expected="a directory", cure=cure)
    if not (path / CONFIG).is_file():
        raise ArtefactError(f"this is no artefact: it has no {CONFIG}", where=path, got=listing(path))
    try:
        config = json.loads((path / CONFIG).read_bytes())
    except (ValueError, OSError, RecursionError) as error:
        raise ArtefactError(
            f"{CONFIG} is damaged", where=path / CONFIG, got=error, cure="copy it again, or write it again"
        ) from error
    if not isinstance(config, dict) or not {"kind", "format_version", "files"} <= config.keys():
        raise ArtefactError(
            f"{CONFIG} is not one of consilience", where=path / CONFIG, expected="an object with " + ", ".join(HEADER)
        )
    version = config["format_version"]
    if version != FORMAT_VERSION or not isinstance(version, int):
        newer = isinstance(version, int) and version > FORMAT_VERSION
        cure = "pip install --upgrade consilience" if newer else "write it again with this version of consilience"
        raise ArtefactError(
            "the format version is unknown", where=path / CONFIG, got=version, expected=FORMAT_VERSION, cure=cure
        )
    files = config["files"]
    if not isinstance(files, dict) or not all(is_plain_name(name) and isinstance(files[name], str) for name in files):
        raise ArtefactError(f"{CONFIG} lists files that cannot be its own", where=path / CONFIG, got=files)
    return config


def config_text(kind: str, files: Mapping[str, str], body: Mapping[str, Any]) -> str:
    """Return the text of ``config.json``; ``files`` are the SHA-256 by file name, ``body`` is what the kind adds."""
    header = {"kind": kind, "format_version": FORMAT_VERSION, "versions": versions(), "files": dict(files)}
    return json.dumps({**body, **header}, indent=2, sort_keys=True) + "\n"


def plain(value: Any, where: str) -> Any:
    """Return the value as JSON can hold it: dataclasses as objects, arrays and tensors as lists.

    Raises
    ------
    InputError
        If a part of it, named by its path from ``where``, cannot be held.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value), where)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise InputError("a key of the config is not a string", where=where, got=repr(key), cure="str(key)")
        return {key: plain(part, f"{where}.{key}") for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part, f"{where}[{i}]") for i, part in enumerate(value)]
    if hasattr(value, "tolist"):  # arrays, tensors and their scalars
        return plain(value.tolist(), where)
    raise InputError("a part of the config cannot be written as JSON", where=where, got=type(value).__name__)


def finite(value: Any) -> Any:
    """Return a `plain` value with None for infinities and NaN, which JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def result_text(body: Mapping[str, Any], where: str) -> str:
    """Return results as JSON; ``where`` is the file, for errors. Numbers that are not finite are null."""
    return json.dumps(finite(plain(body, where)), indent=1) + "\n"


def listing(path: Path, most: int = 5) -> str:
    """Return the names of the first few things in a directory, for an error."""
    names = sorted(entry.name for entry in path.iterdir())
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "") or "nothing"


def beside(path: Path, suffix: str) -> Path:
    """Return the hidden sibling of a path that this package keeps for itself, ``.NAME.suffix``."""
    return path.parent / f".{path.name}.{suffix}"


def is_plain_name(name: str) -> bool:
    """Return whether it is the name of a file, not a path to one."""
    return name not in ("", ".", "..") and not set(name) & set("/\\\0")


def versions() -> dict[str, str]:
    """Return the versions of this package and of torch."""
    try:
        own = metadata.version("consilience")
    except metadata.PackageNotFoundError:  # run from a source tree that is not installed
        own = "unknown"
    return {"consilience": own, "torch": str(torch.__version__)}
