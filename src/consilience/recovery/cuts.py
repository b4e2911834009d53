"""Where to cut the tree of the students' units.

Average linkage merges the students' hyperplanes ``[w; b]`` from the nearest pair up. At a height h of the tree, a
cluster *survives* if it holds units of enough distinct students and its units point in one direction. Duplicates of a
unit of the teacher are as near to each other as training is precise, and different units are far apart. So the number
of surviving clusters is the same over orders of magnitude of h, and the tree is cut in the middle of the longest such
plateau of log h. Surviving clusters with next to no outgoing weight are dropped.

The published rule (Martinelli et al. 2024) differs in all of this, see `published_cuts`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from consilience.recovery.clusters import Cluster, Cut, StudentUnits, UnitTree
from consilience.ties import descending

SMALLEST_HEIGHT = 1e-4  # of the median norm of a hyperplane: below it, duplicates differ by how training ended
SMALLEST_OUTGOING = 0.01  # of the largest


class Plateau(NamedTuple):
    """A stretch of heights with one number of surviving clusters, and its length in factors of e."""

    below: float
    above: float
    n_clusters: int
    length: float


def cuts(units: StudentUnits, coverage: float, max_angle: float, rule: str = "plateau", at_most: int = 1) -> list[Cut]:
    """Return at most so many best cuts of the tree, the best first; the published rule has one.

    A cluster must hold a share ``coverage`` of the students (for "published", units per student), and its units must
    point within ``max_angle`` radians.
    """
    needed = max(2, math.ceil(coverage * units.n_students - 1e-9))
    return [cut for cut in RULES[rule](units, needed, max_angle, at_most) if cut.kept]


def plateau_cuts(units: StudentUnits, needed: int, max_angle: float, at_most: int) -> list[Cut]:
    """Return the cuts in the middle of the longest plateaus."""
    nodes = UnitTree(units)

    def judged(node: int) -> Cluster:
        angle = nodes.angles[node]
        dropped = f"angle {angle:.2g} > {max_angle:.2g}" if angle > max_angle else ""
        return nodes.cluster(node, f"students < {needed}" if nodes.n_students[node] < needed else dropped)

    def cut(plateau: Plateau) -> Cut:
        height = math.sqrt(plateau.below * plateau.above)
        clusters = [judged(node) for node in nodes.clusters_at(height)]
        smallest = SMALLEST_OUTGOING * max((c.outgoing for c in clusters if not c.dropped), default=0.0)
        dropped = f"outgoing weights < {SMALLEST_OUTGOING:g} of the largest"
        clusters = [replace(c, dropped=dropped) if not c.dropped and c.outgoing < smallest else c for c in clusters]
        return Cut(nodes.tree, height, plateau[:2], needed, False, smallest, _in_order(clusters))

    alive = (nodes.n_students >= needed) & (nodes.angles <= max_angle)
    return [cut(plateau) for plateau in sorted(plateaus(nodes, alive), key=lambda p: -p.length)[:at_most]]


def published_cuts(units: StudentUnits, needed: int, max_angle: float, at_most: int) -> list[Cut]:
    """Return the published cut: where most clusters have enough units, of whichever students.

    Signs are told by the first coordinate; a cluster is dropped for the median angle to the mean direction; outgoing
    weights do not count.
    """
    signs = np.ones(len(units))
    if units.projective:
        signs = np.where(units.hyperplanes[:, 0] < 0, -1.0, 1.0)
        outgoing = units.outgoing * (signs[:, None] if units.odd else 1.0)
        units = StudentUnits(units.hyperplanes * signs[:, None], outgoing, units.student, False, units.odd)
    nodes = UnitTree(units)

    def judged(node: int) -> Cluster:
        members, mean = nodes.tree.leaves(node), nodes.sums[node]
        scale = np.linalg.norm(units.hyperplanes[members], axis=1) * float(np.linalg.norm(mean))
        cosines = units.hyperplanes[members] @ mean / np.where(scale > 0, scale, 1)
        angle = float(np.median(np.arccos(np.clip(cosines, -1, 1))))
        dropped = f"angle {angle:.2g} > {max_angle:.2g}" if angle > max_angle else ""
        cluster = nodes.cluster(node, f"units < {needed}" if len(members) < needed else dropped)
        return replace(cluster, signs=cluster.signs * signs[cluster.units])

    def cut(plateau: Plateau) -> Cut:
        height = math.sqrt(plateau.below * plateau.above)
        clusters = _in_order([judged(node) for node in nodes.clusters_at(height)])
        return Cut(nodes.tree, height, plateau[:2], needed, True, 0.0, clusters)

    stretches = plateaus(nodes, nodes.tree.sizes >= needed)
    return [cut(plateau) for plateau in sorted(stretches, key=lambda p: (-p.n_clusters, -p.length))[:1]]


RULES: Mapping[str, Callable[[StudentUnits, int, float, int], list[Cut]]] = {
    "plateau": plateau_cuts,
    "published": published_cuts,
}


def plateaus(nodes: UnitTree, alive: NDArray[np.bool_]) -> list[Plateau]:
    """Return the stretches of height with one number of clusters, 1 or more, that are alive (v,); the lowest first."""
    heights = nodes.tree.heights
    lowest = SMALLEST_HEIGHT * float(np.median(np.linalg.norm(nodes.units.hyperplanes, axis=1)))
    top = 2 * max(float(heights.max(initial=0.0)), lowest) or 1.0  # the root survives to any height
    counts, limits = nodes.n_survivors(alive), np.maximum([0.0, *heights, top], lowest)
    merges = np.flatnonzero(limits[1:] > limits[:-1])
    starts = merges[np.flatnonzero(np.diff(counts[merges], prepend=-1))]
    ends = [*limits[starts[1:]], limits[-1]]
    stretches = zip(limits[starts].tolist(), ends, counts[starts].tolist(), strict=True)
    return [Plateau(below, above, count, math.log(above / below)) for below, above, count in stretches if count > 0]


def _in_order(clusters: list[Cluster]) -> tuple[Cluster, ...]:
    by_weight = [clusters[i] for i in descending(np.array([cluster.outgoing for cluster in clusters]))]
    return tuple(sorted(by_weight, key=lambda cluster: bool(cluster.dropped)))
