"""The units of one layer, of all members together, as what a clusterer is given.

Axis legend: ``U`` units of all members, one member after the other, ``V`` those alive, ``n`` samples, ``d`` coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LayerUnits:
    """The units of one layer.

    Attributes
    ----------
    name : the layer.
    n_members : size of the population.
    member, index : (U,) whose unit each is, and which one.
    alive : (U,) whether it does anything.
    hyperplanes : (U, d) ``[w̃; b̃]`` in the basis of the layer below.
    rows : (U, n) pre-activations on (some of) the calibration data, or the hyperplanes: what the distance looks at.
    points : (V,) the live units' rows, to be clustered.
    """
