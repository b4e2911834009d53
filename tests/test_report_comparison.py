"""The page of a comparison: statistics of families, models in a plane, figures, sentences, table."""

from __future__ import annotations

import itertools
import math
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
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import pdist, squareform

from consilience.errors import InputError
from consilience.report.comparison import (
    ComparisonResult,
    DisputedSample,
    GroupsOf,
    barrier_matrix,
    comparison_sentences,
    comparison_table,
    disputed_samples,
    layer_matrix,
    paths_of_models,
    plane_at,
    render_comparison,
    similarity_matrices,
    tree_of_models,
)
from consilience.report.comparison.contrasts import Contrast, chance_of, contrast, least_chance, since
from consilience.report.comparison.families import COLOURS
from consilience.report.comparison.grids import pooled
from consilience.report.comparison.heatmaps import layers_within, scale_of
from consilience.report.comparison.model_tree import CUT, cut_of
from consilience.report.comparison.planes import classical, plane_of
from test_report import self_contained

NAN = float("nan")
PLACES = ("conv", "fc")


def values(families: list[str], own: float = 0.8, other: float = 0.4, noise: float = 0.02, seed: int = 0) -> np.ndarray:
    """Similarities, ``own`` within families and ``other`` between them."""
    m = len(families)
    drawn = np.random.default_rng(seed).normal(size=(m, m)) * noise
    made = np.where(np.equal.outer(families, families), own, other) + (drawn + drawn.T) / 2
    np.fill_diagonal(made, 1)
    return made


def groups(matrix: np.ndarray, labels: list[int], silhouette: float = 0.5) -> GroupsOf:
    merges = linkage(squareform(np.maximum(1 - matrix, 0), checks=False), "average")
    return GroupsOf(np.array(labels), silhouette, merges)


