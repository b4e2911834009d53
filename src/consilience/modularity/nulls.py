"""Shuffled graphs of a network, and a value compared with those of shuffled graphs.

- ``"permute"``: the weights of every map are permuted (Filan et al. 2021). Neither the units' degrees nor the places of
  zeros are kept.
- ``"permute-nonzero"``: weights other than zero are permuted among themselves, and zeros stay.
- ``"degree-preserving"``: every unit keeps, in every map, the number of its edges and the sum of their weights. Edges
  are rewired by trades between units (curveball; Strona et al. 2014), then weights are permuted, and scaled by rows and
  columns in turn until the sums are the same (Sinkhorn and Knopp 1967). All that differs then is whether strong edges
  lead to the same units, the question of modularity.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from consilience.checks import check_choice
from consilience.clustering.spectral import FloatArray
from consilience.modularity.graph import Edges, UnitGraph
from consilience.names import Null

BoolArray = NDArray[np.bool_]
TRADES = 5  # for each unit: the new places then do not depend on the old ones (Strona et al. 2014)
SCALINGS, TOLERANCE = 200, 1e-6  # largest number of scalings, and the relative error of sums at which they end
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
    """Return (number of copies with a lower or equal value + 1) / (number of copies + 1)."""
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

    With very few edges, no weights on the rewired ones may have these sums, which are then approximate.
    """
    places = _rewired(matrix > 0, generator) if (matrix == 0).any() else np.ones_like(matrix, dtype=bool)
    shuffled = np.zeros_like(matrix)
    shuffled[places] = generator.permuted(matrix[matrix > 0])
    rows, columns = matrix.sum(1), matrix.sum(0)
    for _ in range(SCALINGS):
        shuffled *= _ratio(columns, shuffled.sum(0))
        now = shuffled.sum(1)
        if np.abs(now - rows).max() <= TOLERANCE * rows.max():
            break
        shuffled *= _ratio(rows, now)[:, None]
    return shuffled


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
    return replace(edges, weights=shuffle(edges.matrix, generator)[:, :, None])


def _rewired(places: BoolArray, generator: Generator) -> BoolArray:
    """A random matrix of 0 and 1 with the same sums of rows and columns."""
    places, n_rows = places.copy(), len(places)
    for first, second in generator.integers(n_rows, size=(TRADES * n_rows, 2)).tolist():
        traded = np.flatnonzero(places[first] != places[second])  # columns of one of the two rows alone
        given = generator.permuted(places[first, traded])
        places[first, traded], places[second, traded] = given, ~given
    return places


def _ratio(wanted: FloatArray, sums: FloatArray) -> FloatArray:
    return np.divide(wanted, sums, out=np.zeros_like(wanted), where=sums > 0)
