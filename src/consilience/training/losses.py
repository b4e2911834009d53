"""What members are trained towards: classes, numbers, labels or tokens, by the task (`consilience.tasks`).

Axis legend: ``k`` member, ``n`` sample, ``t`` position, ``c`` output.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from consilience.checks import check_finite, check_labels, check_rows, check_targets, check_tokens, describe
from consilience.errors import InputError
from consilience.tasks import OF_CLASSES, losses, task_of


class Samples(NamedTuple):
    """Inputs (n, ...) and targets: labels (n,) or tokens (n, t) of int64, or floats (n, c); and their task."""

    x: Tensor
    y: Tensor
    task: str = "classification"


def as_samples(x: Tensor, y: Tensor, device: torch.device, name: str = "", task: str | None = None) -> Samples:
    """Return samples on a device, with labels as int64; raises an `InputError` if nothing can be learned from them."""
    if len(x) == 0:
        raise InputError(f"{name}x must have at least one row, got {describe(x)}")
    check_rows(y, len(x), f"{name}y", f"{name}x")
    if y.is_floating_point():
        if y.ndim != 2:
            raise InputError(f"{name}y must be integer labels (n,) or floats (n, outputs), got {describe(y)}")
        check_finite(y, f"{name}y")
    elif task == "next-token":
        check_tokens(y, f"{name}y")
    else:
        check_labels(y, len(x), f"{name}y")
    check_finite(x, f"{name}x")
    task = task or task_of(y)
    if (task in OF_CLASSES) == y.is_floating_point():
        raise InputError(f"{name}y must be targets of a {task}, got {describe(y)}", cure="pass the task that y is of")
    y = y.detach() if y.is_floating_point() else y.to(torch.int64)
    return Samples(x.detach().to(device), y.to(device), task)


def check_fit(samples: Samples, outputs: Tensor, name: str = "") -> None:
    """Raise an `InputError` unless targets fit the members' outputs (n, c), of tokens (n, t, c)."""
    of_tokens = samples.task == "next-token"
    if outputs.ndim != (3 if of_tokens else 2):
        wanted, got = "(n, t, c) for tokens" if of_tokens else "(n, c)", tuple(outputs.shape)
        cure = None if of_tokens else "flatten the last layer"
        raise InputError(f"a member's outputs must have shape {wanted}, got {got}", cure=cure)
    check_targets(samples.y, outputs, f"{name}y")
    if samples.y.is_floating_point() and samples.y.dtype != outputs.dtype:
        raise InputError(f"{name}y must be of {outputs.dtype}, as the outputs, got {samples.y.dtype}")


def member_losses(outputs: Tensor, targets: Tensor, task: str) -> Tensor:
    """Return mean losses (k,) of outputs (k, n, c) for targets (k, n) or (k, n, c); for tokens with t after n.

    Outside of vmap: on all samples in one row it takes fewer operations than a vectorized loss.
    """
    return losses(outputs.flatten(0, 1), targets.flatten(0, 1), task).view(outputs.shape[:2]).mean(1)


class Means:
    """Running means over samples of each member's loss and, but for numbers, accuracy."""

    def __init__(self, k: int, samples: Samples) -> None:
        self.samples, self.task, y = 0, samples.task, samples.y
        self.loss = torch.zeros(k, dtype=torch.float64, device=y.device)
        kinds = {"classification": torch.int64, "multilabel": torch.float64, "next-token": torch.float64}
        self.correct = torch.zeros(k, dtype=kinds[self.task], device=y.device) if self.task in kinds else None

    def add(self, means: Tensor, outputs: Tensor, targets: Tensor) -> None:
        """Count one batch: mean losses (k,), outputs (k, n, ..., c), targets (k, n, ...)."""
        n = targets.shape[1]
        self.samples += n
        self.loss.add_(means.detach(), alpha=n)
        if self.task == "multilabel" and self.correct is not None:
            self.correct += ((outputs.detach() > 0) == (targets > 0.5)).double().mean(2).sum(1)
        elif self.task == "next-token" and self.correct is not None:
            self.correct += (outputs.detach().argmax(-1) == targets).double().mean(2).sum(1)
        elif self.correct is not None:
            self.correct += (outputs.detach().argmax(-1) == targets).sum(1)

    def result(self) -> dict[str, list[float]]:
        """Return the means by name, a number for each member."""
        totals = {"loss": self.loss} if self.correct is None else {"loss": self.loss, "accuracy": self.correct}
        return {name: (total / self.samples).tolist() for name, total in totals.items()}
