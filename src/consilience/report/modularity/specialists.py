"""What clusters are to classes, and what classes need: figures in which classes are columns.

Axis legend: ``o`` classes, ``c`` clusters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator
from numpy.typing import NDArray

from consilience.errors import InputError
from consilience.report.labels import size_of, width_of
from consilience.report.modularity.cuts import SHUFFLED
from consilience.report.modularity.heat import every, heat, name_columns, room_below
from consilience.report.students import CUT, KEPT, SINGLE, key_above
from consilience.report.style import INK, SMALL, WIDTH, own_axes, styled

Array = NDArray[np.float64]
CRITERIA = {"class": ("o", CUT, "class (published)"), "one-vs-rest": ("s", KEPT[0], "one-vs-rest")}
CELL, LOWEST = 0.2, 0.85  # inches, heights of a row of a heat map, and of all rows at least
BEYOND = 2.0  # standard deviations of random sets
SAYS = 0.01  # accuracy: what two clusters off cost beyond both alone, below which no matrix is drawn
BAR = 0.75  # inches, for the colour bar


@dataclass(frozen=True, eq=False)
class ClassClusters:
    """Accuracy by class, 0 to 1; NaN for classes without samples.

    Attributes
    ----------
    classes : (o,) names.
    accuracy : (o,) of the whole network.
    off : (o, c) with a cluster off.
    alone : (o, c) with all other clusters off.
    clusters : (c,) labels of the clusters; () for 0, 1, ….
    """

    classes: Sequence[str]
    accuracy: Array
    off: Array
    alone: Array
    clusters: Sequence[int] = ()

    @property
    def lost(self) -> Array:
        """Accuracy lost with a cluster off: (o, c)."""
        lost: Array = np.asarray(self.accuracy)[:, None] - self.off
        return lost

    @property
    def labels(self) -> Sequence[int]:
        """Labels of the clusters."""
        return self.clusters or range(self.off.shape[1])


@dataclass(frozen=True)
class CircuitRow:
    """The weights that a class needs.

    Attributes
    ----------
    label : the class.
    criterion : "class" (the published one) or "one-vs-rest".
    size : share of the weights left.
    n_left, n_weights : counts of these.
    tpr : share of the class's samples that the circuit says are of the class.
    tnr : share of all others that it says are not.
    """

    label: str
    criterion: str
    size: float
    n_left: int
    n_weights: int
    tpr: float
    tnr: float


@dataclass(frozen=True, eq=False)
class LesionEffects:
    """Accuracy lost with units off, 0 to 1.

    Attributes
    ----------
    sizes : (c,) units of each cluster.
    drop : (c,) accuracy lost with it off.
    random_mean, random_sd : (c,) the same for random sets of as many units.
    double : (c, c) with two clusters off.
    clusters : (c,) labels of the clusters; () for 0, 1, ….
    """

    sizes: Sequence[int]
    drop: Array
    random_mean: Array
    random_sd: Array
    double: Array
    clusters: Sequence[int] = ()

    @property
    def labels(self) -> Sequence[int]:
        """Labels of the clusters."""
        return self.clusters or range(len(self.sizes))

    @property
    def beyond(self) -> NDArray[np.bool_]:
        """Which clusters cost more than random sets do, by more than two of their standard deviations: (c,)."""
        limit = np.asarray(self.random_mean) + BEYOND * np.nan_to_num(np.asarray(self.random_sd))
        return np.asarray(np.asarray(self.drop) > limit)

    @property
    def excess(self) -> Array:
        """What two clusters off cost beyond the sum of what each does: (c, c), NaN on the diagonal."""
        drop = np.asarray(self.drop)
        excess: Array = np.asarray(self.double, float) - drop[:, None] - drop
        np.fill_diagonal(excess, np.nan)
        return excess

    @property
    def says_more(self) -> bool:
        """Whether any two clusters cost one point of accuracy more, or less, than both of them alone."""
        excess = self.excess
        return bool((np.abs(excess[np.isfinite(excess)]) >= SAYS).any())


@styled
def class_clusters(probe: ClassClusters, ax: Axes | None = None) -> Axes:
    """Draw accuracy lost by each class with each cluster off, and what is left with the cluster alone, in %.

    Raises
    ------
    InputError
        If there is no class or no cluster, or the shapes do not fit.
    """
    n_classes, n_clusters = len(probe.classes), len(probe.labels)
    shapes = {np.shape(probe.off), np.shape(probe.alone), (n_classes, n_clusters)}
    if len(shapes) > 1 or len(probe.accuracy) != n_classes or 0 in (n_classes, n_clusters):
        raise InputError(
            "accuracies by class cannot be drawn", where="class_clusters",
            got=f"{len(probe.accuracy)}, {np.shape(probe.off)} and {np.shape(probe.alone)} of them",
            expected=f"{n_classes} classes × {n_clusters} clusters, and one or more of each",
        )  # fmt: skip
    cell = max(CELL, LOWEST / n_clusters)
    lower, upper, gap = (n_clusters + 1) * cell, n_clusters * cell, 0.45
    height = lower + gap + upper
    if ax is None:
        ax = own_axes(
            WIDTH,
            height + 0.4 + room_below(probe.classes),
            left=0.95,
            right=BAR,
            bottom=room_below(probe.classes),
            top=0.4,
        )
    ax.set_axis_off()
    names = [str(label) for label in probe.labels]
    off = ax.inset_axes((0, (lower + gap) / height, 1, upper / height))
    alone = ax.inset_axes((0, 0, 1, lower / height))
    largest = float(np.abs(probe.lost[np.isfinite(probe.lost)]).max(initial=0.0)) or 1.0
    heat(off, 100 * probe.lost.T, "RdBu_r", (-100 * largest, 100 * largest), names)
    both = np.vstack([np.asarray(probe.accuracy, float)[None], probe.alone.T])
    heat(alone, 100 * both, "Blues", (0.0, 100.0), ["all on", *names])
    alone.axhline(0.5, color="white", linewidth=2.5)
    for panel, label, title in (
        (off, "cluster off", "accuracy lost (points)"), (alone, "cluster alone", "accuracy left (%)"),
    ):  # fmt: skip
        panel.set_ylabel(label)
        panel.set_title(title, loc="left", fontsize=SMALL, pad=4)
    name_columns(off, [])
    name_columns(alone, probe.classes)
    return ax


@styled
def class_circuits(circuits: Sequence[CircuitRow], ax: Axes | None = None) -> Axes:
    """Draw the share of weights that each class needs, by criterion, and how often its circuit is right, in %.

    Raises
    ------
    InputError
        If there is no circuit with a finite size.
    """
    found = [circuit for circuit in circuits if np.isfinite(circuit.size)]
    if not found:
        raise InputError(
            "there is nothing to draw", where="class_circuits", got=f"{len(circuits)} circuits, none finite"
        )
    classes = list(dict.fromkeys(circuit.label for circuit in found))
    criteria = sorted({circuit.criterion for circuit in found})
    rates = {f"{rate}, {criterion}": _rates(found, classes, criterion, rate.lower())
             for criterion in criteria for rate in ("TPR", "TNR")}  # fmt: skip
    lower, gap, upper = len(rates) * CELL, 0.35, 2.0
    height = lower + gap + upper
    if ax is None:
        ax = own_axes(
            WIDTH, height + 0.35 + room_below(classes), left=1.3, right=BAR, bottom=room_below(classes), top=0.35
        )
    ax.set_axis_off()
    sizes = ax.inset_axes((0, (lower + gap) / height, 1, upper / height))
    table = ax.inset_axes((0, 0, 1, lower / height))
    _sizes(sizes, found, classes, criteria)
    heat(table, 100 * np.array(list(rates.values())), "Blues", (0.0, 100.0), list(rates))
    table.set_title("samples that the circuit gets right (%)", loc="left", fontsize=SMALL, pad=4)
    name_columns(table, classes)
    return ax


@styled
def cluster_lesions(effects: LesionEffects, ax: Axes | None = None) -> Axes:
    """Draw the accuracy lost with each cluster off beside that with random units off, in points.

    Beside it, if it says something, what two clusters off cost beyond the sum of what each does.

    Raises
    ------
    InputError
        If no loss is finite.
    """
    drop, mean, sd = (
        100 * np.asarray(values, float) for values in (effects.drop, effects.random_mean, effects.random_sd)
    )
    n, double = len(drop), effects.says_more
    if not np.isfinite(drop).any():
        raise InputError("there is nothing to draw", where="cluster_lesions", got=f"{n} clusters, no finite loss")
    ax = ax or own_axes(WIDTH, 3.4, left=0.6, right=BAR if double else 0.1, bottom=0.65, top=0.35)
    ax.set_axis_off()
    single = ax.inset_axes((0, 0, 0.52 if double else 1, 1))
    x = np.arange(n)
    spread = np.nan_to_num(BEYOND * sd)
    single.vlines(x, mean - spread, mean + spread, color=SHUFFLED, linewidth=min(9.0, 100 / n))
    single.plot(x, mean, "_", color=SINGLE, markersize=min(9.0, 100 / n))
    faces = np.where(effects.beyond, CUT, "white")
    single.scatter(x, drop, s=28, c=faces.tolist(), edgecolors=CUT, linewidths=1.2, zorder=3)
    room = size_of(single)[0] / n
    texts = [f"{label}\n{size}" for label, size in zip(effects.labels, effects.sizes, strict=True)]
    step = every(room, max(width_of(line) for text in texts for line in text.split("\n")) + 3)
    single.xaxis.set_major_locator(FixedLocator(x[::step].tolist()))
    single.xaxis.set_ticklabels(texts[::step])
    single.grid(visible=False, axis="x")
    single.set(xlim=(-0.6, n - 0.4), xlabel="cluster, and its units", ylabel="accuracy lost (points)")
    key_above(single, [
        Line2D([], [], color=CUT, marker="o", linestyle="none", label="cluster off"),
        Line2D(
            [], [], color=SHUFFLED, linewidth=6, solid_capstyle="butt", label="as many random units off (mean ± 2 sd)"
        ),
    ])  # fmt: skip
    if double:
        _excess(ax.inset_axes((0.62, 0, 0.38, 1)), effects)
    return ax


def _excess(ax: Axes, effects: LesionEffects) -> None:
    excess, names = 100 * effects.excess, [str(label) for label in effects.labels]
    largest = float(np.abs(excess[np.isfinite(excess)]).max())
    heat(ax, excess, "RdBu_r", (-largest, largest), names)
    name_columns(ax, names)
    ax.set(xlabel="cluster off", ylabel="and another off")
    ax.set_title("lost beyond the sum of both (points)", loc="left", fontsize=SMALL, pad=4)


def _sizes(ax: Axes, found: Sequence[CircuitRow], classes: Sequence[str], criteria: Sequence[str]) -> None:
    """Draw the share of weights left of each class, in % on a logarithmic scale; 0 is drawn on the axis."""
    known = [100 * circuit.size for circuit in found if circuit.size > 0] or [100.0]
    low, high = min(known) / 1.6, max(known) * 1.6
    shift = {criterion: (k - (len(criteria) - 1) / 2) * 0.24 for k, criterion in enumerate(criteria)}
    for criterion in criteria:
        own = [circuit for circuit in found if circuit.criterion == criterion]
        x = [classes.index(circuit.label) + shift[criterion] for circuit in own]
        y = np.maximum([100 * circuit.size for circuit in own], low)
        marker, colour, name = CRITERIA.get(criterion, ("^", INK, criterion))
        ax.vlines(x, low, y, color=colour, linewidth=min(1.2, 100 / len(classes)), alpha=0.45)
        size = min(5.5, 5 + 100 / len(classes))
        ax.plot(x, y, marker, color=colour, markersize=size, markeredgewidth=0, label=name, clip_on=False)
    ax.set_yscale("log")
    ax.set(ylim=(low, high), ylabel="weights left (%)")
    ax.yaxis.set_major_locator(FixedLocator([a * 10.0**b for b in range(-6, 3) for a in (1, 2, 5)]))
    ax.yaxis.set_minor_locator(FixedLocator([]))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.grid(visible=False, axis="x")
    name_columns(ax, [])
    ax.set_xlim(-0.5, len(classes) - 0.5)
    key_above(ax, ax.get_legend_handles_labels()[0])


def _rates(found: Sequence[CircuitRow], classes: Sequence[str], criterion: str, rate: str) -> list[float]:
    values: Mapping[str, float] = {c.label: getattr(c, rate) for c in found if c.criterion == criterion}
    return [values.get(label, float("nan")) for label in classes]
