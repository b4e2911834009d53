"""The report: plain results in, figures, tables, sentences and one page out."""

from __future__ import annotations

import itertools
import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.text import Text

from consilience.errors import ArtefactError, InputError
from consilience.report import (
    Experiment,
    LayerAtlas,
    LayerSummary,
    LearningPoint,
    Patch,
    Picture,
    Portrait,
    Row,
    Score,
    figures,
    markdown_table,
    render_page,
    summary_sentences,
    write_page,
)
from consilience.report.atlas import OUTSIDE
from consilience.report.labels import spread
from consilience.report.style import readable
from consilience.report.table import COLUMNS, accuracy, loss, seconds

N_TEST, N_MEMBERS = 360, 16
PARAMETERS = {"1x": 3466, "2x": 8970, "4x": 26122, "full": 301066}
NAN = float("nan")


def score(percent: float, n: int = N_TEST) -> Score:
    p = percent / 100
    return Score(p, math.sqrt(p * (1 - p) / n), 0.01 - math.log(p), n)


def row(method: str, group: str, width: str, parameters: int, percent: float, steps: int = 0, n: int = N_TEST) -> Row:
    return Row(
        method, group, width, parameters, score(percent, n), score(percent + 0.3, 300), steps, 1.25 * steps / 100
    )


def table(n: int = N_TEST) -> list[Row]:
    size = PARAMETERS["1x"]
    assemblies = {
        "none": (81.2, 92.8, 96.2, 97.78),
        "least-squares": (96.1, 97.2, 97.5, 97.78),
        "distill": (96.9, 97.6, 97.75, 97.78),
    }
    return [
        row("mean member", "members", "", size, 95.83, n=n),
        row("best member on validation", "members", "", size, 96.94, n=n),
        row("ensemble of the members", "members", "", N_MEMBERS * size, 97.78, n=n),
        row("parameter average", "alternative", "1x", size, 20.3, n=n),
        row("matching to a reference", "alternative", "1x", size, 93.9, n=n),
        row("optimal transport", "alternative", "1x", size, 95.0, n=n),
        row("Net2Wider of the best member", "alternative", "2x", PARAMETERS["2x"], 97.1, 300, n=n),
        row("from scratch", "alternative", "2x", PARAMETERS["2x"], 96.4, 300, n=n),
        *(
            row(f"assembly, {name}", "assembly", width, PARAMETERS[width], value, 400 * (name == "distill"), n=n)
            for name, values in assemblies.items()
            for width, value in zip(PARAMETERS, values, strict=True)
        ),
        row("fine-tuned assembly", "assembly", "2x", PARAMETERS["2x"], 98.06, 300, n=n),
    ]


def crowded_table() -> list[Row]:
    """Many methods at one width, several of them failing, and small standard errors."""
    weak = {
        "MergeMany": 95.8,
        "matching, with REPAIR": 95.8,
        "C2M3": 96.1,
        "PFNM": 95.4,
        "ZipIt": 88.1,
        "transplantation": 42.8,
    }
    more = [row(name, "alternative", "1x", PARAMETERS["1x"], value, n=3000) for name, value in weak.items()]
    widths = zip(PARAMETERS, (94.0, 95.5, 96.5, 97.78), strict=True)
    moments = [row("assembly, moments", "assembly", width, PARAMETERS[width], value, n=3000) for width, value in widths]
    return [
        *table(3000),
        *more,
        *moments,
        row("from scratch", "alternative", "4x", PARAMETERS["4x"], 96.9, 300, n=3000),
    ]


def curve(*percents: float) -> list[LearningPoint]:
    return [LearningPoint(50 * index, score(percent)) for index, percent in enumerate(percents)]


def layer(name: str = "hidden.0", n: int = 40, stability: float | None = None) -> LayerSummary:
    frequency = [max(1, round(N_MEMBERS * math.exp(-rank / 15))) / N_MEMBERS for rank in range(n)]
    size = [round(N_MEMBERS * share) + rank % 3 for rank, share in enumerate(frequency)]
    stable = [0.3 + 0.6 * share if stability is None else stability for share in frequency]
    return LayerSummary(name, 512, 12, 16, frequency, size, stable)


def images(n: int = 12, channels: int = 1, size: int = 8) -> list:
    return np.random.default_rng(0).normal(size=(n, channels, size, size)).round(3).tolist()


def picture(*shape: int, seed: int = 0) -> Picture:
    return Picture.of(np.random.default_rng(seed).random(shape))


