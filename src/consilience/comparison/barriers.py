"""How far two networks are apart in the loss landscape: the barrier on the line between their parameters.

Networks of one architecture are in one basin if the loss does not increase on the line between them (Frankle et al.
2020, "Linear Mode Connectivity and the Lottery Ticket Hypothesis", section 2). They are in one basin if they generalize
by the same mechanism (Juneja et al. 2022, "Linear Connectivity Reveals Generalization Strategies"). Units are not
matched: networks with different initial values have barriers even if they compute the same function.

Axis legend: ``m`` model, ``n`` sample, ``t`` point of a line, ``o`` output.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import chain, combinations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from consilience.checks import as_tensor, check_count, check_rows, check_targets
from consilience.comparison.inputs import Models, checked_inputs, modules_of
from consilience.comparison.places import calls
from consilience.errors import InputError
from consilience.signals.batches import BATCH_SIZE
from consilience.signals.record import like_parameters
from consilience.tasks import losses
from consilience.ties import DOUBLE
from consilience.training.norms import settle_norms
from consilience.units.forward import eval_mode

N_PROBE = 16  # samples on which two models are tested for computing the same function of their parameters
ROUNDING = 1e-5  # of outputs in float32, as a share of the largest

State = dict[str, Tensor]


def loss_barriers(
    models: Models, x: ArrayLike | Tensor, y: ArrayLike | Tensor, *, n_points: int = 11, random_state: int = 0
) -> NDArray[np.float64]:
    """Return the loss barrier between every two models: (m, m), symmetric, 0 on the diagonal.

    For parameters a and b, it is max over t of L((1 − t) a + t b) − [(1 − t) L(a) + t L(b)], at ``n_points`` equally
    spaced t from 0 to 1, and so 0 or more. L is the mean cross-entropy in nats for labels y, else the mean squared
    error. Floating-point buffers are interpolated like parameters, others are those of a. NaN is between models that
    differ in names or shapes of parameters, or that do not have each other's outputs with each other's parameters.

    Statistics of batch norms are not interpolated: at each t, the ends included, they are estimated on the same batches
    of x, as at the end of training (`settle_norms`). Interpolated statistics do not fit interpolated weights, and would
    cause a barrier (Jordan et al. 2023, REPAIR).

    Parameters
    ----------
    models : at least two.
    x, y : inputs (n, ...); labels (n,), or targets of the outputs' shape.
    n_points : points of a line, 2 or more, its ends included.
    random_state : seed of the batches for batch norms.

    Raises
    ------
    InputError : also if all pairs are NaN, or a loss is not finite.
    """
    named = modules_of(models)
    check_count("n_points", n_points, 2)
    inputs, targets = checked_inputs(x, "x"), as_tensor(y, "y")
    check_rows(targets, len(inputs), "y")
    for name, module in named.items():
        calls(module, inputs, name)  # or raises
    names, modules = list(named), list(named.values())
    every_two, probe = combinations(range(len(modules)), 2), inputs[:N_PROBE]
    pairs = [(i, j) for i, j in every_two if _same_function(modules[i], modules[j], probe)]
    if not pairs:
        raise InputError(
            "models must have two that compute the same function of parameters of the same names and shapes, got none",
            cure="compare models of different architectures by their clusterings",
        )
    barriers = np.full((len(names), len(names)), np.nan)
    np.fill_diagonal(barriers, 0.0)
    t = torch.linspace(0, 1, n_points, dtype=torch.float64)
    ends = {k: _losses(modules[k], [modules[k].state_dict()], inputs, targets, random_state) for k in {*chain(*pairs)}}
    for i, j in pairs:
        line = [_between(modules[i].state_dict(), modules[j].state_dict(), float(point)) for point in t[1:-1]]
        losses = torch.cat([ends[i], _losses(modules[i], line, inputs, targets, random_state), ends[j]])
        if not bool(torch.isfinite(losses).all()):
            message = f"the loss must be finite between models {names[i]!r} and {names[j]!r}, got NaN or infinity"
            raise InputError(message, cure="leave out one of them")
        chord = (1 - t) * losses[0] + t * losses[-1]
        rise = float((losses - chord).max())
        barriers[i, j] = barriers[j, i] = rise if rise > DOUBLE * float(losses.abs().max()) else 0.0
    return barriers


def _same_function(a: nn.Module, b: nn.Module, x: Tensor) -> bool:
    """Whether two modules compute the same function of their states, which are exchanged to test it."""
    shapes = [{name: value.shape for name, value in module.state_dict().items()} for module in (a, b)]
    return shapes[0] == shapes[1] and _reproduces(a, b, x) and _reproduces(b, a, x)


def _reproduces(a: nn.Module, b: nn.Module, x: Tensor) -> bool:
    """Whether a module with another's state has the other's outputs, if need be in double precision."""
    a = _with_state(a, b.state_dict())
    return _equal_outputs(a, b, x) or _equal_outputs(a.double(), copy.deepcopy(b).double(), x)


def _equal_outputs(a: nn.Module, b: nn.Module, x: Tensor) -> bool:
    with eval_mode(a, b):
        ours, theirs = a(like_parameters(x, a)), b(like_parameters(x, b))
    if ours.shape != theirs.shape:
        return False
    ours, theirs = ours.double().cpu(), theirs.double().cpu()
    scale = float(theirs.nan_to_num().abs().max())
    return torch.allclose(ours, theirs, rtol=0, atol=ROUNDING * scale, equal_nan=True)  # NaN is refused as a loss


def _with_state(module: nn.Module, state: State) -> nn.Module:
    module = copy.deepcopy(module)
    module.load_state_dict(state)
    return module


def _between(a: State, b: State, t: float) -> State:
    return {
        name: torch.lerp(value, b[name].to(value), t) if value.is_floating_point() else value
        for name, value in a.items()
    }


def _losses(module: nn.Module, line: Sequence[State], x: Tensor, y: Tensor, random_state: int) -> Tensor:
    """Return the mean loss (t,) at points of a line."""
    if not line:
        return torch.zeros(0, dtype=torch.float64)
    x = like_parameters(x, module)
    points = [_with_state(module, state) for state in line]
    for point in points:
        settle_norms(point, x, min(BATCH_SIZE, len(x)), random_state)
    total = torch.zeros(len(line), dtype=torch.float64)
    with eval_mode(*points):
        stacked = stack_module_state(points)
        for inputs, targets in zip(x.split(BATCH_SIZE), y.split(BATCH_SIZE), strict=True):
            outputs = _outputs(points, stacked, inputs)
            total += torch.stack([_loss(of_point, targets) for of_point in outputs.cpu()])
    return total / len(x)


def _outputs(points: Sequence[nn.Module], stacked: tuple[State, State], x: Tensor) -> Tensor:
    """Return outputs (t, n, ...) of modules that differ in their states alone."""
    try:
        outputs: Tensor = vmap(lambda *state: functional_call(points[0], state, (x,)))(*stacked)
    except RuntimeError:  # an operation that cannot be batched over parameters, such as an LSTM
        outputs = torch.stack([point(x) for point in points])
    return outputs


def _loss(outputs: Tensor, y: Tensor) -> Tensor:
    """Sum over a batch of the samples' losses, in float64."""
    outputs, y = outputs.double(), y.to(outputs.device)
    check_targets(y, outputs, "y")
    if y.is_floating_point():
        return losses(outputs, y, "regression").sum()
    return losses(outputs, y.long(), "classification" if y.ndim == 1 else "next-token").sum()
