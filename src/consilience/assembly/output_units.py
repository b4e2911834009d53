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

TOLERANCE = 1e-4  # of the largest output, for the check that only units have changed


@dataclass(frozen=True)
class OutputUnits:
    """Mean and spread (o,) that become 0 and 1."""

    mean: Tensor
    spread: Tensor

    @classmethod
    def of(cls, network: TracedNetwork, x: Tensor, targets: Tensor, task: str | None) -> OutputUnits:
        """Return the units of targets (r, o): those they have, for classes or where no maps can change them.

        ``x`` (n, ...) are a few inputs, on which outputs in other units are compared with those in their own.
        """
        zero, one = torch.zeros_like(targets[0]), torch.ones_like(targets[0])
        architecture = network.architecture
        written = architecture.writing(architecture.returned.layer or "")
        if task in OF_CLASSES or not written or any(m.norm is not None for m in written):
            return cls(zero, one)
        shifted = any(m.has_bias for m in written)
        units = cls(targets.mean(0) if shifted else zero, spread_of(targets))
        axis, widths = architecture.returned, architecture.widths
        own, other = (axis.units(each(x), widths, len(x)) for each in (network, units.standardized(network)))
        expected = (own - units.mean[:, None]) / units.spread[:, None]
        fits = float((other - expected).abs().max()) <= TOLERANCE * float(expected.abs().max())
        return units if fits else cls(zero, one)

    def standardized(self, network: TracedNetwork) -> TracedNetwork:
        """Return the network with outputs of mean 0 and spread 1."""
        return _changed(network, 1 / self.spread, -self.mean / self.spread)

    def restored(self, network: TracedNetwork) -> TracedNetwork:
        """Return the network with outputs in their own units."""
        return _changed(network, self.spread, self.mean)


def _changed(network: TracedNetwork, factor: Tensor, shift: Tensor) -> TracedNetwork:
    """The network with outputs ``factor · y + shift``; the first map with a bias takes the shift."""
    for m in network.architecture.writing(network.architecture.returned.layer or ""):
        weights = network.weights(m)
        bias = weights.bias * factor + (shift if m.has_bias else 0)
        shift = torch.zeros_like(shift) if m.has_bias else shift
        network = network.with_weights(m, weights.with_matrix(weights.matrix * factor[:, None], bias))
    return network
