"""Which positions of the values that a network computes reach its outputs.

A network may read one token of its last block alone, as a class token. What the block writes at other positions reaches
nothing, so that fits need not reproduce it.

Axis legend: ``n`` samples, ``u`` rows of units, ``p`` positions of one sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from consilience.units.architecture import TracedNetwork
from consilience.units.axes import Axis

SAMPLES, BATCH = 64, 4  # that slopes are computed on, and how many of them at once


def positions_read(network: TracedNetwork, x: Tensor) -> Mapping[Axis, Tensor]:
    """Return which positions (p,) reach the outputs, of each place that maps write and where some do not.

    A position reaches them if outputs have a slope there on any of some inputs x (n, ...), evenly spaced: what is
    padding in one sample may be read in another. Where they have none, a unit may be inactive. So a position is left
    out if outputs also stay finite with infinite values there. A place of which no position
    reaches them is left as it is: fits need rows.
    """
    program = network.architecture.program
    places = dict.fromkeys(m.output for m in network.architecture.maps if m.output.name in program.varying)
    left = [axis for axis in places if program.n_positions(axis.name, axis.dim) > 1]
    batches = x[:: -(-len(x) // SAMPLES)].split(BATCH)
    read = dict[Axis, Tensor]()
    for batch in batches:
        for axis, reached in _with_slopes(network, batch, left).items():
            read[axis] = reached | read.get(axis, torch.zeros_like(reached))
        left = [axis for axis in left if axis in read and not read[axis].all()]
        if not left:
            break
    return {
        axis: read[axis]
        for axis in left
        if read[axis].any() and all(_stays_finite(network, batch, axis, ~read[axis]) for batch in batches)
    }


def _with_slopes(network: TracedNetwork, x: Tensor, axes: Sequence[Axis]) -> dict[Axis, Tensor]:
    """At which positions (p,) of these places outputs have a slope on inputs x (n, ...)."""
    architecture, names = network.architecture, sorted({axis.name for axis in axes})
    program, widths = architecture.program, architecture.widths
    if not axes:
        return {}
    weights = {name for m in architecture.maps for name in (m.weight, m.bias)}
    state = {name: value.detach().requires_grad_(name in weights) for name, value in network.state.items()}
    with torch.inference_mode(mode=False), torch.enable_grad():
        values = TracedNetwork(architecture, state).values(x.clone(), [*names, program.output])
        outputs = values[program.output].square().sum()
        slopes = torch.autograd.grad(outputs, [values[name] for name in names], allow_unused=True)
    of_name = dict(zip(names, slopes, strict=True))
    return {
        axis: axis.units(slope, widths, len(x)).ne(0).any(0).any(0)
        for axis in axes
        if (slope := of_name[axis.name]) is not None and len(slope) == len(x)  # read, and samples are not divided
    }


def _stays_finite(network: TracedNetwork, x: Tensor, axis: Axis, positions: Tensor) -> bool:
    """Whether outputs are finite with infinite values of all units at some positions (p,)."""
    widths, output = network.architecture.widths, network.architecture.program.output
    value = network.values(x, [axis.name])[axis.name]
    units = axis.take(value, widths).movedim(axis.dim, 1)  # (n, u, ...), with p positions in what follows
    changed = units.masked_fill(positions.view(units.shape[2:]), torch.inf).movedim(1, axis.dim)
    outputs = network.values(x, [output], {axis.name: axis.put(value, widths, changed)})[output]
    return bool(outputs.isfinite().all())
