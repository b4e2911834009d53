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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from consilience.checks import check_count, check_seed, describe
from consilience.data.dataset import Data, Dataset, check_dataset
from consilience.errors import InputError
from consilience.seeds import generator

KNOWN = '"digits", a path to an .npz or .parquet file, or "hf:NAME" for a data set of the Hugging Face hub'
NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")
IMAGE_COLUMNS = ("image", "img")  # the names that image data sets of the hub use
LABEL_COLUMNS = ("label", "y", "fine_label")
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


def load_data(source: str | os.PathLike[str], *, random_state: int = 0, n_calibration: int = 5000) -> Data:
    """Read, check, shuffle and split a source of labelled rows. The same arguments give the same `Data`.

    Parameters
    ----------
    source : what to read.

        - ``"digits"``: 1797 images of digits (1, 8, 8) in [0, 1], bundled with scikit-learn.
        - ``FILE.npz`` with arrays ``x_train, y_train, x_test, y_test``. Bytes (uint8) are pixels: images (n, H, W) or
          (n, H, W, C), or flat rows (n, d), become float32 in [0, 1], images as (n, C, H, W). Floating point arrays
          keep their shape and values, as float32. Labels are whole numbers (n,).
        - ``FILE.parquet`` with a column ``label`` or ``y``; all other columns are numbers and become x (n, d).
        - ``"hf:NAME"``: images and labels by the name of their data set on the Hugging Face hub (extra ``[hub]``).
    random_state : seed of the shuffle, which comes before every split.
    n_calibration : rows of ``calibration``, at most all of ``train``.

    Returns
    -------
    From a source with a test set, ``validation`` has min(5000, n // 6) of its n training rows and ``train`` the others;
    without one, each class gives 20 % of its rows to ``test`` and 15 % to ``validation``. ``calibration`` is a random
    part of ``train``. ``ids`` count the rows of the source, training rows first, then test rows.

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
    raw = _read(source)
    rows = _dataset(raw.x, raw.y, f"{raw.name}: train")
    test = None
    if raw.x_test is not None and raw.y_test is not None:
        if raw.x.shape[1:] != raw.x_test.shape[1:] or raw.x.dtype.kind != raw.x_test.dtype.kind:
            got = f"{describe(raw.x)} and {describe(raw.x_test)}"
            raise InputError(f"{raw.name}: x_train and x_test must have one type and rows of one shape, got {got}")
        test = _dataset(raw.x_test, raw.y_test, f"{raw.name}: test", first_id=len(rows))
    n_classes = 1 + max((int(part.y.max()) for part in (rows, test) if part is not None and len(part.y)), default=0)
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
    return Data(raw.name, train, calibration, validation, test, n_classes)


def _read(source: str | os.PathLike[str]) -> _Source:
    if isinstance(source, str) and source == "digits":
        return _read_digits()
    if isinstance(source, str) and source.startswith("hf:"):
        return _read_hub(source.removeprefix("hf:"))
    path = Path(source).expanduser() if isinstance(source, str | os.PathLike) else Path()
    reader = {".npz": _read_npz, ".parquet": _read_parquet}.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"source must be {KNOWN}, got {source!r}")
    if not path.is_file():
        raise InputError(f"source must be a file, got {path}", cure="check the path")
    return reader(path)


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


def _read_parquet(path: Path) -> _Source:
    try:
        import pandas

        frame = pandas.read_parquet(path)
    except ImportError as error:
        cure = "pip install pandas pyarrow, or save the data as .npz"
        raise InputError(f"reading {path} needs pandas and pyarrow, got {error}", cure=cure) from error
    except Exception as error:  # the engines' own errors have no common class
        raise InputError(f"{path} must be a .parquet file, got {error}", cure="copy it again") from error
    label = _column(LABEL_COLUMNS, list(frame.columns), path)
    try:
        x = frame.drop(columns=label).to_numpy(dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path} must have columns of numbers, got {error}", cure="drop or encode them") from error
    return _Source(path.name, x, frame[label].to_numpy())


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


def _column(names: tuple[str, ...], columns: list[str], where: object) -> str:
    present = [name for name in names if name in columns]
    if len(present) != 1:  # a second column of labels would leak the answer into x
        got = f"columns {', '.join(map(str, columns))}"
        message = f"{where} must have exactly one column {' or '.join(names)}, got {got}"
        raise InputError(message, cure="rename or drop columns")
    return present[0]


def _dataset(x: np.ndarray, y: np.ndarray, where: str, first_id: int = 0) -> Dataset:
    if y.dtype.kind not in "iu" or y.ndim != 1:
        cure = "y.ravel() for a column, y.argmax(1) for one-hot, y.astype(int) for floats"
        raise InputError(f"{where}.y must be integer labels (n,), got {describe(y)}", cure=cure)
    labels = torch.from_numpy(y.astype(np.int64))
    return Dataset(_inputs(x, f"{where}.x"), labels, torch.arange(first_id, first_id + len(x)))


def _inputs(array: np.ndarray, where: str) -> Tensor:
    """Return float32 (n, ...): bytes are pixels, scaled to [0, 1], with channels first; floating point stays."""
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which the check finds
            return torch.from_numpy(np.require(array, np.float32, ["C", "W"]))
    channels_first = array.ndim == 4 and array.shape[-1] > 4 >= array.shape[1]
    if array.dtype != np.uint8 or array.ndim not in (2, 3, 4) or channels_first:
        wanted = "bytes uint8 (n, H, W), (n, H, W, C) or (n, d), or floating point (n, ...)"
        cure = "x.transpose(0, 2, 3, 1) puts channels last; x.astype('float32') makes a table of numbers"
        raise InputError(f"{where} must be {wanted}, got {describe(array)}", cure=cure)
    pixels = torch.from_numpy(np.require(array, requirements=["C", "W"]))
    if array.ndim == 3:
        pixels = pixels.unsqueeze(1)
    if array.ndim == 4:
        pixels = pixels.permute(0, 3, 1, 2)
    return pixels.to(torch.float32, memory_format=torch.contiguous_format).div_(255)


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
