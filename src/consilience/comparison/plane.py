"""Models as points of a plane, as far apart as they are unlike, over time: metric multidimensional scaling.

Axis legend: ``t`` moment, ``m`` model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import orthogonal_procrustes
from sklearn.manifold import smacof

from consilience.ties import rounded

Array = NDArray[np.float64]
CLEARLY = 1.25  # times as large a stress: the other start is better
ROUNDING = 1e-6


@dataclass(frozen=True, eq=False)
class Plane:
    """Points of a plane."""

    moments: tuple[str, ...]
    positions: Array  # (t, m, 2), centered at each moment
    stress: Array  # (t,) √(Σ (d − δ)² / Σ δ²) over pairs of models, with δ their distance and d that of their points


def plane_of(distances: Mapping[str, Array]) -> Plane:
    """Place models in a plane at each moment, with the smallest squared errors of their distances (m, m).

    SMACOF (de Leeuw 1977) lowers the stress from two starts: classical scaling (Torgerson 1952) and the points of the
    next moment. The latter is taken unless its stress ends up clearly larger, and each moment is turned or mirrored
    onto the next (orthogonal Procrustes), so that points move no more than they must.

    >>> plane = plane_of({"end": np.array([[0.0, 3, 4], [3, 0, 5], [4, 5, 0]])})
    >>> print(f"{np.linalg.norm(plane.positions[0, 0] - plane.positions[0, 1]):.4f} {plane.stress[0]:.4f}")
    3.0000 0.0000
    """
    later, positions, stress = np.zeros(0), list[Array](), list[float]()
    for matrix in reversed(list(distances.values())):
        points = _settled(matrix, _classical(matrix))
        if later.any():  # from a single point SMACOF cannot move
            onward = _settled(matrix, later)
            points = onward if _stress(onward, matrix) <= CLEARLY * _stress(points, matrix) + ROUNDING else points
            points = points @ orthogonal_procrustes(points, later)[0]
        positions.append(points)
        stress.append(_stress(points, matrix))
        later = points
    return Plane(tuple(distances), np.stack(positions[::-1]), np.array(stress[::-1]))


def _classical(distances: Array) -> Array:
    """Leading eigenvectors of −½ J δ² J, times √eigenvalue, (m, 2); of each, the largest coordinate is positive."""
    squares = np.square(distances)
    products = -0.5 * (squares - squares.mean(0) - squares.mean(1)[:, None] + squares.mean())
    values, vectors = np.linalg.eigh(products)
    points = vectors[:, ::-1][:, :2] * np.sqrt(np.maximum(values[::-1][:2], 0))
    largest = points[rounded(np.abs(points)).argmax(0), np.arange(2)]
    return np.asarray(points * np.where(largest < 0, -1, 1))


def _settled(distances: Array, start: Array) -> Array:
    if not distances.any():
        return np.zeros_like(start)
    points, _ = smacof(distances, init=start, n_init=1, normalized_stress=False)
    return np.asarray(points - points.mean(0))


def _stress(points: Array, distances: Array) -> float:
    drawn = np.linalg.norm(points[:, None] - points[None], axis=-1)
    total = float(np.square(distances).sum())
    return float(np.sqrt(np.square(drawn - distances).sum() / total)) if total else 0.0
