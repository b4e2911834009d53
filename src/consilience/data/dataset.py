"""Rows and labels as plain tensors, and the one check that everything runs before it starts to work.

- A `Dataset` is three tensors; a `Data` is four of them and a name. Neither copies, moves or converts anything.
- Building one is free; `check_dataset` reads every number once, before expensive work.
- Rows carry the number they had in their source, so that two uses can prove that they saw the same samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from consilience.checks import (
    as_tensor,
    check_count,
    check_finite,
    check_labels,
    check_rows,
    check_tokens,
    describe,
)
from consilience.data.scaling import Scaling
from consilience.data.subwords import Subwords
from consilience.data.vocabulary import Vocabulary
from consilience.errors import InputError
from consilience.seeds import generator
from consilience.several import are_several, check_same_samples, each_input, n_samples
from consilience.tasks import NUMBERS, as_targets, task_of

TEST_SHARE, VALIDATION_SHARE = 0.20, 0.15  # of all rows, where the source has no test set
MOST_CLASSES_NAMED = 10  # in an error message; more than this is a wall of numbers
IN_ORDER = torch.arange(0)  # stands for row numbers 0, …, n - 1


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Inputs, targets and row numbers, one row per sample.

    Parameters
    ----------
    x : float32 (n, ...), the inputs: tables (n, d), images (n, C, H, W); or int64 (n, t), tokens; for networks
        of several inputs, a dict or a tuple of tensors (n, ...).
    y : int64 (n,), the class of each row; or floating point (n,) or (n, d), the targets of a regression; or floating
        point (n, d) of 0 and 1, whether a row has each of d labels; or int64 (n, t), the token that follows each of x.
    ids : int64 (n,), the number of each row in the source it came from; by default 0, …, n - 1.
    task : what y stands for; by default "classification" for integers and "regression" for floats; see
        `consilience.tasks`.
    unit : (d,) what 1 in y is in the targets' own units, where these were scaled.

    Examples
    --------
    >>> rows = Dataset(torch.zeros(5, 3), torch.tensor([0, 1, 0, 1, 0])).take([4, 1])
    >>> rows, rows.ids
    (Dataset(x: float32 (2, 3), y: int64 (2,)), tensor([4, 1]))
    """

    x: Tensor
    y: Tensor
    ids: Tensor = IN_ORDER
    task: str | None = None
    unit: Tensor | None = None

    def __post_init__(self) -> None:
        if self.ids is IN_ORDER:
            n = n_samples(each_input(lambda values: as_tensor(values, "x"), self.x))
            object.__setattr__(self, "ids", torch.arange(n))

    def __len__(self) -> int:
        return n_samples(self.x)

    def __repr__(self) -> str:
        return f"Dataset(x: {each_input(describe, self.x)}, y: {describe(self.y)})"

    def take(self, indices: Tensor | Sequence[int]) -> Dataset:
        """Return a new data set of the rows at ``indices`` (m,), in that order; repeats are allowed.

        They are positions in this data set, not ``ids`` and not a mask; negative ones count from the end.
        """
        index, n = as_tensor(indices, "indices"), len(self)
        if index.numel() == 0:
            index = index.long()
        if index.ndim != 1 or index.dtype == torch.bool or index.is_floating_point() or index.is_complex():
            cure = "for a mask, pass mask.nonzero()[:, 0]"
            raise InputError(f"indices must be ints (m,), the positions of rows, got {describe(index)}", cure=cure)
        outside = (index < -n) | (index >= n)
        if outside.any():
            raise InputError(f"indices must be from {-n} to {n - 1}, got {int(index[outside][0])}")
        index = index.long()
        return replace(self, x=each_input(lambda x: x[index], self.x), y=self.y[index], ids=self.ids[index])

    def sample(self, n: int, random_state: int) -> Dataset:
        """Return n random rows in the order that they have here, or all if there are no more."""
        check_count("n", n)
        chosen = torch.randperm(len(self), generator=generator(random_state))[:n]
        return self.take(chosen.sort().values)


@dataclass(frozen=True, eq=False)
class Data:
    """One source of samples, shuffled once and split for its four uses.

    Parameters
    ----------
    name : where it came from.
    train : the rows to train members on.
    calibration : a random part of ``train``; only its inputs are to be used, to look at activations.
    validation : the rows to make choices on; from the same draw as ``train``, and disjoint from it.
    test : the rows to report on.
    n_classes : labels, or tokens, are 0, …, n_classes - 1; None if y are neither.
    read_as : how arrays or columns of the source became inputs and targets, in one line.
    scaling : how inputs and targets were scaled.
    vocabulary : what the tokens of a text stand for.
    classes : names of the classes 0, 1, …, where the source has names.
    """

    name: str
    train: Dataset
    calibration: Dataset
    validation: Dataset
    test: Dataset
    n_classes: int | None
    read_as: str = ""
    scaling: Scaling | None = None
    vocabulary: Vocabulary | Subwords | None = None
    classes: tuple[str, ...] = ()

    @property
    def task(self) -> str:
        """What the targets stand for: "classification", "regression", "multilabel" or "next-token"."""
        return self.train.task or task_of(self.train.y)

    @property
    def n_outputs(self) -> int:
        """Number of outputs that a network for these data has."""
        return self.train.y[0].numel() if self.n_classes is None else self.n_classes

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """(C, H, W) if the inputs are images, else None."""
        if are_several(self.train.x) or self.train.x.ndim != 4:
            return None
        channels, height, width = self.train.x.shape[1:]
        return channels, height, width


