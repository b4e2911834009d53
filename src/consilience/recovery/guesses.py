"""Unknown properties of a teacher, guessed from short runs of few students: activation, size, a good expansion.

Outputs do not tell some activations apart: a sigmoid network is also a tanh network with other weights, and leaky_relu
is relu beside a linear path, so it is not tried.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from consilience.errors import TrainingError
from consilience.nets.activations import ACTIVATIONS
from consilience.recovery.cuts import cuts
from consilience.recovery.fit import Fit, fit_precisely
from consilience.recovery.recover import Settings, units_of, usable
from consilience.seeds import SHORT_RUN, seed
from consilience.training.fresh import initialise

N_SHORT, SHORT = 8, 40  # students and iterations of a short run
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
EXPANSIONS = (1, 1.5, 2, 3, 4, 6, 8)
TRIAL_SIZES = (2, 4, 8, 16, 32)  # student widths for activations, where no size is given
MOST = 0.5
BELOW = 0.01  # of the loss that students must reach: short runs end there, and losses below are equal
CANDIDATES = tuple(name for name in ACTIVATIONS if name not in ("identity", "leaky_relu"))
CURE = "give n_units, raise n_layers, pass another activation, or set noise if outputs are noisy"


@dataclass(frozen=True)
class Trial:
    """Result of one activation."""

    name: str  # of the activation
    loss: float  # median of the students' losses, as a share of the outputs' variance
    plateau: float  # length of the tree's plateau, in factors of e of height: how cleanly the units cluster


def best_activation(
    x: Tensor, y: Tensor, sizes: Sequence[int] | None, n_layers: int, settings: Settings
) -> tuple[Trial, ...]:
    """Return the results of all activations, the best first: by the decade of the loss, then by the plateau.

    Where no sizes are given, widths are doubled until one activation reaches the outputs.
    """
    trials: list[Trial] = []
    for widths in [tuple(4 * size for size in sizes)] if sizes else [(width,) * n_layers for width in TRIAL_SIZES]:
        trials = [_trial(name, x, y, widths, replace(settings, function=ACTIVATIONS[name])) for name in CANDIDATES]
        trials.sort(key=lambda trial: (_decade(trial.loss, BELOW * settings.converged), -trial.plateau))
        if trials[0].loss <= settings.converged:
            return tuple(trials)
    losses = ", ".join(f"{trial.name} {trial.loss:.1e}" for trial in trials)
    raise TrainingError(
        f"some activation must reach a loss of {settings.converged:.1e} of the outputs' variance, got {losses}",
        cure=CURE,
    )


def guess_width(x: Tensor, y: Tensor, n_layers: int, settings: Settings) -> tuple[int, ...]:
    """Return the smallest size, one for all layers, at which some student reaches the outputs."""
    lowest = []
    for size in SIZES:
        losses = short_run(x, y, (size,) * n_layers, settings).losses
        if bool((losses <= settings.converged).any()):
            return (size,) * n_layers
        lowest.append(f"{float(losses.min()):.1e} with {size}")
    wanted = f"a loss of {settings.converged:.1e} of the outputs' variance"
    raise TrainingError(f"some size must reach {wanted}, got {', '.join(lowest)}", cure=CURE)


def smallest_expansion(x: Tensor, y: Tensor, sizes: Sequence[int], settings: Settings) -> float:
    """Return the smallest factor at which most students reach the outputs; the largest if there is none."""
    for factor in EXPANSIONS:
        losses = short_run(x, y, tuple(max(1, round(factor * size)) for size in sizes), settings).losses
        if float((losses <= settings.converged).double().mean()) > MOST:
            return factor
    return EXPANSIONS[-1]


def short_run(x: Tensor, y: Tensor, widths: Sequence[int], settings: Settings) -> Fit:
    """Return a few students after a few iterations."""
    template, root, enough = settings.student(x, widths, y), settings.random_state, BELOW * settings.converged
    students = [initialise(template, seed(root, SHORT_RUN, k, *widths)) for k in range(N_SHORT)]
    return fit_precisely(students, x, y, tolerance=enough, max_iterations=SHORT, random_state=root)


def _decade(loss: float, lowest: float) -> float:
    return math.floor(math.log10(max(loss, lowest))) if math.isfinite(loss) else math.inf


def _trial(name: str, x: Tensor, y: Tensor, widths: Sequence[int], settings: Settings) -> Trial:
    students = short_run(x, y, widths, settings)
    used, plateau = usable(students.losses, settings), 0.0
    if len(used) > 1:
        units = units_of([students.modules[k] for k in used], used, settings.symmetry)
        best = cuts(units, settings.coverage, settings.max_angle)
        plateau = math.log(best[0].plateau[1] / best[0].plateau[0]) if best else 0.0
    return Trial(name, float(students.losses.median()), plateau)
