"""Networks whose parameters are known, and how well they are recovered from their outputs.

- A teacher of random parameters is not chosen: all its weights and biases, and its inputs, are standard normal.
- A hard teacher has relu units of unit norm that are active on few inputs: all have the same negative bias.
- A digits teacher is trained. Pixels that no image has are left out, their share added to the biases: outputs on digits
  say nothing of them.
- A recovery is *exact* if it has the teacher's size, every unit has a partner, and the worst angle between partners is
  below 1e-3 rad. It *claims* to be exact by its own diagnostics, which know no teacher.

Also here are the two measurements beside: a race of second-order steps with Adam, and the cut of a large tree.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch
from harness import measured
from torch import Tensor, nn
from torch.nn import functional

import consilience as cs
from consilience.nets.activations import ACTIVATIONS
from consilience.recovery import clusters
from consilience.recovery.cuts import cuts
from consilience.recovery.evidence import evidence_of, split
from consilience.recovery.fit import fit_precisely
from consilience.recovery.standardization import Standardization
from consilience.recovery.student import Function, Student, symmetry_of_function
from consilience.training.fresh import initialise

ANGLE = 1e-3  # radians; paired units closer than this are the same
ROUNDING = 1e-20  # mean squared error, as a share of the variance, that is rounding in float64
CONVERGED = 1e-8  # loss below which a student counts as one that has reached the teacher
TANH_LIKE = ("tanh", "sigmoid")  # one is the other, scaled and shifted
SLOWER = 10  # times the seconds of second-order steps, after which Adam is stopped
PATIENCE = 300  # steps of Adam without a lower loss, after which its rate is halved: of 30, 100 and 300 the best
FLOOR, FARTHER = 1e-14, 1e6  # Adam need only reach a loss so many times larger, this or the other's


def mixed(z: Tensor) -> Tensor:
    """The paper's activation without any symmetry: σ(4z) + softplus(z)."""
    return torch.sigmoid(4 * z) + functional.softplus(z)


NAMED = ("relu", "tanh", "sigmoid", "gelu", "softplus")
FUNCTIONS: dict[str, Function] = {**{name: ACTIVATIONS[name] for name in NAMED}, "mixed": mixed}


@dataclass(frozen=True)
class Problem:
    """One teacher, what is seen of it, and how it is recovered.

    Attributes
    ----------
    part, setting : of the benchmark.
    activation : one of `FUNCTIONS`.
    sizes : of the teacher, from inputs to outputs.
    seed : of teacher, inputs and students.
    n_inputs : how many are seen; a digits teacher on digits is seen on all of its training inputs.
    noise : standard deviation of noise on the outputs, as a share of theirs; the estimator is told.
    options : of `ExpandAndCluster` beside.
    limit : seconds, after which it is given up; 0 for none.
    offset : of a hard teacher, minus the bias of its units; 0 for the biases of other teachers.
    """

    part: str
    setting: str
    activation: str
    sizes: tuple[int, ...]
    seed: int
    n_inputs: int = 600
    noise: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)
    limit: int = 0
    offset: float = 0.0


@dataclass(frozen=True)
class Row:
    """What became of a problem.

    Attributes
    ----------
    part, setting, activation, sizes, seed, n_inputs, noise : the problem's.
    found : sizes of the hidden layers recovered.
    claimed : whether the diagnostics say that the network is the teacher.
    explains : whether they say that it is as good as the students.
    held_out, unidentified, agreeing : error on held-out rows, units that are not identified, and students that agree as
        a share of those that reach the outputs.
    offset : the problem's.
    identifiable : of a hard problem, whether the fitted rows identify the teacher's own parameters.
    missing, excess : units of the teacher without a partner, and recovered ones.
    angle, parameters : the worst of paired units: radians, and relative error.
    error : root mean squared error on fresh inputs, as a share of the outputs' standard deviation.
    elsewhere : the same on inputs of another kind, where there are such.
    students : the students' median training loss, a mean squared error as a share of the variance.
    converged : share of the first layer's students below `CONVERGED`.
    cuts, removed : ways to cut a tree that were tried, at most of all layers; excess units removed.
    warned : whether there were fewer equations than unknowns.
    seconds, processor : of wall-clock and of processor time.
    reason : why it failed, in the estimator's words.
    """

    part: str
    setting: str
    activation: str
    sizes: tuple[int, ...]
    seed: int
    n_inputs: int
    noise: float
    found: tuple[int, ...] = ()
    claimed: bool = False
    explains: bool = False
    held_out: float = math.nan
    unidentified: float = math.nan
    agreeing: float = math.nan
    offset: float = 0.0
    identifiable: bool = False
    missing: float = math.nan
    excess: float = math.nan
    angle: float = math.nan
    parameters: float = math.nan
    error: float = math.nan
    elsewhere: float = math.nan
    students: float = math.nan
    converged: float = math.nan
    cuts: float = math.nan
    removed: float = math.nan
    warned: bool = False
    seconds: float = math.nan
    processor: float = math.nan
    reason: str = ""

    @property
    def paired(self) -> bool:
        """Whether the size is the teacher's and every unit has a partner."""
        return self.found == self.sizes[1:-1] and self.missing == self.excess == 0

    @property
    def exact(self) -> bool:
        """Whether partners are the same unit, too."""
        return self.paired and self.angle < ANGLE

    @property
    def unfounded(self) -> bool:
        """Whether exactness is claimed and not so. Under noise, units need only have partners; a unit of the teacher
        may be missing if the function is the same on fresh inputs without it."""
        same = self.excess == 0 and self.angle < ANGLE and self.error**2 <= ROUNDING
        return self.claimed and not (same or (self.paired if self.noise else self.exact))

    @property
    def above_students(self) -> bool:
        """Whether exactness is claimed though the function is further from the teacher than the students were."""
        return self.claimed and not self.error**2 <= max(self.students, ROUNDING)


