"""Train many members in one vectorized pass.

- Members of one architecture are one stack of parameters (`stack.py`); the stacks of a mixed population take turns,
  epoch by epoch (`trainer.py`). The result is what a plain loop over members gives, up to rounding; running statistics
  of batch normalization included.
- What a member sees depends on the seed, its number and the epoch only (`sampling.py`), never on the other members.
  Dropout is the exception: its noise is drawn for a whole stack.
- A member whose loss is not finite is frozen and reported; the others continue unchanged (`learner.py`).
- With ``checkpoint``, a killed run resumes from its last epoch and ends with the same bits (`resume.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from consilience.checks import of_the_user
from consilience.errors import TrainingError
from consilience.store import lock
from consilience.training.callbacks import check_callbacks
from consilience.training.hyperparameters import Run
from consilience.training.resume import ResumeFile, ResumeState, States, digest
from consilience.training.trainer import Trainer
from consilience.units.same import settings

Progress = Callable[[int, int], None]
PROGRESS_INTERVAL = 0.1  # seconds; faster than this no eye follows


@dataclass(frozen=True)
class Trained:
    """The result of training.

    Attributes
    ----------
    states : each member's state dict, in the order of the modules given; a failed member's as it was when frozen.
    failed : member → why it was frozen.
    metrics : one record per epoch and healthy member, ready for JSON: ``epoch`` (from 1), ``steps`` so far, ``member``,
        ``loss`` (the task's, without penalties) and, for classes and labels, ``accuracy``, means over the epoch's
        samples as they were seen; ``validation_loss`` and ``validation_accuracy`` after the epoch. None where not
        finite.
    snapshots : epoch → each member's state dict after it, in the order of the modules given.
    """

    states: States
    failed: dict[int, str]
    metrics: tuple[dict[str, Any], ...]
    snapshots: dict[int, States] = field(default_factory=dict)


def fit_members(
    modules: Sequence[nn.Module],
    x: Tensor,
    y: Tensor,
    run: Run,
    *,
    checkpoint: Path | None = None,
    checkpoint_every: float = 5.0,
    progress: Progress | None = None,
) -> Trained:
    """Train members side by side.

    Parameters
    ----------
    modules : initialized networks of any mix of architectures, on one device; they are copied, not changed.
    x : inputs (n, ...).
    y : labels (n,) of an integer type, trained with cross-entropy, or targets (n, d), with mean squared error; or, for
        ``run.task="multilabel"``, (n, d) of 0 and 1, with binary cross-entropy.
    run : hyperparameters, seed and options.
    checkpoint : directory for the resume state after each epoch. If it holds one of the same run, the run continues
        there. `consilience.training.resume.delete_resume_state` removes it once the result is safe.
    checkpoint_every : seconds between resume states, at least; one is always written after the last epoch.
    progress : called with (steps done, steps in all), summed over stacks, a few times a second and after each epoch.

    Raises
    ------
    ArtefactError : if the resume state is damaged or belongs to another run.
    TrainingError : if every member failed.

    Examples
    --------
    >>> import torch
    >>> from consilience.training import Training
    >>> x, y = torch.randn(20, 2), torch.arange(20) % 2
    >>> trained = fit_members([nn.Linear(2, 2), nn.Linear(2, 2)], x, y, Run(Training(epochs=2)))
    >>> [(record["epoch"], record["member"]) for record in trained.metrics]
    [(1, 0), (1, 1), (2, 0), (2, 1)]
    """
    trained = fit_block(modules, x, y, run, checkpoint, checkpoint_every, progress)
    check_trained(trained, len(modules))
    return trained


def fit_block(
    modules: Sequence[nn.Module],
    x: Tensor,
    y: Tensor,
    run: Run,
    checkpoint: Path | None = None,
    checkpoint_every: float = 5.0,
    progress: Progress | None = None,
) -> Trained:
    """Train some members of a population as `fit_members` does; no error is raised if all of them fail."""
    trainer = Trainer.prepare(modules, x, y, run)
    file = None if checkpoint is None else ResumeFile(checkpoint, _identity(trainer, run), checkpoint_every)
    with nullcontext() if file is None else lock(file.path):
        return _fit(trainer, run, file, progress)


def check_trained(trained: Trained, n_members: int) -> None:
    """Raise a `TrainingError` if every one of so many members failed."""
    failed = trained.failed
    if len(failed) < n_members:
        return
    epoch = 1 + max((record["epoch"] for record in trained.metrics), default=0)
    reasons = "; ".join([f"member {k}: {why}" for k, why in failed.items()][:3] + ["…"] * (len(failed) > 3))
    cure = "lower the learning rate, or scale the inputs"
    raise TrainingError(f"every member failed by epoch {epoch}: {reasons}", cure=cure)


def _fit(trainer: Trainer, run: Run, file: ResumeFile | None, progress: Progress | None) -> Trained:
    state = ResumeState() if file is None else _resumed(trainer, file)
    report = _Report(progress, trainer, state.epoch)
    metrics, snapshots, last = state.metrics, state.snapshots, trainer.schedule.epochs
    if state.epoch == 0 and 0 in run.snapshot_epochs:
        snapshots[0] = trainer.states()
    for epoch in range(state.epoch + 1, last + 1):
        metrics += trainer.epoch(epoch - 1, report.steps)
        if len(trainer.failed) == len(trainer.modules):
            break
        if epoch in run.snapshot_epochs:
            snapshots[epoch] = trainer.states()
        if file is not None and (epoch == last or file.due):
            file.write(ResumeState(epoch, trainer.failed, metrics, trainer.tensors(), snapshots))
        report.now()
    return Trained(trainer.states(), trainer.failed, tuple(metrics), snapshots)


def _resumed(trainer: Trainer, file: ResumeFile) -> ResumeState:
    state = file.read(trainer.modules)
    try:
        trainer.restore(state)
    except (KeyError, RuntimeError) as error:
        raise file.damaged(error) from error
    return state


def _identity(trainer: Trainer, run: Run) -> dict[str, Any]:
    """Return everything that decides the result of a run; raises an `InputError` where a callback does not show it."""
    check_callbacks(run.callbacks, resumable=True)
    schedule = trainer.schedule
    options: dict[str, Any] = {"callbacks": [repr(c) for c in run.callbacks], "task": run.task}
    options["snapshot_epochs"] = list(run.snapshot_epochs)
    hyperparameters = asdict(run.training)
    if run.training.schedule == "constant":
        del hyperparameters["schedule"]
    return hyperparameters | {
        "random_state": run.random_state,
        "steps": schedule.steps,
        "members": digest([str(schedule.members), *schedule.subsets]),
        "data": digest([*trainer.samples, *(trainer.held_out or ())]),
        "networks": digest(chain.from_iterable((*settings(m), *m.parameters(), *m.buffers()) for m in trainer.modules)),
        **{name: values for name, values in options.items() if values},  # older versions write none where there is none
    }


class _Report:
    """Calls ``progress`` at a modest rate."""

    def __init__(self, progress: Progress | None, trainer: Trainer, epochs_done: int) -> None:
        n_stacks, schedule = len(trainer.learners), trainer.schedule
        self.progress, self.last, self.total = progress, time.monotonic(), n_stacks * schedule.steps
        self.done = n_stacks * min(epochs_done * schedule.steps_per_epoch, schedule.steps)

    def steps(self, n: int) -> None:
        self.done += n
        if time.monotonic() - self.last >= PROGRESS_INTERVAL:
            self.now()

    def now(self) -> None:
        self.last = time.monotonic()
        if self.progress is not None:
            with of_the_user("progress"):
                self.progress(self.done, self.total)
