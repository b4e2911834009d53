"""The table of a report: every method, its scores with standard errors, what it costs; as markdown and as HTML.

The best value of each column of scores is marked within each group of rows, because groups differ in what they cost:
an ensemble has the parameters of all its members, and an assembly of full width is that ensemble.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from consilience.report.results import Row

GROUPS = {"members": "Members", "alternative": "Alternatives", "assembly": "Assemblies"}


@dataclass(frozen=True)
class Column:
    """A column: its heading, the samples it is about, how a cell is written, and how good it is (None: neither)."""

    heading: str
    about: str
    write: Callable[[Row], str]
    goodness: Callable[[Row], float] | None = None


COLUMNS = (
    Column("Method", "", lambda row: row.method),
    Column("Width", "", lambda row: row.width),
    Column("Parameters", "", lambda row: f"{row.parameters:,}"),
    Column(
        "accuracy (%)", "Test", lambda row: accuracy(row.test.accuracy, row.test.accuracy_se),
        lambda row: row.test.accuracy,
    ),
    Column("loss", "Test", lambda row: loss(row.test.loss), lambda row: -row.test.loss),
    Column(
        "accuracy (%)", "Validation", lambda row: accuracy(row.validation.accuracy, row.validation.accuracy_se),
        lambda row: row.validation.accuracy,
    ),
    Column("loss", "Validation", lambda row: loss(row.validation.loss), lambda row: -row.validation.loss),
    Column("Steps", "", lambda row: f"{row.steps:,}"),
    Column("Seconds", "", lambda row: seconds(row.seconds)),
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """What is written in one place of the table, and whether it is the best of its column in its group of rows."""

    text: str
    best: bool


def accuracy(share: float, error: float) -> str:
    """Write an accuracy and its standard error, shares of 1, in %.

    >>> accuracy(0.9722, 0.0087)
    '97.22 ± 0.87'
    """
    return f"{100 * share:.2f} ± {100 * error:.2f}" if math.isfinite(share) else "–"


def loss(value: float) -> str:
    """Write a loss with three decimals.

    >>> loss(0.0913), loss(float("nan"))
    ('0.091', '–')
    """
    return f"{value:.3f}" if math.isfinite(value) else "–"


def seconds(value: float) -> str:
    """Write seconds with two digits, or without decimals from ten on.

    >>> [seconds(value) for value in (0.0, 0.0123, 3.21, 1234.5)]
    ['0', '0.012', '3.2', '1,234']
    """
    return f"{value:,.0f}" if value >= 9.95 or value == 0 else f"{value:.2g}"


def grouped(rows: Sequence[Row]) -> dict[str, list[list[Cell]]]:
    """Return the cells of the rows of each group, groups and rows in the order given."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    return {group: _cells(members) for group, members in groups.items()}


def samples(rows: Sequence[Row]) -> dict[str, str]:
    """Return the headings "Test" and "Validation" with their numbers of samples, if these are the same for all rows."""
    counts = {"Test": {row.test.n for row in rows}, "Validation": {row.validation.n for row in rows}}
    return {name: f"{name} (n = {next(iter(n)):,})" if len(n) == 1 else name for name, n in counts.items()}


def markdown_table(rows: Sequence[Row]) -> str:
    """Write the table as GitHub markdown, aligned so that it can be read in a terminal too.

    Returns
    -------
    One line per row below two of heading, a line with the name of each group before its rows; the best values are bold.
    """
    about = samples(rows)
    lines = [[f"{about[column.about]} {column.heading}" if column.about else column.heading for column in COLUMNS]]
    for group, members in grouped(rows).items():
        lines.append([f"*{_markdown(GROUPS.get(group, group))}*"] + [""] * (len(COLUMNS) - 1))
        lines += [
            [f"**{_markdown(cell.text)}**" if cell.best else _markdown(cell.text) for cell in row] for row in members
        ]
    width = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = [
        [text.rjust(n) if index > 1 else text.ljust(n) for index, (text, n) in enumerate(zip(line, width, strict=True))]
        for line in lines
    ]
    rule = ["-" * (n - 1) + ":" if index > 1 else "-" * n for index, n in enumerate(width)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [padded[0], rule, *padded[1:]]) + "\n"


def html_table(rows: Sequence[Row]) -> str:
    """Write the table as HTML: two lines of heading, a body per group."""
    about = samples(rows)
    names = "".join(f'<th scope="col" rowspan="2">{column.heading}</th>' for column in COLUMNS[:3])
    costs = "".join(f'<th scope="col" rowspan="2">{column.heading}</th>' for column in COLUMNS[-2:])
    sets = "".join(f'<th scope="colgroup" colspan="2">{escape(text)}</th>' for text in about.values())
    scores = "".join(f'<th scope="col">{column.heading}</th>' for column in COLUMNS if column.about)
    bodies = "\n".join(_body(group, members) for group, members in grouped(rows).items())
    return f"<table>\n<thead>\n<tr>{names}{sets}{costs}</tr>\n<tr>{scores}</tr>\n</thead>\n{bodies}\n</table>"


def _cells(rows: Sequence[Row]) -> list[list[Cell]]:
    best = [_best(rows, column) for column in COLUMNS]
    return [
        [Cell(column.write(row), column.write(row) == mark) for column, mark in zip(COLUMNS, best, strict=True)]
        for row in rows
    ]


def _best(rows: Sequence[Row], column: Column) -> str | None:
    """Return how the best value of a column is written, so that rows that read the same are marked alike."""
    if column.goodness is None or len(rows) < 2:
        return None
    ranked = [(goodness, column.write(row)) for row in rows if math.isfinite(goodness := column.goodness(row))]
    return max(ranked)[1] if ranked else None


def _body(group: str, rows: Sequence[Sequence[Cell]]) -> str:
    lines = [
        f'<tr class="group"><th scope="rowgroup" colspan="{len(COLUMNS)}">{escape(GROUPS.get(group, group))}</th></tr>'
    ]
    for row in rows:
        cells = "".join(
            f"<td><strong>{escape(cell.text)}</strong></td>" if cell.best else f"<td>{escape(cell.text)}</td>"
            for cell in row[1:]
        )
        lines.append(f'<tr><th scope="row">{escape(row[0].text)}</th>{cells}</tr>')
    return "<tbody>\n" + "\n".join(lines) + "\n</tbody>"


def _markdown(text: str) -> str:
    for special in ("\\", "|", "<", "*", "_", "`"):
        text = text.replace(special, "\\" + special)
    return " ".join(text.split())