@dataclass(frozen=True)
class Task:
    """A teacher and what is seen of it.

    Attributes
    ----------
    teacher : the network.
    x, y : inputs (n, d) and outputs (n, o), noise included.
    fresh : inputs on which functions are compared; None for normal ones.
    elsewhere : inputs of another kind.
    """

    teacher: Student
    x: Tensor
    y: Tensor
    fresh: Tensor | None = None
    elsewhere: Tensor | None = None


def task(problem: Problem) -> Task:
    """Return the problem's teacher and what is seen of it."""
    if problem.part == "digits":
        return _digits(problem)
    n_inputs, *widths, n_outputs = problem.sizes
    generator = torch.Generator().manual_seed(problem.seed)
    teacher = Student(n_inputs, widths, n_outputs, FUNCTIONS[problem.activation]).double()
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        if problem.offset:
            first = teacher.layers[0]
            first.weight.div_(torch.linalg.vector_norm(first.weight, dim=1, keepdim=True))
            first.bias.fill_(-problem.offset)
        x = torch.randn(problem.n_inputs, n_inputs, generator=generator, dtype=torch.float64)
        y = teacher(x)
        noise = torch.randn(y.shape, generator=generator, dtype=torch.float64)
    return Task(teacher, x, y + problem.noise * y.var(0, correction=0).mean().sqrt() * noise)


def _digits(problem: Problem) -> Task:
    n_pixels, *widths, n_classes = problem.sizes
    data = cs.load_data("digits", random_state=problem.seed)
    net = cs.MLP(n_pixels, widths, n_classes, activation=problem.activation)
    training = cs.Training(epochs=40, batch_size=64)
    population = cs.train_population(net, data.train, 1, training=training, random_state=problem.seed)
    trained = population.members[0].module.double()
    digits, test = (part.x.flatten(1).double() for part in (data.train, data.test))
    varies = digits.std(0) > 0
    teacher = Student(int(varies.sum()), widths, n_classes, FUNCTIONS[problem.activation]).double()
    teacher.load_state_dict({**trained.state_dict(), "hidden.0.weight": trained.hidden[0].weight[:, varies]})
    with torch.no_grad():
        teacher.hidden[0].bias.add_(trained.hidden[0].weight[:, ~varies] @ digits[0, ~varies])
    digits, test = digits[:, varies], test[:, varies]
    generator, size = torch.Generator().manual_seed(problem.seed), (problem.n_inputs, digits.shape[1])
    drawn = (digits.mean(0) + digits.std(0) * torch.randn(size, generator=generator, dtype=torch.float64) for _ in "xy")
    synthetic, fresh = drawn
    with torch.no_grad():
        if problem.setting == "on digits":
            return Task(teacher, digits, teacher(digits), test, fresh)
        return Task(teacher, synthetic, teacher(synthetic), fresh, test)


