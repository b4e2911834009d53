"""What identifies data: the bytes of its file, wherever it lies."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from consilience.checks import as_path
from consilience.errors import InputError

TEXT = "text:"  # before the name of a file that is a text, whatever its suffix


def split_name(source: str) -> tuple[str, str]:
    """Return what stands before the path of a source's file, `TEXT` or nothing, and the path.

    >>> split_name("text:notes.md"), split_name("notes.txt")
    (('text:', 'notes.md'), ('', 'notes.txt'))
    """
    return (TEXT, source.removeprefix(TEXT)) if source.startswith(TEXT) else ("", source)


def text_of(source: str | os.PathLike[str]) -> Path | None:
    """Return the file of a source that is a text; None for any other."""
    prefix, path = split_name(source) if isinstance(source, str) else ("", source)
    if not isinstance(path, str | os.PathLike) or not (prefix or Path(path).suffix.lower() == ".txt"):
        return None
    return as_path(path, "source").expanduser()


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
    path = as_path(split_name(source)[1] if isinstance(source, str) else source, "data").expanduser()
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        got = f"{path}: {error.strerror}" if path.exists() else str(path)
        raise InputError(f"data must be a file that can be read, got {got}", cure="check the path") from error
