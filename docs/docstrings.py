"""Docstrings of this package as Markdown: a section's ``name : what it is`` lines become a list, doctests a block."""

from __future__ import annotations

import re
from collections.abc import Iterator

import griffe

SECTIONS = ("Parameters", "Attributes", "Returns", "Raises", "Examples", "Notes", "References")
ENTRY = re.compile(r"^(\*{0,2}\w[\w.]*(?:, \*{0,2}\w[\w.]*)*) : (.*)$")


class Docstrings(griffe.Extension):
    """Rewrites each docstring before it is rendered."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        """Rewrite the docstring of an object."""
        if obj.docstring is not None:
            obj.docstring.value = "\n".join(_markdown(obj.docstring.value.splitlines()))


def _markdown(lines: list[str]) -> Iterator[str]:
    in_code = False
    for i, line in enumerate(lines):
        following = lines[i + 1] if i + 1 < len(lines) else ""
        entry = ENTRY.match(line)
        if in_code and not line.strip():
            yield "```"
            in_code = False
        if line in SECTIONS and re.fullmatch("-+", following):
            yield f"**{line}**\n"
        elif re.fullmatch("-{3,}", line):
            continue
        elif line.startswith(">>>") and not in_code:
            yield f"```python\n{line}"
            in_code = True
        elif entry:
            names = ", ".join(f"`{name}`" for name in entry[1].split(", "))
            yield f"- {names}: {entry[2]}"
        else:
            yield line
    if in_code:
        yield "```"
