"""The hyperparameters of one training run, and which values make sense."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from consilience.checks import is_count
from consilience.errors import InputError

Optimizer = Literal["adam", "sgd"]
Shuffle = Literal["independent", "shared"]
Subset = Literal["full", "bootstrap", "disjoint", "dirichlet"]


@dataclass(frozen=True)
class Training:
    """Hyperparameters of one training run; `check_training` tells whether they make sense.

    Attributes
    ----------
    epochs : passes over each member's samples.
    batch_size : samples of one step; the last batch of an epoch may be smaller.
    optimizer, learning_rate, momentum, weight_decay : as in `torch.optim`; momentum is of SGD only.
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
    shuffle: Shuffle = "independent"
    subset: Subset = "full"
    concentration: float = 0.5


def check_training(training: Training) -> None:
    """Refuse hyperparameters that make no sense, by name.

    Raises
    ------
    InputError
        If a value is out of its range, or two of them do not go together.
    """
    for name, value in asdict(training).items():
        allowed, expected = RULES[name]
        try:
            good = allowed(value)
        except TypeError:  # not to be compared with a number
            good = False
        if not good:
            raise InputError(
                "a hyperparameter is out of range", where=f"Training({name}=...)", got=repr(value), expected=expected
            )
    if training.shuffle == "shared" and training.subset != "full":
        raise InputError(
            "members with different samples cannot share their batches", where="Training(shuffle=..., subset=...)",
            got=f"shuffle='shared', subset={training.subset!r}", cure="use shuffle='independent', or subset='full'",
        )  # fmt: skip


RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "epochs": (is_count, "an integer of 1 or more"),
    "batch_size": (is_count, "an integer of 1 or more"),
    "optimizer": (lambda value: value in get_args(Optimizer), " or ".join(get_args(Optimizer))),
    "learning_rate": (lambda value: 0 < value < math.inf, "a number above 0"),
    "momentum": (lambda value: 0 <= value < 1, "a number from 0 to below 1"),
    "weight_decay": (lambda value: 0 <= value < math.inf, "a number of 0 or more"),
    "shuffle": (lambda value: value in get_args(Shuffle), " or ".join(get_args(Shuffle))),
    "subset": (lambda value: value in get_args(Subset), ", ".join(get_args(Subset))),
    "concentration": (lambda value: 0 < value < math.inf, "a number above 0"),
}
