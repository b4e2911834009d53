"""Expand-and-Cluster, layer by layer: train wide students, cluster the units of their first layer, go on above it.

The next students read the units recovered below, so that each of them is one layer shorter: the last have one hidden
layer. Where signs are free up to a linear term, students read the inputs of the layer below beside its units,
through a linear path. Their hyperplanes on it say which signs were wrong (`consilience.recovery.signs.turned`); then
the path is left out.

Of the cuts of a tree, the first is taken that leads to a network as good as the students; else the best.

All inputs and outputs here are standardized. Axis legend as in `consilience.recovery.network`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from consilience.recovery.clusters import Cut, StudentUnits
from consilience.recovery.cuts import cuts
from consilience.recovery.fit import Fit, fit_precisely
from consilience.recovery.network import ROUNDING, as_good, medians, refined, with_units, without_excess
from consilience.recovery.signs import straightened, without_path
from consilience.recovery.student import Function, Student, rows_of, set_rows, symmetry_of_function
from consilience.seeds import STUDENTS, seed
from consilience.training.train import initialise
from consilience.units.symmetry import Symmetry

MAX_CUTS = 4  # of a tree that are tried
CONVERGED = 1e-6  # error, as a share of the variance, that a student must reach, unless noise allows for less
NEARLY = 1e-3  # error that layers may be found with, before all are fitted together
NEAR_BEST, PRECISE = 30.0, 1e-10  # a student's error over the lower quartile above which it does not count; any below


@dataclass(frozen=True)
class Settings:
    """How students are trained and clustered.

    Attributes
    ----------
    function : the activation.
    n_students : of each layer.
    coverage, max_angle, rule : as for `consilience.recovery.cuts.cuts`.
    tolerance : error at which students are done.
    max_iterations : of their training.
    noise : share of the outputs' variance that is noise.
    random_state : seed.
    """

    function: Function
    n_students: int
    coverage: float
    max_angle: float
    rule: str
    tolerance: float
    max_iterations: int
    noise: float
    random_state: int

    @cached_property
    def symmetry(self) -> Symmetry:
        """The symmetries of the activation."""
        return symmetry_of_function(self.function)

    @property
    def converged(self) -> float:
        """The error that a student must reach."""
        return max(CONVERGED, 2 * self.noise)

    @property
    def removes_excess(self) -> bool:
        """Whether units that a network does not need are removed: not in the published method."""
        return self.rule != "published"

    def student(self, x: Tensor, widths: Sequence[int], y: Tensor) -> Student:
        """Return a student for inputs x (n, d) and outputs y (n, o), with a linear path where signs need one."""
        return Student(x.shape[1], widths, y.shape[1], self.function, self.symmetry.even_slope is not None)

    @property
    def above(self) -> Settings:
        """For the layers above the first, whose students read what is only nearly the teacher's."""
        return replace(self, noise=max(self.noise, NEARLY))


@dataclass(frozen=True)
class Stage:
    """The recovery of one layer.

    Attributes
    ----------
    students : with their losses, status and iterations.
    n_parameters : of each student.
    used : students whose units were clustered.
    units : these students' units.
    cut : of the units' tree; None if there are no usable students or no surviving clusters.
    n_cuts : number of cuts that were tried.
    n_excess : units removed after rebuilding, as the network does not need them; the last stage counts all layers.
    """

    students: Fit
    n_parameters: int
    used: tuple[int, ...]
    units: StudentUnits | None = None
    cut: Cut | None = None
    n_cuts: int = 0
    n_excess: int = 0

    @property
    def error(self) -> float:
        """The median error of the students used."""
        losses = self.students.losses[list(self.used)] if self.used else self.students.losses
        return float(losses.median())


