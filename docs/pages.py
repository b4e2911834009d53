"""Pages of the site that are made when it is built: the start page, and the references.

- The start page is README.md, with its links as they are from ``docs/``.
- The Python reference lists the names that ``import consilience`` gives, by room.
- The reference of commands is what their ``--help`` prints; that of operations is the tables of ``units/operations``.
"""

from __future__ import annotations

import contextlib
import io
import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)*((?!https?:|#|docs/)[\w./-]+)\)")  # a link to a file that is no page
COLUMNS = "100"  # of the terminal that helps are printed for


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made here."""
    made = {
        "index.md": _start(),
        "reference/python.md": _python(),
        "reference/commands.md": _commands(),
        "reference/operations.md": _operations(),
    }
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leave the text of links to files of the repository that are no pages."""
    folder = posixpath.dirname(page.file.src_uri)

    def kept(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link[2].partition("#")[0]))
        return link[1] if target.startswith("..") else link[0]

    return re.sub(r"\[([^\]]+)\]\((\.\./[\w./#-]+)\)", kept, markdown)


def _start() -> str:
    text = (ROOT / "README.md").read_text()
    return OUTSIDE.sub(r"\1", text).replace("](docs/", "](")


def _python() -> str:
    import consilience
    from consilience import _ROOMS  # where each public name lives

    lines = ["# Python", "", "`import consilience as cs` gives these names.", ""]
    for room, names in _ROOMS.items():
        lines += [f"## {room.partition('.')[0].capitalize()}", ""]
        for name in names:
            home = getattr(consilience, name).__module__
            lines += [f"::: {home}.{name}", ""]
    return "\n".join(lines)


def _commands() -> str:
    helps = dict(_helps())
    lines = ["# Command line", "", "What `consilience VERB --help` prints.", ""]
    for verb, text in helps.items():
        lines += [f"## {verb}", "", "```text", text.strip(), "```", ""]
    return "\n".join(lines)


def _helps() -> Iterator[tuple[str, str]]:
    overview = _printed("--help")
    yield "consilience", overview
    (verbs,) = re.findall(r"\{([a-z,]+)\}", overview)[:1]
    for verb in verbs.split(","):
        yield f"consilience {verb}", _printed(verb, "--help")


def _printed(*arguments: str) -> str:
    from consilience.cli import main

    printed, plain = io.StringIO(), {"COLUMNS": COLUMNS, "NO_COLOR": "1", "TERM": "dumb"}
    with patch.dict(os.environ, plain), contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main([*arguments])
    return re.sub(r"\x1b\[[\d;]*m", "", printed.getvalue())


def _operations() -> str:
    from consilience.units.operations import HANDLERS

    by_file: dict[str, list[str]] = {}
    for operation, handler in HANDLERS.items():
        function = getattr(handler, "func", handler)
        by_file.setdefault(function.__module__.rpartition(".")[2], []).append(f"`{operation}`")
    lines = [
        "# Operations",
        "",
        "ATen operations that a traced module may use, by the file in `units/operations` that says what they do to",
        "units. What they mean for a network is in [networks](../networks.md).",
        "",
    ]
    for file, names in by_file.items():
        lines += [f"## {file}", "", " ".join(sorted(names)), ""]
    return "\n".join(lines)
