"""A network of the teacher's size from the clusters of its students' units, and whether it is as good as they are.

- Hyperplanes are the clusters' medians, with signs aligned; outgoing weights are least squares on the teacher's
  outputs; then second-order steps take all parameters to machine precision.
- A unit is *excess*, and removed, if the error does not rise when the others are refitted without it.

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
from consilience.recovery.student import Student, set_rows

SMALLEST = 1e-9  # of the largest singular value: a smaller one is rounding
SLACK = 1e-6  # of an error: difference that is possible between two fits of one network
ROUNDING = 1e-24  # mean squared error, as a share of the targets' variance, up to which it is rounding
STANDARD_ERRORS = 3  # of a mean squared error, by which it may be above the students'
TRIES, LIKELY = 60, 3  # second-order steps without a unit, and units for which they are tried


def medians(units: StudentUnits, cut: Cut) -> Tensor:
    """Return the hyperplanes (r, d + 1) of the clusters kept."""
    rows = [np.median(units.hyperplanes[c.units] * c.signs[:, None], axis=0) for c in cut.kept]
    return torch.tensor(np.array(rows).reshape(len(rows), units.hyperplanes.shape[1]))


def with_units(hyperplanes: Tensor, x: Tensor, y: Tensor, network: Student) -> Student:
    """Return a network of one hidden layer with these hyperplanes (r, d + 1) and the best readout for y (n, o)."""
    network = copy.deepcopy(network).double()
    set_rows(network.layers[0], hyperplanes)
    with torch.no_grad():
        h = network.units(x, 1)
        columns = [h, torch.ones(len(x), 1, dtype=x.dtype), *([] if network.path is None else [x])]
        solution = torch.linalg.lstsq(torch.cat(columns, dim=1), y, rcond=SMALLEST, driver="gelsd").solution.T
        network.readout.weight.copy_(solution[:, : h.shape[1]])
        network.readout.bias.copy_(solution[:, h.shape[1]])
        if network.path is not None:
            network.path.weight.copy_(solution[:, h.shape[1] + 1 :])
    return network


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
    """Return whether a network's error is at most the students', of so many parameters; below `ROUNDING` all are equal.

    Wider networks gain by fitting noise. Where there is noise, and at least twice as many equations (entries of y) as
    parameters, errors are corrected for degrees of freedom and may differ by `STANDARD_ERRORS`.
    """
    equations = y.numel()
    if not noisy or equations < 2 * n_parameters:
        return error <= (1 + SLACK) * max(students, ROUNDING)
    size = sum(parameter.numel() for parameter in network.parameters())
    slack = 1 + STANDARD_ERRORS * math.sqrt(2 / equations)
    return error / (equations - size) <= slack * students / (equations - n_parameters)


def without_excess(network: Student, error: float, x: Tensor, y: Tensor, noisy: bool) -> tuple[Student, float, int]:
    """Return the network without the units that it does not need, its error, and the number of units removed.

    Layer by layer, the `LIKELY` units whose removal raises the error least are left out in turn and the others
    refitted; the best of these networks is taken as long as it is `as_good` as the network with the unit.
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
    """Leave out a unit; the weights that read its layer are refitted by least squares."""
    smaller = copy.deepcopy(network)
    layer, reader = smaller.layers[depth : depth + 2]
    with torch.no_grad():
        h = network.units(x, depth + 1)
        wanted = reader(h)
        left = torch.arange(h.shape[1]) != unit
        columns = torch.cat([h[:, left], torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
        solution = torch.linalg.lstsq(columns, wanted, rcond=SMALLEST, driver="gelsd").solution.T
        layer.weight, layer.bias = nn.Parameter(layer.weight[left]), nn.Parameter(layer.bias[left])
        reader.weight, reader.bias = nn.Parameter(solution[:, :-1].clone()), nn.Parameter(solution[:, -1].clone())
    layer.out_features = reader.in_features = int(left.sum())
    return smaller
