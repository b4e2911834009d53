"""Train many members in one vectorised pass.

- Members of one architecture are one stack of parameters (`stacks.py`); the stacks of a mixed population take turns,
  epoch by epoch. The result is what a plain loop over members gives, up to rounding; running statistics of batch
  normalisation included.
- What a member sees depends on the seed, its number and the epoch only (`subsets.py`), never on the other members.
  Dropout is the exception: its noise is drawn for a whole stack.
- A member whose loss is not finite is frozen and reported; the others go on as if it were healthy (`learner.py`).
- Callbacks add terms to a member's loss and change it after each step (`callbacks.py`).
- With ``checkpoint``, a killed run goes on from its last epoch and ends with the same bits (`checkpoint.py`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from consilience.checks import is_count
from consilience.errors import ArtefactError, InputError, TrainingError
from consilience.seeds import NOISE, seed
from consilience.training.callbacks import Callback, StackCallbacks, callback_identities, check_callbacks
from consilience.training.hyperparameters import Training, check_training
from consilience.training.learner import Learner
from consilience.training.losses import Samples, check_samples, check_targets
from consilience.training.resume import Checkpoint, digest, read_checkpoint, write_checkpoint
from consilience.training.sampling import Schedule, make_schedule
from consilience.training.stack import Stack, settings, stack_members

__all__ = ["Trained", "Training", "check_training", "fit_members"]

Progress = Callable[[int, int], None]
States = tuple[dict[str, Tensor], ...]
PROGRESS_INTERVAL = 0.1  # seconds; faster than this no eye follows


@dataclass(frozen=True)
class Trained:
    """What training gives.

    Attributes
    ----------
    states : each member's state dict, in the order of the modules given; a failed member's as it was when frozen.
    failed : member → why it was frozen.
    metrics : one record per epoch and healthy member, ready for JSON: ``epoch`` (from 1), ``steps`` (gradient steps so
        far), ``member``, ``loss`` and, for labels, ``accuracy``: means over the epoch's samples, each as it was seen;
        with validation data, ``validation_loss`` and ``validation_accuracy`` after the epoch. None where not finite.
        The loss is the task's, without penalties of callbacks.
    snapshots : epoch (from 1) → each member's state dict after it, in the order of the modules given.
    """

    states: States
    failed: dict[int, str]
    metrics: tuple[dict[str, Any], ...]
    snapshots: dict[int, States] = field(default_factory=dict)


def fit_members(
    modules: Sequence[nn.Module],
    x: Tensor,
    y: Tensor,
    training: Training,
    *,
    random_state: int,
    validation: tuple[Tensor, Tensor] | None = None,
    max_steps: int | None = None,
    checkpoint: Path | None = None,
    checkpoint_every: float = 5.0,
    progress: Progress | None = None,
    members: Sequence[int] | None = None,
    n_members: int | None = None,
    callbacks: Sequence[Callback] = (),
    snapshot_epochs: Sequence[int] = (),
) -> Trained:
    """Train members side by side.

    Parameters
    ----------
    modules : initialised networks of any mix of architectures, on one device; they are copied, not changed.
    x : inputs (n, ...).
    y : labels (n,) of an integer type, trained with cross-entropy, or targets (n, d), with mean squared error.
    training : hyperparameters.
    random_state : seed of subsets, orders and dropout.
    validation : inputs and targets on which every member is evaluated after each epoch.
    max_steps : exact number of gradient steps of each member, in place of ``training.epochs``; may end within an epoch.
    checkpoint : directory for a checkpoint after each epoch. If it holds one of the same run, the run goes on there.
        `consilience.training.resume.delete_checkpoint` removes it once the result is safe.
    checkpoint_every : seconds between checkpoints, at least; one is always written after the last epoch.
    progress : called with (steps done, steps in all), summed over stacks, a few times a second and after each epoch.
    members, n_members : the members' numbers in a larger population of ``n_members``, when only some of it is trained
        here; they get the same subsets and orders as there. By default the modules are the population.
    callbacks : what else takes part in training, on every member; see `consilience.training.callbacks.Callback`.
        A member whose penalty is not finite is frozen, too. They are part of the run that a checkpoint belongs to.
    snapshot_epochs : the epochs, from 1 and ascending, after which the members are kept as they are.

    Raises
    ------
    InputError
        Before any work, if something cannot be trained as asked.
    ArtefactError
        If the checkpoint is damaged or belongs to another run.
    TrainingError
        If every member fails.

    Examples
    --------
    >>> x, y = torch.randn(20, 2), torch.arange(20) % 2
    >>> trained = fit_members([nn.Linear(2, 2), nn.Linear(2, 2)], x, y, Training(epochs=2), random_state=0)
    >>> [(record["epoch"], record["member"]) for record in trained.metrics]
    [(1, 0), (1, 1), (2, 0), (2, 1)]
    """
    check_training(training)
    check_callbacks(callbacks)
    if not modules:
        raise InputError("there is nothing to train", where="modules", got="no modules")
    device = next((parameter.device for parameter in modules[0].parameters()), x.device)
    samples = check_samples(x, y, device)
    held_out = None if validation is None else check_samples(*validation, device, "validation ")
    schedule = make_schedule(
        samples.y, len(modules), training, random_state, members=members, n_members=n_members, max_steps=max_steps
    )
    check_epochs(snapshot_epochs, schedule.epochs, "snapshot_epochs")
    stacks = stack_members(modules, samples.x, training.batch_size)
    for stack in stacks:
        _check_last_batch(stack, samples, schedule, training)
        check_targets(samples, stack.example_output)
        if held_out is not None:
            check_targets(held_out, stack.example_output, "validation ")
    run = _Run([_learner(stack, training, callbacks, schedule) for stack in stacks], schedule, samples, held_out)
    identity = {} if checkpoint is None else _identity(modules, training, run, callbacks, snapshot_epochs)
    start, metrics, snapshots = (0, [], {}) if checkpoint is None else _resume(checkpoint, identity, run, modules)
    report = _Report(progress, schedule, len(stacks), start)
    written = time.monotonic()
    for epoch in range(start, schedule.epochs):
        metrics += run.epoch(epoch, report.steps)
        if epoch + 1 in snapshot_epochs:
            snapshots[epoch + 1] = run.states(modules)
        last = epoch + 1 == schedule.epochs
        if checkpoint is not None and (last or time.monotonic() - written >= checkpoint_every):
            tensors = run.tensors() | _snapshot_tensors(snapshots)
            write_checkpoint(checkpoint, Checkpoint(epoch + 1, run.failed, metrics, tensors), identity)
            written = time.monotonic()
        report.now()
    return Trained(run.states(modules), run.failed, tuple(metrics), snapshots)


def check_epochs(epochs: Sequence[int], last: int, where: str) -> None:
    """Refuse epochs that are not numbers from 1 to ``last``, ascending, each once.

    Raises
    ------
    InputError
        If they are anything else; ``where`` is the name of the argument.
    """
    if not isinstance(epochs, Sequence):
        raise InputError("the epochs to keep are not a list", where=where, got=repr(epochs),
                         expected="a sequence of integers", cure="put one epoch into a list")  # fmt: skip
    if not all(is_count(epoch) and epoch <= last for epoch in epochs) or list(epochs) != sorted({*epochs}):
        raise InputError(
            "the epochs to keep are out of range or out of order", where=where, got=list(epochs),
            expected=f"integers from 1 to {last}, ascending, each once",
        )  # fmt: skip


def _learner(stack: Stack, training: Training, callbacks: Sequence[Callback], schedule: Schedule) -> Learner:
    if not callbacks:
        return Learner(stack, training)
    working = StackCallbacks(callbacks, stack, [schedule.members[position] for position in stack.positions])
    working.rehearse()
    return Learner(stack, training, working)


def _check_last_batch(stack: Stack, samples: Samples, schedule: Schedule, training: Training) -> None:
    """Refuse a batch of one sample where members cannot be trained on it: batch normalisation of a single value."""
    length, size = schedule.length, training.batch_size
    last = length - (schedule.steps_per_epoch - 1) * size
    if (last if schedule.steps >= schedule.steps_per_epoch else size) > 1:  # a run may end before its first last batch
        return
    try:
        stack.rehearse(samples.x[:1])
    except Exception as error:
        name = type(stack.template).__name__
        raise InputError(
            "members cannot be trained on a batch of one sample", where=f"modules[{stack.positions[0]}] ({name})",
            got=f"{length} samples in batches of {size}, the last of which has 1",
            expected="batches of 2 samples or more, for batch normalisation", cure="choose another batch_size",
        ) from error  # fmt: skip


@dataclass(frozen=True)
class _Run:
    """All stacks of a population, seen as one."""

    learners: list[Learner]
    schedule: Schedule
    samples: Samples
    held_out: Samples | None

    def epoch(self, epoch: int, tick: Callable[[int], None]) -> list[dict[str, Any]]:
        """Train every stack for one epoch and return its records, by member."""
        records = [record for learner in self.learners for record in self._stack_epoch(learner, epoch, tick)]
        failed = self.failed
        if len(failed) == len(self.schedule.members):
            some = [f"member {member}: {reason}" for member, reason in list(failed.items())[:3]]
            some += ["…"] if len(failed) > 3 else []
            raise TrainingError(
                "every member failed", where=f"epoch {epoch + 1}", got="; ".join(some),
                cure="lower the learning rate, or scale the inputs",
            )  # fmt: skip
        rank = {member: position for position, member in enumerate(self.schedule.members)}
        return sorted(records, key=lambda record: rank[record["member"]])

    def _stack_epoch(self, learner: Learner, epoch: int, tick: Callable[[int], None]) -> list[dict[str, Any]]:
        positions, n_steps = learner.stack.positions, self.schedule.steps_of(epoch)
        if len(learner.failed) == learner.k:
            tick(n_steps)
            return []
        before = epoch * self.schedule.steps_per_epoch
        device = self.samples.x.device
        order = self.schedule.order(positions, epoch).to(device)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            noise = seed(self.schedule.random_state, NOISE, self.schedule.members[positions[0]], epoch)
            torch.manual_seed(noise)  # of dropout
            columns = learner.train_epoch(self.samples, order, n_steps, epoch, before, tick)
        if epoch + 1 == self.schedule.epochs:
            learner.check_values()
        if self.held_out is not None:
            columns |= {f"validation_{name}": values for name, values in learner.evaluate(self.held_out).items()}
        return [
            {"epoch": epoch + 1, "steps": before + n_steps, "member": self.schedule.members[position]}
            | {name: values[row] if math.isfinite(values[row]) else None for name, values in columns.items()}
            for row, position in enumerate(positions)
            if row not in learner.failed
        ]

    @property
    def failed(self) -> dict[int, str]:
        """Member → why it is frozen, in order."""
        found = {
            self.schedule.members[learner.stack.positions[row]]: reason
            for learner in self.learners
            for row, reason in learner.failed.items()
        }
        return dict(sorted(found.items()))

    def states(self, modules: Sequence[nn.Module]) -> States:
        """Return the members' state dicts in the order of the modules."""
        rows = {p: (learner.stack, row) for learner in self.learners for row, p in enumerate(learner.stack.positions)}
        return tuple(rows[p][0].state(rows[p][1], module) for p, module in enumerate(modules))

    def tensors(self) -> dict[str, Tensor]:
        """Return everything that changes in training; see `Learner.tensors`."""
        return {f"{i}/{name}": t for i, learner in enumerate(self.learners) for name, t in learner.tensors().items()}

    def restore(self, tensors: Mapping[str, Tensor], failed: Mapping[int, str]) -> None:
        """Set what `tensors` and `failed` returned."""
        for i, learner in enumerate(self.learners):
            prefix = f"{i}/"
            members = [self.schedule.members[position] for position in learner.stack.positions]
            learner.restore(
                {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)},
                {row: failed[member] for row, member in enumerate(members) if member in failed},
            )


