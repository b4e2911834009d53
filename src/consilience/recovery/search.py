"""What is not known of a teacher, found by short runs of few students: its activation, its size, a good expansion.

Some activations cannot be told apart by outputs: a network with sigmoid is one with tanh in other units, and leaky_relu
is relu beside a linear path, which is why it is not tried.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from consilience.errors import TrainingError
from consilience.nets.activations import ACTIVATIONS
from consilience.recovery.clusters import cuts
from consilience.recovery.fit import Precise, fit_precisely
from consilience.recovery.layers import Settings, units_of, usable
from consilience.recovery.student import Function
from consilience.seeds import SHORT_RUN, seed
from consilience.training.train import initialise

N_SHORT, SHORT = 8, 40  # students and iterations of a short run
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
EXPANSIONS = (1, 1.5, 2, 3, 4, 6, 8)
TRIAL_SIZES = (2, 4, 8, 16, 32)  # student widths for activations, where no size is known
MOST = 0.5
BELOW = 0.01  # of the loss that students must reach: there short runs end, and losses are equal
CANDIDATES = tuple(name for name in ACTIVATIONS if name not in ("identity", "leaky_relu"))


@dataclass(frozen=True)
class Trial:
    """What one activation gives.

    Attributes
    ----------
    name : of the activation.
    loss : the median of the students', as a share of the outputs' variance.
    plateau : length of the tree's plateau, in factors of e of height: how cleanly their units cluster.
    """

    name: str
    loss: float
    plateau: float


def best_activation(
    x: Tensor,
    y: Tensor,
    sizes: Sequence[int] | None,
    n_layers: int,
    with_function: Callable[[Function], Settings],
) -> tuple[Trial, ...]:
    """Return what each activation gives, the best first: by the decade of the loss, then by how cleanly units cluster.

    Where the size is not known, widths are doubled until one activation reaches the outputs.

    Raises
    ------
    TrainingError
        If none does.
    """
    widths = [tuple(4 * size for size in sizes)] if sizes else [(width,) * n_layers for width in TRIAL_SIZES]
    settings = {name: with_function(ACTIVATIONS[name]) for name in CANDIDATES}
    enough = settings[CANDIDATES[0]].converged  # of all: it depends on the noise alone
    trials: list[Trial] = []
    for each in widths:
        trials = [_trial(name, x, y, each, settings[name]) for name in CANDIDATES]
        trials.sort(key=lambda trial: (_decade(trial.loss, BELOW * enough), -trial.plateau))
        if trials[0].loss <= enough:
            return tuple(trials)
    raise TrainingError(
        "no activation reaches the outputs", where="activation='auto'",
        got=", ".join(f"{trial.name} {trial.loss:.1e}" for trial in trials),
        expected=f"{enough:.1e} of the variance",
        cure="give n_units, raise n_layers, pass the activation as a function, or set noise if outputs are noisy",
    )  # fmt: skip


def guess_width(x: Tensor, y: Tensor, n_layers: int, settings: Settings) -> tuple[int, ...]:
    """Return the smallest size, one for all layers, at which some student reaches the outputs.

    Raises
    ------
    TrainingError
        If none does.
    """
    lowest = []
    for size in SIZES:
        losses = short_run(x, y, (size,) * n_layers, settings).losses
        if bool((losses <= settings.converged).any()):
            return (size,) * n_layers
        lowest.append(f"{size}: {float(losses.min()):.1e}")
    raise TrainingError(
        "no size reaches the outputs", where="n_units=None", got=", ".join(lowest),
        expected=f"a loss of at most {settings.converged:.1e} of the variance",
        cure="give n_units, raise n_layers, try another activation, or set noise if outputs are noisy",
    )  # fmt: skip


def smallest_expansion(x: Tensor, y: Tensor, sizes: Sequence[int], settings: Settings) -> float:
    """Return the smallest factor at which most students reach the outputs; the largest if at none they do."""
    for factor in EXPANSIONS:
        losses = short_run(x, y, tuple(max(1, round(factor * size)) for size in sizes), settings).losses
        if float((losses <= settings.converged).double().mean()) > MOST:
            return factor
    return EXPANSIONS[-1]


def short_run(x: Tensor, y: Tensor, widths: Sequence[int], settings: Settings) -> Precise:
    """Return a few students after a few iterations."""
    template = settings.student(x, widths, y)
    seeds = (seed(settings.random_state, SHORT_RUN, k, *widths) for k in range(N_SHORT))
    return fit_precisely(
        [initialise(template, each) for each in seeds], x, y, tolerance=BELOW * settings.converged,
        max_iterations=SHORT, random_state=settings.random_state,
    )  # fmt: skip


def _decade(loss: float, lowest: float) -> float:
    return math.floor(math.log10(max(loss, lowest))) if math.isfinite(loss) else math.inf


def _trial(name: str, x: Tensor, y: Tensor, widths: Sequence[int], settings: Settings) -> Trial:
    students = short_run(x, y, widths, settings)
    used, plateau = usable(students.losses, settings), 0.0
    if len(used) > 1:
        units = units_of([students.modules[k] for k in used], used, settings.symmetry)
        found = cuts(units, settings.coverage, settings.max_angle)
        plateau = math.log(found[0].plateau[1] / found[0].plateau[0]) if found else 0.0
    return Trial(name, float(students.losses.median()), plateau)
