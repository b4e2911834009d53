"""The clusters of a census beside untrained members: do units recur more than those of networks at initial values?

The excess of a unit is its cosine with the nearest unit of another member, less the same where that member is turned at
random (`consilience.clustering.significance`), mean over the other members. Without the second term it would measure
how much all responses have in common, which initial values have too. By the null hypothesis training changes nothing,
and the excess of a trained unit is one more draw of those of the V units of the untrained members:
``p = (1 + #{v : e_v ≥ e_u}) / (1 + V)``. A cluster has the median of its units' p-values. Units of one member are not
independent, so that p is exact for one unit, and the rate of false discoveries is approximate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from consilience.census.layer_census import LayerCensus
from consilience.census.layer_units import LayerUnits
from consilience.census.significance import LEVEL, groups_of, medians, points_of
from consilience.clustering.significance import ROUNDING, false_discovery_rates, recurrence

Floats = NDArray[np.float64]
N_ROTATIONS = 20  # of each member


@dataclass(frozen=True, eq=False)
class BesideUntrained:
    """The clusters of one layer beside the units of untrained members.

    Attributes
    ----------
    excess : (K,) of the units of a cluster, their mean.
    untrained : (V,) excess of each live unit of the untrained members.
    p, q : (K,) p-value, and the rate of false discoveries at which a cluster counts as one.
    """

    excess: Floats
    untrained: Floats
    p: Floats
    q: Floats

    @property
    def n_significant(self) -> int:
        """Number of clusters with q up to 0.05."""
        return int((self.q <= LEVEL).sum())


def beside_untrained(layer: LayerCensus, units: LayerUnits, initial: LayerUnits, random_state: int) -> BesideUntrained:
    """Return the clusters of a layer, with its units, beside the units of members at their initial values."""
    own, untrained = (_excess(part, layer.n_members, random_state) for part in (units, initial))
    above = len(untrained) - np.searchsorted(np.sort(untrained), own - ROUNDING)
    groups = groups_of(layer)
    p = medians((1 + above) / (1 + len(untrained)), groups)
    excess = np.array([own[group].mean() for group in groups])
    return BesideUntrained(excess, untrained, p, false_discovery_rates(p))


def _excess(units: LayerUnits, n_members: int, random_state: int) -> Floats:
    """The excess of each live unit (V,)."""
    found = recurrence(
        points_of(units),
        units.member[units.alive],
        n_members,
        radius=0.0,
        n_rotations=N_ROTATIONS,
        random_state=random_state,
        projective=units.points.projective,
    )
    excess: Floats = (found.nearest - found.turned).sum(1) / (n_members - 1)
    return excess
