"""Which units of many students are the same unit of the teacher: one sweep over a tree of hyperplanes.

Average linkage merges the students' hyperplanes ``[w; b]`` from the nearest pair up. At a height h of the tree, a
cluster *survives* if it holds units of enough distinct students and its units point in one direction. Duplicates of a
unit of the teacher are as near to each other as training is precise, and different units are far apart; so the number
of surviving clusters is the same over orders of magnitude of h, and the tree is cut in the middle of the longest such
plateau of log h. A merge changes the number by what becomes of two clusters and one: all heights take one pass.

Clusters that survive and yet have next to no outgoing weight are dropped.

The published rule (Martinelli et al. 2024) cuts where most clusters have enough units, of whichever students, and tells
signs by the first coordinate.

Axis legend: ``U`` units of all students, ``d`` entries of a hyperplane with its bias, ``o`` of outgoing weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from consilience.clustering.clusterers import average
from consilience.clustering.distances import Points
from consilience.ties import descending

RULES = ("plateau", "published")
SMALLEST_HEIGHT = 1e-4  # of the median norm of a hyperplane: below it, duplicates differ by how training ended
SMALLEST_OUTGOING = 0.01  # of the largest


@dataclass(frozen=True)
class StudentUnits:
    """The hidden units of one layer of all students.

    Attributes
    ----------
    hyperplanes : (U, d) weights and, last, bias; at unit norm where the activation is homogeneous.
    outgoing : (U, o) weights to what reads the layer.
    student : (U,) whose unit.
    projective : whether a hyperplane and its negative are the same unit.
    odd : whether the outgoing weights change their sign with the hyperplane.
    """

    hyperplanes: NDArray[np.float64]
    outgoing: NDArray[np.float64]
    student: NDArray[np.int64]
    projective: bool
    odd: bool

    def __len__(self) -> int:
        return len(self.hyperplanes)


@dataclass(frozen=True)
class Cluster:
    """One cluster at the cut.

    Attributes
    ----------
    units : indices into the students' units.
    signs : (u,) −1 for units that point the other way.
    n_students : distinct ones.
    angle : radians within which the units point, on average: arccos of the length of their mean direction.
    outgoing : norm of the mean over students of their summed outgoing weights.
    dropped : by which rule; "" if it is kept.
    """

    units: NDArray[np.int64]
    signs: NDArray[np.float64]
    n_students: int
    angle: float
    outgoing: float
    dropped: str = ""


@dataclass(frozen=True)
class Cut:
    """The tree and where it is cut.

    Attributes
    ----------
    merges : SciPy's linkage matrix (U − 1, 4).
    height : of the cut.
    plateau : heights between which the number of surviving clusters is the same.
    clusters : all clusters of at least two units, those kept first, each kind by outgoing weight.
    """

    merges: NDArray[np.float64]
    height: float
    plateau: tuple[float, float]
    clusters: tuple[Cluster, ...]

    @property
    def kept(self) -> tuple[Cluster, ...]:
        """The clusters that stand for units of the teacher."""
        return tuple(cluster for cluster in self.clusters if not cluster.dropped)


def cuts(units: StudentUnits, coverage: float, max_angle: float, rule: str = "plateau", at_most: int = 1) -> list[Cut]:
    """Return the best cuts of the tree, the best first.

    Parameters
    ----------
    units : of the students.
    coverage : share of the students that a cluster must hold; for "published", units per student.
    max_angle : radians within which its units must point.
    rule : one of `RULES`.
    at_most : this many; the published rule has one.
    """
    published, first = rule == "published", np.ones(len(units))
    if published and units.projective:
        first = np.where(units.hyperplanes[:, 0] < 0, -1.0, 1.0)
        outgoing = units.outgoing * (first[:, None] if units.odd else 1.0)
        units = StudentUnits(units.hyperplanes * first[:, None], outgoing, units.student, False, units.odd)
    tree = average(Points(units.hyperplanes, units.projective), None, 0).tree
    assert tree is not None
    merges = tree.to_linkage()
    forest = _Forest(units, merges, coverage, max_angle, published)
    heights = np.concatenate([[0.0], merges[:, 2]])
    plateaus = _plateaus(forest.survivors, heights, SMALLEST_HEIGHT * np.median(_norms(units.hyperplanes)), published)
    found = [forest.cut(*plateau, first) for plateau in plateaus[: 1 if published else at_most]]
    return [cut for cut in found if cut.kept]


def _plateaus(
    counts: NDArray[np.int64], heights: NDArray[np.float64], lowest: float, published: bool
) -> list[tuple[float, float]]:
    """Stretches of height with one number of surviving clusters: the longest in log height first, for the published
    rule those with the most clusters.
    """
    found: list[tuple[float, float, int]] = []
    top = 2 * max(float(heights[-1]), lowest) or 1.0  # the root survives to any height
    for count, below, above in zip(counts, heights, [*heights[1:], top], strict=True):
        below, above = max(float(below), lowest), max(float(above), lowest)
        if above <= below:
            continue
        if found and found[-1][2] == count:
            found[-1] = (found[-1][0], above, int(count))
        else:
            found.append((below, above, int(count)))
    found = [each for each in found if each[2] > 0]
    length = [math.log(above / below) for below, above, _ in found]
    most = [count if published else 0 for _, _, count in found]
    order = sorted(range(len(found)), key=lambda i: (-most[i], -length[i]))
    return [found[i][:2] for i in order]


class _Forest:
    """All nodes of a tree: leaves first, then merges from the lowest up."""

    def __init__(
        self, units: StudentUnits, merges: NDArray[np.float64], coverage: float, max_angle: float, published: bool
    ) -> None:
        self.units, self.merges, self.published = units, merges, published
        n, n_students = len(units), len(set(units.student.tolist()))
        self.n_students = n_students
        self.needed, self.max_angle = max(2, math.ceil(coverage * n_students - 1e-9)), max_angle
        norms = _norms(units.hyperplanes)
        directions = units.hyperplanes / np.where(norms > 0, norms, 1)[:, None]
        rank = {student: i for i, student in enumerate(dict.fromkeys(units.student.tolist()))}
        self.sums = np.concatenate([directions, np.zeros((len(merges), directions.shape[1]))])
        self.counts = np.concatenate([np.ones(n, dtype=np.int64), merges[:, 3].astype(np.int64)])
        self.masks = [1 << rank[student] for student in units.student.tolist()]  # which students, as bits
        self.turn = np.ones(len(merges))  # of the second node of each merge against the first
        alive = [self._survives(node) for node in range(n)]
        counts = [sum(alive)]
        for step, (first, second) in enumerate(merges[:, :2].astype(np.int64)):
            if units.projective and self.sums[first] @ self.sums[second] < 0:
                self.turn[step] = -1
            self.sums[n + step] = self.sums[first] + self.turn[step] * self.sums[second]
            self.masks.append(self.masks[first] | self.masks[second])
            alive.append(self._survives(n + step))
            counts.append(counts[-1] + alive[-1] - alive[first] - alive[second])
        self.survivors = np.array(counts)

    def angle(self, node: int) -> float:
        """Return arccos of the mean resultant length."""
        mean = float(np.linalg.norm(self.sums[node])) / float(self.counts[node])
        return math.acos(min(1.0, mean))

    def _survives(self, node: int) -> bool:
        found = self.counts[node] if self.published else self.masks[node].bit_count()
        return bool(found >= self.needed) and (self.published or self.angle(node) <= self.max_angle)

    def cut(self, below: float, above: float, first: NDArray[np.float64]) -> Cut:
        """Return the clusters in the middle of a plateau; ``first`` are signs (U,) that units were given before."""
        height, n = math.sqrt(below * above), len(self.units)
        n_merged = int(np.searchsorted(self.merges[:, 2], height, side="right"))
        inside = set(self.merges[:n_merged, :2].astype(np.int64).ravel().tolist())
        roots = [node for node in range(n + n_merged) if node not in inside]
        clusters = [self._cluster(node, first) for node in roots if self.counts[node] > 1]
        clusters.sort(key=lambda cluster: int(cluster.units[0]))  # heights within a cluster are rounding
        largest = max((cluster.outgoing for cluster in clusters if not cluster.dropped), default=0.0)
        judged = [self._judged(cluster, largest) for cluster in clusters]
        rank = np.argsort(descending(np.array([cluster.outgoing for cluster in judged])))
        judged = [judged[i] for i in sorted(range(len(judged)), key=lambda i: (bool(judged[i].dropped), rank[i]))]
        return Cut(self.merges, height, (below, above), tuple(judged))

    def _cluster(self, node: int, first: NDArray[np.float64]) -> Cluster:
        n, below, units, signs = len(self.units), [(node, 1.0)], list[int](), list[float]()
        while below:
            node_below, sign = below.pop()
            if node_below < n:
                units.append(node_below)
                signs.append(sign)
            else:
                left, right = self.merges[node_below - n, :2].astype(np.int64).tolist()
                below += [(left, sign), (right, sign * float(self.turn[node_below - n]))]
        order = np.argsort(units)
        members, turned = np.array(units, dtype=np.int64)[order], np.array(signs)[order]
        outgoing = self.units.outgoing[members] * (turned[:, None] if self.units.odd else 1.0)
        found = len(members) if self.published else self.masks[node].bit_count()
        dropped = ""
        if found < self.needed:
            dropped = f"{'units' if self.published else 'students'} < {self.needed}"
        elif (angle := self._spread(node, members)) > self.max_angle:
            dropped = f"angle {angle:.2g} > {self.max_angle:.2g}"
        norm = float(np.linalg.norm(outgoing.sum(0))) / self.n_students
        return Cluster(members, turned * first[members], self.masks[node].bit_count(), self.angle(node), norm, dropped)

    def _spread(self, node: int, members: NDArray[np.int64]) -> float:
        """What the angle's limit is for; in the published rule, the median angle to the mean direction."""
        if not self.published:
            return self.angle(node)
        vectors, mean = self.units.hyperplanes[members], self.sums[node]
        scale = _norms(vectors) * float(np.linalg.norm(mean))
        return float(np.median(np.arccos(np.clip(vectors @ mean / np.where(scale > 0, scale, 1), -1, 1))))

    def _judged(self, cluster: Cluster, largest: float) -> Cluster:
        if cluster.dropped or self.published or cluster.outgoing >= SMALLEST_OUTGOING * largest:
            return cluster
        rule = f"outgoing weights < {SMALLEST_OUTGOING:g} of the largest"
        return replace(cluster, dropped=rule)


def _norms(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    norms: NDArray[np.float64] = np.linalg.norm(rows, axis=1)
    return norms