@dataclass(frozen=True)
class Outcome:
    """A recovered network, and the stages that led to it.

    Attributes
    ----------
    network : None where a layer has no surviving cluster.
    error : mean squared error as a share of the outputs' variance.
    stages : of the hidden layers reached.
    exact : whether the network is as good as the students and, without noise, reaches their tolerance.
    """

    network: Student | None
    error: float
    stages: tuple[Stage, ...]
    exact: bool

    @property
    def reason(self) -> str:
        """Why the network is not exact; "" if it is."""
        if self.exact:
            return ""
        last, layer = self.stages[-1], f"layer {len(self.stages)}"
        if not last.used:
            return f"no student of {layer} reaches the outputs"
        if len(last.used) < 2:
            return f"only one student of {layer} reaches the outputs"
        if self.network is None:
            return f"no cluster of {layer} survives"
        if self.network.path is not None:
            return "the signs of its units are unknown, and it has a linear path"
        students = self.stages[0].error
        if self.error <= students:
            return f"error {self.error:.1e}: training stopped too early; raise max_iterations"
        return f"the network's error {self.error:.1e} is above the students' {students:.1e}"


def recover(x: Tensor, y: Tensor, widths: Sequence[int], settings: Settings) -> Outcome:
    """Return the network behind standardized inputs x (n, d) and outputs y (n, o).

    ``widths`` are the students', by hidden layer.
    """
    return _above(x, None, y, tuple(widths), settings)


def _together(outcome: Outcome, x: Tensor, y: Tensor, settings: Settings) -> Outcome:
    """Fit all layers at once; until now each was fitted to inexact layers below."""
    if outcome.network is None:
        return outcome
    first, stages = outcome.stages[0], outcome.stages
    network, error = refined(outcome.network, x, y)
    if _exact(network, error, first, y, settings) and settings.removes_excess:
        network, error, n_excess = without_excess(network, error, x, y, settings.noise > 0)
        stages = (*stages[:-1], replace(stages[-1], n_excess=stages[-1].n_excess + n_excess))
    return Outcome(network, error, stages, _exact(network, error, first, y, settings))


def _exact(network: Student, error: float, stage: Stage, y: Tensor, settings: Settings) -> bool:
    """Whether a network is as good as a stage's students, without noise to their tolerance, and has no path."""
    fine = settings.noise > 0 or error <= max(settings.tolerance, ROUNDING)
    as_they_are = as_good(error, network, stage.error, stage.n_parameters, y, settings.noise > 0)
    return fine and as_they_are and network.path is None


@dataclass(frozen=True)
class _Below:
    """The layer below, which the next students read.

    Attributes
    ----------
    x : (n, d) what it reads.
    hyperplanes : (r, d + 1) of its units; signs at random where they are free up to a linear term.
    """

    x: Tensor
    hyperplanes: Tensor

    def units(self, function: Function) -> Tensor:
        """Return activations (n, r)."""
        return function(self.x @ self.hyperplanes[:, :-1].T + self.hyperplanes[:, -1])


def _above(x: Tensor, below: _Below | None, y: Tensor, widths: tuple[int, ...], settings: Settings) -> Outcome:
    """Recover a layer and those above it. Its students read x (n, d): with a layer below, that layer's units and, where
    their signs are free, the inputs of that layer.
    """
    stage, plans = _train_and_cut(x, y, widths, settings if below is None else settings.above)
    best = Outcome(None, float("inf"), (stage,), False)
    for tried, cut in enumerate(plans, 1):
        stage = replace(stage, cut=cut, n_cuts=tried)
        assert stage.units is not None
        hyperplanes = medians(stage.units, cut)
        signed = below
        if signed is not None and settings.symmetry.even_slope is not None:
            signed, hyperplanes = _signed(signed, hyperplanes, settings.symmetry.even_slope)
        features = x if signed is None else signed.units(settings.function)
        if len(widths) == 1:
            outcome = _last(features, y, hyperplanes, stage, settings, alone=signed is None)
        else:
            here = _Below(features, hyperplanes)
            above = here.units(settings.function)
            if settings.symmetry.even_slope is not None:
                above = torch.cat([above, features], dim=1)
            rest = _above(above, here, y, widths[1:], settings)
            outcome = Outcome(rest.network, rest.error, (stage, *rest.stages), rest.exact)
        if signed is not None and outcome.network is not None:
            outcome = replace(outcome, network=_stacked(signed, outcome.network))
        if below is None and len(widths) > 1:
            outcome = _together(outcome, x, y, settings)
        if best.network is None or outcome.error < best.error or outcome.exact:
            best = outcome
        if best.exact:
            break
    return best


