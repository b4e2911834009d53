"""Callbacks: terms of the loss, and changes after each step, of each member on its own.

- A penalty is differentiated alone, on the member's own rows of the stack, and its gradient is added to that of the
  task's loss. Whatever the penalty gives, NaN included, the other members keep their bits.
- Optimizers skip a parameter that a network does not use, because it has no gradient. With callbacks its gradient is 0
  for every member, so that a penalty of one member does not bring weight decay to the others: all of them decay.

Axis legend: ``k`` member.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

import torch
from torch import Tensor

from consilience.checks import describe
from consilience.errors import InputError
from consilience.training.stack import Stack


class Callback:
    """A term of the loss, a change after each step, or both.

    What a callback does must be a function of its settings and its arguments alone. It keeps nothing from call to call
    and draws no random numbers, except from a generator that it makes from the member and the step: a resumed run
    does not repeat earlier calls, and members of one architecture take turns within a step.

    Its ``repr`` must contain its settings, as that of a dataclass does; a resume state identifies a callback by it. For
    tensors, whose repr is rounded and shortened, it must contain what they were made from, or their
    `consilience.training.resume.digest`.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Decay(Callback):
    ...     strength: float
    ...
    ...     def penalty(self, member, module_parameters):
    ...         return self.strength / 2 * sum(value.square().sum() for value in module_parameters.values())
    >>> from consilience.training import Run, Training, fit_members
    >>> x, y, net = torch.randn(20, 2), torch.arange(20) % 2, torch.nn.Linear(2, 2)
    >>> trained = fit_members([net], x, y, Run(Training(epochs=2), callbacks=[Decay(0.1)]))
    """

    def penalty(self, member: int, module_parameters: Mapping[str, Tensor]) -> Tensor | None:
        """Return a scalar that is added to a member's loss in every step, or None for nothing.

        Parameters
        ----------
        member : its number in the population.
        module_parameters : the member's tensors by name, without a member axis, not to be changed: the parameters, of
            which the trained ones get the scalar's gradient; the buffers; batch norms' statistics after the last step.
        """
        return None

    def after_step(self, member: int, step: int, parameters: Mapping[str, Tensor]) -> None:
        """Change a member after a gradient step, in place; called without gradients.

        Parameters
        ----------
        member : its number in the population.
        step : gradient steps so far in the whole run, from 1.
        parameters : the member's trained parameters by name, without a member axis.
        """


def check_callbacks(callbacks: Sequence[Callback], *, resumable: bool = False) -> None:
    """Raise an `InputError` unless all are callbacks; for a ``resumable`` run, unless their repr has all settings."""
    for number, callback in enumerate(callbacks):
        if not isinstance(callback, Callback):
            raise InputError(f"callbacks[{number}] must be an instance of a subclass of Callback, got {callback!r}")
        if resumable and not has_full_repr(callback):
            wanted = "a repr with all settings, without an address or an ellipsis, for a run that can be resumed"
            cure = "make the callback a dataclass, or give it a __repr__"
            raise InputError(f"callbacks[{number}] must have {wanted}, got {callback!r}", cure=cure)


def has_full_repr(callback: Callback) -> bool:
    """Return whether a callback's repr contains its settings: no address, and no tensor cut short."""
    return not any(sign in repr(callback) for sign in (" at 0x", "..."))


class StackCallbacks:
    """Callbacks that act, in this order, on the members of a stack, whose numbers in the population are ``members``."""

    def __init__(self, callbacks: Sequence[Callback], stack: Stack, members: Sequence[int]) -> None:
        self.callbacks, self.members = tuple(callbacks), tuple(members)
        self.stacked = list(stack.trainable.values())
        fixed = {**stack.constant, **stack.statistics}
        # Rows that are seen in place of copies follow whatever is written into the stack.
        self.trained = [_row(stack.trainable, row) for row in range(len(members))]
        self.leaves = [
            {name: value.requires_grad_() for name, value in _row(stack.trainable, row).items()}
            for row in range(len(members))
        ]
        self.visible = [leaves | _row(fixed, row) for row, leaves in enumerate(self.leaves)]
        for row in range(len(members)):  # a penalty that cannot be trained with raises before any work
            self._penalty(row)

    def add_gradients(self, gradients: Sequence[Tensor | None], frozen: Container[int]) -> tuple[list[Tensor], Tensor]:
        """Return the gradients (k, ...) with those of the penalties, and the penalties (k,), 0 for frozen rows."""
        added = [
            torch.zeros_like(value) if gradient is None else gradient.clone(memory_format=torch.contiguous_format)
            for value, gradient in zip(self.stacked, gradients, strict=True)
        ]
        penalties = torch.zeros(len(self.members), dtype=torch.float64, device=self.stacked[0].device)
        for row, leaves in enumerate(self.leaves):
            penalty = None if row in frozen else self._penalty(row)
            if penalty is None:
                continue
            penalties[row] = penalty.detach()
            if penalty.requires_grad:
                of_penalty = torch.autograd.grad(penalty, list(leaves.values()), allow_unused=True)
                for total, gradient in zip(added, of_penalty, strict=True):
                    if gradient is not None:
                        total[row] += gradient
        return added, penalties

    def after_step(self, step: int, frozen: Container[int]) -> None:
        """Let every callback change the members that are not frozen."""
        with torch.no_grad():
            for row, member in enumerate(self.members):
                if row not in frozen:
                    for callback in self.callbacks:
                        callback.after_step(member, step, self.trained[row])

    def _penalty(self, row: int) -> Tensor | None:
        total: Tensor | None = None
        for callback in self.callbacks:
            penalty = callback.penalty(self.members[row], self.visible[row])
            if penalty is not None:
                _check_penalty(penalty, callback, self.members[row])
                total = penalty if total is None else total + penalty
        return total


def _row(tensors: Mapping[str, Tensor], row: int) -> dict[str, Tensor]:
    return {name: value.detach()[row] for name, value in tensors.items()}


def _check_penalty(penalty: object, callback: Callback, member: int) -> None:
    name = f"{type(callback).__name__}.penalty of member {member}"
    if not isinstance(penalty, Tensor) or penalty.ndim or not penalty.is_floating_point():
        raise InputError(f"{name} must return a tensor () of floats, or None, got {describe(penalty)}")
    if not penalty.requires_grad and bool(penalty.isfinite()):
        cure = "compute it from them without detach(), item() or no_grad(), or return None"
        raise InputError(f"{name} must depend on the parameters, got a tensor without a gradient", cure=cure)
