"""What a command gives, and how a finished result is read again instead of made twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from consilience.errors import ArtefactError
from consilience.studies.request import Options, Output, command_line, identity

if TYPE_CHECKING:
    from rich.console import RichCast

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
    from consilience.store import check_destination

    key = identity(request, **inputs)
    if check_destination(request.out, kind):
        refuse_another(request.out, kind, key)
        return read(request.out)
    value = make()
    write(value, request.out, {"request": key})
    return value


def refuse_another(directory: Path, kind: str, key: dict[str, Any], held: dict[str, Any] | None = None) -> None:
    """Raise if the result in a directory was made for another request, by default the one in its ``config.json``."""
    from consilience.store import read_config

    held = held or read_config(directory).get("request", {})
    differing = sorted(name for name in {*held, *key} if held.get(name) != key.get(name))
    if differing:
        raise ArtefactError(
            f"--out must not hold another {kind}, got {directory} with a result that differs in {', '.join(differing)}",
            cure="choose another --out, or delete that directory",
        )


def run_paged(
    request: Output, kind: str, file: str, inputs: dict[str, Any], make: Callable[[], tuple[str, str]]
) -> Result:
    """Return the table of a measurement, its sentences, and where its page is.

    ``make`` returns the text of the JSON file, which has a table and a summary, and the text of the page.
    """
    from consilience.store import write_artefact

    def write(texts: tuple[str, str], directory: Path, config: dict[str, Any]) -> None:
        write_artefact(directory, kind, config, {}, extra_files={file: texts[0], PAGE: texts[1]})

    def read(directory: Path) -> tuple[str, str]:
        return (directory / file).read_text(), ""

    content = json.loads(run_cached(request, kind, inputs, make, write, read)[0])
    lines = [content["table"], *content["summary"], "", f"report in {request.out / PAGE}"]
    return Result("\n".join(lines), {"out": str(request.out), **content})


def obtained(request: Options) -> dict[str, Any]:
    """Return how to get a result again, for its page."""
    from consilience.store.config import versions

    return {"command": command_line(request), "seed": request.seed, "versions": versions()}


def digest_of(artefact: Path) -> str:
    """Return a digest of the files of an artefact, wherever it lies."""
    from consilience.store import read_config

    files = json.dumps(read_config(artefact)["files"], sort_keys=True)
    return hashlib.sha256(files.encode()).hexdigest()[:16]
