"""The page of the command ``modularity``: table, sentences, plots."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from matplotlib.image import AxesImage

from conftest import inputs, random_mlp
from consilience.errors import InputError
from consilience.modularity import Circuit, Clusterability, cross_modularity, lesions, specialisation
from consilience.modularity.graph import parts_of, traced
from consilience.report.modularity import (
    ModularityResult,
    NetworkRow,
    modularity_sentences,
    modularity_table,
    render_modularity,
)
from consilience.report.modularity.plots import (
    by_blocks,
    class_circuits,
    class_clusters,
    cluster_color,
    cluster_lesions,
    eigenvalue_gaps,
    graph_embedding,
    n_cuts,
    weight_matrices,
)
from consilience.report.modularity.result import beyond
from test_report import self_contained

NAN = float("nan")
WHOLE = 0.9722


def row(name: str = "member 0", kind: str = "member", n_cut: float = 8.88, **changes: object) -> NetworkRow:
    made = NetworkRow(name, kind, WHOLE, 57, 1, n_cut, 9.18, 0.03, (n_cut - 9.18) / 0.03, 1 / 51, 0.5, 0.125)
    return replace(made, **changes)


def rows(n_members: int = 3) -> list[NetworkRow]:
    members = [row(f"member {k}", n_cut=9.0 - 0.1 * k) for k in range(n_members)]
    return [*members, row("assembly", "assembly", 8.5)]


@cache
def measured() -> ModularityResult:
    """A perceptron 6-12-10-3 with random weights."""
    net, x = random_mlp([12, 10]), inputs(60)
    network, y = traced(net, x[:4]), torch.arange(60) % 3
    detail = Clusterability(n_clusters=4, n_null=6, random_state=0).fit(network)
    cross = cross_modularity(network, "joint", 3, n_null=3, random_state=0)
    clusters = {layer.name: detail.labels_[layer.name] for layer in network.architecture.free}
    shown = NetworkRow.of("member 0", "member", 0.4, detail, cross)
    of_map = {(c.map, c.read): c for c in cross}
    matrices = [(part, of_map.get((part.map, part.read))) for part in parts_of(network)]
    probe, effects = specialisation(network, clusters, x, y), lesions(network, clusters, x, y, n_random=4)
    return ModularityResult(
        [shown, *rows()[1:]],
        0,
        "member 0 of <runs>",
        detail,
        matrices,
        probe,
        circuits(),
        effects,
        {"command": "x --out y"},
    )


def circuits() -> list[Circuit]:
    def made(label: int, criterion: str, n_left: int, tnr: float) -> Circuit:
        return Circuit(label, criterion, 200, n_left, 1.0, tnr, 0.5, 0.4, {})

    return [
        made(label, criterion, n_left + label, tnr)
        for label in range(3)
        for criterion, n_left, tnr in (("class", 20, 0.05), ("one-vs-rest", 40, 0.9))
    ]


def cells(table: str) -> list[list[str]]:
    return [[text.strip() for text in line.strip("|").split("|")] for line in table.splitlines()]


def test_the_table_has_a_line_for_each_network_and_the_mean_of_the_members() -> None:
    table = modularity_table(rows()).markdown()
    assert len({len(line) for line in table.splitlines()}) == 1  # aligned
    heading, _, *lines = cells(table)
    assert heading[-3:] == ["Accuracy (%)", "Units", "No edge"]
    first = ["member 0", "member", "9.00", "9.18 ± 0.03", "2.0", "-6.0", "0.02", "0.50", "0.12", "97.22", "57", "1"]
    assert lines[0] == first
    below = [100 * (1 - n / 9.18) for n in (9.0, 8.9, 8.8)]
    spread = f"{np.mean(below):.1f} ± {np.std(below, ddof=1):.1f}"
    mean = ["mean ± sd of 3 members", "members", "8.90 ± 0.10", "9.18", spread, "-9.3 ± 3.3"]
    assert lines[3] == [*mean, "", "0.50", "0.12", "97.22", "57", "1"]
    assert [line[0] for line in lines[4:]] == ["assembly"]


def test_one_member_has_no_mean_and_unknown_values_are_dashes() -> None:
    unknown = row("a | b", accuracy=None, null_mean=NAN, null_sd=NAN, z=NAN, p=NAN, cross=NAN, cross_null=NAN)
    _, _, *lines = modularity_table([unknown]).markdown().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("| a \\| b  | member |")
    assert lines[0].count("–") == 7


def test_a_row_says_what_was_measured() -> None:
    result = measured()
    detail, shown = result.detail, result.rows[0]
    assert (shown.n_units, shown.n_cut, shown.z, shown.p) == (31, detail.n_cut_, detail.z_, detail.p_)
    assert shown.null_mean == pytest.approx(detail.null_.mean())
    assert shown.below == pytest.approx(1 - detail.n_cut_ / detail.null_.mean())


@pytest.mark.parametrize(
    ("p", "z", "verdict"),
    [
        (0.02, -4.0, "more modular than by chance"),
        (0.9, 3.0, "less modular than its shuffled copies"),
        (0.5, 0.1, "no more modular than by chance"),
        (1 / 7, -9.0, "no copy is as modular, but 6 are too few to exclude chance"),
    ],
)
def test_the_first_sentence_is_the_verdict(p: float, z: float, verdict: str) -> None:
    result = measured()
    first = modularity_sentences(replace(result, rows=[replace(result.rows[0], p=p, z=z)]))[0]
    assert first.endswith(f"(z = {z:.1f}, p = {p:.2g}): {verdict}.")
    assert f"an n-cut of {result.detail.n_cut_:.2f};" in first


def test_an_assembly_is_compared_with_the_members() -> None:
    sentences = modularity_sentences(replace(measured(), rows=rows()))
    assert any("The n-cut of assembly is 7.4 % below" in text and "than every member" in text for text in sentences)
    inside = replace(measured(), rows=[*rows()[:3], row("assembly", "assembly", 8.9)])
    assert any("within the range of the members" in text for text in modularity_sentences(inside))


def test_a_low_true_negative_rate_is_called_a_constant_predictor() -> None:
    published, other = modularity_sentences(measured())[-2:]
    assert "10.5 % of the weights" in published
    assert "constant predictors" in published
    assert "20.5 % of the weights" in other
    assert "constant" not in other


def test_without_a_null_an_n_cut_says_nothing() -> None:
    bare = Clusterability(n_clusters=4, n_null=0).fit(random_mlp([12, 10]), inputs(4))
    result = ModularityResult([NetworkRow.of("net", "network", None, bare, [])], 0, "net", bare)
    (sentence,) = modularity_sentences(result)
    assert sentence.endswith("which was not compared with shuffled copies: it says nothing by itself.")
    headings = re.findall("<h2>(.*)</h2>", render_modularity(result))
    assert headings == ["Networks", "More than chance?", "Units"]


def test_plots_have_the_numbers_of_the_result() -> None:
    result = measured()
    detail = result.detail
    above, below = n_cuts(result.rows, detail, result.name).axes
    assert sum(patch.get_height() for patch in above.patches) == len(detail.null_)
    assert above.lines[0].get_xdata() == pytest.approx([detail.n_cut_] * 2)
    dots = [line.get_xdata()[0] for line in below.lines]
    assert sorted(dots) == pytest.approx(sorted(network.n_cut for network in result.rows))
    left, right = eigenvalue_gaps(detail.eigenvalues_, 4).axes
    np.testing.assert_array_equal(left.lines[0].get_ydata(), detail.eigenvalues_)
    assert [bar.get_height() for bar in right.patches] == pytest.approx(np.diff(detail.eigenvalues_)[1:].tolist())
    off, alone, *_ = class_clusters(result.probe).axes
    np.testing.assert_allclose(image(off), 100 * result.probe.drop.T)
    np.testing.assert_allclose(image(alone)[1:], 100 * result.probe.alone.T)
    single, double, *_ = cluster_lesions(result.lesions).axes
    dots = single.collections[-1]
    np.testing.assert_allclose(dots.get_offsets()[:, 1], 100 * result.lesions.accuracy.single)
    filled = [tuple(color) != (1, 1, 1, 1) for color in dots.get_facecolors().tolist()]
    assert filled == beyond(result.lesions.accuracy).tolist()
    np.testing.assert_allclose(image(double), 100 * result.lesions.accuracy.excess)
    sizes, rates, *_ = class_circuits(result.circuits).axes
    np.testing.assert_allclose(sizes.lines[0].get_ydata(), [10.0, 10.5, 11.0])
    np.testing.assert_allclose(image(rates)[:, 0], [100, 5, 100, 90])


def image(ax: object) -> np.ndarray:
    (drawn,) = [child for child in ax.get_children() if isinstance(child, AxesImage)]
    return np.ma.filled(drawn.get_array(), np.nan)


def test_units_are_drawn_in_the_color_of_their_cluster() -> None:
    detail = measured().detail
    (ax,) = graph_embedding(detail.labels_, detail.coordinates_).axes
    offsets = np.concatenate([dots.get_offsets() for dots in ax.collections])
    colors = np.concatenate([dots.get_facecolors()[:, :3] for dots in ax.collections])
    labels = np.concatenate(list(detail.labels_.values()))
    assert len(offsets) == (labels >= 0).sum()
    assert len({tuple(color) for color in colors.round(6).tolist()}) == len(set(labels[labels >= 0].tolist()))
    assert cluster_color(-1) not in {cluster_color(k) for k in range(12)}
    assert cluster_color(0) == cluster_color(12)


def test_weight_matrices_are_in_the_order_of_the_clusters() -> None:
    result = measured()
    panels = weight_matrices(result.matrices, result.detail.labels_).axes
    part, cross = result.matrices[0]
    order = [np.argsort(result.detail.labels_[name], kind="stable") for name in (part.written, part.read)]
    np.testing.assert_allclose(image(panels[0]), part.weights[..., 0].abs().double().numpy()[np.ix_(*order)])
    assert f"C {cross.value:.2f} (shuffled {cross.null.mean():.2f}" in panels[0].get_title()


def test_large_matrices_are_drawn_by_means_of_blocks() -> None:
    values = np.random.default_rng(0).random((1000, 3))
    blocks = by_blocks(values)
    assert blocks.shape == (200, 3)
    np.testing.assert_allclose(blocks[7], values[35:40].mean(0))


def test_results_that_cannot_be_drawn_are_refused() -> None:
    with pytest.raises(InputError, match="rows must have one network or more, got none"):
        modularity_table([])
    with pytest.raises(InputError, match="eigenvalues must be three or more finite numbers"):
        eigenvalue_gaps(np.array([0.0, NAN, 1.0]), 2)
    with pytest.raises(InputError, match="circuits must have a finite size, got none"):
        class_circuits([])
    with pytest.raises(InputError, match="matrices must have one weight matrix or more"):
        weight_matrices([], {})
    with pytest.raises(InputError, match="units must have clusters and two coordinates"):
        graph_embedding({"inputs": np.array([-1, -1])}, {"inputs": np.zeros((2, 3))})


def test_the_page_holds_the_table_and_escapes_names() -> None:
    result = measured()
    page = render_modularity(result)
    self_contained(page)
    assert "How modular is member 0 of &lt;runs&gt;?" in page
    _, _, *lines = cells(modularity_table(result.rows).markdown())
    for text in (text for line in lines for text in line if text):
        assert text.replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}") in page or text in page
    assert page.count("<svg") == 7
    assert render_modularity(result) == page
