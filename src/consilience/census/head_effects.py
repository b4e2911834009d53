"""What heads of attention write: what the outputs are without them.

With a head's values replaced by their mean over samples and positions, outputs change by all that the head adds to
them beside a constant, through whatever follows:

    Δ = y(z) − y(mean z)    (r, o).

Members have their outputs in common, whatever their streams are written in, so that Δ is averaged over the heads of a
cluster. Which outputs then rise and fall together is its leading direction, ``Δ ≈ s vᵀ``. For classes and tokens, a
constant added to all outputs of a row changes nothing, and is left out.

Axis legend: ``n`` samples, ``h`` heads of a member, ``j`` rows of a head, ``p`` positions, ``K`` clusters, ``r`` rows
of outputs, ``o`` outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from consilience.census.head_roles import evenly, heads_of, spread_samples
from consilience.census.layer_census import LayerCensus
from consilience.population.population import Population
from consilience.signals.attention import Attention
from consilience.tasks import OF_CLASSES
from consilience.ties import first_largest
from consilience.units.architecture import TracedNetwork

Floats = NDArray[np.float64]
MOST_NUMBERS = 2**26  # of the changes of all clusters, …
FEWEST_ROWS, MOST_ROWS = 64, 1024  # … of which there are at least and at most so many rows
SKEWED = 1e-3  # of Σ|s|³: a lower |Σ s³| is no side on which a direction acts more strongly


@dataclass(frozen=True, eq=False)
class HeadEffects:
    """What the heads of one layer write.

    Attributes
    ----------
    outputs : (K, o) by how much each output moves along the leading direction of a cluster's changes, as a root mean
        square over rows: outputs of one sign rise together, and those of the other fall. The side on which the cluster
        acts more strongly is above 0.
    share : (K,) of the square of the changes that lies along it.
    """

    outputs: Floats
    share: Floats


def head_effects(population: Population, layers: Mapping[str, LayerCensus], x: Tensor | None) -> dict[str, HeadEffects]:
    """Return what the heads of each layer of heads of attention write on inputs x (n, ...), by default the examples."""
    x = spread_samples(population, x)
    found = {name: _effects(population, layer, x) for name, layer in layers.items()}
    return {name: effects for name, effects in found.items() if effects is not None}


def _effects(population: Population, layer: LayerCensus, x: Tensor) -> HeadEffects | None:
    """What the heads of a layer write; None if it is not heads of attention."""
    labels, unit = layer.labels_, 0
    architecture = population.architecture
    most = min(MOST_ROWS, max(FEWEST_ROWS, MOST_NUMBERS // (layer.n_clusters_ * architecture.n_outputs)))
    n_positions = architecture.program.n_positions(architecture.returned.name, architecture.returned.dim)
    x = evenly(x, -(-most // n_positions))
    totals = dict[int, Tensor]()
    for network in population.networks:
        heads = heads_of(network, layer.name, x)
        if heads is None:
            return None
        for change in _changes(network, heads, x, most):
            if population.task in OF_CLASSES:
                change = change - change.mean(1, keepdim=True)
            c, unit = int(labels[unit]), unit + 1
            if c >= 0:
                totals[c] = totals[c] + change if c in totals else change
    found = [_leading(totals[c] / int((labels == c).sum())) for c in range(layer.n_clusters_)]
    return HeadEffects(np.stack([outputs for outputs, _ in found]), np.array([share for _, share in found]))


def _changes(network: TracedNetwork, heads: Attention, x: Tensor, most: int) -> Iterator[Tensor]:
    """Yield Δ (r, o) of each head of values, at up to ``most`` rows."""
    architecture, name = network.architecture, heads.values.output.name
    program, widths = architecture.program, architecture.widths
    known = network.values(x, [name, *program.frontier({heads.values.weight})])
    value = known[name]
    own = heads.entries(value, widths, len(x))
    mean = own.mean((0, 3), keepdim=True).expand_as(own)

    def rows(fed: Tensor) -> Tensor:
        given = known | {name: fed}
        outputs = network.values(x, [program.output], given)[program.output]
        every = architecture.returned.units(outputs, widths, len(x)).movedim(1, 2).flatten(0, 1)
        return evenly(every, most).double()

    whole = rows(value)
    for h in range(own.shape[1]):
        without = own.clone()
        without[:, h] = mean[:, h]
        yield whole - rows(heads.fed(value, widths, without.flatten(1, 2)))


def _leading(change: Tensor) -> tuple[Floats, float]:
    """The leading direction (o,) of a change (r, o), times its root mean square, and its share of the square."""
    total = float(change.square().sum())
    if total == 0:
        return np.zeros(change.shape[1]), 0.0
    strength = torch.linalg.eigh(change @ change.T).eigenvectors[:, -1]  # (r,)
    direction = change.T @ strength
    skew = float(strength.pow(3).sum())
    if abs(skew) <= SKEWED * float(strength.abs().pow(3).sum()):
        skew = float(direction[first_largest(direction.abs())])
    share = float(direction.square().sum()) / total
    outputs: Floats = (direction * (1 if skew > 0 else -1) / len(change) ** 0.5).numpy()
    return outputs, share
