"""The scores of an experiment as a table: every method, its scores with standard errors, what it costs.

The best value of each column of scores is bold within each group of rows, because groups differ in what they cost: an
ensemble has the parameters of all its members, and an assembly of full width is that ensemble.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from consilience.evaluation import AnyScore, RegressionScore
from consilience.report.numbers import decimal, with_spread
from consilience.report.results import Row
from consilience.report.tables import Cell, Column, Table

MOST_OUTPUTS = 3  # whose errors are written
GROUPS = {"members": "Members", "alternative": "Alternatives", "assembly": "Assemblies"}


@dataclass(frozen=True)
class Value:
    """A column: heading, the samples it is about, how a cell is written, and how good it is (None: neither)."""

    heading: str
    over: str
    write: Callable[[Row], str]
    goodness: Callable[[Row], float] | None = None


def _scores(over: str, of: Callable[[Row], AnyScore], metric: str) -> tuple[Value, Value]:
    """Return the columns of accuracy and loss, or R² and RMSE, on test or validation samples."""
    second = Value("RMSE", over, lambda row: rmse(of(row)), lambda row: -_mean_rmse(of(row)))
    if metric != RegressionScore.metric:
        second = Value("loss", over, lambda row: decimal(of(row).loss, 3), lambda row: -of(row).loss)
    return Value(f"{metric} (%)", over, lambda row: quality(of(row)), lambda row: of(row).quality), second


def _values(rows: Sequence[Row]) -> list[Value]:
    """Return the columns of a table; those of the ensemble are left out where nothing was compared with it."""
    metric = rows[0].test.metric if rows else "accuracy"
    nearness = (
        Value("error", "Ensemble", lambda row: "" if row.closeness is None else f"{row.closeness.error:.2g}"),
        Value("worth", "Ensemble", lambda row: "" if row.closeness is None else f"{row.closeness.worth:.1f}"),
    )
    return [
        Value("Method", "", lambda row: row.method),
        Value("Width", "", lambda row: row.width),
        Value("Parameters", "", lambda row: f"{row.parameters:,}"),
        *_scores("Test", lambda row: row.test, metric),
        *(nearness if any(row.closeness for row in rows) else ()),
        *_scores("Validation", lambda row: row.validation, metric),
        Value("Steps", "", lambda row: f"{row.steps:,}"),
        Value("Seconds", "", lambda row: seconds(row.seconds)),
    ]


def score_table(rows: Sequence[Row]) -> Table:
    """Return the table of an experiment, groups and rows in the order given.

    The headings "Test" and "Validation" have their numbers of samples, if these are the same for all rows.
    """
    counts = {"Test": {row.test.n for row in rows}, "Validation": {row.validation.n for row in rows}}
    over = {name: f"{name} (n = {min(n):,})" if len(n) == 1 else name for name, n in counts.items()}
    values = _values(rows)
    columns = [Column(v.heading, over.get(v.over, v.over), v.heading in ("Method", "Width")) for v in values]
    groups = dict.fromkeys(row.role.group for row in rows)
    return Table(columns, {GROUPS[name]: _cells([r for r in rows if r.role.group == name], values) for name in groups})


def markdown_table(rows: Sequence[Row]) -> str:
    """Return the table as GitHub markdown, aligned so that it can be read in a terminal too."""
    return score_table(rows).markdown()


def quality(score: AnyScore) -> str:
    """Write an accuracy, or R², and its standard error in %.

    >>> from consilience.evaluation import Score
    >>> quality(Score(0.9722, 0.0087, 0.1, 360))
    '97.22 ± 0.87'
    """
    return with_spread(100 * score.quality, 100 * score.quality_se) if math.isfinite(score.quality) else "–"


def rmse(score: AnyScore) -> str:
    """Write the root mean squared errors of the first outputs, in their own units.

    >>> rmse(RegressionScore(0.5, 0.1, (53.271, 0.0123), 89))
    '53.3, 0.0123'
    """
    each = score.rmse if isinstance(score, RegressionScore) else ()
    return ", ".join(f"{error:#.3g}".rstrip(".") for error in each[:MOST_OUTPUTS]) + ", …" * (len(each) > MOST_OUTPUTS)


def seconds(value: float) -> str:
    """Write seconds with two digits, or without decimals from ten on.

    >>> [seconds(value) for value in (0.0, 0.0123, 3.21, 1234.5)]
    ['0', '0.012', '3.2', '1,234']
    """
    return f"{value:,.0f}" if value >= 9.95 or value == 0 else f"{value:.2g}"


def _cells(rows: Sequence[Row], values: Sequence[Value]) -> list[list[Cell]]:
    best = [_best(rows, value) for value in values]
    texts = [[value.write(row) for value in values] for row in rows]
    return [[Cell(text, text == mark) for text, mark in zip(line, best, strict=True)] for line in texts]


def _mean_rmse(score: AnyScore) -> float:
    each = score.rmse if isinstance(score, RegressionScore) else ()
    return sum(each) / len(each) if len(each) == 1 else math.nan  # outputs differ in units


def _best(rows: Sequence[Row], value: Value) -> str | None:
    """Return how the best value of a column is written, so that rows that read the same are marked alike."""
    if value.goodness is None or len(rows) < 2:
        return None
    ranked = [(goodness, value.write(row)) for row in rows if math.isfinite(goodness := value.goodness(row))]
    return max(ranked)[1] if ranked else None
