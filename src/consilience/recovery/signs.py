"""Signs of units that are free up to a linear term, from the linear path beside them.

Where ``f(z) = f(−z) + m z``, students find units with random signs, and their linear path has the rest:
``V = −m Σ_j t_j a_j w_jᵀ`` with ``t_j = 1`` for units of the wrong sign. These are ``o·d`` equations for the ``t``;
solved and rounded they turn the units, and the path vanishes.

Axis legend: ``d`` inputs, ``r`` units, ``o`` outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from consilience.recovery.student import Student, rows_of, set_rows

SMALLEST = 1e-9  # of the largest column or singular value: a smaller one is rounding
TIE = 1e-6  # of a share: half of a unit is no evidence that its sign is wrong


def turned(slope: float, hyperplanes: Tensor, weights: Tensor, path: Tensor) -> Tensor:
    """Return which units (r,) have the wrong sign according to the linear path (o, d) beside them.

    Here ``f(z) − f(−z) = slope z``; weights (o, r) read units of hyperplanes (r, d + 1). Units that no weight reads,
    or that the path does not determine, keep their sign.
    """
    shares = -slope * torch.einsum("or,rd->odr", weights, hyperplanes[:, :-1]).flatten(0, 1)
    size = torch.linalg.vector_norm(shares, dim=0)
    read = size > SMALLEST * size.max()
    columns = torch.where(read, shares / torch.where(read, size, 1), 0)
    solution = torch.linalg.lstsq(columns, path.reshape(-1, 1), rcond=SMALLEST, driver="gelsd").solution[:, 0]
    wrong: Tensor = read & (solution > (0.5 + TIE) * size)
    return wrong


def straightened(slope: float, hyperplanes: Tensor, weights: Tensor, path: Tensor) -> tuple[Tensor, Tensor]:
    """Return the hyperplanes with the right signs, and the change of the biases (o,) above; then the path is zero."""
    wrong = turned(slope, hyperplanes, weights, path).to(weights.dtype)
    return (1 - 2 * wrong)[:, None] * hyperplanes, slope * weights @ (wrong * hyperplanes[:, -1])


def without_path(network: Student, slope: float) -> Student:
    """Return a network of one hidden layer without path, its units turned accordingly."""
    assert network.path is not None
    weights = network.readout.weight.detach()
    hyperplanes, shift = straightened(slope, rows_of(network.layers[0]), weights, network.path.weight.detach())
    plain = Student(hyperplanes.shape[1] - 1, [len(hyperplanes)], len(weights), network.function).double()
    with torch.no_grad():
        set_rows(plain.layers[0], hyperplanes)
        plain.readout.weight.copy_(weights)
        plain.readout.bias.copy_(network.readout.bias + shift)
    return plain
