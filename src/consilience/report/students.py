"""What the units of students have in common, layer by layer: their tree, similarities, clusters kept and dropped.

Colours: clusters that are kept are blue, dark and light in turn; what is dropped is brown, single units are grey.

Axis legend: ``U`` units of all students, ``d`` entries of a hyperplane with its bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from consilience.errors import InputError
from consilience.report.labels import LINE, Label, at, right_of, size_of, width_of
from consilience.report.style import GRID, INK, MUTED, WIDTH, own_axes, styled

KEPT, DROPPED, SINGLE, CUT = ("#1c67ad", "#74b3e3"), "#b3541e", "#9a9a9a", "#9b3fa0"
OTHER_RULES = {"students": ("v", DROPPED), "units": ("v", DROPPED), "angle": ("X", CUT), "outgoing": ("s", "#8a7a1f")}
DEEPEST = 1e-12  # of the highest merge: duplicates that are nearer to each other are drawn at this height
SHARP = 500  # units, beyond which the matrix is drawn at the picture's resolution


@dataclass(frozen=True)
class UnitCluster:
    """Units of students that are one unit.

    Attributes
    ----------
    units : rows of the layer's hyperplanes.
    n_students : distinct ones.
    angle : radians within which the units point.
    outgoing : norm of the outgoing weights, mean over students.
    dropped : by which rule; "" if it is kept.
    """

    units: Sequence[int]
    n_students: int
    angle: float
    outgoing: float
    dropped: str


@dataclass(frozen=True, eq=False)
class StudentLayer:
    """One layer of all students.

    Attributes
    ----------
    name : of the layer.
    losses, status, iterations : of each student; the loss as a share of the outputs' variance.
    used : students whose units were clustered.
    hyperplanes : (U, d) of their units.
    projective : whether a hyperplane and its negative are the same unit.
    merges : SciPy's linkage matrix (U − 1, 4); None if nothing survives at any height.
    height : of the cut.
    plateau : heights between which as many clusters survive.
    clusters : of two units or more, those kept first.
    needed : students that a cluster must hold; units, where the published rule is used.
    counts_units : whether it is units.
    smallest_outgoing : outgoing weight below which a cluster is dropped; 0 for the published rule.
    n_excess : units removed from the network afterwards, because nothing needs them.
    """

    name: str
    losses: Sequence[float]
    status: Sequence[str]
    iterations: Sequence[int]
    used: Sequence[int]
    hyperplanes: NDArray[np.float64]
    projective: bool
    merges: NDArray[np.float64] | None
    height: float
    plateau: tuple[float, float]
    clusters: Sequence[UnitCluster]
    needed: int
    counts_units: bool
    smallest_outgoing: float
    n_excess: int

    @property
    def kept(self) -> list[UnitCluster]:
        """Clusters that stand for units of the network."""
        return [cluster for cluster in self.clusters if not cluster.dropped]

    @property
    def dropped(self) -> dict[str, int]:
        """How many clusters each rule has dropped."""
        rules = [rule_of(cluster.dropped) for cluster in self.clusters if cluster.dropped]
        return {rule: rules.count(rule) for rule in sorted(set(rules))}


def rule_of(dropped: str) -> str:
    """Return by which rule a cluster was dropped, the same words for all that it has dropped.

    >>> rule_of("students < 16"), rule_of("angle 0.31 > 0.26"), rule_of("")
    ('fewer than 16 students', 'angle > 0.26', 'kept')
    """
    words = dropped.split()
    if not words or words[0] == "outgoing":
        return dropped or "kept"
    return f"angle > {words[-1]}" if words[0] == "angle" else f"fewer than {words[-1]} {words[0]}"


@styled
def tree_of_units(layer: StudentLayer, ax: Axes | None = None) -> Axes:
    """Draw the tree of the students' units, heights on a logarithmic scale, with the plateau and the cut.

    Raises
    ------
    InputError
        If the layer has no tree.
    """
    merges = _merges(layer)
    ax = ax or own_axes(WIDTH, 3.9, left=0.7, right=0.1, bottom=0.55, top=0.35)
    n, top = len(merges) + 1, 2 * float(merges[-1, 2]) or 1.0
    owner = _owners(layer)
    x, place = _places(merges, (owner >= 0) & (owner < len(layer.kept)))
    low = max(DEEPEST * top, min([layer.plateau[0], *merges[merges[:, 2] > 0, 2]]) / 2)
    heights = np.maximum(np.concatenate([np.full(n, low), merges[:, 2]]), low)
    below = merges[:, :2].astype(int)
    points = np.stack([x[below][:, [0, 0, 1, 1]], np.empty((n - 1, 4))], axis=-1)
    points[:, (0, 3), 1] = heights[below]
    points[:, (1, 2), 1] = heights[n:, None]
    colours = [
        _colour(layer, owner[leaf], height <= layer.height)
        for leaf, height in zip(_first_leaves(merges), merges[:, 2], strict=True)
    ]
    ax.axhspan(*np.maximum(layer.plateau, low), color=GRID, linewidth=0)
    ax.axhline(layer.height, color=CUT, linewidth=1.2, linestyle=(0, (4, 2)))
    ax.add_collection(LineCollection(list(points), colors=colours, linewidths=min(1.2, 0.4 + 120 / n)), autolim=False)
    ax.set_yscale("log")
    ax.set(xlim=(-1, n), ylim=(low, top), xlabel=f"{n} units of {len(layer.used)} students; numbers: clusters kept")
    ax.set_ylabel("height of the merge")
    ax.grid(visible=False, axis="x")
    _number(ax, [float(np.mean(place[list(cluster.units)])) for cluster in layer.kept], "x")
    key: list[Artist] = [
        Line2D([], [], color=KEPT[0], label="kept"), Line2D([], [], color=DROPPED, label="dropped"),
        Line2D([], [], color=SINGLE, label="single units, and above the cut"),
        Patch(color=GRID, label="plateau"), Line2D([], [], color=CUT, linestyle=(0, (4, 2)), label="cut"),
    ]  # fmt: skip
    key_above(ax, key)
    return ax


@styled
def similarities(layer: StudentLayer, ax: Axes | None = None) -> Axes:
    """Draw cosines of all pairs of hyperplanes, without sign where signs are free, in the order of the clusters.

    Raises
    ------
    InputError
        If the layer has no tree.
    """
    _merges(layer)
    ax = ax or own_axes(7.2, 5.2, left=0.35, right=2.25, bottom=0.35, top=0.15)
    kept, dropped = layer.kept, [cluster for cluster in layer.clusters if cluster.dropped]
    clustered = [unit for cluster in (*kept, *dropped) for unit in cluster.units]
    single = sorted(set(range(len(layer.hyperplanes))) - set(clustered))
    rows = layer.hyperplanes[[*clustered, *single]]
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)
    cosine, n = rows @ rows.T, len(rows)
    image = ax.imshow(
        np.abs(cosine) if layer.projective else cosine, cmap="Blues" if layer.projective else "RdBu_r",
        vmin=0 if layer.projective else -1, vmax=1, interpolation="none" if n <= SHARP else "auto",
    )  # fmt: skip
    ends = np.cumsum([0, *(len(cluster.units) for cluster in kept)])
    for start, end in pairwise(ends.tolist()):
        ax.add_patch(Rectangle((start - 0.5, start - 0.5), end - start, end - start, fill=False, edgecolor=CUT, lw=1.2))
    middles = [float(middle) for middle in (ends[:-1] + ends[1:] - 1) / 2]
    _number(ax, middles, "y")
    _number(ax, middles, "x")
    ax.grid(visible=False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    parts = {"kept": int(ends[-1]), "dropped": len(clustered) - int(ends[-1]), "single": len(single)}
    edges = np.cumsum([0, *parts.values()])
    for edge in edges[1:-1]:
        if 0 < edge < n:
            ax.plot([edge - 0.5, n + 0.01 * n], [edge - 0.5] * 2, color=MUTED, linewidth=0.6, clip_on=False)
    named = [
        Label(f"{name}: {count} unit{'' if count == 1 else 's'}", n - 1, (start + end - 1) / 2, INK)
        for (name, count), start, end in zip(parts.items(), edges[:-1], edges[1:], strict=True)
        if count
    ]
    right_of(ax, named)
    bar = ax.figure.colorbar(image, cax=ax.inset_axes((1.31, 0.0, 0.025, 1.0)))
    bar.outline.set_visible(False)
    bar.ax.set_ylabel("|cosine| of two hyperplanes" if layer.projective else "cosine of two hyperplanes")
    return ax


@styled
def kept_and_dropped(layer: StudentLayer, ax: Axes | None = None) -> Axes:
    """Draw each cluster's outgoing weight against the students it holds, with the rules by which clusters are dropped.

    Raises
    ------
    InputError
        If the layer has no clusters.
    """
    _merges(layer)
    ax = ax or own_axes(WIDTH, 3.2, left=0.7, right=0.1, bottom=0.5, top=0.35)
    held = [len(c.units) if layer.counts_units else c.n_students for c in layer.clusters]
    weights = np.array([cluster.outgoing for cluster in layer.clusters])
    largest = float(weights.max(initial=0.0)) or 1.0
    low = max(1e-9 * largest, min([layer.smallest_outgoing or largest, *weights[weights > 0]]) / 3)
    series: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for cluster, x, y in zip(layer.clusters, held, weights, strict=True):
        rule = cluster.dropped.split()[0] if cluster.dropped else ""
        marker, colour = OTHER_RULES.get(rule, ("o", KEPT[0]))
        series.setdefault((rule_of(cluster.dropped), marker, colour), []).append((x, max(float(y), low)))
    for (name, marker, colour), points in series.items():
        label = f"{'' if name == 'kept' else 'dropped: '}{name} ({len(points)})"
        ax.plot(*zip(*points, strict=True), marker, color=colour, alpha=0.75, markeredgewidth=0, label=label)
    ax.set_yscale("log")
    right = max([layer.needed, *held]) * 1.04 + 0.5
    ax.set(xlim=(0, right), ylim=(low / 1.5, largest * 3))
    ax.axvline(layer.needed - 0.5, color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)), zorder=0.5)
    if layer.smallest_outgoing:
        ax.axhline(layer.smallest_outgoing, color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)), zorder=0.5)
    corner = (layer.needed - 0.5, max(layer.smallest_outgoing, low / 1.5))
    ax.add_patch(
        Rectangle(
            corner, right - corner[0], 3 * largest - corner[1], color=KEPT[1], alpha=0.15, linewidth=0, zorder=0.4
        )
    )
    ax.set_xlabel(f"{'units' if layer.counts_units else 'students'} in the cluster")
    ax.set_ylabel("outgoing weight")
    ax.xaxis.set_major_locator(MaxNLocator(10, steps=[1, 2, 5, 10], integer=True))
    key_above(ax, ax.get_legend_handles_labels()[0])
    return ax


def _merges(layer: StudentLayer) -> NDArray[np.float64]:
    if layer.merges is None:
        raise InputError(
            "a layer has no tree to draw", where=layer.name, got=f"{len(layer.used)} students used",
            expected="clusters that survive",
        )  # fmt: skip
    return layer.merges


def _owners(layer: StudentLayer) -> NDArray[np.int64]:
    """Return the cluster of each unit (U,), −1 if it is single."""
    owner = np.full(len(layer.hyperplanes), -1)
    for index, cluster in enumerate(layer.clusters):
        owner[list(cluster.units)] = index
    return owner


def _places(merges: NDArray[np.float64], first: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return where on the x-axis each node stands, leaves first, and the leaves alone; at each merge the branch with
    the larger share of ``first`` (U,) is on the left. Without recursion: trees are as deep as they like.
    """
    n = len(merges) + 1
    below = merges[:, :2].astype(int)
    sums, sizes = np.concatenate([first.astype(float), np.zeros(n - 1)]), np.ones(2 * n - 1)
    for step, (a, b) in enumerate(below):
        sums[n + step], sizes[n + step] = sums[a] + sums[b], sizes[a] + sizes[b]
    x, waiting, free = np.empty(2 * n - 1), [2 * n - 2], 0
    while waiting:
        node = waiting.pop()
        if node < n:
            x[node], free = free, free + 1
        else:
            a, b = below[node - n]
            left, right = (a, b) if sums[a] / sizes[a] >= sums[b] / sizes[b] else (b, a)
            waiting += [right, left]
    for step, pair in enumerate(below):
        x[n + step] = x[pair].mean()
    return x, x[:n]


