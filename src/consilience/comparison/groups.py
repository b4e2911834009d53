"""Groups of models: average linkage of their distances, cut at the best silhouette.

Axis legend: ``m`` model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform
from sklearn.metrics import silhouette_score

from consilience.checks import as_array
from consilience.clustering.tree import Tree
from consilience.errors import InputError
from consilience.ties import rounded

EQUAL = 1e-12  # silhouettes that differ by less are equal up to rounding


@dataclass(frozen=True, eq=False)
class Groups:
    """Groups of models.

    Attributes
    ----------
    labels : (m,) group of each model, numbered by their first models.
    silhouette : mean of (b − a)/max(a, b), a the distance to the own group, b to the nearest other; NaN for one group.
    tree : of the models.
    """

    labels: NDArray[np.int64]
    silhouette: float
    tree: Tree

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return int(self.labels.max()) + 1

    @property
    def order(self) -> NDArray[np.int64]:
        """The models in the order of the tree's leaves, in which a matrix shows its groups: (m,)."""
        return self.tree.leaf_order()


def group_models(distances: ArrayLike) -> Groups:
    """Return groups of models from the distances between them.

    The tree of average linkage is cut at each number of groups from 2 to m − 1. The number with the largest mean
    silhouette (Rousseeuw 1987) is chosen, the smallest of equal ones. If none is positive, as for fewer than three
    models, all models are one group, which has no silhouette.

    Parameters
    ----------
    distances : (m, m), finite, symmetric, 0 on the diagonal; as `as_distance` or `loss_barriers` return.

    Examples
    --------
    >>> group_models([[0.0, 0.1, 0.9], [0.1, 0.0, 0.8], [0.9, 0.8, 0.0]]).labels
    array([0, 0, 1])
    """
    matrix = as_array(distances, "distances").astype(np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < 2:
        raise InputError(f"distances must have shape (m, m) with m >= 2, got {matrix.shape}")
    if not np.isfinite(matrix).all():
        got = f"NaN or infinity in {int((~np.isfinite(matrix)).sum())} of {matrix.size} entries"
        raise InputError(f"distances must be finite, got {got}", cure="leave out models that cannot be compared")
    if (matrix < 0).any() or np.diagonal(matrix).any() or not np.allclose(matrix, matrix.T, rtol=0, atol=1e-9):
        raise InputError("distances must be >= 0, symmetric, and 0 on the diagonal, got another matrix")
    matrix = rounded((matrix + matrix.T) / 2)
    tree = Tree.from_linkage(linkage(squareform(matrix, checks=False), "average"))
    best, best_score = np.zeros(len(matrix), dtype=np.int64), 0.0
    for n_groups in range(2, len(matrix)):
        labels = tree.cut(n_groups)
        score = float(silhouette_score(matrix, labels, metric="precomputed"))
        if score > best_score + EQUAL:
            best, best_score = labels, score
    return Groups(best, best_score or np.nan, tree)
