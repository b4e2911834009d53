"""Graphs as a network would have them if its weights were where they are by chance.

- ``"permute"``: the weights of every map change places (Filan et al. 2021). Nothing but their values is
  kept: neither which units are strong, nor, where zeros are many, how the others are spread.
- ``"permute-nonzero"``: weights that are not zero change places among themselves, and zeros stay.
- ``"degree-preserving"``: every unit keeps, in every map, the number of its edges and the sum of their weights. Edges
  are rewired by trades between units (curveball; Strona et al. 2014), then weights are dealt out anew and scaled by
  rows and columns in turn until the sums are what they were (Sinkhorn and Knopp 1967). What is left to differ is
  whether strong edges lead to the same units, the question of modularity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from consilience.clustering.spectral import FloatArray
from consilience.errors import InputError
from consilience.modularity.graph import Edges, UnitGraph

Null = Literal["permute", "permute-nonzero", "degree-preserving"]
BoolArray = NDArray[np.bool_]
TRADES = 5  # for each unit: a few are enough to forget where edges were (Strona et al. 2014)
SCALINGS, TOLERANCE = 200, 1e-6  # at most so many, until sums are kept to this part of themselves


def null_graph(graph: UnitGraph, null: Null, generator: Generator) -> UnitGraph:
    """Return a graph with the same nodes and other edges, as `null` has them.

    Raises
    ------
    InputError
        If there is no null of this name.
    """
    check_null(null)
    return replace(graph, edges=tuple(_shuffled(each, NULLS[null], generator) for each in graph.edges))


def check_null(null: str) -> None:
    """Refuse a name that no null has."""
    if null not in NULLS:
        raise InputError("there is no such null", where="null", got=repr(null), expected=", ".join(get_args(Null)))


def permuted(weights: FloatArray, generator: Generator) -> FloatArray:
    """Return an array with its entries in a random order."""
    return generator.permuted(weights.ravel()).reshape(weights.shape)


def permuted_nonzero(weights: FloatArray, generator: Generator) -> FloatArray:
    """Return an array with its entries other than zero in a random order among their places."""
    shuffled = weights.copy()
    shuffled[weights != 0] = generator.permuted(weights[weights != 0])
    return shuffled


def degree_preserving(matrix: FloatArray, generator: Generator) -> FloatArray:
    """Return a random matrix (u, i) with as many entries in each row and column, and, nearly always, the same sums.

    Where edges are so few that no weights on the rewired ones have these sums, they are approached.
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
    if edges.per_unit:  # each unit has one edge: there is no other graph of these degrees
        return edges
    return replace(edges, weights=shuffle(edges.matrix, generator)[:, :, None])


def _rewired(places: BoolArray, generator: Generator) -> BoolArray:
    """A random matrix of 0 and 1 with the same sums of rows and columns."""
    places, n_rows = places.copy(), len(places)
    for first, second in generator.integers(n_rows, size=(TRADES * n_rows, 2)).tolist():
        own = np.flatnonzero(places[first] != places[second])  # what one of the two has
        given = generator.permuted(places[first, own])
        places[first, own], places[second, own] = given, ~given
    return places


def _ratio(wanted: FloatArray, found: FloatArray) -> FloatArray:
    return np.divide(wanted, found, out=np.zeros_like(wanted), where=found > 0)
