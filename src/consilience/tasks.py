"""What outputs are for: the targets that a task takes, and its loss.

==============  ==============================  =======================================================
task            targets y                       loss of a sample
==============  ==============================  =======================================================
classification  int64 (n,), the class           cross-entropy of the softmax of the outputs, in nats
regression      floats (n, o, ...)              mean squared error over outputs
multilabel      floats (n, o), each 0 or 1      binary cross-entropy of the outputs' sigmoid, mean over labels
next-token      int64 (n, t), the next tokens   cross-entropy as of classes, mean over positions, in nats
==============  ==============================  =======================================================

Outputs are (n, o), for numbers of the shape of y, and for tokens (n, t, o).

Axis legend: ``n`` samples, ``o`` outputs, ``t`` positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor
from torch.nn import functional

from consilience.checks import as_labels, as_tensor, check_choice, check_finite, check_rows, check_tokens, describe
from consilience.errors import InputError
from consilience.names import Task

OF_CLASSES = ("classification", "next-token")  # tasks whose outputs are scores of classes
NUMBERS = "pass task='regression' (--task regression) if these are numbers to predict"
ONES = "a column for each label, 1 where a row has it and 0 where it has not"


def check_task(task: object) -> None:
    """Raise unless the task is known by name, or None."""
    if task is not None:
        check_choice("task", task, get_args(Task))


def check_fits_outputs(task: str | None, shape: Sequence[int]) -> None:
    """Raise if a task is not one of networks with outputs of this shape, of one sample.

    >>> check_fits_outputs("classification", (10,))
    """
    got = f"{task!r} of outputs ({', '.join(['n', *map(str, shape)])})"
    if task == "next-token" and len(shape) != 2:
        cure = "pick the scores of all tokens at each position by output=, or pass the task that the outputs are for"
        raise InputError(f"task must fit the outputs, which are (n, t, tokens) for next-token, got {got}", cure=cure)
    if task == "classification" and shape[:1] == (1,):
        cure = "pass task='multilabel' if it says yes or no, task='regression' if it is a number"
        raise InputError(f"task must fit the outputs, at least 2 for classification, got {got}", cure=cure)


def task_of(y: Tensor) -> str:
    """Return the task that targets are for where nothing else is known: floats are numbers, integers are classes."""
    return "regression" if y.is_floating_point() else "classification"


def as_targets(y: object, n: int, argument: str, task: str | None = None) -> Tensor:
    """Return targets of n samples as a task takes them, the task of `task_of` by default, or raise.

    >>> as_targets([0.5, 2.0], 2, "y", "regression").tolist(), as_targets([True, False], 2, "y").tolist()
    ([[0.5], [2.0]], [1, 0])
    """
    check_task(task)
    given = as_tensor(y, argument)
    if task in (None, "classification"):
        if task is None and given.is_floating_point():
            return as_targets(given, n, argument, "regression")
        return as_labels(given, n, argument)
    check_rows(given, n, argument)
    if task == "next-token":
        check_tokens(given, argument)
        return given.long()
    numbers = given if given.is_floating_point() and task == "regression" else given.to(torch.get_default_dtype())
    check_finite(numbers, argument)
    if task == "multilabel" and (given.ndim not in (1, 2) or not bool(((given == 0) | (given == 1)).all())):
        got = describe(given) if given.ndim not in (1, 2) else f"{float(numbers[(numbers != 0) & (numbers != 1)][0]):g}"
        raise InputError(f"{argument} must be 0 or 1 in each column (n, labels), got {got}", cure=f"pass {ONES}")
    return numbers.unsqueeze(1) if numbers.ndim == 1 else numbers


def losses(outputs: Tensor, y: Tensor, task: str) -> Tensor:
    """Return the loss of each sample (n,), of outputs (n, o), for numbers of the shape of y, for tokens (n, t, o).

    >>> losses(torch.zeros(2, 4), torch.tensor([0, 3]), "classification").exp()
    tensor([4., 4.])
    """
    if task == "classification":
        return functional.cross_entropy(outputs, y, reduction="none")
    if task == "next-token":
        return functional.cross_entropy(outputs.flatten(0, 1), y.flatten(), reduction="none").view(y.shape).mean(1)
    if task == "multilabel":
        return functional.binary_cross_entropy_with_logits(outputs, y, reduction="none").flatten(1).mean(1)
    return functional.mse_loss(outputs, y, reduction="none").flatten(1).mean(1)


def check_varies(y: Tensor, argument: str, names: tuple[str, ...] = ()) -> None:
    """Raise if a column of targets (n, o, ...) is the same in all rows and positions: there is nothing to learn."""
    rows = y.flatten(2).movedim(1, -1).flatten(0, 1) if y.ndim > 2 else y
    constant = (rows == rows[:1]).all(0).nonzero().flatten().tolist() if y.is_floating_point() else []
    if constant:
        column = repr(names[constant[0]]) if names else f"column {constant[0]}"
        got = f"{float(rows[0, constant[0]]):g} in all rows of {column}"
        raise InputError(f"{argument} must have targets that vary, got {got}", cure="leave this target out")
