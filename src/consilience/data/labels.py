"""Other tasks on the same inputs: labels as functions of the class."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import torch

from consilience.checks import is_count
from consilience.data.dataset import Data, Dataset
from consilience.errors import InputError

# By name, the label of each of the ten classes. The first four are of digits; "animal" is of CIFAR-10.
TASKS: dict[str, tuple[int, ...]] = {
    "class": tuple(range(10)),
    "parity": (0, 1, 0, 1, 0, 1, 0, 1, 0, 1),
    "above-four": (0, 0, 0, 0, 0, 1, 1, 1, 1, 1),
    "loops": (1, 0, 0, 0, 1, 0, 1, 0, 2, 1),  # closed loops in the glyph
    "animal": (0, 0, 1, 1, 1, 1, 1, 1, 0, 0),  # bird, cat, deer, dog, frog, horse
}


def parse_labels(labels: str | Sequence[int]) -> tuple[int, ...]:
    """Return the label of each class: of a task in `TASKS`, of text such as ``"0,1,1"``, or of numbers.

    >>> parse_labels("parity")[:4], parse_labels("0,1,1"), parse_labels([1, 0])
    ((0, 1, 0, 1), (0, 1, 1), (1, 0))
    """
    given = labels
    if isinstance(labels, str):
        if labels in TASKS:
            return TASKS[labels]
        labels = [int(part) for part in labels.split(",")] if re.fullmatch(r"\d{1,9}(,\d{1,9})+", labels) else []
    is_list = isinstance(labels, Sequence) and all(is_count(label, 0) for label in labels)
    if not is_list or len({*labels}) < 2 or {*labels} != {*range(len({*labels}))}:
        known, got = ", ".join(map(repr, TASKS)), f"got {given!r}"
        raise InputError(f"labels must be one of {known}, or a number from 0 on for each class, as in '0,1,1', {got}")
    return tuple(int(label) for label in labels)


def of_task(dataset: Dataset, labels: str | Sequence[int]) -> Dataset:
    """Return a data set of classes with other labels, as in `parse_labels`.

    >>> data = Dataset(torch.zeros(3, 2), torch.tensor([0, 8, 7]), torch.arange(3))
    >>> of_task(data, "loops").y.tolist(), of_task(data, [0, 0, 0, 0, 0, 0, 0, 1, 1]).y.tolist()
    ([1, 2, 0], [0, 1, 1])
    """
    new, y = parse_labels(labels), dataset.y
    if y.is_floating_point() or y.ndim != 1 or int(y.min()) < 0 or int(y.max()) >= len(new):
        got = f"{y.dtype} {tuple(y.shape)}"
        raise InputError(
            f"rows must be of {len(new)} classes, 0 to {len(new) - 1}, for labels {labels!r}, got {got}",
            cure="pass digits, MNIST or CIFAR-10, or a label for each class of your own",
        )
    return replace(dataset, y=torch.tensor(new)[y])


def relabelled(data: Data, labels: str | Sequence[int]) -> Data:
    """Return data with other labels in place of its classes, as in `parse_labels`; rows stay where they are."""
    new = parse_labels(labels)
    if data.n_classes != len(new) or data.task != "classification":
        has = f"{data.n_classes} classes" if data.task == "classification" else data.task
        message = f"labels must be one for each class of {data.name}, which has {has}, got {labels!r}"
        raise InputError(message, cure="pass a number for each class, or leave them out")
    return replace(
        data,
        train=of_task(data.train, new),
        calibration=of_task(data.calibration, new),
        validation=of_task(data.validation, new),
        test=of_task(data.test, new),
        n_classes=len({*new}),
        read_as=f"{data.read_as}, with labels {labels}",
        classes=(),
    )
