"""All stacks of a population, trained side by side epoch by epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from consilience.errors import InputError
from consilience.seeds import NOISE, global_seed, seed
from consilience.store import subset
from consilience.training.callbacks import check_callbacks
from consilience.training.hyperparameters import Run, check_epochs, check_training
from consilience.training.learner import Learner
from consilience.training.losses import Samples, as_samples, check_fit
from consilience.training.resume import ResumeState, States
from consilience.training.sampling import Schedule, make_schedule
from consilience.training.stack import Stack, first_line, stack_members


@dataclass(frozen=True)
class Trainer:
    """Members in their stacks, and the samples that they see."""

    modules: Sequence[nn.Module]  # they are not changed
    learners: Sequence[Learner]  # one for each stack
    schedule: Schedule
    samples: Samples
    held_out: Samples | None

    @classmethod
    def prepare(cls, modules: Sequence[nn.Module], x: Tensor, y: Tensor, run: Run) -> Trainer:
        """Return a trainer at the beginning of a run; raises an `InputError` if something cannot be trained so."""
        check_training(run.training)
        check_callbacks(run.callbacks)
        if not modules:
            raise InputError("modules must have at least one module, got none")
        device = next((parameter.device for parameter in modules[0].parameters()), x.device)
        samples = as_samples(x, y, device, task=run.task)
        held_out = None if run.validation is None else as_samples(*run.validation, device, "validation ", run.task)
        schedule = make_schedule(samples.y, len(modules), run)
        check_epochs(run.snapshot_epochs, schedule.epochs, "snapshot_epochs")
        stacks = stack_members(modules, samples.x, run.training.batch_size)
        for stack in stacks:
            _check_last_batch(stack, samples, schedule, run.training.batch_size)
            check_fit(samples, stack.example_output)
            if held_out is not None:
                check_fit(held_out, stack.example_output, "validation ")
        learners = [Learner(stack, run, [schedule.members[p] for p in stack.positions]) for stack in stacks]
        return cls(modules, learners, schedule, samples, held_out)

    def epoch(self, epoch: int, tick: Callable[[int], None]) -> list[dict[str, Any]]:
        """Train every stack for one epoch and return its records, by member."""
        records = [record for learner in self.learners for record in self._stack_epoch(learner, epoch, tick)]
        rank = {member: position for position, member in enumerate(self.schedule.members)}
        return sorted(records, key=lambda record: rank[record["member"]])

    def _stack_epoch(self, learner: Learner, epoch: int, tick: Callable[[int], None]) -> list[dict[str, Any]]:
        n_steps = self.schedule.steps_of(epoch)
        if len(learner.failed) == learner.k:
            tick(n_steps)
            return []
        before = epoch * self.schedule.steps_per_epoch
        device = self.samples.x.device
        order = self.schedule.order(learner.stack.positions, epoch).to(device)
        with global_seed(seed(self.schedule.random_state, NOISE, learner.members[0], epoch), device):  # of dropout
            columns = learner.train_epoch(self.samples, order, n_steps, epoch, (before, self.schedule.steps), tick)
        if epoch + 1 == self.schedule.epochs:
            learner.check_values()
        if self.held_out is not None:
            columns |= {f"validation_{name}": values for name, values in learner.evaluate(self.held_out).items()}
        return [
            {"epoch": epoch + 1, "steps": before + n_steps, "member": member}
            | {name: values[row] if math.isfinite(values[row]) else None for name, values in columns.items()}
            for row, member in enumerate(learner.members)
            if row not in learner.failed
        ]

    @property
    def failed(self) -> dict[int, str]:
        """Member → why it is frozen, in order."""
        failed = {learner.members[row]: why for learner in self.learners for row, why in learner.failed.items()}
        return dict(sorted(failed.items()))

    def states(self) -> States:
        """Return the members' state dicts in the order of the modules."""
        rows = {p: (learner.stack, row) for learner in self.learners for row, p in enumerate(learner.stack.positions)}
        return tuple(rows[p][0].state(rows[p][1], module) for p, module in enumerate(self.modules))

    def tensors(self) -> dict[str, Tensor]:
        """Return everything that changes in training; see `Learner.tensors`."""
        return {f"{i}/{name}": t for i, learner in enumerate(self.learners) for name, t in learner.tensors().items()}

    def restore(self, state: ResumeState) -> None:
        """Set what `tensors` and `failed` returned; raises KeyError or RuntimeError where it does not fit."""
        if state.epoch == 0:
            return
        for i, learner in enumerate(self.learners):
            failed = {row: state.failed[k] for row, k in enumerate(learner.members) if k in state.failed}
            learner.restore(subset(state.tensors, f"{i}/"), failed)


def _check_last_batch(stack: Stack, samples: Samples, schedule: Schedule, size: int) -> None:
    """Raise if members cannot be trained on a batch of one sample that occurs: a batch norm of a single value."""
    last = schedule.length - (schedule.steps_per_epoch - 1) * size
    if (last if schedule.steps >= schedule.steps_per_epoch else size) > 1:  # a run may end before its first last batch
        return
    try:
        stack.rehearse(samples.x[:1])
    except Exception as error:
        wanted = f"leave no batch of one sample for {stack.name} with batch norm"
        got = f"{size} for {schedule.length} samples: {first_line(error)}"
        raise InputError(f"batch_size must {wanted}, got {got}", cure="choose another batch_size") from error
