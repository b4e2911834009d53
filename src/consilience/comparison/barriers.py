"""How far two networks are apart in the loss landscape: the barrier on the line between their parameters.

Networks of one architecture are in one basin if the loss does not rise on the way from one to the other (Frankle et al.
2020, "Linear Mode Connectivity and the Lottery Ticket Hypothesis", section 2). Networks that generalise by the same
mechanism are, and others are not, so barriers tell groups of them (Juneja et al. 2022, "Linear Connectivity Reveals
Generalization Strategies"). Units are compared as they are numbered: networks from different initial values are far
apart in this sense even where they compute the same, until their units are matched.

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
from torch.func import functional_call, vmap
from torch.nn import functional

from consilience.comparison.inputs import as_tensor, check_samples
from consilience.comparison.modules import Models, modules_of
from consilience.comparison.places import calls
from consilience.errors import InputError
from consilience.signals.record import like_parameters
from consilience.ties import DOUBLE
from consilience.training.train import settle_norms
from consilience.units.forward import eval_mode

BATCH_SIZE = 256  # samples, run at all points of a line at once
N_PROBE = 16  # samples on which models are looked at for whether they compute one function of their parameters
ROUNDING = 1e-5  # of outputs in float32, as a share of the largest

State = dict[str, Tensor]


def loss_barriers(
    models: Models,
    x: ArrayLike | Tensor,
    y: ArrayLike | Tensor,
    *,
    n_points: int = 11,
    random_state: int = 0,
) -> NDArray[np.float64]:
    """Return the loss barrier between every two models.

    For parameters a and b, it is max over t of L((1 − t) a + t b) − [(1 − t) L(a) + t L(b)], at ``n_points`` equally
    spaced t from 0 to 1. The ends make it 0 or more. L is the mean cross-entropy in nats if y are integers, else the
    mean squared error. Floating-point buffers are interpolated like parameters, others are those of a.

    Statistics of batch norms are not: at each t, the ends included, they are estimated anew on batches of x, as
    `train_population` does at the end of training (`settle_norms`), with the same batches everywhere. Interpolated
    ones do not fit interpolated weights, and the barrier would be theirs (Jordan et al. 2023, REPAIR).

    Parameters
    ----------
    models : at least two.
    x, y : inputs (n, ...); labels (n,), or targets of the outputs' shape.
    n_points : t ≥ 2 of a line, its ends included.
    random_state : seed of the batches for batch norms.

    Returns
    -------
    ndarray
        (m, m), symmetric, 0 on the diagonal; NaN between models whose parameters have different names or shapes, or
        that compute different functions of them: each must, with the other's parameters, give the other's outputs.

    Raises
    ------
    InputError
        If there is one model, no two compute one function of parameters of the same shapes, inputs or targets do not
        fit or a loss is not finite.
    """
    modules = modules_of(models)
    if not isinstance(n_points, int) or n_points < 2:
        raise InputError("a line has two ends", where="n_points", got=n_points, expected="an int ≥ 2")
    inputs = next(iter(check_samples(list(modules), x, None, None).x.values()))
    targets = as_tensor(y)
    if len(targets) != len(inputs):
        raise InputError("each input needs a target", where="y", got=len(targets), expected=len(inputs))
    for name, module in modules.items():
        calls(module, inputs, name)  # or raises
    names, own = list(modules), list(modules.values())
    pairs = [(i, j) for i, j in combinations(range(len(own)), 2) if _alike(own[i], own[j], inputs[:N_PROBE])]
    if not pairs:
        raise InputError(
            "no two models compute one function of parameters of the same names and shapes", where="models",
            got=f"{len(names)} models",
            cure="a line between parameters takes equal architectures; compare clusterings instead",
        )  # fmt: skip
    barriers = np.full((len(names), len(names)), np.nan)
    np.fill_diagonal(barriers, 0.0)
    t = torch.linspace(0, 1, n_points, dtype=torch.float64)
    ends = {k: _losses(own[k], [own[k].state_dict()], inputs, targets, random_state) for k in {*chain(*pairs)}}
    for i, j in pairs:
        line = [_between(own[i].state_dict(), own[j].state_dict(), float(each)) for each in t[1:-1]]
        losses = torch.cat([ends[i], _losses(own[i], line, inputs, targets, random_state), ends[j]])
        if not bool(torch.isfinite(losses).all()):
            raise InputError("a loss is not finite", where=f"between models '{names[i]}' and '{names[j]}'",
                             cure="leave one of them out")  # fmt: skip
        chord = (1 - t) * losses[0] + t * losses[-1]
        rise = float((losses - chord).max())
        barriers[i, j] = barriers[j, i] = rise if rise > DOUBLE * float(losses.abs().max()) else 0.0
    return barriers


def _alike(a: nn.Module, b: nn.Module, x: Tensor) -> bool:
    """Tell whether two modules compute one function of their states, by exchanging these."""
    shapes = [{name: value.shape for name, value in module.state_dict().items()} for module in (a, b)]
    return shapes[0] == shapes[1] and _computes(a, b, x) and _computes(b, a, x)


def _computes(a: nn.Module, b: nn.Module, x: Tensor) -> bool:
    """Tell whether a module, with another's state, gives the other's outputs."""
    a = copy.deepcopy(a)
    a.load_state_dict(b.state_dict())
    # Roundings may grow in single precision; another function is another one in double precision too.
    return _equal_outputs(a, b, x) or _equal_outputs(a.double(), copy.deepcopy(b).double(), x)


def _equal_outputs(a: nn.Module, b: nn.Module, x: Tensor) -> bool:
    with eval_mode(a, b):
        ours, theirs = a(like_parameters(x, a)), b(like_parameters(x, b))
    if ours.shape != theirs.shape:
        return False
    ours, theirs = ours.double().cpu(), theirs.double().cpu()
    scale = float(theirs.nan_to_num().abs().max())
    return torch.allclose(ours, theirs, rtol=0, atol=ROUNDING * scale, equal_nan=True)  # whose loss is refused later


def _between(a: State, b: State, t: float) -> State:
    """(1 − t) a + t b, of what are floating-point numbers."""
    return {
        name: torch.lerp(value, b[name].to(value), t) if value.is_floating_point() else value
        for name, value in a.items()
    }


def _losses(module: nn.Module, line: Sequence[State], x: Tensor, y: Tensor, random_state: int) -> Tensor:
    """Return the mean loss (t,) at points of a line."""
    if not line:
        return torch.zeros(0, dtype=torch.float64)
    module = copy.deepcopy(module)
    x = like_parameters(x, module)
    settled = [_settled(module, state, x, random_state) for state in line]
    stacked = {name: torch.stack([state[name] for state in settled]) for name in settled[0]}
    total = torch.zeros(len(line), dtype=torch.float64)
    with eval_mode(module):
        for batch, targets in zip(x.split(BATCH_SIZE), y.split(BATCH_SIZE), strict=True):
            outputs = _outputs(module, settled, stacked, batch)
            total += torch.stack([_loss(each, targets) for each in outputs.cpu()])
    return total / len(x)


def _outputs(module: nn.Module, states: Sequence[State], stacked: State, x: Tensor) -> Tensor:
    """Return outputs (t, n, ...) of a module in all of its states."""
    try:
        outputs: Tensor = vmap(lambda state: functional_call(module, state, (x,), tie_weights=False))(stacked)
    except RuntimeError:  # an operation that cannot be batched over parameters, as an LSTM's
        outputs = torch.stack([functional_call(module, state, (x,), tie_weights=False) for state in states])
    return outputs


def _settled(module: nn.Module, state: State, x: Tensor, random_state: int) -> State:
    """The state with statistics of batch norms that are estimated on x."""
    module.load_state_dict(state)
    settle_norms(module, x, min(BATCH_SIZE, len(x)), random_state)
    return {name: value.clone() for name, value in module.state_dict().items()}


def _loss(outputs: Tensor, y: Tensor) -> Tensor:
    """Sum over a batch of the samples' losses, in float64."""
    outputs, y = outputs.double(), y.to(outputs.device)
    if y.is_floating_point():
        if y.shape != outputs.shape:
            raise InputError("targets do not fit the outputs", where="y", got=tuple(y.shape[1:]),
                             expected=tuple(outputs.shape[1:]))  # fmt: skip
        return (outputs - y).square().flatten(1).mean(1).sum()
    if y.dim() != 1 or outputs.dim() != 2:
        raise InputError(
            "labels do not fit the outputs", where="y",
            got=f"of each sample, labels {tuple(y.shape[1:])} and outputs {tuple(outputs.shape[1:])}",
            expected="one int and (o,)",
        )  # fmt: skip
    if int(y.min()) < 0 or int(y.max()) >= outputs.shape[1]:
        raise InputError("labels do not fit the outputs", where="y", got=f"{int(y.min())} to {int(y.max())}",
                         expected=f"ints below {outputs.shape[1]}")  # fmt: skip
    return functional.cross_entropy(outputs, y.long(), reduction="sum")
