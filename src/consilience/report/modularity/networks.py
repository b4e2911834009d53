"""Networks and how modular they are, as a table: markdown for a terminal, and HTML.

Networks of different sizes are compared by how far the n-cut is *below* that of their own shuffled copies, as a share
of it: z grows with the number of units, and so does the n-cut by chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from consilience.errors import InputError

MOST = 5  # decimals; a spread that is 0 to so many is rounding


@dataclass(frozen=True)
class NetworkRow:
    """One network.

    Attributes
    ----------
    name : of the network.
    kind : "member", "assembly" or "network".
    accuracy : 0 to 1; None if it is not known.
    n_units : inputs and outputs among them.
    n_removed : units without an edge.
    n_cut : of its clusters.
    null_mean, null_sd : of the n-cuts of its shuffled copies.
    z, p : of the n-cut among these; low is modular.
    cross : cross-cluster modularity C, of clusters found in each weight matrix by itself, mean over matrices; NaN if it
        was not measured.
    cross_null : mean of the same of shuffled matrices.
    """

    name: str
    kind: str
    accuracy: float | None
    n_units: int
    n_removed: int
    n_cut: float
    null_mean: float
    null_sd: float
    z: float
    p: float
    cross: float
    cross_null: float

    @property
    def below(self) -> float:
        """1 − n-cut / mean of the null: how far the n-cut is below its copies', as a share; NaN without a null."""
        return 1 - self.n_cut / self.null_mean if self.null_mean > 0 else math.nan


@dataclass(frozen=True)
class Column:
    """A column: its heading, how a cell is written, and how the mean over members is."""

    heading: str
    write: Callable[[NetworkRow], str]
    mean: Callable[[Sequence[NetworkRow]], str]


def decimal(value: float | None, digits: int = 2) -> str:
    """Write a number with so many decimals, and none that is not known as a dash.

    >>> decimal(8.884), decimal(float("nan")), decimal(-0.04, 1)
    ('8.88', '–', '0.0')
    """
    return f"{round(value, digits) + 0.0:.{digits}f}" if value is not None and math.isfinite(value) else "–"


def with_spread(mean: float, sd: float, digits: int = 2) -> str:
    """Write a mean and a standard deviation, if there is any, with as many decimals as one digit of the latter needs.

    >>> with_spread(9.18, 0.03), with_spread(9.1803, 0.0041), with_spread(9.18, float("nan"))
    ('9.18 ± 0.03', '9.180 ± 0.004', '9.18')
    """
    if not sd >= 0.5 * 10**-MOST or not math.isfinite(mean):
        return decimal(mean, digits)
    digits = min(MOST, max(digits, math.ceil(-math.log10(sd))))
    return f"{decimal(mean, digits)} ± {decimal(sd, digits)}"


def probability(p: float) -> str:
    """Write a p-value with two digits.

    >>> probability(1 / 51), probability(1.0)
    ('0.02', '1')
    """
    return f"{p:.2g}" if math.isfinite(p) else "–"


def mean_and_sd(values: Sequence[float | None]) -> tuple[float, float]:
    """Return mean and standard deviation of the finite values; NaN where there are none, or only one.

    >>> mean_and_sd([1.0, 3.0, None, float("nan")])
    (2.0, 1.4142135623730951)
    """
    known = [value for value in values if value is not None and math.isfinite(value)]
    mean = float(np.mean(known)) if known else math.nan
    return mean, float(np.std(known, ddof=1)) if len(known) > 1 else math.nan


def _number(heading: str, value: Callable[[NetworkRow], float | None], digits: int, factor: float = 1.0) -> Column:
    def scaled(row: NetworkRow) -> float | None:
        known = value(row)
        return None if known is None else factor * known

    return Column(
        heading,
        lambda row: decimal(scaled(row), digits),
        lambda rows: with_spread(*mean_and_sd([scaled(row) for row in rows]), digits),
    )


COLUMNS = (
    Column("Network", lambda row: row.name, lambda rows: f"mean ± sd of {len(rows)} members"),
    Column("Kind", lambda row: row.kind, lambda _: "members"),
    _number("Accuracy (%)", lambda row: row.accuracy, 2, 100),
    _number("Units", lambda row: row.n_units, 0),
    _number("No edge", lambda row: row.n_removed, 0),
    _number("n-cut", lambda row: row.n_cut, 2),
    Column(
        "Shuffled", lambda row: with_spread(row.null_mean, row.null_sd),
        lambda rows: with_spread(*mean_and_sd([row.null_mean for row in rows])),
    ),
    _number("Below (%)", lambda row: row.below, 1, 100),
    _number("z", lambda row: row.z, 1),
    Column("p", lambda row: probability(row.p) if math.isfinite(row.null_mean) else "–", lambda _: ""),
    _number("C", lambda row: row.cross, 2),
    _number("C shuffled", lambda row: row.cross_null, 2),
)  # fmt: skip


def modularity_table(rows: Sequence[NetworkRow]) -> str:
    """Write the table of the networks as GitHub markdown, aligned so that it can be read in a terminal too.

    Several members are followed by a line with their means and standard deviations.

    Raises
    ------
    InputError
        If there is no network.
    """
    lines = [[column.heading for column in COLUMNS], *_cells(rows)]
    lines = [[" ".join(text.replace("|", "\\|").split()) for text in line] for line in lines]
    width = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    padded = [
        [text.ljust(n) if index < 2 else text.rjust(n) for index, (text, n) in enumerate(zip(line, width, strict=True))]
        for line in lines
    ]
    rule = ["-" * n if index < 2 else "-" * (n - 1) + ":" for index, n in enumerate(width)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [padded[0], rule, *padded[1:]]) + "\n"


def html_of_networks(rows: Sequence[NetworkRow]) -> str:
    """Write the same table as HTML.

    Raises
    ------
    InputError
        If there is no network.
    """
    heading = "".join(f'<th scope="col">{column.heading}</th>' for column in COLUMNS)
    lines = [
        f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{escape(text)}</td>" for text in cells)}</tr>'
        for name, *cells in _cells(rows)
    ]
    body = "\n".join(lines)
    return f"<table>\n<thead>\n<tr>{heading}</tr>\n</thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def _cells(rows: Sequence[NetworkRow]) -> list[list[str]]:
    """The texts of all lines; that of the members' means follows the last of them."""
    if not rows:
        raise InputError("there is no network to tell of", where="rows", got="none", expected="one or more")
    lines = [[column.write(row) for column in COLUMNS] for row in rows]
    members = [index for index, row in enumerate(rows) if row.kind == "member"]
    if len(members) > 1:
        lines.insert(members[-1] + 1, [column.mean([rows[index] for index in members]) for column in COLUMNS])
    return lines
