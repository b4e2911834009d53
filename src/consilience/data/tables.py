"""Tables: columns of numbers, by name, of a .csv or .parquet file become inputs and targets.

- A .csv file has its names in the first line, and commas, semicolons or tabs between its fields.
- Empty fields are NaN, which the check of the data then names by row.
- One column of targets may hold names of classes: they become 0, 1, … in the order of the alphabet.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from consilience.checks import check_names
from consilience.errors import InputError

LABEL_COLUMNS = ("label", "y")
TARGET = "name the column of labels by target (--target), or rename or drop columns"
SEPARATORS = ",;\t"
MISSING = {"", "na", "n/a", "null", "none"}  # besides what float() reads as NaN
MOST_NAMED = 8


@dataclass(frozen=True)
class Columns:
    """The columns of a table that the user names."""

    inputs: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()


class Column(NamedTuple):
    """Values (n,), of float64 if they are numbers, and their type as the file has it."""

    values: np.ndarray
    kind: str

    @property
    def is_number(self) -> bool:
        """Whether the values are numbers."""
        return self.values.dtype.kind == "f"


@dataclass(frozen=True)
class Table:
    """Inputs (n, d), targets (n,) or (n, o), the columns in words, and the names of classes if targets are names."""

    x: np.ndarray
    y: np.ndarray
    read_as: str
    classes: tuple[str, ...] = ()


def read_table(path: Path, columns: Columns) -> Table:
    """Read the columns that the user names, by default those of `LABEL_COLUMNS` and all others."""
    names, table = _read_csv(path) if path.suffix.lower() == ".csv" else _read_parquet(path)
    check_names("columns", columns.inputs, names)
    check_names("target", columns.targets, names)
    targets = list(columns.targets) or [one_column(LABEL_COLUMNS, names, path, cure=TARGET)]
    inputs = list(columns.inputs) or [name for name in names if name not in targets]
    taken = [*inputs, *targets]
    for name in taken:
        if names.count(name) != 1 or taken.count(name) > 1:
            wanted = ", ".join(map(repr, targets))
            got = f"{name!r} of {', '.join(map(repr, names))}, target {wanted}"
            raise InputError(f"columns and target must be different columns of {path}, got {got}")
    others = [f"{name!r} of {table[name].kind}" for name in inputs if not table[name].is_number]
    if others or not inputs:
        cure = "name the columns of numbers by columns (--columns), or encode the others"
        raise InputError(f"{path} must have columns of numbers, got {', '.join(others) or 'none'}", cure=cure)
    x = np.stack([table[name].values for name in inputs], 1)
    words = f"x: columns {_listed(inputs)}; target {_listed(targets)}"
    if len(targets) == 1 and not table[targets[0]].is_number:
        labels, classes = _classes(table[targets[0]], targets[0], path)
        return Table(x, labels, f"{words}: {_listed([f'{i} {name}' for i, name in enumerate(classes)])}", classes)
    if others := [name for name in targets if not table[name].is_number]:
        raise InputError(f"several targets of {path} must be columns of numbers, got {_listed(others)} of text")
    y = np.stack([table[name].values for name in targets], 1)
    return Table(x, y[:, 0] if len(targets) == 1 else y, words)


def one_column(names: Sequence[str], columns: Sequence[str], where: object, cure: str) -> str:
    """Return the only column with one of these names, or raise."""
    present = [name for name in names if name in columns]
    if len(present) != 1:  # a second column of labels would leak the answer into x
        got = f"columns {', '.join(map(str, columns))}"
        message = f"{where} must have exactly one column {' or '.join(names)}, got {got}"
        raise InputError(message, cure=cure)
    return present[0]


def _read_csv(path: Path) -> tuple[list[str], Mapping[str, Column]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            separator = max(SEPARATORS, key=first.count)
            file.seek(0)
            names, *rows = [row for row in csv.reader(file, delimiter=separator) if row] or [[]]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path} must be a .csv file, got {error}", cure="save it again, as UTF-8 text") from error
    for number, row in enumerate(rows):
        if len(row) != len(names):
            message = f"rows of {path} must have {len(names)} fields, as its first line, got {len(row)} in row {number}"
            raise InputError(message, cure="quote fields that hold a separator")
    if not rows:
        raise InputError(f"{path} must have a line of names and a line for each row, got {len(names)} names alone")
    return names, {name: _column(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)}


def _column(fields: Sequence[str]) -> Column:
    try:
        numbers = [float("nan") if field.strip().lower() in MISSING else float(field) for field in fields]
    except ValueError:
        truths = {"true": 1.0, "false": 0.0}
        words = [field.strip().lower() for field in fields]
        if {*words} <= set(truths):
            return Column(np.array([truths[word] for word in words]), "bool")
        return Column(np.array(fields, dtype=object), "text")
    return Column(np.array(numbers), "float64")


def _classes(column: Column, name: str, path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return labels (n,) of a column of names, and the names of the classes in their order."""
    for row, value in enumerate(column.values):
        if not isinstance(value, str) or value.strip().lower() in MISSING:
            raise InputError(f"column {name!r} of {path} must have a name in each row, got {value!r} in row {row}")
    classes, labels = np.unique([value.strip() for value in column.values], return_inverse=True)
    return labels, tuple(classes.tolist())


def _read_parquet(path: Path) -> tuple[list[str], Mapping[str, Column]]:
    try:
        import pandas

        frame = pandas.read_parquet(path)
    except ImportError as error:
        cure = "pip install pandas pyarrow, or save the data as .csv or .npz"
        raise InputError(f"reading {path} needs pandas and pyarrow, got {error}", cure=cure) from error
    except Exception as error:  # the engines' own errors have no common class
        raise InputError(f"{path} must be a .parquet file, got {error}", cure="copy it again") from error
    if any(name is not None for name in frame.index.names):  # what was made an index is a column
        frame = frame.reset_index(allow_duplicates=True)
    names = list(frame.columns)
    is_number, is_bool = pandas.api.types.is_numeric_dtype, pandas.api.types.is_bool_dtype

    def read(column: Any) -> Column:
        numbers = is_number(column) or is_bool(column)
        values = column.to_numpy(dtype=np.float64, na_value=np.nan) if numbers else column.to_numpy(dtype=object)
        return Column(values, str(column.dtype))

    return names, {name: read(frame[name]) for name in names if names.count(name) == 1}


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(map(str, names[:MOST_NAMED])) + (f" and {more} more" if more > 0 else "")
