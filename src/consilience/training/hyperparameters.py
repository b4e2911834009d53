"""What a training run is made of: its hyperparameters, and everything else that decides its result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from consilience.checks import check_choice, check_count, check_number, check_positive, describe, is_count
from consilience.errors import InputError
from consilience.names import Optimizer, RateSchedule, Shuffle, Subset

if TYPE_CHECKING:
    from torch import Tensor

    from consilience.training.callbacks import Callback

RISE = 0.05  # share of a run's steps in which the learning rate of a cosine schedule rises


@dataclass(frozen=True)
class Training:
    """Hyperparameters of one training run; `check_training` checks their ranges.

    Attributes
    ----------
    epochs : passes over each member's samples.
    batch_size : samples of one step; the last batch of an epoch may be smaller.
    optimizer, learning_rate, momentum, weight_decay : as in `torch.optim`; momentum is of SGD only.
    schedule : of the learning rate: "constant"; or "cosine", which rises to it over the first 5 % of the steps, then
        falls to 0 along half a cosine.
    shuffle : whether each member has an order of its own, or all see the same batches (faster; needs ``full``).
    subset : which samples a member learns from; see `consilience.training.sampling.member_subsets`.
    concentration : of the Dirichlet shares.
    """

    epochs: int = 10
    batch_size: int = 128
    optimizer: Optimizer = "adam"
    learning_rate: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: RateSchedule = "constant"
    shuffle: Shuffle = "independent"
    subset: Subset = "full"
    concentration: float = 0.5


@dataclass(frozen=True)
class Run:
    """One training run: everything but data and networks that decides its result.

    Attributes
    ----------
    training : hyperparameters.
    random_state : seed of subsets, orders and dropout.
    validation : inputs and targets on which every member is evaluated after each epoch.
    max_steps : exact number of gradient steps of each member, in place of ``training.epochs``; may end within an epoch.
    members, n_members : the modules' numbers in a larger population of ``n_members``, whose subsets and orders they
        get; by default the modules are the population. Modules with the same number see the same samples in one order.
    callbacks : penalties and changes after each step of every member. A member whose penalty is not finite is frozen.
    snapshot_epochs : the epochs, ascending, after which the members' parameters are kept; 0 for the initial values.
    task : what the targets stand for (`consilience.tasks`); by default integers are classes, and floats are numbers.
    """

    training: Training
    random_state: int = 0
    validation: tuple[Tensor, Tensor] | None = None
    max_steps: int | None = None
    members: Sequence[int] | None = None
    n_members: int | None = None
    callbacks: Sequence[Callback] = ()
    snapshot_epochs: Sequence[int] = ()
    task: str | None = None


def check_training(training: Training) -> None:
    """Raise an `InputError` unless every hyperparameter is in its range."""
    if not isinstance(training, Training):
        raise InputError(f"training must be a consilience.Training, got {describe(training)}", cure="cs.Training(...)")
    for name in ("epochs", "batch_size"):
        check_count(name, getattr(training, name))
    kinds = {"optimizer": Optimizer, "schedule": RateSchedule, "shuffle": Shuffle, "subset": Subset}
    for name, allowed in kinds.items():
        check_choice(name, getattr(training, name), get_args(allowed))
    check_positive("learning_rate", training.learning_rate)
    check_positive("concentration", training.concentration)
    check_number("momentum", training.momentum, 0, below=1)
    check_number("weight_decay", training.weight_decay, 0)
    if training.shuffle == "shared" and training.subset != "full":
        message = "shuffle must be 'independent' for members with different samples, got 'shared' with "
        raise InputError(f"{message}{training.subset!r}", cure="use shuffle='independent', or subset='full'")


def learning_rate(training: Training, step: int, n_steps: int) -> float:
    """Return the learning rate of a step (from 0) of a run.

    >>> training = Training(learning_rate=0.5, schedule="cosine")
    >>> [round(learning_rate(training, step, 40), 3) for step in (0, 1, 2, 21, 39)]
    [0.25, 0.5, 0.5, 0.25, 0.001]
    """
    if training.schedule == "constant":
        return training.learning_rate
    rise = math.ceil(RISE * n_steps)
    if step < rise:
        return training.learning_rate * (step + 1) / rise
    return training.learning_rate * (1 + math.cos(math.pi * (step - rise) / (n_steps - rise))) / 2


def check_epochs(epochs: Sequence[int], last: int, argument: str) -> None:
    """Raise an `InputError` unless these are epochs from 0 to ``last``, ascending, each once."""
    is_sequence = isinstance(epochs, Sequence) and not isinstance(epochs, str)
    if not is_sequence or not all(is_count(e, 0, last) for e in epochs) or list(epochs) != sorted({*epochs}):
        raise InputError(f"{argument} must be ascending ints from 0 to {last}, each once, got {epochs!r}")
