"""What members lose when the units of a motif are switched off, class by class, beside as many random units.

A unit is off if every map that mixes units reads zero from it (`consilience.modularity.lesions.without_units`). Random
units are drawn from the live units of the same layers of the same member, as many as the motif has there.

Axis legend: ``k`` member, ``o`` class, ``r`` random sets of units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from consilience import seeds
from consilience.census import Census
from consilience.census.census import check_fitted
from consilience.checks import check_count, check_seed
from consilience.data import Dataset
from consilience.errors import InputError
from consilience.modularity.lesions import without_units
from consilience.modularity.outputs import as_labelled, logits
from consilience.motifs.motifs import Motif
from consilience.seeds import RANDOM_UNITS
from consilience.units.architecture import TracedNetwork

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Ablation:
    """Losses of accuracy by class; arrays (o,), means over members that own units of the motif."""

    motif: int
    before: Floats  # accuracy of whole members
    loss: Floats  # of accuracy, with the motif off
    random: Floats  # (r, o) the same with random units off
    units: float  # switched off in a member, mean

    @property
    def mean(self) -> Floats:
        """Mean loss over random sets: (o,)."""
        return np.asarray(self.random.mean(0))

    @property
    def sd(self) -> Floats:
        """Standard deviation of the loss over random sets: (o,)."""
        return np.asarray(self.random.std(0, ddof=1))

    @property
    def p(self) -> float:
        """(1 + random sets whose loss, mean over classes, is at least the motif's) / (1 + r)."""
        at_least = (np.nanmean(self.random, 1) >= np.nanmean(self.loss) - 1e-9).sum()
        return float((1 + at_least) / (1 + len(self.random)))

    @property
    def hardest(self) -> int:
        """The class that loses most beyond random units."""
        return int(np.nanargmax(self.loss - self.mean))


def ablate(
    motifs: Sequence[Motif], census: Census, data: Dataset, *, n_random: int = 20, random_state: int = 0
) -> list[Ablation]:
    """Switch off each motif in the members that own units of it, and measure the accuracy of each class.

    Parameters
    ----------
    data : inputs and their classes.
    n_random : random sets for each motif and member, 2 or more.

    Raises
    ------
    InputError : also if the labels are not classes of the members.
    """
    check_fitted(census)
    check_count("n_random", n_random, least=2)
    check_seed("random_state", random_state)
    networks = census.population_.networks
    x, y = as_labelled(networks[0], data.x, data.y)
    for motif in motifs:
        for layer in motif.clusters:
            if layer not in census.layers_:
                raise InputError(f"motifs must be of this census, got one with layer {layer!r}")
    present = np.array([bool((y == o).any()) for o in range(networks[0].architecture.n_outputs)])

    def accuracy(network: TracedNetwork) -> Floats:
        right = (logits(network, x).argmax(1) == y).numpy()
        return np.array([right[(y == o).numpy()].mean() if there else np.nan for o, there in enumerate(present)])

    before = [accuracy(network) for network in networks]
    results = []
    for motif in motifs:
        whole, lost, random, units = list[Floats](), list[Floats](), list[list[Floats]](), list[int]()
        for k, network in enumerate(networks):
            off, live = dict[str, torch.Tensor](), dict[str, torch.Tensor]()
            for name, numbers in motif.clusters.items():
                clustered = census.layers_[name]
                mine = clustered.member == k
                off[name] = torch.from_numpy(np.isin(clustered.labels_[mine], numbers))
                live[name] = torch.from_numpy(np.flatnonzero(clustered.alive[mine]))
            if not any(bool(mask.any()) for mask in off.values()):
                continue
            source = seeds.generator(random_state, RANDOM_UNITS, motif.number, k)
            whole.append(before[k])
            units.append(sum(int(mask.sum()) for mask in off.values()))
            lost.append(before[k] - accuracy(without_units(network, off)))
            sets = []
            for _ in range(n_random):
                drawn = {}
                for name, mask in off.items():
                    chosen = live[name][torch.randperm(len(live[name]), generator=source)[: int(mask.sum())]]
                    drawn[name] = torch.zeros_like(mask).index_fill(0, chosen, True)
                sets.append(before[k] - accuracy(without_units(network, drawn)))
            random.append(sets)
        results.append(
            Ablation(
                motif.number,
                np.mean(whole, 0),
                np.mean(lost, 0),
                np.mean(random, 0),
                float(np.mean(units)),
            )
        )
    return results
