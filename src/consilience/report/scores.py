"""The scores of an experiment as a table: every method, its scores with standard errors, what it costs.

The best value of each column of scores is bold within each group of rows, because groups differ in what they cost: an
ensemble has the parameters of all its members, and an assembly of full width is that ensemble.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from consilience.evaluation import Score
from consilience.report.numbers import decimal, with_spread
from consilience.report.results import Row
from consilience.report.tables import Cell, Column, Table

GROUPS = {"members": "Members", "alternative": "Alternatives", "assembly": "Assemblies"}


@dataclass(frozen=True)
class Value:
    """A column: heading, the samples it is about, how a cell is written, and how good it is (None: neither)."""

    heading: str
    over: str
    write: Callable[[Row], str]
    goodness: Callable[[Row], float] | None = None


def _scores(over: str, of: Callable[[Row], Score]) -> tuple[Value, Value]:
    """Return the columns of accuracy and loss on test or validation samples."""
    return (
        Value("accuracy (%)", over, lambda row: accuracy(of(row)), lambda row: of(row).accuracy),
        Value("loss", over, lambda row: decimal(of(row).loss, 3), lambda row: -of(row).loss),
    )


VALUES = (
    Value("Method", "", lambda row: row.method),
    Value("Width", "", lambda row: row.width),
    Value("Parameters", "", lambda row: f"{row.parameters:,}"),
    *_scores("Test", lambda row: row.test),
    *_scores("Validation", lambda row: row.validation),
    Value("Steps", "", lambda row: f"{row.steps:,}"),
    Value("Seconds", "", lambda row: seconds(row.seconds)),
)


def score_table(rows: Sequence[Row]) -> Table:
    """Return the table of an experiment, groups and rows in the order given.

    The headings "Test" and "Validation" have their numbers of samples, if these are the same for all rows.
    """
    counts = {"Test": {row.test.n for row in rows}, "Validation": {row.validation.n for row in rows}}
    over = {name: f"{name} (n = {min(n):,})" if len(n) == 1 else name for name, n in counts.items()}
    columns = [Column(v.heading, over.get(v.over, ""), v.heading in ("Method", "Width")) for v in VALUES]
    groups = dict.fromkeys(row.role.group for row in rows)
    return Table(columns, {GROUPS[name]: _cells([row for row in rows if row.role.group == name]) for name in groups})


def markdown_table(rows: Sequence[Row]) -> str:
    """Return the table as GitHub markdown, aligned so that it can be read in a terminal too."""
    return score_table(rows).markdown()


def accuracy(score: Score) -> str:
    """Write an accuracy and its standard error in %.

    >>> accuracy(Score(0.9722, 0.0087, 0.1, 360))
    '97.22 ± 0.87'
    """
    return with_spread(100 * score.accuracy, 100 * score.accuracy_se) if math.isfinite(score.accuracy) else "–"


def seconds(value: float) -> str:
    """Write seconds with two digits, or without decimals from ten on.

    >>> [seconds(value) for value in (0.0, 0.0123, 3.21, 1234.5)]
    ['0', '0.012', '3.2', '1,234']
    """
    return f"{value:,.0f}" if value >= 9.95 or value == 0 else f"{value:.2g}"


def _cells(rows: Sequence[Row]) -> list[list[Cell]]:
    best = [_best(rows, value) for value in VALUES]
    texts = [[value.write(row) for value in VALUES] for row in rows]
    return [[Cell(text, text == mark) for text, mark in zip(line, best, strict=True)] for line in texts]


def _best(rows: Sequence[Row], value: Value) -> str | None:
    """Return how the best value of a column is written, so that rows that read the same are marked alike."""
    if value.goodness is None or len(rows) < 2:
        return None
    ranked = [(goodness, value.write(row)) for row in rows if math.isfinite(goodness := value.goodness(row))]
    return max(ranked)[1] if ranked else None