def result(m: int = 8, n_families: int = 2, long: bool = False, **changes: object) -> ComparisonResult:
    """Models of families, alike at "fc" and hardly at "conv"; with all that a page can have but epochs."""
    called = ("a-family-with-a-name-so-lon", "a/model/with/a/long/name/in") if long else ("family", "model")
    family = [f"{called[0]}-{i * n_families // m}" for i in range(m)]
    names = [f"{called[1]}-{i}" for i in range(m)]
    matrices = {"conv": values(family, 0.5, 0.45, seed=1), "fc": values(family, seed=2)}
    labels = [i * n_families // m for i in range(m)]
    layers = np.tile([[1, 0.3], [0.3, 1]], (m, m))
    views = ["group 0: most say 7", "group 1: 1"]
    samples = [DisputedSample(f"test {i}", np.eye(5), "7", 0.9, views) for i in range(3)]
    made = ComparisonResult(
        tuple(names), tuple(family), "adjusted_rand", True, (-0.5, 1.0), 1000, 10,
        {place: [place] * m for place in PLACES}, matrices,
        {"conv": groups(matrices["conv"], labels, 0.1), "fc": groups(matrices["fc"], labels)},
        z={place: np.full((m, m), 12.4) for place in PLACES},
        layer_matrix=layers, layer_index=[(name, place) for name in names for place in PLACES],
        purity={"conv": np.full(m, 0.6), "fc": np.linspace(0.8, 0.9, m)},
        agreement_with_families={"conv": 0.1, "fc": 1.0}, disputed_place="fc", disputed=samples,
        barriers=np.where(np.equal.outer(family, family), 0.2, 2.0) * (1 - np.eye(m)),
        obtained={"command": "consilience compare runs --out page", "seed": 0},
    )  # fmt: skip
    return replace(made, **changes)


def over_epochs(n: int = 3, **options: object) -> ComparisonResult:
    """Families grow apart from the second epoch on; the last epoch is the end."""
    made = result(**options)
    own = list(made.families)
    epochs = {
        10 * e: {place: values(own, 0.5 + 0.1 * e, 0.55, noise=0.005, seed=e) for place in PLACES} for e in range(n - 1)
    }
    return replace(made, epochs={**epochs, 10 * (n - 1): made.matrices}, combined=made.matrices)


# --- statistics -------------------------------------------------------------------------------------------------------


def by_hand(matrix: np.ndarray, families: list[str]) -> tuple[list[float], list[float]]:
    pairs = list(itertools.combinations(range(len(families)), 2))
    same = [matrix[i, j] for i, j in pairs if families[i] == families[j] and np.isfinite(matrix[i, j])]
    return same, [matrix[i, j] for i, j in pairs if families[i] != families[j] and np.isfinite(matrix[i, j])]


@given(st.lists(st.sampled_from("abc"), min_size=2, max_size=7), st.integers(0, 99), st.booleans())
def test_contrasts_are_means_over_pairs(families: list[str], seed: int, with_nan: bool) -> None:
    matrix = values(families, noise=0.3, seed=seed)
    if with_nan:
        matrix[0, 1] = matrix[1, 0] = NAN
    found = contrast(matrix, families)
    for pairs, mean, sd in zip(
        by_hand(matrix, families), (found.within, found.between), (found.within_sd, found.between_sd), strict=True
    ):
        assert mean == pytest.approx(np.mean(pairs) if pairs else NAN, nan_ok=True)
        assert sd == pytest.approx(np.std(pairs) if len(pairs) > 1 else NAN, nan_ok=True)


def test_chance_of_families_is_the_share_of_all_their_arrangements_that_do_as_well() -> None:
    families = ["a"] * 4 + ["b"] * 2
    matrix = values(families, 0.6, 0.5, noise=0.15, seed=3)
    gap = contrast(matrix, families).gap(True)
    splits = [["b" if i in two else "a" for i in range(6)] for two in itertools.combinations(range(6), 2)]
    gaps = [contrast(matrix, split).gap(True) for split in splits]
    exact = np.mean(np.array(gaps) >= gap - 1e-12)
    assert 0.1 < exact < 0.9
    assert chance_of(matrix, families, True) == pytest.approx(exact, abs=0.05)
    assert chance_of(2 - matrix, families, False) == pytest.approx(chance_of(matrix, families, True))
    assert least_chance(families) == 1 / 15
    assert least_chance(["a"] * 3 + ["b"] * 3) == 1 / 10
    assert least_chance(list("abcdefgh")) == 1
    assert least_chance(["a"] * 20 + ["b"] * 20) == 0.001


def test_clear_families_have_the_smallest_chance_there_is() -> None:
    families = [*"aaaaaabbbbbbcccccc"]
    assert chance_of(values(families), families, True) == 0.001
    assert chance_of(values(families), families, False) == 1.0
    assert math.isnan(chance_of(values([*"abc"]), [*"abc"], True))


def test_since_when_families_are_apart() -> None:
    families = [*"aabb"]
    moments = {f"epoch {e}": {"fc": values(families, 0.5 + gap, 0.5, 0)} for e, gap in enumerate((1, -1, 1, 1))}
    assert since(moments, "fc", families, True) == "epoch 2"
    assert since(moments, "fc", families, False) is None
    assert since({**moments, "end": {"fc": np.full((4, 4), NAN)}}, "fc", families, True) == "epoch 2"
    assert since({"epoch 0": moments["epoch 0"]}, "fc", families, True) == "epoch 0"


# --- the plane --------------------------------------------------------------------------------------------------------


@settings(max_examples=12)
@given(st.integers(0, 10_000), st.integers(2, 9))
def test_distances_of_a_plane_are_reproduced_at_every_moment(seed: int, m: int) -> None:
    moments = np.random.default_rng(seed).normal(size=(3, m, 2))
    wanted = [squareform(pdist(points)) for points in moments]
    found = plane_of(dict(enumerate(wanted)))  # type: ignore[arg-type]
    for points, distances in zip(found.positions, wanted, strict=True):
        np.testing.assert_allclose(squareform(pdist(points)), distances, atol=0.35 * distances.max())
    np.testing.assert_allclose(squareform(pdist(found.positions[-1])), wanted[-1], atol=1e-6)
    assert found.stress[-1] < 1e-6
    assert (found.stress <= 0.3).all()


def test_points_do_not_jump_where_distances_say_nothing_of_directions() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(7, 2))
    turns = [np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) for a in (0.5, 2.0, 4.0)]
    drifting = [squareform(pdist((1 + 0.01 * t) * points @ turn)) for t, turn in enumerate(turns)]
    found = plane_of({str(t): each for t, each in enumerate(drifting)})
    assert found.moments == ("0", "1", "2")
    assert np.abs(np.diff(found.positions, axis=0)).max() < 0.05
    assert found.stress.max() < 1e-3
    np.testing.assert_allclose(found.positions.mean(1), 0, atol=1e-9)


