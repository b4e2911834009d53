"""Models as points of a plane, as far apart as they are unlike; in the course of training, as paths."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from consilience.errors import InputError
from consilience.report.comparison.families import family_key, key_height, looks_of, tells_families
from consilience.report.comparison.planes import Plane, plane_of
from consilience.report.comparison.results import ComparisonResult
from consilience.report.labels import Box, Label, along, at, near, size_of
from consilience.report.style import SMALL, own_axes, shortened, styled

MOST_NAMED = 16  # models
MANY = 40  # models, beyond which paths are those of families
WIDE, HIGH = 7.2, 5.0  # inches


@styled
def paths_of_models(result: ComparisonResult, plane: Plane, ax: Axes | None = None) -> Axes:
    """Draw the models in a plane (`plane_at`): filled where they end, hollow where they begin, with the path between.

    Of more than `MANY` models the paths are those of the families' means, for nobody could follow each.
    """
    above = (key_height(result, 72 * (WIDE - 0.65)) + 4) / 72
    ax = ax or own_axes(WIDE, HIGH + above, left=0.5, right=0.15, bottom=0.5, top=above)
    n, looks, paths = len(result.names), looks_of(result), _paths(result, plane)
    _frame(ax, np.concatenate([plane.positions[-1], *(path for path, _ in paths)]))
    for path, family in paths:
        colour, marker = looks[family]
        ax.plot(*path.T, color=colour, linewidth=1.1 if n <= MANY else 2.0, alpha=0.75, zorder=2)
        ax.plot(
            *path[0], marker, color=colour, markersize=4 if n <= MANY else 6, markerfacecolor="white",
            markeredgewidth=1, zorder=3,
        )  # fmt: skip
    size, strength = (5.5, 1.0) if n <= MANY else (3.6, 0.6)
    for point, family in zip(plane.positions[-1], result.families, strict=True):
        colour, marker = looks[family]
        ax.plot(
            *point, marker, color=colour, alpha=strength, markersize=size, markeredgecolor="white",
            markeredgewidth=0.4, zorder=4,
        )  # fmt: skip
    if n <= MOST_NAMED:
        _name(ax, result, plane)
    width, height = size_of(ax)
    ax.set_xlabel("distance, the same in both directions")
    family_key(ax, result, width, (0, 1 + (key_height(result, width) + 2) / height), SMALL)
    return ax


def plane_at(result: ComparisonResult, place: str) -> Plane:
    """Place the models in a plane at each moment at which all of them have values at this place.

    Raises
    ------
    InputError
        If there is no such moment.
    """
    found = {moment: result.distances(each[place]) for moment, each in result.in_time.items() if place in each}
    whole = {moment: values for moment, values in found.items() if np.isfinite(values).all()}
    if not whole:
        raise InputError(
            "models cannot be placed", where=place, got=f"{len(found)} moments, none with values for all pairs",
            expected="one or more",
        )  # fmt: skip
    return plane_of(whole)


def _paths(result: ComparisonResult, plane: Plane) -> list[tuple[NDArray[np.float64], str]]:
    """Return the paths (t, 2) that are drawn, each with its family."""
    if len(plane.moments) == 1:
        return []
    if len(result.names) <= MANY:
        return list(zip(plane.positions.swapaxes(0, 1), result.families, strict=True))
    if not tells_families(result):
        return []
    member = np.array(result.families)
    return [(plane.positions[:, member == family].mean(1), family) for family in result.family_names]


def _name(ax: Axes, result: ComparisonResult, plane: Plane) -> None:
    """Write the names of the models where they cover least."""
    ends = [(float(x), float(y)) for x, y in plane.positions[-1]]
    points = [at(ax, *end) for end in ends]
    obstacles: list[Box] = [(x - 4, y - 4, x + 4, y + 4) for x, y in points]
    for path, _ in _paths(result, plane):
        obstacles += along(ax, *path.T.tolist())
    colours = [looks_of(result)[family][0] for family in result.families]
    names = [shortened(name) for name in result.names]
    near(ax, [Label(name, x, y, c) for name, (x, y), c in zip(names, ends, colours, strict=True)], obstacles)


def _frame(ax: Axes, points: NDArray[np.float64]) -> None:
    """Set limits around all points, with lengths the same in both directions."""
    low, high = points.min(0), points.max(0)
    middle, room = (low + high) / 2, np.array(size_of(ax))
    unit = float(((high - low) / (room - 50)).max()) or 1.0 / room[0]  # 25 points of air around
    half = unit * room / 2
    ax.set(xlim=(middle[0] - half[0], middle[0] + half[0]), ylim=(middle[1] - half[1], middle[1] + half[1]))