class _Report:
    """Calls ``progress`` at a modest rate."""

    def __init__(self, progress: Progress | None, schedule: Schedule, n_stacks: int, start: int) -> None:
        self.progress = progress
        self.total = n_stacks * schedule.steps
        self.done = n_stacks * min(start * schedule.steps_per_epoch, schedule.steps)
        self.last = time.monotonic()

    def steps(self, n: int) -> None:
        self.done += n
        if time.monotonic() - self.last >= PROGRESS_INTERVAL:
            self.now()

    def now(self) -> None:
        self.last = time.monotonic()
        if self.progress is not None:
            self.progress(self.done, self.total)


def _identity(
    modules: Sequence[nn.Module],
    training: Training,
    run: _Run,
    callbacks: Sequence[Callback],
    snapshot_epochs: Sequence[int],
) -> dict[str, Any]:
    """Return what makes a run this run: whatever changes its result."""
    data = [*run.samples, *(run.held_out or ())]
    networks: list[Tensor | str] = []
    for module in modules:
        networks += [*settings(module), *module.parameters(), *module.buffers()]
    schedule = run.schedule
    asked = {"callbacks": callback_identities(callbacks), "snapshot_epochs": list(snapshot_epochs)}
    return asdict(training) | {
        "random_state": schedule.random_state,
        "steps": schedule.steps,
        "members": digest([str(schedule.members), *schedule.subsets]),
        "data": digest(data),
        "networks": digest(networks),
        **{name: values for name, values in asked.items() if values},  # a run without them is that of older versions
    }


