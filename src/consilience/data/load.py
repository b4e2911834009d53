"""One function from a name or a file to `Data`: read, check, shuffle, split.

- Everything is checked before the shuffle, so that an error names the row of the *source*.
- Rows are shuffled before any split: in some sources neighbours are not exchangeable (consecutive MNIST training rows
  alternate between two groups of writers, and a model of one group loses 10 points on the other).
- A source with a test set keeps it; without one, every class gives the same share to each part.
- Scales are those of the training rows, for all parts.
- Nothing is unpickled.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from consilience.checks import as_path, as_tensor, check_choice, check_count, check_seed, describe, did_you_mean
from consilience.data.arrays import LAYOUTS, read_inputs, read_labels
from consilience.data.content import text_of
from consilience.data.dataset import TEST_SHARE, VALIDATION_SHARE, Data, Dataset, check_dataset
from consilience.data.labels import relabelled
from consilience.data.scaling import SCALES, Scale, Scaling
from consilience.data.tables import LABEL_COLUMNS, MOST_NAMED, Columns, one_column, read_table
from consilience.data.text import CONTEXT, load_text
from consilience.errors import InputError
from consilience.seeds import generator
from consilience.several import are_several, check_same_samples, n_samples
from consilience.tasks import NUMBERS, OF_CLASSES, as_targets, check_task, check_varies

KNOWN = (
    '"digits", a path to an .npz, .csv or .parquet file, "text:FILE" for a text, or "hf:NAME" for a data set of the '
    "Hugging Face hub"
)
NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")
IMAGE_COLUMNS = ("image", "img")  # the names that image data sets of the hub use
TABLES = (".csv", ".parquet")
HUB_LABELS = (*LABEL_COLUMNS, "fine_label")
VALIDATION_ROWS, VALIDATION_PART = 5000, 6  # min(5000, n // 6) training rows, where it has one
DAMAGED = (ValueError, OSError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error)  # of np.load


Stored = np.ndarray | dict[str, np.ndarray]


@dataclass(frozen=True)
class _Source:
    """Arrays as they were stored, x (n, ...) or several by name, y (n,) or (n, o); no test set is (None, None)."""

    name: str
    x: Stored
    y: np.ndarray
    x_test: Stored | None = None
    y_test: np.ndarray | None = None
    columns: str = ""  # of a table, in words
    classes: tuple[str, ...] = ()  # names of classes, if the targets are names
    is_csv: bool = False


def load_data(
    source: str | os.PathLike[str],
    *,
    random_state: int = 0,
    n_calibration: int = 5000,
    layout: str = "auto",
    columns: Sequence[str] = (),
    target: str | Sequence[str] | None = None,
    task: str | None = None,
    input_scale: str = "auto",
    target_scale: str = "auto",
    scaling: Scaling | None = None,
    context: int | None = None,
    subwords: int | None = None,
    labels: str | Sequence[int] | None = None,
) -> Data:
    """Read, check, shuffle and split a source of rows with targets. The same arguments give the same `Data`.

    Parameters
    ----------
    source : what to read.

        - ``"digits"``: 1797 images of digits (1, 8, 8) in [0, 1], bundled with scikit-learn.
        - ``FILE.npz`` with arrays ``x_train, y_train, x_test, y_test``. Bytes (uint8) are pixels and become float32 in
          [0, 1]; floating point numbers keep their values. Images (n, H, W, C) or (n, C, H, W), and bytes (n, H, W),
          become (n, C, H, W); other integers (n, t) are tokens. Labels are whole numbers (n,) or (n, 1), booleans,
          or one-hot rows. For networks of several inputs, ``columns`` has their names: of ``("x", "mask")`` the arrays
          are ``x_train, x_test, mask_train, mask_test``, of numbers, integers or booleans, as they are.
        - ``FILE.csv``, with names in its first line, or ``FILE.parquet``, with a column ``label`` or ``y``, of numbers
          or of names of classes; all other columns, a named index among them, must be numbers or booleans, and become
          x (n, d).
        - ``"hf:NAME"``: images and labels by the name of their data set on the Hugging Face hub (extra ``[hub]``).
        - ``"text:FILE"``, or ``FILE.txt``, in UTF-8: windows (n, context) of characters, to predict the next ones. The
          first 65 % of the text are ``train``, the next 15 % ``validation``.
    random_state : seed of the shuffle, which comes before every split.
    n_calibration : rows of ``calibration``, at most all of ``train``.
    layout : of arrays with four axes, "channels-first" or "channels-last", where "auto" cannot tell; of floating point
        arrays (n, H, W), either for images; "rows" leaves the axes as they are.
    columns, target : of a .csv or .parquet file, the columns that become x, in this order, and the column of targets,
        or several of them; of an .npz file, ``columns`` are the names of several inputs.
    task : "classification" (by default); "regression", where y are numbers (n,) or (n, o); or "multilabel", where y
        (n, o), or (n,) for a single label, is 1 where a row has a label and 0 where it has not; "next-token", where y
        (n, t) is the token after each of x (n, t), as of a text.
    input_scale : "standardize" for columns at mean 0 and spread 1 over the rows of ``train``; "none"; or "auto", which
        standardizes those of a .csv file.
    target_scale : the same for the targets of a regression; "auto" standardizes them.
    scaling : that of other data, ``Data.scaling``, in place of both.
    context, subwords : of a text, the length of a window, 64 by default; and the number of subwords, 257 or more, that
        it is cut into by byte-pair encoding (extra ``[subwords]``), by default characters.
    labels : another task on the same rows: the new label of each class, as numbers or as text such as "0,1,1", or for
        ten classes a name in `consilience.data.labels.TASKS`, such as "parity". The split stays that of the classes.

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
    check_task(task)
    check_choice("input_scale", input_scale, SCALES)
    check_choice("target_scale", target_scale, SCALES)
    if target_scale == "standardize" and task != "regression":
        raise InputError(f"target_scale must be 'auto' or 'none' for classes, got {target_scale!r}", cure=NUMBERS)
    text = text_of(source)
    for name, value in (("context", context), ("subwords", subwords)):
        if value is not None and text is None:
            raise InputError(f"{name} must be left out for a source that is no text, got {value!r} for {source!r}")
    if text is not None:
        _check_only_text(source, task, columns, target, labels)
        return load_text(text, CONTEXT if context is None else context, subwords, random_state, n_calibration)
    raw = _read(source, Columns(_names(columns, "columns"), _targets(target)))
    if raw.classes and task not in (None, "classification"):
        got = ", ".join(map(repr, raw.classes[:MOST_NAMED]))
        raise InputError(f"{raw.name} must have targets that are numbers for task {task!r}, got names: {got}")
    rows, read_as = _dataset(raw.x, raw.y, f"{raw.name}: train", layout, task)
    test = None
    if raw.x_test is not None and raw.y_test is not None:
        _check_alike(raw.name, raw.x, raw.x_test)
        test, _ = _dataset(raw.x_test, raw.y_test, f"{raw.name}: test", layout, task, first_id=len(rows))
    n_classes = _count_classes(rows, test, raw.name) if task in (None, *OF_CLASSES) else None
    check_dataset(rows, n_classes, where=f"{raw.name}: train")
    check_varies(rows.y, f"{raw.name}: train", _targets(target))
    if test is not None:
        check_dataset(test, where=f"{raw.name}: test")
        if rows.y.shape[1:] != test.y.shape[1:]:
            got = f"{describe(raw.y)} and {describe(raw.y_test)}"
            raise InputError(f"{raw.name}: y_train and y_test must have rows of one shape, got {got}")

    order = torch.randperm(len(rows), generator=generator(random_state))
    if test is None:
        groups = torch.zeros(len(rows)) if n_classes is None or task == "next-token" else rows.y
        train, validation, test = (rows.take(part) for part in _stratified(groups, order))
    else:
        n_validation = min(VALIDATION_ROWS, len(rows) // VALIDATION_PART)
        train, validation = rows.take(order[n_validation:]), rows.take(order[:n_validation])
    if not (len(train) and len(validation) and len(test)):
        of = "" if n_classes is None else f" of {n_classes} classes"
        got, cure = f"{len(rows)} rows{of}", f"pass at least 10 rows{of and ' of each class'}"
        raise InputError(f"{raw.name} must have rows for each of train, validation and test, got {got}", cure=cure)
    check_dataset(train, n_classes, where=f"{raw.name}: the split's train")
    if scaling is None:
        inputs = input_scale == "standardize" or (input_scale == "auto" and raw.is_csv)
        targets = task == "regression" and target_scale != "none"
        scaling = _scaling_of(train, raw.name, inputs=inputs, targets=targets)
    train, validation, test = (_scaled(part, scaling, raw.name) for part in (train, validation, test))
    calibration = train.take(torch.arange(min(n_calibration, len(train))))  # random, because train is shuffled
    read_as = f"{raw.columns or read_as}; y: {_in_words(train, n_classes)}"
    read_as += "; inputs standardized" * (scaling.inputs is not None)
    if scaling.targets is not None and len(scaling.targets.mean) == 1:
        mean, spread = float(scaling.targets.mean), float(scaling.targets.spread)
        read_as += f"; target standardized, (y - {mean:.6g}) / {spread:.6g}"
    elif scaling.targets is not None:
        read_as += "; targets standardized"
    data = Data(raw.name, train, calibration, validation, test, n_classes, read_as, scaling, classes=raw.classes)
    return data if labels is None else relabelled(data, labels)


def _check_alike(name: str, x: Stored, x_test: Stored) -> None:
    """Raise unless inputs for training and test have one type and rows of one shape."""
    train, test = (part if isinstance(part, dict) else {"x": part} for part in (x, x_test))
    for own, first in train.items():
        second = test[own]
        if first.shape[1:] != second.shape[1:] or first.dtype.kind != second.dtype.kind:
            got = f"{describe(first)} and {describe(second)}"
            message = f"{name}: {own}_train and {own}_test must have one type and rows of one shape"
            raise InputError(f"{message}, got {got}")


def _check_only_text(source: object, task: str | None, columns: object, target: object, labels: object) -> None:
    if task not in (None, "next-token"):
        raise InputError(f"task must be 'next-token' for the text {source}, got {task!r}")
    _check_no_columns(source, columns, target)
    if labels is not None:
        raise InputError(f"labels must be left out for the text {source}, got {labels!r}")


def _check_no_columns(source: object, columns: object, target: object) -> None:
    for name, given in (("columns", columns), ("target", target)):
        if given:
            got = ", ".join(map(repr, given)) if isinstance(given, tuple | list) else repr(given)
            message = f"{name} must be left out for a source without columns, got {got} for {source!r}"
            raise InputError(message, cure="leave it out, or pass a .csv or .parquet file")


def _count_classes(rows: Dataset, test: Dataset | None, name: str) -> int:
    if len(rows.y) == len(rows) and len(labels := rows.y.unique()) == 1:
        cure = "check the labels; with one class there is nothing to learn, and every network is right"
        raise InputError(f"{name}: train.y must have at least 2 classes, got {int(labels)} in all rows", cure=cure)
    return 1 + max((int(part.y.max()) for part in (rows, test) if part is not None and len(part.y)), default=0)


def _in_words(rows: Dataset, n_classes: int | None) -> str:
    if n_classes is not None:
        return f"tokens below {n_classes}" if rows.task == "next-token" else f"{n_classes} classes"
    n = rows.y[0].numel()
    return f"{n} {'label' if rows.task == 'multilabel' else 'number'}{'s' * (n != 1)}"


def _scaling_of(train: Dataset, name: str, *, inputs: bool, targets: bool) -> Scaling:
    if inputs and are_several(train.x):
        raise InputError(f"input_scale must be 'none' for the several inputs of {name}, got 'standardize'")
    for scaled, part, values in ((inputs, "input", train.x), (targets, "target", train.y)):
        if scaled and values.ndim != 2:
            wanted = f"{part}_scale must be 'none' for {part}s {tuple(values.shape)} of {name}"
            raise InputError(f"{wanted}, got 'standardize'")
    return Scaling(Scale.of(train.x) if inputs else None, Scale.of(train.y) if targets else None)


def _scaled(rows: Dataset, scaling: Scaling, name: str) -> Dataset:
    for scale, values in ((scaling.inputs, rows.x), (scaling.targets, rows.y)):
        if scale is not None and values.shape[1:] != scale.mean.shape:
            got = f"{tuple(values.shape[1:])} in {name}"
            raise InputError(f"rows must have the shape {tuple(scale.mean.shape)} of the scaling, got {got}")
    x = rows.x if scaling.inputs is None else scaling.inputs(rows.x)
    if scaling.targets is None:
        return replace(rows, x=x)
    return replace(rows, x=x, y=scaling.targets(rows.y), unit=scaling.targets.spread)


def _names(names: object, argument: str) -> tuple[str, ...]:
    if not isinstance(names, Sequence) or isinstance(names, str) or not all(isinstance(n, str) for n in names):
        raise InputError(f"{argument} must be a list of names, got {describe(names)}")
    return tuple(names)


def _targets(target: object) -> tuple[str, ...]:
    return () if target is None else (target,) if isinstance(target, str) else _names(target, "target")


def _read(source: str | os.PathLike[str], columns: Columns) -> _Source:
    is_table = isinstance(source, str | os.PathLike) and Path(source).suffix.lower() in TABLES
    is_npz = isinstance(source, str | os.PathLike) and Path(source).suffix.lower() == ".npz"
    if not is_table:
        _check_no_columns(source, () if is_npz else columns.inputs, columns.targets)
    if isinstance(source, str) and source == "digits":
        return _read_digits()
    if isinstance(source, str) and source.startswith("hf:"):
        return _read_hub(source.removeprefix("hf:"))
    path = as_path(source, "source").expanduser() if isinstance(source, str | os.PathLike) else Path()
    if path.suffix.lower() not in (".npz", *TABLES):
        raise InputError(f"source must be {KNOWN}, got {source!r}")
    if not path.is_file():
        raise InputError(f"source must be a file, got {path}", cure="check the path")
    if not is_table:
        return _read_npz(path, columns.inputs)
    table = read_table(path, columns)
    is_csv = path.suffix.lower() == ".csv"
    return _Source(path.name, table.x, table.y, columns=table.read_as, classes=table.classes, is_csv=is_csv)


def _read_digits() -> _Source:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return _Source("digits", images.reshape(-1, 1, 8, 8) / 16.0, labels)  # pixels count 0 to 16


def _read_npz(path: Path, inputs: Sequence[str]) -> _Source:
    keys: tuple[str, ...] = NPZ_KEYS
    if inputs:
        if len({*inputs, "y"}) <= len(inputs):
            got = " ".join(inputs)
            raise InputError(f"columns must be different names of inputs, and not 'y', of the targets, got {got}")
        keys = tuple(f"{name}_{part}" for part in ("train", "test") for name in (*inputs, "y"))
    try:
        with path.open("rb") as file:  # opened here, because np.load leaves a file that it cannot read open
            archive = np.load(file, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise ValueError("it is a single array")
            names = archive.files
            arrays = {key: archive[key] for key in keys if key in names}
    except DAMAGED as error:
        cure = "copy or download it again; arrays of Python objects are never read"
        raise InputError(f"{path} must be an .npz of plain arrays, got {error}", cure=cure) from error
    missing = ", ".join(key for key in keys if key not in names)
    if missing:
        got, cure = ", ".join(names) or "none", f"add {missing} with numpy.savez"
        stems = [name.removesuffix("_train") for name in names]
        near = (did_you_mean(name, stems) for name in inputs if name not in stems)
        cure = next(filter(None, near), cure)
        raise InputError(f"{path} must have arrays {', '.join(keys)}, got {got}", cure=cure)
    if not inputs:
        return _Source(path.name, *arrays.values())
    train, test = ({name: arrays[f"{name}_{part}"] for name in inputs} for part in ("train", "test"))
    return _Source(path.name, train, arrays["y_train"], test, arrays["y_test"])


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
    image, label = (
        one_column(names, split.column_names, where, "rename or drop columns") for names in (IMAGE_COLUMNS, HUB_LABELS)
    )
    pixels = [np.asarray(p if p.mode in ("L", "RGB") else p.convert("RGB")) for p in split[image]]
    shapes = sorted({array.shape for array in pixels})
    if len(shapes) > 1:
        got = f"{len(shapes)} sizes, e.g. {shapes[0]} and {shapes[-1]}"
        raise InputError(f"images of {where} must have one size, got {got}", cure="resize them, and save them as .npz")
    return np.stack(pixels), np.asarray(split[label])


def _dataset(
    x: Stored, y: np.ndarray, where: str, layout: str, task: str | None, first_id: int = 0
) -> tuple[Dataset, str]:
    """Return the rows, and how they were read."""
    inputs: Any
    if isinstance(x, dict):
        if layout != "auto":
            raise InputError(f"layout must be 'auto' for several inputs, which stay as they are, got {layout!r}")
        inputs = {name: _as_stored(values, f"{where}: {name}") for name, values in x.items()}
        check_same_samples(inputs, where)
        read_as = ", ".join(f"{name}: {describe(values)}" for name, values in x.items())
    else:
        inputs, words = read_inputs(x, f"{where}.x", layout)
        read_as = f"x: {describe(x)}, {words}"
    n = n_samples(inputs)
    if task in (None, "classification"):
        targets = read_labels(y, n, f"{where}.y")
    else:
        targets = as_targets(y, n, f"{where}.y", task)
        targets = targets.float() if targets.is_floating_point() else targets
    return Dataset(inputs, targets, torch.arange(first_id, first_id + n), task), read_as


def _as_stored(values: np.ndarray, where: str) -> Tensor:
    """Return one of several inputs: numbers in single precision, integers and booleans as they are."""
    tensor = as_tensor(values, where)
    if tensor.ndim == 0:
        raise InputError(f"{where} must have one row for each sample, got {describe(values)}")
    return tensor.float() if tensor.is_floating_point() else tensor


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
