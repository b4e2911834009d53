"""Rows and labels as plain tensors, and the one check that everything runs before it starts to work.

- A `Dataset` is three tensors; a `Data` is four of them and a name. Neither copies, moves or converts anything.
- Building one is free; `check_dataset` reads every number once and is called by whoever is about to spend time.
- Rows carry the number they had in their source, so that two uses can prove that they saw the same samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from consilience.errors import InputError

MOST_CLASSES_NAMED = 10  # in an error message; more than this is a wall of numbers


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Inputs, targets and row numbers, one row per sample.

    Parameters
    ----------
    x : float32 (n, ...), the inputs: tables (n, d), images (n, C, H, W).
    y : int64 (n,), the class of each row; or floating point (n,) or (n, d), the targets of a regression.
    ids : int64 (n,), the number of each row in the source it came from.

    Examples
    --------
    >>> rows = Dataset(torch.zeros(5, 3), torch.tensor([0, 1, 0, 1, 0]), torch.arange(5))
    >>> rows.take([4, 1])
    Dataset(x: float32 (2, 3), y: int64 (2,))
    >>> rows.take([4, 1]).ids
    tensor([4, 1])
    """

    x: Tensor
    y: Tensor
    ids: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        return f"Dataset(x: {_describe(self.x)}, y: {_describe(self.y)})"

    def take(self, indices: Tensor | Sequence[int]) -> Dataset:
        """Return a new data set of the rows at ``indices`` (m,), in that order; repeats are allowed.

        ``indices`` are positions in this data set, not ``ids``; negative ones count from the end.

        Raises
        ------
        InputError
            If ``indices`` are not whole numbers in one dimension (a mask is not), or point outside the rows.
        """
        index = torch.as_tensor(indices)
        if index.numel() == 0:
            index = index.long()
        if index.ndim != 1 or index.dtype == torch.bool or index.is_floating_point() or index.is_complex():
            raise InputError(
                "rows are taken by their positions", where="Dataset.take(indices)", got=_describe(index),
                expected="whole numbers (m,)", cure="for a mask, pass mask.nonzero()[:, 0]",
            )  # fmt: skip
        n = len(self)
        outside = (index < -n) | (index >= n)
        if outside.any():
            raise InputError(
                "a position points outside the data set", where="Dataset.take(indices)",
                got=int(index[outside][0]), expected=f"-{n} to {n - 1}",
            )  # fmt: skip
        index = index.long().to(self.x.device)
        return Dataset(self.x[index], self.y[index], self.ids[index])

    def sample(self, n: int, random_state: int) -> Dataset:
        """Return n random rows in the order that they have here, or all if there are no more."""
        chosen = torch.randperm(len(self), generator=torch.Generator().manual_seed(random_state))[:n]
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
    n_classes : labels are 0, …, n_classes - 1.
    """

    name: str
    train: Dataset
    calibration: Dataset
    validation: Dataset
    test: Dataset
    n_classes: int

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """(C, H, W) if the inputs are images, else None."""
        if self.train.x.ndim != 4:
            return None
        channels, height, width = self.train.x.shape[1:]
        return channels, height, width


def check_dataset(dataset: Dataset, n_classes: int | None = None, where: str = "data") -> None:
    """Refuse data that no network could learn from as it is; return nothing if it is fine.

    Parameters
    ----------
    dataset : x (n, ...) and y (n,); with floating point y, the targets of a regression, y may have more dimensions.
    n_classes : if given, y must be labels, and each of 0, …, n_classes - 1 must occur.
    where : the name of the data set in the error.

    Raises
    ------
    InputError
        If it is not a `Dataset` of tensors; there are no rows; x, y and ids differ in length; x is not floating point;
        x or y has a value that is NaN or infinite; labels are not int64 (n,), negative or not below ``n_classes``; or a
        class has no row.
    """
    _check_type(dataset, where)
    _check_shapes(dataset, where)
    _check_finite(dataset.x, f"{where}.x")
    if n_classes is None and dataset.y.is_floating_point():
        _check_finite(dataset.y, f"{where}.y")
    else:
        _check_labels(dataset.y, n_classes, f"{where}.y")


def _check_type(dataset: Dataset, where: str) -> None:
    if not isinstance(dataset, Dataset):
        raise InputError(
            "this is not a data set", where=where, got=type(dataset).__name__, expected="a consilience Dataset",
            cure="pass one part of the data, such as data.train, or Dataset(x, y, torch.arange(len(x)))",
        )  # fmt: skip
    for name, value in vars(dataset).items():
        if not isinstance(value, Tensor):
            raise InputError(
                "this is not a tensor", where=f"{where}.{name}", got=type(value).__name__, expected="a torch.Tensor",
                cure=f"convert it: torch.as_tensor({name})",
            )  # fmt: skip


def _check_shapes(dataset: Dataset, where: str) -> None:
    x, y, ids = dataset.x, dataset.y, dataset.ids
    if x.ndim < 2 or not x.is_floating_point():
        raise InputError(
            "the inputs must be floating point, one row per sample", where=f"{where}.x", got=_describe(x),
            expected="float32 (n, ...)", cure="convert them: x.float(), and x.unsqueeze(1) if a row is one number",
        )  # fmt: skip
    if x.numel() == 0:
        raise InputError("there are no inputs", where=f"{where}.x", got=_describe(x), expected="at least one row")
    if y.ndim == 0 or len(y) != len(x):
        raise InputError(
            "inputs and targets differ in length", where=where, got=f"x {tuple(x.shape)}, y {tuple(y.shape)}",
            expected="one target per row of x", cure="check that x and y come from the same split",
        )  # fmt: skip
    if ids.shape != (len(x),) or ids.dtype != torch.int64:
        raise InputError(
            "the row numbers do not fit the inputs", where=f"{where}.ids", got=_describe(ids),
            expected=f"int64 ({len(x)},)", cure="pass torch.arange(len(x))",
        )  # fmt: skip


def _check_finite(values: Tensor, where: str) -> None:
    low, high = values.detach().aminmax()  # NaN wins both, so one pass without temporaries tells whether all is well
    if torch.isfinite(low) and torch.isfinite(high):
        return
    bad = ~torch.isfinite(values.detach()).flatten(1 if values.ndim > 1 else 0).reshape(len(values), -1)
    raise InputError(
        "some values are NaN or infinite", where=where,
        got=f"{int(bad.sum())} of {values.numel()} values, the first in row {int(bad.any(dim=1).nonzero()[0])}",
        expected="finite numbers", cure="drop those rows or fill in their values",
    )  # fmt: skip


def _check_labels(y: Tensor, n_classes: int | None, where: str) -> None:
    if y.dtype != torch.int64 or y.ndim != 1:
        raise InputError(
            "the labels must be whole numbers, one per row", where=where, got=_describe(y), expected="int64 (n,)",
            cure="convert them: y.long() for numbers, y.argmax(1) for one-hot rows",
        )  # fmt: skip
    present = y.unique().tolist()  # ascending
    if present[0] < 0:
        raise InputError(
            "some labels are negative", where=where, expected="0, 1, 2, ...",
            got=f"{present[0]}, first in row {int((y < 0).nonzero()[0])}", cure="drop the rows without a label",
        )  # fmt: skip
    if n_classes is None:
        return
    if present[-1] >= n_classes:
        raise InputError(
            "a label is not one of the classes", where=where,
            got=f"{present[-1]}, first in row {int((y >= n_classes).nonzero()[0])}",
            expected=f"0 to {n_classes - 1}", cure="number the classes from 0, or raise the number of outputs",
        )  # fmt: skip
    n_missing = n_classes - len(present)
    if n_missing:
        owned = set(present)
        named = list(islice((c for c in range(n_classes) if c not in owned), MOST_CLASSES_NAMED))
        rest = f" and {n_missing - len(named)} more" if n_missing > len(named) else ""
        raise InputError(
            "some classes have no row", where=where, got=f"none of class {', '.join(map(str, named))}{rest}",
            expected=f"each of 0 to {n_classes - 1}", cure="number the classes without gaps, or add rows of them",
        )  # fmt: skip


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