def test_stress_tells_what_a_plane_cannot_show() -> None:
    simplex = 1 - np.eye(5)
    found = plane_of({"end": simplex})
    d = squareform(pdist(found.positions[0]))
    assert found.stress[0] == pytest.approx(math.sqrt(np.square(d - simplex).sum() / simplex.sum()))
    start = squareform(pdist(classical(simplex)))
    assert 0.1 < found.stress[0] < math.sqrt(np.square(start - simplex).sum() / simplex.sum())


def test_models_that_are_one_and_the_same_are_one_point() -> None:
    apart = squareform([1.0, 1.0, 0.0])
    found = plane_of({"early": apart, "late": np.zeros((3, 3))})
    np.testing.assert_array_equal(found.positions[1], 0)
    np.testing.assert_allclose(squareform(pdist(found.positions[0])), apart, atol=1e-3)
    assert found.stress[1] == 0


def test_moments_with_missing_values_are_left_out_of_the_plane() -> None:
    made = over_epochs()
    made.epochs[0]["fc"][0, 1] = NAN
    assert plane_at(made, "fc").moments == ("epoch 10", "epoch 20")
    assert "1 moments at which values are missing are left out." in render_comparison(replace(made, **NOTHING))


# --- results ----------------------------------------------------------------------------------------------------------


def test_the_end_is_a_moment_of_its_own_unless_it_is_the_last_epoch() -> None:
    made = over_epochs()
    assert list(made.moments) == ["epoch 0", "epoch 10", "epoch 20", "all epochs"]
    assert list(made.in_time) == ["epoch 0", "epoch 10", "epoch 20"]
    assert list(replace(made, combined={}, epochs={0: made.epochs[0]}).moments) == ["epoch 0", "end"]
    assert list(result().moments) == ["end"]


def test_families_are_together_where_the_tree_allows() -> None:
    order = [3, 0, 5, 1, 4, 2, 7, 6]
    made = result()
    matrix = made.matrices["fc"][np.ix_(order, order)]
    families = [made.families[i] for i in order]
    mixed = replace(made, families=tuple(families), matrices={"fc": matrix}, groups={"fc": groups(matrix, [0] * 8)})
    found = [families[i] for i in mixed.order_of("fc")]
    assert found == sorted(found, key=families.index)
    assert sorted(mixed.order_of("fc")) == list(range(8))
    assert mixed.order_of("nowhere") == [0, 1, 3, 5, 2, 4, 6, 7]


def test_the_clearest_place_has_the_best_silhouette() -> None:
    made = result()
    assert made.clearest == "fc"
    assert replace(made, groups={}).clearest is None
    lone = {place: replace(each, silhouette=NAN) for place, each in made.groups.items()}
    assert replace(made, groups=lone).clearest == "conv"


def test_distances_are_0_where_models_are_alike() -> None:
    made = result()
    np.testing.assert_allclose(made.distances(made.matrices["fc"]), 1 - made.matrices["fc"], atol=1e-12)
    other = replace(made, larger_is_more_similar=False, value_range=(0.0, math.inf), matrices={"fc": 2 - np.eye(8) * 2})
    np.testing.assert_array_equal(other.distances(other.matrices["fc"]), 2 * (1 - np.eye(8)))


def test_results_that_do_not_fit_together_are_refused() -> None:
    cases: list[tuple[dict[str, object], list[str]]] = [
        ({"names": ("a",)}, ["there is nothing to compare", "1 models at 2 places", "2 models or more"]),
        ({"matrices": {}}, ["there is nothing to compare", "8 models at 0 places"]),
        ({"families": ("a",)}, ["each model needs a family", "families", "1", "8"]),
        ({"matrices": {"fc": np.eye(3)}}, ["not a value for every two models", r"matrices\['fc'\]", r"\(3, 3\)"]),
        ({"epochs": {3: {"fc": np.eye(3)}}}, ["not a value for every two models", r"epochs\[3\]\['fc'\]"]),
        ({"barriers": np.eye(3)}, ["not a value for every two models", "barriers"]),
        ({"layer_index": [("a", "fc")]}, ["each row of the layers needs a model and a place", "layer_index"]),
        ({"groups": {"fc": groups(np.eye(4), [0] * 4)}}, ["groups and tree are not of these", r"groups\['fc'\]"]),
    ]
    for changes, texts in cases:
        with pytest.raises(InputError, match="(?s)" + ".*".join(texts)):
            result(**changes)


# --- figures ----------------------------------------------------------------------------------------------------------


def written(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts if text.get_text()]


