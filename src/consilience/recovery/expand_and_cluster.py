"""Which network produced these outputs? Expand-and-Cluster (Martinelli, Simsek, Gerstner and Brea, ICML 2024)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from consilience import seeds
from consilience.checks import (
    as_tensor,
    check_choice,
    check_count,
    check_finite,
    check_number,
    check_positive,
    check_rows,
    describe,
    is_count,
    is_number,
)
from consilience.errors import InputError, TrainingError, warn
from consilience.nets.activations import ACTIVATIONS
from consilience.nets.mlp import MLP
from consilience.recovery.clusters import Cut
from consilience.recovery.cuts import RULES
from consilience.recovery.distance import Distance, distance
from consilience.recovery.evidence import Evidence, evidence_of, split
from consilience.recovery.guesses import Trial, best_activation, guess_width, smallest_expansion
from consilience.recovery.recover import Settings, Stage, recover
from consilience.recovery.standardization import Standardization, undone
from consilience.recovery.student import Function, Student
from consilience.units.forward import outputs_of

N_FRESH = 2000  # inputs on which functions are compared


class IdentifiabilityWarning(UserWarning):
    """There are fewer equations than unknowns: many networks give the same outputs on these inputs."""


@dataclass(frozen=True)
class Diagnostics:
    """How a recovery went.

    Attributes
    ----------
    exact : whether the network explains the outputs and the evidence identifies it. If False, do not trust it. It may
        be wrong where there were no inputs.
    error : mean squared error of the network as a share of the outputs' variance.
    students_error : the same of the students, the median of those used.
    stages : by hidden layer reached: students, the cut with the clusters kept and dropped, excess units removed.
    activations : result of each candidate, best first, with ``activation="auto"``.
    student_widths : of the students, by hidden layer.
    reason : why the network is not exact; "" if it is.
    explains : whether the network's error is at most the students' (but for what wider networks gain by fitting noise),
        and without noise at most the tolerance.
    evidence : errors on fitted and held-out rows, rank of the Jacobian, agreement of the students; None without a
        network.
    """

    exact: bool
    error: float
    students_error: float
    stages: tuple[Stage, ...] = field(repr=False)  # pages of numbers
    activations: tuple[Trial, ...]
    student_widths: tuple[int, ...]
    reason: str
    explains: bool = False
    evidence: Evidence | None = None


@dataclass(eq=False)
class ExpandAndCluster:
    """Recover the size and the parameters of a perceptron from inputs and outputs.

    Students of ``expansion`` times the size are trained to machine precision; what units they share are the teacher's.
    A tenth of the distinct inputs is held out of every fit, and is part of the evidence for the network.

    Parameters
    ----------
    n_units : expected size of each hidden layer, an int for one layer; None searches for the smallest that fits.
    expansion : students' width over ``n_units``; "auto" for the smallest at which most students reach the outputs.
    n_students : number of students.
    n_layers : number of hidden layers, where ``n_units`` is None or an int.
    coverage : share of the students that a cluster must hold (γ).
    max_angle : radians within which its units must point (β).
    activation : a name of `consilience.nets.activations.ACTIVATIONS`, an elementwise function, or "auto".
    rule : "plateau", or "published" for the cut of the paper.
    noise : standard deviation of noise on the outputs, as a share of theirs; students need not get below it.
    tolerance : mean squared error, as a share of the variance, at which students are done.
    max_iterations : of each student's training.
    random_state : seed.

    Attributes
    ----------
    model_ : an `MLP` in float64; where the signs are unknown, or the activation has no name, a `Student`.
    n_units_ : units of each hidden layer.
    activation_ : its name; "custom" for a function.
    clusters_ : by hidden layer, the cut of the students' tree.
    diagnostics_ : how the recovery went; look at ``diagnostics_.exact``.

    Examples
    --------
    >>> x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    >>> y = torch.tanh(x @ torch.tensor([[1.0, -1.0], [0.5, 1.0]])) @ torch.tensor([[1.0], [2.0]])
    >>> found = ExpandAndCluster(n_units=2, n_students=6, activation="tanh").fit(x, y)
    >>> found.n_units_, found.diagnostics_.exact
    ((2,), True)
    """

    n_units: int | Sequence[int] | None = None
    expansion: float | str = 4
    n_students: int = 20
    n_layers: int = 1
    coverage: float = 0.8
    max_angle: float = np.pi / 12
    activation: str | Function = "auto"
    rule: str = "plateau"
    noise: float = 0.0
    tolerance: float = 1e-14
    max_iterations: int = 200
    random_state: int = 0

    def fit(self, X: ArrayLike, Y: ArrayLike | Callable[[Tensor], Tensor]) -> ExpandAndCluster:
        """Recover the network behind Y.

        Warns with `IdentifiabilityWarning` if the students have more parameters than there are numbers in Y.

        Parameters
        ----------
        X : inputs (n, d).
        Y : outputs (n, o) or (n,); or the unknown network itself, to be queried at X.

        Raises
        ------
        TrainingError
            If no student comes near the outputs.
        """
        self._check()
        x, y = check_samples(X, Y)
        with torch.random.fork_rng(devices=[]):  # fresh modules draw initial values
            self._recover(x, y)
        return self

    def distance_to(self, teacher: nn.Module, x: ArrayLike | None = None) -> Distance:
        """Compare the recovered network with its teacher, after removing symmetries.

        Parameters
        ----------
        teacher : a chain of linear layers with the recovered activation between them, in any module.
        x : fresh inputs (n, d); by default Gaussian, with the mean and spread of those in `fit`.
        """
        student = getattr(self, "_student", None)
        if student is None:
            raise InputError("distance_to needs a recovered network, got none", cure="call fit first")
        if x is None:
            generator, mean = seeds.generator(self.random_state), self._fresh.mean
            drawn = torch.randn(N_FRESH, len(mean), generator=generator, dtype=torch.float64)
            x = drawn * (self._fresh.scale * self._fresh.varies) + mean
        return distance(student, copy.deepcopy(teacher), self._symmetry, _matrix(x, "x"))

    def _recover(self, x: Tensor, y: Tensor) -> None:
        fitted, held = split(x)
        for name, values in (("X", x[fitted]), ("Y", y[fitted])):
            check_varies(values, name, f"in {len(fitted)} of {len(x)} rows, the others being held out")
        inputs, outputs = Standardization.of(x[fitted]), Standardization.of_all(y[fitted])
        unseen = inputs(x[held]), outputs(y[held])
        x, y = inputs(x[fitted]), outputs(y[fitted])
        settings, trials, widths = self._settings(x, y)
        _warn(x, y, widths, settings)
        outcome = recover(x, y, widths, settings)
        first = outcome.stages[0]
        if not first.used:
            lowest = ", ".join(f"{loss:.1e}" for loss in first.students.losses.sort().values[:5].tolist())
            raise TrainingError(
                f"students must reach a loss of {settings.converged:.1e} of the outputs' variance, got {lowest} for "
                f"{self.n_students} students of widths {widths}",
                cure="raise expansion, n_units or max_iterations, try another activation, or set noise if outputs are "
                "noisy",
            )
        self.clusters_: tuple[Cut | None, ...] = tuple(stage.cut for stage in outcome.stages)
        name = self.activation if isinstance(self.activation, str) else "custom"
        self.activation_ = trials[0].name if trials else name
        self._symmetry, self._fresh = settings.symmetry, inputs
        self._student = None if outcome.network is None else undone(outcome.network, inputs, outputs)
        self.model_: nn.Module | None = None if self._student is None else self._as_module(self._student)
        self.n_units_: tuple[int, ...] = () if self._student is None else self._student.widths
        evidence, reason = None, outcome.reason
        if outcome.network is not None:
            agreement = [stage.agreement for stage in outcome.stages]
            homogeneous, noisy = settings.symmetry.homogeneous, settings.noise > 0
            evidence = evidence_of(outcome.network, (x, y), unseen, agreement, homogeneous, noisy)
            if outcome.exact and evidence.doubts:
                reason = f"it explains the outputs, not identified: {evidence.reason}"
        errors, stages = (outcome.error, first.error), outcome.stages
        self.diagnostics_ = Diagnostics(
            not reason, *errors, stages, trials, widths, reason, explains=outcome.exact, evidence=evidence
        )

    def _check(self) -> None:
        sizes = self.n_units if isinstance(self.n_units, Sequence) else [1 if self.n_units is None else self.n_units]
        if not sizes or not all(map(is_count, sizes)):
            raise InputError(f"n_units must be one int >= 1 or one for each layer, got {self.n_units!r}")
        check_count("n_layers", self.n_layers)
        check_count("max_iterations", self.max_iterations)
        check_count("n_students", self.n_students, least=2)
        for name, value, most in (("coverage", self.coverage, 1), ("max_angle", self.max_angle, np.pi / 2)):
            check_positive(name, value)
            check_number(name, value, 0, most)
        check_choice("rule", self.rule, RULES)
        check_number("noise", self.noise, 0, below=0.7)  # half of the outputs' variance
        check_positive("tolerance", self.tolerance)
        if not _is_auto(self.expansion) and not (is_number(self.expansion) and 1 <= self.expansion <= MOST):
            raise InputError(f'expansion must be a number >= 1 or "auto", got {self.expansion!r}')
        named = isinstance(self.activation, str) and self.activation in (*ACTIVATIONS, "auto")
        if not callable(self.activation) and not named:
            names = ", ".join(map(repr, (*ACTIVATIONS, "auto")))
            raise InputError(f"activation must be a function or one of {names}, got {self.activation!r}")
        if not isinstance(self.activation, str):
            sample = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
            values = outputs_of(self.activation, sample, "activation", "the pre-activations")
            if values.shape != sample.shape or values.dtype != sample.dtype:
                got = describe(values)
                raise InputError(f"activation must be a function of each number, got {got} for {describe(sample)}")

    def _settings(self, x: Tensor, y: Tensor) -> tuple[Settings, tuple[Trial, ...], tuple[int, ...]]:
        """Return the settings with the activation, what other activations gave, and the students' widths."""
        function = self.activation if callable(self.activation) else ACTIVATIONS.get(self.activation, torch.tanh)
        same = ("n_students", "coverage", "max_angle", "rule", "tolerance", "max_iterations", "random_state")
        settings = Settings(function, noise=self.noise**2, **{name: getattr(self, name) for name in same})
        sizes = self.n_units
        if sizes is not None and not isinstance(sizes, Sequence):
            sizes = (int(sizes),) * self.n_layers
        trials: tuple[Trial, ...] = ()
        if self.activation == "auto":
            trials = best_activation(x, y, sizes, self.n_layers, settings)
            settings = replace(settings, function=ACTIVATIONS[trials[0].name])
        if sizes is None:
            sizes = guess_width(x, y, self.n_layers, settings)
        factor = smallest_expansion(x, y, sizes, settings) if isinstance(self.expansion, str) else self.expansion
        return settings, trials, tuple(max(1, round(factor * size)) for size in sizes)

    def _as_module(self, student: Student) -> nn.Module:
        if self.activation_ == "custom" or student.path is not None:
            return student.eval()
        d, o = student.layers[0].in_features, student.readout.out_features
        model = MLP(d, student.widths, o, activation=self.activation_).double()
        model.load_state_dict({**model.state_dict(), **student.state_dict()})
        return model.eval()


