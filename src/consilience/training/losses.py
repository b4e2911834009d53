"""What members are trained towards: labels (cross-entropy) or vectors (mean squared error).

Axis legend: ``k`` member, ``n`` sample, ``c`` output.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from consilience.errors import InputError

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class Samples(NamedTuple):
    """Inputs (n, ...) and targets: labels (n,) of int64, or floats (n, c)."""

    x: Tensor
    y: Tensor


def check_samples(x: Tensor, y: Tensor, device: torch.device, name: str = "") -> Samples:
    """Return samples on a device, with labels as int64.

    Raises
    ------
    InputError
        If there are none, inputs and targets do not belong together, or a value is not finite.
    """
    if len(x) != len(y) or len(x) == 0:
        raise InputError(
            "inputs and targets differ in number, or there are none",
            where=f"{name}x, {name}y",
            got=f"{len(x)} and {len(y)}",
        )
    if not (y.ndim == 1 and y.dtype in INTEGERS) and not (y.ndim == 2 and y.is_floating_point()):
        raise InputError(
            "the targets are neither labels nor vectors", where=f"{name}y", got=f"{tuple(y.shape)} of {y.dtype}",
            expected="integers (n,) or floats (n, d)",
        )  # fmt: skip
    for part, values in (("x", x), ("y", y)):
        if not bool(values.isfinite().all()):
            raise InputError("the data is not finite", where=f"{name}{part}", cure="remove NaN and infinite values")
    return Samples(x.detach().to(device), y.detach().to(device) if y.is_floating_point() else y.to(device, torch.int64))


def check_targets(samples: Samples, outputs: Tensor, name: str = "") -> None:
    """Refuse targets that do not fit the members' outputs (n, c).

    Raises
    ------
    InputError
        If a label has no output, or vectors differ in length or type.
    """
    y = samples.y
    if outputs.ndim != 2:
        raise InputError("a member's outputs are not vectors", where="modules", got=tuple(outputs.shape),
                         expected="(n, outputs)", cure="flatten the last layer's outputs")  # fmt: skip
    if y.is_floating_point():
        if y.shape[1:] != outputs.shape[1:] or y.dtype != outputs.dtype:
            raise InputError(
                "the targets do not fit the members' outputs", where=f"{name}y", got=f"(n, {y.shape[1]}) of {y.dtype}",
                expected=f"(n, {outputs.shape[1]}) of {outputs.dtype}",
            )  # fmt: skip
    elif int(y.min()) < 0 or int(y.max()) >= outputs.shape[1]:
        raise InputError(
            "there are labels without an output", where=f"{name}y", got=f"labels from {int(y.min())} to {int(y.max())}",
            expected=f"0 to {outputs.shape[1] - 1}", cure="number the classes from 0, or give the members more outputs",
        )  # fmt: skip


def member_losses(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the members' mean losses (k,).

    Cross-entropy of outputs (k, n, c) and labels (k, n), or squared error of outputs and targets (k, n, c), averaged
    over samples (and c). Outside of vmap: on all samples in one row it takes fewer operations than a vectorised loss.
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
        found = {"loss": self.loss} if self.correct is None else {"loss": self.loss, "accuracy": self.correct}
        return {name: (total / self.samples).tolist() for name, total in found.items()}