def test_matrices_are_a_row_for_each_moment_and_a_column_for_each_place_in_one_scale() -> None:
    made = over_epochs()
    ax = similarity_matrices(made)
    assert len(ax.images) == 4 * 2
    assert len({image.get_clim() for image in ax.images}) == 1
    order = made.order_of("fc")
    shown = np.ma.filled(ax.images[3].get_array(), NAN)
    expected = made.epochs[10]["fc"][np.ix_(order, order)].copy()
    np.fill_diagonal(expected, NAN)
    np.testing.assert_array_equal(shown, expected)
    for text in ("epoch 0", "epoch 20", "all epochs", "conv", "fc"):
        assert text in written(ax)
    assert written(ax)[1 : 1 + 8] == [made.names[i] for i in order]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["family-0", "family-1"]
    assert len([line for line in ax.lines if line.get_linewidth() == 0.6]) == 2 * 8  # a cross in each


def test_matrices_of_few_models_hold_their_values_and_those_of_many_their_families() -> None:
    assert "0.40" in written(similarity_matrices(result(4, matrices={"fc": values([*"aabb"], noise=0)}, groups={})))
    many = similarity_matrices(result(60, 3))
    assert {"family-0", "family-1", "family-2"} <= set(written(many))
    assert not any(text.startswith("model") for text in written(many))
    assert many.get_legend() is None
    mixed = replace(result(60, 3), groups={}, families=tuple("abcd"[i % 4] for i in range(60)))
    assert similarity_matrices(mixed).lines[0].get_linewidth() == 0.6  # without a tree families are together
    strip = [p for p in similarity_matrices(mixed).patches if isinstance(p, Rectangle)]
    assert [to_hex(p.get_facecolor()) for p in strip[:4]] == [colour.lower() for colour in COLOURS[:4]]


def test_missing_values_and_places_are_grey() -> None:
    made = over_epochs()
    made.epochs[0]["fc"][:] = NAN
    del made.epochs[10]["conv"]
    ax = similarity_matrices(made)
    assert np.ma.getmaskarray(ax.images[1].get_array()).all()
    assert np.ma.getmaskarray(ax.images[2].get_array()).all()
    assert not np.ma.getmaskarray(ax.images[3].get_array()).all()


def test_many_models_are_means_over_blocks() -> None:
    matrix = np.arange(36.0).reshape(6, 6)
    matrix[0, 0] = NAN
    np.testing.assert_allclose(pooled(matrix, 3)[0], [(1 + 6 + 7) / 3, 5.5, 7.5])
    assert pooled(matrix, 6) is matrix
    assert np.isnan(pooled(np.full((5, 5), NAN), 2)).all()
    assert len(similarity_matrices(over_epochs(14, m=200)).images[0].get_array()) < 200


def test_the_scale_spans_the_values_between_models_and_no_trifles() -> None:
    made = result()
    scale = scale_of(np.array([values([*"aabb"], 0.9, 0.2, 0)]), made)
    assert (scale.low, scale.high, scale.colours) == (pytest.approx(0.2), pytest.approx(0.9), "Blues")
    scale = scale_of(np.array([values([*"aabb"], 0.99, 0.985, 0)]), made)
    assert (scale.low, scale.high) == (pytest.approx(0.9), pytest.approx(1.0))
    scale = scale_of(np.full((1, 3, 3), NAN), replace(made, larger_is_more_similar=False))
    assert (scale.low, scale.high, scale.colours) == (0, 1, "Blues_r")


def test_layers_are_compared_within_models() -> None:
    made = result(3, 1)
    matrix = np.arange(36.0).reshape(6, 6)
    turned = [5, 0, 3, 1, 4, 2]  # rows may come in any order
    index = [made.layer_index[i] for i in turned]
    made = replace(made, layer_matrix=matrix[np.ix_(turned, turned)], layer_index=index)
    np.testing.assert_array_equal(layers_within(made), [[14, 15], [20, 21]])
    ax = layer_matrix(made)
    assert written(ax)[:2] == ["conv", "fc"]
    assert "15.00" in written(ax)