def atlas(
    name: str = "hidden.0", channels: int = 1, kernel: int = 3, n: int = 4, n_kernels: int = 2, **changes: object
) -> LayerAtlas:
    """Portraits of units that see 4 × 4 pixels of 8 × 8; of every first patch only the part inside the image."""
    boxes = [(0, 0, 2, 3), (1, 1, 5, 5), (4, 6, 8, 8)]
    patches = [Patch(i, box, picture(channels, box[2] - box[0], box[3] - box[1])) for i, box in enumerate(boxes)]
    portraits = [
        Portrait(
            frequency=(n - i) / N_MEMBERS, size=2 * (n - i) - 1, stability=0.5,
            centroid=picture(channels, kernel, kernel) if kernel else None,
            kernels=tuple(picture(channels, kernel, kernel, seed=j) for j in range(n_kernels)) if kernel else (),
            patches=tuple(patches),
        )
        for i in range(n)
    ]  # fmt: skip
    return replace(LayerAtlas(name, N_MEMBERS, 40, 1000, (8, 8), tuple(portraits)), **changes)


def experiment(**changes) -> Experiment:
    made = Experiment(
        title="16 networks and one built from them: digits",
        data={"name": "digits", "n_test": N_TEST, "image_shape": [1, 8, 8]},
        population={
            "n_members": N_MEMBERS,
            "class": "MLP",
            "failed": {},
            "training": {"epochs": 20, "learning_rate": 0.003},
        },
        census={"grounding": "activations", "clusterer": "ward", "n_clusters": None},
        table=table(),
        learning={
            "from scratch": curve(9.2, 88, 93.6, 94.7, 95.7, 96.2, 96.4),
            "fine-tuned assembly": curve(97.2, 97.4, 97.9, 98.1, 98.0, 98.0, 98.06),
        },
        layers=[layer("hidden.0"), layer("hidden.1", n=24)],
        centroids=images(),
        atlas=[atlas("hidden.0"), atlas("hidden.1", kernel=0)],
        obtained={"seed": 0, "command": "consilience demo --out runs/demo", "versions": {"torch": "2.13.0"}},
    )
    return replace(made, **changes)


@pytest.fixture(scope="module")
def page() -> str:
    return render_page(experiment())


# --- results ----------------------------------------------------------------------------------------------------------


def test_results_survive_saving_and_loading(tmp_path: Path):
    experiment().save(tmp_path)
    assert Experiment.load(tmp_path) == experiment()


def damaged(tmp_path: Path, *texts: str, **changes: object) -> None:
    """Expect that results with these changes (None: leave it out) are refused with all of these texts, in order."""
    path = experiment().save(tmp_path)
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    refused(tmp_path, *texts)


def refused(directory: Path, *texts: str) -> None:
    with pytest.raises(ArtefactError, match="(?s)" + ".*".join(map(re.escape, texts))):
        Experiment.load(directory)


def test_missing_results_name_the_file_and_the_command(tmp_path: Path):
    refused(tmp_path, "there are no results here", str(tmp_path), "results.json", "consilience report")


def test_results_of_another_version_are_refused(tmp_path: Path):
    damaged(tmp_path, "unknown format version", "got:      0", "expected: 1", format_version=0)


def test_results_without_a_version_table_or_score_are_damaged(tmp_path: Path):
    damaged(tmp_path, "the results are damaged", "format_version", "make them again", format_version=None)
    damaged(tmp_path, "the results are damaged", "table", table=None)
    damaged(tmp_path, "the results are damaged", "accuracy", table=[{"test": {"accuracy": 1}, "validation": {}}])


def test_results_without_an_atlas_are_whole_and_those_with_half_a_picture_are_damaged(tmp_path: Path):
    path = experiment().save(tmp_path)
    content = json.loads(path.read_text())
    patch = content["atlas"][0]["portraits"][0]["patches"][0]
    patch["picture"]["pixels"] = patch["picture"]["pixels"][:4]
    path.write_text(json.dumps(content))
    refused(tmp_path, "the results are damaged", "this is no picture", "shape (1, 2, 3), 3 bytes")
    damaged(tmp_path, "the results are damaged", "portraits", atlas=[{"image_size": [8, 8]}])
    path.write_text(json.dumps({key: value for key, value in content.items() if key != "atlas"}))
    assert Experiment.load(tmp_path) == experiment(atlas=[])


