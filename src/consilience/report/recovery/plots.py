"""The plots of a recovery. Each draws on a figure of its own and returns it.

Clusters that are kept are blue, dark and light in turn; clusters that are dropped are brown, single units grey.

Axis legend: ``U`` units of all students, ``v`` nodes of their tree, ``c`` clusters.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axis import Axis
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FixedLocator, NullLocator
from numpy.typing import NDArray

from consilience.errors import InputError
from consilience.recovery.clusters import Cut, StudentUnits
from consilience.recovery.distance import Distance
from consilience.recovery.recover import Stage
from consilience.report.numbers import counted
from consilience.report.plots import count_ticks, heat_map, legend_above, legend_beside, strip, tree_branches
from consilience.report.recovery.result import RecoveryResult, rule_of
from consilience.report.style import GRID, INK, MUTED, OTHER_COLOURS, OTHER_MARKERS, new_axes, styled

KEPT, DROPPED, SINGLE, CUT = ("#1c67ad", "#74b3e3"), "#b3541e", "#9a9a9a", "#9b3fa0"
RULES = {"": ("o", KEPT[0]), "angle": ("X", CUT), "outgoing": ("s", "#8a7a1f")}  # first word of a rule → its look
COLORS, MARKERS = (KEPT[0], *OTHER_COLOURS), ("o", *OTHER_MARKERS)  # of layers
DASHED, DOTTED = (0, (4, 2)), (0, (2, 2))
LOWEST = 1e-34  # an error of exactly 0 is drawn here
DEEPEST = 1e-12  # of the highest merge: duplicates that are nearer to each other are drawn at this height
NUMBERS = 40  # along an axis, at most


@styled
def tree_of_units(stage: Stage) -> Figure:
    """Draw the tree of the students' units, heights on a logarithmic scale, with the plateau and the cut."""
    units, cut = _clustered(stage)
    tree, n, owner = cut.tree, len(units), _owners(cut, len(units))
    left, right = tree.children.T
    is_kept = (owner >= 0) & (owner < len(cut.kept))
    shares = tree.accumulate(is_kept.astype(np.float64)) / tree.sizes
    places, branches = tree_branches(tree, shares[left] < shares[right])  # kept clusters on the left
    top = 2 * float(tree.heights[-1]) or 1.0
    low = max(DEEPEST * top, min([cut.plateau[0], *tree.heights[tree.heights > 0]]) / 2)
    branches[..., 1] = np.maximum(branches[..., 1], low)
    owners = tree.accumulate(owner, lambda first, _: first)[n:]
    colors = [_color(cut, of, height) for of, height in zip(owners.tolist(), tree.heights.tolist(), strict=True)]
    figure, ax = new_axes(3.9)
    ax.axhspan(*np.maximum(cut.plateau, low), color=GRID, linewidth=0)
    ax.axhline(cut.height, color=CUT, linewidth=1.2, linestyle=DASHED)
    ax.add_collection(LineCollection(list(branches), colors=colors, linewidths=min(1.2, 0.4 + 120 / n)), autolim=False)
    ax.set(yscale="log", xlim=(-1, n), ylim=(low, top), ylabel="height of the merge")
    ax.set_xlabel(f"{n} units of {len(stage.used)} students; numbers: clusters kept")
    ax.grid(visible=False, axis="x")
    _number(ax.xaxis, [float(places[cluster.units].mean()) for cluster in cut.kept], n)
    looks = {"kept": KEPT[0], "dropped": DROPPED, "single units, and above the cut": SINGLE}
    lines = [Line2D([], [], color=color, label=label) for label, color in looks.items()]
    line = Line2D([], [], color=CUT, linestyle=DASHED, label="cut")
    legend_above(ax, [*lines, Patch(color=GRID, label="plateau"), line], n_columns=5)
    return figure


