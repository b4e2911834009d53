"""The page of a comparison of models (``templates/comparison.html.j2``)."""

from __future__ import annotations

from consilience.comparison.families import finite_pairs
from consilience.comparison.plane import Plane, plane_of
from consilience.comparison.similarity import as_distance
from consilience.report.comparison import plots
from consilience.report.comparison.result import ComparisonResult, comparison_sentences, table_of
from consilience.report.page import Illustration, illustration, render


def render_comparison(result: ComparisonResult) -> str:
    """Return the report of a comparison as one self-contained HTML page.

    Sections about what was not measured are left out.
    """
    comparison, families, place = result.comparison, len(result.family_names), result.clearest
    plane = plane_at(result, place)
    n_places = len(comparison.matrix_)
    return render(
        "comparison.html.j2",
        title=f"{len(result.families)} models compared at {n_places} place{'' if n_places == 1 else 's'}",
        subtitle=f"{families} {'family' if families == 1 else 'families'} · {len(comparison.ids_):,} samples · "
        f"{comparison.n_clusters_} clusters · {result.measure_name}",
        summary=comparison_sentences(result),
        result=result,
        table=table_of(result, result.measure_name),
        place=place,
        groups=comparison.groups_[place],
        plane=plane,
        pictures=_drawn(result, place, plane),
        obtained={
            "Command, seed, versions": result.obtained,
            "Modules at each place": {
                name: list(dict.fromkeys(modules)) for name, modules in comparison.places_.items()
            },
        },
    )


def plane_at(result: ComparisonResult, place: str) -> Plane:
    """Place the models in a plane at each moment, by their distances at a place."""
    return plane_of({t: as_distance(matrices[place], result.measure) for t, matrices in result.in_time.items()})


def _drawn(result: ComparisonResult, place: str, plane: Plane) -> dict[str, Illustration]:
    """Return the figures of what was measured, by name."""
    m = len(result.families)
    drawn = {"matrices": (plots.similarity_matrices(result), "Similarities of all models, by place")}
    if m > 2:
        drawn["tree"] = (plots.tree_of_models(result, place), f"Tree of the models at {place}")
    if m > 2 or len(plane.moments) > 1:
        drawn["plane"] = (plots.paths_of_models(result, plane), f"Map of the models at {place}")
    if len(result.comparison.places_) > 1:
        drawn["layers"] = (plots.layer_matrix(result), "Similarities of the places within models")
    if result.barriers is not None and len(finite_pairs(result.barriers)):
        drawn["barriers"] = (plots.barrier_matrix(result), "Loss barriers between models")
    return {name: illustration(figure, name, text) for name, (figure, text) in drawn.items()}