def test_the_tree_has_every_merge_at_its_distance_and_leaves_in_colours_of_families() -> None:
    made = result()
    ax = tree_of_models(made, "fc")
    (lines,) = [each for each in ax.collections if isinstance(each, LineCollection)]
    np.testing.assert_allclose([s[1, 0] for s in lines.get_segments()], made.groups["fc"].merges[:, 2])
    leaves = np.concatenate([s[[0, 3]] for s in lines.get_segments()])
    assert sorted(leaves[leaves[:, 0] == 0, 1].tolist()) == list(range(8))
    names = [text for text in ax.texts if text.get_text().startswith("model")]
    assert [text.get_text() for text in names] == [made.names[i] for i in made.order_of("fc")]
    points = [line for line in ax.lines if line.get_marker() not in ("None", "")]
    assert [line.get_color() for line in points] == [COLOURS[0]] * 4 + [COLOURS[1]] * 4
    (cut,) = [line for line in ax.lines if line.get_color() == CUT and line.get_linestyle() == "--"]
    assert cut.get_xdata()[0] == pytest.approx(made.groups["fc"].merges[-2:, 2].mean())
    assert written(ax)[-2:] == ["group 0", "group 1"]


def test_a_tree_of_one_group_is_not_cut_and_one_of_many_models_not_named() -> None:
    made = result()
    one = replace(made, groups={"fc": replace(made.groups["fc"], labels=np.zeros(8, int), silhouette=NAN)})
    assert not [line for line in tree_of_models(one, "fc").lines if line.get_color() == CUT]
    many = tree_of_models(result(120, 3), "fc")
    assert not any(text.startswith("model") for text in written(many))
    assert len([p for p in many.patches if isinstance(p, Rectangle)]) == 3
    assert cut_of(GroupsOf(np.arange(3), 0.1, np.array([[0, 1, 0.4, 2], [2, 3, 0.6, 3]]))) == pytest.approx(0.2)


def test_paths_lead_from_the_first_moment_to_the_last() -> None:
    made = over_epochs()
    plane = plane_at(made, "fc")
    ax = paths_of_models(made, plane)
    paths = [line for line in ax.lines if len(line.get_xdata()) == 3]
    np.testing.assert_allclose([path.get_xydata() for path in paths], plane.positions.swapaxes(0, 1))
    ends = [line.get_xydata()[0] for line in ax.lines[-8:]]
    np.testing.assert_allclose(ends, plane.positions[-1])
    assert written(ax) == list(made.names)
    box, (x0, x1), (y0, y1) = ax.get_window_extent(), ax.get_xlim(), ax.get_ylim()
    assert (x1 - x0) / box.width == pytest.approx((y1 - y0) / box.height)
    alone = paths_of_models(result(), plane_at(result(), "fc"))
    assert all(len(line.get_xdata()) == 1 for line in alone.lines)


def test_paths_of_many_models_are_those_of_families() -> None:
    made = over_epochs(m=60, n_families=3)
    plane = plane_at(made, "fc")
    paths = [line.get_xydata() for line in paths_of_models(made, plane).lines if len(line.get_xdata()) == 3]
    np.testing.assert_allclose(paths, [plane.positions[:, i : i + 20].mean(1) for i in (0, 20, 40)])


def test_disputed_samples_are_shown_with_every_view() -> None:
    colour = DisputedSample("b", np.full((2, 4, 3), 1.5), None, NAN, [f"group {i}: most say 1" for i in range(12)])
    ax = disputed_samples([*result().disputed, colour])
    assert written(ax)[:3] == ["test 0 · class 7 · disagreement 0.90", "group 0: most say 7", "group 1: 1"]
    assert written(ax)[9] == "b"
    assert written(ax)[-1] == "… and 6 more groups"
    assert len(ax.images) == 4
    np.testing.assert_array_equal(ax.images[0].get_array(), np.eye(5))
    assert np.asarray(ax.images[3].get_array()).max() == 1
    left, right, bottom, top = ax.images[3].get_extent()
    assert (right - left) / (bottom - top) == pytest.approx(2)
    words = disputed_samples([replace(colour, image=None, views=["a" * 300, "word " * 40])])
    assert not words.images
    assert len(written(words)) > 4


def test_barriers_are_drawn_where_there_are_any() -> None:
    made = result()
    made.barriers[0, 7] = made.barriers[7, 0] = NAN
    image = barrier_matrix(made).images[0]
    shown = np.ma.getmaskarray(image.get_array())
    assert shown.sum() == 8 + 2
    assert image.get_clim() == (0, 2.0)


@pytest.fixture(scope="module")
def every_figure() -> list[Axes]:
    made = [result(2), result(6, long=True), result(32, 5), result(48, 12, long=True), result(200, 8)]
    over_time = [over_epochs(14, m=6, long=True), over_epochs(m=30, n_families=3)]
    return [
        *(draw(each) for each in made for draw in (barrier_matrix, lambda r: tree_of_models(r, "fc"))),
        *(similarity_matrices(each) for each in (*made, *over_time)),
        *(paths_of_models(each, plane_at(each, "fc")) for each in (*made[:3], *over_time)),
        *(layer_matrix(each) for each in made[:1]), disputed_samples(made[1].disputed),
    ]  # fmt: skip


