"""Similarity of networks' activations on the same samples, if units need not correspond.

All measures compare *views*: activations centred over samples, at unit Frobenius norm, and so without shift and scale.
Only the Gram matrix of samples, X Xᵀ, then matters: wide activations are replaced by n columns with the same one.

Axis legend: ``m`` views, ``n`` samples, ``d`` units, of any number in each view.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import linalg
from scipy.spatial.distance import cdist

from consilience.checks import as_array, check_finite, describe
from consilience.engines import current
from consilience.errors import InputError

Array = NDArray[np.float64]
ROUNDING = 1e-12  # what is smaller, as a share of what it is made of, is rounding in float64
N_EPS = 4  # a spread below so many units of their last digit is rounding of the activations
WORTH = 1e9  # multiplications from which on rows of a table of pairs are sent to workers
AT_ONCE = 2**22  # distances of samples at a time, in all views together


@dataclass(frozen=True, eq=False)
class View:
    """Activations as measures compare them."""

    x: Array  # (n, min(d, n)) centred, at unit Frobenius norm
    name: str  # of the activations in errors


def view(activations: ArrayLike, name: str, min_samples: int) -> View:
    """Return activations (n, d) as a view, if they are finite numbers that differ between samples."""
    given = as_array(activations, name)
    if given.dtype.kind not in "fiu" or given.ndim != 2 or given.shape[1] == 0:
        message = f"{name} must be numbers (n, d) with d >= 1, got {describe(given)}"
        raise InputError(message, cure="flatten each sample")
    if len(given) < min_samples:
        raise InputError(f"{name} must have at least {min_samples} samples, got {len(given)}")
    precision = np.finfo(given.dtype if given.dtype.kind == "f" else np.float64).eps
    x = given.astype(np.float64)
    check_finite(torch.from_numpy(np.ascontiguousarray(x)), name)
    largest = np.abs(x).max()
    x = x / (largest if largest > 0 else 1)  # so that no square overflows
    norm = np.linalg.norm(x)
    x = x - x.mean(0)
    if np.linalg.norm(x) <= N_EPS * precision * norm:
        raise InputError(f"{name} must vary over samples, got one value for each unit", cure="leave out this layer")
    if x.shape[1] > len(x):
        x = np.asarray(np.linalg.qr(x.T, mode="r")).T
    return View(x / np.linalg.norm(x), name)


def cka(views: Sequence[View]) -> Array:
    """Linear centred kernel alignment ‖XᵀY‖² / (‖XᵀX‖ ‖YᵀY‖) (Kornblith et al. 2019, equation 4): (m, m), in [0, 1].

    Biased towards 1 if units are many and samples few.
    """
    return _normalized(_squared_products(views), 0)


def unbiased_cka(views: Sequence[View]) -> Array:
    """Linear CKA with the unbiased estimator of HSIC (Song et al. 2012, equation 5; Nguyen et al. 2021): (m, m).

    With k and l the diagonals of the Gram matrices, whose rows sum to 0 and whose trace is 1 in views,
    n (n − 3) HSIC₁ = ‖XᵀY‖² − n/(n − 2) k·l + 1/((n − 1)(n − 2)). In [−1, 1]: about 0 for unrelated activations.

    Undefined if a view's HSIC₁ with itself is 0: all pairs of samples equally far apart, or all but one sample equal.
    """
    n = len(views[0].x)
    diagonals = np.stack([np.square(view.x).sum(1) for view in views])
    products = _squared_products(views)
    hsic = products - n / (n - 2) * (diagonals @ diagonals.T) + 1 / ((n - 1) * (n - 2))
    _check_apart(views, np.diag(hsic) <= ROUNDING * np.diag(products), "equal ones, or all but one sample equal")
    return _normalized(hsic, -1)


def procrustes(views: Sequence[View]) -> Array:
    """Orthogonal Procrustes distance min_Q ‖X Q − Y‖, Q orthogonal, of views padded with zeros to one width: (m, m).

    The Euclidean distance, not the angle (which is 2 arcsin of its half): √(2 − 2 ‖XᵀY‖₊), with the sum of singular
    values (Schönemann 1966; Williams et al. 2021). A metric between shapes, in [0, √2].
    """
    distances = _of_pairs(views, procrustes_distance)
    np.fill_diagonal(distances, 0)
    return np.minimum(distances, np.sqrt(2))


def procrustes_distance(x: Array, y: Array) -> float:
    """Return the orthogonal Procrustes distance of matrices (n, d) of any d."""
    x, y = (x, y) if x.shape[1] <= y.shape[1] else (y, x)
    left, right = _singular_vectors(x.T @ y)
    return float(np.linalg.norm(x @ (left @ right) - y))  # by the formula, rounding alone would be 1e-8


def rsa(views: Sequence[View]) -> Array:
    """Representational similarity analysis (Kriegeskorte et al. 2008): correlation of the distances of samples, (m, m).

    Distances are Euclidean, of each pair of samples once; their correlation is Pearson's, not Spearman's, because
    rounding would decide the ranks of equal distances. In [−1, 1]; undefined if all samples of a view are equally far
    apart.
    """
    n = len(views[0].x)
    typical = np.sqrt(2 / (n - 1))  # root mean square distance in a view; moments about it lose no digits
    sums, products = np.zeros(len(views)), np.zeros((len(views), len(views)))
    rows = max(1, AT_ONCE // (n * len(views)))
    for start in range(0, n, rows):
        once = np.triu_indices(min(rows, n - start), 1, n - start)
        apart = np.stack([cdist(view.x[start : start + rows], view.x[start:])[once] for view in views]) - typical
        sums += apart.sum(1)
        products += apart @ apart.T
    n_pairs = n * (n - 1) / 2
    covariance = products - np.outer(sums, sums) / n_pairs
    _check_apart(views, np.diag(covariance) <= ROUNDING * n_pairs * typical**2, "equal ones")
    return _normalized(covariance, -1)


def _check_apart(views: Sequence[View], undefined: NDArray[np.bool_], got: str) -> None:
    if undefined.any():
        name, cure = views[int(undefined.argmax())].name, "use 'cka' or 'procrustes', or leave out this layer"
        raise InputError(f"{name} must have samples at different distances, got {got}", cure=cure)


def _normalized(products: Array, low: float) -> Array:
    """Products of pairs, divided by the roots of those of each view with itself, in [low, 1]."""
    squares = np.diag(products)
    return np.clip(products / np.sqrt(np.outer(squares, squares)), low, 1)


def _singular_vectors(matrix: Array) -> tuple[Array, Array]:
    try:
        left, _, right = np.linalg.svd(matrix, full_matrices=False)
    except np.linalg.LinAlgError:  # divide and conquer, which is fast, fails for some matrices of low rank
        left, _, right = linalg.svd(matrix, full_matrices=False, lapack_driver="gesvd")
    return left, right


def _squared_products(views: Sequence[View]) -> Array:
    """‖XᵀY‖² of each pair: (m, m)."""
    return _of_pairs(views, squared_product)


def squared_product(x: Array, y: Array) -> float:
    """Return ‖XᵀY‖² of matrices (n, d) of any d."""
    return float(np.square(x.T @ y).sum())


def _of_pairs(views: Sequence[View], value: Callable[[Array, Array], float]) -> Array:
    """A symmetric function of each pair, of a view with itself included: (m, m). Rows are tasks of the engine."""
    n, widest = len(views), max(view.x.shape[1] for view in views)
    worth = n**2 * len(views[0].x) * widest**2 >= WORTH
    values, shared = np.empty((n, n)), {"views": views, "value": value}
    for i, row in enumerate(current(worth=worth).map(with_those_before, range(n), shared=shared)):
        values[i, : i + 1] = values[: i + 1, i] = row
    return values


def with_those_before(i: int, *, views: Sequence[View], value: Callable[[Array, Array], float]) -> list[float]:
    """Return the values of a view with each of those up to it: a task."""
    return [value(views[i].x, other.x) for other in views[: i + 1]]
