"""The parts that a network splits into: its units in the plane, and its weight matrices in the order of the clusters.

- A cluster has one colour in all pictures, and its number beside it: the colours repeat from the thirteenth on. They
  stay apart in every common colour blindness (a CIELAB distance of 20 or more between any two).
- Numbers of clusters are those of the labels, from 0; units without an edge are grey, or last.

Axis legend: ``u`` units written, ``i`` units read, ``k`` spectral coordinates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from consilience.errors import InputError
from consilience.report.labels import Label, near
from consilience.report.modularity.networks import decimal
from consilience.report.students import SINGLE, key_above
from consilience.report.style import INK, MUTED, SMALL, WIDTH, own_axes, shortened, styled

Array = NDArray[np.float64]
CLUSTERS = (
    "#1a4dcc", "#e6334d", "#ffcc1a", "#00e6ff", "#801a80", "#4d4d00", "#99004d", "#cc8000", "#b3cc66", "#ff4db3",
    "#cc80ff", "#66b380",
)  # fmt: skip
MARKERS = {"inputs": "s", "hidden units": "o", "outputs": "D"}
MANY = 1000  # units, beyond which a vector for each would make the page heavy and no sharper
LISTED, NUMBER = 24, 10.0  # clusters in a column of the list; points, size of their numbers
LARGEST, BLOCKS = 400, 200  # rows or columns that are drawn one by one, and what more of them are averaged to
COLUMNS, PANEL, PITCH = 4, 1.62, 2.175  # weight matrices in a row; the side of each and the step to the next, in inches
BRIGHTEST = 0.995  # share of a matrix's entries that its colours reach


@dataclass(frozen=True, eq=False)
class UnitsOf:
    """The units of one layer, or the inputs.

    Attributes
    ----------
    labels : (u,) cluster of each, from 0; −1 for units without an edge.
    coordinates : (u, k) spectral coordinates D^{-1/2} u.
    """

    labels: NDArray[np.int64]
    coordinates: Array


@dataclass(frozen=True, eq=False)
class WeightMatrix:
    """One weight matrix, and its cross-cluster modularity.

    Attributes
    ----------
    map : its name.
    read, written : names of the groups of units that it leads from, and to.
    weights : (u, i), 0 or more: absolute values, or norms of kernels.
    value : C, of clusters found in this matrix by itself; NaN if it was not measured.
    null : C of shuffled matrices.
    z : of the value among these.
    """

    map: str
    read: str
    written: str
    weights: Array
    value: float
    null: Array
    z: float


def cluster_colour(label: int) -> str:
    """Return the colour of a cluster; grey for −1, no cluster."""
    return SINGLE if label < 0 else CLUSTERS[label % len(CLUSTERS)]


@styled
def graph_embedding(groups: Mapping[str, UnitsOf], ax: Axes | None = None) -> Axes:
    """Draw all units that have an edge in a plane: near are those that strong weights connect with the same units.

    Coordinates of a unit are scaled to length 1 (Ng, Jordan and Weiss 2001), so that weak units do not lie far out.
    Shown is the plane in which the means of the clusters lie farthest apart; it has more in common with k-means, which
    found the clusters in all coordinates, than the first eigenvectors have, of which one is depth.

    Parameters
    ----------
    groups : inputs and layers → their units; names of inputs begin with "inputs", the last layer is the output.

    Raises
    ------
    InputError
        If no unit has a cluster and finite coordinates, or coordinates are fewer than two.
    """
    labels, points, kinds = _plane(groups)
    present, many = np.unique(labels).tolist(), len(points) > MANY
    columns = -(-len(present) // LISTED)
    ax = ax or own_axes(WIDTH, 4.6, left=0.1, right=0.6 + 1.25 * columns, bottom=0.1, top=0.35)
    for kind, marker in MARKERS.items():
        own = kinds == kind
        colours = [cluster_colour(label) for label in labels[own].tolist()]
        ax.scatter(
            points[own, 0], points[own, 1], s=12 if many else 30, c=colours, marker=marker, alpha=0.85, linewidths=0.4,
            edgecolors="white", rasterized=many,
        )  # fmt: skip
    margin = 0.06 * np.ptp(points, axis=0) + 1e-3
    low, high = points.min(0) - margin, points.max(0) + margin
    ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xticks=[], yticks=[])
    for side in ax.spines.values():
        side.set_visible(True)
    _number(ax, {label: points[labels == label].mean(0) for label in present})
    counts = [int((labels == label).sum()) for label in present]
    listed = ax.legend(
        handles=[
            Line2D([], [], color=cluster_colour(label), marker="o", linestyle="none",
                   label=f"{label}: {count} unit{'' if count == 1 else 's'}")
            for label, count in zip(present, counts, strict=True)
        ],
        loc="center left", bbox_to_anchor=(1.01, 0.5), ncols=columns, handletextpad=0.2, title="cluster",
        title_fontsize=SMALL, columnspacing=0.8,
    )  # fmt: skip
    ax.add_artist(listed)
    key_above(ax, [Line2D([], [], color=MUTED, marker=m, linestyle="none", label=kind) for kind, m in MARKERS.items()])
    return ax


@styled
def weight_matrices(matrices: Sequence[WeightMatrix], groups: Mapping[str, UnitsOf], ax: Axes | None = None) -> Axes:
    """Draw each weight matrix with its rows and columns in the order of their clusters, borders as lines.

    Matrices with more than 400 rows or columns are drawn by means of blocks. Beside each are the clusters' colours.

    Raises
    ------
    InputError
        If there is no matrix, or one does not fit the units that it reads and writes.
    """
    if not matrices:
        raise InputError("there is nothing to draw", where="weight_matrices", got="no weight matrix")
    rows, columns = -(-len(matrices) // COLUMNS), min(len(matrices), COLUMNS)
    step = PANEL + 0.85
    width, height = columns * PITCH, rows * step
    whole = WIDTH if columns == COLUMNS else width + 0.1
    ax = ax or own_axes(whole, height, left=0.1, right=0, bottom=0, top=0)
    ax.set_axis_off()
    for place, matrix in enumerate(matrices):
        x, y = (place % columns) * PITCH + 0.3, height - (place // columns) * step - PANEL - 0.47
        panel = ax.inset_axes((x / width, y / height, PANEL / width, PANEL / height))
        _matrix(panel, matrix, _labels(matrix, groups))
    return ax


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


def _plane(groups: Mapping[str, UnitsOf]) -> tuple[NDArray[np.int64], Array, NDArray[np.str_]]:
    """Labels (n,), places (n, 2) and kinds (n,) of the units that have a cluster."""
    if not groups:
        raise InputError("there is nothing to draw", where="graph_embedding", got="no units")
    kinds = np.concatenate([np.full(len(of.labels), _kind(name, groups)) for name, of in groups.items()])
    labels = np.concatenate([of.labels for of in groups.values()])
    coordinates = np.concatenate([of.coordinates for of in groups.values()])
    length = np.linalg.norm(coordinates, axis=1)
    used = (labels >= 0) & np.isfinite(length) & (length > 0)
    if not used.any() or coordinates.shape[1] < 2:
        raise InputError(
            "there is nothing to draw", where="graph_embedding",
            got=f"{int(used.sum())} units with a cluster and {coordinates.shape[1]} coordinates",
            expected="one or more, and two or more",
        )  # fmt: skip
    labels, kinds, directions = labels[used], kinds[used], coordinates[used] / length[used, None]
    means = np.array([directions[labels == label].mean(0) for label in np.unique(labels)])
    axes = np.linalg.svd(means - means.mean(0))[2][:2]
    axes *= np.sign(axes[[0, 1], np.abs(axes).argmax(1)])[:, None]
    return labels, directions @ axes.T, kinds


def _number(ax: Axes, places: Mapping[int, Array]) -> None:
    """Write each cluster's number at, or near, its place."""
    labels = [Label(f" {n} ", float(x), float(y), cluster_colour(n)) for n, (x, y) in places.items()]  # room for bold
    near(ax, labels, [])
    halo = [withStroke(linewidth=3.5, foreground="white")]
    for text in ax.texts[-len(labels) :]:
        text.set(text=text.get_text().strip(), fontsize=NUMBER, fontweight="bold", path_effects=halo)


