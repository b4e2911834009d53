"""The page of a comparison: table, sentences, plots."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from conftest import inputs, random_mlp
from consilience.comparison import ModelComparison
from consilience.comparison.groups import group_models
from consilience.errors import InputError
from consilience.report.comparison import (
    ComparisonResult,
    DisputedSample,
    comparison_sentences,
    comparison_table,
    render_comparison,
)
from consilience.report.comparison.page import plane_at
from consilience.report.comparison.plots import (
    COLORS,
    barrier_matrix,
    layer_matrix,
    layers_within,
    paths_of_models,
    similarity_matrices,
    tree_of_models,
)
from consilience.report.portraits import Picture
from test_comparison_families import values
from test_report import self_contained

NAN = float("nan")
PLACES = ("conv", "fc")


@cache
def fitted(m: int) -> ModelComparison:
    """Random perceptrons; their values are replaced below."""
    models = {f"model {i}": random_mlp([6, 5], seed=i) for i in range(m)}
    layers = {"conv": "hidden.0", "fc": "hidden.1"}
    return ModelComparison(layers=layers, n_null=0, random_state=0).fit(models, inputs(60), torch.arange(60) % 3)


def result(m: int = 8, n_families: int = 2, changes: dict[str, Any] | None = None, **fields: Any) -> ComparisonResult:
    """Models of families, alike at "fc" and hardly at "conv"; ``changes`` are of the comparison's attributes."""
    families = [f"family {i * n_families // m}" for i in range(m)]
    comparison = copy.copy(fitted(m))
    comparison.matrix_ = {"conv": values(families, 0.5, 0.45, seed=1), "fc": values(families, seed=2)}
    comparison.z_ = {place: np.full((m, m), 12.4) for place in PLACES}
    comparison.purity_ = {"conv": np.full(m, 0.6), "fc": np.linspace(0.8, 0.9, m)}
    for name, value in (changes or {}).items():
        setattr(comparison, name, value)
    distances = {place: np.maximum(1 - matrix, 0) for place, matrix in comparison.matrix_.items()}
    comparison.groups_ = {place: group_models(matrix) for place, matrix in distances.items()}
    samples = [
        DisputedSample(f"test {i}", Picture.of(np.eye(5)[None]), "class 7", 0.9, ["group 0: 7"]) for i in range(3)
    ]
    made = ComparisonResult(comparison, tuple(families), {"conv": 0.1, "fc": 1.0}, "fc", samples)
    barriers = np.where(np.equal.outer(families, families), 0.2, 2.0) * (1 - np.eye(m))
    return replace(made, **{"barriers": barriers, "obtained": {"command": "consilience compare runs"}, **fields})


def over_epochs(m: int = 8) -> ComparisonResult:
    """Families grow apart from the second epoch on; the last epoch is the end."""
    made = result(m)
    epochs = {
        10 * e: {place: values(list(made.families), 0.5 + 0.1 * e, 0.55, 0.005, e) for place in PLACES} for e in (0, 1)
    }
    matrices = made.comparison.matrix_
    return result(m, changes={"epochs_": {**epochs, 20: matrices}, "combined_": matrices})


def order_of(made: ComparisonResult, place: str) -> list[int]:
    return made.comparison.groups_[place].tree.leaf_order(made.swapped(place)).tolist()


def names(ax: Axes) -> list[str]:
    return [label.get_text() for label in ax.get_yticklabels()]


# --- result, sentences, table -----------------------------------------------------------------------------------------


def test_the_end_is_a_moment_of_its_own_unless_it_is_the_last_epoch() -> None:
    made = over_epochs()
    assert list(made.in_time) == ["epoch 0", "epoch 10", "epoch 20"]
    early = result(changes={"epochs_": {0: made.comparison.epochs_[0]}})
    assert list(early.in_time) == ["epoch 0", "end"]


def test_families_are_together_where_the_tree_allows() -> None:
    families = [f"family {i % 2}" for i in range(8)]
    mixed = result(changes={"matrix_": {"fc": values(families)}}, families=tuple(families))
    assert [families[i] for i in order_of(mixed, "fc")] == ["family 0"] * 4 + ["family 1"] * 4


