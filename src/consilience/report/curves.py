"""The clusters of one layer, by rank in the canonical order: how many members share them, how many units they hold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from consilience.errors import InputError
from consilience.report.labels import above, size_of
from consilience.report.results import LayerSummary
from consilience.report.style import FREQUENCY, MUTED, SIZE, SMALL, STABILITY, own_axes, shortened, styled

MANY = 1000  # dots, beyond which a vector for each would make the page heavy and no sharper


@styled
def frequency_curve(layer: LayerSummary, ax: Axes | None = None) -> Axes:
    """Draw the share of the members that own each cluster (steps), and the stability of the clusters (dots), in %.

    Thin lines mark where a basis of 1, 2, 4, … times the median width of the members ends.

    Raises
    ------
    InputError
        If the layer has no cluster, or not one frequency, size and stability for each.
    """
    ax = _axes(layer, ax)
    share, stability = 100 * np.asarray(layer.frequency, float), 100 * np.asarray(layer.stability, float)
    _steps(ax, share, FREQUENCY, baseline=0)
    key: list[Patch | Line2D] = [Patch(facecolor=FREQUENCY, alpha=0.6, label="frequency")]
    if np.isfinite(stability).any():
        n = len(stability)
        size = 2.5 + 3.5 * min(1.0, 40 / n)
        ax.plot(
            np.arange(n) + 1, stability, ".", color=STABILITY, markersize=size, markeredgewidth=0, rasterized=n > MANY
        )
        key.append(Line2D([], [], color=STABILITY, marker=".", linestyle="none", markersize=6, label="stability"))
    ax.set(ylim=(0, 105), ylabel="share (%)")
    ax.yaxis.set_major_locator(FixedLocator([0, 25, 50, 75, 100]))
    _ranks(ax, layer)
    ax.legend(
        handles=key, loc="lower right", bbox_to_anchor=(1, 1 + 15 / size_of(ax)[1]), borderaxespad=0, borderpad=0,
        ncols=2, handlelength=1, handletextpad=0.5, columnspacing=1.2,
    )  # fmt: skip
    return ax


@styled
def size_curve(layer: LayerSummary, ax: Axes | None = None) -> Axes:
    """Draw the number of units of each cluster on a logarithmic scale; ranks and thin lines as in `frequency_curve`.

    Raises
    ------
    InputError
        As `frequency_curve`.
    """
    ax = _axes(layer, ax)
    size = np.asarray(layer.size, float)
    floor = 0.7  # a cluster of one unit still has height
    _steps(ax, size, SIZE, baseline=floor)
    ax.set_yscale("log")
    ax.set(ylim=(floor, max(10.0, size.max() * 1.25)), ylabel="size (units)")
    ax.yaxis.set_major_locator(FixedLocator([1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000]))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    _ranks(ax, layer)
    single = int((size == 1).sum())
    note = f"{single} cluster{'' if single == 1 else 's'} of one unit; {layer.n_dead} of {layer.n_units} units dead"
    ax.annotate(
        note, (1, 1), (0, 15), xycoords="axes fraction", textcoords="offset points", ha="right", va="bottom",
        fontsize=SMALL, color=MUTED,
    )  # fmt: skip
    return ax


def _axes(layer: LayerSummary, ax: Axes | None) -> Axes:
    counts = (len(layer.frequency), len(layer.size), len(layer.stability))
    if not counts[0] or len(set(counts)) > 1:
        raise InputError(
            "a layer cannot be drawn", where=layer.name, got="{} frequencies, {} sizes, {} stabilities".format(*counts),
            expected="one of each for every cluster, and at least one cluster",
        )  # fmt: skip
    return ax or own_axes(4.2, 2.6, left=0.6, right=0.1, bottom=0.5, top=0.5)


def _steps(ax: Axes, height: Sequence[float] | np.ndarray, colour: str, baseline: float) -> None:
    edges = np.arange(len(height) + 1) + 0.5
    ax.stairs(height, edges, baseline=baseline, fill=True, color=colour, alpha=0.25, linewidth=0)
    ax.stairs(height, edges, baseline=baseline, color=colour, linewidth=1.2 if len(height) <= 150 else 0.6)


def _ranks(ax: Axes, layer: LayerSummary) -> None:
    n = len(layer.frequency)
    ax.set(xlim=(0.5, n + 0.5), xlabel=f"rank of the cluster in {shortened(layer.name)}")
    ax.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    ax.grid(visible=False, axis="x")
    factors = [2**power for power in range(12) if layer.median_width and layer.median_width * 2**power <= n]
    for factor in factors:
        ax.axvline(layer.median_width * factor + 0.5, color=MUTED, linewidth=0.7, linestyle=(0, (2, 2)), zorder=0.5)
    above(ax, [f"{factor}x" for factor in factors], [layer.median_width * factor + 0.5 for factor in factors])
