"""Tasks on the same inputs that ship: labels as functions of ten classes."""

from __future__ import annotations

from dataclasses import replace

import torch

from consilience.checks import check_choice
from consilience.data import Dataset
from consilience.errors import InputError

# By name, the label of each of the ten classes. The first four are of digits; "animal" is of CIFAR-10.
TASKS: dict[str, tuple[int, ...]] = {
    "class": tuple(range(10)),
    "parity": (0, 1, 0, 1, 0, 1, 0, 1, 0, 1),
    "above-four": (0, 0, 0, 0, 0, 1, 1, 1, 1, 1),
    "loops": (1, 0, 0, 0, 1, 0, 1, 0, 2, 1),  # closed loops in the glyph
    "animal": (0, 0, 1, 1, 1, 1, 1, 1, 0, 0),  # bird, cat, deer, dog, frog, horse
}


def of_task(dataset: Dataset, task: str) -> Dataset:
    """Return a data set of ten classes with the labels of a task in `TASKS`.

    >>> data = Dataset(torch.zeros(3, 2), torch.tensor([0, 8, 7]), torch.arange(3))
    >>> of_task(data, "loops").y.tolist()
    [1, 2, 0]
    """
    check_choice("task", task, TASKS)
    y = dataset.y
    if y.is_floating_point() or y.ndim != 1 or int(y.min()) < 0 or int(y.max()) > 9:
        cure = "pass digits, MNIST or CIFAR-10; populations of your own tasks go into Transfer.fit"
        raise InputError(f"labels must be those of ten classes, 0 to 9, got {y.dtype} {tuple(y.shape)}", cure=cure)
    return replace(dataset, y=torch.tensor(TASKS[task])[y])
