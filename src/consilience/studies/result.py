"""What a command gives, and how a finished result is read again instead of made twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from consilience.errors import ArtefactError
from consilience.schema import read_entries
from consilience.studies.request import Options, Output, command_line, identity

if TYPE_CHECKING:
    from rich.console import RichCast

    from consilience.evaluation import AnyScore

PAGE = "report.html"
T = TypeVar("T")


@dataclass(frozen=True)
class Result:
    """What a command prints: text for people (on a terminal a table, if there is one), or an object for JSON."""

    text: str
    as_json: dict[str, Any]
    table: RichCast | None = None
    status: int = 0  # of the process


def run_cached(
    request: Output,
    kind: str,
    inputs: dict[str, Any],
    make: Callable[[], T],
    write: Callable[[T, Path, dict[str, Any]], object],
    read: Callable[[Path], T],
) -> T:
    """Return the result of a request: read if it is finished, else made, and written complete or not at all.

    ``write`` gets the value, the directory, and entries of ``config.json``: what `identity` says of the request and its
    inputs. A directory with anything but a result of this request is left as it is, and an error raised.
    """
    from consilience.store import check_destination, lock
    from consilience.store.lock import remove_dead

    key = identity(request, **inputs)

    def is_finished() -> bool:
        if not check_destination(request.out, kind):
            return False
        refuse_another(request.out, kind, key)
        return True

    if not is_finished():
        with lock(request.out):
            if not is_finished():
                value = make()
                if not is_finished():  # by a process that this one's lock does not keep away
                    write(value, request.out, {"request": key})
                    return value
    remove_dead(request.out)
    return read(request.out)


def refuse_another(directory: Path, kind: str, key: dict[str, Any], held: dict[str, Any] | None = None) -> None:
    """Raise if the result in a directory was made for another request, by default the one in its ``config.json``."""
    from consilience.store import read_config

    held = read_config(directory).get("request", {}) if held is None else held
    if not isinstance(held, dict):
        raise ArtefactError(f"request in {directory} must be an object, got {held!r}", cure="delete that directory")
    differing = sorted({name.removesuffix("_content") for name in {*held, *key} if not _same(name, held, key)})
    if differing:
        raise ArtefactError(
            f"--out must not hold another {kind}, got {directory} with a result that differs in {', '.join(differing)}",
            cure="choose another --out, or delete that directory",
        )


def _same(name: str, one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether two requests agree in an entry. Data is told apart by content, and in older requests by name."""
    by_content = "data_content" in one and "data_content" in other
    if name == "data_content" and not by_content:
        return True
    if name != "data":
        return bool(one.get(name) == other.get(name))
    names = [Path(part).name if isinstance(part, str) else part for part in (one.get(name), other.get(name))]
    return by_content or names[0] == names[1]


def run_paged(
    request: Output, kind: str, file: str, inputs: dict[str, Any], make: Callable[[], tuple[str | bytes, str]]
) -> Result:
    """Return the table of a measurement, its sentences, and where its page is.

    ``make`` returns the text of the JSON file, which has a table and a summary, and the text of the page.
    """
    from consilience.store import read_artefact, write_artefact

    def write(texts: tuple[str | bytes, str], directory: Path, config: dict[str, Any]) -> None:
        write_artefact(directory, kind, config, {}, extra_files={file: texts[0], PAGE: texts[1]})

    def read(directory: Path) -> tuple[str | bytes, str]:
        read_artefact(directory, kind)  # or raises, if a file has changed
        return (directory / file).read_bytes(), ""

    return said_in(run_cached(request, kind, inputs, make, write, read)[0], request.out, file)


def said_in(text: str | bytes, directory: Path, file: str) -> Result:
    """Return the table and the summary in the JSON of a measurement, and where its page is."""
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ArtefactError(f"{directory / file} must be JSON, got {error}", cure="make it again") from error
    said = read_entries(_Said, content if isinstance(content, dict) else {}, directory / file)
    lines = [said.table, *said.summary, "", f"report in {directory / PAGE}"]
    return Result("\n".join(lines), {"out": str(directory), **content})


@dataclass(frozen=True)
class _Said:
    """What the JSON of a measurement has for people."""

    table: str
    summary: tuple[str, ...]


def named_value(score: AnyScore) -> str:
    """Return the name of a validation score in JSON."""
    return {"R²": "validation_r2"}.get(score.metric, f"validation_{score.metric}")


def obtained(request: Options) -> dict[str, Any]:
    """Return how to get a result again, for its page."""
    from consilience.versions import versions

    return {"command": command_line(request), "seed": request.seed, "versions": versions()}


def digest_of(artefact: Path) -> str:
    """Return a digest of the files of an artefact, wherever it lies."""
    from consilience.store import read_config

    files = json.dumps(read_config(artefact)["files"], sort_keys=True)
    return hashlib.sha256(files.encode()).hexdigest()[:16]
