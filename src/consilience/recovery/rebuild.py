"""A network of the teacher's size from the clusters of its students' units, and whether it is as good as they are.

- Hyperplanes are the clusters' medians, all signs alike; outgoing weights are least squares on the teacher's outputs;
  then second-order steps take all parameters to machine precision.
- A unit without which the error, once the others are refitted, stays what it was is *excess* and removed.
- Where the activation is even up to a linear term, ``f(z) = f(−z) + m z``, signs come out at random and a linear path
  has the rest: ``V = −m Σ_j t_j a_j w_jᵀ`` with ``t_j = 1`` for units of the wrong sign. These are ``o·d`` equations
  for the ``t``; solved and rounded they turn the units, and the path vanishes.

Axis legend: ``n`` samples, ``d`` inputs, ``r`` units, ``o`` outputs.
"""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
from torch import Tensor, nn

from consilience.recovery.clusters import Cut, StudentUnits
from consilience.recovery.fit import fit_precisely
from consilience.recovery.student import Student

SMALLEST = 1e-9  # of the largest column or singular value: below it, a column is nothing but rounding
TIE = 1e-6  # of a share: half of a unit is no evidence that its sign is wrong
SLACK = 1e-6  # of an error: what two fits of one network may differ by
ROUNDING = 1e-24  # mean squared error, as a share of the targets' variance, that is nothing but rounding
STANDARD_ERRORS = 3  # of a mean squared error, by which it may be above the students'
TRIES, LIKELY = 60, 3  # second-order steps to do without a unit, for those units that are missed least at first


def medians(units: StudentUnits, cut: Cut) -> Tensor:
    """Return the hyperplanes (r, d + 1) of the clusters kept."""
    rows = [np.median(units.hyperplanes[c.units] * c.signs[:, None], axis=0) for c in cut.kept]
    return torch.tensor(np.array(rows).reshape(len(rows), units.hyperplanes.shape[1]))


def with_units(hyperplanes: Tensor, x: Tensor, y: Tensor, network: Student) -> Student:
    """Return a network of one hidden layer with these hyperplanes (r, d + 1) and the best readout for y (n, o)."""
    network = copy.deepcopy(network).double()
    with torch.no_grad():
        network.layers[0].weight.copy_(hyperplanes[:, :-1])
        network.layers[0].bias.copy_(hyperplanes[:, -1])
    fit_readout(network, x, y)
    return network


def fit_readout(network: Student, x: Tensor, y: Tensor) -> None:
    """Set readout and path to the least-squares solution."""
    with torch.no_grad():
        h = x
        for layer in network.layers[:-1]:
            h = network.function(layer(h))
        columns = [h, torch.ones(len(x), 1, dtype=x.dtype), *([] if network.path is None else [x])]
        solution = torch.linalg.lstsq(torch.cat(columns, dim=1), y, rcond=SMALLEST, driver="gelsd").solution.T
        network.readout.weight.copy_(solution[:, : h.shape[1]])
        network.readout.bias.copy_(solution[:, h.shape[1]])
        if network.path is not None:
            network.path.weight.copy_(solution[:, h.shape[1] + 1 :])