def test_the_table_has_a_line_for_each_place() -> None:
    made = result(12, 3)
    lines = comparison_table(made).markdown().splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert cells[0][:3] == ["Place", "Within families", "Between families"]
    assert [row[0] for row in cells[2:]] == ["conv", "fc"]
    assert cells[3][3:] == ["3", "1.00", "0.85 ± 0.03"]
    assert len({len(line) for line in lines}) == 1
    bare = result(2, 2, {"purity_": {"fc": np.array([NAN, 0.5])}}, agreement={"conv": NAN, "fc": NAN})
    between = f"{bare.comparison.matrix_['fc'][0, 1]:.2f}"
    cells = [cell.strip() for cell in comparison_table(bare).markdown().splitlines()[3].split("|")[2:-1]]
    assert cells == ["–", between, "1", "–", "0.50"]


def test_the_verdict_is_about_families() -> None:
    what, verdict, groups, *_ = comparison_sentences(result(12, 3))
    assert what.startswith("12 models of 3 families were compared at 2 places on 60 samples by the adjusted Rand index")
    assert verdict.startswith("Models of one family are more alike than models of different ones at every place: conv")
    assert verdict.endswith("and fc (0.80 against 0.40), and more than if families were shuffled (p ≤ 0.05).")
    assert groups == "The groups found at fc are the families exactly."
    alike = values(list(result(12, 3).families), 0.5, 0.5, 0.1, 5)
    verdict = comparison_sentences(result(12, 3, {"matrix_": {"conv": alike}}))[1]
    assert re.match(r"Families differ by no more than chance at conv \(0.\d\d against 0.\d\d, p = 0.\d\d\)", verdict)


@pytest.mark.parametrize(
    ("made", "verdict"),
    [
        (lambda: result(6), r"There are too few models to distinguish families from chance: .* below 0\.10\."),
        (lambda: result(2), "No family has two models, so families are not compared."),
        (
            lambda: result(8, 1, {"matrix_": {"fc": values([*"aaaabbbb"])}}, agreement={"fc": NAN}),
            r"Groups are clearest at fc: 2 groups, silhouette 0\.\d\d \(at most 1\)\.",
        ),
        (
            lambda: result(5, 1, {"matrix_": {"fc": values(["a"] * 5, noise=0)}}),
            r"At no place do the models fall into groups\.",
        ),
    ],
)
def test_without_families_to_compare_the_verdict_says_why(made: Callable[[], ComparisonResult], verdict: str) -> None:
    assert re.fullmatch(verdict, comparison_sentences(made())[1])


def test_sentences_have_what_the_table_does_not_show() -> None:
    (since,) = [text for text in comparison_sentences(over_epochs()) if text.startswith("On average")]
    assert "from epoch 10 on at conv" in since
    *_, chance, barriers = comparison_sentences(result())
    assert chance.endswith("than on shuffled samples, by 3 standard deviations: 28 of 28 at conv and 28 of 28 at fc.")
    assert barriers == "Loss barriers are 0.20 ± 0.00 within families and 2.00 ± 0.00 between families."
    z, missing = np.full((8, 8), 12.0), result().barriers
    z[0, 1] = z[1, 0] = 2.0
    z[0, 2] = z[2, 0] = missing[0, 1] = missing[1, 0] = NAN
    *_, chance, barriers = comparison_sentences(result(changes={"z_": {"fc": z}}, barriers=missing))
    assert chance.endswith("26 of 27 at fc.")
    assert barriers.endswith("(of 27 of 28 pairs; the others have other parameters).")
    distance = result(changes={"z_": {"fc": -z}, "measure": "variation_of_information"})
    assert comparison_sentences(distance)[-2].endswith("26 of 27 at fc.")
    assert len(comparison_sentences(result(changes={"z_": {}}, barriers=None))) == 3


# --- plots ------------------------------------------------------------------------------------------------------------


def test_matrices_are_a_row_for_each_moment_and_a_column_for_each_place_in_one_scale() -> None:
    made = over_epochs()
    panels = [ax for ax in similarity_matrices(made).axes if len(ax.images)]
    assert len(panels) == 4 * 2
    assert len({ax.images[0].get_clim() for ax in panels}) == 1
    order = order_of(made, "fc")
    expected = made.comparison.epochs_[10]["fc"][np.ix_(order, order)].copy()
    np.fill_diagonal(expected, NAN)
    np.testing.assert_array_equal(np.ma.filled(panels[3].images[0].get_array(), NAN), expected)
    assert [ax.get_ylabel() for ax in panels[::2]] == ["epoch 0", "epoch 10", "epoch 20", "all epochs"]
    assert [ax.get_title() for ax in panels[:2]] == list(PLACES)
    assert names(panels[0]) == [f"model {i}" for i in order]
    assert all(len(ax.lines) == 2 for ax in panels)  # a cross between two families


