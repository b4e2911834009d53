"""Shuffled graphs of a network, and a value compared with those of shuffled graphs.

- ``"permute"``: the weights of every map are permuted (Filan et al. 2021). Neither the units' degrees nor the places of
  zeros are kept.
- ``"permute-nonzero"``: weights other than zero are permuted among themselves, and zeros stay.
- ``"degree-preserving"``: every unit keeps, in every map, the number of its edges and the sum of their weights. What
  is permuted is how far each weight is from what these sums let expect:

  1. Edges are rewired by trades between units (curveball; Strona et al. 2014).
  2. The fit ``a_i b_j`` on the edges with the sums s_i, t_j of rows and columns is found by scaling rows and columns
     in turn (Sinkhorn and Knopp 1967), before and after rewiring. The ratios w_ij / (a_i b_j) are permuted, multiplied
     by the new fit, and scaled to the same sums.
  3. Weights that deviate more give a lower n-cut. With the dispersion of a row ``q_i = Σ_j w_ij² / t_j / s_i²``, and
     that of a column, rows and columns are raised to powers near 1 until a linear fit to log q (on the logarithms of
     sum and number of edges, weighted by sums) is the same as before. If their mean Σ q_i s_i is off nevertheless, as
     in maps of a few blocks, and the new fit is as even as the old one, all are raised to one power more.

  Permuting weights in place of ratios would mix weights of strong and of weak units; without 3, rows whose sum is large
  by chance would have their weights stretched. Both give n-cuts that networks without any parts do not have. The sums
  are kept to `KEPT`, the dispersion of the map to `DISPERSION`; too few edges for that are an error.

All that differs then is whether strong edges lead to the same units, the question of modularity. This fails for
heavy-tailed weights: one large weight makes a pair of units that copies do not have, and p is too small, of which
`warn_of_tails` warns. Where edges are few or sums very unequal, few copies are possible, and p is seldom small.
docs/results/calibration.md has both.

Axis legend: ``u`` units written (rows i), ``i`` units read (columns j).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from consilience.checks import check_choice
from consilience.clustering.spectral import FloatArray
from consilience.errors import InputError, NullWarning, warn
from consilience.modularity.graph import Edges, UnitGraph
from consilience.names import Null

BoolArray = NDArray[np.bool_]
TRADES = 5  # for each unit: the new places then do not depend on the old ones (Strona et al. 2014)
TRIES = 20  # of rewiring, until edges allow the sums and the dispersion
SCALINGS, DIVERGED = 300, 1e100  # of rows and columns in turn, at most; factors beyond which the sums are out of reach
KEPT, DISPERSION = 1e-6, 0.02  # largest relative errors of the sums, and of the dispersion of a map
POWERS, STEP, CLOSE = 12, 0.2, 3e-3  # steps of the powers, their largest change, and the change at which they end
TAIL = (
    10.0  # kurtosis of ratios: 4 for Gaussian weights, up to 10 in trained networks seen, 12 to 35 for lognormal ones
)
TIE = 1e-9  # values that differ by less, relatively, are equal up to rounding


def null_graph(graph: UnitGraph, null: Null, generator: Generator) -> UnitGraph:
    """Return a graph with the same nodes and shuffled edges."""
    check_choice("null", null, NULLS)
    return replace(graph, edges=tuple(_shuffled(edges, NULLS[null], generator) for edges in graph.edges))


def z_score(value: float, null: FloatArray) -> float:
    """Return (value − mean of the null) / its standard deviation; NaN if the null does not vary beyond rounding."""
    finite = null[np.isfinite(null)]
    if len(finite) < 2:
        return math.nan
    mean, spread = float(finite.mean()), float(finite.std(ddof=1))
    return (value - mean) / spread if spread > TIE * abs(mean) else math.nan


def p_lower(value: float, null: FloatArray) -> float:
    """Return (number of copies with a lower or equal value + 1) / (number of copies + 1); NaN without copies."""
    if not len(null):
        return math.nan
    return (int((null <= value + TIE * max(1.0, abs(value))).sum()) + 1) / (len(null) + 1)


def permuted(weights: FloatArray, generator: Generator) -> FloatArray:
    """Return an array with its entries in a random order."""
    return generator.permuted(weights.ravel()).reshape(weights.shape)


def permuted_nonzero(weights: FloatArray, generator: Generator) -> FloatArray:
    """Return an array with its entries other than zero permuted among themselves."""
    shuffled = weights.copy()
    shuffled[weights != 0] = generator.permuted(weights[weights != 0])
    return shuffled


def degree_preserving(matrix: FloatArray, generator: Generator) -> FloatArray:
    """Return a random matrix (u, i) with as many entries in each row and column, and the same sums.

    Raises
    ------
    InputError : if entries are so few, and sums so different, that rewired ones cannot have these sums and a dispersion
        Σ w_ij² / (s_i t_j) that differs by at most `DISPERSION`.
    """
    used = np.ix_(matrix.any(1), matrix.any(0))
    shuffled = np.zeros_like(matrix)
    if matrix.any():
        shuffled[used] = _degree_preserving(matrix[used], generator)
    return shuffled


def warn_of_tails(graph: UnitGraph) -> None:
    """Warn of maps whose weights are so heavy-tailed that degree-preserving copies make p too small.

    The measure is the kurtosis of the ratios ε of weights to the fit f with the same sums of rows and columns,
    ``Σ f (ε − 1)⁴ Σ f / (Σ f (ε − 1)²)²``, above `TAIL`. Strong modules have it too.
    """
    heavy = {edges.map: tail for edges in graph.edges if not edges.per_unit and (tail := _tail(edges.matrix)) > TAIL}
    if heavy:
        names = ", ".join(f"{name!r} ({tail:.0f})" for name, tail in heavy.items())
        warn(
            f"p may be too small: weights of {names} are heavy-tailed (kurtosis above {TAIL:.0f}), or in modules; "
            'copies of null="degree-preserving" have no single weights as large, compare with null="permute"',
            NullWarning,
        )


def _tail(matrix: FloatArray) -> float:
    """The kurtosis of ratios to the fit; 0 if there are no weights, or ratios do not vary."""
    used = matrix[np.ix_(matrix.any(1), matrix.any(0))]
    if not used.size:
        return 0.0
    places = used > 0
    fit = _fit(places, used.sum(1), used.sum(0))[places]
    square = np.square(used[places] / fit - 1)
    spread = float(np.average(square, weights=fit))
    return float(np.average(np.square(square), weights=fit)) / spread**2 if spread > TIE else 0.0


NULLS: dict[str, Callable[[FloatArray, Generator], FloatArray]] = {
    "permute": permuted,
    "permute-nonzero": permuted_nonzero,
    "degree-preserving": degree_preserving,
}


def _shuffled(edges: Edges, shuffle: Callable[[FloatArray, Generator], FloatArray], generator: Generator) -> Edges:
    if shuffle is not degree_preserving:
        return replace(edges, weights=shuffle(edges.weights, generator))
    if edges.per_unit:  # each unit has one edge: no other graph has these degrees
        return edges
    try:
        return replace(edges, weights=shuffle(edges.matrix, generator)[:, :, None])
    except InputError as error:
        raise InputError(f"map {edges.map!r}: {error.message}", cure=error.cure) from None


def _degree_preserving(matrix: FloatArray, generator: Generator) -> FloatArray:
    """A random matrix with the degrees of one without empty rows and columns."""
    rows, columns, places = matrix.sum(1), matrix.sum(0), matrix > 0
    fit, wanted = _fit(places, rows, columns), _Dispersion.of(matrix)
    ratios, even = matrix[places] / fit[places], (1 + DISPERSION) * _total(fit, rows, columns)
    for _ in range(TRIES):
        rewired = places if places.all() else _rewired(places, generator)
        fit = _fit(rewired, rows, columns)
        shuffled = fit.copy()
        shuffled[rewired] *= generator.permutation(ratios)
        shuffled = wanted.given_to(_scaled(shuffled, rows, columns))
        if not wanted.is_of(shuffled) and _total(fit, rows, columns) <= even:
            shuffled = wanted.total_given_to(shuffled)
        off = max(np.abs(shuffled.sum(1) / rows - 1).max(), np.abs(shuffled.sum(0) / columns - 1).max())
        if off <= KEPT and wanted.is_of(shuffled):
            return shuffled
    raise InputError(
        "edges must be enough to be rewired with every unit's sum of weights kept, got "
        f"{int(places.sum())} between {len(rows)} and {len(columns)} units",
        cure="the null 'permute-nonzero' keeps their places",
    )


def _rewired(places: BoolArray, generator: Generator) -> BoolArray:
    """A random matrix of 0 and 1 with the same sums of rows and columns."""
    places, n_rows = places.copy(), len(places)
    for first, second in generator.integers(n_rows, size=(TRADES * n_rows, 2)).tolist():
        traded = np.flatnonzero(places[first] != places[second])  # columns of one of the two rows alone
        given = generator.permuted(places[first, traded])
        places[first, traded], places[second, traded] = given, ~given
    return places


def _fit(places: BoolArray, rows: FloatArray, columns: FloatArray) -> FloatArray:
    """The matrix a_i b_j on some places that has these sums, or is nearest to them."""
    if places.all():
        return np.outer(rows, columns / columns.sum())
    return _scaled(places.astype(np.float64), rows, columns)


def _scaled(matrix: FloatArray, rows: FloatArray, columns: FloatArray) -> FloatArray:
    """Rows and columns multiplied by factors in turn, until they have these sums."""
    of_rows, of_columns, close = np.ones_like(rows), np.ones_like(columns), KEPT / 10
    for _ in range(SCALINGS):
        of_columns = columns / (of_rows @ matrix)
        now = of_rows * (matrix @ of_columns)
        if np.abs(now / rows - 1).max() <= close:
            break
        of_rows = of_rows * rows / now
        if max(of_rows.max(), of_columns.max()) > DIVERGED:
            break
    return of_rows[:, None] * matrix * of_columns


def _total(matrix: FloatArray, rows: FloatArray, columns: FloatArray) -> float:
    return float((np.square(matrix) @ (1 / columns)) @ (1 / rows))


@dataclass(frozen=True)
class _Dispersion:
    """How far the weights of each row and column are from those that the sums let expect."""

    sums: tuple[FloatArray, FloatArray]  # of rows and columns
    logs: tuple[FloatArray, FloatArray]  # log q
    designs: tuple[FloatArray, FloatArray]  # what log q is fitted by
    total: float  # Σ w_ij² / (s_i t_j)

    @classmethod
    def of(cls, matrix: FloatArray) -> _Dispersion:
        rows, columns = matrix.sum(1), matrix.sum(0)
        logs = _log_dispersion(matrix, rows, columns), _log_dispersion(matrix.T, columns, rows)
        designs = _design(matrix, rows), _design(matrix.T, columns)
        return cls((rows, columns), logs, designs, _total(matrix, rows, columns))

    def is_of(self, matrix: FloatArray) -> bool:
        """Whether a matrix with the same sums has this total, to `DISPERSION`."""
        return abs(_total(matrix, *self.sums) / self.total - 1) <= DISPERSION

    def given_to(self, matrix: FloatArray) -> FloatArray:
        """Raise rows and columns of a matrix to powers until fits to log q are the same; sums stay."""
        rows, columns = self.sums
        for _ in range(POWERS):
            matrix, change = _with_powers(matrix, rows, columns, self.logs[0], self.designs[0])
            turned, other = _with_powers(matrix.T, columns, rows, self.logs[1], self.designs[1])
            matrix = turned.T
            if max(change, other) <= CLOSE:
                break
        return _scaled(matrix, rows, columns)

    def total_given_to(self, matrix: FloatArray) -> FloatArray:
        """Raise a matrix to powers, nearly one for all rows, until it has this total; sums stay."""
        rows, columns = self.sums
        for _ in range(POWERS):
            missing = math.log(self.total / _total(matrix, rows, columns))
            if abs(missing) <= CLOSE:
                break
            logs = _log_dispersion(matrix, rows, columns) + missing
            matrix = _scaled(_with_powers(matrix, rows, columns, logs, np.ones((len(rows), 1)))[0], rows, columns)
        return matrix


def _log_dispersion(matrix: FloatArray, rows: FloatArray, columns: FloatArray) -> FloatArray:
    return np.asarray(np.log(np.square(matrix) @ (1 / columns)) - 2 * np.log(rows))


def _design(matrix: FloatArray, rows: FloatArray) -> FloatArray:
    return np.stack([np.ones(len(rows)), np.log(rows), np.log((matrix > 0).sum(1))], axis=1)


def _with_powers(
    matrix: FloatArray, rows: FloatArray, columns: FloatArray, wanted: FloatArray, design: FloatArray
) -> tuple[FloatArray, float]:
    """Rows raised to powers that bring the fit to log q nearer to the wanted one, and the largest change."""
    weight = np.sqrt(rows)
    missing = wanted - _log_dispersion(matrix, rows, columns)
    change = design @ np.linalg.lstsq(design * weight[:, None], missing * weight, rcond=1e-9)[0]
    logs = np.log(matrix, out=np.zeros_like(matrix), where=matrix > 0)
    squares = np.square(matrix) / columns
    slope = 2 * (squares * logs).sum(1) / squares.sum(1) - 2 * (matrix * logs).sum(1) / matrix.sum(1)  # of log q
    power = np.clip(change * slope / (np.square(slope) + 1e-2), -STEP, STEP)
    raised = matrix * np.exp(power[:, None] * logs)
    return raised * (rows / raised.sum(1))[:, None], float(np.abs(change).max())
