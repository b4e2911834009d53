"""The units of one layer, of all members together, as they are given to a clusterer.

Axis legend: ``U`` units of all members, one member after the other; ``V`` those alive; ``n`` samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from consilience.bases.hyperplanes import Hyperplanes, Projection, hyperplanes
from consilience.census.dead import find_alive
from consilience.clustering.clusters import Clusters, count
from consilience.clustering.distances import Points, embed
from consilience.errors import InputError
from consilience.signals.responses import Responses
from consilience.units.axes import Axis
from consilience.units.symmetry import usable_symmetry


@dataclass(frozen=True)
class LayerUnits:
    """The units of one layer, or of a family of tied layers, whose units are paired.

    Attributes
    ----------
    name : the layer, of a family the first.
    n_members : size of the population.
    table : (U,) the units' hyperplanes in the basis of the layer below, and whose they are.
    alive : (U,) whether a unit does anything; dead ones are not clustered.
    rows : by layer of the family, (U, r) pre-activations on some of the calibration data, or (U, d + 1) hyperplanes.
    points : (V,) the rows of live units, to be clustered.
    """

    name: str
    n_members: int
    table: Hyperplanes
    alive: NDArray[np.bool_]
    rows: Mapping[str, Tensor]
    points: Points

    @property
    def member(self) -> NDArray[np.int64]:
        """(U,) whose unit each is."""
        member: NDArray[np.int64] = self.table.member.numpy()
        return member

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

    Parameters
    ----------
    responses : of the members in canonical form, on calibration data; "activation" needs some.
    name : the layer; of a family the first.
    projections : for each place where a layer below is read, one projection per member.
    distance : see `consilience.clustering.distances`.
    known_alive : whether the units of the first members are alive, where that has been found before; may be empty.

    Raises
    ------
    InputError
        If every unit is dead.
    """
    networks, architecture = responses.networks, responses.networks[0].architecture
    family = [layer.name for layer in architecture.family(name)]
    live = []
    for k, network in enumerate(networks):
        reads = {layer: responses.read(layer)[k] for layer in family if architecture.reading(layer)}
        live.append(find_alive(network, family, reads if responses.has_data else None))
    alive = torch.cat(live).numpy()
    alive[: len(known_alive)] = known_alive
    if not alive.any():
        raise InputError(
            f"members must not be constant, got layer '{name}' in which every unit is dead",
            cure="check the members, or pass calibration data like what they were trained on",
        )
    tables = {layer: hyperplanes(networks, layer, projections) for layer in family}
    if distance == "activation":
        rows = {layer: responses.units(layer) for layer in family}
    else:  # what a gate is written by may not be grounded yet: the others tell its units apart
        rows = {layer: table.augmented for layer, table in tables.items() if table.incoming.shape[1] > 0}
    chosen = torch.from_numpy(alive)
    embedded = [embed(part[chosen], distance, usable_symmetry(architecture, layer)) for layer, part in rows.items()]
    points = Points(np.concatenate([part.coordinates for part in embedded], axis=1), embedded[0].projective)
    return LayerUnits(name, len(networks), tables[name], alive, rows, points)


def everywhere(labels: NDArray[np.int64], alive: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return labels of all units (U,) from those of the live ones (V,): −1 for dead units."""
    labelled = np.full(len(alive), -1)
    labelled[alive] = labels
    return labelled
