"""A place on disk, and how a complete directory gets there.

- Complete or not there. ``NAME`` is written as ``.NAME.tmp`` beside it and then renamed; an artefact that it replaces
  is called ``.NAME.old`` for the time between the two renames, and is put back if the process dies there.
- A directory of ours that is not complete holds a file `UNFINISHED`. Nothing else is ever deleted.
- One process at a time writes a given directory (see `consilience.store.lock`), and what is there is compared again
  before it is replaced. A reader in the middle of a replacement gets an error.
- An error of the system (a full disk, no permission) is an `ArtefactError` that says what is kept.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from consilience.checks import as_path
from consilience.errors import ArtefactError
from consilience.store.config import beside, config_file, listing, read_config
from consilience.store.lock import lock
from consilience.store.system_errors import writing

UNFINISHED = "UNFINISHED"


def check_destination(directory: str | os.PathLike[str], kind: str) -> bool:
    """Check, before any expensive work, whether its result can be written here; return whether it is here already.

    An artefact whose replacement was interrupted is put back first. The result is False if the place is free, or holds
    an artefact of this kind that lacks files.

    Raises
    ------
    ArtefactError : if anything else is there, or no directory can be made or replaced here; nothing has changed.
    """
    target = as_path(directory, "directory").resolve()
    as_path(beside(target, "checkpoint"), "directory")  # the longest name that is made of it
    temporary, old = beside(target, "tmp"), beside(target, "old")
    for path in (temporary, old):
        _check_ours(path)
    interrupted = not target.exists() and old.exists() and not (old / UNFINISHED).exists()
    held = old if interrupted else target
    finished = held.exists() and _check_held(held, kind)
    if interrupted:
        with writing(target), lock(target):
            if not target.exists():
                os.rename(old, target)
    if not finished:
        _check_replaceable(target)
    return finished


@contextmanager
def new_directory(directory: str | os.PathLike[str]) -> Iterator[Path]:
    """Lend an empty directory to fill, after `check_destination`; put it in place if all went well, else remove it."""
    target = as_path(directory, "directory").resolve()
    temporary = beside(target, "tmp")
    with writing(target), lock(target):
        before = _state(target)
        _discard(temporary)
        try:
            temporary.mkdir()
            (temporary / UNFINISHED).touch()
            yield temporary
            for file in temporary.iterdir():
                shutil.copymode(temporary / UNFINISHED, file)  # safetensors makes files that only their owner can read
                _sync(file)
            (temporary / UNFINISHED).unlink()
            _sync(temporary)
            if _state(target) != before:
                cure = "look at what is there now, and choose another directory or run it again"
                raise ArtefactError(f"{target} must stay as it is while it is replaced, got other content", cure=cure)
            _swap_in(temporary, target)
        except BaseException:
            _discard(temporary)
            raise


@contextmanager
def new_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Lend the name of a file to write; put it in place of ``path`` if all went well, else remove it."""
    target = Path(path).resolve()
    if target.is_dir():
        raise ArtefactError(f"{target} must be the path of a file, got a directory", cure="choose another path")
    temporary = partial_path(target)
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            _sync(temporary)
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync(target.parent)


def partial_path(path: Path) -> Path:
    """Return the name under which a file is written; a killed process may leave it behind."""
    return beside(path, "tmp")


def atomic_write(path: str | os.PathLike[str], data: bytes) -> None:
    """Write one file, so that whoever looks sees either the old content or all of the new."""
    with new_file(path) as temporary:
        temporary.write_bytes(data)


def _state(target: Path) -> tuple[bytes, ...]:
    """Return what tells one content of a directory from another: its names, and its config."""
    if not target.is_dir():
        return ()
    config = config_file(target)
    names = sorted(os.fsencode(entry.name) for entry in target.iterdir())
    return (*names, config.read_bytes() if config.is_file() else b"")


def _check_held(path: Path, kind: str) -> bool:
    """Return whether the directory holds a complete artefact of this kind; raise unless it can be replaced."""
    rule, cure = f"{path} must be free, empty, or an artefact of kind {kind}", "choose another directory"
    if not path.is_dir():
        raise ArtefactError(f"{rule}, got a file", cure=cure)
    if not any(path.iterdir()):
        return False
    try:
        config = read_config(path)
    except ArtefactError as error:
        raise ArtefactError(f"{rule}, got {listing(path)} ({error.message})", cure=cure) from error
    if config["kind"] != kind:
        raise ArtefactError(f"{rule}, got one of kind {config['kind']}", cure=cure)
    foreign = ", ".join(sorted({entry.name for entry in path.iterdir()} - {config_file(path).name, *config["files"]}))
    if foreign:
        raise ArtefactError(f"{path} must hold the artefact's files alone, got {foreign}", cure="move them away")
    return all((path / name).is_file() for name in config["files"])


def _check_replaceable(target: Path) -> None:
    if target.exists() and (target == Path.cwd() or os.path.ismount(target)):
        got, cure = "the current directory or a mounted one", "choose a directory inside it"
        raise ArtefactError(f"{target} must be a directory that can be replaced, got {got}", cure=cure)
    above = next(parent for parent in target.parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise ArtefactError(f"{above} must be a writable directory, got a file or no permission", cure="choose another")


def _check_ours(path: Path) -> None:
    """Raise unless nothing lies under a name that this file keeps for itself, or something that it wrote itself."""
    if not path.exists() and not path.is_symlink():
        return
    if path.is_dir() and not path.is_symlink():
        if (path / UNFINISHED).is_file() or not any(path.iterdir()):
            return
        with suppress(ArtefactError):
            read_config(path)
            return
    raise ArtefactError(f"{path} must be free for a moment, got a file or directory", cure="move it away")


def _swap_in(temporary: Path, target: Path) -> None:
    """Rename ``temporary`` to ``target``; whatever happens on the way, one of them or the old one is complete."""
    old = beside(target, "old")
    _discard(old)
    try:
        if target.exists() and any(target.iterdir()):
            os.rename(target, old)
        elif target.exists():
            target.rmdir()
        os.rename(temporary, target)
    except BaseException:
        if old.exists() and not target.exists():
            os.rename(old, target)
        raise
    _sync(target.parent)
    _discard(old)


def _discard(path: Path) -> None:
    """Remove a directory of ours, so that a process that dies on the way leaves one that is still known as ours."""
    if not path.exists():
        return
    (path / UNFINISHED).touch()
    for entry in path.iterdir():
        if entry.name != UNFINISHED:
            entry.unlink()
    (path / UNFINISHED).unlink()
    path.rmdir()


def _sync(path: Path) -> None:
    """Make sure that what was written has reached the disk; Windows cannot do this for a file that is open to read."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
