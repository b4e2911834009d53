"""Students: perceptrons with any elementwise activation and, where signs need it, a linear path beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from consilience.units.symmetry import Symmetry

Function = Callable[[Tensor], Tensor]
CLOSE = 1e-9  # of the largest value: identities that hold to this on the grid hold
GRID = torch.linspace(0.01, 6, 200, dtype=torch.float64)


class Student(nn.Module):
    """Linear layers ``hidden.0``, …, with one elementwise activation, and ``readout``.

    With ``path``, a linear path without bias leads from the inputs to the outputs.
    """

    def __init__(
        self, n_inputs: int, widths: Sequence[int], n_outputs: int, function: Function, path: bool = False
    ) -> None:
        super().__init__()
        self.function = function
        self.hidden = nn.ModuleList(nn.Linear(i, o) for i, o in pairwise([n_inputs, *widths]))
        self.readout = nn.Linear(widths[-1], n_outputs)
        self.path = nn.Linear(n_inputs, n_outputs, bias=False) if path else None

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs (n, d) to outputs (n, o)."""
        outputs: Tensor = self.readout(self.units(x, len(self.hidden)))
        return outputs if self.path is None else outputs + self.path(x)

    def units(self, x: Tensor, n_layers: int) -> Tensor:
        """Return the activations (n, u) of this many hidden layers on inputs (n, d)."""
        for layer in self.layers[:n_layers]:
            x = self.function(layer(x))
        return x

    @property
    def layers(self) -> list[nn.Linear]:
        """All hidden layers, and the readout."""
        return [layer for layer in (*self.hidden, self.readout) if isinstance(layer, nn.Linear)]

    @property
    def widths(self) -> tuple[int, ...]:
        """Units of each hidden layer."""
        return tuple(layer.out_features for layer in self.layers[:-1])


def rows_of(layer: nn.Linear) -> Tensor:
    """Return the hyperplanes [w; b] of a layer (r, d + 1)."""
    return torch.cat([layer.weight, layer.bias[:, None]], dim=1).detach()


def set_rows(layer: nn.Linear, hyperplanes: Tensor) -> None:
    """Set the hyperplanes [w; b] of a layer (r, d + 1)."""
    with torch.no_grad():
        layer.weight.copy_(hyperplanes[:, :-1])
        layer.bias.copy_(hyperplanes[:, -1])


def symmetry_of_function(function: Function) -> Symmetry:
    """Return the symmetries of units with an elementwise activation, tested on a grid of values.

    >>> symmetry_of_function(torch.nn.functional.softplus).even_slope, symmetry_of_function(torch.tanh).odd_constant
    (1.0, 0.0)
    """
    with torch.no_grad():
        right, left, double = function(GRID), function(-GRID), function(2 * GRID)
    size = float(right.abs().max()) or 1.0

    def same(a: Tensor, b: Tensor) -> bool:
        return bool((a - b).abs().max() <= CLOSE * size)

    constant, slope = float((right + left).mean()), float(((right - left) / GRID).mean())
    return Symmetry(
        homogeneous=same(double, 2 * right) and same(function(-2 * GRID), 2 * left),
        odd_constant=round(constant, 9) + 0.0 if same(right + left, torch.full_like(GRID, constant)) else None,
        even_slope=round(slope, 9) + 0.0 if same(right - left, slope * GRID) else None,
    )