MOST = 10**6  # times the size
LEAST_ROWS = 3


def _is_auto(value: object) -> bool:
    return isinstance(value, str) and value == "auto"


def check_samples(X: ArrayLike, Y: ArrayLike | Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Return finite inputs (n, d) and outputs (n, o) in float64, neither of them constant."""
    x = _matrix(X, "X")
    if callable(Y):
        asked = x.to(X.dtype) if isinstance(X, Tensor) and X.is_floating_point() else x
        if isinstance(Y, nn.Module):
            Y = copy.deepcopy(Y).eval()  # stays as it is
            asked = x.to(next((p.dtype for p in Y.parameters()), x.dtype))
        with torch.no_grad():
            Y = outputs_of(Y, asked, getattr(Y, "__name__", type(Y).__name__), "X")
    y = _matrix(Y, "Y")
    check_rows(y, len(x), "Y", inputs="X")
    if len(x) < LEAST_ROWS:
        wanted = f"at least {LEAST_ROWS} rows, of which a tenth is held out"
        raise InputError(f"X must have {wanted}, got {len(x)}", cure="pass several rows for each weight to recover")
    for name, values in (("X", x), ("Y", y)):
        check_varies(values, name)
    return x, y


def check_varies(values: Tensor, name: str, where: str = "in all rows") -> None:
    """Raise an `InputError` unless the rows of values (n, d) differ; ``name`` is X or Y."""
    if bool((values == values[0]).all()):
        outputs = "a network of constant outputs has no units to recover: pass inputs at which its outputs differ"
        cure = outputs if name == "Y" else "pass inputs that differ"
        raise InputError(f"{name} must have rows that differ, got the same values {where}", cure=cure)


def _matrix(values: ArrayLike | Tensor, argument: str) -> Tensor:
    tensor = as_tensor(values, argument)
    matrix = (tensor[:, None] if tensor.dim() == 1 else tensor).double()
    if matrix.dim() != 2 or not matrix.numel():
        raise InputError(f"{argument} must have shape (samples, features), got {tuple(matrix.shape)}")
    check_finite(matrix, argument)
    return matrix


def _warn(x: Tensor, y: Tensor, widths: Sequence[int], settings: Settings) -> None:
    n_parameters = sum(p.numel() for p in settings.student(x, widths, y).parameters())
    if y.numel() < n_parameters:
        message = (
            f"students of widths {tuple(widths)} have {n_parameters} parameters, and there are {len(y)} × {y.shape[1]} "
            f"= {y.numel()} output values to fit: they can fit anything, and recovery is not identifiable; give more "
            "inputs or a smaller expansion"
        )
        warn(message, IdentifiabilityWarning)
