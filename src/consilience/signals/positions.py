"""Which positions of the values that a network computes reach its outputs.

A network may read one token of its last block alone, as a class token. What the block writes at other positions reaches
nothing, so that fits need not reproduce it.

Axis legend: ``n`` samples, ``u`` rows of units, ``p`` positions of one sample.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from consilience.units.architecture import TracedNetwork
from consilience.units.axes import Axis

SAMPLES = 4  # that slopes are computed on


def positions_read(network: TracedNetwork, x: Tensor) -> Mapping[Axis, Tensor]:
    """Return which positions (p,) reach the outputs, of each place that maps write and where some do not.

    Where outputs have no slope on some inputs x (n, ...), a unit may be inactive. So a position is left out if outputs
    also stay finite with infinite values there.
    """
    architecture, x = network.architecture, x[:SAMPLES]
    program, widths = architecture.program, architecture.widths
    axes = {m.output for m in architecture.maps if m.output.name in program.varying}
    axes = {axis for axis in axes if program.n_positions(axis.name, axis.dim) > 1}
    if not axes:
        return {}
    names = sorted({axis.name for axis in axes})
    weights = {name for m in architecture.maps for name in (m.weight, m.bias)}
    state = {name: value.detach().requires_grad_(name in weights) for name, value in network.state.items()}
    with torch.inference_mode(mode=False), torch.enable_grad():
        values = TracedNetwork(architecture, state).values(x.clone(), [*names, program.output])
        outputs = values[program.output].square().sum()
        slopes = torch.autograd.grad(outputs, [values[name] for name in names], allow_unused=True)
    read = dict[Axis, Tensor]()
    for axis in axes:
        value, slope = values[axis.name].detach(), slopes[names.index(axis.name)]
        if slope is None or len(value) != len(x):  # nothing reads it, or samples are divided
            continue
        reached = axis.units(slope, widths, len(x)).ne(0).any(0).any(0)
        if not reached.all() and _stays_finite(network, x, axis, value, ~reached):
            read[axis] = reached
    return read


def _stays_finite(network: TracedNetwork, x: Tensor, axis: Axis, value: Tensor, positions: Tensor) -> bool:
    """Whether outputs are finite with infinite values of all units at some positions (p,)."""
    widths, output = network.architecture.widths, network.architecture.program.output
    units = axis.take(value, widths).movedim(axis.dim, 1)  # (n, u, ...), with p positions in what follows
    changed = units.masked_fill(positions.view(units.shape[2:]), torch.inf).movedim(1, axis.dim)
    outputs = network.values(x, [output], {axis.name: axis.put(value, widths, changed)})[output]
    return bool(outputs.isfinite().all())