def solve(problem: Problem) -> Row:
    """Recover the teacher, and compare."""
    torch.set_num_threads(1)
    known = task(problem)
    named = problem.activation in ACTIVATIONS
    estimator = cs.ExpandAndCluster(**{
        "n_units": problem.sizes[1:-1], "activation": problem.activation if named else FUNCTIONS[problem.activation],
        "noise": problem.noise, "random_state": problem.seed, **problem.options,
    })  # fmt: skip
    result: dict[str, Any] = {}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        began = time.perf_counter(), time.process_time()
        try:
            measured(partial(estimator.fit, known.x, known.y), problem.limit)
        except TimeoutError:
            result["reason"] = f"given up after {problem.limit} s"
        except cs.ConsilienceError as error:
            result["reason"] = str(error).splitlines()[0]
            if result["reason"].startswith("students must reach"):
                result["converged"] = 0.0
        except Exception as error:  # a fault of the estimator is a row of the table, not the end of the benchmark
            result["reason"] = f"**{type(error).__name__}**: {str(error).splitlines()[0][:80]}"
        result["seconds"], result["processor"] = time.perf_counter() - began[0], time.process_time() - began[1]
    if "reason" not in result:
        result.update(_compared(estimator, known, problem))
    if problem.part == "hard":
        result["identifiable"] = is_identifiable(known)
    warned = any(issubclass(each.category, cs.recovery.IdentifiabilityWarning) for each in told)
    labels = {
        name: getattr(problem, name) for name in ("part", "setting", "activation", "sizes", "seed", "noise", "offset")
    }
    return Row(**labels, n_inputs=len(known.x), warned=warned, **result)


def is_identifiable(known: Task) -> bool:
    """Return whether the rows that recovery fits determine the parameters of a relu teacher, whoever finds them."""
    fitted, held = ((known.x[rows], known.y[rows]) for rows in split(known.x))
    if not fitted[1].var(0).any():
        return False
    return not evidence_of(known.teacher, fitted, held, [], homogeneous=True, noisy=False).doubts


def _compared(estimator: cs.ExpandAndCluster, known: Task, problem: Problem) -> dict[str, Any]:
    told = estimator.diagnostics_
    result: dict[str, Any] = {
        "found": estimator.n_units_, "claimed": told.exact, "students": told.students_error, "reason": told.reason,
        "converged": float((told.stages[0].students.losses < CONVERGED).double().mean()),
        "cuts": max(stage.n_cuts for stage in told.stages), "removed": sum(stage.n_excess for stage in told.stages),
    }  # fmt: skip
    if (evidence := told.evidence) is not None:
        result |= {
            "explains": told.explains, "held_out": evidence.held_out_error,
            "unidentified": sum(not unit.identified for layer in evidence.units for unit in layer),
            "agreeing": min(layer.n_agreeing / max(1, layer.n_reaching) for layer in evidence.agreement),
        }  # fmt: skip
    teacher, activation = known.teacher, estimator.activation_
    if activation not in (problem.activation, "custom"):
        if {activation, problem.activation} != set(TANH_LIKE):
            return {**result, "reason": f"activation {activation}"}
        teacher = _in_terms_of(teacher, activation)
    if len(estimator.n_units_) != len(problem.sizes) - 2:
        return result
    distance = estimator.distance_to(teacher, known.fresh)
    result |= {
        "missing": distance.missing, "excess": distance.excess, "angle": distance.worst_angle,
        "parameters": distance.worst_error, "error": distance.function_error,
    }  # fmt: skip
    if known.elsewhere is not None:
        result["elsewhere"] = estimator.distance_to(teacher, known.elsewhere).function_error
    return result


def _in_terms_of(teacher: Student, activation: str) -> Student:
    """Return the same function by the other of two activations: σ(z) = ½ tanh(z/2) + ½."""
    inner, outer, constant = (0.5, 0.5, 0.5) if activation == "tanh" else (2.0, 2.0, -1.0)
    below, readout = teacher.layers
    same = Student(below.in_features, teacher.widths, readout.out_features, ACTIVATIONS[activation]).double()
    with torch.no_grad():
        same.layers[0].weight.copy_(inner * below.weight)
        same.layers[0].bias.copy_(inner * below.bias)
        same.readout.weight.copy_(outer * readout.weight)
        same.readout.bias.copy_(readout.bias + constant * readout.weight.sum(1))
    return same


@dataclass(frozen=True)
class Race:
    """Training the same students by second-order steps and by Adam alone; seconds of processor time.

    Attributes
    ----------
    activation, sizes, seed : of the teacher.
    seconds, processor : of the whole recovery.
    second_order, loss : seconds, and the students' median loss.
    adam, goal, reached : seconds of Adam, the median loss at which it was done, and the one that it had.
    """

    activation: str
    sizes: tuple[int, ...]
    seed: int
    seconds: float
    processor: float
    second_order: float
    loss: float
    adam: float
    goal: float
    reached: float

    @property
    def ratio(self) -> float:
        """How much longer Adam took, at least."""
        return self.adam / self.second_order