def _train_and_cut(x: Tensor, y: Tensor, widths: tuple[int, ...], settings: Settings) -> tuple[Stage, list[Cut]]:
    template = settings.student(x, widths, y)
    seeds = (seed(settings.random_state, STUDENTS, len(widths), k) for k in range(settings.n_students))
    students = fit_precisely(
        [initialise(template, number) for number in seeds],
        x,
        y,
        tolerance=settings.tolerance,
        max_iterations=settings.max_iterations,
        random_state=settings.random_state,
    )
    used = usable(students.losses, settings)
    n_parameters = sum(p.numel() for p in template.parameters())
    if not used:
        return Stage(students, n_parameters, ()), []
    units = units_of([students.modules[k] for k in used], used, settings.symmetry)
    best = cuts(units, settings.coverage, settings.max_angle, settings.rule, MAX_CUTS)
    return Stage(students, n_parameters, used, units), best


def usable(losses: Tensor, settings: Settings) -> tuple[int, ...]:
    """The students whose units are clustered: those that have converged, and not far less than the best of these."""
    converged = losses[losses <= settings.converged]
    limit = max(PRECISE, NEAR_BEST * float(converged.quantile(0.25))) if len(converged) else 0.0
    return tuple(k for k, loss in enumerate(losses.tolist()) if loss <= min(limit, settings.converged))


def units_of(students: Sequence[torch.nn.Module], numbers: Sequence[int], symmetry: Symmetry) -> StudentUnits:
    """Return the units of the students' first hidden layers, in canonical form but for their signs."""
    hyperplanes, outgoing = [], []
    for student in students:
        assert isinstance(student, Student)
        rows = rows_of(student.layers[0]).double()
        columns = student.layers[1].weight.detach().double().T
        if symmetry.homogeneous:
            norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp(min=1e-300)
            rows, columns = rows / norms, columns * norms
        hyperplanes.append(rows)
        outgoing.append(columns)
    owner = np.repeat(np.array(numbers), [len(rows) for rows in hyperplanes])
    odd = symmetry.odd_constant is not None
    projective = odd or symmetry.even_slope is not None
    return StudentUnits(torch.cat(hyperplanes).numpy(), torch.cat(outgoing).numpy(), owner, projective, odd)


def _last(x: Tensor, y: Tensor, hyperplanes: Tensor, stage: Stage, settings: Settings, alone: bool) -> Outcome:
    """The last hidden layer and the readout; only where it is alone may a linear path stay beside it."""
    slope = settings.symmetry.even_slope
    network, error = refined(with_units(hyperplanes, x, y, settings.student(x, [len(hyperplanes)], y)), x, y)

    def good(error: float, network: Student) -> bool:
        return as_good(error, network, stage.error, stage.n_parameters, y, settings.noise > 0)

    if good(error, network) and settings.removes_excess:
        network, error, n_excess = without_excess(network, error, x, y, settings.noise > 0)
        stage = replace(stage, n_excess=n_excess)
    if slope is not None:
        plain, plain_error = refined(without_path(network, slope), x, y)
        if good(plain_error, plain) or not (alone and good(error, network)):
            network, error = plain, plain_error
    exact = _exact(network, error, stage, y, settings) if alone else good(error, network)
    return Outcome(network, error, (stage,), exact)


def _signed(below: _Below, hyperplanes: Tensor, slope: float) -> tuple[_Below, Tensor]:
    """Return the layer below with the right signs, and hyperplanes (r, d + 1) above it that read its units alone."""
    width = len(below.hyperplanes)
    weights, path, bias = hyperplanes[:, :width], hyperplanes[:, width:-1], hyperplanes[:, -1]
    right, shift = straightened(slope, below.hyperplanes, weights, path)
    return _Below(below.x, right), torch.cat([weights, (bias + shift)[:, None]], dim=1)


def _stacked(below: _Below, above: Student) -> Student:
    """Return a network with one layer more below."""
    widths = [len(below.hyperplanes), *above.widths]
    network = Student(below.x.shape[1], widths, above.readout.out_features, above.function).double()
    set_rows(network.layers[0], below.hyperplanes)
    for layer, upper in zip(network.layers[1:], above.layers, strict=True):
        layer.load_state_dict(upper.state_dict())
    return network
