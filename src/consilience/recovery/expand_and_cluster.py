"""Which network produced these outputs? Expand-and-Cluster (Martinelli, Simsek, Gerstner and Brea, ICML 2024)."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from consilience.errors import InputError, TrainingError
from consilience.nets.activations import ACTIVATIONS
from consilience.nets.mlp import MLP
from consilience.recovery.clusters import RULES, Cut
from consilience.recovery.distance import Distance, distance
from consilience.recovery.layers import Outcome, Settings, Stage, recover
from consilience.recovery.search import Trial, best_activation, guess_width, smallest_expansion
from consilience.recovery.standard import Standard
from consilience.recovery.student import Function, Student, symmetry_of_function

N_FRESH = 2000  # inputs on which functions are compared


class IdentifiabilityWarning(UserWarning):
    """There are fewer equations than unknowns: many networks give the same outputs on these inputs."""


@dataclass(frozen=True)
class Diagnostics:
    """How a recovery went.

    Attributes
    ----------
    exact : whether the network is as good as the students it was made of: its error on the outputs given is theirs or
        less, but for what wider networks gain by fitting noise; without noise, at most the tolerance, too. If not, do
        not trust it. What it does where there were no inputs is not known.
    error : its mean squared error as a share of the outputs' variance.
    students_error : the students', the median of those used.
    stages : by hidden layer reached: the students' losses and status, which were used, the cut and its clusters, those
        kept and those dropped and by which rule, and units removed as excess.
    activations : what each candidate gave, best first, with ``activation="auto"``.
    student_widths : of the students, by hidden layer.
    reason : why it is not exact; "" if it is.
    """

    exact: bool
    error: float
    students_error: float
    stages: tuple[Stage, ...]
    activations: tuple[Trial, ...]
    student_widths: tuple[int, ...]
    reason: str


class ExpandAndCluster:
    """Recover the size and the parameters of a perceptron from inputs and outputs.

    Students of ``expansion`` times the size are trained to machine precision; what units they share are the teacher's.

    Parameters
    ----------
    n_units : the size expected of each hidden layer, an int for one layer; None searches for the smallest that fits.
    expansion : students' width over ``n_units``; "auto" for the smallest at which most students reach the outputs.
    n_students : how many.
    n_layers : hidden layers, where ``n_units`` does not tell.
    coverage : share of the students that a cluster must hold (γ).
    max_angle : radians within which its units must point (β).
    activation : a name of `consilience.nets.activations.ACTIVATIONS`, an elementwise function, or "auto".
    rule : "plateau", or "published" for the cut of the paper, without what is done about its faults.
    noise : standard deviation of noise on the outputs, as a share of theirs; students need not get below it.
    tolerance : mean squared error, as a share of the variance, at which students are done.
    max_iterations : of each student's training.
    random_state : seed.

    Attributes
    ----------
    model_ : an `MLP` in float64; where signs could not be told, or the activation has no name, a `Student`.
    n_units_ : units of each hidden layer.
    activation_ : its name; "custom" for a function.
    clusters_ : by hidden layer, the cut of the students' tree.
    diagnostics_ : how it went; look at ``diagnostics_.exact``.

    Examples
    --------
    >>> x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    >>> y = torch.tanh(x @ torch.tensor([[1.0, -1.0], [0.5, 1.0]])) @ torch.tensor([[1.0], [2.0]])
    >>> found = ExpandAndCluster(n_units=2, n_students=6, activation="tanh").fit(x, y)
    >>> found.n_units_, found.diagnostics_.exact
    ((2,), True)
    """

    def __init__(
        self,
        n_units: int | Sequence[int] | None = None,
        expansion: float | str = 4,
        n_students: int = 20,
        n_layers: int = 1,
        coverage: float = 0.8,
        max_angle: float = np.pi / 12,
        activation: str | Function = "auto",
        rule: str = "plateau",
        noise: float = 0.0,
        tolerance: float = 1e-14,
        max_iterations: int = 200,
        random_state: int = 0,
    ) -> None:
        self.n_units = n_units
        self.expansion = expansion
        self.n_students = n_students
        self.n_layers = n_layers
        self.coverage = coverage
        self.max_angle = max_angle
        self.activation = activation
        self.rule = rule
        self.noise = noise
        self.tolerance = tolerance
        self.max_iterations = max_iterations
        self.random_state = random_state

    def fit(self, X: ArrayLike, Y: ArrayLike | Callable[[Tensor], Tensor]) -> ExpandAndCluster:
        """Recover the network behind Y.

        Parameters
        ----------
        X : inputs (n, d).
        Y : outputs (n, o) or (n,); or the unknown network itself, to be queried at X.

        Raises
        ------
        InputError
            If a setting makes no sense, or inputs or outputs are not finite, constant or of the wrong shape.
        TrainingError
            If no student comes near the outputs.

        Warns
        -----
        IdentifiabilityWarning
            If the students have more parameters than there are numbers in Y.
        """
        self._check()
        x, y = check_samples(X, Y)
        with torch.random.fork_rng(devices=[]):  # fresh modules draw values that nobody uses
            self._recover(x, y)
        return self

    def distance_to(self, teacher: nn.Module, x: ArrayLike | None = None) -> Distance:
        """Compare the recovered network with its teacher, after removing symmetries.

        Parameters
        ----------
        teacher : a chain of linear layers with the recovered activation between them, in any module.
        x : fresh inputs (n, d); by default Gaussian, with the mean and spread of those in `fit`.

        Raises
        ------
        InputError
            If nothing was recovered, or the teacher is no such chain, or has another depth.
        """
        student = getattr(self, "_student", None)
        if student is None:
            raise InputError("there is no recovered network", where="distance_to", cure="call fit first")
        if x is None:
            generator = torch.Generator().manual_seed(self.random_state)
            drawn = torch.randn(N_FRESH, len(self._fresh.mean), generator=generator, dtype=torch.float64)
            fresh = drawn * (self._fresh.scale * self._fresh.varies) + self._fresh.mean
        else:
            fresh = _matrix(x, "x")
        return distance(student, copy.deepcopy(teacher), self._symmetry, fresh)

    def _recover(self, x: Tensor, y: Tensor) -> None:
        inputs, outputs = Standard.of(x), Standard.of(y, each=False)
        x, y = inputs(x), outputs(y)
        settings, trials, widths = self._settings(x, y)
        _warn(x, y, widths, settings)
        outcome = recover(x, y, widths, settings)
        first = outcome.stages[0]
        if not first.used:
            raise TrainingError(
                "no student reaches the outputs", where=f"{self.n_students} students of widths {widths}",
                got="losses " + ", ".join(f"{loss:.1e}" for loss in first.students.losses.sort().values[:5].tolist()),
                expected=f"at most {settings.converged:.1e} of the variance",
                cure="raise expansion, n_units or max_iterations, try another activation, or, if outputs are noisy, "
                "set noise",
            )  # fmt: skip
        self.clusters_: tuple[Cut | None, ...] = tuple(stage.cut for stage in outcome.stages)
        self.activation_ = (
            trials[0].name if trials else self.activation if isinstance(self.activation, str) else "custom"
        )
        self._symmetry, self._fresh = settings.symmetry, inputs
        self._student = None if outcome.network is None else _raw(outcome.network, inputs, outputs)
        self.model_: nn.Module | None = None if self._student is None else self._as_module(self._student)
        self.n_units_: tuple[int, ...] = () if self._student is None else self._student.widths
        self.diagnostics_ = Diagnostics(
            outcome.exact, outcome.error, first.error, outcome.stages, trials, widths, _reason(outcome)
        )

    def _check(self) -> None:
        sizes = list(self.n_units) or [0] if isinstance(self.n_units, Sequence) else [self.n_units]
        positive = {"n_layers": self.n_layers, "max_iterations": self.max_iterations}
        for name, value in (*positive.items(), *(("n_units", size) for size in sizes if size is not None)):
            if not isinstance(value, int) or value < 1:
                raise InputError("a number that must be positive", where=name, got=value, expected="an int ≥ 1")
        if not isinstance(self.n_students, int) or self.n_students < 2:
            raise InputError("what students share takes two of them", where="n_students", got=self.n_students,
                             expected="an int ≥ 2")  # fmt: skip
        if not 0 < self.coverage <= 1:
            raise InputError("not a share of the students", where="coverage", got=self.coverage, expected="in (0, 1]")
        if not 0 < self.max_angle <= np.pi / 2:
            raise InputError("not an angle", where="max_angle", got=self.max_angle, expected="radians in (0, π/2]")
        if self.rule not in RULES:
            raise InputError("unknown rule", where="rule", got=repr(self.rule), expected=", ".join(map(repr, RULES)))
        if not 0 <= self.noise < 0.7 or not self.tolerance > 0:
            raise InputError(
                "errors are positive, and noise leaves half of the outputs' variance", where="noise, tolerance",
                got=f"noise={self.noise}, tolerance={self.tolerance}", expected="noise in [0, 0.7), tolerance > 0",
            )  # fmt: skip
        if isinstance(self.expansion, str) and self.expansion != "auto":
            raise InputError(
                "unknown expansion", where="expansion", got=repr(self.expansion), expected='a number or "auto"'
            )
        if not isinstance(self.expansion, str) and not 1 <= self.expansion < np.inf:
            raise InputError("students cannot be narrower than the teacher", where="expansion", got=self.expansion,
                             expected="at least 1")  # fmt: skip
        known = (
            self.activation in (*ACTIVATIONS, "auto") if isinstance(self.activation, str) else callable(self.activation)
        )
        if not known:
            raise InputError(
                "unknown activation", where="activation", got=repr(self.activation),
                expected=", ".join([*ACTIVATIONS, '"auto"', "or a function"]),
            )  # fmt: skip

    def _settings(self, x: Tensor, y: Tensor) -> tuple[Settings, tuple[Trial, ...], tuple[int, ...]]:
        """The activation, the students' widths, and what else there is to set."""

        def with_function(function: Function) -> Settings:
            return Settings(
                function, symmetry_of_function(function), self.n_students, self.coverage, self.max_angle, self.rule,
                self.tolerance, self.max_iterations, self.noise**2, self.random_state,
            )  # fmt: skip

        sizes = (self.n_units,) * self.n_layers if isinstance(self.n_units, int) else self.n_units
        trials: tuple[Trial, ...] = ()
        if self.activation == "auto":
            trials = best_activation(x, y, sizes, self.n_layers, with_function)
            function = ACTIVATIONS[trials[0].name]
        else:
            function = ACTIVATIONS[self.activation] if isinstance(self.activation, str) else self.activation
        settings = with_function(function)
        if sizes is None:
            sizes = guess_width(x, y, self.n_layers, settings)
        factor = smallest_expansion(x, y, sizes, settings) if isinstance(self.expansion, str) else self.expansion
        return settings, trials, tuple(max(1, round(factor * size)) for size in sizes)

    def _as_module(self, student: Student) -> nn.Module:
        if self.activation_ == "custom" or student.path is not None:
            return student.eval()
        model = MLP(
            student.layers[0].in_features, student.widths, student.readout.out_features, activation=self.activation_
        ).double()
        model.load_state_dict({**model.state_dict(), **student.state_dict()})
        return model.eval()


