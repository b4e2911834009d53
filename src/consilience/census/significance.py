"""The clusters of a census beside chance: what they would be if the units of each member were turned at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from consilience.census.layer_census import LayerCensus
from consilience.census.layer_units import LayerUnits
from consilience.clustering.clusters import Clusters
from consilience.clustering.significance import Excess, excess, false_discovery_rates, recurrence
from consilience.errors import InputError
from consilience.signals.responses import MAX_SAMPLES

Floats = NDArray[np.float64]
LEVEL = 0.05  # of q-values below which a cluster is called significant
MOST_ROTATIONS, FEWEST_ROTATIONS = 100, 20
ROTATIONS_WORK = 5e10  # multiplications that further rotations may take: a few seconds
CHEAP_WORK = 2e12  # the same of the fewest rotations: about two minutes


@dataclass(frozen=True, eq=False)
class Significance:
    """Recurrence of the clusters of one layer.

    Attributes
    ----------
    recurrence, chance : (K,) share of the other members that have a unit like one of the cluster, at a cosine above
        ``radius``, and the same where these members are turned at random: means over the units of the cluster.
    similarity, chance_similarity : (K,) cosine with the most similar unit of another member, and the same for members
        that are turned: means over the units of the cluster.
    p, q : (K,) p-value against turned members, the median of those of the cluster's units; and the rate of false
        discoveries at which it counts as one, among the clusters of the layer (Benjamini and Hochberg).
    unit_p : (U,) p-values of units; NaN for dead ones.
    excess : the mean over pairs of members, beside chance, with an interval over members.
    turned : the clusters of a population whose members were turned once, found in the same way: frequency, size and
        stability by chance.
    radius, n_rotations : as they were.
    """

    recurrence: Floats
    chance: Floats
    similarity: Floats
    chance_similarity: Floats
    p: Floats
    q: Floats
    unit_p: Floats
    excess: Excess
    turned: Clusters
    radius: float
    n_rotations: int

    @property
    def n_significant(self) -> int:
        """Number of clusters with q up to `LEVEL`."""
        return int((self.q <= LEVEL).sum())


def layer_significance(
    layer: LayerCensus,
    units: LayerUnits,
    turned: Clusters,
    *,
    radius: float,
    n_rotations: int | None,
    random_state: int,
) -> Significance:
    """Return the recurrence of a layer's clusters; ``n_rotations`` None takes what a few seconds allow, 20 to 100."""
    widths = np.bincount(layer.member[layer.alive])
    if n_rotations is None:
        n_rotations = int(np.clip(ROTATIONS_WORK / _work(widths), FEWEST_ROTATIONS, MOST_ROTATIONS))
    member, n_others = layer.member[layer.alive], layer.n_members - 1
    found = recurrence(
        points_of(units),
        member,
        layer.n_members,
        radius=radius,
        n_rotations=n_rotations,
        random_state=random_state,
        projective=units.points.projective,
    )
    groups = groups_of(layer)

    def mean(values: Floats) -> Floats:  # (U, k) → (K,)
        shares = values.sum(1) / n_others
        return np.array([shares[group].mean() for group in groups])

    p = medians(found.p, groups)
    unit_p = np.full(len(layer.alive), np.nan)
    unit_p[layer.alive] = found.p
    return Significance(
        recurrence=mean(found.has.astype(float)),
        chance=mean(found.chance),
        similarity=mean(found.nearest),
        chance_similarity=mean(found.turned),
        p=p,
        q=false_discovery_rates(p),
        unit_p=unit_p,
        excess=excess(found, member),
        turned=turned,
        radius=radius,
        n_rotations=n_rotations,
    )


def groups_of(layer: LayerCensus) -> list[NDArray[np.int64]]:
    """Return the numbers of each cluster's units among the live units of a layer."""
    labels = layer.labels_[layer.alive]
    return [np.flatnonzero(labels == c) for c in range(layer.n_clusters_)]


def medians(p: Floats, groups: Sequence[NDArray[np.int64]]) -> Floats:
    """Return the p-value of each cluster from those of its units (V,): the (upper) median."""
    return np.array([np.sort(p[group])[len(group) // 2] for group in groups])


def check_measurable(layer: LayerCensus, n_rows: int | None) -> None:
    """Raise unless units of a layer, compared by their responses in so many rows (None: by weights), can recur."""
    widths = np.bincount(layer.member[layer.alive])
    n_present, widest = int((widths > 0).sum()), int(widths.max())
    if n_present < 2:
        got = f"{n_present} with live units in layer '{layer.name}'"
        raise InputError(f"members must be at least two for units to recur, got {got}")
    if n_rows is not None and n_rows < min(widest, MAX_SAMPLES):
        wanted = f"at least as many rows as a member has units in layer '{layer.name}', {widest}"
        raise InputError(f"x must have {wanted}, got {n_rows}", cure="fit the census with more calibration data")


def is_cheap(layer: LayerCensus) -> bool:
    """Whether the significance of a layer takes at most a minute or two, so that a command measures it unasked."""
    return FEWEST_ROTATIONS * _work(np.bincount(layer.member[layer.alive])) <= CHEAP_WORK


def _work(widths: NDArray[np.int64]) -> float:
    """Multiplications of one rotation of every member."""
    return float(np.square(widths, dtype=np.float64).sum() * widths.sum())


def points_of(units: LayerUnits) -> Floats:
    """Return the live units as points (V, d), each at the scale it has in its member in canonical form.

    Layers of a family count alike: the points of each have the same mean square.
    """
    alive = torch.from_numpy(units.alive)
    parts = [rows[alive].double() for rows in units.rows.values()]
    return torch.cat([part / part.square().sum(1).mean().sqrt().clamp(min=1e-300) for part in parts], dim=1).numpy()