@styled
def similarities(stage: Stage) -> Figure:
    """Draw cosines of all pairs of hyperplanes, without sign where signs are free, in the order of the clusters."""
    units, cut = _clustered(stage)
    owner = _owners(cut, len(units))
    order = np.argsort(np.where(owner < 0, len(cut.clusters), owner), kind="stable")
    rows = units.hyperplanes[order]
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)
    cosines, n = rows @ rows.T, len(rows)
    figure, ax = new_axes(5.2, 6.0)
    if units.projective:
        heat_map(ax, np.abs(cosines), colors="Blues", limits=(0, 1))
    else:
        heat_map(ax, cosines, colors="RdBu_r", limits=(-1, 1))
    ends = np.cumsum([0, *(len(cluster.units) for cluster in cut.kept)]).tolist()
    for start, end in pairwise(ends):
        ax.add_patch(Rectangle((start - 0.5, start - 0.5), end - start, end - start, fill=False, edgecolor=CUT, lw=1.2))
    middles = [(start + end - 1) / 2 for start, end in pairwise(ends)]
    for axis in (ax.xaxis, ax.yaxis):
        _number(axis, middles, n)
    n_clustered = int((owner >= 0).sum())
    parts = {"kept": (0, ends[-1]), "dropped": (ends[-1], n_clustered), "single": (n_clustered, n)}
    handles = []
    for (name, (start, end)), color in zip(parts.items(), (KEPT[0], DROPPED, SINGLE), strict=True):
        handles.append(Patch(color=color, label=f"{name}: {counted(end - start, 'unit')}"))
        strip(ax, 1.01, 0.02, (start - 0.5, end - 0.5), color)
    legend_above(ax, handles)
    ax.set_xlabel(f"units of students; color: {'|cosine|' if units.projective else 'cosine'} of two hyperplanes")
    return figure


@styled
def kept_and_dropped(stage: Stage) -> Figure:
    """Draw each cluster's outgoing weight against its students, with the rules by which clusters are dropped."""
    _, cut = _clustered(stage)
    weights, smallest = np.array([cluster.outgoing for cluster in cut.clusters]), cut.smallest_outgoing
    largest = float(weights.max(initial=0.0)) or 1.0
    low = max(1e-9 * largest, min([smallest or largest, *weights[weights > 0]]) / 3)
    held = np.array([len(c.units) if cut.counts_units else c.n_students for c in cut.clusters])
    names = np.array([rule_of(cluster.dropped) for cluster in cut.clusters])
    figure, ax = new_axes(3.2)
    for name in dict.fromkeys(names.tolist()):
        of_rule = names == name
        marker, color = RULES.get("" if name == "kept" else name.split()[0], ("v", DROPPED))
        label = f"{'' if name == 'kept' else 'dropped: '}{name} ({of_rule.sum()})"
        y = np.maximum(weights[of_rule], low)
        ax.plot(held[of_rule], y, marker, color=color, alpha=0.75, markeredgewidth=0, label=label)
    right, bottom = max([cut.needed, *held]) * 1.04 + 0.5, low / 1.5
    ax.set(yscale="log", xlim=(0, right), ylim=(bottom, 3 * largest), ylabel="outgoing weight")
    ax.set_xlabel(f"{'units' if cut.counts_units else 'students'} in the cluster")
    ax.axvline(cut.needed - 0.5, color=MUTED, linewidth=0.9, linestyle=DOTTED, zorder=0.5)
    if smallest:
        ax.axhline(smallest, color=MUTED, linewidth=0.9, linestyle=DOTTED, zorder=0.5)
    x, y = [cut.needed - 0.5, right], max(smallest, bottom)
    ax.fill_between(x, y, 3 * largest, color=KEPT[1], alpha=0.15, linewidth=0, zorder=0.4)
    count_ticks(ax.xaxis)
    legend_above(ax)
    return figure


