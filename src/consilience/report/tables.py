"""One table, written as markdown for a terminal or a file, and as HTML for a page (``templates/parts.html.j2``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    heading: str  # its name
    over: str = ""  # heading that it shares with its neighbors; "" for none
    is_text: bool = False  # whether cells are aligned on the left


@dataclass(frozen=True)
class Cell:
    """A text, and whether it is set in bold."""

    text: str
    bold: bool = False


@dataclass(frozen=True)
class Table:
    """Cells by group of rows, row and column.

    >>> table = Table.plain([Column("Name", is_text=True), Column("Loss")], [["a_b", "0.1"], ["c", "0.25"]])
    >>> print(table.markdown(), end="")
    | Name | Loss |
    | ---- | ---: |
    | a\\_b |  0.1 |
    | c    | 0.25 |
    """

    columns: Sequence[Column]  # from the left
    # name of a group → its rows; a group named "" has no line of its own
    groups: Mapping[str, Sequence[Sequence[Cell]]]

    @classmethod
    def plain(cls, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> Table:
        """Return a table of one group without a name and without bold cells."""
        return cls(columns, {"": [[Cell(text) for text in row] for row in rows]})

    @property
    def spans(self) -> list[tuple[str, list[Column]]]:
        """Neighboring columns by their shared heading; columns without one are alone."""
        runs = groupby(enumerate(self.columns), lambda item: item[1].over or item[0])
        return [(columns[0].over, columns) for columns in ([column for _, column in run] for _, run in runs)]

    def markdown(self) -> str:
        """Return GitHub markdown, aligned so that it can be read in a terminal too."""
        lines = [[f"{column.over} {column.heading}".strip() for column in self.columns]]
        for name, rows in self.groups.items():
            if name:
                lines.append([f"*{_escaped(name)}*"] + [""] * (len(self.columns) - 1))
            lines += [[f"**{_escaped(c.text)}**" if c.bold else _escaped(c.text) for c in row] for row in rows]
        widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
        layout = list(zip(widths, [column.is_text for column in self.columns], strict=True))
        rule = ["-" * n if is_text else "-" * (n - 1) + ":" for n, is_text in layout]
        padded = [
            [text.ljust(n) if is_text else text.rjust(n) for text, (n, is_text) in zip(line, layout, strict=True)]
            for line in lines
        ]
        return "".join(f"| {' | '.join(line)} |\n" for line in [padded[0], rule, *padded[1:]])


def _escaped(text: str) -> str:
    for special in ("\\", "|", "<", "*", "_", "`"):
        text = text.replace(special, "\\" + special)
    return " ".join(text.split())
