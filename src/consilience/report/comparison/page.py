"""Which models behave alike, where, and since when: one page about a comparison.

Sections about what was not computed are left out.
"""

from __future__ import annotations

from html import escape
from itertools import combinations

import matplotlib as mpl
import numpy as np

from consilience.report.comparison.contrasts import off_diagonal
from consilience.report.comparison.disputes import disputed_samples
from consilience.report.comparison.families import tells_families
from consilience.report.comparison.findings import comparison_sentences, table_rows
from consilience.report.comparison.heatmaps import barrier_matrix, layer_matrix, layers_within, similarity_matrices
from consilience.report.comparison.model_tree import tree_of_models
from consilience.report.comparison.paths import MANY, paths_of_models, plane_at
from consilience.report.comparison.planes import Plane
from consilience.report.comparison.results import END, TOGETHER, ComparisonResult
from consilience.report.definitions import definitions
from consilience.report.page import framed, shell

READING = (
    "A place is one layer in every model. ± is one standard deviation: of the measure over pairs of models, of purity "
    "over models. Groups are found by average linkage, cut where the silhouette is best."
)
TABLE = (
    "An adjusted Rand index of 1 with the families means that the groups found are the families, 0 that they have "
    "nothing to do with them. Purity is the share of samples that are of the most frequent class of their cluster."
)
MATRICES = (
    "The darker, the more alike two models are; all squares have one scale, and their rows and columns are the models "
    "in one order. Dark squares along the diagonal are models that behave alike."
)
TREE = "The farther right two branches meet, the more alike are the models on them."
PLANE = (
    "Models that are near each other are alike. Points are placed so that their distances are as near as can be to "
    "those of the models (metric multidimensional scaling, SMACOF); directions mean nothing."
)
LAYERS = (
    "How alike two places of the same model see the samples, mean over the models: dark squares are layers that see "
    "them alike."
)
DISPUTED = (
    "Models differ most in what they put together with these samples. Disagreement is 0 where all models agree on what "
    "belongs with a sample, and 1 where half of them think so of any other one."
)
BARRIERS = (
    "How much the loss rises on the straight line between the parameters of two models: where it does not (pale), they "
    "lie in one valley. Grey: their parameters have other names or shapes, or it is one model."
)


def render_comparison(result: ComparisonResult) -> str:
    """Return the report of a comparison as one self-contained HTML page.

    Raises
    ------
    InputError
        If something in the result cannot be drawn.
    """
    places, families = len(result.matrices), len(result.family_names)
    title = f"{len(result.names)} models compared at {places} place{'' if places == 1 else 's'}"
    subtitle = (
        f"{families} {'family' if families == 1 else 'families'} · {result.n_samples:,} samples · "
        f"{result.n_clusters} clusters · {result.measure_name}"
    )
    with mpl.rc_context():
        mpl.rcdefaults()  # whatever style the user has set
        sections = [
            _table(result), _matrices(result), _tree(result), _plane(result), _layers(result), _disputed(result),
            _barriers(result), _obtained(result),
        ]  # fmt: skip
    summary = escape(" ".join(comparison_sentences(result)))
    return shell(title, subtitle, summary, escape(READING), sections)


def _table(result: ComparisonResult) -> str:
    first = ' style="text-align: right"'  # the second column of other tables is text
    lines = []
    for place, *values in table_rows(result):
        cells = "".join(f"<td{'' if i else first}>{escape(value)}</td>" for i, value in enumerate(values))
        lines.append(f'<tr><th scope="row">{escape(place)}</th>{cells}</tr>')
    names = ("Groups", "Adjusted Rand<br>with families", "Purity")
    head = '<tr><th scope="col" rowspan="2">Place</th>'
    head += f'<th scope="colgroup" colspan="2">{escape(result.measure_name)}</th>'
    head += "".join(f'<th scope="col" rowspan="2">{name}</th>' for name in names) + "</tr>\n"
    head += '<tr><th scope="col">within families</th><th scope="col">between families</th></tr>'
    body = "\n".join(lines)
    table = f'<div class="wide">\n<table>\n<thead>\n{head}\n</thead>\n<tbody>\n{body}\n</tbody>\n</table>\n</div>'
    return f'<h2>Place by place</h2>\n{table}\n<p class="note">{escape(TABLE)}</p>'


