"""A network with its outputs in other units: ``y' = (y − mean) / spread``, by the maps that write the outputs.

What is fitted by gradients depends on the units of its parameters: a readout of weights near 1e-3 needs other steps
than one near 1. In outputs of mean 0 and spread 1, fits are the same whatever the units.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from consilience.agreement import spread_of
from consilience.tasks import OF_CLASSES
from consilience.units.architecture import TracedNetwork
from consilience.units.maps import Map

TOLERANCE = 1e-4  # of the largest output, for the check that only units have changed


@dataclass(frozen=True)
class OutputUnits:
    """Mean and spread (o,) that become 0 and 1."""

    mean: Tensor
    spread: Tensor

    @classmethod
    def of(cls, network: TracedNetwork, x: Tensor, targets: Tensor, task: str | None) -> OutputUnits:
        """Return the units of targets (r, o): those they have, for classes or where no maps can change them.

        Outputs are the units of one head, or of several side by side. ``x`` (n, ...) are a few inputs, on which outputs
        in other units are compared with those in their own.
        """
        zero, one = torch.zeros_like(targets[0]), torch.ones_like(targets[0])
        maps = [m for m, _ in _heads(network)]
        if task in OF_CLASSES or not maps or any(m.norm is not None for m in maps):
            return cls(zero, one)
        shifted = all(any(m.has_bias for m in maps if m.writes == name) for name in {m.writes for m in maps})
        units = cls(targets.mean(0) if shifted else zero, spread_of(targets))
        return units if units._fit(network, x) else cls(zero, one)

    def standardized(self, network: TracedNetwork) -> TracedNetwork:
        """Return the network with outputs of mean 0 and spread 1."""
        return _changed(network, 1 / self.spread, -self.mean / self.spread)

    def restored(self, network: TracedNetwork) -> TracedNetwork:
        """Return the network with outputs in their own units."""
        return _changed(network, self.spread, self.mean)

    def _fit(self, network: TracedNetwork, x: Tensor) -> bool:
        """Whether the network with other weights has its outputs in these units."""
        axis, widths = network.architecture.returned, network.architecture.widths
        own, other = (axis.units(each(x), widths, len(x)) for each in (network, self.standardized(network)))
        expected = (own - self.mean[:, None]) / self.spread[:, None]
        return float((other - expected).abs().max()) <= TOLERANCE * float(expected.abs().max())


def _heads(network: TracedNetwork) -> list[tuple[Map, slice]]:
    """The maps that write the outputs, and which of them; none where outputs are no heads side by side."""
    architecture, start = network.architecture, 0
    needed = architecture.program.needed([architecture.program.output])
    names = architecture.heads if architecture.output is None else (architecture.output.name,)
    heads = list[tuple[Map, slice]]()
    for name in names:
        maps = [m for m in architecture.writing(name) if m.output.name in needed]
        heads += [(m, slice(start, start + architecture.widths[name])) for m in maps]
        start += architecture.widths[name] if maps else 0
    return heads if start == architecture.n_outputs else []


def _changed(network: TracedNetwork, factor: Tensor, shift: Tensor) -> TracedNetwork:
    """The network with outputs ``factor · y + shift``; of each head, the first map with a bias takes the shift."""
    left = shift.clone()
    for m, own in _heads(network):
        weights = network.weights(m)
        bias = weights.bias * factor[own]
        if m.has_bias:
            bias, left[own] = bias + left[own], 0
        network = network.with_weights(m, weights.with_matrix(weights.matrix * factor[own][:, None], bias))
    return network