def _resume(
    checkpoint: Path, identity: Mapping[str, Any], run: _Run, modules: Sequence[nn.Module]
) -> tuple[int, list[dict[str, Any]], dict[int, States]]:
    """Bring a run to where its checkpoint is; return the epochs done, their records and their snapshots."""
    found = read_checkpoint(checkpoint, identity)
    if found is None:
        return 0, [], {}
    try:
        run.restore(found.tensors, found.failed)
        snapshots = {
            epoch: tuple(_snapshot_state(found.tensors, epoch, position, m) for position, m in enumerate(modules))
            for epoch in identity.get("snapshot_epochs", ())
            if epoch <= found.epoch
        }
    except (KeyError, RuntimeError) as error:
        raise ArtefactError("the checkpoint is damaged", where=checkpoint, got=f"{type(error).__name__}: {error}",
                            cure="delete it; the run then starts anew") from error  # fmt: skip
    return found.epoch, found.metrics, snapshots


def _snapshot_tensors(snapshots: Mapping[int, States]) -> dict[str, Tensor]:
    """Return snapshots as they are in a checkpoint, beside `_Run.tensors`."""
    return {
        f"snapshot/{epoch}/{position}/{name}": value
        for epoch, states in snapshots.items()
        for position, state in enumerate(states)
        for name, value in state.items()
    }


def _snapshot_state(tensors: Mapping[str, Tensor], epoch: int, position: int, module: nn.Module) -> dict[str, Tensor]:
    """Return one state of what `_snapshot_tensors` returned; raises KeyError where a tensor is missing."""
    return {
        name: tensors[f"snapshot/{epoch}/{position}/{name}"].to(value.device, copy=True)
        for name, value in module.state_dict().items()
    }
