"""The tree of the models at one place: what they are alike in at which distance, and where it is cut into groups."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullLocator
from matplotlib.transforms import blended_transform_factory
from numpy.typing import NDArray

from consilience.errors import InputError
from consilience.report.comparison.families import family_key, key_height, looks_of, tells_families
from consilience.report.comparison.results import ComparisonResult, GroupsOf, runs
from consilience.report.labels import LINE, size_of, width_of
from consilience.report.style import INK, MUTED, SMALL, WIDTH, own_axes, readable, shortened, styled

CUT = "#9b3fa0"
MOST_NAMED = 48  # models, each on a line of its own; of more only the colours are seen
TALL, SHORT = 400.0, 90.0  # points: height without names, and at least
TIP, STRIP = 10.0, 7.0  # from the leaves to their names, or their colours instead of names
GROUP = 64.0  # room for the names of groups


@styled
def tree_of_models(result: ComparisonResult, place: str, ax: Axes | None = None) -> Axes:
    """Draw the tree of the models, its leaves in the colours of their families, with the cut and the groups below it.

    Raises
    ------
    InputError
        If the models were not grouped at this place.
    """
    if place not in result.groups:
        raise InputError(
            "models were not grouped here", where=place, got="no tree",
            expected=f"one of {', '.join(result.groups) or 'none'}",
        )  # fmt: skip
    groups, order = result.groups[place], result.order_of(place)
    named = len(order) <= MOST_NAMED
    names = [shortened(result.names[i]) if named else "" for i in order]
    beside = TIP + max(width_of(name) for name in names)
    ax = ax or _own_axes(result, len(order) if named else 0, beside)
    ax.set(ylim=(len(order) - 0.5, -0.5), xlim=(1.04 * float(groups.merges[-1, 2]) or 1.0, 0))
    ax.add_collection(_branches(groups, order), autolim=False)
    if named:
        _name_leaves(ax, result, order, names)
    elif tells_families(result):
        _colour_leaves(ax, result, order)
    if groups.n_groups > 1:
        ax.axvline(cut_of(groups), color=CUT, linewidth=1.2, linestyle=(0, (4, 2)))
        _name_groups(ax, groups, order, beside)
    ax.grid(visible=False, axis="y")
    ax.yaxis.set_major_locator(NullLocator())
    ax.spines["left"].set_visible(False)
    ax.set_xlabel(f"distance of the merge at {shortened(place)}")
    width, height = size_of(ax)
    family_key(ax, result, width, (0, 1 + key_height(result, width) / height), SMALL)
    return ax


def cut_of(groups: GroupsOf) -> float:
    """Return the height between the last merge within a group and the first between two."""
    heights = groups.merges[:, 2]
    n_within = len(heights) + 1 - groups.n_groups
    return float((heights[n_within - 1] if n_within else 0.0) + heights[n_within]) / 2


def _own_axes(result: ComparisonResult, n_lines: int, beside: float) -> Axes:
    inside = 72 * WIDTH - 30 - beside - GROUP
    height = max(SHORT, n_lines * LINE if n_lines else TALL)
    above = key_height(result, inside) + 6
    return own_axes(
        WIDTH, (height + above + 38) / 72, left=20 / 72, right=(10 + beside + GROUP) / 72, bottom=38 / 72,
        top=above / 72,
    )  # fmt: skip


def _branches(groups: GroupsOf, order: list[int]) -> LineCollection:
    """Return the tree, from the leaves on the right to the root on the left; paler above the cut."""
    merges, n = groups.merges, len(order)
    below = merges[:, :2].astype(int)
    y, x = np.empty(2 * n - 1), np.concatenate([np.zeros(n), merges[:, 2]])
    y[order] = np.arange(n)
    for step, pair in enumerate(below):
        y[n + step] = y[pair].mean()
    points: NDArray[np.float64] = np.stack(
        [
            np.stack([x[below[:, 0]], x[n:], x[n:], x[below[:, 1]]], axis=1),
            np.stack([y[below[:, 0]], y[below[:, 0]], y[below[:, 1]], y[below[:, 1]]], axis=1),
        ],
        axis=-1,
    )
    n_within = n - groups.n_groups
    colours = [INK if step < n_within or groups.n_groups == 1 else MUTED for step in range(n - 1)]
    return LineCollection(list(points), colors=colours, linewidths=1.2 if n <= MOST_NAMED else 0.7)


def _name_leaves(ax: Axes, result: ComparisonResult, order: list[int], names: list[str]) -> None:
    """Mark each leaf with the sign of its family, and write its name beside it."""
    size = min(SMALL, 0.75 * size_of(ax)[1] / len(order))
    for y, (i, name) in enumerate(zip(order, names, strict=True)):
        colour, marker = looks_of(result)[result.families[i]]
        ax.plot(0, y, marker, color=colour, markersize=0.7 * size, markeredgewidth=0, clip_on=False, zorder=4)
        ax.annotate(
            name, (0, y), (TIP, 0), textcoords="offset points", va="center_baseline", fontsize=size,
            color=readable(colour), annotation_clip=False,
        )  # fmt: skip


def _colour_leaves(ax: Axes, result: ComparisonResult, order: list[int]) -> None:
    """Draw the families of leaves that are too many to be named as a strip of colours."""
    families, width = [result.families[i] for i in order], size_of(ax)[0]
    where = blended_transform_factory(ax.transAxes, ax.transData)
    for start, end in runs(families):
        ax.add_patch(
            Rectangle(
                (1 + 2 / width, start - 0.5), STRIP / width, end - start, transform=where, clip_on=False, linewidth=0,
                facecolor=looks_of(result)[families[start]][0],
            )
        )  # fmt: skip


def _name_groups(ax: Axes, groups: GroupsOf, order: list[int], beside: float) -> None:
    """Bracket each group right of the names, and number those that have room for it."""
    width, height = size_of(ax)
    where = blended_transform_factory(ax.transAxes, ax.transData)
    x, line = 1 + (beside + 6) / width, height / len(order)
    last = -np.inf
    for start, end in runs([int(groups.labels[i]) for i in order]):
        ax.plot(
            [x, x], [start - 0.35, end - 0.65], color=CUT, linewidth=1.6, transform=where, clip_on=False,
            solid_capstyle="butt",
        )  # fmt: skip
        middle = (start + end - 1) / 2
        if (middle - last) * line >= LINE - 1:
            text = f"group {groups.labels[order[start]]}"
            ax.text(x + 5 / width, middle, text, transform=where, va="center_baseline", fontsize=SMALL, color=CUT)
            last = middle
