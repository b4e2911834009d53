"""Distances of units: Euclidean (or projective) distances between points that stand for the units.

- ``cosine``: points are grounded hyperplanes ``[w̃; b̃]`` at unit norm, so that ‖p − q‖² = 2 − 2 cos;
- ``l2``: points are the grounded hyperplanes themselves;
- ``activation``: points are the units' pre-activations on calibration data, i.e. hyperplanes in the metric of their
  inputs' second moment: ‖p − q‖² = (u − v)ᵀ E[x xᵀ] (u − v). Directions without inputs do not count.

Units with a free scale are compared at unit norm; units with a free sign by ``min(‖p − q‖, ‖p + q‖)``, the projective
distance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import squareform
from torch import Tensor

from consilience.units.symmetry import Symmetry

DISTANCES: Sequence[str] = ("cosine", "l2", "activation")
BLOCK = 512  # rows of distances at a time


@dataclass(frozen=True, eq=False)
class Points:
    """Units as points."""

    coordinates: NDArray[np.floating]  # (U, d)
    projective: bool  # whether a point and its negative are the same
    source: tuple[Points, NDArray[np.integer]] | None = None  # for `subset`: all the points, and the rows (U,)

    def __len__(self) -> int:
        return len(self.coordinates)

    def distances(self) -> NDArray[np.float64]:
        """Return all pairwise distances (U, U)."""
        distances: NDArray[np.float64] = squareform(self.condensed)
        return distances

    def subset(self, rows: NDArray[np.integer]) -> Points:
        """Return the points of ascending rows; their distances are computed once, with those of all."""
        return Points(self.coordinates[rows], self.projective, (self, rows))

    @cached_property
    def condensed(self) -> NDArray[np.float64]:
        """The distance of each pair once, in SciPy's order: (U (U − 1) / 2,); pure rounding is 0."""
        n, done = len(self), 0
        distances = np.empty(n * (n - 1) // 2)
        for i, row in enumerate(self._from_coordinates() if self.source is None else self._from_source()):
            distances[done : done + n - i - 1] = row
            done += n - i - 1
        return distances

    def _from_coordinates(self) -> Iterator[NDArray[np.float64]]:
        """Yield the distances of each point to those after it; `BLOCK` rows of the matrix are in memory at a time."""
        points = self.coordinates.astype(np.float64)
        squares, floor = np.square(points).sum(1), squared_rounding(self.coordinates)
        for start in range(0, len(self), BLOCK):
            rows = slice(start, start + BLOCK)
            gram = points[rows] @ points[start:].T
            if self.projective:
                np.abs(gram, out=gram)
            gram *= -2
            gram += squares[rows, None]
            gram += squares[None, start:]
            gram[gram < floor] = 0
            np.sqrt(gram, out=gram)
            yield from (row[i + 1 :] for i, row in enumerate(gram))

    def _from_source(self) -> Iterator[NDArray[np.float64]]:
        assert self.source is not None
        source, rows = self.source
        distances = source.condensed
        row_starts = np.cumsum([0, *range(len(source) - 1, 0, -1)])  # in SciPy's order, of the distances of each point
        for k, i in enumerate(rows):
            yield distances[row_starts[i] :].take(rows[k + 1 :] - i - 1)


def squared_rounding(points: NDArray[np.floating]) -> float:
    """Return the squared distance up to which points (U, d) are one point, copies of it computed in other ways.

    100 units of the coordinates' last digit, but no less than the rounding of squares in double precision.
    """
    relative = max((100 * float(np.finfo(points.dtype).eps)) ** 2, 64 * float(np.finfo(np.float64).eps))
    return relative * float(np.square(points, dtype=np.float64).sum()) / max(1, len(points))


def embed(rows: Tensor, distance: str, symmetry: Symmetry) -> Points:
    """Return the points of units given as rows: hyperplanes (U, d + 1); for ``activation`` pre-activations (U, n)."""
    normalize = distance == "cosine" or symmetry.homogeneous
    return Points(unit_norm(rows).numpy() if normalize else rows.numpy(), projective=symmetry.flippable)


def unit_norm(rows: Tensor) -> Tensor:
    """Return rows at unit norm; rows that are zero stay zero."""
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / torch.where(norms > 0, norms, 1)