def _matrices(result: ComparisonResult) -> str:
    if not any(len(off_diagonal(values)) for found in result.moments.values() for values in found.values()):
        return ""
    caption = MATRICES
    if tells_families(result):
        caption += " Lines lie between families, if these are together." if len(result.names) > 2 else ""
    if len(result.moments) > 1:
        caption += " Time runs downwards."
    if END in result.moments and len(result.moments) > 1:
        caption += f" “{END}” are the models as they were given."
    if TOGETHER in result.moments:
        caption += f" “{TOGETHER}”: models by their whole course of training."
    picture = framed(similarity_matrices(result), "matrices", "How alike all models are, by place", caption)
    return "<h2>Who is like whom</h2>\n" + picture


def _tree(result: ComparisonResult) -> str:
    place = result.clearest
    if place is None or len(result.names) < 3:
        return ""
    groups = result.groups[place]
    if groups.n_groups == 1:
        caption = f"{TREE} No cut gives groups that are nearer to themselves than to each other."
    else:
        caption = (
            f"{TREE} The dashed line cuts the tree into {groups.n_groups} groups. Of all places, groups are clearest "
            f"at {place}: silhouette {groups.silhouette:.2f} of at most 1."
        )
    picture = framed(tree_of_models(result, place), "tree", f"Tree of the models at {place}", caption)
    return "<h2>Groups of models</h2>\n" + picture


def _plane(result: ComparisonResult) -> str:
    place = result.clearest or list(result.matrices)[-1]
    if not any(np.isfinite(found[place]).all() for found in result.in_time.values() if place in found):
        return ""
    plane = plane_at(result, place)
    if len(result.names) < 3 and len(plane.moments) == 1:
        return ""  # one distance
    heading = "The course of training" if len(plane.moments) > 1 else "A map of the models"
    picture = framed(
        paths_of_models(result, plane), "plane", f"{heading} at {place}", _plane_caption(result, place, plane)
    )
    return f"<h2>{heading}</h2>\n" + picture


def _plane_caption(result: ComparisonResult, place: str, plane: Plane) -> str:
    low, high = float(plane.stress.min()), float(plane.stress.max())
    stress = f"{low:.2f} to {high:.2f}" if len(plane.stress) > 1 else f"{high:.2f}"
    parts = [f"At {place}.", PLANE]
    if len(plane.moments) > 1:
        whose = "models" if len(result.names) <= MANY else "the means of families"
        parts.append(
            f"Paths of {whose} lead from {plane.moments[0]} (hollow) to {plane.moments[-1]} (filled); each moment is "
            "turned onto the next one (Procrustes)."
        )
    left_out = len(result.in_time) - len(plane.moments)
    if left_out:
        parts.append(f"{left_out} moments at which values are missing are left out.")
    return " ".join([*parts, f"Stress {stress}: 0 is exact, above 0.2 only the coarse picture can be trusted."])


def _layers(result: ComparisonResult) -> str:
    if result.layer_matrix is None or len(result.matrices) < 2:
        return ""
    values, places = layers_within(result), list(result.matrices)
    pairs = [(i, j) for i, j in combinations(range(len(places)), 2) if np.isfinite(values[i, j])]
    if not pairs:
        return ""
    sign = 1 if result.larger_is_more_similar else -1
    i, j = max(pairs, key=lambda pair: sign * values[pair])
    most = f" Most alike are {places[i]} and {places[j]} ({values[i, j]:.2f})." if len(pairs) > 1 else ""
    picture = framed(layer_matrix(result), "layers", "How alike the places are within models", LAYERS + most)
    return "<h2>Which layers see alike</h2>\n" + picture


def _disputed(result: ComparisonResult) -> str:
    if not result.disputed:
        return ""
    where = f"At {result.disputed_place}. " if result.disputed_place else ""
    picture = framed(
        disputed_samples(result.disputed),
        "disputed",
        "Samples that groups of models see most differently",
        where + DISPUTED,
    )
    return "<h2>Where models disagree</h2>\n" + picture


def _barriers(result: ComparisonResult) -> str:
    if result.barriers is None or not len(off_diagonal(result.barriers)):
        return ""
    return "<h2>Loss barriers</h2>\n" + framed(
        barrier_matrix(result), "barriers", "Loss barriers between models", BARRIERS
    )


def _obtained(result: ComparisonResult) -> str:
    modules = {
        place: names if isinstance(names, str) else list(dict.fromkeys(names)) for place, names in result.layers.items()
    }
    known = {"Command, seed, versions": result.obtained, "Modules at each place": modules}
    parts = [f"<h3>{name}</h3>\n{definitions(mapping)}" for name, mapping in known.items() if mapping]
    return "\n".join(["<h2>How every number was obtained</h2>", *parts]) if parts else ""
