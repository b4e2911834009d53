"""Which models belong together: average linkage on their distances, cut where the silhouette is best.

Axis legend: ``m`` model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.cluster.hierarchy import fcluster, leaves_list, linkage
from scipy.spatial.distance import squareform
from sklearn.metrics import silhouette_score

from consilience.clustering.samples import Labels, numbered
from consilience.errors import InputError
from consilience.ties import rounded


@dataclass(frozen=True, eq=False)
class Groups:
    """Groups of models.

    Attributes
    ----------
    labels : (m,) group of each model, numbered by their first models.
    silhouette : mean over the models of (b − a)/max(a, b), with a the mean distance to the own group and b to the
        nearest other one; NaN for a single group.
    merges : SciPy's linkage matrix (m − 1, 4).
    order : (m,) the models in the order of the tree's leaves, in which a matrix shows its groups.
    """

    labels: NDArray[np.int64]
    silhouette: float
    merges: NDArray[np.float64]
    order: NDArray[np.int64]

    @property
    def n_groups(self) -> int:
        """How many there are."""
        return int(self.labels.max()) + 1


def group_models(distances: ArrayLike) -> Groups:
    """Return groups of models from the distances between them.

    The tree of average linkage is cut at each number of groups from 2 to m − 1, and the number with the largest mean
    silhouette (Rousseeuw 1987) is taken, of equals the smallest. If none is positive, as for fewer than three models,
    they are one group: silhouettes cannot compare one group with several.

    Parameters
    ----------
    distances : (m, m), symmetric, 0 on the diagonal; as `as_distance` or `loss_barriers` return.

    Raises
    ------
    InputError
        If it is no such matrix, or a distance is not finite.

    Examples
    --------
    >>> group_models([[0.0, 0.1, 0.9], [0.1, 0.0, 0.8], [0.9, 0.8, 0.0]]).labels
    array([0, 0, 1])
    """
    matrix = np.asarray(distances, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < 2:
        raise InputError("not a matrix of distances", where="distances", got=matrix.shape, expected="(m, m), m ≥ 2")
    if not np.isfinite(matrix).all():
        raise InputError(
            "a distance is not finite", where="distances",
            got=f"{int((~np.isfinite(matrix)).sum())} NaN or infinite of {matrix.size}",
            cure="group only models that can all be compared",
        )  # fmt: skip
    if (matrix < 0).any() or np.diagonal(matrix).any() or not np.allclose(matrix, matrix.T, rtol=0, atol=1e-9):
        raise InputError(
            "not a matrix of distances", where="distances", got="negative, not symmetric, or not 0 to self"
        )
    matrix = rounded((matrix + matrix.T) / 2)
    merges = linkage(squareform(matrix, checks=False), "average")
    labels, best = np.zeros(len(matrix), dtype=np.int64), 0.0
    for n_groups in range(2, len(matrix)):
        found = cut(merges, n_groups)
        score = float(silhouette_score(matrix, found, metric="precomputed"))
        if score > best + 1e-12:  # equal to rounding is equal
            labels, best = found, score
    return Groups(labels, best or np.nan, merges, leaves_list(merges).astype(np.int64))


def cut(merges: NDArray[np.float64], n_clusters: int) -> Labels:
    """Return the labels of exactly so many clusters of a tree, given as SciPy's linkage matrix.

    A cut at a height has fewer clusters where several merges are equally high; so the merges' ranks stand for heights.
    """
    ranked = merges.copy()
    ranked[:, 2] = np.arange(1, len(merges) + 1)
    return numbered(fcluster(ranked, n_clusters, "maxclust"))