def test_trees_and_planes_have_every_model_and_merge() -> None:
    made = over_epochs()
    ax, groups = tree_of_models(made, "fc").axes[0], made.comparison.groups_["fc"]
    (branches,) = [part for part in ax.collections if isinstance(part, LineCollection)]
    np.testing.assert_array_equal(np.array(branches.get_segments())[:, 1, 0], groups.tree.heights)
    assert names(ax) == [f"model {i}" for i in order_of(made, "fc")]
    assert sorted(text.get_text() for text in ax.texts) == ["0", "1"]
    (cut,) = [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == "--"]
    assert groups.tree.n_merges_below(cut) == 8 - groups.n_groups
    plane = plane_at(made, "fc")
    ends = [line for line in paths_of_models(made, plane).axes[0].lines if line.get_markeredgecolor() == "white"]
    np.testing.assert_array_equal(np.concatenate([line.get_xydata() for line in ends]), plane.positions[-1])
    assert [line.get_color() for line in ends] == list(COLORS[:2])


def test_layers_and_barriers_are_those_of_the_result() -> None:
    made = result()
    rows = {key: i for i, key in enumerate(made.comparison.layer_index_)}
    own = [made.comparison.layer_matrix_[rows[f"model {i}", "conv"], rows[f"model {i}", "fc"]] for i in range(8)]
    np.testing.assert_allclose(layers_within(made)[0, 1], np.mean(own))
    assert [text.get_text() for text in layer_matrix(made).axes[0].texts] == [f"{np.mean(own):.2f}"] * 2
    order, missing = order_of(made, "fc"), np.array(made.barriers)
    missing[0, 1] = NAN
    shown = np.ma.filled(barrier_matrix(replace(made, barriers=missing)).axes[0].images[0].get_array(), NAN)
    np.fill_diagonal(missing, NAN)
    np.testing.assert_array_equal(shown, missing[np.ix_(order, order)])
    with pytest.raises(InputError, match="barriers must have a finite value"):
        barrier_matrix(replace(made, barriers=np.full((8, 8), NAN)))


# --- the page ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page() -> str:
    return render_comparison(result())


def headings(page: str) -> list[str]:
    return re.findall("<h2>(.*?)</h2>", page)


def test_the_page_has_a_section_for_what_was_measured_and_for_nothing_else(page: str) -> None:
    always = ["Place by place", "Who is like whom"]
    rest = ["Where models disagree", "Loss barriers", "How every number was obtained"]
    assert headings(page) == [*always, "Groups of models", "A map of the models", "Which layers are alike", *rest]
    assert len(re.findall("<figcaption>", page)) == 6
    bare = replace(result(2), disputed=[], barriers=None)
    assert headings(render_comparison(bare)) == [*always, "Which layers are alike", rest[-1]]
    assert "The course of training" in headings(render_comparison(over_epochs()))


def test_the_page_shows_the_numbers_of_the_result(page: str) -> None:
    made = result()
    assert "<h1>8 models compared at 2 places</h1>" in page
    assert "2 families · 60 samples · 3 clusters · adjusted Rand index" in page
    silhouette, stress = made.comparison.groups_["fc"].silhouette, plane_at(made, "fc").stress[0]
    assert f"clearest at fc: silhouette {silhouette:.2f} of at most 1." in page
    assert f"Stress at most {stress:.2f}" in page
    assert "test 1 · class 7 · disagreement 0.90<small>group 0: 7</small>" in page
    assert "<dt>fc</dt><dd>hidden.1</dd>" in page


def test_the_page_is_the_same_whatever_the_users_style(page: str) -> None:
    with mpl.rc_context({"font.size": 20, "svg.fonttype": "none"}):
        assert render_comparison(result()) == page


def test_the_page_needs_nothing_else_and_escapes_all_text(page: str) -> None:
    bad = "<script>alert('1')</script>&"
    made = result(8, changes={"names_": tuple(f"{bad}{i}" for i in range(8))})
    made = replace(made, families=(bad, *made.families[1:]), disputed_place=bad, obtained={"command": bad})
    disputed = [DisputedSample(bad, None, bad, 0.5, [bad] * 20)]
    for text in (page, render_comparison(replace(made, disputed=disputed))):
        self_contained(text)
