"""Tutorials: every script of docs/tutorials is run when the site is built, and becomes a page with its real output.

A script has cells, in the percent format that editors and Jupytext open as a notebook: ``# %% [markdown]`` stands
before a text in comments, ``# %%`` before code. What a cell prints and the figures of pyplot that it draws stand
below it. Each script runs in an empty directory. An error fails the build, and so does a warning from the script or
from this package.
"""

from __future__ import annotations

import contextlib
import functools
import io
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

TUTORIALS = Path(__file__).parent / "tutorials"
LINK = re.compile(r"(?<=\]\()(tutorials/\w+)\.py\b")
CELL = re.compile(r"^# %%(.*)\n", flags=re.MULTILINE)
Pictures = dict[str, bytes]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each script, and its pictures."""
    for script in sorted(TUTORIALS.glob("*.py")):
        page, pictures = run_script(script, script.read_text())
        files.append(File.generated(config, f"tutorials/{script.stem}.md", content=page))
        for name, picture in pictures.items():
            files.append(File.generated(config, f"tutorials/{name}", content=picture))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Let links to scripts, which readers of the repository follow, lead to their pages."""
    return LINK.sub(r"\1.md", markdown)


@functools.cache  # `mkdocs serve` builds the site after every edit
def run_script(script: Path, text: str) -> tuple[str, Pictures]:
    """Run a script of this text; return its page, and its pictures by name."""
    import matplotlib as mpl

    from consilience.report.style import STYLE

    namespace: dict[str, object] = {"__name__": "__main__", "__file__": str(script)}
    parts, pictures = list[str](), Pictures()
    with TemporaryDirectory() as folder, contextlib.chdir(folder), mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other packages: that a disk is slow, say
        warnings.filterwarnings("error", module=r"(__main__|consilience)\b")
        mpl.use("agg")
        for kind, line, source in _cells(text):
            if kind == "[markdown]":
                parts.append(re.sub(r"^# ?", "", source, flags=re.MULTILINE))
                continue
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):  # of progress bars
                exec(compile("\n" * line + source, str(script), "exec"), namespace)
            parts.append(f"```python\n{source}\n```")
            if printed.getvalue():
                parts.append(f"```text\n{printed.getvalue().rstrip()}\n```")
            for picture in _drawn():
                name = f"{script.stem}-{len(pictures) + 1}.svg"
                pictures[name] = picture
                parts.append(f"![Figure {len(pictures)}]({name})")
    parts.append(f"[This page is a script]({script.name}), which was run when the site was built.")
    return "\n\n".join(parts), pictures


def _cells(text: str) -> Iterator[tuple[str, int, str]]:
    """The kind of each cell, the number of lines before it, and its text."""
    marks = list(CELL.finditer(text))
    for mark, following in zip(marks, [*marks[1:], None], strict=True):
        source = text[mark.end() : following.start() if following else len(text)]
        yield mark[1].strip(), text.count("\n", 0, mark.end()), source.strip("\n")


def _drawn() -> Iterator[bytes]:
    """The open figures of pyplot, as SVG; closes them."""
    import matplotlib.pyplot as plt

    for number in plt.get_fignums():
        picture = io.BytesIO()
        plt.figure(number).savefig(picture, format="svg", metadata={"Date": None})
        plt.close(number)
        yield picture.getvalue()