def drawn(ax: Axes) -> list[Text]:
    """All texts that are seen: ticks outside their range are not, also of a colour bar."""
    hidden: set[Text] = set()
    for each in (ax, *ax.child_axes):
        for axis, limits in ((each.xaxis, each.get_xlim()), (each.yaxis, each.get_ylim())):
            low, high = sorted(limits)
            ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
            outside = [tick for tick in ticks if not (each.axison and low <= tick.get_loc() <= high)]
            hidden |= {label for tick in outside for label in (tick.label1, tick.label2)}
    return [t for t in ax.figure.findobj(Text) if t.get_visible() and t.get_text() and t not in hidden]


def test_no_text_covers_another_or_is_cut(every_figure: list[Axes]) -> None:
    for ax in every_figure:
        figure = ax.figure
        figure.draw_without_rendering()
        shown = drawn(ax)
        boxes = [Text.get_window_extent(text).padded(-1) for text in shown]
        for text, box in zip(shown, boxes, strict=True):
            assert min(box.x0, box.y0) >= 0, text
            assert box.x1 <= figure.bbox.x1, text
            assert box.y1 <= figure.bbox.y1, text
        edges = np.array([box.extents for box in boxes])
        apart = np.minimum(edges[:, None, 2:], edges[:, 2:]) <= np.maximum(edges[:, None, :2], edges[:, :2])
        for i, j in np.argwhere(~apart.any(-1)):
            assert i == j, (shown[i], shown[j])


def test_figures_use_the_axes_given_and_leave_the_users_style_alone() -> None:
    before, made = dict(mpl.rcParams), over_epochs()
    draws: list[Callable[[Axes], Axes]] = [
        lambda ax: similarity_matrices(made, ax),
        lambda ax: barrier_matrix(made, ax),
        lambda ax: layer_matrix(made, ax),
        lambda ax: tree_of_models(made, "fc", ax),
        lambda ax: paths_of_models(made, plane_at(made, "fc"), ax),
        lambda ax: disputed_samples(made.disputed, ax),
    ]
    for draw in draws:
        ax = Figure().subplots()
        assert draw(ax) is ax
    assert dict(mpl.rcParams) == before


def test_what_cannot_be_drawn_is_refused() -> None:
    made = result()
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: barrier_matrix(replace(made, barriers=None)), "there are no barriers to draw"),
        (lambda: barrier_matrix(replace(made, barriers=np.full((8, 8), NAN))), "there are no barriers to draw"),
        (lambda: layer_matrix(replace(made, layer_matrix=None)), "there are no layers to compare"),
        (lambda: tree_of_models(made, "nowhere"), "models were not grouped here"),
        (lambda: plane_at(made, "nowhere"), "models cannot be placed"),
        (lambda: plane_of({}), "there is nothing to place"),
        (lambda: plane_of({"end": np.full((2, 2), NAN)}), "a distance is not finite"),
        (lambda: disputed_samples([]), "there is nothing to draw"),
        (lambda: disputed_samples([replace(made.disputed[0], image=np.zeros((2, 2, 4)))]), "this is no picture"),
    ]
    for draw, text in cases:
        with pytest.raises(InputError, match=text):
            draw()


# --- sentences and table ----------------------------------------------------------------------------------------------


def sentence(made: ComparisonResult, begin: str) -> str:
    (found,) = [each for each in comparison_sentences(made) if each.startswith(begin)]
    return found


def test_sentences_tell_within_and_between_families() -> None:
    made = result(12, 3)
    assert sentence(made, "Models of one family").startswith(
        "Models of one family are more alike than models of different ones at every place: conv (0.49 against 0.45) "
        "and fc (0.80 against 0.40), and more than if families were shuffled (p ≤ 0.05)."
    )
    alike = replace(made, matrices={"conv": values(list(made.families), 0.5, 0.5, 0.1, 5), "fc": made.matrices["fc"]})
    p = chance_of(alike.matrices["conv"], made.families, True)
    assert p > 0.05
    found = sentence(alike, "They make no difference that shuffled families would not make at conv (0.")
    assert f"(p = {p:.2f})" in found
    neither = replace(made, matrices={"conv": alike.matrices["conv"]})
    assert sentence(neither, "Families make no difference")


