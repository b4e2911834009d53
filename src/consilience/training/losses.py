"""What members are trained towards: labels (cross-entropy) or vectors (mean squared error).

Axis legend: ``k`` member, ``n`` sample, ``c`` output.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from consilience.checks import check_finite, check_labels, check_rows, check_targets, describe
from consilience.errors import InputError


class Samples(NamedTuple):
    """Inputs (n, ...) and targets: labels (n,) of int64, or floats (n, c)."""

    x: Tensor
    y: Tensor


def as_samples(x: Tensor, y: Tensor, device: torch.device, name: str = "") -> Samples:
    """Return samples on a device, with labels as int64; raises an `InputError` if nothing can be learned from them."""
    if len(x) == 0:
        raise InputError(f"{name}x must have at least one row, got {describe(x)}")
    check_rows(y, len(x), f"{name}y", f"{name}x")
    if y.is_floating_point():
        if y.ndim != 2:
            raise InputError(f"{name}y must be integer labels (n,) or floats (n, outputs), got {describe(y)}")
        check_finite(y, f"{name}y")
    else:
        check_labels(y, len(x), f"{name}y")
    check_finite(x, f"{name}x")
    return Samples(x.detach().to(device), y.detach().to(device) if y.is_floating_point() else y.to(device, torch.int64))


def check_fit(samples: Samples, outputs: Tensor, name: str = "") -> None:
    """Raise an `InputError` unless targets fit the members' outputs (n, c)."""
    if outputs.ndim != 2:
        got = tuple(outputs.shape)
        raise InputError(f"a member's outputs must have shape (n, c), got {got}", cure="flatten the last layer")
    check_targets(samples.y, outputs, f"{name}y")
    if samples.y.is_floating_point() and samples.y.dtype != outputs.dtype:
        raise InputError(f"{name}y must be of {outputs.dtype}, as the outputs, got {samples.y.dtype}")


def member_losses(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return mean losses (k,) of outputs (k, n, c): cross-entropy for labels (k, n), squared error for targets.

    Outside of vmap: on all samples in one row it takes fewer operations than a vectorized loss.
    """
    if targets.is_floating_point():
        return functional.mse_loss(outputs, targets, reduction="none").flatten(1).mean(1)
    losses = functional.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="none")
    return losses.view(outputs.shape[:2]).mean(1)


class Means:
    """Running means over samples of each member's loss and, for labels, accuracy."""

    def __init__(self, k: int, y: Tensor) -> None:
        self.samples = 0
        self.loss = torch.zeros(k, dtype=torch.float64, device=y.device)
        self.correct = None if y.is_floating_point() else torch.zeros(k, dtype=torch.int64, device=y.device)

    def add(self, losses: Tensor, outputs: Tensor, targets: Tensor) -> None:
        """Count one batch: losses (k,), outputs (k, n, c), targets (k, n, ...)."""
        n = targets.shape[1]
        self.samples += n
        self.loss.add_(losses.detach(), alpha=n)
        if self.correct is not None:
            self.correct += (outputs.detach().argmax(-1) == targets).sum(1)

    def result(self) -> dict[str, list[float]]:
        """Return the means by name, a number for each member."""
        totals = {"loss": self.loss} if self.correct is None else {"loss": self.loss, "accuracy": self.correct}
        return {name: (total / self.samples).tolist() for name, total in totals.items()}
