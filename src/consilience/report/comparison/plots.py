"""The plots of a comparison of models. Each draws on a figure of its own and returns it.

A family has one color and marker. The first eight colors differ in lightness as well as hue, for eyes that see few
hues; of more than twelve families all models look alike.

Axis legend: ``m`` model, ``P`` places, ``t`` moment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from consilience.comparison.families import finite_pairs
from consilience.comparison.plane import Plane
from consilience.errors import InputError
from consilience.report.comparison.result import TOGETHER, ComparisonResult
from consilience.report.plots import dot, heat_map, runs, strip, tree_branches
from consilience.report.style import (
    INK,
    MUTED,
    OTHER_MARKERS,
    SMALL,
    WIDTH,
    new_axes,
    new_figure,
    readable,
    shortened,
    styled,
)

Array = NDArray[np.float64]
COLORS = (
    *("#1c67ad", "#e69f00", "#2a8f83", "#9b3fa0", "#74b3e3", "#b3541e"),
    *("#111111", "#e377a8", "#8a7a1f", "#9a9a9a", "#7fb96f", "#5b5fb0"),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", *OTHER_MARKERS)
CUT = "#9b3fa0"
LARGEST, LARGEST_CELL = (5.2, 2.7), 0.5  # inches: a single matrix, one of others, a cell
NAMED, WRITTEN = 8.0, 22.0  # points: cells from which rows have names, and cells have numbers
MOST_NAMED = 48  # leaves of a tree
MANY = 40  # models, beyond which paths are those of families
NARROWEST = 0.1  # range of colors: smaller differences are not to look large


@styled
def similarity_matrices(result: ComparisonResult) -> Figure:
    """Draw the similarities of all models: a row for each moment, a column for each place, all in the same colors.

    Models are in the order of the tree of the last place; the darker, the more alike; the diagonal is grey.
    """
    moments: dict[str, Mapping[str, Array]] = dict(result.in_time)
    if result.comparison.combined_:
        moments[TOGETHER] = result.comparison.combined_
    look = colors_of(result, [values for matrices in moments.values() for values in matrices.values()])
    return _matrices(result, moments, result.measure_name, look)


@styled
def barrier_matrix(result: ComparisonResult) -> Figure:
    """Draw the loss barrier between every two models, ordered as in `similarity_matrices`; grey where there is none."""
    if result.barriers is None or not len(finite_pairs(result.barriers)):
        raise InputError("barriers must have a finite value, got none")
    largest = float(finite_pairs(result.barriers).max()) or 1.0
    look = {"colors": "YlOrBr", "limits": (0.0, largest)}
    return _matrices(result, {"": {"": result.barriers}}, "loss barrier", look)


@styled
def layer_matrix(result: ComparisonResult) -> Figure:
    """Draw the similarities of the places within models: means over the models."""
    values, places = layers_within(result), [shortened(place) for place in result.comparison.places_]
    look, n = colors_of(result, [values]), len(values)
    side = min(0.8 * n, 5.0)
    figure = new_figure(side + 0.2, side + 2.6)
    figure.set_layout_engine("compressed")
    ax, without = figure.subplots(), np.where(np.eye(n, dtype=bool), np.nan, values)
    image = heat_map(ax, without, rows=places, digits=2 if 72 * side / n >= WRITTEN else None, has_bar=False, **look)
    ax.set(aspect="equal", xticks=[])
    figure.colorbar(image, ax=ax, label=result.measure_name).outline.set_visible(False)
    return figure


def layers_within(result: ComparisonResult) -> Array:
    """Return the values between the places of one model (P, P), means over the models."""
    m, n_places = len(result.families), len(result.comparison.places_)
    means: Array = np.einsum("ipiq->pq", result.comparison.layer_matrix_.reshape(m, n_places, m, n_places)) / m
    return means


@styled
def tree_of_models(result: ComparisonResult, place: str) -> Figure:
    """Draw the tree of the models, with leaves in the colors of their families, the cut and the groups below it."""
    groups, m, looks = result.comparison.groups_[place], len(result.families), looks_of(result)
    tree, n_within = groups.tree, m - groups.n_groups
    places, branches = tree_branches(tree, result.swapped(place))
    is_named = m <= MOST_NAMED
    figure, ax = new_axes(1.1 + (0.16 * m if is_named else 5.0))
    ax.set(ylim=(m - 0.5, -0.5), xlim=(1.04 * float(tree.heights[-1]) or 1.0, 0), yticks=[])
    above = [MUTED if step >= n_within and groups.n_groups > 1 else INK for step in range(m - 1)]
    lines = LineCollection(list(branches[..., ::-1]), colors=above, linewidths=1.2 if is_named else 0.7)
    ax.add_collection(lines, autolim=False)
    beside: dict[str, Any] = {"transform": ax.get_yaxis_transform(), "clip_on": False}
    order = np.argsort(places)
    for family, (color, marker) in looks.items():
        leaves = [place for place, of in zip(places, result.families, strict=True) if of == family]
        size = 5.5 if is_named else 2.5
        ax.plot(np.ones(len(leaves)), leaves, marker, color=color, markersize=size, markeredgewidth=0, **beside)
    if groups.n_groups > 1:
        below = tree.heights[n_within - 1] if n_within else 0.0
        ax.axvline((below + tree.heights[n_within]) / 2, color=CUT, linewidth=1.2, linestyle=(0, (4, 2)))
        last = -np.inf
        for label, (start, end) in runs(groups.labels[order].tolist()):
            ax.plot([1.02, 1.02], [start - 0.35, end - 0.65], color=CUT, linewidth=1.6, solid_capstyle="butt", **beside)
            if (middle := (start + end - 1) / 2) - last >= m / 60:
                ax.text(1.03, middle, str(label), va="center_baseline", fontsize=SMALL, color=CUT, **beside)
                last = middle
    ax.yaxis.tick_right()
    if is_named:
        _name(ax, result, order.tolist(), pad=34)
    ax.grid(visible=False, axis="y")
    ax.spines["left"].set_visible(False)
    ax.set_xlabel(f"distance of the merge at {shortened(place)}; numbers: groups")
    _legend(figure, result)
    return figure


@styled
def paths_of_models(result: ComparisonResult, plane: Plane) -> Figure:
    """Draw the models in a plane: filled where they end, hollow where they begin, with the path between.

    Of more than `MANY` models the paths are those of the families' means. Numbers are those of models in a family.
    """
    names, looks, is_few = result.comparison.names_, looks_of(result), len(result.families) <= MANY
    figure, ax = new_axes(5.2, 7.2)
    for family, (color, marker) in looks.items():
        is_member = np.array(result.families) == family
        points = plane.positions[:, is_member]
        paths = points if is_few else points.mean(1, keepdims=True)
        if len(paths) > 1 and (is_few or has_looks(result)):
            ax.plot(*paths.transpose(2, 0, 1), color=color, linewidth=1.1 if is_few else 2.0, alpha=0.75, zorder=2)
            ax.plot(*paths[0].T, marker, color=color, markersize=4, markerfacecolor="white", zorder=3)
        edge: dict[str, Any] = {"markeredgecolor": "white", "markeredgewidth": 0.4}
        ax.plot(*points[-1].T, marker, color=color, alpha=0.9, markersize=5.5 if is_few else 3.6, zorder=4, **edge)
        for k in np.flatnonzero(is_member) if is_few else ():
            text = shortened(names[k].removeprefix(family).strip() or names[k])
            offset: dict[str, Any] = {"xytext": (4, 3), "textcoords": "offset points", "fontsize": SMALL}
            ax.annotate(text, plane.positions[-1, k], color=readable(color), **offset)
    ax.set_aspect("equal", adjustable="datalim")
    ax.margins(0.08)
    ax.set_xlabel("distance, the same in both directions")
    _legend(figure, result)
    return figure


def has_looks(result: ComparisonResult) -> bool:
    """Return whether families have colors: there are two or more, and no more than colors."""
    return 2 <= len(result.family_names) <= len(COLORS)


def looks_of(result: ComparisonResult) -> dict[str, tuple[str, str]]:
    """Return the color and the marker of each family."""
    if not has_looks(result):
        return dict.fromkeys(result.family_names, (MUTED, "o"))
    return {name: (COLORS[i], MARKERS[i]) for i, name in enumerate(result.family_names)}


def colors_of(result: ComparisonResult, matrices: Sequence[Array]) -> dict[str, Any]:
    """Return color map and limits for the values between different things in matrices (m, m)."""
    values = np.concatenate([finite_pairs(values) for values in matrices])
    least, most = result.measure.range
    middle = (values.min() + values.max()) / 2
    low, high = min(values.min(), middle - NARROWEST / 2), max(values.max(), middle + NARROWEST / 2)
    low, high = low - max(high - most, 0), min(high, most)
    low, high = max(low, least), high + max(least - low, 0)
    colors = "Blues" if result.measure.larger_is_more_similar else "Blues_r"
    return {"colors": colors, "limits": (low, high)}


def _matrices(
    result: ComparisonResult, matrices: Mapping[str, Mapping[str, Array]], label: str, look: dict[str, Any]
) -> Figure:
    """Draw matrices (m, m) by row and column, with models in the order of the last place's tree, framed by family."""
    m, last = len(result.families), list(result.comparison.groups_)[-1]
    order = result.comparison.groups_[last].tree.leaf_order(result.swapped(last))
    blocks = runs([result.families[i] for i in order]) if has_looks(result) else []
    rows, columns = list(matrices), list(next(iter(matrices.values())))
    side = min(LARGEST[len(rows) * len(columns) > 1], LARGEST_CELL * m, (WIDTH - 2.6) / len(columns))
    figure = new_figure(len(rows) * (side + 0.1) + 0.7, len(columns) * (side + 0.1) + 2.4)
    figure.set_layout_engine("compressed")
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    digits = 2 if 72 * side / m >= WRITTEN else None
    for (row, column), ax in np.ndenumerate(axes):
        values = np.where(np.eye(m, dtype=bool), np.nan, matrices[rows[row]][columns[column]])
        image = heat_map(ax, values[np.ix_(order, order)], digits=digits, has_bar=False, **look)
        ax.set(aspect="equal", yticks=[], xticks=[])
        for family, (start, end) in blocks:
            for line in (ax.axhline, ax.axvline) if start else ():
                line(start - 0.5, color=INK, linewidth=0.6)
            if column == 0:
                strip(ax, -0.1 / side, 0.07 / side, (start - 0.5, end - 0.5), looks_of(result)[family][0])
        if row == 0:
            ax.set_title(shortened(columns[column], max(4, int(side * 14))))
        if column == 0:
            title = rows[row] if len(rows) > 1 else ""
            ax.set_ylabel(title, rotation=0, ha="right", va="center", labelpad=4 if 72 * side / m >= NAMED else 12)
            if 72 * side / m >= NAMED:
                _name(ax, result, order.tolist(), pad=10)
    bar = figure.colorbar(image, ax=axes, label=label, shrink=min(1.0, 2.0 / figure.get_figheight()), anchor=(0, 1))
    bar.outline.set_visible(False)
    _legend(figure, result)
    return figure


def _name(ax: Axes, result: ComparisonResult, order: Sequence[int], pad: float) -> None:
    """Name rows after models, in the colors of their families."""
    ax.set_yticks(range(len(order)), [shortened(result.comparison.names_[i]) for i in order])
    ax.tick_params(axis="y", length=0, pad=pad)
    for i, label in zip(order, ax.get_yticklabels(), strict=True):
        label.set(color=readable(looks_of(result)[result.families[i]][0]), fontsize=SMALL)


def _legend(figure: Figure, result: ComparisonResult) -> None:
    """Write above a figure which color is which family."""
    if has_looks(result):
        handles = [dot(color, shortened(name), marker) for name, (color, marker) in looks_of(result).items()]
        n_columns = min(len(handles), 120 // (max(len(str(handle.get_label())) for handle in handles) + 6))
        figure.legend(handles=handles, loc="outside upper left", ncols=n_columns, handletextpad=0.4, columnspacing=1.2)
