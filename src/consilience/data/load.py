"""One function from a name or a file to `Data`: read, check, shuffle, split.

- Everything is checked before the shuffle, so that an error names the row of the *source*.
- Rows are shuffled before any split: in some sources neighbours are not exchangeable (consecutive MNIST training rows
  alternate between two groups of writers, and a model of one group loses 10 points on the other).
- A source with a test set keeps it; without one, every class gives the same share to each part.
- Nothing is unpickled.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from consilience.checks import as_path, check_choice, check_count, check_seed, describe
from consilience.data.arrays import LAYOUTS, read_inputs, read_labels
from consilience.data.dataset import Data, Dataset, check_dataset
from consilience.errors import InputError
from consilience.seeds import generator

KNOWN = '"digits", a path to an .npz or .parquet file, or "hf:NAME" for a data set of the Hugging Face hub'
NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")
IMAGE_COLUMNS = ("image", "img")  # the names that image data sets of the hub use
LABEL_COLUMNS = ("label", "y", "fine_label")
TARGET = "name the column of labels by target (--target), or rename or drop columns"
TEST_SHARE, VALIDATION_SHARE = 0.20, 0.15  # of all rows, where the source has no test set
VALIDATION_ROWS, VALIDATION_PART = 5000, 6  # min(5000, n // 6) training rows, where it has one
DAMAGED = (ValueError, OSError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error)  # of np.load


@dataclass(frozen=True)
class _Source:
    """Arrays as they were stored, x (n, ...) and y (n,); no test set is (None, None)."""

    name: str
    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray | None = None
    y_test: np.ndarray | None = None
    columns: str = ""  # of a table, in words


@dataclass(frozen=True)
class _Columns:
    """The columns of a table that the user names."""

    inputs: tuple[str, ...]
    target: str | None


def load_data(
    source: str | os.PathLike[str],
    *,
    random_state: int = 0,
    n_calibration: int = 5000,
    layout: str = "auto",
    columns: Sequence[str] = (),
    target: str | None = None,
) -> Data:
    """Read, check, shuffle and split a source of labelled rows. The same arguments give the same `Data`.

    Parameters
    ----------
    source : what to read.

        - ``"digits"``: 1797 images of digits (1, 8, 8) in [0, 1], bundled with scikit-learn.
        - ``FILE.npz`` with arrays ``x_train, y_train, x_test, y_test``. Bytes (uint8) are pixels and become float32 in
          [0, 1]; floating point numbers keep their values. Images (n, H, W, C) or (n, C, H, W), and bytes (n, H, W),
          become (n, C, H, W). Labels are whole numbers (n,), a column (n, 1), booleans, or one-hot rows.
        - ``FILE.parquet`` with a column ``label`` or ``y``; all other columns, a named index among them, must be
          numbers or booleans, and become x (n, d).
        - ``"hf:NAME"``: images and labels by the name of their data set on the Hugging Face hub (extra ``[hub]``).
    random_state : seed of the shuffle, which comes before every split.
    n_calibration : rows of ``calibration``, at most all of ``train``.
    layout : of arrays with four axes, "channels-first" or "channels-last", where "auto" cannot tell; of floating point
        arrays (n, H, W), either for images; "rows" leaves the axes as they are.
    columns, target : of a .parquet file, the columns that become x, in this order, and the column of labels.

    Returns
    -------
    From a source with a test set, ``validation`` has min(5000, n // 6) of its n training rows and ``train`` the others;
    without one, each class gives 20 % of its rows to ``test`` and 15 % to ``validation``. ``calibration`` is a random
    part of ``train``. ``ids`` count the rows of the source, training rows first, then test rows; ``read_as`` says how
    it was read.

    Raises
    ------
    InputError : if the source cannot be read, or has values that are not finite, labels with gaps, or too few rows.

    Examples
    --------
    >>> data = load_data("digits", random_state=0)
    >>> len(data.train), len(data.validation), len(data.test), data.image_shape, data.n_classes
    (1169, 269, 359, (1, 8, 8), 10)
    """
    check_seed("random_state", random_state)
    check_count("n_calibration", n_calibration)
    check_choice("layout", layout, LAYOUTS)
    raw = _read(source, _Columns(_names(columns), target))
    rows, read_as = _dataset(raw.x, raw.y, f"{raw.name}: train", layout)
    test = None
    if raw.x_test is not None and raw.y_test is not None:
        if raw.x.shape[1:] != raw.x_test.shape[1:] or raw.x.dtype.kind != raw.x_test.dtype.kind:
            got = f"{describe(raw.x)} and {describe(raw.x_test)}"
            raise InputError(f"{raw.name}: x_train and x_test must have one type and rows of one shape, got {got}")
        test, _ = _dataset(raw.x_test, raw.y_test, f"{raw.name}: test", layout, first_id=len(rows))
    n_classes = 1 + max((int(part.y.max()) for part in (rows, test) if part is not None and len(part.y)), default=0)
    if len(rows.y) == len(rows.x) and len(labels := rows.y.unique()) == 1:
        cure = "check the labels; with one class there is nothing to learn, and every network is right"
        raise InputError(f"{raw.name}: train.y must have at least 2 classes, got {int(labels)} in all rows", cure=cure)
    check_dataset(rows, n_classes, where=f"{raw.name}: train")
    if test is not None:
        check_dataset(test, where=f"{raw.name}: test")

    order = torch.randperm(len(rows), generator=generator(random_state))
    if test is None:
        train, validation, test = (rows.take(part) for part in _stratified(rows.y, order))
    else:
        n_validation = min(VALIDATION_ROWS, len(rows) // VALIDATION_PART)
        train, validation = rows.take(order[n_validation:]), rows.take(order[:n_validation])
    if not (len(train) and len(validation) and len(test)):
        got, cure = f"{len(rows)} rows of {n_classes} classes", "pass at least 10 rows of each class"
        raise InputError(f"{raw.name} must have rows for each of train, validation and test, got {got}", cure=cure)
    check_dataset(train, n_classes, where=f"{raw.name}: the split's train")
    calibration = train.take(torch.arange(min(n_calibration, len(train))))  # random, because train is shuffled
    read_as = f"{raw.columns or read_as}; y: {n_classes} classes"
    return Data(raw.name, train, calibration, validation, test, n_classes, read_as)


def _names(columns: Sequence[str]) -> tuple[str, ...]:
    is_list = isinstance(columns, Sequence) and not isinstance(columns, str)
    if not is_list or not all(isinstance(name, str) for name in columns):
        raise InputError(f"columns must be a list of names, got {describe(columns)}")
    return tuple(columns)


def _read(source: str | os.PathLike[str], columns: _Columns) -> _Source:
    is_table = isinstance(source, str | os.PathLike) and Path(source).suffix.lower() == ".parquet"
    if not isinstance(columns.target, str | None):
        raise InputError(f"target must be the name of a column, got {describe(columns.target)}")
    if not is_table and (columns.inputs or columns.target is not None):
        raise InputError(f"columns and target must be left out for a source without columns, got {source!r}")
    if isinstance(source, str) and source == "digits":
        return _read_digits()
    if isinstance(source, str) and source.startswith("hf:"):
        return _read_hub(source.removeprefix("hf:"))
    path = as_path(source, "source").expanduser() if isinstance(source, str | os.PathLike) else Path()
    if path.suffix.lower() not in (".npz", ".parquet"):
        raise InputError(f"source must be {KNOWN}, got {source!r}")
    if not path.is_file():
        raise InputError(f"source must be a file, got {path}", cure="check the path")
    return _read_parquet(path, columns) if is_table else _read_npz(path)


def _read_digits() -> _Source:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return _Source("digits", images.reshape(-1, 1, 8, 8) / 16.0, labels)  # pixels count 0 to 16


def _read_npz(path: Path) -> _Source:
    try:
        with path.open("rb") as file:  # opened here, because np.load leaves a file that it cannot read open
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise ValueError("it is a single array")
            names = archive.files
            arrays = [archive[key] for key in NPZ_KEYS if key in names]
    except DAMAGED as error:
        cure = "copy or download it again; arrays of Python objects are never read"
        raise InputError(f"{path} must be an .npz of plain arrays, got {error}", cure=cure) from error
    missing = ", ".join(key for key in NPZ_KEYS if key not in names)
    if missing:
        got, cure = ", ".join(names) or "none", f"add {missing} with numpy.savez"
        raise InputError(f"{path} must have arrays {', '.join(NPZ_KEYS)}, got {got}", cure=cure)
    return _Source(path.name, *arrays)


def _read_parquet(path: Path, columns: _Columns) -> _Source:
    try:
        import pandas

        frame = pandas.read_parquet(path)
    except ImportError as error:
        cure = "pip install pandas pyarrow, or save the data as .npz"
        raise InputError(f"reading {path} needs pandas and pyarrow, got {error}", cure=cure) from error
    except Exception as error:  # the engines' own errors have no common class
        raise InputError(f"{path} must be a .parquet file, got {error}", cure="copy it again") from error
    if any(name is not None for name in frame.index.names):  # what was made an index is a column
        frame = frame.reset_index(allow_duplicates=True)
    names = list(frame.columns)
    target = columns.target or _column(LABEL_COLUMNS, names, path, cure=TARGET)
    inputs = list(columns.inputs) or [name for name in names if name != target]
    for name in (*inputs, target):
        if names.count(name) != 1 or inputs.count(name) > 1 or (name == target and target in inputs):
            got = f"{name!r} of {', '.join(map(repr, names))}, target {target!r}"
            raise InputError(f"columns and target must be different columns of {path}, got {got}")
    is_number, is_bool = pandas.api.types.is_numeric_dtype, pandas.api.types.is_bool_dtype
    others = [f"{n!r} of {frame[n].dtype}" for n in inputs if not is_number(frame[n]) and not is_bool(frame[n])]
    if others or not inputs:
        cure = "name the columns of numbers by columns (--columns), or encode the others"
        raise InputError(f"{path} must have columns of numbers, got {', '.join(others) or 'none'}", cure=cure)
    x = frame[inputs].to_numpy(dtype=np.float64, na_value=np.nan)
    labels = frame[target]
    y = (
        labels.to_numpy(dtype=np.float64, na_value=np.nan)
        if is_number(labels) or is_bool(labels)
        else labels.to_numpy()
    )
    listed = ", ".join(map(str, inputs[:8])) + (f" and {len(inputs) - 8} more" if len(inputs) > 8 else "")
    return _Source(path.name, x, y, columns=f"x: columns {listed}; target {target}")


def _read_hub(name: str) -> _Source:
    where = f"hf:{name}"
    try:
        from datasets import load_dataset
    except ImportError as error:
        cure = "pip install 'consilience[hub]'"
        raise InputError(f"reading {where} needs the package datasets, got {error}", cure=cure) from error
    try:
        splits = load_dataset(name)
    except Exception as error:  # network, name, script and format errors have no common class
        got, cure = f"{type(error).__name__}: {error}", "check the name and the connection"
        raise InputError(f"{where} must be a data set of the Hugging Face hub, got {got}", cure=cure) from error
    if "train" not in splits:
        raise InputError(f"{where} must have a split train, got {', '.join(splits)}")
    train = _hub_arrays(splits["train"], f"{where} train")
    return _Source(where, *train, *(_hub_arrays(splits["test"], f"{where} test") if "test" in splits else ()))


def _hub_arrays(split: Any, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels uint8 (n, H, W) or (n, H, W, 3) and the labels (n,) of one split."""
    image, label = (_column(names, split.column_names, where) for names in (IMAGE_COLUMNS, LABEL_COLUMNS))
    pixels = [np.asarray(p if p.mode in ("L", "RGB") else p.convert("RGB")) for p in split[image]]
    shapes = sorted({array.shape for array in pixels})
    if len(shapes) > 1:
        got = f"{len(shapes)} sizes, e.g. {shapes[0]} and {shapes[-1]}"
        raise InputError(f"images of {where} must have one size, got {got}", cure="resize them, and save them as .npz")
    return np.stack(pixels), np.asarray(split[label])


def _column(names: tuple[str, ...], columns: list[str], where: object, cure: str = "rename or drop columns") -> str:
    present = [name for name in names if name in columns]
    if len(present) != 1:  # a second column of labels would leak the answer into x
        got = f"columns {', '.join(map(str, columns))}"
        message = f"{where} must have exactly one column {' or '.join(names)}, got {got}"
        raise InputError(message, cure=cure)
    return present[0]


def _dataset(x: np.ndarray, y: np.ndarray, where: str, layout: str, first_id: int = 0) -> tuple[Dataset, str]:
    """Return the rows, and how they were read."""
    inputs, words = read_inputs(x, f"{where}.x", layout)
    labels = read_labels(y, len(x), f"{where}.y")
    return Dataset(inputs, labels, torch.arange(first_id, first_id + len(x))), f"x: {describe(x)}, {words}"


def _stratified(y: Tensor, order: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cut the shuffled positions ``order`` (n,) into those of train, validation and test, class by class."""
    labels = y[order]
    part = torch.zeros_like(order)  # 0 train, 1 validation, 2 test
    for c in labels.unique():
        of_class = (labels == c).nonzero()[:, 0]
        n_test, n_validation = round(TEST_SHARE * len(of_class)), round(VALIDATION_SHARE * len(of_class))
        part[of_class[:n_test]] = 2
        part[of_class[n_test : n_test + n_validation]] = 1
    return order[part == 0], order[part == 1], order[part == 2]