@styled
def training_errors(result: RecoveryResult) -> Figure:
    """Draw the errors of the students, sorted, and of the network, also on fresh inputs if there is a teacher."""
    losses = {name: stage.students.losses.numpy() for name, stage in result.layers.items()}
    if not any(np.isfinite(of_layer).any() for of_layer in losses.values()):
        raise InputError(f"a student must have a finite error, got none in {len(losses)} layers")
    figure, ax = new_axes(3.3)
    drawn = list[float]()
    for index, (name, stage) in enumerate(result.layers.items()):
        color, marker = COLORS[index % len(COLORS)], MARKERS[index % len(MARKERS)]
        order = [k for k in np.argsort(losses[name]).tolist() if np.isfinite(losses[name][k])]
        values = np.maximum(losses[name][order], LOWEST)
        faces = [color if k in stage.used else "white" for k in order]
        place = np.arange(len(order)) + 1
        ax.scatter(place, values, s=26, c=faces, edgecolors=color, marker=marker, linewidths=1, zorder=3)
        ax.plot([], [], marker, color=color, label=f"students of {name}")
        drawn += values.tolist()
    lines: dict[str, tuple[float, str, Any]] = {"students must reach": (result.limit, MUTED, DOTTED)}
    if np.isfinite(result.diagnostics.error):
        lines["recovered network"] = (result.diagnostics.error, CUT, "-")
    if result.distance is not None:
        lines["it, on fresh inputs"] = (result.distance.function_error**2, INK, DASHED)
    for name, (value, color, style) in sorted(lines.items(), key=lambda item: -item[1][0]):
        drawn.append(max(value, LOWEST))
        ax.axhline(drawn[-1], color=color, linewidth=1.2, linestyle=style, label=f"{name} {value:.0e}")
    ax.set(yscale="log", ylim=(min(drawn) / 10, max(drawn) * 10), xlim=(0.5, max(map(len, losses.values())) + 0.5))
    ax.set(xlabel="students, by error", ylabel="error (share of the variance)")
    count_ticks(ax.xaxis)
    legend_beside(ax)
    return figure


@styled
def recovered_weights(distance: Distance) -> Figure:
    """Draw recovered weights against the teacher's, after matching; on the line they are equal."""
    if not has_pairs(distance):
        raise InputError("units must be paired with the teacher's, got no pair")
    pairs = [(true.flatten().numpy(), found.flatten().numpy()) for true, found in distance.weights]
    values = np.concatenate([values for pair in pairs for values in pair])
    margin = 0.06 * float(np.ptp(values)) or 1.0
    limits = (float(values.min()) - margin, float(values.max()) + margin)
    figure, ax = new_axes(4.2, 5.0)
    ax.plot(limits, limits, color=SINGLE, linewidth=0.9, zorder=1)
    names = [*(f"hidden.{depth}" for depth in range(len(pairs) - 1)), "readout"]
    for index, (name, (true, found)) in enumerate(zip(names, pairs, strict=True)):
        color, marker = COLORS[index % len(COLORS)], MARKERS[index % len(MARKERS)]
        ax.plot(true, found, marker, color=color, alpha=0.7, markeredgewidth=0, label=name)
    ax.set(xlim=limits, ylim=limits, xlabel="the teacher's weight or bias", ylabel="recovered")
    ax.legend(loc="upper left", handletextpad=0.2)
    return figure


def has_pairs(distance: Distance) -> bool:
    """Return whether there are weights to compare with the teacher's."""
    return any(len(true) for true, _ in distance.weights)


def _clustered(stage: Stage) -> tuple[StudentUnits, Cut]:
    if stage.units is None or stage.cut is None:
        raise InputError(f"a layer must have clusters that survive, got none of {len(stage.used)} students")
    return stage.units, stage.cut


def _owners(cut: Cut, n_units: int) -> NDArray[np.int64]:
    """The cluster of each unit (U,), −1 if it is single."""
    owners = np.full(n_units, -1)
    for index, cluster in enumerate(cut.clusters):
        owners[cluster.units] = index
    return owners


def _color(cut: Cut, owner: int, height: float) -> str:
    if height > cut.height or owner < 0:
        return SINGLE
    return DROPPED if cut.clusters[owner].dropped else KEPT[owner % 2]


def _number(axis: Axis, places: Sequence[float], length: int) -> None:
    """Number places along an axis from 1; of places too near to the last number, the later ones get none."""
    shown: dict[float, str] = {}
    for number, place in sorted(enumerate(places, 1), key=lambda item: item[1]):
        if not shown or place - max(shown) >= length / NUMBERS:
            shown[place] = str(number)
    axis.set_major_locator(FixedLocator(list(shown)))
    axis.set_minor_locator(NullLocator())
    axis.set_ticklabels(list(shown.values()))
    axis.set_tick_params(length=0)
