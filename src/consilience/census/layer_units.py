"""The units of one layer of all members, as points for a clusterer. Dead units are left out: together they would form
the largest cluster of their layer.

A unit's *contribution* is what it adds to the next layer: the spread of its activation times the norm of its outgoing
weights. Without data, or where units are the same for all samples, the norm of its incoming weights (bias apart)
stands for the spread. A unit is dead where that is under 1 % of the mean of its own member's layer.

Axis legend: ``U`` units of all members, one member after the other; ``V`` those alive; ``n`` samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from consilience.bases.hyperplanes import Hyperplanes, Projection, hyperplanes, unit_index
from consilience.clustering.clusters import Clusters, count
from consilience.clustering.distances import Points, embed
from consilience.clustering.significance import rotation
from consilience.errors import InputError
from consilience.seeds import TURNED, generator
from consilience.signals.responses import Responses
from consilience.signals.shelf import TOGETHER, blocks
from consilience.units.architecture import Architecture, TracedNetwork, incoming_norms, outgoing_norms
from consilience.units.axes import Axis, by_unit
from consilience.units.symmetry import usable_symmetry

THRESHOLD = 0.01  # of the mean contribution (not the median: most units may be dead); live ones lie well above it


@dataclass(frozen=True)
class LayerUnits:
    """The units of one layer, or of a family of tied layers, whose units are paired."""

    name: str  # the layer; of a family the first
    n_members: int
    member: NDArray[np.int64]  # (U,) the member that has the unit
    index: NDArray[np.int64]  # (U,) the number of the unit in it
    table: Callable[[slice], Hyperplanes]  # of some members' units, in the basis of the layer below
    alive: NDArray[np.bool_]  # (U,) dead units are not clustered
    rows: Mapping[str, Tensor]  # by layer of the family, (U, r) pre-activations on data, or (U, d + 1) hyperplanes; of
    # units of several rows, what they add to the maps that read them, for all layers of the family together
    points: Points  # (V,) the rows of live units, to be clustered

    def centroids(self, mixing: Sequence[Tensor]) -> Tensor:
        """Return the hyperplanes (c, d + 1) of the centroids that members' units are mixed to by A (u, c)."""
        parts = (torch.cat(list(mixing[own])).T @ self.table(own).augmented for own in blocks(len(mixing), TOGETHER))
        return reduce(torch.add, parts)

    def count(self, labels: NDArray[np.int64]) -> Clusters:
        """Return the clusters that ``labels`` (V,) of the live units make."""
        return count(everywhere(labels, self.alive), self.member, self.n_members)


def layer_units(
    responses: Responses,
    name: str,
    projections: Mapping[Axis, Sequence[Projection]],
    *,
    distance: str,
    known_alive: NDArray[np.bool_],
) -> LayerUnits:
    """Return the units of a layer and of those tied to it, the live ones as points for a distance.

    ``projections`` has one projection per member for each place where a layer below is read; ``known_alive`` the
    earlier decision for the units of the first members, or nothing.
    """
    networks, architecture = responses.networks, responses.networks[0].architecture
    family = [layer.name for layer in architecture.family(name)]
    varies = any(architecture.written(layer) for layer in family)
    live = []
    for k, network in enumerate(networks):
        reads = {layer: responses.read(layer)[k] for layer in family if architecture.reading(layer)}
        live.append(_find_alive(network, family, reads if responses.has_data and varies else None))
    alive = torch.cat(live).numpy()
    alive[: len(known_alive)] = known_alive
    if not alive.any():
        raise InputError(
            f"members must not be constant, got layer '{name}' in which every unit is dead",
            cure="check the members, or pass calibration data like what they were trained on",
        )
    if architecture.has_insides(name) and responses.has_data:
        rows = {name: responses.contributions(name)}
    elif distance == "activation" and varies:
        rows = {layer: responses.units(layer) for layer in family if architecture.written(layer)}  # scales are constant
    else:  # a gate may have no grounded hyperplanes yet: the other layers of its family have some
        tables = {layer: hyperplanes(networks, layer, projections) for layer in family}
        rows = {layer: table.augmented for layer, table in tables.items() if table.incoming.shape[1] > 0}
    below = dict(projections)

    def table(some: slice) -> Hyperplanes:
        return hyperplanes(networks[some], name, {axis: each[some] for axis, each in below.items()})

    member, index = (numbers.numpy() for numbers in unit_index(networks, name))
    points = _points(rows, alive, architecture, distance)
    return LayerUnits(name, len(networks), member, index, table, alive, rows, points)


def turned_units(units: LayerUnits, architecture: Architecture, distance: str, random_state: int) -> LayerUnits:
    """Return the layer with the live units of each member turned by a random orthogonal matrix."""
    rows = {layer: part.clone() for layer, part in units.rows.items()}
    for k in range(units.n_members):
        mine = torch.from_numpy(np.flatnonzero(units.alive & (units.member == k)))
        q = rotation(len(mine), generator(random_state, TURNED, k))
        for part in rows.values():
            part[mine] = (q @ part[mine].double()).to(part.dtype)
    return replace(units, rows=rows, points=_points(rows, units.alive, architecture, distance))


def _points(rows: Mapping[str, Tensor], alive: NDArray[np.bool_], architecture: Architecture, distance: str) -> Points:
    """The live units of a family, the coordinates of its layers side by side."""
    chosen = torch.from_numpy(alive)
    embedded = [embed(part[chosen], distance, usable_symmetry(architecture, layer)) for layer, part in rows.items()]
    return Points(np.concatenate([part.coordinates for part in embedded], axis=1), embedded[0].projective)


def _find_alive(network: TracedNetwork, family: Sequence[str], reads: Mapping[str, Tensor] | None) -> Tensor:
    """Whether units of tied layers (``family``) contribute to a map that mixes units: (u,) bool.

    Units that no such map reads, as those of a gate alone, are all alive. ``reads`` are the activations (r, u) by layer
    on calibration data, or None to judge by the weights.
    """
    alive = []
    for layer in family:
        readers = [m for m in network.architecture.reading(layer) if not m.per_unit]
        if readers:
            units = network.architecture.layer(layer).width
            spread = (
                incoming_norms(network, layer, bias=False) if reads is None else spread_of_units(reads[layer], units)
            )
            contribution = spread * outgoing_norms(network, layer, readers)
            alive.append(contribution > THRESHOLD * contribution.mean())
    if not alive:
        return torch.ones(network.architecture.layer(family[0]).width, dtype=torch.bool)
    return torch.stack(alive).any(0)


def spread_of_units(activations: Tensor, units: int) -> Tensor:
    """Return the standard deviation of units over samples (r, rows): several times as fast as `torch.std`."""
    return by_unit((activations - activations.mean(0)).square().mean(0), units).sum(1).sqrt()


def everywhere(labels: NDArray[np.int64], alive: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return labels of all units (U,) from those of the live ones (V,): −1 for dead units."""
    labelled = np.full(len(alive), -1)
    labelled[alive] = labels
    return labelled
