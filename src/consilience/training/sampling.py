"""Which samples a member learns from, and in which order it sees them.

- Everything is a pure function of ``random_state``, the member and the epoch, so that a resumed run needs no stored
  random state, and a member does not depend on which others are trained beside it.
- A subset is a tensor of row numbers; rows may repeat (bootstrap).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from consilience.checks import check_choice, check_count, check_labels
from consilience.errors import InputError
from consilience.names import Shuffle, Subset
from consilience.seeds import OWN_ORDER, SHARED_ORDER, SUBSET, generator, numpy_generator
from consilience.training.hyperparameters import Run

# A member with fewer samples than this learns nothing worth a census; a Dirichlet draw that leaves one is drawn again.
FEWEST = 4
DRAWS = 1000


def member_subsets(
    y: Tensor,
    n_members: int,
    kind: Subset,
    concentration: float,
    random_state: int,
    chosen: Sequence[int] | None = None,
) -> tuple[Tensor, ...]:
    """Return the row numbers that each member, or each of those ``chosen``, learns from.

    ``y`` are labels (n,) or targets (n, d).

    - ``full``: every row. ``bootstrap``: n draws with replacement. ``disjoint``: equal parts of a random permutation.
    - ``dirichlet``: for each class c, shares ``p_c ~ Dirichlet(concentration · 1)`` over the members; the rows of the
      class are dealt out by these shares, so the subsets are a partition with unequal sizes and class frequencies (Hsu,
      Qi and Brown 2019). A small concentration gives each member few classes.
    """
    check_choice("subset", kind, get_args(Subset))
    n, chosen = len(y), range(n_members) if chosen is None else chosen
    if kind == "full":
        return (torch.arange(n),) * len(chosen)
    if kind == "bootstrap":
        streams = [generator(random_state, SUBSET, member) for member in chosen]
        return tuple(torch.randint(n, (n,), generator=stream) for stream in streams)
    if n < n_members:
        message = f"n_members must be at most the {n} samples for subset={kind!r}, got {n_members}"
        raise InputError(message, cure="use fewer members, or subset='bootstrap'")
    if kind == "disjoint":
        parts = torch.randperm(n, generator=generator(random_state, SUBSET)).tensor_split(n_members)
    else:
        parts = _dirichlet(y, n_members, concentration, random_state)
    return tuple(parts[member] for member in chosen)


def _dirichlet(y: Tensor, n_members: int, concentration: float, random_state: int) -> tuple[Tensor, ...]:
    check_labels(y, len(y), "y of subset='dirichlet'")
    classes, counts = y.unique(return_counts=True)
    rng = numpy_generator(random_state, SUBSET)
    for _ in range(DRAWS):
        shares = rng.dirichlet([concentration] * n_members, size=len(classes))  # (c, k)
        edges = (shares.cumsum(axis=1) * counts.cpu().numpy()[:, None]).round().astype(int)
        edges[:, -1] = counts.cpu().numpy()  # the sum of the shares is 1 only to rounding
        if np.diff(edges.sum(axis=0), prepend=0).min() >= FEWEST:
            break
    else:
        wanted = f"{FEWEST} of {len(y)} samples"
        got = f"fewer in {DRAWS} draws with concentration={concentration}"
        message = f"subset='dirichlet' must give each of {n_members} members {wanted}, got {got}"
        raise InputError(message, cure="use a larger concentration, fewer members or more data")
    pieces = []
    for number, label in enumerate(classes):
        rows = (y == label).nonzero().flatten().cpu()
        rows = rows[torch.randperm(len(rows), generator=generator(random_state, SUBSET, number))]
        pieces.append(rows.tensor_split(edges[number, :-1].tolist()))
    return tuple(torch.cat(parts) for parts in zip(*pieces, strict=True))


def epoch_order(indices: Tensor, epoch: int, member: int, shuffle: Shuffle, random_state: int, length: int) -> Tensor:
    """Return the rows (length,) that a member sees in one epoch: random permutations of ``indices``, cut to length."""
    keys = (SHARED_ORDER, epoch) if shuffle == "shared" else (OWN_ORDER, member, epoch)
    stream = generator(random_state, *keys)
    passes = [torch.randperm(len(indices), generator=stream) for _ in range(math.ceil(length / len(indices)))]
    return indices[torch.cat(passes)[:length]]


@dataclass(frozen=True)
class Schedule:
    """Which samples each member sees at each step of a run; every member makes the same number of steps."""

    members: tuple[int, ...]  # numbers of the members trained here, which their subsets and orders depend on
    subsets: tuple[Tensor, ...]  # row numbers for each of them
    length: int  # samples of an epoch: the mean size of the subsets, rounded
    steps_per_epoch: int  # gradient steps of a whole epoch
    steps: int  # gradient steps of the run
    shuffle: Shuffle
    random_state: int

    @property
    def epochs(self) -> int:
        """Epochs of the run, the last of which may be cut short."""
        return math.ceil(self.steps / self.steps_per_epoch)

    def steps_of(self, epoch: int) -> int:
        """Return the steps of an epoch (from 0)."""
        return min(self.steps_per_epoch, self.steps - epoch * self.steps_per_epoch)

    def order(self, positions: Sequence[int], epoch: int) -> Tensor:
        """Return the rows (r, length) seen by the members at these positions; r = 1 where all see the same."""
        rows = positions[:1] if self.shuffle == "shared" else positions
        options = self.shuffle, self.random_state, self.length
        order = torch.empty(len(rows), self.length, dtype=torch.int32)  # half the memory of int64
        for row, p in zip(order, rows, strict=True):
            row.copy_(epoch_order(self.subsets[p], epoch, self.members[p], *options))
        return order


def make_schedule(y: Tensor, n_modules: int, run: Run) -> Schedule:
    """Return the schedule of ``n_modules`` members; raises an `InputError` if the run's options do not allow one."""
    training = run.training
    numbers = tuple(range(n_modules) if run.members is None else run.members)
    total = n_modules if run.n_members is None else run.n_members
    if len(numbers) != n_modules or not all(0 <= number < total for number in numbers):
        raise InputError(f"members must be {n_modules} ints from 0 to {total - 1}, got {list(numbers)}")
    if run.max_steps is not None:
        check_count("max_steps", run.max_steps)
    subsets = member_subsets(y, total, training.subset, training.concentration, run.random_state, numbers)
    length = round(len(y) / total) if training.subset in ("disjoint", "dirichlet") else len(y)
    per_epoch = math.ceil(length / training.batch_size)
    steps = training.epochs * per_epoch if run.max_steps is None else run.max_steps
    return Schedule(numbers, subsets, length, per_epoch, steps, training.shuffle, run.random_state)
