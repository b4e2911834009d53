"""All layers of a network trained by gradient steps to compute what a teacher computes, without labels.

- Adam with a rate that falls to zero along a cosine. The rate is found first: short runs at rates a factor of three
  apart, from 1e-3 up or down while the held-out error falls.
- Classes and tokens are trained on the divergence at a temperature, numbers on the squared error in units of their
  spread (`consilience.agreement.softened_errors`).
- The parameters with the smallest held-out error are returned, the initial ones among them.
- Data is a tensor, or any iterable of batches, with the user's augmentation; targets of what is augmented, or comes in
  batches, are computed by the teacher on the fly.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from consilience import seeds
from consilience.agreement import softened_errors, spread_of
from consilience.assembly.output_units import OutputUnits
from consilience.checks import (
    as_inputs,
    check_choice,
    check_count,
    check_function,
    check_iterable,
    check_positive,
    describe,
    of_the_user,
)
from consilience.devices import current_device
from consilience.errors import InputError, warn
from consilience.population.batches import inputs_of_batch
from consilience.signals.batches import BATCH_SIZE
from consilience.signals.held_out import held_out
from consilience.ties import SINGLE
from consilience.units.architecture import Architecture, TracedNetwork, read_state, write_state
from consilience.units.forward import pooled_outputs
from consilience.units.inputs import Inputs, inputs_of

RATE, FACTOR, MOST_POWER = 1e-3, 3.0, 2
TRIAL = 10  # a short run has one step in this many
LOOKS = 20  # times that the held-out error is computed
PATIENCE = LOOKS // 2  # looks without a better one, after which training stops
Teacher = Callable[[Tensor], Tensor]
Student = TypeVar("Student", bound=nn.Module)


@dataclass(frozen=True)
class Distillation:
    """How a network is distilled.

    Parameters
    ----------
    steps : gradient steps of the run that counts; those that find the rate come in addition.
    batch_size : rows of a step, where batches are drawn from a tensor.
    learning_rate : of Adam at the beginning; None finds it on held-out rows.
    batches : an iterable of batches to train on, such as a ``DataLoader``, in place of the calibration inputs: tensors
        (b, ...), or tuples whose first entry is one; of networks of several inputs, dicts or tuples of these. It is
        read again from the start when it ends.
    augmentation : called with each batch (b, ...), of several inputs a dict or a tuple; returns inputs of the same
        shapes.
    progress : called with (steps done, steps in all).
    """

    steps: int = 500
    batch_size: int = 128
    learning_rate: float | None = None
    batches: Iterable[Any] | None = None
    augmentation: Callable[[Any], Any] | None = None
    progress: Callable[[int, int], None] | None = None

    def __post_init__(self) -> None:
        check_count("steps", self.steps)
        check_count("batch_size", self.batch_size)
        if self.learning_rate is not None:
            check_positive("learning_rate", self.learning_rate)
        if self.batches is not None:
            check_iterable("batches", self.batches)
        for name in ("augmentation", "progress"):
            if getattr(self, name) is not None:
                check_function(name, getattr(self, name))


def distillation_of(correction: str, options: Mapping[str, Any]) -> Distillation | None:
    """Return how a correction distills; None if it does not. Raises an `InputError` for options that do not exist."""
    names = [each.name for each in fields(Distillation)]
    for name in options:
        check_choice("an option of distill", name, names)
        if correction != "distill":
            raise InputError(f"{name} must be given with correction='distill' alone, got {correction!r}")
    return Distillation(**options) if correction == "distill" else None


@dataclass(frozen=True)
class Distilled:
    """What a distillation did; it stays with the network as ``network.distillation_``.

    Attributes
    ----------
    kept : whether a trained network is nearer to the teacher on held-out rows than the network it began as.
    before, after : held-out errors of the network that went in and of the one that came out.
    steps : gradient steps taken.
    learning_rate : at the beginning.
    """

    kept: bool
    before: float
    after: float
    steps: int
    learning_rate: float


@dataclass(frozen=True)
class _Lesson:
    """What a student is trained and judged on."""

    x: Tensor  # (n, ...), of which rows are drawn unless there are batches
    targets: Tensor  # (n, ...) of x
    held: tuple[Tensor, Tensor]  # inputs and targets
    teacher: Teacher
    task: str | None
    spread: Tensor
    dim: int  # of outputs
    options: Distillation
    random_state: int
    draws: torch.Generator = field(repr=False)
    runner: Callable[[nn.Module], Teacher] = field(repr=False)  # a student as a function of inputs, with gradients
    inputs: Inputs | None = None  # of students of several inputs, which x has side by side
    device: str = field(default_factory=current_device)  # on which students are; all else is on the CPU

    def error(self, module: nn.Module) -> float:
        """Return the held-out error in eval mode; infinity where it is not finite."""
        module.eval()
        with torch.no_grad():
            run, place = self.runner(module), self.device
            outputs = torch.cat([run(batch.to(place)) for batch in self.held[0].split(BATCH_SIZE)])
        error = float(self.loss(outputs, self.held[1].to(place)).cpu().double().mean())
        return error if math.isfinite(error) else math.inf

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the error of each row of outputs."""
        y, t = (each.movedim(self.dim, -1).flatten(0, -2) for each in (outputs, targets))
        return softened_errors(y, t, self.task, self.spread.to(self.device))

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs and targets without end."""
        options = self.options
        if options.batches is None:
            size = min(options.batch_size, len(self.x))
            while True:
                rows = torch.randint(len(self.x), (size,), generator=self.draws)
                yield self._taught(self.x[rows], self.targets[rows])
        shape, dtype = tuple(self.x.shape[1:]), self.x.dtype
        while True:
            n_batches = 0
            for batch in options.batches:
                own = inputs_of_batch(batch, self.inputs, "distillation")
                own = own if self.inputs is None else self.inputs.pack(own, "a batch")
                yield self._taught(as_inputs(own, shape, dtype, "a batch", least=1), None)
                n_batches += 1
            if n_batches == 0:
                return

    def _taught(self, x: Tensor, targets: Tensor | None) -> tuple[Tensor, Tensor]:
        if self.options.augmentation is not None:
            shape, dtype, inputs = x.shape, x.dtype, self.inputs
            with of_the_user("augmentation"):
                x, targets = self.options.augmentation(x if inputs is None else inputs.together(x)), None
            x = x if inputs is None else inputs.pack(x, "augmentation's result")
            if not isinstance(x, Tensor) or x.shape != shape:
                raise InputError(f"augmentation must return a tensor {tuple(shape)}, got {describe(x)}")
            x = as_inputs(x, tuple(shape[1:]), dtype, "augmentation's result", least=1)
        if targets is None:
            with torch.no_grad():
                targets = self.teacher(x)
        return x, targets


def distill(
    module: nn.Module,
    architecture: Architecture,
    x: Tensor,
    teacher: Teacher,
    *,
    task: str | None = None,
    options: Distillation | None = None,
    random_state: int = 0,
) -> nn.Module:
    """Return a copy of a module trained to compute what ``teacher`` computes, with ``distillation_``, in eval mode.

    Parameters
    ----------
    module : the student.
    architecture : of the student's class, at any widths.
    x : inputs (n, ...), n ≥ 2, of which some are held out; those that train unless ``options`` have batches.
    teacher : inputs (b, ...) → outputs of the student's shape.
    task : "classification", "regression" or None, which counts as numbers.
    """
    with torch.inference_mode(mode=False), torch.enable_grad():
        student = copy.deepcopy(module)
        lesson, units, network = _lesson(
            student, architecture, x, teacher, task, options or Distillation(), random_state
        )
        write_state(student, units.standardized(network).state)
        trained, record = _taught(student, lesson)
        if record.kept:
            own = units.restored(replace(network, state=read_state(trained)))
            write_state(trained, own.state)
        else:
            trained = copy.deepcopy(module)
    object.__setattr__(trained, "distillation_", record)
    return trained.eval()


def distill_untraced(
    module: Student,
    x: Tensor,
    teacher: Teacher,
    *,
    task: str | None = None,
    options: Distillation | None = None,
    random_state: int = 0,
) -> tuple[Student, Distilled]:
    """Return what `distill` does, and its record, for a module that cannot be traced and has outputs (n, o).

    Outputs that are numbers must have mean 0 and spread 1, near enough.
    """
    with torch.inference_mode(mode=False), torch.enable_grad():
        x, (fitted, held) = x.clone(), held_out(len(x))
        with torch.no_grad():
            targets = torch.cat([teacher(batch) for batch in x.split(BATCH_SIZE)])
        lesson = _Lesson(
            x=x[fitted],
            targets=targets[fitted],
            held=(x[held], targets[held]),
            teacher=teacher,
            task=task,
            spread=spread_of(targets),
            dim=1,
            options=options or Distillation(),
            random_state=random_state,
            draws=seeds.generator(random_state),
            runner=lambda student: student,
        )
        trained, record = _taught(copy.deepcopy(module), lesson)
    return trained.eval(), record


def _lesson(
    student: nn.Module,
    architecture: Architecture,
    x: Tensor,
    teacher: Teacher,
    task: str | None,
    options: Distillation,
    random_state: int,
) -> tuple[_Lesson, OutputUnits, TracedNetwork]:
    """A lesson in the units in which a student is trained, those units, and the student as a traced network."""
    x, dim, (fitted, held) = x.clone(), architecture.returned.dim, held_out(len(x))
    state = {name: value.clone() for name, value in read_state(student).items()}
    network = TracedNetwork(architecture.with_widths(architecture.widths_in(state)), state)
    with torch.no_grad():
        targets = torch.cat([teacher(batch) for batch in x.split(BATCH_SIZE)])
        rows = targets.movedim(dim, -1).flatten(0, -2)
        units = OutputUnits.of(network, x[:BATCH_SIZE], rows, task)
    mean, spread = (each.view([-1] + [1] * (targets.dim() - 1 - dim)) for each in (units.mean, units.spread))
    known = (targets - mean) / spread
    lesson = _Lesson(
        x=x[fitted],
        targets=known[fitted],
        held=(x[held], known[held]),
        teacher=lambda batch: (teacher(batch) - mean) / spread,
        task=task,
        spread=spread_of(rows) / units.spread,
        dim=dim,
        options=options,
        random_state=random_state,
        draws=seeds.generator(random_state),
        runner=lambda module: pooled_outputs(module, architecture.program.on(current_device())),
        inputs=inputs_of(student),
    )
    return lesson, units, network


def _taught(student: Student, lesson: _Lesson) -> tuple[Student, Distilled]:
    before = lesson.error(copy.deepcopy(student).to(lesson.device))
    options = lesson.options
    once = options.batches is not None and iter(options.batches) is options.batches  # a generator: nothing to try out
    rate = options.learning_rate or (RATE if once else _best_rate(student, lesson))
    trained, error, steps = _train(student, lesson, rate, options.steps, options.progress)
    kept = error < before * (1 - SINGLE)
    return (trained.cpu() if kept else student), Distilled(kept, before, min(error, before), steps, rate)


def _best_rate(student: nn.Module, lesson: _Lesson) -> float:
    """The rate whose short run ends nearest to the teacher: from `RATE` down, or up, while the error falls."""
    steps, errors = max(1, lesson.options.steps // TRIAL), dict[int, float]()

    def error(power: int) -> float:
        if power not in errors:
            errors[power] = _train(student, lesson, RATE * FACTOR**power, steps, None, last=True)[1]
        return errors[power]

    best = 0
    for step in (-1, 1):
        while abs(best + step) <= MOST_POWER and error(best + step) < error(best) * (1 - SINGLE):
            best += step
        if best:
            break
    return RATE * FACTOR**best


def _train(
    student: Student,
    lesson: _Lesson,
    rate: float,
    steps: int,
    progress: Callable[[int, int], None] | None,
    *,
    last: bool = False,
) -> tuple[Student, float, int]:
    """A trained copy with the smallest held-out error (the last one, with ``last``), that error, and steps taken."""
    trained = copy.deepcopy(student).to(lesson.device)
    run = lesson.runner(trained)
    every = steps if last else max(1, steps // LOOKS)
    optimizer = torch.optim.Adam(trained.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    best, lowest, looks, done = copy.deepcopy(trained.state_dict()), math.inf, 0, 0
    lesson.draws.manual_seed(seeds.seed(lesson.random_state, seeds.DISTILLATION))
    with seeds.global_seed(lesson.random_state):  # of dropout
        for done, (x, targets) in enumerate(lesson.batches(), start=1):
            trained.train()
            optimizer.zero_grad()
            lesson.loss(run(x.to(lesson.device)), targets.to(lesson.device)).mean().backward()
            optimizer.step()
            schedule.step()
            if done % every == 0 or done == steps:
                error, looks = lesson.error(trained), looks + 1
                if error < lowest:
                    best, lowest, looks = copy.deepcopy(trained.state_dict()), error, 0
                if progress is not None:
                    with of_the_user("progress"):
                        progress(done, steps)
            if done == steps or looks >= PATIENCE:
                break
    if done == 0:
        raise InputError("batches must yield at least one batch, got none", cure="pass a list or a DataLoader")
    if done < steps and looks < PATIENCE:
        cure = "pass a list or a DataLoader, which can be read again"
        warn(f"batches should yield batches for {steps} steps, got {done}, and no more: {cure}")
    if lowest == math.inf:  # batches that ended before the first look
        return trained, lesson.error(trained), done
    trained.load_state_dict(best)
    return trained, lowest, done
