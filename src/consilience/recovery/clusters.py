"""The hidden units of all students in one tree, and its clusters.

Axis legend: ``U`` units of all students, ``v`` nodes of their tree, ``d`` entries of a hyperplane with its bias, ``o``
outgoing weights.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from consilience.clustering.clusterers import average
from consilience.clustering.distances import Points
from consilience.clustering.tree import Tree


@dataclass(frozen=True)
class StudentUnits:
    """The hidden units of one layer of all students."""

    hyperplanes: NDArray[np.float64]  # (U, d) weights and, last, bias; at unit norm where the activation is homogeneous
    outgoing: NDArray[np.float64]  # (U, o) weights to what reads the layer
    student: NDArray[np.int64]  # (U,) the student that has the unit
    projective: bool  # whether a hyperplane and its negative are the same unit
    odd: bool  # whether the outgoing weights change their sign with the hyperplane

    def __len__(self) -> int:
        return len(self.hyperplanes)

    @property
    def n_students(self) -> int:
        """Number of distinct students."""
        return len(np.unique(self.student))


@dataclass(frozen=True)
class Cluster:
    """One cluster at the cut."""

    units: NDArray[np.int64]  # (u,) indices into the students' units
    signs: NDArray[np.float64]  # (u,) −1 for units that point the other way
    n_students: int  # distinct ones
    angle: float  # of the units, in radians: arccos of the length of their mean direction
    outgoing: float  # norm of the mean over students of their summed outgoing weights
    dropped: str = ""  # the rule that drops it; "" if it is kept


@dataclass(frozen=True)
class Cut:
    """The tree and where it is cut."""

    tree: Tree  # of the students' units
    height: float
    plateau: tuple[float, float]  # heights between which the number of surviving clusters is the same
    needed: int  # students, or units, that a cluster must hold
    counts_units: bool  # whether units are counted instead of students
    smallest_outgoing: float  # outgoing weight below which a cluster is dropped
    clusters: tuple[Cluster, ...]  # of at least two units; the kept ones first, each kind by outgoing weight

    @property
    def kept(self) -> tuple[Cluster, ...]:
        """The clusters that stand for units of the teacher."""
        return tuple(cluster for cluster in self.clusters if not cluster.dropped)


class UnitTree:
    """Average linkage of the students' hyperplanes, and what the units below each node have in common.

    ``sums`` (v, d) are of the units' directions, each turned to the side of the first, ``angles`` (v,) are arccos of
    the mean resultant length, and ``n_students`` (v,) counts distinct ones.
    """

    def __init__(self, units: StudentUnits) -> None:
        tree = average(Points(units.hyperplanes, units.projective), None, 0).tree
        assert tree is not None
        self.units, self.tree = units, tree
        lengths = np.linalg.norm(units.hyperplanes, axis=1, keepdims=True)
        turns = np.ones(tree.n_nodes)  # −1 for a merge whose second node points away from the first
        self.sums = np.empty((tree.n_nodes, units.hyperplanes.shape[1]))
        self.sums[: len(units)] = units.hyperplanes / np.where(lengths > 0, lengths, 1)
        for node, first, second in tree.merges():
            if units.projective and self.sums[first] @ self.sums[second] < 0:
                turns[node] = -1
            self.sums[node] = self.sums[first] + turns[node] * self.sums[second]
        self.angles = np.arccos(np.minimum(1.0, np.linalg.norm(self.sums, axis=1) / tree.sizes))
        self._sides = np.ones(tree.n_nodes)  # of each node against the root
        for node, first, second in reversed(list(tree.merges())):
            self._sides[[first, second]] = self._sides[node], self._sides[node] * turns[node]
        students = [1 << int(k) for k in np.unique(units.student, return_inverse=True)[1]]  # as bits
        below = tree.accumulate(np.array(students, dtype=object), operator.or_)
        self.n_students = np.array([bits.bit_count() for bits in below])

    def n_survivors(self, alive: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Return the number of clusters that are alive (v,) before the first merge and after each: (U,).

        A merge changes it by what becomes of two clusters and one, so that all heights take one pass.
        """
        leaves, merged = alive[: len(self.units)], alive[len(self.units) :]
        return np.cumsum([leaves.sum(), *(merged.astype(np.int64) - alive[self.tree.children].sum(1))])

    def clusters_at(self, height: float) -> list[int]:
        """Return the nodes of at least two units that merges up to a height leave, by their first units."""
        roots = self.tree.roots(self.tree.n_merges_below(height))
        nodes: list[int] = roots[self.tree.sizes[roots] > 1].tolist()
        return sorted(nodes, key=lambda node: int(self.tree.leaves(node)[0]))

    def cluster(self, node: int, dropped: str) -> Cluster:
        """Return the units below a node as a cluster, and why it is dropped."""
        members = self.tree.leaves(node)
        signs = self._sides[members] * self._sides[node]
        outgoing = self.units.outgoing[members] * (signs[:, None] if self.units.odd else 1.0)
        norm = float(np.linalg.norm(outgoing.sum(0))) / self.units.n_students
        return Cluster(members, signs, int(self.n_students[node]), float(self.angles[node]), norm, dropped)