def test_half_a_file_is_damaged(tmp_path: Path):
    path = experiment().save(tmp_path)
    path.write_text(path.read_text()[:500])
    refused(tmp_path, "the results are damaged", "results.json")


def test_reports_are_imported_and_drawn_without_torch():
    code = """if True:
        import sys
        from consilience.report import LayerSummary, figures
        figures.frequency_curve(LayerSummary("a", 2, 0, 1, [1.0], [2], [0.5]))
        assert not {"torch", "matplotlib.pyplot"} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", code], check=True)


# --- figures ----------------------------------------------------------------------------------------------------------


def line_of(ax: Axes, label: str) -> np.ndarray:
    """The (x, y) of the line or series with this label."""
    series = [c.lines[0] for c in ax.containers if isinstance(c, ErrorbarContainer) and c.get_label() == label]
    (line,) = series or [line for line in ax.lines if line.get_label() == label]
    return np.array(line.get_xydata())


def written(ax: Axes) -> list[str]:
    return [text.get_text().replace("\N{NO-BREAK SPACE}", " ") for text in ax.texts]


def test_accuracies_are_drawn_in_percent_against_parameters():
    ax = figures.accuracy_against_width(table())
    for name in ("assembly, none", "assembly, distill", "from scratch", "Net2Wider of the best member"):
        rows = [each for each in table() if each.method == name]
        np.testing.assert_allclose(line_of(ax, name), [(each.parameters, 100 * each.test.accuracy) for each in rows])
    for name, percent in (("mean member", 95.83), ("best member", 96.94), ("ensemble", 97.78)):
        np.testing.assert_allclose(line_of(ax, name)[:, 1], percent)
    assert ax.get_xscale() == "log"
    assert ax.get_xlabel() == "parameters at inference"
    assert ax.get_ylabel() == "test accuracy (%)"


def test_error_bars_are_one_standard_error():
    ax = figures.accuracy_against_width(table())
    bars = {c.get_label(): c.lines[2][0].get_segments() for c in ax.containers if isinstance(c, ErrorbarContainer)}
    for name, segments in bars.items():
        rows = sorted((each for each in table() if each.method == name), key=lambda each: each.parameters)
        for each, segment in zip(rows, segments, strict=True):
            assert np.ptp(segment[:, 1]) == pytest.approx(2 * 100 * each.test.accuracy_se)
            assert segment[:, 1].mean() == pytest.approx(100 * each.test.accuracy)


def test_widths_stand_above_their_parameters():
    ax = figures.accuracy_against_width(table())
    ax.figure.draw_without_rendering()
    for width, parameters in PARAMETERS.items():
        (text,) = [text for text in ax.texts if text.get_text() == width]
        extent = Text.get_window_extent(text)
        assert (extent.x0 + extent.x1) / 2 == pytest.approx(ax.transData.transform((parameters, 97))[0], abs=1)


def test_far_out_accuracies_are_named_not_drawn():
    ax = figures.accuracy_against_width(table())
    low, high = ax.get_ylim()
    assert low > 85
    assert high < 100.5
    note = next(text for text in written(ax) if "Below the range" in text)
    assert "parameter average 1x 20.3 %" in note
    assert "assembly, none 1x 81.2 %" in note
    assert "least-squares" not in note


def test_references_are_in_the_range_even_if_they_are_far_out():
    rows = [replace(each, test=score(40)) if each.method == "mean member" else each for each in table()]
    assert figures.accuracy_against_width(rows).get_ylim()[0] < 40


def test_learning_curves_are_drawn_in_percent_with_their_errors():
    learning = experiment().learning
    ax = figures.learning_curves(learning, table())
    for (name, points), band in zip(learning.items(), [c for c in ax.collections if c.get_paths()][-2:], strict=True):
        wanted = np.array([100 * point.test.accuracy for point in points])
        error = np.array([100 * point.test.accuracy_se for point in points])
        np.testing.assert_allclose(line_of(ax, name), np.stack([[p.step for p in points], wanted], 1))
        extent = band.get_paths()[0].get_extents()
        assert (extent.y0, extent.y1) == pytest.approx(((wanted - error).min(), (wanted + error).max()))
    np.testing.assert_allclose(line_of(ax, "ensemble")[:, 1], 97.78)
    assert ax.get_ylim()[0] > 85
    assert any("from scratch up to step 50 (step 0: 9.2 %)" in text for text in written(ax))
    assert len(figures.learning_curves({"from scratch": curve(96.0)}).lines) == 1


def test_frequencies_and_stabilities_are_drawn_in_percent():
    summary = layer()
    ax = figures.frequency_curve(summary)
    np.testing.assert_allclose(ax.patches[-1].get_data().values, 100 * np.array(summary.frequency))
    np.testing.assert_allclose(ax.lines[0].get_ydata(), 100 * np.array(summary.stability))
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), np.arange(40) + 1)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["frequency", "stability"]
    assert [text.get_text() for text in ax.texts] == ["1x", "2x"]


def test_unknown_stability_is_not_drawn():
    ax = figures.frequency_curve(layer(stability=NAN))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["frequency"]


def test_sizes_are_drawn_as_they_are():
    summary = layer()
    ax = figures.size_curve(summary)
    np.testing.assert_array_equal(ax.patches[-1].get_data().values, summary.size)
    assert ax.get_yscale() == "log"
    assert any("12 of 512 units dead" in text.get_text() for text in ax.texts)


def test_the_most_frequent_centroids_come_first_each_with_its_own_scale():
    centroids = np.array(images(5)) * np.array([1, 10, 100, 0, 3]).reshape(-1, 1, 1, 1)
    ax = figures.centroid_images(centroids, [0.25, 1.0, 0.5, 0.5, 0.0], n=4, n_members=4)
    assert [text.get_text() for text in ax.texts] == ["4/4", "2/4", "2/4", "1/4"]
    for image, index in zip(ax.images, (1, 2, 3, 0), strict=True):
        np.testing.assert_allclose(image.get_array(), centroids[index, 0])
        assert image.get_clim() == (-(np.abs(centroids[index]).max() or 1), np.abs(centroids[index]).max() or 1)


def test_frequencies_that_are_no_count_of_members_are_written_in_percent():
    ax = figures.centroid_images(images(2), [0.8, 0.4], n_members=16)
    assert [text.get_text() for text in ax.texts] == ["80 %", "40 %"]


def test_colour_centroids_are_grey_where_they_are_zero():
    centroids = np.zeros((1, 3, 2, 2))
    centroids[0, 0, 0, 0], centroids[0, 2, 1, 1] = 4, -2
    shown = np.asarray(figures.centroid_images(centroids, [1.0]).images[0].get_array())
    np.testing.assert_allclose(shown[0, 0], [1, 0.5, 0.5])
    np.testing.assert_allclose(shown[1, 1], [0.5, 0.5, 0.25])
    np.testing.assert_allclose(shown[0, 1], 0.5)


def test_a_picture_keeps_its_values_to_8_bits_and_cuts_off_what_it_cannot_show():
    values = np.random.default_rng(0).uniform(-0.2, 1.2, size=(3, 4, 5))
    kept = Picture.of(values)
    np.testing.assert_allclose(kept.values, np.clip(values, 0, 1), atol=0.5 / 255 + 1e-12)
    assert Picture.of(kept.values) == kept


def shown_in(ax: Axes) -> list[tuple[np.ndarray, tuple[float, float, float, float]]]:
    """Every picture, and its left, right, bottom and top."""
    return [(np.asarray(image.get_array()), image.get_extent()) for image in ax.images]


def test_an_atlas_has_a_row_for_each_cluster():
    ax = figures.frequency_atlas(atlas())
    assert written(ax)[:4] == ["owned by", "what excites it most", "centroid", "units of members"]
    assert written(ax)[4:10] == ["4/16", "7 units", "stability 0.50", "3/16", "5 units", "stability 0.50"]
    assert written(ax)[-2] == "1 unit"
    shown = shown_in(ax)
    assert len(shown) == 4 * (1 + 2 + 3)
    np.testing.assert_array_equal(shown[0][0], atlas().portraits[0].centroid.values[0])
    np.testing.assert_array_equal(shown[2][0], atlas().portraits[0].kernels[1].values[0])
    np.testing.assert_array_equal(shown[5][0], atlas().portraits[0].patches[2].picture.values[0])
    assert [image.get_cmap().name for image in ax.images[:6]] == ["RdBu_r"] * 3 + ["gray"] * 3
    assert {image.get_clim() for image in ax.images} == {(0, 1)}
    tops = [extent[3] for _, extent in shown[::6]]
    assert tops == sorted(set(tops))


def test_an_atlas_shows_what_there_is():
    assert written(figures.frequency_atlas(atlas(kernel=0)))[:3] == ["owned by", "what excites it most", "4/16"]
    few = atlas(n=2)
    first, second = few.portraits
    few = replace(few, portraits=(first, replace(second, kernels=first.kernels[:1], patches=first.patches[:1])))
    assert len(figures.frequency_atlas(few).images) == 6 + 3
    unmeasured = replace(few, portraits=(replace(second, stability=NAN),))
    assert written(figures.frequency_atlas(unmeasured))[4:] == ["1/16", "1 unit"]
    colours = figures.frequency_atlas(atlas(channels=3, n=1))
    np.testing.assert_array_equal(
        shown_in(colours)[0][0], np.moveaxis(atlas(channels=3).portraits[0].centroid.values, 0, -1)
    )


def test_pixels_of_all_patches_are_equally_large_and_borders_lie_where_the_image_ends():
    ax = figures.frequency_atlas(atlas(n=1))
    upper_left, inside, lower_right = (extent for _, extent in shown_in(ax)[3:])
    first, second, third = (patch.get_bbox() for patch in ax.patches if to_hex(patch.get_facecolor()) == OUTSIDE)
    pixel = (inside[1] - inside[0]) / 4
    for (left, right, bottom, top), height, width in ((upper_left, 2, 3), (inside, 4, 4), (lower_right, 4, 2)):
        assert (right - left, bottom - top) == pytest.approx((width * pixel, height * pixel))
    assert upper_left[1:3] == pytest.approx((first.x1, first.y1))  # what lacks lies above it and left of it
    assert inside == pytest.approx((second.x0, second.x1, second.y1, second.y0))
    assert (lower_right[0], lower_right[3]) == pytest.approx((third.x0, third.y0))  # and here right of it
    assert third.x1 - third.x0 == pytest.approx(4 * pixel)


def test_what_cannot_be_drawn_is_refused():
    cases = [
        (lambda: figures.accuracy_against_width([]), "there is nothing to draw", "no rows"),
        (lambda: figures.learning_curves({}), "there is nothing to draw", "no curves"),
        (lambda: figures.learning_curves({"a": []}), "there is nothing to draw", "0 points"),
        (lambda: figures.frequency_curve(replace(layer(), size=[1])), "hidden.0", "40 frequencies, 1 sizes"),
        (lambda: figures.size_curve(LayerSummary("a", 0, 0, 1, [], [], [])), "a layer cannot be drawn", "at least one"),
        (lambda: figures.frequency_atlas(atlas(n=0)), "an atlas cannot be drawn", "hidden.0", "0 clusters"),
        (lambda: Picture.of(np.zeros((2, 3, 3))), "this is no picture", "shape (2, 3, 3), 18 bytes", "C = 1 or 3"),
        (lambda: Picture((1, 2, 2), "AAAA"), "this is no picture", "shape (1, 2, 2), 3 bytes"),
        (lambda: figures.centroid_images(images(2, channels=2), [1, 1]), "no images", "(2, 2, 8, 8)", "C = 1 or 3"),
        (lambda: figures.centroid_images([[1], [1, 2]], [1, 1]), "no images of one shape", "(K, C, H, W)"),
        (lambda: figures.centroid_images(images(3), [1, 1]), "have no frequency", "got:      2", "at least 3"),
    ]
    for draw, *texts in cases:
        with pytest.raises(InputError, match="(?s)" + ".*".join(map(re.escape, texts))):
            draw()


@pytest.fixture(scope="module")
def every_figure() -> list[Axes]:
    made = experiment()
    return [
        figures.accuracy_against_width(table()),
        figures.accuracy_against_width(crowded_table()),
        figures.accuracy_against_width(table()[:4]),
        figures.learning_curves(made.learning, made.table),
        figures.learning_curves({f"fine-tuned assembly, {width}": curve(97, 97.1) for width in PARAMETERS}, table()),
        figures.frequency_curve(layer()),
        figures.frequency_curve(layer("a.layer.with.quite.a.long.name.in.it", n=512)),
        figures.size_curve(layer(n=512)),
        figures.frequency_curve(layer(n=1)),
        figures.size_curve(layer(n=20)),
        figures.centroid_images(made.centroids, layer().frequency, n_members=N_MEMBERS),
        figures.centroid_images(images(64, size=28), layer(n=64).frequency),
        figures.frequency_atlas(atlas()),
        figures.frequency_atlas(atlas(n_kernels=1, n=1)),
        figures.frequency_atlas(atlas(kernel=0, channels=3), Figure(figsize=(4, 3)).subplots()),
    ]


def test_no_text_covers_another_or_is_cut(every_figure: list[Axes]):
    for ax in every_figure:
        figure = ax.figure
        figure.draw_without_rendering()
        shown = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text() and within(t, ax)]
        boxes = [Text.get_window_extent(text).padded(-1) for text in shown]  # a pixel of air around letters may touch
        for text, box in zip(shown, boxes, strict=True):
            assert box.x0 >= 0, text
            assert box.y0 >= 0, text
            assert box.x1 <= figure.bbox.x1, text
            assert box.y1 <= figure.bbox.y1, text
        for (a, one), (b, other) in itertools.combinations(zip(shown, boxes, strict=True), 2):
            assert not one.overlaps(other), (a, b)


def within(text: Text, ax: Axes) -> bool:
    """Whether a text is drawn: the labels of ticks outside the range are not."""
    ticks = {*ax.get_xticklabels(which="both"), *ax.get_yticklabels(which="both")}
    if text not in ticks:
        return True
    x, y = text.get_position()
    low, high = sorted(ax.get_xlim() if text in ax.get_xticklabels(which="both") else ax.get_ylim())
    return ax.axison and low <= (x if text in ax.get_xticklabels(which="both") else y) <= high


def test_figures_use_the_axes_given_and_leave_nothing_behind():
    import matplotlib.pyplot as plt

    before = dict(mpl.rcParams)
    left, right = Figure(figsize=(9, 4)).subplots(1, 2)
    assert figures.accuracy_against_width(table(), left) is left
    assert figures.learning_curves(experiment().learning, table(), ax=right) is right
    for draw in (figures.frequency_curve, figures.size_curve):
        ax = Figure().subplots()
        assert draw(layer(), ax) is ax
    ax = Figure().subplots()
    assert figures.centroid_images(images(), layer().frequency, ax) is ax
    ax = Figure().subplots()
    assert figures.frequency_atlas(atlas(), ax) is ax
    assert len(left.figure.axes) == 2
    figures.accuracy_against_width(table()[:4])
    assert plt.get_fignums() == []
    assert dict(mpl.rcParams) == before


def test_colours_of_text_can_be_read(every_figure: list[Axes]):
    def luminance(colour: str) -> float:
        rgb = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in rgb]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    for ax in every_figure:
        for text in ax.texts:
            assert 1.05 / (luminance(text.get_color()) + 0.05) > 4.4, text
    assert readable("#000000") == "#000000"


@given(
    st.lists(st.tuples(st.floats(-50, 150), st.floats(1, 30)), max_size=12),
)
def test_spread_labels_keep_apart_in_order_and_inside(labels: list[tuple[float, float]]):
    wanted, sizes = [x for x, _ in labels], [size for _, size in labels]
    placed = spread(wanted, sizes, 0, 400)
    order = sorted(range(len(labels)), key=lambda i: (wanted[i], i))
    for i, j in itertools.pairwise(order):
        assert placed[j] - placed[i] >= (sizes[i] + sizes[j]) / 2 - 1e-6
    for i in order:
        assert sizes[i] / 2 - 1e-6 <= placed[i] <= 400 - sizes[i] / 2 + 1e-6
    np.testing.assert_allclose(spread(placed, sizes, 0, 400), placed, atol=1e-6)


# --- the table and the sentences --------------------------------------------------------------------------------------


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_markdown_has_a_line_for_each_row_and_group():
    heading, rule, *lines = markdown_table(table()).splitlines()
    assert cells(heading)[:5] == ["Method", "Width", "Parameters", "Test (n = 360) accuracy (%)", "Test (n = 360) loss"]
    assert len({len(line) for line in (heading, rule, *lines)}) == 1
    assert all(len(cells(line)) == len(COLUMNS) for line in (heading, rule, *lines))
    assert set(rule) <= set("|-: ")
    names = [cells(line)[0] for line in lines]
    assert [name for name in names if name.startswith("*")] == ["*Members*", "*Alternatives*", "*Assemblies*"]
    assert [name for name in names if not name.startswith("*")] == [each.method for each in table()]


def test_the_best_of_each_group_is_bold():
    marked = {cells(line)[0]: cells(line)[3] for line in markdown_table(table()).splitlines() if "**" in cells(line)[3]}
    assert list(marked) == ["ensemble of the members", "Net2Wider of the best member", "fine-tuned assembly"]
    assert marked["ensemble of the members"] == "**97.78 ± 0.78**"


def test_rows_that_read_the_same_are_marked_alike():
    twins = [row(name, "assembly", "1x", 10, 97.5) for name in ("a", "b")]
    assert markdown_table(twins).count("**97.50 ± 0.82**") == 2


def test_numbers_that_are_none_are_dashes():
    nothing = replace(row("a", "assembly", "1x", 10, 97.5), test=Score(NAN, NAN, NAN, 360))
    line = cells(markdown_table([nothing, row("b", "assembly", "1x", 10, 97.5)]).splitlines()[3])
    assert line[3:5] == ["–", "–"]


def test_names_cannot_break_the_markdown():
    line = markdown_table([row("a|b\n<script>*", "x|y", "", 10, 50)]).splitlines()[-1]
    assert cells(line)[0] == r"a\|b \<script>\*"
    assert len(cells(line)) == len(COLUMNS)


def test_the_table_of_nothing_is_its_heading():
    assert len(markdown_table([]).splitlines()) == 2


def test_sentences_tell_the_distance_to_the_ensemble():
    text = " ".join(summary_sentences(experiment()))
    assert "On 360 test samples, the mean member reaches 95.83 ± 1.05 %" in text
    assert "narrowest assembly (assembly, distill; 1x; 6 % of the ensemble's parameters) reaches 96.90 ± 0.91 %" in text
    assert "0.88 ± 1.20 points below the ensemble, which is within noise" in text
    assert "best on validation data (assembly, distill; 4x" in text
    assert "best alternative (optimal transport; 1x) reaches 95.00 ± 1.15 %" in text


def test_sentences_call_a_difference_noise_only_below_two_standard_errors():
    def verdict(tuned: float, scratch: float, steps: int = 300) -> str:
        changed = {"fine-tuned assembly": row("fine-tuned assembly", "assembly", "2x", 8970, tuned, 300)}
        changed["from scratch"] = row("from scratch", "alternative", "2x", 8970, scratch, steps)
        rows = [changed.get(each.method, each) for each in table()]
        (sentence,) = [s for s in summary_sentences(experiment(table=rows, learning={})) if "from scratch" in s]
        return sentence

    assert verdict(98.06, 96.4).endswith("a difference of 1.66 ± 1.22 points, within noise.")
    assert verdict(98.06, 94.0).endswith("fine-tuning is 4.06 ± 1.45 points ahead.")
    assert verdict(94.0, 98.06).endswith("fine-tuning is 4.06 ± 1.45 points behind.")
    assert verdict(98.06, 94.0).startswith("After 300 gradient steps each, the members' training not counted,")
    assert "94.00 ± 1.25 % after 900, so not at equal steps" in verdict(98.06, 94.0, steps=900)


def test_sentences_compare_learning_at_equal_steps():
    (sentence,) = [s for s in summary_sentences(experiment()) if "equal steps" in s]
    assert sentence == (
        "Along the way, at equal steps, the fine-tuned assembly is ahead by more than noise at 3 of 6 points "
        "(last at step 150)."
    )


def test_sentences_leave_out_what_is_not_there():
    assert summary_sentences(experiment(table=[], learning={})) == []
    only = [
        each
        for each in table()
        if each.method in ("ensemble of the members", "assembly, none") and each.width in ("", "full")
    ]
    assert summary_sentences(experiment(table=only, learning={}))[1:] == [
        "The assembly of full width (assembly, none; full; 543 % of the ensemble's parameters) reaches 97.78 ± 0.78 %, "
        "as the ensemble does."
    ]


# --- the page ---------------------------------------------------------------------------------------------------------


class Elements(HTMLParser):
    """Every element with its attributes; fails where one is closed that is not open."""

    void = frozenset(("meta", "br", "link", "img", "hr"))

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def self_contained(page: str) -> None:
    """Assert that a page is well formed, loads nothing, and that its ids are its own and all that it refers to."""
    elements = Elements(page)
    assert elements.open == []
    assert not {"script", "link", "iframe", "object", "img"} & {tag for tag, _ in elements.found}
    for _, attributes in elements.found:
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))
    ids = [attributes["id"] for _, attributes in elements.found if attributes.get("id")]
    assert len(ids) == len(set(ids))
    assert {*re.findall(r'href="#([^"]*)"', page), *re.findall(r"url\(#([^)]*)\)", page)} <= set(ids)


def test_the_page_needs_nothing_else_and_every_reference_has_an_id(page: str):
    self_contained(page)
    assert "@import" not in page


def test_the_page_holds_every_number_of_the_table(page: str):
    for each in table():
        numbers = [f"{each.parameters:,}", f"{each.steps:,}", seconds(each.seconds)]
        for scored in (each.test, each.validation):
            numbers += [accuracy(scored.accuracy, scored.accuracy_se), loss(scored.loss)]
        lines = re.findall(rf'<tr><th scope="row">{re.escape(each.method)}</th><td>{each.width}</td>.*</tr>', page)
        assert len(lines) == 1
        for number in numbers:
            assert f">{number}<" in lines[0]


def test_the_page_says_what_is_seen_and_how_it_was_obtained(page: str):
    captions = re.findall(r"<figcaption>(.*)</figcaption>", page)
    assert len(captions) == 7
    assert "the weights of a unit from 8 × 8 pixels" not in captions[4]
    assert "The first 4 of 40 clusters of hidden.0, with the share of the 16 members that own each." in captions[5]
    assert "from 3 × 3 pixels of the input, at any position (red is above 0, blue below, white 0)" in captions[5]
    assert "of 1,000 images, the strongest first: 4 × 4 pixels, all that a unit sees from one position" in captions[6]
    assert "weights" not in captions[6]
    assert "1 is owned by every member, 12 by at least half, 4 by only one" in captions[2]
    assert "<dt>command</dt><dd><pre><code>consilience demo --out runs/demo</code></pre></dd>" in page
    assert "<dt>learning rate</dt><dd>0.003</dd>" in page
    for sentence in summary_sentences(experiment()):
        assert escape(sentence) in page.replace("\N{NO-BREAK SPACE}", " ")


def test_the_page_escapes_all_text():
    bad = "<script>alert('1')</script>&"
    rows = [replace(each, method=each.method + bad, width=each.width and bad) for each in table()]
    made = experiment(
        title=bad, data={"name": bad, bad: [bad]}, population={bad: {bad: bad}},
        obtained={"command": bad, "a": bad + "\n"}, table=[*rows[:9], replace(rows[0], group=bad)],
        learning={bad: curve(90, 91)}, layers=[layer(bad, n=3)], centroids=images(2), atlas=[atlas(bad)],
    )  # fmt: skip
    elements = Elements(render_page(made))
    assert "script" not in {tag for tag, _ in elements.found}
    assert elements.open == []


def test_the_same_experiment_gives_the_same_bytes(page: str, tmp_path: Path):
    experiment().save(tmp_path)
    with mpl.rc_context({"font.size": 20, "xtick.direction": "in", "svg.fonttype": "none"}):  # a user's style
        write_page(Experiment.load(tmp_path), tmp_path / "report.html")
    assert (tmp_path / "report.html").read_bytes() == page.encode()


@pytest.mark.parametrize(
    "changes",
    [
        {"centroids": []},
        {"atlas": [], "centroids": images(2, size=3)},
        {"layers": [layer(n=3)]},
        {"layers": [], "learning": {}},
        {"layers": [LayerSummary("all.dead", 8, 8, 4, [], [], [])], "centroids": []},
        {"learning": {}, "table": table()[:3], "data": {}, "population": {}, "census": {}, "obtained": {}},
        {
            "learning": {"another": curve(50)}, "table": table()[-1:], "layers": [layer(stability=NAN)],
            "centroids": images(1, 3),
        },
    ],
    ids=["no centroids", "no atlas", "one layer", "no layers", "a dead layer", "members only", "little"],
)  # fmt: skip
def test_pages_do_without_what_is_missing(changes: dict):
    made = experiment(**{"centroids": images(2), "table": table()[::3], **changes})
    page = render_page(made)
    elements = Elements(page)
    assert elements.open == []
    headings = re.findall("<h2>(.*)</h2>", page)
    assert ("What the first layer looks for" in headings) == bool(made.centroids and made.layers)
    assert ("What excites the clusters" in headings) == bool(made.atlas)
    assert ("As a place to start from" in headings) == bool(made.learning)
    assert ("What the members share" in headings) == bool(made.layers)
    assert ("How every number was obtained" in headings) == bool(made.obtained)


def test_nothing_is_written_when_a_figure_cannot_be_drawn(tmp_path: Path):
    with pytest.raises(InputError, match="nothing to draw"):
        write_page(experiment(table=[]), tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []
