"""The n-cuts of networks beside those of their shuffled copies, and the gaps between eigenvalues."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, MaxNLocator
from numpy.typing import ArrayLike, NDArray

from consilience.errors import InputError
from consilience.report.labels import width_of
from consilience.report.modularity.networks import NetworkRow
from consilience.report.students import CUT, KEPT, SINGLE, key_above
from consilience.report.style import INK, WIDTH, own_axes, shortened, styled

KINDS = {"member": "members", "assembly": "assemblies", "network": "networks"}
LOOKS = {"member": ("o", "#5e5e5e"), "assembly": ("D", KEPT[0]), "network": ("^", INK)}
SHUFFLED = "#cfcfcb"
NAMED = 8  # networks of one kind, beyond which they share one label
LANE, THIN, HISTOGRAM = 1.0, 0.36, 2.2  # heights of a named network, of one among many, of the copies
LONGEST = 30  # letters of a name


@styled
def n_cuts(rows: Sequence[NetworkRow], null_values: ArrayLike, n_cut: float, name: str, ax: Axes | None = None) -> Axes:
    """Draw the n-cuts of one network and of its shuffled copies, and below it those of all networks.

    Parameters
    ----------
    rows : networks; where many are of one kind they share one label, and stand in the order of their n-cuts.
    null_values : (n_null,) n-cuts of the copies of the network shown in detail; there may be none.
    n_cut, name : of that network.

    Raises
    ------
    InputError
        If no n-cut is finite.
    """
    null = np.asarray(null_values, float)
    null = null[np.isfinite(null)]
    rows = [row for row in rows if math.isfinite(row.n_cut)]
    if not len(null) and not rows:
        raise InputError("there is nothing to draw", where="n_cuts", got="no finite n-cut")
    places, names = _lanes(rows)
    if len(null):
        names = [(-HISTOGRAM / 2, f"{shortened(name, LONGEST)}\nshuffled {len(null)} times"), *names]
    left = 0.25 + max(width_of(line) for _, text in names for line in text.split("\n")) / 72
    top, bottom = -HISTOGRAM if len(null) else -0.2, max([0.0, *places]) + 0.6
    ax = ax or own_axes(WIDTH, 0.85 + 0.26 * (bottom - top), left=left, right=0.15, bottom=0.5, top=0.35)
    key = [*_copies(ax, null, n_cut), *_strip(ax, rows, places)]
    known = [*null, n_cut, *(row.n_cut for row in rows)]
    known += [row.null_mean + side * 2 * row.null_sd for row in rows for side in (-1, 1)]
    finite = [value for value in known if math.isfinite(value)]
    margin = 0.04 * (max(finite) - min(finite)) or 0.1
    ax.set(
        xlim=(min(finite) - margin, max(finite) + margin), ylim=(bottom, top), xlabel="n-cut (low: parts of its own)"
    )
    ax.yaxis.set_major_locator(FixedLocator([place for place, _ in names]))
    ax.yaxis.set_ticklabels([text for _, text in names])
    ax.yaxis.set_tick_params(length=0)
    ax.grid(visible=False, axis="y")
    key_above(ax, key)
    return ax


@styled
def eigenvalue_gaps(eigenvalues: ArrayLike, n_clusters: int, ax: Axes | None = None) -> Axes:
    """Draw the smallest eigenvalues of the normalised Laplacian, and the gaps after the second and the following.

    The gap after the k-th, for k clusters, is marked.

    Parameters
    ----------
    eigenvalues : (k + 1,) ascending.
    n_clusters : k.

    Raises
    ------
    InputError
        If there are fewer than three finite eigenvalues.
    """
    values = np.asarray(eigenvalues, float)
    if len(values) < 3 or not np.isfinite(values).all():
        raise InputError(
            "eigenvalues cannot be drawn", where="eigenvalue_gaps", got=f"{int(np.isfinite(values).sum())} finite ones",
            expected="three or more, all finite",
        )  # fmt: skip
    ax = ax or own_axes(WIDTH, 2.7, left=0.6, right=0.1, bottom=0.5, top=0.35)
    ax.set_axis_off()
    left, right = ax.inset_axes((0, 0, 0.42, 1)), ax.inset_axes((0.56, 0, 0.44, 1))
    gaps, k = np.diff(values), np.arange(1, len(values) + 1)
    left.plot(k, values, "o", color=KEPT[0], markeredgewidth=0)
    if len(values) > n_clusters:
        left.axhspan(values[n_clusters - 1], values[n_clusters], color=CUT, alpha=0.35, linewidth=0)
    left.set(xlim=(0.4, len(values) + 0.6), ylim=(-0.02 * values[-1], 1.06 * values[-1] or 1.0))
    left.set(xlabel="eigenvalue, from the smallest", ylabel="value")
    colours = [CUT if number == n_clusters else SINGLE for number in k[1:-1]]
    right.bar(k[1:-1], gaps[1:], width=0.7, color=colours)
    right.set(xlim=(0.4, len(values) + 0.6), ylim=(0, 1.1 * float(gaps[1:].max()) or 1.0))
    right.set(xlabel="gap after eigenvalue", ylabel="size of the gap")
    for panel in (left, right):
        panel.xaxis.set_major_locator(MaxNLocator(13, steps=[1, 2, 5, 10], integer=True))
        panel.grid(visible=False, axis="x")
    key_above(right, [Patch(color=CUT, label=f"after eigenvalue {n_clusters}: {n_clusters} clusters were made")])
    return ax


def _lanes(rows: Sequence[NetworkRow]) -> tuple[list[float], list[tuple[float, str]]]:
    """Where each network stands, from 0 downwards, and the labels with their places."""
    places, names, free = [0.0] * len(rows), list[tuple[float, str]](), 0.4
    for kind in dict.fromkeys(row.kind for row in rows):
        own = [index for index, row in enumerate(rows) if row.kind == kind]
        many = len(own) > NAMED
        order = sorted(own, key=lambda index: rows[index].n_cut) if many else own
        for step, index in enumerate(order):
            places[index] = free + step * (THIN if many else LANE)
        if many:
            names.append(((places[order[0]] + places[order[-1]]) / 2, f"{len(own)} {KINDS.get(kind, kind)}"))
        else:
            names += [(places[index], shortened(rows[index].name, LONGEST)) for index in order]
        free = places[order[-1]] + LANE
    return places, names


def _copies(ax: Axes, null: NDArray[np.float64], n_cut: float) -> list[Artist]:
    """Draw a histogram of the copies' n-cuts and the network's own as a line; return the key."""
    if not len(null):
        return []
    counts, edges = np.histogram(null, bins=min(20, max(5, math.ceil(len(null) ** 0.5) + 1)))
    floor = -0.25
    ax.stairs(floor - (HISTOGRAM - 0.5) * counts / counts.max(), edges, baseline=floor, fill=True, color=SHUFFLED)
    if math.isfinite(n_cut):
        ax.plot([n_cut, n_cut], [floor, 0.1 - HISTOGRAM], color=CUT, linewidth=2, solid_capstyle="butt")
    return [Line2D([], [], color=CUT, linewidth=2, label="the network shown")]


def _strip(ax: Axes, rows: Sequence[NetworkRow], places: Sequence[float]) -> list[Artist]:
    """Draw each network's n-cut over a bar for its copies; return the key."""
    key = dict[str, Artist]()
    for row, y in zip(rows, places, strict=True):
        marker, colour = LOOKS.get(row.kind, ("h", INK))
        if math.isfinite(row.null_mean):
            sd = row.null_sd if math.isfinite(row.null_sd) else 0.0
            ax.plot(
                [row.null_mean - 2 * sd, row.null_mean + 2 * sd], [y, y], color=SHUFFLED, linewidth=3.5, zorder=1.5,
                solid_capstyle="butt",
            )  # fmt: skip
            ax.plot([row.null_mean], [y], "|", color=SINGLE, markersize=5, zorder=1.6)
        ax.plot([row.n_cut], [y], marker, color=colour, markersize=4.5, markeredgewidth=0)
        key[row.kind] = Line2D(
            [], [], color=colour, marker=marker, linestyle="none", label=KINDS.get(row.kind, row.kind)
        )
    return [*key.values(), Patch(color=SHUFFLED, label="shuffled copies (bars: mean ± 2 sd)")]
