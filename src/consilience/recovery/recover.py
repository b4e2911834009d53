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
from consilience.recovery.evidence import Agreement
from consilience.recovery.fit import Fit, fit_precisely
from consilience.recovery.network import ROUNDING, as_good, medians, refined, with_units, without_excess
from consilience.recovery.signs import straightened, without_path
from consilience.recovery.student import Function, Student, rows_of, set_rows, symmetry_of_function
from consilience.seeds import STUDENTS, seed
from consilience.training.fresh import initialise
from consilience.units.symmetry import Symmetry

MAX_CUTS = 4  # of a tree that are tried
CONVERGED = 1e-6  # error, as a share of the variance, that a student must reach, unless noise allows for less
NEARLY = 1e-3  # error that layers may be found with, before all are fitted together
NEAR_BEST, PRECISE = 30.0, 1e-10  # a student's error over the lower quartile above which it does not count; any below


@dataclass(frozen=True)
class Settings:
    """How students are trained and clustered; errors are shares of the outputs' variance."""

    function: Function  # the activation
    n_students: int  # of each layer
    coverage: float  # this and the next two as for `cuts`
    max_angle: float
    rule: str
    tolerance: float  # error at which students are done
    max_iterations: int  # of their training
    noise: float  # share of the outputs' variance that is noise
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
    """The recovery of one layer."""

    students: Fit  # with their losses, status and iterations
    n_parameters: int  # of each student
    used: tuple[int, ...]  # students whose units were clustered
    units: StudentUnits | None = None  # these students' units
    cut: Cut | None = None  # of the units' tree; None without usable students or surviving clusters
    n_cuts: int = 0  # number of cuts that were tried
    n_excess: int = 0  # units removed, as the network does not need them; in the last stage, of all layers

    @property
    def error(self) -> float:
        """The median error of the students used."""
        losses = self.students.losses[list(self.used)] if self.used else self.students.losses
        return float(losses.median())

    @property
    def agreement(self) -> Agreement:
        """How many students share the clusters that were kept."""
        shared = [cluster.n_students for cluster in self.cut.kept] if self.cut is not None else []
        return Agreement(min(shared, default=0), len(self.used), len(self.students.losses))

    def is_matched_by(self, network: Student, error: float, y: Tensor, settings: Settings) -> bool:
        """Whether a network is as good as the students."""
        return as_good(error, network, self.error, self.n_parameters, y, settings.noise > 0)


@dataclass(frozen=True)
class Outcome:
    """A recovered network, and the stages that led to it."""

    network: Student | None  # None where a layer has no surviving cluster
    error: float  # mean squared error as a share of the outputs' variance
    stages: tuple[Stage, ...]  # of the hidden layers reached
    exact: bool  # whether it is as good as the students and, without noise, reaches the tolerance

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
    """Return the network behind standardized inputs x (n, d) and outputs y (n, o), by students of these widths."""
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
    return fine and network.path is None and stage.is_matched_by(network, error, y, settings)


@dataclass(frozen=True)
class _Below:
    """The layer below, which the next students read."""

    x: Tensor  # (n, d) what it reads
    hyperplanes: Tensor  # (r, d + 1) of its units; signs at random where they are free up to a linear term

    def units(self, function: Function) -> Tensor:
        """Return activations (n, r)."""
        return function(self.x @ self.hyperplanes[:, :-1].T + self.hyperplanes[:, -1])


def _above(x: Tensor, below: _Below | None, y: Tensor, widths: tuple[int, ...], settings: Settings) -> Outcome:
    """Recover a layer and those above it. Its students read x: units below and, where signs are free, their inputs."""
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
    template, root = settings.student(x, widths, y), settings.random_state
    fresh = [initialise(template, seed(root, STUDENTS, len(widths), k)) for k in range(settings.n_students)]
    tolerance, most = settings.tolerance, settings.max_iterations
    students = fit_precisely(fresh, x, y, tolerance=tolerance, max_iterations=most, random_state=root)
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
    layers = [student.layers for student in students if isinstance(student, Student)]
    hyperplanes = torch.cat([rows_of(first).double() for first, *_ in layers])
    outgoing = torch.cat([second.weight.detach().double().T for _, second, *_ in layers])
    if symmetry.homogeneous:
        norms = torch.linalg.vector_norm(hyperplanes, dim=1, keepdim=True).clamp(min=1e-300)
        hyperplanes, outgoing = hyperplanes / norms, outgoing * norms
    owner = np.repeat(np.array(numbers), [first.out_features for first, *_ in layers])
    odd = symmetry.odd_constant is not None
    return StudentUnits(hyperplanes.numpy(), outgoing.numpy(), owner, odd or symmetry.even_slope is not None, odd)


def _last(x: Tensor, y: Tensor, hyperplanes: Tensor, stage: Stage, settings: Settings, alone: bool) -> Outcome:
    """The last hidden layer and the readout; only where it is alone may a linear path stay beside it."""
    slope = settings.symmetry.even_slope
    network, error = refined(with_units(hyperplanes, x, y, settings.student(x, [len(hyperplanes)], y)), x, y)
    if settings.removes_excess and stage.is_matched_by(network, error, y, settings):
        network, error, n_excess = without_excess(network, error, x, y, settings.noise > 0)
        stage = replace(stage, n_excess=n_excess)
    if slope is not None:
        plain, plain_error = refined(without_path(network, slope), x, y)
        stays = alone and stage.is_matched_by(network, error, y, settings)
        if not stays or stage.is_matched_by(plain, plain_error, y, settings):
            network, error = plain, plain_error
    good = _exact(network, error, stage, y, settings) if alone else stage.is_matched_by(network, error, y, settings)
    return Outcome(network, error, (stage,), good)


def _signed(below: _Below, hyperplanes: Tensor, slope: float) -> tuple[_Below, Tensor]:
    """Return the layer below with the right signs, and hyperplanes (r, d + 1) above it that read its units alone."""
    width = len(below.hyperplanes)
    weights, path, bias = hyperplanes[:, :width], hyperplanes[:, width:-1], hyperplanes[:, -1]
    right, shift = straightened(slope, below.hyperplanes, weights, path)
    return _Below(below.x, right), torch.cat([weights, (bias + shift)[:, None]], dim=1)


def _stacked(below: _Below, above: Student) -> Student:
    widths = [len(below.hyperplanes), *above.widths]
    network = Student(below.x.shape[1], widths, above.readout.out_features, above.function).double()
    set_rows(network.layers[0], below.hyperplanes)
    for layer, upper in zip(network.layers[1:], above.layers, strict=True):
        layer.load_state_dict(upper.state_dict())
    return network
