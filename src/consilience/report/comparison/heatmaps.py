"""How alike models are, by moment and place; how alike their layers are; the loss barriers between them."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from consilience.errors import InputError
from consilience.report.comparison.contrasts import off_diagonal
from consilience.report.comparison.families import family_key, key_height, looks_of, tells_families
from consilience.report.comparison.grids import MARGIN, Grid, Plan, Scale, draw_grid
from consilience.report.comparison.results import ComparisonResult
from consilience.report.style import MUTED, styled

Array = NDArray[np.float64]
NARROWEST = 0.1  # range of a scale: smaller differences are not to look large


@styled
def similarity_matrices(result: ComparisonResult, ax: Axes | None = None) -> Axes:
    """Draw how alike all models are: a row for each moment, a column for each place, one scale of colours.

    Models are in the order of the tree of the last place, and the darker, the more alike. The scale spans the values
    between different models; the diagonal is grey.
    """
    places, order = list(result.matrices), result.order_of(list(result.matrices)[-1])
    nothing = np.full((len(order), len(order)), np.nan)
    matrices = np.array([
        [np.asarray(found.get(place, nothing), float)[np.ix_(order, order)] for place in places]
        for found in result.moments.values()
    ])  # fmt: skip
    several = len(result.moments) > 1
    scale = scale_of(matrices.reshape(-1, len(order), len(order)), result)
    return _of_models(result, order, matrices, list(result.moments) if several else [""], places, scale, ax)


@styled
def barrier_matrix(result: ComparisonResult, ax: Axes | None = None) -> Axes:
    """Draw the loss barrier between every two models, in the order of `similarity_matrices`; grey where there is none.

    Raises
    ------
    InputError
        If there are no barriers.
    """
    if result.barriers is None or not len(off_diagonal(result.barriers)):
        raise InputError("there are no barriers to draw", where="barriers", got="no finite value")
    order = result.order_of(list(result.matrices)[-1])
    values = np.asarray(result.barriers, float)[np.ix_(order, order)]
    high = float(off_diagonal(values).max())
    scale = Scale(0, high or 1.0, "YlOrBr", "loss barrier", 2 if high >= 0.1 else 3)
    return _of_models(result, order, values[None, None], [""], [""], scale, ax)


@styled
def layer_matrix(result: ComparisonResult, ax: Axes | None = None) -> Axes:
    """Draw how alike the places are, each with each, within models: means over the models.

    Raises
    ------
    InputError
        If layers were not compared, or there is one place only.
    """
    values = layers_within(result)
    places = list(result.matrices)
    plain = ["places"] * len(places)
    scale = scale_of(values[None], result)
    return draw_grid(Grid(values[None, None], [""], [""], places, plain, [MUTED] * len(places), scale), ax)


def layers_within(result: ComparisonResult) -> Array:
    """Return (P, P) means over the models of the values between their own layers; models without a value do not count.

    Raises
    ------
    InputError
        If layers were not compared, or there is one place only.
    """
    if result.layer_matrix is None or len(result.matrices) < 2:
        raise InputError(
            "there are no layers to compare", where="layer_matrix", got=f"{len(result.matrices)} places",
            expected="values between two places or more",
        )  # fmt: skip
    row = {key: i for i, key in enumerate(result.layer_index)}
    own = [[row[name, place] for place in result.matrices] for name in result.names]
    stacked = np.stack([np.asarray(result.layer_matrix, float)[np.ix_(rows, rows)] for rows in own])
    known = np.isfinite(stacked)
    count = known.sum(0)
    means: Array = np.divide(
        np.where(known, stacked, 0).sum(0), count, out=np.full(count.shape, np.nan), where=count > 0
    )
    return means


def scale_of(matrices: Array, result: ComparisonResult) -> Scale:
    """Return colours for the values between different things in matrices (k, m, m); darker is more alike."""
    values = np.concatenate([off_diagonal(each) for each in matrices])
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    middle = (low + high) / 2
    low, high = min(low, middle - NARROWEST / 2), max(high, middle + NARROWEST / 2)
    if high > result.value_range[1]:
        low, high = low - (high - result.value_range[1]), result.value_range[1]
    if low < result.value_range[0]:
        low, high = result.value_range[0], high + (result.value_range[0] - low)
    return Scale(low, high, "Blues" if result.larger_is_more_similar else "Blues_r", result.measure_name)


def _of_models(
    result: ComparisonResult, order: list[int], matrices: Array, rows: list[str], columns: list[str], scale: Scale,
    ax: Axes | None,
) -> Axes:  # fmt: skip
    looks = looks_of(result)
    told = tells_families(result)
    families = [result.families[i] if told else "models" for i in order]
    colours = [looks[result.families[i]][0] for i in order]
    grid = Grid(matrices, rows, columns, [result.names[i] for i in order], families, colours, scale)
    plan = Plan(grid, 0)
    if plan.gutter == "families" or not told:
        return draw_grid(grid, ax)
    plan = Plan(grid, key_height(result, plan.width) + MARGIN)
    ax = draw_grid(grid, ax, plan.room_below)
    corner = (0, (plan.room_below - MARGIN / 2) / plan.height)
    family_key(ax, result, plan.width, corner, plan.text_size(ax))
    return ax
