"""The page of a comparison of models (``templates/comparison.html.j2``)."""

from __future__ import annotations

from matplotlib.figure import Figure

from consilience.comparison.families import finite_pairs
from consilience.comparison.plane import Plane, plane_of
from consilience.comparison.similarity import as_distance
from consilience.report.comparison import plots
from consilience.report.comparison.result import ComparisonResult, comparison_sentences, comparison_table
from consilience.report.page import render


def render_comparison(result: ComparisonResult) -> str:
    """Return the report of a comparison as one self-contained HTML page, without sections on what was not measured."""
    place, plane = result.clearest, plane_at(result, result.clearest)
    return render(
        "comparison.html.j2",
        _drawn(result, place, plane),
        summary=comparison_sentences(result),
        result=result,
        table=comparison_table(result, result.measure_name),
        place=place,
        groups=result.comparison.groups_[place],
        plane=plane,
    )


def plane_at(result: ComparisonResult, place: str) -> Plane:
    """Place the models in a plane at each moment, by their distances at a place."""
    return plane_of({t: as_distance(matrices[place], result.measure) for t, matrices in result.in_time.items()})


def _drawn(result: ComparisonResult, place: str, plane: Plane) -> dict[str, Figure]:
    m, drawn = len(result.families), {"matrices": plots.similarity_matrices(result)}
    if m > 2:
        drawn["tree"] = plots.tree_of_models(result, place)
    if m > 2 or len(plane.moments) > 1:
        drawn["plane"] = plots.paths_of_models(result, plane)
    if len(result.comparison.places_) > 1:
        drawn["layers"] = plots.layer_matrix(result)
    if result.barriers is not None and len(finite_pairs(result.barriers)):
        drawn["barriers"] = plots.barrier_matrix(result)
    return drawn
