"""The report of the command `modularity`: sentences, table, figures, and one page."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from consilience.errors import InputError
from consilience.report.modularity import (
    CircuitRow,
    ClassClusters,
    LesionEffects,
    ModularityResult,
    NetworkRow,
    UnitsOf,
    WeightMatrix,
    class_circuits,
    class_clusters,
    cluster_lesions,
    eigenvalue_gaps,
    graph_embedding,
    modularity_sentences,
    modularity_table,
    n_cuts,
    render_modularity,
    weight_matrices,
)
from consilience.report.modularity.networks import html_of_networks
from consilience.report.modularity.parts import CLUSTERS, by_blocks
from test_report import self_contained

NAN = float("nan")
WIDTHS = {"inputs": 12, "hidden.0": 20, "hidden.1": 20, "readout": 5}


def row(name: str = "member 0", kind: str = "member", n_cut: float = 8.88, **changes: object) -> NetworkRow:
    made = NetworkRow(name, kind, 0.9722, 57, 1, n_cut, 9.18, 0.03, (n_cut - 9.18) / 0.03, 1 / 51, 0.5, 0.125)
    return replace(made, **changes)


def rows(n_members: int = 3, n_assemblies: int = 1) -> list[NetworkRow]:
    members = [row(f"member {k}", n_cut=9.0 - 0.1 * k) for k in range(n_members)]
    return members + [row(f"assembly {k}x", "assembly", 8.5 - 0.1 * k) for k in range(n_assemblies)]


def units(k: int = 4, widths: dict[str, int] | None = None, seed: int = 0) -> dict[str, UnitsOf]:
    """Units around the corners of a simplex; the last of the inputs has no edge."""
    generator = np.random.default_rng(seed)
    made = {}
    for name, width in (widths or WIDTHS).items():
        labels = np.arange(width) % k
        if name == "inputs":
            labels[-1] = -1
        corners = np.vstack([np.eye(k), np.zeros(k)])[labels]
        noise = 0.1 * generator.normal(size=(width, k)) * (labels >= 0)[:, None]
        made[name] = UnitsOf(labels, (corners + noise) * generator.uniform(0.01, 1, (width, 1)))
    return made


def matrices(groups: dict[str, UnitsOf]) -> list[WeightMatrix]:
    generator, names = np.random.default_rng(1), list(groups)
    return [
        WeightMatrix(
            to, of, to, generator.random((len(groups[to].labels), len(groups[of].labels))),
            0.31, np.array([0.1, 0.12]), 14.1,
        )
        for of, to in itertools.pairwise(names)
    ]  # fmt: skip


def probe(n_classes: int = 3, k: int = 4) -> ClassClusters:
    """Class c needs cluster c, and nothing else; a cluster alone does nothing."""
    whole = np.linspace(0.9, 1.0, n_classes)
    off = np.repeat(whole[:, None], k, axis=1)
    np.fill_diagonal(off, 0.25)
    alone = np.zeros((n_classes, k))
    alone[:, 1] = 0.6
    return ClassClusters([str(c) for c in range(n_classes)], whole, off, alone)


def circuits(n_classes: int = 3) -> list[CircuitRow]:
    return [
        CircuitRow(str(c), criterion, size * (1 + c / 10), 10, 1000, 1.0, tnr)
        for c in range(n_classes)
        for criterion, size, tnr in (("class", 0.02, 0.05), ("one-vs-rest", 0.1, 0.9))
    ]


def effects(k: int = 4, excess: float = 0.2) -> LesionEffects:
    drop = np.linspace(0.3, 0.05, k)
    double = drop[:, None] + drop
    double[0, 1] += excess
    double[1, 0] += excess
    np.fill_diagonal(double, drop)
    return LesionEffects([10] * k, drop, np.full(k, 0.1), np.full(k, 0.03), double)


def result(**changes: object) -> ModularityResult:
    groups = units()
    labels = np.concatenate([of.labels for of in groups.values()])
    made = ModularityResult(
        "member 0 of demo/population", 4, "permute", 50, rows(), 9.18 + 0.03 * np.linspace(-1.7, 1.7, 50), 8.88,
        np.array([0.0, 0.3, 0.4, 0.45, 0.75]), groups, np.bincount(labels[labels >= 0]), matrices(groups), probe(),
        circuits(), effects(), {"command": "consilience modularity demo/population", "seed": 0},
    )  # fmt: skip
    return replace(made, **changes)


def panels(ax: Axes) -> list[Axes]:
    return [ax, *(below for child in ax.child_axes for below in panels(child))]


# --- sentences --------------------------------------------------------------------------------------------------------


def first(**changes: object) -> str:
    return modularity_sentences(result(**changes))[0]


def test_the_first_sentence_tells_whether_it_is_more_than_chance() -> None:
    split = "The units of member 0 of demo/population split into 4 parts with an n-cut of"
    shuffled = "networks with the same weights shuffled have 9.18 ± 0.03"
    assert first() == f"{split} 8.88; {shuffled} (z = -9.9, p = 0.02): more modular than by chance."
    assert first(n_cut=9.17) == f"{split} 9.17; {shuffled} (z = -0.3, p = 0.41): no more modular than by chance."
    assert first(n_cut=9.26) == f"{split} 9.26; {shuffled} (z = 2.6, p = 1): less modular than its shuffled copies."


def test_copies_that_are_too_few_or_none_are_told() -> None:
    few = first(null_values=np.array([9.1, 9.2]))
    assert few.endswith("(z = -3.8, p = 0.33): no copy is as modular, but 2 are too few to exclude chance.")
    assert first(null_values=np.zeros(0)).endswith("was not compared with shuffled copies: it says nothing by itself.")
    assert "(p = 0.17): no copy is" in first(null_values=np.full(5, 9.0))  # no spread, no z
    assert "(z = " not in first(n_cut=NAN)


def test_nulls_are_told_in_words() -> None:
    assert "networks rewired so that every unit keeps the number and sum of its edges" in first(
        null="degree-preserving"
    )
    assert "shuffled, zeros in their places, have 9.18" in first(null="permute-nonzero")
    assert "copies of it (mine) have 9.18" in first(null="mine")


@given(st.lists(st.floats(8, 10), min_size=2, max_size=30), st.floats(8, 10))
def test_z_and_p_are_as_defined(null: list[float], n_cut: float) -> None:
    made = result(null_values=np.array([*null, NAN]), n_cut=n_cut)
    assert made.p == (sum(value <= n_cut + 1e-9 for value in null) + 1) / (len(null) + 1)  # a tie is no evidence
    sd = np.std(null, ddof=1)
    if sd > 1e-9:
        assert made.z == pytest.approx((n_cut - np.mean(null)) / sd)


def about(words: str, **changes: object) -> list[str]:
    return [sentence for sentence in modularity_sentences(result(**changes)) if words in sentence]


def test_parts_are_told_by_size_and_reach() -> None:
    assert about("The parts have") == ["The parts have 13 to 15 units; 4 of them hold both inputs and outputs."]
    groups = units()
    labels = groups["readout"].labels
    apart = {**groups, "readout": replace(groups["readout"], labels=np.full_like(labels, 7))}
    assert about("parts have", groups=apart, sizes=np.array([1, 0, 3])) == [
        "The parts have 1 to 3 units; none holds both inputs and outputs."
    ]


def test_the_assembly_is_compared_with_the_members_by_how_far_it_is_below_its_own_copies() -> None:
    (sentence,) = about("n-cut of assembly")
    assert sentence == (
        "The n-cut of assembly 0x is 7.4 % below its shuffled copies', the 3 members' 3.1 ± 1.1 % below theirs: "
        "more modular than every member."
    )
    for n_cut, verdict in ((8.9, "within the range of the members"), (9.1, "less modular than every member")):
        (sentence,) = about("n-cut of 2x", rows=[*rows(3, 0), row("2x", "assembly", n_cut)])
        assert sentence.endswith(f"theirs: {verdict}.")
    (sentence,) = about("n-cut of 2x", rows=[row(n_cut=9.3), row("2x", "assembly", 9.2, p=0.4)])
    assert sentence == (
        "The n-cut of 2x is 0.2 % above its shuffled copies', the member's 1.3 % above theirs: more modular than the "
        "member, but not beyond chance (p = 0.4)."
    )


def test_of_many_assemblies_the_two_ends_are_told() -> None:
    told = about("n-cut of assembly", rows=rows(3, 6))
    assert [re.findall("assembly .x", sentence) for sentence in told] == [["assembly 5x"], ["assembly 0x"]]
    assert about("n-cut of assembly", rows=rows(0, 2)) == []


def test_members_beyond_chance_are_counted() -> None:
    many = [row(p=0.02), row(p=0.04), row(p=0.5, z=0.0), row(p=1.0, z=3.0), row(p=NAN)]
    assert about("Of 4 members", rows=many) == [
        "Of 4 members, 2 are more modular than by chance (p ≤ 0.05) and 1 less modular than shuffled copies (z > 2)."
    ]
    assert about("Of 2 networks", rows=[row(kind="network", p=0.3)] * 2) == [
        "Of 2 networks, none is more modular than by chance (p ≤ 0.05) and none less modular than shuffled copies "
        "(z > 2)."
    ]
    assert about("more modular than by chance (p", rows=[row()]) == []


def test_classes_are_told_with_the_clusters_that_they_need() -> None:
    assert about("belong together most") == [
        "Of all classes and clusters, these belong together most: class 2 without cluster 2 (100 → 25 %), class 1 "
        "without cluster 1 (95 → 25 %), class 0 without cluster 0 (90 → 25 %)."
    ]
    assert about("Alone") == [
        "Alone, cluster 1 does best: 60 % on average over the classes, where one answer to everything has 33 %."
    ]
    named = replace(probe(), classes=["cat", "dog", "ship"], clusters=(3, 5, 7, 8))
    assert "'ship' without cluster 7 (100 → 25 %), 'dog' without cluster 5" in about("belong", probe=named)[0]
    idle = replace(probe(), off=probe().accuracy[:, None] - np.full((3, 4), 0.004))
    assert about("No class loses", probe=idle) == [
        "No class loses more than 0.4 points of accuracy with any one cluster off."
    ]


def test_small_circuits_that_are_constant_predictors_are_called_so() -> None:
    told = about("a class needs")
    assert told == [
        "By the published criterion (the class's own samples), a class needs 2.2 % of the weights (mean of 3 classes; "
        "TPR 1.00, TNR 0.05). With so low a TNR these circuits say their class of nearly everything: they are constant "
        "predictors.",
        "By one against the rest, a class needs 11.0 % of the weights (mean of 3 classes; TPR 1.00, TNR 0.90).",
    ]
    assert "constant" not in about("a class needs", circuits=[replace(circuits()[0], tnr=NAN)])[0]


def test_lesions_are_told_against_random_ones() -> None:
    end = "more accuracy than as many random units (by over 2 of their standard deviations)."
    assert about("Switched off") == [f"Switched off, 2 of 4 clusters cost {end}"]
    idle = replace(effects(), drop=np.array([0.1, 0.1, NAN, 0.1]))
    assert about("Switched off", lesions=idle) == [f"Switched off, none of 3 clusters costs {end}"]


def test_what_was_not_measured_is_not_told() -> None:
    bare = result(rows=[row()], sizes=np.zeros(0, int), groups={}, probe=None, circuits=(), lesions=None)
    assert len(modularity_sentences(bare)) == 1
    unknown = ClassClusters(["0"], np.array([NAN]), np.full((1, 2), NAN), np.full((1, 2), NAN))
    nothing = replace(effects(), drop=np.full(4, NAN))
    assert len(modularity_sentences(replace(bare, probe=unknown, lesions=nothing))) == 1


# --- the table --------------------------------------------------------------------------------------------------------


def cells(table: str) -> list[list[str]]:
    return [[text.strip() for text in line.strip("|").split("|")] for line in table.splitlines()]


def test_the_table_has_a_line_for_each_network_and_the_mean_of_the_members() -> None:
    table = modularity_table(rows())
    assert len({len(line) for line in table.splitlines()}) == 1  # aligned
    heading, rule, *lines = cells(table)
    assert heading[:3] == ["Network", "Kind", "Accuracy (%)"]
    assert all(set(text) <= {"-", ":"} and len(text) >= 3 for text in rule)
    assert lines[0] == [
        "member 0", "member", "97.22", "57", "1", "9.00", "9.18 ± 0.03", "2.0", "-6.0", "0.02", "0.50", "0.12",
    ]  # fmt: skip
    below = [100 * (1 - n / 9.18) for n in (9.0, 8.9, 8.8)]
    assert lines[3] == [
        "mean ± sd of 3 members", "members", "97.22", "57", "1", "8.90 ± 0.10", "9.18",
        f"{np.mean(below):.1f} ± {np.std(below, ddof=1):.1f}", "-9.3 ± 3.3", "", "0.50", "0.12",
    ]  # fmt: skip
    assert lines[4][0] == "assembly 0x"
    assert len(lines) == 5


def test_one_member_has_no_mean_and_what_is_not_known_is_a_dash() -> None:
    unknown = row("a | b\nc", accuracy=None, null_mean=NAN, null_sd=NAN, z=NAN, p=NAN, cross=NAN, cross_null=NAN)
    heading, _, *lines = modularity_table([unknown]).splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("| a \\| b c | member |")
    assert lines[0].count("–") == 7
    assert len(heading) == len(lines[0])


def test_the_page_has_the_same_table() -> None:
    _, _, *lines = cells(modularity_table(rows()))
    html = re.findall(r"<tr><th scope=\"row\">.*</tr>", html_of_networks(rows()))
    assert [re.findall(r"<t[hd][^>]*>([^<]*)<", line) for line in html] == lines


# --- figures ----------------------------------------------------------------------------------------------------------


def test_n_cuts_stand_among_those_of_their_copies() -> None:
    made = result()
    ax = n_cuts(made.rows, made.null_values, made.n_cut, made.name)
    (histogram,) = [patch for patch in ax.patches if hasattr(patch, "get_data")]
    values, edges, baseline = histogram.get_data()
    height = baseline - values
    assert (edges[0], edges[-1]) == (made.null_values.min(), made.null_values.max())
    np.testing.assert_allclose(height / height.sum(), np.histogram(made.null_values, edges)[0] / 50)
    own = [line for line in ax.lines if list(line.get_xdata()) == [8.88, 8.88]]
    assert len(own) == 1
    dots = [line.get_xdata()[0] for line in ax.lines if line.get_marker() in ("o", "D")]
    assert dots == [each.n_cut for each in made.rows]
    bars = [line.get_xdata() for line in ax.lines if len(line.get_xdata()) == 2 and line not in own]
    np.testing.assert_allclose(bars, [[9.12, 9.24]] * 4)
    ax.figure.draw_without_rendering()
    labels = [text.get_text() for text in ax.get_yticklabels()]
    assert labels == ["member 0 of demo/population\nshuffled 50 times", *(each.name for each in made.rows)]


def test_many_members_share_a_label_and_stand_in_order() -> None:
    many = [row(n_cut=9 + 0.1 * (k % 7)) for k in range(20)]
    ax = n_cuts([*many, row("2x", "assembly"), row(n_cut=NAN)], [], NAN, "member 0")
    ax.figure.draw_without_rendering()
    assert [text.get_text() for text in ax.get_yticklabels()] == ["20 members", "2x"]
    dots = np.array([(line.get_xdata()[0], line.get_ydata()[0]) for line in ax.lines if line.get_marker() == "o"])
    ordered = dots[np.argsort(dots[:, 1])]
    assert (np.diff(ordered[:, 0]) >= 0).all()
    assert len(set(dots[:, 1])) == 20


def test_gaps_between_eigenvalues_are_drawn_and_that_of_the_clusters_is_marked() -> None:
    ax = eigenvalue_gaps([0, 0.3, 0.4, 0.45, 0.75], 4)
    left, right = ax.child_axes
    np.testing.assert_allclose(left.lines[0].get_xydata(), [(1, 0), (2, 0.3), (3, 0.4), (4, 0.45), (5, 0.75)])
    np.testing.assert_allclose([bar.get_height() for bar in right.patches], [0.1, 0.05, 0.3])
    colours = [to_hex(bar.get_facecolor()) for bar in right.patches]
    assert colours[0] == colours[1] != colours[2]


def test_the_embedding_shows_every_unit_with_an_edge_in_the_colour_of_its_cluster() -> None:
    groups = units()
    ax = graph_embedding(groups)
    assert [len(each.get_offsets()) for each in ax.collections] == [11, 40, 5]  # inputs, hidden units, outputs
    colours = [to_hex(face) for each in ax.collections for face in each.get_facecolors()]
    wanted = [CLUSTERS[label] for of in groups.values() for label in of.labels if label >= 0]
    assert colours == wanted
    assert [text.get_text().strip() for text in ax.texts] == ["0", "1", "2", "3"]
    labels = np.concatenate([of.labels for of in groups.values()])
    listed = [text.get_text() for legend in ax.findobj(mpl.legend.Legend) for text in legend.get_texts()]
    assert [f"{k}: {(labels == k).sum()} units" for k in range(4)] == [text for text in listed if ":" in text]


def points(groups: dict[str, UnitsOf]) -> np.ndarray:
    return np.concatenate([np.asarray(each.get_offsets()) for each in graph_embedding(groups).collections])


def test_the_embedding_separates_planted_clusters_whatever_the_degrees() -> None:
    places = points(units(3))
    labels = np.concatenate([of.labels[of.labels >= 0] for of in units(3).values()])
    means = np.array([places[labels == k].mean(0) for k in range(3)])
    nearest = np.linalg.norm(places[:, None] - means, axis=2).argmin(1)
    assert (nearest == labels).all()
    generator = np.random.default_rng(3)
    scaled = {
        name: replace(of, coordinates=of.coordinates * generator.uniform(0.001, 9, (len(of.labels), 1)))
        for name, of in units(3).items()
    }
    np.testing.assert_allclose(points(scaled), places, atol=1e-12)


def test_matrices_are_in_the_order_of_the_clusters() -> None:
    groups = units()
    ax = weight_matrices(matrices(groups), groups)
    assert len(ax.child_axes) == 3
    for panel, matrix in zip(ax.child_axes, matrices(groups), strict=True):
        of = [np.where(groups[name].labels < 0, 99, groups[name].labels) for name in (matrix.written, matrix.read)]
        orders = [np.argsort(each, kind="stable") for each in of]
        np.testing.assert_array_equal(panel.images[0].get_array(), matrix.weights[np.ix_(*orders)])
        borders = sum(len(np.unique(each)) - 1 for each in of)
        assert len(panel.lines) == borders
        assert len([patch for patch in panel.patches if isinstance(patch, Rectangle)]) == borders + 2
        assert panel.get_title() == f"{matrix.map}\nC 0.31 (shuffled 0.11, z 14.1)"
    unmeasured = replace(matrices(groups)[0], value=NAN, null=np.zeros(0), z=NAN)
    assert weight_matrices([unmeasured], groups).child_axes[0].get_title() == "hidden.0"


@settings(max_examples=30)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 20))
def test_means_of_blocks_keep_what_a_matrix_is_about(n_rows: int, n_columns: int, blocks: int) -> None:
    values = np.random.default_rng(0).random((n_rows, n_columns))
    shown = by_blocks(values, largest=20, blocks=blocks)
    assert shown.shape == tuple(n if n <= 20 else blocks for n in values.shape)
    if all(n <= 20 or n % blocks == 0 for n in values.shape):
        assert shown.mean() == pytest.approx(values.mean())
    assert values.min() <= shown.min()
    assert shown.max() <= values.max()
    np.testing.assert_allclose(by_blocks(np.ones((n_rows, n_columns)), 20, blocks), 1)


def test_large_matrices_are_small_pictures() -> None:
    groups = units(widths={"inputs": 500, "readout": 401})
    (panel,) = weight_matrices(matrices(groups), groups).child_axes
    assert panel.images[0].get_array().shape == (200, 200)
    assert panel.get_xlim() == (0, 500)  # borders stay where they are


def test_accuracies_are_drawn_by_class_and_cluster() -> None:
    made = replace(probe(), clusters=(2, 3, 5, 7))
    made.off[0, 3] = NAN
    ax = class_clusters(made)
    off, alone = ax.child_axes
    np.testing.assert_allclose(off.images[0].get_array().filled(NAN), 100 * made.lost.T)
    np.testing.assert_allclose(alone.images[0].get_array(), 100 * np.vstack([made.accuracy, made.alone.T]))
    assert off.images[0].get_clim() == (-75, 75)
    ax.figure.draw_without_rendering()
    assert [text.get_text() for text in alone.get_yticklabels()] == ["all on", "2", "3", "5", "7"]
    assert [text.get_text() for text in alone.get_xticklabels()] == ["0", "1", "2"]
    assert len(off.texts) == 11  # a number in each cell but the unknown one
    assert len(class_clusters(probe(60)).child_axes[0].texts) == 0  # where there is no room, none


def test_circuits_are_drawn_by_criterion() -> None:
    made = [replace(circuits()[0], size=0.0), *circuits()[1:]]
    top, rates = class_circuits(made).child_axes
    drawn = {line.get_label(): line.get_ydata() for line in top.lines}
    np.testing.assert_allclose(drawn["class (published)"], [top.get_ylim()[0], 2.2, 2.4])
    np.testing.assert_allclose(drawn["one-vs-rest"], [10, 11, 12])
    np.testing.assert_allclose(rates.images[0].get_array(), [[100] * 3, [5] * 3, [100] * 3, [90] * 3])
    top.figure.draw_without_rendering()
    rows_of = ["TPR, class", "TNR, class", "TPR, one-vs-rest", "TNR, one-vs-rest"]
    assert [text.get_text() for text in rates.get_yticklabels()] == rows_of
    alone = class_circuits([circuits()[1], replace(circuits()[3], tnr=NAN)]).child_axes[1]
    assert alone.images[0].get_array().filled(NAN)[1].tolist() == pytest.approx([90, NAN], nan_ok=True)


def test_lesions_are_drawn_beside_random_ones() -> None:
    made = effects()
    single, double = cluster_lesions(made).child_axes
    np.testing.assert_allclose(single.collections[1].get_offsets()[:, 1], 100 * made.drop)
    filled = [tuple(face) != (1, 1, 1, 1) for face in single.collections[1].get_facecolors()]
    assert filled == [True, True, False, False]
    bars = np.array(single.collections[0].get_segments())
    np.testing.assert_allclose(bars[:, :, 1], [[4, 16]] * 4)
    wanted = np.zeros((4, 4))
    wanted[0, 1] = wanted[1, 0] = 20
    np.fill_diagonal(wanted, NAN)
    np.testing.assert_allclose(double.images[0].get_array().filled(NAN), wanted, atol=1e-12)
    assert len(cluster_lesions(effects(excess=0.004)).child_axes) == 1  # says nothing


def linear(colours: tuple[str, ...]) -> np.ndarray:
    rgb = np.array([to_rgb(colour) for colour in colours])
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = np.clip(rgb, 0, 1) @ to_xyz.T / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


@pytest.mark.parametrize(
    "seen",
    [
        np.eye(3).tolist(),
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227969], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    ],
    ids=["all cones", "protanopia", "deuteranopia", "tritanopia"],
)
def test_clusters_are_told_apart_by_every_eye(seen: list[list[float]]) -> None:
    """Colours as seen without a kind of cones (Machado et al. 2009), a CIELAB distance of 20 or more apart."""
    colours = lab(linear(CLUSTERS) @ np.array(seen).T)
    distances = np.linalg.norm(colours[:, None] - colours, axis=2)[np.triu_indices(len(CLUSTERS), 1)]
    assert distances.min() > 20
    assert len(CLUSTERS) == 12


LONG = "a class or layer of a long name"


def crowded() -> list[Axes]:
    named = {f"{LONG} {k}": 30 for k in range(5)}
    groups = units(12, {"inputs": 80, **named})
    many = probe(100, 12)
    many = replace(many, classes=[f"{c} {LONG}" for c in range(100)])
    few = replace(probe(10, 2), classes=[f"{c} {LONG}" for c in range(10)])
    networks = [row(f"{LONG} {k}", kind, 9 + 0.01 * k) for kind in ("member", "network") for k in range(25)]
    return [
        n_cuts(networks, np.linspace(9, 10, 50), 9.1, LONG), n_cuts([row()], [], NAN, ""),
        n_cuts([*rows(4, 4), row(LONG, "network")], np.linspace(9, 10, 50), 9.1, LONG),
        eigenvalue_gaps(np.linspace(0, 1, 41), 40), eigenvalue_gaps([0, 0.5, 0.6], 2),
        graph_embedding(units(2)), graph_embedding(groups), graph_embedding(units(30, {"inputs": 60, "readout": 60})),
        weight_matrices(matrices(groups), groups), weight_matrices(matrices(units())[:1], units()),
        class_clusters(many), class_clusters(few), class_clusters(probe(10, 12)),
        class_circuits([replace(c, label=f"{c.label} {LONG}") for c in circuits(100)]), class_circuits(circuits()[:1]),
        cluster_lesions(effects(30)), cluster_lesions(effects(2)), cluster_lesions(effects(12, excess=0.0)),
    ]  # fmt: skip


def ticks_outside(ax: Axes) -> set[Text]:
    """Labels of ticks that are not drawn."""
    return {
        text
        for axis, limits, place in ((ax.xaxis, ax.get_xlim(), 0), (ax.yaxis, ax.get_ylim(), 1))
        for text in axis.get_ticklabels(which="both")
        if not (ax.axison and min(limits) <= text.get_position()[place] <= max(limits))
    }


def test_no_text_covers_another_or_is_cut() -> None:
    for ax in crowded():
        figure = ax.figure
        figure.draw_without_rendering()
        outside = {text for panel in panels(ax) for text in ticks_outside(panel)}
        shown = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
        shown = [text for text in shown if text not in outside]
        boxes = np.array([Text.get_window_extent(text).padded(-1).extents for text in shown])  # x0, y0, x1, y1
        assert len(shown) > 2
        cut = (boxes[:, :2] < 0).any(1) | (boxes[:, 2] > figure.bbox.x1) | (boxes[:, 3] > figure.bbox.y1)
        assert [shown[i] for i in np.flatnonzero(cut)] == []
        covered = (boxes[:, None, :2] < boxes[:, 2:]).all(2)
        covered = np.triu(covered & covered.T, 1)
        assert [(shown[i], shown[j]) for i, j in np.argwhere(covered)] == []


def draws() -> list[Callable[[Axes], Axes]]:
    made = result()
    return [
        lambda ax: n_cuts(made.rows, made.null_values, made.n_cut, made.name, ax),
        lambda ax: eigenvalue_gaps(made.eigenvalues, made.n_clusters, ax),
        lambda ax: graph_embedding(made.groups, ax),
        lambda ax: weight_matrices(made.matrices, made.groups, ax),
        lambda ax: class_clusters(probe(), ax),
        lambda ax: class_circuits(made.circuits, ax),
        lambda ax: cluster_lesions(effects(), ax),
    ]


def test_figures_use_the_axes_given() -> None:
    for draw in draws():
        ax = Figure().subplots()
        assert draw(ax) is ax


def test_what_cannot_be_drawn_is_refused() -> None:
    def refused(text: str, draw: Callable[[], object]) -> None:
        with pytest.raises(InputError, match=f"(?s){text}"):
            draw()

    groups, nothing = units(), "there is nothing to draw"
    refused(f"{nothing}.*n_cuts.*no finite n-cut", lambda: n_cuts([row(n_cut=NAN)], [NAN], 9.0, ""))
    refused("eigenvalues cannot be drawn.*2 finite ones.*three or more", lambda: eigenvalue_gaps([0, 1, NAN], 2))
    refused("eigenvalues cannot be drawn", lambda: eigenvalue_gaps([0, 1], 2))
    refused(f"{nothing}.*no units", lambda: graph_embedding({}))
    unused = {"inputs": UnitsOf(np.full(3, -1), np.ones((3, 2)))}
    refused(f"{nothing}.*0 units with a cluster and 2 coordinates", lambda: graph_embedding(unused))
    refused(f"{nothing}.*no weight matrix", lambda: weight_matrices([], groups))
    odd = replace(matrices(groups)[0], weights=np.ones((2, 3)))
    refused(r"does not fit.*'hidden.0'.*\(2, 3\).*\(20, 12\)", lambda: weight_matrices([odd], groups))
    refused(r"does not fit.*\(20, 0\), for hidden.0", lambda: weight_matrices([replace(odd, read="x")], groups))
    refused("by class cannot be drawn.*3 classes × 2 clusters",
            lambda: class_clusters(replace(probe(), clusters=(0, 1))))  # fmt: skip
    none = ClassClusters([], np.zeros(0), np.zeros((0, 4)), np.zeros((0, 4)))
    refused("by class cannot be drawn.*0 classes", lambda: class_clusters(none))
    refused(f"{nothing}.*1 circuits, none finite", lambda: class_circuits([replace(circuits()[0], size=NAN)]))
    refused(f"{nothing}.*4 clusters, no finite", lambda: cluster_lesions(replace(effects(), drop=np.full(4, NAN))))
    refused("there is no network to tell of", lambda: modularity_table([]))
    refused("there is no network to tell of", lambda: render_modularity(result(rows=[])))


# --- the page ---------------------------------------------------------------------------------------------------------

SECTIONS = [
    "Networks", "More than chance?", "The units", "The weights", "What is each part for?", "What does each class need?",
    "What does the network lose?", "How every number was obtained",
]  # fmt: skip


@pytest.fixture(scope="module")
def page() -> str:
    return render_modularity(result())


def test_the_page_has_all_sections_in_order_and_a_caption_for_each_figure(page: str) -> None:
    assert re.findall("<h2>(.*)</h2>", page) == SECTIONS
    assert len(re.findall("<figcaption>.+</figcaption>", page)) == page.count("<svg") == 7
    assert "<h1>How modular is member 0 of demo/population?</h1>" in page
    assert "57 units · 4 parts · 4 networks · 50 shuffled copies of each (permute)" in page
    summary = re.search('(?s)<p class="summary">(.*?)</p>', page)
    assert summary is not None
    assert summary[1].startswith("<strong>The units of member 0")
    assert summary[1].count("<br>") == len(modularity_sentences(result())) - 1
    assert "Here the largest gap after the first is that after eigenvalue 4 (0.3): 4 clusters were made." in page
    assert "<dt>command</dt><dd><pre><code>consilience modularity demo/population</code></pre></dd>" in page


def test_the_gaps_are_told_in_numbers() -> None:
    bare = result(groups={}, matrices=(), probe=None, circuits=(), lesions=None)
    page = render_modularity(replace(bare, eigenvalues=np.array([0.0, 0.3, 0.4, 0.7, 0.75])))
    assert "eigenvalue 3 (0.3); after 4, the number of clusters made, it is 0.05." in page
    page = render_modularity(replace(bare, eigenvalues=np.array([0.0, 0.3, 0.4]), n_clusters=2))
    assert "a large gap after them.</figcaption>" in page
    page = render_modularity(replace(bare, eigenvalues=np.array([0.0, 0.3, 0.4, 0.45])))  # of four units, no more
    assert "eigenvalue 2 (0.1).</figcaption>" in page


def headings(made: ModularityResult) -> list[str]:
    return re.findall("<h2>(.*)</h2>", render_modularity(made))


@pytest.mark.parametrize(
    ("section", "known"),
    [
        ("More than chance?", ["rows", "null_values"]),
        ("More than chance?", ["eigenvalues"]),
        ("The units", ["groups"]),
        ("The weights", ["groups", "matrices"]),
        ("What is each part for?", ["probe"]),
        ("What does each class need?", ["circuits"]),
        ("What does the network lose?", ["lesions"]),
        ("How every number was obtained", ["obtained"]),
    ],
)
def test_sections_are_there_only_with_data(section: str, known: list[str]) -> None:
    bare = result(
        rows=[row(n_cut=NAN)], null_values=np.zeros(0), n_null=0, eigenvalues=np.array([0.0, 1.0]), groups={},
        matrices=(), probe=None, circuits=(), lesions=None, obtained={},
    )  # fmt: skip
    assert headings(bare) == ["Networks"]
    made = replace(bare, **{name: getattr(result(), name) for name in known})
    assert [name for name in headings(made) if name != "The units" or section == name] == ["Networks", section]


def test_pages_can_be_drawn_with_values_that_are_not_known() -> None:
    unknown = row(accuracy=None, n_cut=NAN, null_mean=NAN, null_sd=NAN, z=NAN, p=NAN, cross=NAN, cross_null=NAN)
    groups = units()
    groups["hidden.0"].coordinates[3] = NAN
    weights = [replace(matrix, value=NAN, null=np.array([NAN]), z=NAN) for matrix in matrices(groups)]
    weights[0].weights[0] = NAN
    every = result(
        rows=[unknown, *rows(), replace(unknown, kind="assembly")], n_cut=NAN, groups=groups, matrices=weights,
        null_values=np.array([NAN, 9.0]), eigenvalues=np.array([0, NAN, 0.3]),
        probe=ClassClusters(["0", "1"], np.array([NAN, 0.9]), np.full((2, 3), NAN), np.full((2, 3), NAN)),
        circuits=[replace(circuits()[0], tpr=NAN, tnr=NAN), replace(circuits()[1], size=NAN)],
        lesions=replace(effects(), random_sd=np.full(4, NAN), double=np.full((4, 4), NAN)),
    )  # fmt: skip
    page = render_modularity(every)
    assert re.findall("<h2>(.*)</h2>", page) == SECTIONS
    assert not re.search(r"\bnan\b", re.sub("(?s)<svg.*?</svg>", "", page), re.IGNORECASE)
    nothing = replace(
        every, lesions=replace(effects(), drop=np.full(4, NAN)), circuits=[replace(circuits()[0], size=NAN)]
    )
    assert not any("What does" in heading for heading in headings(nothing))


def test_the_page_is_the_same_whatever_the_users_style(page: str) -> None:
    with mpl.rc_context({"font.size": 20, "svg.fonttype": "none", "image.cmap": "hot"}):
        assert render_modularity(result()) == page


def test_the_page_needs_nothing_else_and_escapes_all_text(page: str) -> None:
    bad = "<script>alert('1')</script>&"
    groups = {f"{name}{bad}": of for name, of in units().items()}
    made = result(
        name=bad, null=bad, rows=[row(bad, bad)], groups=groups, matrices=matrices(groups),
        probe=replace(probe(), classes=[bad, "b", "c"]), circuits=[replace(circuits()[0], label=bad, criterion=bad)],
        obtained={"command": bad, bad: bad},
    )  # fmt: skip
    for text in (page, render_modularity(made)):
        self_contained(text)


def test_the_report_is_imported_without_torch() -> None:
    code = """if True:
        import sys
        from consilience.report import modularity
        modularity.eigenvalue_gaps([0, 0.5, 0.6], 2)
        assert not {"torch", "matplotlib.pyplot", "sklearn"} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", code], check=True)
