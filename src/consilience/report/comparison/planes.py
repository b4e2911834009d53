"""Models as points of a plane, as far apart as they are unlike, over time: metric multidimensional scaling.

Axis legend: ``t`` moment, ``m`` model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes

from consilience.errors import InputError

Array = NDArray[np.float64]
CLEARLY = 1.25  # times as large a stress: many planes are about as good, and far apart
ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class Plane:
    """Points of a plane.

    Attributes
    ----------
    moments : their names.
    positions : (t, m, 2), centred at each moment.
    stress : (t,) √(Σ (d − δ)² / Σ δ²) over pairs of models, with δ their distance and d that of their points: 0 where
        the plane shows all distances as they are.
    """

    moments: tuple[str, ...]
    positions: Array
    stress: Array


def plane_of(distances: Mapping[str, Array]) -> Plane:
    """Place models in a plane at each moment so that the squared errors of their distances are as small as possible.

    SMACOF (de Leeuw 1977) lowers the stress from the points of classical scaling (Torgerson 1952) or, before the last
    moment, from those of the moment after it, unless their stress ends up clearly larger. Then each moment is turned or
    mirrored onto the next one (orthogonal Procrustes), for distances say nothing of directions. So points move little
    more than they have to.

    Parameters
    ----------
    distances : moment → (m, m), symmetric, 0 on the diagonal; in the order of time.

    Raises
    ------
    InputError
        If there is no moment, or a distance is not finite.

    Examples
    --------
    >>> plane = plane_of({"end": np.array([[0.0, 3, 4], [3, 0, 5], [4, 5, 0]])})
    >>> print(f"{np.linalg.norm(plane.positions[0, 0] - plane.positions[0, 1]):.4f} {plane.stress[0]:.4f}")
    3.0000 0.0000
    """
    matrices = {moment: np.asarray(values, dtype=np.float64) for moment, values in distances.items()}
    if not matrices:
        raise InputError("there is nothing to place", where="distances", got="no matrices")
    for moment, values in matrices.items():
        if not np.isfinite(values).all():
            raise InputError("a distance is not finite", where=f"distances at {moment}", got="NaN or infinity")
    later: Array | None = None
    positions, stress = list[Array](), list[float]()
    for apart in reversed(matrices.values()):
        points = _settled(apart, classical(apart))
        if later is not None and later.any():  # from one point SMACOF has nowhere to go
            onward = _settled(apart, later)
            points = onward if _stress(onward, apart) <= CLEARLY * _stress(points, apart) + ROUNDING else points
            points = points @ orthogonal_procrustes(points, later)[0]
        positions.append(points)
        stress.append(_stress(points, apart))
        later = points
    return Plane(tuple(matrices), np.stack(positions[::-1]), np.array(stress[::-1]))


def classical(distances: Array) -> Array:
    """Return points (m, 2) of classical scaling: leading eigenvectors of −½ J δ² J, times √eigenvalue.

    The sign of each axis is such that its largest coordinate is positive.
    """
    squares = np.square(distances)
    products = -0.5 * (squares - squares.mean(0) - squares.mean(1)[:, None] + squares.mean())
    values, vectors = np.linalg.eigh(products)
    points = vectors[:, ::-1][:, :2] * np.sqrt(np.maximum(values[::-1][:2], 0))
    largest = points[np.abs(points).argmax(0), np.arange(2)]
    return np.asarray(points * np.where(largest < 0, -1, 1))


def _settled(distances: Array, start: Array) -> Array:
    """Lower the stress from a start, and centre the points."""
    from sklearn.manifold import smacof  # slow to import

    if not distances.any():
        return np.zeros_like(start)
    points, _ = smacof(distances, init=start, n_init=1, normalized_stress=False)
    return np.asarray(points - points.mean(0))


def _stress(points: Array, distances: Array) -> float:
    found = np.linalg.norm(points[:, None] - points[None], axis=-1)
    total = float(np.square(distances).sum())
    return float(np.sqrt(np.square(found - distances).sum() / total)) if total else 0.0
