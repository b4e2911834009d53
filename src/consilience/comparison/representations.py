"""How alike networks' activations on the same samples are, when units need not correspond.

All start from *views*: activations centred over samples, at unit Frobenius norm, so that shifts and scales are out.
Only the Gram matrix of samples, X Xᵀ, then matters: wide activations are replaced by n columns with the same one.

Axis legend: ``m`` views, ``n`` samples, ``d`` units, of any number in each view.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg
from scipy.spatial.distance import cdist

from consilience.errors import InputError

Array = NDArray[np.float64]
ROUNDING = 1e-12  # what is smaller, as a share of what it is made of, is rounding in float64
N_EPS = 4  # a spread below so many units of their last digit is rounding of the activations
AT_ONCE = 2**22  # distances of samples at a time, in all views together


def view(activations: ArrayLike, where: str, min_samples: int) -> Array:
    """Return activations (n, d) centred, at unit Frobenius norm, float64, with their Gram matrix: (n, min(d, n)).

    Raises
    ------
    InputError
        If they are not real numbers (n, d), not finite, of too few samples, or the same for every sample.
    """
    x = np.asarray(activations)
    if x.dtype.kind not in "fiu" or x.ndim != 2 or x.shape[1] == 0:
        raise InputError(
            "activations are not a matrix of numbers", where=where, got=f"{x.dtype} of shape {x.shape}",
            expected="(n, d)", cure="flatten what a sample gives",
        )  # fmt: skip
    if len(x) < min_samples:
        raise InputError("too few samples to compare", where=where, got=len(x), expected=f"at least {min_samples}")
    precision = np.finfo(x.dtype if x.dtype.kind == "f" else np.float64).eps
    x = x.astype(np.float64)
    bad = ~np.isfinite(x).all(1)
    if bad.any():
        raise InputError(
            "activations are not finite", where=f"{where}, row {int(bad.argmax())}",
            got=f"{int(bad.sum())} rows with NaN or infinity", cure="leave out these samples, or this network",
        )  # fmt: skip
    largest = np.abs(x).max()
    x = x / (largest if largest > 0 else 1)  # so that no square overflows
    norm = np.linalg.norm(x)
    x = x - x.mean(0)
    if np.linalg.norm(x) <= N_EPS * precision * norm:
        raise InputError(
            "activations are the same for every sample", where=where, cure="leave out this layer, or this network"
        )
    if x.shape[1] > len(x):
        x = np.asarray(np.linalg.qr(x.T, mode="r")).T
    centred: Array = x / np.linalg.norm(x)
    return centred


def cka(views: Sequence[Array]) -> Array:
    """Linear centred kernel alignment ‖XᵀY‖² / (‖XᵀX‖ ‖YᵀY‖) (Kornblith et al. 2019, equation 4).

    Biased: towards 1 where units are many and samples few.

    Parameters
    ----------
    views : m views (n, d_k), as `view` makes them.

    Returns
    -------
    (m, m), in [0, 1].
    """
    crossed = _crossed(views)
    own = np.diag(crossed)
    return np.clip(crossed / np.sqrt(np.outer(own, own)), 0, 1)


def unbiased_cka(views: Sequence[Array]) -> Array:
    """Linear CKA with the unbiased estimator of HSIC (Song et al. 2012, equation 5; Nguyen et al. 2021): (m, m).

    With k and l the diagonals of the Gram matrices, whose rows sum to 0 and whose trace is 1 in views,
    n (n − 3) HSIC₁ = ‖XᵀY‖² − n/(n − 2) k·l + 1/((n − 1)(n − 2)). About 0 for unrelated activations, where it may be
    negative: in [−1, 1].

    Raises
    ------
    InputError
        If a view's HSIC₁ with itself is 0: all pairs of samples equally far apart, or one sample apart from the rest.
    """
    n = len(views[0])
    diagonals = np.stack([np.square(x).sum(1) for x in views])
    crossed = _crossed(views)
    hsic = crossed - n / (n - 2) * (diagonals @ diagonals.T) + 1 / ((n - 1) * (n - 2))
    own = np.diag(hsic)
    for k in np.flatnonzero(own <= ROUNDING * np.diag(crossed)):
        raise InputError(
            "the unbiased similarity of activations with themselves is 0/0", where=f"activations[{k}]",
            got="all samples equally far apart, or one of them apart from the rest",
            cure="use 'cka' or 'procrustes', or leave out this layer",
        )  # fmt: skip
    similarity: Array = np.clip(hsic / np.sqrt(np.outer(own, own)), -1, 1)
    return similarity


def procrustes(views: Sequence[Array]) -> Array:
    """Orthogonal Procrustes distance min_Q ‖X Q − Y‖, Q orthogonal, of views padded with zeros to one width: (m, m).

    The Euclidean distance, not the angle (which is 2 arcsin of its half): √(2 − 2 ‖XᵀY‖₊), with the sum of singular
    values (Schönemann 1966; Williams et al. 2021). A metric between shapes, in [0, √2].
    """

    def distance(x: Array, y: Array) -> float:
        x, y = (x, y) if x.shape[1] <= y.shape[1] else (y, x)
        left, right = _singular_vectors(x.T @ y)
        return float(np.linalg.norm(x @ (left @ right) - y))  # by the formula, rounding alone would be 1e-8

    found = _of_pairs(views, distance)
    np.fill_diagonal(found, 0)
    return np.minimum(found, np.sqrt(2))


def rsa(views: Sequence[Array]) -> Array:
    """Representational similarity analysis (Kriegeskorte et al. 2008): correlation of the distances of samples, (m, m).

    Distances are Euclidean, of each pair of samples once; their correlation is Pearson's, not Spearman's, because ranks
    of distances that tie would be decided by rounding. In [−1, 1].

    Raises
    ------
    InputError
        If all samples are equally far apart in a view.
    """
    n = len(views[0])
    typical = np.sqrt(2 / (n - 1))  # of a view: root mean square; moments about it lose no digits
    sums, products = np.zeros(len(views)), np.zeros((len(views), len(views)))
    rows = max(1, AT_ONCE // (n * len(views)))
    for start in range(0, n, rows):
        once = np.triu_indices(min(rows, n - start), 1, n - start)
        apart = np.stack([cdist(x[start : start + rows], x[start:])[once] for x in views]) - typical
        sums += apart.sum(1)
        products += apart @ apart.T
    n_pairs = n * (n - 1) / 2
    covariance = products - np.outer(sums, sums) / n_pairs
    own = np.diag(covariance)
    for k in np.flatnonzero(own <= ROUNDING * n_pairs * typical**2):
        raise InputError(
            "all samples are equally far apart, so that distances have no correlation", where=f"activations[{k}]",
            cure="use 'cka' or 'procrustes', or leave out this layer",
        )  # fmt: skip
    return np.clip(covariance / np.sqrt(np.outer(own, own)), -1, 1)


def _singular_vectors(matrix: Array) -> tuple[Array, Array]:
    try:
        left, _, right = np.linalg.svd(matrix, full_matrices=False)
    except np.linalg.LinAlgError:  # divide and conquer, which is fast, fails for some matrices of low rank
        left, _, right = linalg.svd(matrix, full_matrices=False, lapack_driver="gesvd")
    return left, right


def _crossed(views: Sequence[Array]) -> Array:
    """‖XᵀY‖² of each pair (m, m)."""
    return _of_pairs(views, lambda x, y: float(np.square(x.T @ y).sum()))


def _of_pairs(views: Sequence[Array], value: Callable[[Array, Array], float]) -> Array:
    """A symmetric function of each pair, itself included (m, m)."""
    found = np.empty((len(views), len(views)))
    for i, x in enumerate(views):
        for j, y in enumerate(views[: i + 1]):
            found[i, j] = found[j, i] = value(x, y)
    return found
