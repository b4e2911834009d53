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

from consilience.census.dead import find_alive
from consilience.census.distances import Points, embed, evenly
from consilience.census.ordering import Clusters, count
from consilience.errors import InputError
from consilience.units.activations import Activations
from consilience.units.hyperplanes import Hyperplanes, Projection, hyperplanes
from consilience.units.layers import TracedNetwork
from consilience.units.symmetry import usable_symmetry


@dataclass(frozen=True)
class LayerUnits:
    """The units of one layer.

    Attributes
    ----------
    name : the layer.
    n_members : size of the population.
    table : (U,) the units' hyperplanes in the basis of the layer below, and whose they are.
    alive : (U,) whether a unit does anything; dead ones are not clustered.
    rows : (U, n) pre-activations on some of the calibration data, or (U, d + 1) hyperplanes: what is compared.
    points : (V,) the rows of live units, to be clustered.
    """

    name: str
    n_members: int
    table: Hyperplanes
    alive: NDArray[np.bool_]
    rows: Tensor
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
    networks: Sequence[TracedNetwork],
    name: str,
    projections: Mapping[str, Sequence[Projection]],
    done: Sequence[Activations] | None,
    *,
    distance: str,
    known_alive: NDArray[np.bool_],
) -> LayerUnits:
    """Return the units of a layer, the live ones as points for a distance.

    Parameters
    ----------
    networks : the members in canonical form.
    name : the layer.
    projections : for each layer that this one reads, one projection per member.
    done : per member, what the layer does on calibration data; None without data, which "activation" needs.
    distance : see `consilience.census.distances`.
    known_alive : whether the units of the first members are alive, where that has been found before; may be empty.

    Raises
    ------
    InputError
        If every unit is dead.
    """
    reads = [None] * len(networks) if done is None else [each.read for each in done]
    alive = torch.cat([find_alive(each, name, read) for each, read in zip(networks, reads, strict=True)]).numpy()
    alive[: len(known_alive)] = known_alive
    if not alive.any():
        raise InputError(
            "every unit of this layer is dead: the members are constant", where=f"layer '{name}'",
            cure="check the members, or pass calibration data like what they were trained on",
        )  # fmt: skip
    table = hyperplanes(networks, name, projections)
    rows = table.augmented
    if distance == "activation":
        assert done is not None
        rows = torch.cat([each.written[evenly(each.written)].T for each in done])
    points = embed(rows[torch.from_numpy(alive)], distance, usable_symmetry(networks[0].architecture, name))
    return LayerUnits(name, len(networks), table, alive, rows, points)


def everywhere(labels: NDArray[np.int64], alive: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return labels of all units (U,) from those of the live ones (V,): −1 for dead units."""
    labelled = np.full(len(alive), -1)
    labelled[alive] = labels
    return labelled
