"""``config.json``: what an artefact is, how it was made, and which files belong to it.

- A header (`HEADER`) that is the same for every kind, and whatever the kind adds.
- In a directory that another library has written, whose ``config.json`` it is, all this is in ``consilience.json``.
- Keys are sorted and nothing holds a date, so the same content gives the same bytes.
- What is read is checked: a listed file cannot lie outside the directory, nor be a link to one that does.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from consilience.checks import as_path
from consilience.errors import ArtefactError
from consilience.schema import AGAIN
from consilience.versions import versions

FORMAT_VERSION = 1
CONFIG = "config.json"
BESIDE = "consilience.json"  # in its place, beside the config of another library
HEADER = ("kind", "format_version", "versions", "files")
MAKERS = {  # the command that makes an artefact of a kind, of another in capitals
    "population": "consilience train --out population",
    "census": "consilience census POPULATION --out census",
    "network": "consilience assemble CENSUS --out network",
}


def config_file(directory: Path) -> Path:
    """Return the file of a directory that says what artefact it is."""
    other = directory / BESIDE
    return other if other.is_file() else directory / CONFIG


def read_config(directory: str | os.PathLike[str], kind: str | None = None) -> dict[str, Any]:
    """Read only the ``config.json`` of an artefact, of any kind or of one; raise an `ArtefactError` if it cannot."""
    path = as_path(directory, "directory")
    if not path.is_dir():
        old = beside(path.resolve(), "old")
        cure = f"rename {old} back: a process died while it replaced this" if old.is_dir() else "check the path"
        raise ArtefactError(f"{path} must be the directory of an artefact, got no directory", cure=cure)
    file = config_file(path)
    if not file.is_file():
        raise ArtefactError(f"{path} must be an artefact with a {CONFIG}, got {listing(path)}", cure="check the path")
    check_inside(file)
    try:
        config = json.loads(file.read_bytes())
    except (ValueError, OSError, RecursionError) as error:
        raise ArtefactError(f"{file} must be JSON, got {error}", cure=AGAIN) from error
    if not isinstance(config, dict) or not {"kind", "format_version", "files"} <= config.keys():
        raise ArtefactError(f"{file} must be a config of consilience, with {', '.join(HEADER)}")
    version = config["format_version"]
    if type(version) is not int or version != FORMAT_VERSION:
        newer = isinstance(version, int) and version > FORMAT_VERSION
        cure = "pip install --upgrade consilience" if newer else "write it again with this version of consilience"
        raise ArtefactError(f"{file} must have format version {FORMAT_VERSION}, got {version!r}", cure=cure)
    files = config["files"]
    if not isinstance(files, dict) or not all(is_plain_name(name) and isinstance(files[name], str) for name in files):
        raise ArtefactError(f"{file} must list files inside its directory, got {files}")
    if not isinstance(config["kind"], str):
        raise ArtefactError(f"kind in {file} must be str, got {config['kind']!r}", cure=AGAIN)
    if kind not in (None, config["kind"]):
        made = MAKERS.get(kind, "").replace(config["kind"].upper(), str(path))
        how = f"make one: {made}" if made else None
        raise ArtefactError(f"{path} must be an artefact of kind {kind}, got {config['kind']}", cure=how)
    return config


def check_inside(file: Path) -> None:
    """Raise if a file of an artefact is a link to a place outside its directory."""
    if file.is_symlink() and file.resolve().parent != file.parent.resolve():
        raise ArtefactError(
            f"{file} must lie in the artefact, got a link to {file.resolve()}", cure="copy the file there"
        )


def config_text(kind: str, files: Mapping[str, str], body: Mapping[str, Any]) -> str:
    """Return the text of ``config.json``; ``files`` are the SHA-256 by file name, ``body`` is what the kind adds."""
    header = {"kind": kind, "format_version": FORMAT_VERSION, "versions": versions(), "files": dict(files)}
    return json.dumps({**body, **header}, indent=2, sort_keys=True) + "\n"


def listing(path: Path, most: int = 5) -> str:
    """Return the names of the first few things in a directory, for an error."""
    names = sorted(entry.name for entry in path.iterdir())
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "") or "nothing"


def beside(path: Path, suffix: str) -> Path:
    """Return the hidden sibling of a path that this package keeps for itself, ``.NAME.suffix``."""
    return path.parent / f".{path.name}.{suffix}"


def is_plain_name(name: str) -> bool:
    """Return whether it is the name of a file, not a path to one."""
    return name not in ("", ".", "..") and not set(name) & set("/\\\0") and len(name.encode(errors="replace")) < 256
