"""How near outputs are to reference outputs, those of an ensemble: as a number that does not depend on their units.

For classes and tokens, the error of a row is ``KL(softmax t ‖ softmax y)`` in nats, with reference outputs t and
outputs y; a constant added to a row of either changes nothing. For several labels it is the mean over labels of
``KL(sigmoid t ‖ sigmoid y)``. For numbers it is the mean over outputs of
``(y − t)² / Var t``, the share of the reference's variance, as in 1 − R². Where the task is unknown, outputs count as
numbers.

Axis legend: ``n`` samples, ``o`` outputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from consilience.errors import InputError
from consilience.tasks import OF_CLASSES, check_task
from consilience.ties import first_largest

TEMPERATURES = {"next-token": 1.0}  # that outputs are fitted and judged at, by task, …
TEMPERATURE = 2.0  # … and of other tasks of classes (docs/experiments.md)
ROUNDING = 1e-9  # an error below it is that of outputs in single precision
ROUNDINGS = 8  # a spread below as many roundings of the magnitude is that of a constant


@dataclass(frozen=True)
class Agreement:
    """How near outputs are to reference outputs.

    Attributes
    ----------
    error : mean over samples; in nats for classes and labels, else as a share of the reference's variance.
    top1 : share of samples whose largest output is the same; None for a regression, several labels, or a single output.
    """

    error: float
    top1: float | None


def agreement(outputs: Tensor, reference: Tensor, task: str | None = None) -> Agreement:
    """Return the agreement of outputs (n, o) with reference outputs (n, o), n ≥ 1.

    >>> agreement(torch.tensor([[0.0, 2.0], [3.0, 1.0]]), torch.tensor([[0.0, 2.0], [1.0, 3.0]]), "classification").top1
    0.5
    """
    check_task(task)
    if outputs.shape != reference.shape or outputs.dim() != 2 or not len(outputs):
        got = f"{tuple(outputs.shape)} and {tuple(reference.shape)}"
        raise InputError(f"outputs and reference must have the same shape (n, o) with n >= 1, got {got}")
    spread = spread_of(reference).double()
    outputs, reference = outputs.double(), reference.double()
    error = float(row_errors(outputs, reference, task, spread).mean())
    if task in ("regression", "multilabel") or outputs.shape[1] == 1:
        return Agreement(error, None)
    return Agreement(error, float((first_largest(outputs) == first_largest(reference)).double().mean()))


def row_errors(outputs: Tensor, reference: Tensor, task: str | None, spread: Tensor) -> Tensor:
    """Return the error (n,) of each row of outputs (n, o); ``spread`` (o,) is `spread_of` the reference, of any rows.

    It is differentiable. For classes the spread is not used; a single output is the logit of one class of two.
    """
    if task in OF_CLASSES:
        logs = _of_two(outputs).log_softmax(-1), _of_two(reference).log_softmax(-1)
        return functional.kl_div(logs[0], logs[1], reduction="none", log_target=True).sum(-1)
    if task == "multilabel":
        each = [torch.stack([functional.logsigmoid(y), functional.logsigmoid(-y)]) for y in (outputs, reference)]
        return functional.kl_div(each[0], each[1], reduction="none", log_target=True).sum(0).mean(-1)
    return ((outputs - reference) / spread).square().mean(-1)


def softened_errors(outputs: Tensor, reference: Tensor, task: str | None, spread: Tensor) -> Tensor:
    """Return what outputs are fitted and judged by: `row_errors`, for classes at temperature T, times T².

    Members are sure of the classes of rows that they were trained on: at temperature 1 a few rows decide alone. Of the
    next token nobody is sure. Source of the temperature: Hinton, Vinyals and Dean 2015.
    """
    if task in (*OF_CLASSES, "multilabel"):
        temperature = temperature_of(task)
        outputs, reference = outputs / temperature, reference / temperature
        return row_errors(outputs, reference, task, spread) * temperature**2
    return row_errors(outputs, reference, task, spread)


def temperature_of(task: str | None) -> float:
    """Return the temperature T of a task of classes."""
    return TEMPERATURES.get(task or "", TEMPERATURE)


def class_probabilities(outputs: Tensor, task: str | None) -> Tensor:
    """Return softmax(y / T) of outputs y (n, o): (n, o), of a single logit (n, 2)."""
    return (_of_two(outputs) / temperature_of(task)).softmax(-1)


def _of_two(outputs: Tensor) -> Tensor:
    """Outputs of classes; a single one is the logit of the first class of two."""
    return functional.pad(outputs, (0, 1)) if outputs.shape[1] == 1 else outputs


def spread_of(reference: Tensor) -> Tensor:
    """Return the standard deviation (o,) of each reference output, by which squared errors are divided.

    An output that is constant, to rounding in the precision of the reference, counts by its magnitude, and one that is
    zero by the largest spread of the others.
    """
    exact, rounding = reference.double(), ROUNDINGS * torch.finfo(reference.dtype).eps
    square = exact.square().mean(0)
    variance = (exact - exact.mean(0)).square().mean(0)
    variance = torch.where(variance > rounding**2 * square, variance, square)
    largest = float(variance.max())
    return torch.where(variance > 0, variance, largest or 1.0).sqrt().to(reference.dtype)


def worth(error: float, sub_ensembles: Sequence[float]) -> float:
    """Return the size of the sub-ensemble with this error, from those of 1, …, N members, the last of which is 0.

    Errors are interpolated linearly in 1/m, in which the error of a mean of m of N members is linear: for independent
    members it is ``(1/m − 1/N)`` times a constant. A network that is worse than one member is worth less than 1 by
    the line through 1 and N; where all members agree, a network that does not is worth NaN.

    >>> worth(0.5, [1.0, 0.0]), worth(1.0, [1.0, 0.0]), worth(0.0, [1.0, 0.0])
    (1.3333333333333333, 1.0, 2.0)
    """
    n = len(sub_ensembles)
    if error <= ROUNDING:
        return float(n)
    if sub_ensembles[0] <= ROUNDING:
        return math.nan
    if error >= sub_ensembles[0]:
        return 1 / (1 / n + (1 - 1 / n) * error / sub_ensembles[0])
    m = max(m for m in range(1, n) if sub_ensembles[m - 1] >= error)
    high, low = sub_ensembles[m - 1], sub_ensembles[m]
    return 1 / (1 / (m + 1) + (1 / m - 1 / (m + 1)) * (error - low) / (high - low))