def relative_error(network: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return the mean squared error as a share of the targets' variance."""
    with torch.no_grad():
        return float((network(x) - y).square().mean() / y.var(0, correction=0).mean())


def refined(network: Student, x: Tensor, y: Tensor, max_iterations: int = 300) -> tuple[Student, float]:
    """Return the network after second-order steps on all its parameters, and its error."""
    fitted = fit_precisely([network], x, y, tolerance=ROUNDING / 1e4, max_iterations=max_iterations, warm_up=0)
    (module,) = fitted.modules
    assert isinstance(module, Student)
    before, after = relative_error(network, x, y), relative_error(module, x, y)
    return (module, after) if after <= before else (network, before)


def as_good(error: float, network: nn.Module, students: float, n_parameters: int, y: Tensor, noisy: bool) -> bool:
    """Whether a network's error is the students' or less; below `ROUNDING` all is equal.

    Under noise wider networks gain by fitting it: then errors are corrected for degrees of freedom, where there are at
    least twice as many equations as parameters, and may differ by `STANDARD_ERRORS`.

    Parameters
    ----------
    error : of the network.
    network : its number of parameters counts.
    students : their error.
    n_parameters : of each of them.
    y : targets (n, o).
    noisy : whether there is noise.
    """
    equations = y.numel()
    if not noisy or equations < 2 * n_parameters:
        return error <= (1 + SLACK) * max(students, ROUNDING)
    size = sum(parameter.numel() for parameter in network.parameters())
    slack = 1 + STANDARD_ERRORS * math.sqrt(2 / equations)
    return error / (equations - size) <= slack * students / (equations - n_parameters)


def without_excess(
    network: Student, error: float, x: Tensor, y: Tensor, noisy: bool
) -> tuple[Student, float, int]:  # fmt: skip
    """Return the network without the units that it does not need, its error, and how many they were.

    Layer by layer, the units that are missed least are left out in turn, and what is left refitted; the best of these
    is taken as long as it is `as_good` as the network was with the unit.
    """
    removed = 0
    for depth in range(len(network.widths)):
        while (width := network.widths[depth]) > 1:
            options = [_without_unit(network, depth, j, x) for j in range(width)]
            options = sorted(options, key=lambda option: max(ROUNDING, relative_error(option, x, y)))[:LIKELY]
            fitted = fit_precisely(options, x, y, tolerance=ROUNDING / 1e4, max_iterations=TRIES, warm_up=0)
            best = int(fitted.losses.clamp(min=ROUNDING).argmin())
            option, lowest = fitted.modules[best], float(fitted.losses[best])
            size = sum(parameter.numel() for parameter in network.parameters())
            if not as_good(lowest, option, error, size, y, noisy):
                break
            assert isinstance(option, Student)
            network, error, removed = option, lowest, removed + 1
    return network, error, removed


def _without_unit(network: Student, depth: int, unit: int, x: Tensor) -> Student:
    """Leave out a unit; what reads its layer makes up for it as well as linear weights can."""
    smaller = copy.deepcopy(network)
    layer, reader = smaller.layers[depth : depth + 2]
    with torch.no_grad():
        h = x
        for each in network.layers[: depth + 1]:
            h = network.function(each(h))
        wanted = reader(h)
        left = torch.arange(h.shape[1]) != unit
        columns = torch.cat([h[:, left], torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
        solution = torch.linalg.lstsq(columns, wanted, rcond=SMALLEST, driver="gelsd").solution.T
        layer.weight, layer.bias = nn.Parameter(layer.weight[left]), nn.Parameter(layer.bias[left])
        reader.weight, reader.bias = nn.Parameter(solution[:, :-1].clone()), nn.Parameter(solution[:, -1].clone())
    layer.out_features = reader.in_features = int(left.sum())
    return smaller


def hyperplanes_of(network: Student) -> Tensor:
    """Return the first hidden layer's [w; b] (r, d + 1)."""
    layer = network.layers[0]
    return torch.cat([layer.weight, layer.bias[:, None]], dim=1).detach()


def turned(slope: float, hyperplanes: Tensor, weights: Tensor, path: Tensor) -> Tensor:
    """Return which units most likely have the wrong sign, from what a linear path beside them does: (r,) bool.

    Units that nothing reads keep their sign, and so do units that the path says nothing about.

    Parameters
    ----------
    slope : m of ``f(z) − f(−z) = m z``.
    hyperplanes : (r, d + 1).
    weights : (o, r) that read the units.
    path : (o, d) that read the same inputs as the units.
    """
    shares = -slope * torch.einsum("or,rd->odr", weights, hyperplanes[:, :-1]).flatten(0, 1)
    size = torch.linalg.vector_norm(shares, dim=0)
    read = size > SMALLEST * size.max()
    columns = torch.where(read, shares / torch.where(read, size, 1), 0)
    solution = torch.linalg.lstsq(columns, path.reshape(-1, 1), rcond=SMALLEST, driver="gelsd").solution[:, 0]
    wrong: Tensor = read & (solution > (0.5 + TIE) * size)
    return wrong


def straightened(slope: float, hyperplanes: Tensor, weights: Tensor, path: Tensor) -> tuple[Tensor, Tensor]:
    """Return the hyperplanes with their signs right, and what that adds to the biases (o,) of what reads the units.

    With these the path is zero. Parameters are those of `turned`.
    """
    wrong = turned(slope, hyperplanes, weights, path).to(weights.dtype)
    return (1 - 2 * wrong)[:, None] * hyperplanes, slope * weights @ (wrong * hyperplanes[:, -1])


def without_path(network: Student, slope: float) -> Student:
    """Return a network of one hidden layer without path, its units turned as the path says."""
    assert network.path is not None
    weights = network.readout.weight.detach()
    hyperplanes, shift = straightened(slope, hyperplanes_of(network), weights, network.path.weight.detach())
    plain = Student(hyperplanes.shape[1] - 1, [len(hyperplanes)], len(weights), network.function).double()
    with torch.no_grad():
        plain.layers[0].weight.copy_(hyperplanes[:, :-1])
        plain.layers[0].bias.copy_(hyperplanes[:, -1])
        plain.readout.weight.copy_(weights)
        plain.readout.bias.copy_(network.readout.bias + shift)
    return plain