def as_dataset(dataset: object, where: str) -> Dataset:
    """Return a data set of tensors: arrays are converted, and targets are as the task takes them."""
    dataset = _dataset(dataset, where)
    x = each_input(lambda values: _tensor(values, f"{where}.x"), dataset.x)
    check_same_samples(x, f"{where}.x")
    y, ids = _tensor(dataset.y, f"{where}.y"), _tensor(dataset.ids, f"{where}.ids")
    n = n_samples(x)
    if n and y.ndim and n == len(y):
        y = as_targets(y, n, f"{where}.y", dataset.task)
    return replace(dataset, x=x, y=y, ids=ids)


def _tensor(values: object, where: str) -> Tensor:
    tensor = as_tensor(values, where)
    floats = tensor.is_floating_point() and not isinstance(values, Tensor)
    return tensor.to(torch.get_default_dtype()) if floats else tensor


def check_dataset(dataset: Dataset, n_classes: int | None = None, where: str = "data") -> None:
    """Raise an `InputError` if no network could learn from the data.

    Parameters
    ----------
    dataset : n ≥ 1 rows, all of them finite: x floats or tokens, y int64 labels (n,), tokens (n, t) or floats (n, ...),
        ids int64.
    n_classes : if given, y must be labels, and each of 0, …, n_classes - 1 must occur; or tokens, all below it.
    where : the name of the data set in the error.
    """
    dataset = _dataset(dataset, where)
    if are_several(dataset.x):  # each by itself; of all rows is what is left to check
        check_same_samples(dataset.x, f"{where}.x")
        for name, values in dataset.x.items() if isinstance(dataset.x, dict) else enumerate(dataset.x):
            check_finite(values, f"{name!r} in {where}.x")
        checked = torch.zeros(n_samples(dataset.x), 1)
        dataset = replace(dataset, x=checked.long() if dataset.task == "next-token" else checked)
    for name in ("x", "y", "ids"):
        if not isinstance(value := getattr(dataset, name), Tensor):
            got = type(value).__name__
            raise InputError(f"{where}.{name} must be a tensor, got {got}", cure=f"torch.as_tensor({name})")
    x, y, ids = dataset.x, dataset.y, dataset.ids
    if dataset.task == "next-token" or (x.dtype == torch.int64 and x.ndim == 2 and x.numel()):
        check_tokens(x, f"{where}.x")
    elif x.ndim < 2 or not x.is_floating_point() or x.numel() == 0:
        cure = "convert them: x.float(), and x.unsqueeze(1) if a row is one number"
        raise InputError(f"{where}.x must be float32 (n, ...), one row per sample, got {describe(x)}", cure=cure)
    check_rows(y, len(x), f"{where}.y")
    if ids.shape != (len(x),) or ids.dtype != torch.int64:
        raise InputError(f"{where}.ids must be int64 ({len(x)},), got {describe(ids)}", cure="torch.arange(len(x))")
    check_finite(x, f"{where}.x")
    if n_classes is None and y.is_floating_point():
        check_finite(y, f"{where}.y")
        return
    if dataset.task == "next-token":
        check_tokens(y, f"{where}.y", n_classes)
        return
    check_labels(y, len(x), f"{where}.y", n_classes)
    if y.dtype != torch.int64:
        raise InputError(f"{where}.y must be int64 labels, got {describe(y)}", cure="convert them: y.long()")
    if n_classes is None:
        return
    if n_classes < 2:
        cure = "check the labels; with one class there is nothing to learn, and every network is right"
        raise InputError(f"{where}.y must have at least 2 classes, got {n_classes}", cure=cure)
    missing = sorted({*range(n_classes)} - {*y.unique().tolist()})
    if missing:
        names = ", ".join(map(str, missing[:MOST_CLASSES_NAMED]))
        more = len(missing) - MOST_CLASSES_NAMED
        got = f"none of class {names}" + (f" and {more} more" if more > 0 else "")
        message = f"{where}.y must have rows of each class from 0 to {n_classes - 1}, got {got}"
        raise InputError(message, cure=f"number the classes without gaps, or add rows; {NUMBERS}")


def _dataset(given: object, where: str) -> Dataset:
    if isinstance(given, Dataset):
        return given
    cure = "pass one part of the data, such as data.train, or Dataset(x, y)"
    raise InputError(f"{where} must be a consilience Dataset, got {type(given).__name__}", cure=cure)
