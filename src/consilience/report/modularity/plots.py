"""The plots of a measurement of modularity. Each draws on a figure of its own and returns it.

A cluster has one color, which repeats from the thirteenth on, and its number. Units without an edge are grey.

Axis legend: ``u`` units written, ``i`` units read, ``k`` spectral coordinates, ``o`` classes, ``c`` clusters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from consilience.errors import InputError
from consilience.modularity import Circuit, Clusterability, CrossModularity
from consilience.modularity.cross import entries
from consilience.modularity.graph import Part
from consilience.modularity.lesions import Lesions, Specialisation
from consilience.report.modularity.result import BEYOND, NetworkRow, beyond, of_each
from consilience.report.numbers import decimal
from consilience.report.plots import count_ticks, dot, heat_map, legend_above, plain_log_ticks, runs, strip
from consilience.report.style import GRID, INK, MUTED, SMALL, new_axes, new_figure, shortened, styled

Array = NDArray[np.float64]
SHOWN, BLUE, GREY = "#9b3fa0", "#1c67ad", "#9a9a9a"
SHUFFLED = "#cfcfcb"
CLUSTERS = (
    *("#1a4dcc", "#e6334d", "#ffcc1a", "#00e6ff", "#801a80", "#4d4d00"),
    *("#99004d", "#cc8000", "#b3cc66", "#ff4db3", "#cc80ff", "#66b380"),
)
KINDS = {"member": ("o", "#5e5e5e"), "assembly": ("D", BLUE), "network": ("^", INK)}
CRITERIA = {"class": ("o", SHOWN, "class (published)"), "one-vs-rest": ("s", BLUE, "one-vs-rest")}
MARKERS = {"inputs": "s", "hidden units": "o", "outputs": "D"}
NAMED = 8  # networks of one kind, beyond which they share one label
MANY = 1000  # units, beyond which a vector for each would make the page heavy and no sharper
LARGEST, BLOCKS = 400, 200  # rows or columns that are drawn one by one, and number of blocks that larger ones become
COLUMNS = 4  # weight matrices in a row
BRIGHTEST = 0.995  # share of a matrix's entries within the color scale


def cluster_color(label: int) -> str:
    """Return the color of a cluster; grey for −1, no cluster."""
    return GREY if label < 0 else CLUSTERS[label % len(CLUSTERS)]


@styled
def n_cuts(rows: Sequence[NetworkRow], detail: Clusterability, name: str) -> Figure:
    """Draw the n-cuts of a network and its shuffled copies, and below, those of all networks beside their copies."""
    null = detail.null_[np.isfinite(detail.null_)]
    rows = [row for row in rows if math.isfinite(row.n_cut)]
    if not len(null) and not rows:
        raise InputError("rows must have a finite n-cut, got none")
    figure = new_figure(2.6 + 0.16 * len(rows))
    axes = figure.subplots(2, 1, sharex=True, height_ratios=[1.4, 0.6 + 0.16 * len(rows)])
    if len(null):
        axes[0].hist(null, bins=min(20, max(5, math.ceil(len(null) ** 0.5) + 1)), color=SHUFFLED)
        axes[0].axvline(detail.n_cut_, color=SHOWN, linewidth=2, label=shortened(name, 40))
        legend_above(axes[0])
    axes[0].set(yticks=[], ylabel=f"{len(null)} copies")
    rows = sorted(rows, key=lambda row: (row.kind != "member", row.n_cut if len(rows) > NAMED else 0))
    for place, row in enumerate(rows):
        marker, color = KINDS[row.kind]
        if math.isfinite(row.null_mean):
            spread = 2 * np.nan_to_num(row.null_sd)
            axes[1].hlines(place, row.null_mean - spread, row.null_mean + spread, color=SHUFFLED, linewidth=4)
        axes[1].plot([row.n_cut], [place], marker, color=color, markersize=4.5, markeredgewidth=0)
    kinds = [row.kind for row in rows]
    many = {kind for kind in kinds if kinds.count(kind) > NAMED}
    single = {place: shortened(row.name) for place, row in enumerate(rows) if row.kind not in many}
    shared = {kinds.index(kind) + kinds.count(kind) // 2: f"{kinds.count(kind)} {kind}s" for kind in many}
    names = dict(sorted((single | shared).items()))
    axes[1].set_yticks(list(names), list(names.values()))
    axes[1].set(ylim=(len(rows) - 0.4, -0.6), xlabel="n-cut (low: weakly connected clusters)")
    handles = [dot(KINDS[kind][1], kind, KINDS[kind][0]) for kind in sorted(set(kinds))]
    copies = Patch(color=SHUFFLED, label="shuffled copies (mean ± 2 sd)")
    if rows:
        axes[1].legend(handles=[*handles, copies], fontsize=SMALL)
    for ax in axes:
        ax.grid(visible=False, axis="y")
    return figure


@styled
def eigenvalue_gaps(eigenvalues: Array, n_clusters: int) -> Figure:
    """Draw the k + 1 smallest eigenvalues of the normalized Laplacian, ascending, and their gaps after the second."""
    if len(eigenvalues) < 3 or not np.isfinite(eigenvalues).all():
        raise InputError(f"eigenvalues must be three or more finite numbers, got {eigenvalues}")
    figure = new_figure(2.7)
    left, right = figure.subplots(1, 2)
    gaps, k = np.diff(eigenvalues), np.arange(1, len(eigenvalues) + 1)
    left.plot(k, eigenvalues, "o", color=BLUE, markeredgewidth=0)
    left.set(xlabel="eigenvalue, from the smallest", ylabel="value")
    right.bar(k[1:-1], gaps[1:], width=0.7, color=[SHOWN if number == n_clusters else GREY for number in k[1:-1]])
    right.set(xlabel="gap after eigenvalue", ylabel="size of the gap")
    legend_above(right, [Patch(color=SHOWN, label=f"after eigenvalue {n_clusters}: number of clusters")])
    for ax in (left, right):
        count_ticks(ax.xaxis, 13)
        ax.set_xlim(0.4, len(eigenvalues) + 0.6)
        ax.grid(visible=False, axis="x")
    return figure


@styled
def graph_embedding(labels: Mapping[str, NDArray[np.int64]], coordinates: Mapping[str, Array]) -> Figure:
    """Draw all units with an edge in a plane; strong weights connect near units with the same units.

    Coordinates of a unit are scaled to length 1 (Ng, Jordan and Weiss 2001), so that weak units do not lie far out. The
    plane is the one in which the means of the clusters lie farthest apart.
    Inputs and layers have the cluster of each unit (u,), −1 for no edge, and its coordinates (u, k).
    """
    found, points, kinds = _plane(labels, coordinates)
    present, many = np.unique(found).tolist(), len(points) > MANY
    figure, ax = new_axes(4.6)
    for kind, marker in MARKERS.items():
        inside = kinds == kind
        colors = [cluster_color(label) for label in found[inside].tolist()]
        style: Any = {"s": 12 if many else 30, "alpha": 0.85, "linewidths": 0.4, "edgecolors": "white"}
        x, y = points[inside].T
        ax.scatter(x, y, c=colors, marker=marker, rasterized=many, **style)
    for label in present:
        x, y = points[found == label].mean(0)
        halo = [withStroke(linewidth=3.5, foreground="white")]
        number: Any = {"fontsize": 10, "fontweight": "bold", "ha": "center", "va": "center", "path_effects": halo}
        ax.text(x, y, str(label), color=cluster_color(label), **number)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(True)
    handles = [dot(cluster_color(label), f"{label}: {(found == label).sum()} units") for label in present]
    columns = -(-len(present) // 24)
    figure.legend(handles=handles, loc="outside right center", ncols=columns, title="cluster", fontsize=SMALL)
    legend_above(ax, [dot(MUTED, kind, marker) for kind, marker in MARKERS.items()])
    return figure


@styled
def weight_matrices(
    matrices: Sequence[tuple[Part, CrossModularity | None]], labels: Mapping[str, NDArray[np.int64]]
) -> Figure:
    """Draw each weight matrix with rows and columns in the order of their clusters, and its C.

    Matrices with more than 400 rows or columns are drawn by means of blocks. Beside each are the clusters' colors.
    """
    if not matrices:
        raise InputError("matrices must have one weight matrix or more, got none")
    n_rows = -(-len(matrices) // COLUMNS)
    figure = new_figure(2.5 * n_rows)
    panels = figure.subplots(n_rows, COLUMNS, squeeze=False).ravel()
    for panel, (part, cross) in zip(panels, matrices, strict=False):
        _matrix(panel, part, cross, (labels[part.written], labels[part.read]))
    for panel in panels[len(matrices) :]:
        panel.set_axis_off()
    return figure


@styled
def class_clusters(probe: Specialisation) -> Figure:
    """Draw accuracy (or R²) lost by each class (output) with each cluster off, and left with each alone, in %."""
    names, classes = [str(label) for label in probe.labels], [str(label) for label in range(len(probe.before))]
    figure = new_figure(1.2 + 0.42 * (len(names) + 1))
    off, alone = figure.subplots(2, 1, sharex=True, height_ratios=[len(names), len(names) + 1])
    largest = 100 * float(np.nanmax(np.abs(probe.drop), initial=0.01))
    digits = 0 if len(classes) <= 24 else None
    heat_map(off, 100 * probe.drop.T, colors="RdBu_r", limits=(-largest, largest), rows=names, digits=digits)
    both = 100 * np.vstack([probe.before[None], probe.alone.T])
    heat_map(
        alone,
        np.maximum(both, 0),
        colors="Blues",
        limits=(0, 100),
        rows=["all on", *names],
        columns=classes,
        digits=digits,
    )
    alone.axhline(0.5, color="white", linewidth=2.5)
    off.set_title(f"{probe.metric} lost (points)", loc="left")
    alone.set_title(f"{probe.metric} left (%{', below 0 as 0' if both.min(initial=0) < 0 else ''})", loc="left")
    off.set_ylabel("cluster off")
    alone.set(ylabel="cluster alone", xlabel=of_each(probe))
    return figure


@styled
def class_circuits(circuits: Sequence[Circuit]) -> Figure:
    """Draw the weights that each class needs, by criterion, and the samples that its circuit gets right, in %."""
    circuits = [circuit for circuit in circuits if math.isfinite(circuit.size)]
    if not circuits:
        raise InputError("circuits must have a finite size, got none")
    classes = list(dict.fromkeys(circuit.label for circuit in circuits))
    criteria = sorted({circuit.criterion for circuit in circuits})
    figure = new_figure(2.4 + 0.25 * 2 * len(criteria))
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2.0, 0.25 * 2 * len(criteria)])
    low = min([100 * circuit.size for circuit in circuits if circuit.size > 0] or [100.0]) / 1.6
    rates: dict[str, list[float]] = {}
    for place, criterion in enumerate(criteria):
        marker, color, label = CRITERIA[criterion]
        of_class = {circuit.label: circuit for circuit in circuits if circuit.criterion == criterion}
        x = np.array([classes.index(name) for name in of_class]) + (place - (len(criteria) - 1) / 2) * 0.24
        y = np.maximum([100 * circuit.size for circuit in of_class.values()], low)
        above.vlines(x, low, y, color=color, linewidth=min(1.2, 100 / len(classes)), alpha=0.45)
        above.plot(x, y, marker, color=color, markeredgewidth=0, label=label, clip_on=False)
        for rate in ("tpr", "tnr"):
            values = [getattr(of_class[name], rate) if name in of_class else math.nan for name in classes]
            rates[f"{rate.upper()}, {criterion}"] = values
    above.set_yscale("log")
    above.set(ylabel="weights left (%)", ylim=(low, None))
    plain_log_ticks(above.yaxis)
    above.grid(visible=False, axis="x")
    legend_above(above)
    digits = 0 if len(classes) <= 24 else None
    named: Any = {"rows": list(rates), "columns": [str(name) for name in classes]}
    heat_map(below, 100 * np.array(list(rates.values())), colors="Blues", limits=(0, 100), digits=digits, **named)
    below.set_title("samples that the circuit gets right (%)", loc="left")
    below.set_xlabel("class")
    return figure


@styled
def cluster_lesions(lesions: Lesions) -> Figure:
    """Draw accuracy lost with each cluster off, beside random units off; and what two off cost beyond the sum."""
    effects, n = lesions.accuracy, len(lesions.labels)
    if not np.isfinite(effects.single).any():
        raise InputError("lesions must have a finite loss of accuracy, got none")
    figure = new_figure(3.2)
    single, double = figure.subplots(1, 2, width_ratios=[1.4, 1])
    x, mean, spread = np.arange(n), 100 * effects.mean, 100 * BEYOND * np.nan_to_num(effects.sd)
    single.vlines(x, mean - spread, mean + spread, color=SHUFFLED, linewidth=min(9.0, 100 / n))
    single.plot(x, mean, "_", color=GREY, markersize=min(9.0, 100 / n))
    faces = np.where(beyond(effects), SHOWN, "white").tolist()
    single.scatter(x, 100 * effects.single, s=28, c=faces, edgecolors=SHOWN, linewidths=1.2, zorder=3)
    texts = [f"{label}\n{size}" for label, size in zip(lesions.labels, lesions.sizes, strict=True)]
    step = -(-n // 16)
    single.set_xticks(x[::step], texts[::step])
    single.set(xlabel="cluster, and number of its units", ylabel=f"{lesions.metric} lost (points)")
    single.grid(visible=False, axis="x")
    random = Line2D([], [], color=SHUFFLED, linewidth=6, label="random units off (mean ± 2 sd)")
    legend_above(single, [dot(SHOWN, "cluster off"), random])
    excess, names = 100 * effects.excess, [str(label) for label in lesions.labels]
    largest = float(np.nanmax(np.abs(excess), initial=1.0))
    heat_map(double, excess, colors="RdBu_r", limits=(-largest, largest), rows=names, columns=names)
    double.set(xlabel="cluster off", ylabel="and another off")
    double.set_title("lost beyond the sum of both (points)", loc="left")
    return figure


def by_blocks(values: Array, largest: int = LARGEST, blocks: int = BLOCKS) -> Array:
    """Return a matrix in which more than ``largest`` rows, or columns, are means of so many nearly equal blocks.

    >>> by_blocks(np.arange(8.0).reshape(2, 4), largest=3, blocks=2)
    array([[0.5, 2.5],
           [4.5, 6.5]])
    """
    for axis, length in enumerate(values.shape):
        if length > largest:
            edges = np.linspace(0, length, blocks + 1).astype(int)
            size = np.diff(edges)
            values = np.add.reduceat(values, edges[:-1], axis=axis) / (size[:, None] if axis == 0 else size)
    return values


def _plane(
    labels: Mapping[str, NDArray[np.int64]], coordinates: Mapping[str, Array]
) -> tuple[NDArray[np.int64], Array, NDArray[np.str_]]:
    """Cluster, place in the plane and kind of each unit with an edge."""
    names = list(labels)
    kinds = {name: "inputs" if name.startswith("inputs") else "hidden units" for name in names} | {names[-1]: "outputs"}
    kind = np.concatenate([np.full(len(labels[name]), kinds[name]) for name in names])
    found, points = (np.concatenate([values[name] for name in names]) for values in (labels, coordinates))
    length = np.linalg.norm(points, axis=1)
    used = (found >= 0) & np.isfinite(length) & (length > 0)
    if not used.any() or points.shape[1] < 2:
        raise InputError(f"units must have clusters and two coordinates, got {int(used.sum())} and {points.shape[1]}")
    found, kind, directions = found[used], kind[used], points[used] / length[used, None]
    means = np.array([directions[found == label].mean(0) for label in np.unique(found)])
    axes = np.linalg.svd(means - means.mean(0))[2][:2]
    axes *= np.sign(axes[[0, 1], np.abs(axes).argmax(1)])[:, None]
    return found, directions @ axes.T, kind


def _matrix(ax: Axes, part: Part, cross: CrossModularity | None, labels: tuple[NDArray[np.int64], ...]) -> None:
    orders = [np.argsort(np.where(of < 0, of.max() + 1, of), kind="stable") for of in labels]
    weights = entries(part)
    shown = by_blocks(weights[np.ix_(*orders)])
    brightest = float(np.quantile(shown, BRIGHTEST)) or float(shown.max(initial=0.0)) or 1.0
    n_rows, n_columns = weights.shape
    extent = (0, n_columns, n_rows, 0)
    ax.imshow(shown, cmap="Blues", vmin=0, vmax=brightest, interpolation="none", aspect="auto", extent=extent)
    for axis, (of, order) in enumerate(zip(labels, orders, strict=True)):
        for label, (start, end) in runs(of[order].tolist()):
            if start:
                (ax.axvline if axis else ax.axhline)(start, color=MUTED, linewidth=0.5)
            strip(ax, 1.01 if axis else -0.05, 0.04, (start, end), cluster_color(label), is_row=bool(axis))
    ax.set(xticks=[], yticks=[])
    ax.grid(visible=False)
    ax.spines[:].set(visible=True, linewidth=0.5, color=GRID)
    ax.set_xlabel(f"{shortened(part.read, 22)} ({n_columns})", fontsize=SMALL)
    ax.set_ylabel(f"{shortened(part.written, 18)} ({n_rows})", fontsize=SMALL, labelpad=8)
    null = f" (shuffled {decimal(cross.null_mean)}, z {decimal(cross.z, 1)})" if cross and len(cross.null) else ""
    ax.set_title(shortened(part.map) + (f"\nC {decimal(cross.value)}{null}" if cross else ""), pad=9)
