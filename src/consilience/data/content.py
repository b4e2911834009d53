"""What identifies data: the bytes of its file, wherever it lies."""

from __future__ import annotations

import hashlib
import os

from consilience.checks import as_path
from consilience.errors import InputError


def is_file_name(source: str | os.PathLike[str]) -> bool:
    """Return whether a source of data is a file, and not a name such as ``"digits"`` or ``"hf:NAME"``."""
    return source != "digits" and not (isinstance(source, str) and source.startswith("hf:"))


def content_of(source: str | os.PathLike[str]) -> str:
    """Return the first 16 digits of the SHA-256 of a file; nothing for a name, which stands for its content.

    Raises
    ------
    InputError : if there is no such file, or it cannot be read.
    """
    if not is_file_name(source):
        return ""
    path = as_path(source, "data").expanduser()
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        got = f"{path}: {error.strerror}" if path.exists() else str(path)
        raise InputError(f"data must be a file that can be read, got {got}", cure="check the path") from error