def test_few_models_are_not_said_to_differ_by_more_than_chance() -> None:
    made = result(6)
    found = sentence(made, "On average, models of one family are more alike")
    assert found.endswith("(families shuffled among them would do as well with p = 0.10 at least).")
    opposite = replace(made, larger_is_more_similar=False, value_range=(0, math.inf))
    assert sentence(opposite, "At no place are models of one family more alike; but there are too few")


def test_models_without_families_are_told_of_too() -> None:
    one = result(5, 1, agreement_with_families=dict.fromkeys(PLACES, NAN))
    assert sentence(one, "All are of one family; between them it is 0.5")
    assert sentence(one, "At no place do the models fall into groups.")
    assert "family" not in sentence(one, "Loss barriers").replace("within families", "")
    each = result(2)
    assert sentence(each, "No family has two models") == (
        "No family has two models, so it cannot be told whether families matter. Between families it is "
        f"{each.matrices['conv'][0, 1]:.2f} at conv and {each.matrices['fc'][0, 1]:.2f} at fc."
    )
    clear = replace(one, groups={"fc": replace(one.groups["fc"], labels=np.array([0, 0, 1, 1, 1]))})
    assert sentence(clear, "Groups are clearest") == "Groups are clearest at fc: 2 groups, silhouette 0.50 (at most 1)."


def test_sentences_tell_how_well_groups_are_the_families() -> None:
    def told(conv: float, fc: float) -> str:
        found = comparison_sentences(result(agreement_with_families={"conv": conv, "fc": fc}))
        return next(each for each in found if "groups found" in each)

    assert told(0.1, 1.0) == "The groups found at fc are the families exactly."
    assert told(1.0, 1.0) == "The groups found at every place are the families exactly."
    index = "at best adjusted Rand index"
    assert told(NAN, 0.85).startswith(f"The groups found match the families largely: {index} 0.85 at fc")
    assert told(0.5, 0.4).startswith(f"The groups found match the families only partly: {index} 0.50 at conv")
    assert told(-0.1, 0.2) == (
        f"Nowhere are the groups found like the families: {index} 0.20 at fc, 2 groups for 2 families."
    )


def test_sentences_tell_since_when() -> None:
    assert sentence(over_epochs(), "On average, models of one family are nearer") == (
        "On average, models of one family are nearer to each other than to others from epoch 10 on at every place."
    )
    made = over_epochs()
    made.matrices["conv"][:] = np.where(made.matrices["conv"] == 1, 1, 1 - made.matrices["conv"])
    assert sentence(made, "On average, models of one family are nearer").endswith(
        "from epoch 10 on at fc and not at the end at conv."
    )
    assert not [each for each in comparison_sentences(result()) if "nearer" in each]


def test_sentences_tell_whether_pairs_are_more_alike_than_by_chance() -> None:
    assert sentence(result(), "Any two models") == (
        "Any two models are more alike than chance would have it, at every place: at least 12 standard deviations "
        "above the mean of shuffled samples."
    )
    z = np.full((8, 8), 12.0)
    z[0, 1] = z[1, 0] = 2.0
    z[0, 2] = z[2, 0] = NAN
    assert sentence(result(z={"conv": z, "fc": z + 2}), "More alike") == (
        "More alike than chance would have it (by 3 standard deviations) are 26 of 27 pairs at conv; "
        "at other places, all."
    )
    distance = result(larger_is_more_similar=False, value_range=(0, math.inf), z={"fc": -z})
    assert "26 of 27 pairs at fc." in sentence(distance, "More alike")
    assert not [each for each in comparison_sentences(result(z={})) if "chance would have it" in each]


def test_the_table_has_a_line_for_each_place() -> None:
    lines = comparison_table(result(12, 3)).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert cells[0][:3] == ["Place", "Within families", "Between families"]
    assert [row[0] for row in cells[2:]] == ["conv", "fc"]
    assert cells[3][3:5] == ["3", "1.00"]
    assert cells[3][5].startswith("0.85 ± ")
    assert len({len(line) for line in lines}) == 1
    bare = comparison_table(result(2, 2, groups={}, purity={"fc": np.array([NAN, 0.5])}, agreement_with_families={}))
    between = result(2).matrices["fc"][0, 1]
    assert [cell.strip() for cell in bare.splitlines()[3].split("|")[2:-1]] == ["–", f"{between:.2f}", "–", "–", "0.50"]
    odd = result(matrices={"a|b*": np.eye(8)}, groups={}, layer_matrix=None, layer_index=[])
    assert r"a\|b\*" in comparison_table(odd)