def check_samples(X: ArrayLike, Y: ArrayLike | Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Return inputs (n, d) and outputs (n, o) in float64.

    Raises
    ------
    InputError
        If they are not finite, do not fit each other, or the outputs are constant.
    """
    x = _matrix(X, "X")
    if callable(Y):
        asked = x.to(X.dtype) if isinstance(X, Tensor) and X.is_floating_point() else x
        if isinstance(Y, nn.Module):
            Y = copy.deepcopy(Y).eval()  # to be asked, not to be changed
            asked = x.to(next((p.dtype for p in Y.parameters()), x.dtype))
        with torch.no_grad():
            Y = Y(asked)
    y = _matrix(Y, "Y")
    if len(x) != len(y):
        raise InputError("each input needs a row of outputs", where="Y", got=len(y), expected=len(x))
    if bool((x == x[0]).all()):
        raise InputError("the inputs are constant", where="X", got=f"{len(x)} rows", cure="there is nothing to tell")
    if len(x) < 2 or bool((y == y[0]).all()):
        raise InputError(
            "the outputs are constant", where="Y", got=f"{len(y)} rows", cure="there is nothing to recover"
        )
    return x, y


def _matrix(values: ArrayLike | Tensor, name: str) -> Tensor:
    found = values.detach().double() if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values, dtype=float))
    found = found[:, None] if found.dim() == 1 else found
    if found.dim() != 2 or not found.numel():
        raise InputError("not a matrix", where=name, got=tuple(found.shape), expected="(samples, features)")
    if not bool(torch.isfinite(found).all()):
        bad = int((~torch.isfinite(found)).any(1).nonzero()[0, 0])
        raise InputError(f"{name} has values that are not finite", where=f"{name}, row {bad}", cure="remove such rows")
    return found


def _warn(x: Tensor, y: Tensor, widths: Sequence[int], settings: Settings) -> None:
    n_parameters = sum(p.numel() for p in settings.student(x, widths, y).parameters())
    if y.numel() < n_parameters:
        warnings.warn(
            f"students of widths {tuple(widths)} have {n_parameters} parameters, and there are {len(y)} × {y.shape[1]} "
            f"= {y.numel()} output values: they can fit anything, and recovery is not identifiable; give more inputs "
            "or a smaller expansion",
            IdentifiabilityWarning, stacklevel=4,
        )  # fmt: skip


def _raw(student: Student, inputs: Standard, outputs: Standard) -> Student:
    """Return the network for inputs and outputs as they came; it does not look at inputs that are constant."""
    raw = Student(
        len(inputs.mean), student.widths, len(outputs.mean), student.function, student.path is not None
    ).double()
    raw.load_state_dict({**student.state_dict(), **{
        name: _widened(value, inputs) for name, value in student.state_dict().items()
        if name in ("hidden.0.weight", "path.weight")
    }})  # fmt: skip
    with torch.no_grad():
        first = raw.layers[0]
        first.bias.sub_(first.weight @ inputs.mean)
        raw.readout.weight.mul_(outputs.scale[:, None])
        raw.readout.bias.copy_(raw.readout.bias * outputs.scale + outputs.mean)
        if raw.path is not None:
            raw.path.weight.mul_(outputs.scale[:, None])
            raw.readout.bias.sub_(raw.path.weight @ inputs.mean)
    return raw


def _widened(weight: Tensor, inputs: Standard) -> Tensor:
    """Weights (u, d) of inputs as they came, zero for those that are constant."""
    wide = weight.new_zeros(len(weight), len(inputs.mean))
    wide[:, inputs.varies] = weight / inputs.scale[inputs.varies]
    return wide


def _reason(outcome: Outcome) -> str:
    if outcome.exact:
        return ""
    last = outcome.stages[-1]
    if not last.used:
        return f"no student of layer {len(outcome.stages)} reaches the outputs"
    if len(last.used) < 2:
        return f"one student of layer {len(outcome.stages)} alone reaches the outputs"
    if outcome.network is None:
        return f"no cluster of layer {len(outcome.stages)} survives"
    if outcome.network.path is not None:
        return "the signs of its units could not be told, and it has a linear path"
    students = outcome.stages[0].error
    if outcome.error <= students:
        return f"error {outcome.error:.1e}: training stopped before it could tell; raise max_iterations"
    return f"the network's error {outcome.error:.1e} is above the students' {students:.1e}"