def _kind(name: str, groups: Mapping[str, UnitsOf]) -> str:
    return "inputs" if name.startswith("inputs") else "outputs" if name == list(groups)[-1] else "hidden units"


def _labels(matrix: WeightMatrix, groups: Mapping[str, UnitsOf]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Clusters of the rows (u,) and columns (i,) of a matrix."""
    shape = tuple(len(groups[name].labels) if name in groups else 0 for name in (matrix.written, matrix.read))
    if matrix.weights.shape != shape:
        raise InputError(
            "a weight matrix does not fit the units that it reads and writes", where=f"'{matrix.map}'",
            got=matrix.weights.shape, expected=f"{shape}, for {matrix.written} and {matrix.read}",
        )  # fmt: skip
    return groups[matrix.written].labels, groups[matrix.read].labels


def _matrix(ax: Axes, matrix: WeightMatrix, labels: tuple[NDArray[np.int64], NDArray[np.int64]]) -> None:
    orders = [np.argsort(np.where(of < 0, of.max() + 1, of), kind="stable") for of in labels]
    shown = by_blocks(matrix.weights[np.ix_(*orders)])
    known = shown[np.isfinite(shown)]
    brightest = float(np.quantile(known, BRIGHTEST)) if len(known) else 0.0
    n_rows, n_columns = matrix.weights.shape
    ax.imshow(
        shown, cmap="Blues", vmin=0, vmax=brightest or float(known.max(initial=0)) or 1.0, interpolation="none",
        aspect="auto", extent=(0, n_columns, n_rows, 0),
    )  # fmt: skip
    for axis, (of, order) in enumerate(zip(labels, orders, strict=True)):
        ordered = of[order]
        edges = [0, *(np.flatnonzero(np.diff(ordered)) + 1).tolist(), len(of)]
        for border in edges[1:-1]:
            (ax.axvline if axis else ax.axhline)(border, color=MUTED, linewidth=0.5)
        for start, end in pairwise(edges):
            across, colour = 0.035, cluster_colour(int(ordered[start]))
            corner, size = ((start, 1.015), (end - start, across)) if axis else ((-0.05, start), (across, end - start))
            transform = ax.get_xaxis_transform() if axis else ax.get_yaxis_transform()
            ax.add_patch(Rectangle(corner, *size, transform=transform, color=colour, linewidth=0, clip_on=False))
    ax.set(xticks=[], yticks=[])
    ax.grid(visible=False)
    for spine in ax.spines.values():
        spine.set(visible=True, linewidth=0.5)
    ax.set_xlabel(f"{shortened(matrix.read, 22)} ({n_columns})", fontsize=SMALL, labelpad=2)
    ax.set_ylabel(f"{shortened(matrix.written, 18)} ({n_rows})", fontsize=SMALL, labelpad=8)
    ax.set_title(_title(matrix), fontsize=SMALL, color=INK, pad=9, linespacing=1.25)


def _title(matrix: WeightMatrix) -> str:
    """Name of the map, and C beside that of shuffled matrices."""
    name = shortened(matrix.map)
    if not np.isfinite(matrix.value):
        return name
    null = matrix.null[np.isfinite(matrix.null)]
    found = f" (shuffled {decimal(float(null.mean()))}, z {decimal(matrix.z, 1)})" if len(null) else ""
    return f"{name}\nC {decimal(matrix.value)}{found}"