def _first_leaves(merges: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return one leaf below each merge (U − 1,)."""
    n = len(merges) + 1
    leaf = np.arange(2 * n - 1)
    for step, node in enumerate(merges[:, 0].astype(int)):
        leaf[n + step] = leaf[node]
    return leaf[n:]


def _colour(layer: StudentLayer, owner: int, below_the_cut: bool) -> str:
    if not below_the_cut or owner < 0:
        return SINGLE
    return KEPT[owner % 2] if not layer.clusters[owner].dropped else DROPPED


def _number(ax: Axes, places: Sequence[float], axis: str) -> None:
    """Number places along an axis from 1, as many as can be read; of those too close to the last, the later go."""
    shown: list[tuple[float, str]] = []
    last = -np.inf
    for number, place in sorted(enumerate(places, 1), key=lambda each: each[1]):
        x, y = at(ax, place, place)
        here = x if axis == "x" else -y
        room = width_of(str(number)) + 4 if axis == "x" else LINE
        if here - last >= room:
            shown.append((place, str(number)))
            last = here
    ticks = ax.xaxis if axis == "x" else ax.yaxis
    ticks.set_major_locator(FixedLocator([place for place, _ in shown]))
    ticks.set_minor_locator(NullLocator())
    ticks.set_ticklabels([text for _, text in shown])
    ticks.set_tick_params(length=0)


def key_above(ax: Axes, handles: Sequence[Artist]) -> None:
    """Write a legend in one line above the axes, to the right."""
    ax.legend(
        handles=list(handles), loc="lower right", bbox_to_anchor=(1, 1 + 4 / size_of(ax)[1]), borderaxespad=0,
        borderpad=0, ncols=len(handles), handlelength=1.4, handletextpad=0.5, columnspacing=1.4,
    )  # fmt: skip