def test_nothing_is_written_about_what_is_not_a_number() -> None:
    made = over_epochs()
    empty = np.full((8, 8), NAN)
    blank = replace(
        made, matrices=dict.fromkeys(PLACES, empty), epochs={0: dict.fromkeys(PLACES, empty)}, groups={},
        z=dict.fromkeys(PLACES, empty), combined={}, layer_matrix=np.full((16, 16), NAN), barriers=empty,
        purity=dict.fromkeys(PLACES, np.full(8, NAN)), agreement_with_families=dict.fromkeys(PLACES, NAN), disputed=[],
    )  # fmt: skip
    assert not re.search(r"\bnan\b", " ".join(comparison_sentences(blank)) + comparison_table(blank))
    page = render_comparison(blank)
    assert "<figure>" not in page
    assert not re.search(r">[^<]*\bnan\b", page)


# --- the page ---------------------------------------------------------------------------------------------------------

SECTIONS = {
    "Groups of models": ["groups"], "A map of the models": [],
    "Which layers see alike": ["layer_matrix", "layer_index"], "Where models disagree": ["disputed"],
    "Loss barriers": ["barriers"], "How every number was obtained": ["obtained"],
}  # fmt: skip
NOTHING = {
    "groups": {}, "layer_matrix": None, "layer_index": (), "disputed": (), "barriers": None, "obtained": {},
    "layers": {},
}  # fmt: skip


@pytest.fixture(scope="module")
def page() -> str:
    return render_comparison(result())


def headings(page: str) -> list[str]:
    return re.findall("<h2>(.*?)</h2>", page)


def test_the_page_has_a_section_for_what_was_computed_and_for_nothing_else(page: str) -> None:
    always = ["Place by place", "Who is like whom"]
    assert headings(page) == [*always, *SECTIONS]
    assert len(re.findall("<figcaption>", page)) == 6
    made = result(3, 1)
    for name, fields in SECTIONS.items():
        bare = replace(made, **{**NOTHING, **{field: getattr(made, field) for field in fields}})
        own = [] if name == "A map of the models" else [name]
        expected = [*always, *(each for each in SECTIONS if each in ("A map of the models", *own))]
        assert headings(render_comparison(bare)) == expected
    over_time = replace(over_epochs(m=3), **NOTHING)
    assert headings(render_comparison(over_time)) == [*always, "The course of training"]
    assert headings(render_comparison(result(2, **{**NOTHING, "groups": result(2).groups}))) == always


def test_the_page_says_what_is_seen(page: str) -> None:
    assert "<h1>8 models compared at 2 places</h1>" in page
    assert "2 families · 1,000 samples · 10 clusters · adjusted Rand index" in page
    assert "Of all places, groups are clearest at fc: silhouette 0.50 of at most 1." in page
    assert "metric multidimensional scaling, SMACOF" in page
    assert f"Stress {plane_at(result(), 'fc').stress[0]:.2f}" in page
    assert '<th scope="row">fc</th><td style="text-align: right">0.8' in page
    assert "<dt>fc</dt><dd>fc</dd>" in page


def test_the_page_is_the_same_whatever_the_users_style(page: str) -> None:
    with mpl.rc_context({"font.size": 20, "svg.fonttype": "none"}):
        assert render_comparison(result()) == page


def test_the_page_needs_nothing_else_and_escapes_all_text(page: str) -> None:
    bad = "<script>alert('1')</script>&"
    made = over_epochs(2, m=3)
    names, families = tuple(bad + n for n in made.names), tuple(bad + f for f in made.families)
    made = replace(
        made, names=names, families=families, measure=bad, disputed_place=bad, obtained={"command": bad},
        layers={bad: bad},
        layer_index=[(bad + name, place) for name, place in made.layer_index],
        disputed=[replace(made.disputed[0], id=bad, label=bad, views=[bad])],
    )  # fmt: skip
    for text in (page, render_comparison(made)):
        self_contained(text)


def test_the_page_is_imported_without_torch_or_scikit_learn() -> None:
    code = "import sys, consilience.report.comparison; assert not {'torch', 'sklearn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_gap_is_of_the_kind_of_the_measure() -> None:
    assert Contrast(0.8, 0, 0.5, 0).gap(True) == pytest.approx(0.3)
    assert Contrast(0.8, 0, 0.5, 0).gap(False) == pytest.approx(-0.3)