def race(problem: Problem) -> Race:
    """Recover the teacher, then train its students by themselves, twice."""
    row, known = solve(problem), task(problem)
    x, y = Standardization.of(known.x)(known.x), Standardization.of_all(known.y)(known.y)
    function = FUNCTIONS[problem.activation]
    estimator = cs.ExpandAndCluster(**problem.options)
    assert not isinstance(estimator.expansion, str)
    width, path = round(estimator.expansion * problem.sizes[1]), symmetry_of_function(function).even_slope is not None
    template = Student(x.shape[1], [width], y.shape[1], function, path)
    students = [initialise(template, 1000 * problem.seed + k) for k in range(estimator.n_students)]
    fitted, seconds, _ = measured(
        partial(fit_precisely, students, x, y, tolerance=estimator.tolerance, max_iterations=estimator.max_iterations)
    )
    loss = float(fitted.losses.median())
    goal = FARTHER * max(loss, FLOOR)
    adam, reached = _adam(students, x.float(), y.float(), goal, SLOWER * seconds)
    labels = problem.activation, problem.sizes, problem.seed, row.seconds, row.processor
    return Race(*labels, seconds, loss, adam, goal, reached)


def _adam(students: list[nn.Module], x: Tensor, y: Tensor, goal: float, limit: float) -> tuple[float, float]:
    """Train by Adam until the median loss is at the goal; return seconds of processor time and the loss.

    All students at once and on all samples, in float32, at a rate of 1e-2 that halves where the losses no longer fall.
    """
    began = time.process_time()
    states = [student.state_dict() for student in students]
    parts = {name: torch.stack([state[name] for state in states]).requires_grad_() for name in states[0]}
    optimizer = torch.optim.Adam(parts.values(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=0.5, patience=PATIENCE, threshold=1e-3, threshold_mode="abs", min_lr=1e-5
    )
    function, scale = students[0].function, float(y.var(0, correction=0).mean())
    x_k, y_k = x.expand(len(students), *x.shape), y.expand(len(students), *y.shape)
    median = math.inf
    while median > goal and time.process_time() - began < limit:
        h = function(torch.baddbmm(parts["hidden.0.bias"][:, None], x_k, parts["hidden.0.weight"].mT))
        outputs = torch.baddbmm(parts["readout.bias"][:, None], h, parts["readout.weight"].mT)
        if "path.weight" in parts:
            outputs = outputs + x_k @ parts["path.weight"].mT
        losses = (outputs - y_k).square().mean((1, 2)) / scale
        optimizer.zero_grad()
        losses.sum().backward()
        optimizer.step()
        scheduler.step(float(losses.detach().log().mean()))
        median = float(losses.detach().median())
    return time.process_time() - began, median


@dataclass(frozen=True)
class Sweep:
    """The cut of one tree.

    Attributes
    ----------
    units, kept : of the students, and clusters found.
    linkage, sweep : seconds of processor time of building the tree, and of the rest.
    seconds : of wall-clock time of both.
    megabytes : at the peak over what was resident before.
    """

    units: int
    kept: int
    linkage: float
    sweep: float
    seconds: float
    megabytes: float


def sweep(n_units: int) -> Sweep:
    """Cut the tree of students of 20 units each: of the same 20 to 1e-6, but for a fifth of random ones."""
    generator, width, d = np.random.default_rng(0), 20, 7
    true, above = (np.tile(generator.normal(size=(width, size)), (n_units // width, 1)) for size in (d, 3))
    rows = true * (1 + 1e-6 * generator.normal(size=true.shape))
    strays = generator.random(len(rows)) < 0.2
    rows[strays] = generator.normal(size=(int(strays.sum()), d))
    signs = generator.choice([-1.0, 1.0], size=(len(rows), 1))
    student = np.repeat(np.arange(n_units // width), width)
    units = clusters.StudentUnits(signs * rows, signs * above, student, projective=True, odd=True)
    linkage, spent = clusters.average, [0.0]

    def clocked(*arguments: Any) -> Any:
        began = time.process_time()
        made = linkage(*arguments)
        spent[0] = time.process_time() - began
        return made

    began = time.perf_counter()
    with mock.patch.object(clusters, "average", clocked):
        cut: Callable[[], list[clusters.Cut]] = partial(cuts, units, 0.5, np.pi / 12)
        (found, *_), seconds, megabytes = measured(cut)
    wall = time.perf_counter() - began
    return Sweep(len(rows), len(found.kept), spent[0], seconds - spent[0], wall, megabytes)
