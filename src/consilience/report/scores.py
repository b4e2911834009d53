"""The scores of an experiment as a table: every method, its scores with standard errors, what it costs.

The best value of each column of scores is bold within each group of rows, because groups differ in what they cost: an
ensemble has the parameters of all its members, and an assembly of full width is that ensemble.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from consilience.report.results import Row
from consilience.report.tables import Cell, Column, Table

GROUPS = {"members": "Members", "alternative": "Alternatives", "assembly": "Assemblies"}
Goodness = Callable[[Row], float] | None

WRITE: tuple[tuple[str, str, Callable[[Row], str], Goodness], ...] = (  # over, heading, text of a cell, how good it is
    ("", "Method", lambda row: row.method, None),
    ("", "Width", lambda row: row.width, None),
    ("", "Parameters", lambda row: f"{row.parameters:,}", None),
    ("Test", "accuracy (%)", lambda row: accuracy(row.test.accuracy, row.test.accuracy_se), lambda r: r.test.accuracy),
    ("Test", "loss", lambda row: loss(row.test.loss), lambda row: -row.test.loss),
    (
        "Validation",
        "accuracy (%)",
        lambda row: accuracy(row.validation.accuracy, row.validation.accuracy_se),
        lambda row: row.validation.accuracy,
    ),
    ("Validation", "loss", lambda row: loss(row.validation.loss), lambda row: -row.validation.loss),
    ("", "Steps", lambda row: f"{row.steps:,}", None),
    ("", "Seconds", lambda row: seconds(row.seconds), None),
)


def score_table(rows: Sequence[Row]) -> Table:
    """Return the table of an experiment, groups and rows in the order given.

    The headings "Test" and "Validation" have their numbers of samples, if these are the same for all rows.
    """
    counts = {"Test": {row.test.n for row in rows}, "Validation": {row.validation.n for row in rows}}
    over = {name: f"{name} (n = {n.copy().pop():,})" if len(n) == 1 else name for name, n in counts.items()}
    columns = [Column(heading, over.get(about, ""), heading in ("Method", "Width")) for about, heading, *_ in WRITE]
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.role.group, []).append(row)
    return Table(columns, {GROUPS[name]: _cells(members) for name, members in groups.items()})


def markdown_table(rows: Sequence[Row]) -> str:
    """Return the table as GitHub markdown, aligned so that it can be read in a terminal too."""
    return score_table(rows).markdown()


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


def _cells(rows: Sequence[Row]) -> list[list[Cell]]:
    texts = [[write(row) for *_, write, _ in WRITE] for row in rows]
    best = [_best(rows, write, goodness) for *_, write, goodness in WRITE]
    return [[Cell(text, text == mark) for text, mark in zip(line, best, strict=True)] for line in texts]


def _best(rows: Sequence[Row], write: Callable[[Row], str], goodness: Goodness) -> str | None:
    """Return how the best value of a column is written, so that rows that read the same are marked alike."""
    if goodness is None or len(rows) < 2:
        return None
    ranked = [(value, write(row)) for row in rows if math.isfinite(value := goodness(row))]
    return max(ranked)[1] if ranked else None
