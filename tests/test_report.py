"""The report: plain results in, figures, tables, sentences and one page out."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from PIL import Image

from consilience.errors import ArtefactError, InputError
from consilience.report import (
    ChanceSummary,
    Experiment,
    LayerAtlas,
    LayerSummary,
    LearningPoint,
    Patch,
    Picture,
    Portrait,
    Role,
    Row,
    Score,
    figures,
    markdown_table,
    render_page,
    summary_sentences,
)
from consilience.report.portraits import WEIGHTS
from consilience.report.results import HeadsSummary, Writing
from consilience.report.scores import quality, seconds
from consilience.report.tables import Cell, Column, Table

N_TEST, N_MEMBERS = 360, 16
PARAMETERS = {"1x": 3466, "2x": 8970, "4x": 26122, "full": 301066}
NAN = float("nan")


def score(percent: float, n: int = N_TEST) -> Score:
    p = percent / 100
    return Score(p, math.sqrt(p * (1 - p) / n), 0.01 - math.log(p), n)


def row(method: str, role: Role, width: str, parameters: int, percent: float, steps: int = 0, n: int = N_TEST) -> Row:
    validation = score(percent + 0.3, 300)
    return Row(method, role, width, parameters, score(percent, n), validation, steps, 1.25 * steps / 100)


def table(n: int = N_TEST) -> list[Row]:
    size = PARAMETERS["1x"]
    assemblies = {
        "none": (81.2, 92.8, 96.2, 97.78),
        "least-squares": (96.1, 97.2, 97.5, 97.78),
        "distill": (96.9, 97.6, 97.75, 97.78),
    }
    return [
        row("mean member", Role.MEAN_MEMBER, "", size, 95.83, n=n),
        row("best member on validation", Role.BEST_MEMBER, "", size, 96.94, n=n),
        row("ensemble of the members", Role.ENSEMBLE, "", N_MEMBERS * size, 97.78, n=n),
        row("parameter average", Role.ALTERNATIVE, "1x", size, 20.3, n=n),
        row("matching to a reference", Role.ALTERNATIVE, "1x", size, 93.9, n=n),
        row("optimal transport", Role.ALTERNATIVE, "1x", size, 95.0, n=n),
        row("Net2Wider of the best member", Role.ALTERNATIVE, "2x", PARAMETERS["2x"], 97.1, 300, n=n),
        row("from scratch", Role.SCRATCH, "2x", PARAMETERS["2x"], 96.4, 300, n=n),
        *(
            row(f"assembly, {name}", Role.ASSEMBLY, width, PARAMETERS[width], value, 400 * (name == "distill"), n=n)
            for name, values in assemblies.items()
            for width, value in zip(PARAMETERS, values, strict=True)
        ),
        row("fine-tuned assembly", Role.FINE_TUNED, "2x", PARAMETERS["2x"], 98.06, 300, n=n),
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


def atlas(name: str = "hidden.0", channels: int = 1, kernel: int = 3, n: int = 4) -> LayerAtlas:
    """Portraits of units that see 4 × 4 pixels of 8 × 8; of every first patch only the part inside the image."""
    boxes = [(0, 0, 2, 3), (1, 1, 5, 5), (4, 6, 8, 8)]
    patches = [Patch(i, box, picture(channels, box[2] - box[0], box[3] - box[1])) for i, box in enumerate(boxes)]
    kernels = [picture(channels, kernel, kernel, seed=j) for j in range(3)] if kernel else [None]
    portraits = [
        Portrait((n - i) / N_MEMBERS, 2 * (n - i) - 1, 0.5, kernels[0], tuple(kernels[1:]), tuple(patches))
        for i in range(n)
    ]
    return LayerAtlas(name, N_MEMBERS, 40, 1000, (8, 8), tuple(portraits))


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


def saved(directory: Path) -> Path:
    path = directory / "results.json"
    path.write_text(experiment().to_json())
    return path


def test_results_survive_saving_and_loading(tmp_path: Path):
    saved(tmp_path)
    assert Experiment.load(tmp_path) == experiment()


def damaged(tmp_path: Path, *texts: str, **changes: object) -> None:
    """Expect that results with these changes (None: leave it out) are refused with all of these texts, in order."""
    path = saved(tmp_path)
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    refused(tmp_path, *texts)


def refused(directory: Path, *texts: str) -> None:
    with pytest.raises(ArtefactError, match="(?s)" + ".*".join(map(re.escape, texts))):
        Experiment.load(directory)


def test_missing_results_name_the_file_and_the_command(tmp_path: Path):
    refused(tmp_path, str(tmp_path), "results.json must exist", "consilience report")


def test_results_that_cannot_be_read_are_refused(tmp_path: Path):
    path = saved(tmp_path)
    damaged(tmp_path, "format version", "must be 1, got 0", format_version=0)
    damaged(tmp_path, "results.json is damaged", "format_version", "make it again", format_version=None)
    damaged(tmp_path, "results.json is damaged", "table", table=None)
    damaged(
        tmp_path,
        "results.json is damaged",
        "table[0].width must be there",
        table=[{"method": "", "group": "", "test": {"n": 1}}],
    )
    damaged(tmp_path, "results.json is damaged", "atlas[0].name must be there", atlas=[{"image_size": [8, 8]}])
    layers = json.loads(experiment().to_json())["atlas"]
    picture = layers[0]["portraits"][0]["patches"][0]["picture"]
    picture["pixels"] = picture["pixels"][:4]
    damaged(tmp_path, "results.json is damaged", "a picture must have", "shape (1, 2, 3) and 3 bytes", atlas=layers)
    path.write_text(experiment().to_json()[:500])
    refused(tmp_path, "results.json is damaged")


def test_results_without_an_atlas_are_whole(tmp_path: Path):
    content = json.loads(experiment().to_json())
    saved(tmp_path).write_text(json.dumps({key: value for key, value in content.items() if key != "atlas"}))
    assert Experiment.load(tmp_path) == experiment(atlas=[])


def test_rows_that_were_saved_without_roles_get_them(tmp_path: Path):
    path = saved(tmp_path)
    content = json.loads(path.read_text())
    assert {plain["group"] for plain in content["table"]} == {"members", "alternative", "assembly"}
    content["table"] = [{key: value for key, value in plain.items() if key != "role"} for plain in content["table"]]
    path.write_text(json.dumps(content))
    assert Experiment.load(tmp_path) == experiment()


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
    """The (x, y) of the line or series whose label begins like this."""
    series = [c.lines[0] for c in ax.containers if isinstance(c, ErrorbarContainer) and c.get_label() == label]
    (line,) = series or [line for line in ax.lines if str(line.get_label()).startswith(label)]
    return np.array(line.get_xydata())


def written(ax: Axes) -> list[str]:
    return [text.get_text().replace("\N{NO-BREAK SPACE}", " ") for text in ax.texts]


def test_accuracies_are_drawn_in_percent_at_their_width():
    ax = figures.accuracy_against_width(table())
    for name in ("assembly, none", "assembly, distill", "from scratch", "Net2Wider of the best member"):
        rows = [each for each in table() if each.method == name and each.test.accuracy > 0.85]
        x, y = line_of(ax, name).T
        np.testing.assert_allclose(np.log(x), np.log([each.parameters for each in rows]), atol=0.3)
        np.testing.assert_allclose(y, [100 * each.test.accuracy for each in rows])
    for name, percent in (("mean member", 95.83), ("best member", 96.94), ("ensemble", 97.78)):
        np.testing.assert_allclose(line_of(ax, name)[:, 1], percent)
    assert ax.get_xscale() == "log"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("parameters at inference", "test accuracy (%)")
    marks = {text.get_text(): text.xy[0] for text in ax.texts if text.get_text() in PARAMETERS}
    assert marks == PARAMETERS


def test_rows_of_one_width_are_drawn_around_it_side_by_side():
    ax = figures.accuracy_against_width(table())
    rows = [each for each in table() if each.width == "2x" and each.test.accuracy > 0.85]
    series = [c.lines[0].get_xdata() for c in ax.containers if isinstance(c, ErrorbarContainer)]
    drawn = np.sort(np.concatenate(series).astype(float))
    near = drawn[np.abs(np.log(drawn / PARAMETERS["2x"])) < 0.3]
    assert len(near) == len(rows)
    assert np.diff(np.log(near)).min() > 0.01
    assert np.log(near).mean() == pytest.approx(np.log(PARAMETERS["2x"]))


def test_error_bars_are_one_standard_error():
    ax = figures.accuracy_against_width(table())
    bars = {c.get_label(): c.lines[2][0].get_segments() for c in ax.containers if isinstance(c, ErrorbarContainer)}
    for name, segments in bars.items():
        rows = [each for each in table() if each.method == name and each.test.accuracy > 0.85]
        for each, segment in zip(rows, segments, strict=True):
            assert np.ptp(segment[:, 1]) == pytest.approx(2 * 100 * each.test.accuracy_se)
            assert segment[:, 1].mean() == pytest.approx(100 * each.test.accuracy)


def test_far_out_accuracies_are_named_not_drawn():
    ax = figures.accuracy_against_width(table())
    low, high = ax.get_ylim()
    assert 85 < low < high < 100.5
    note = next(text for text in written(ax) if "Below the range" in text)
    assert "parameter average 1x 20.3 %" in note
    assert "assembly, none 1x 81.2 %" in note
    assert "least-squares" not in note


def test_references_are_in_the_range_even_if_they_are_far_out():
    rows = [replace(each, test=score(40)) if each.role is Role.MEAN_MEMBER else each for each in table()]
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
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["frequency", "resampling stability"]
    assert written(ax) == ["1x", "2x"]
    assert [text.xy[0] for text in ax.texts] == [16.5, 32.5]


def test_unknown_stability_is_not_drawn():
    ax = figures.frequency_curve(layer(stability=NAN))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["frequency"]


def beside_chance(summary: LayerSummary) -> LayerSummary:
    """The layer with chance levels; every second cluster is significant."""
    n = len(summary.size)
    half, chance = [0.5] * n, [0.2] * n
    q = [0.01 if c % 2 == 0 else 0.5 for c in range(n)]
    beside = ChanceSummary(q, half, chance, 0.5, 0.2, [0.25, 0.35], 12.0, 0.9, [0.25] * n, [0.4] * n)
    return replace(summary, chance=beside)


def test_chance_is_drawn_dashed_beside_frequency_and_stability():
    ax = figures.frequency_curve(beside_chance(layer()))
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["frequency", "resampling stability", "by chance"]
    np.testing.assert_allclose(ax.patches[-1].get_data().values, [25] * 40)
    np.testing.assert_allclose(ax.lines[1].get_ydata(), 40)


def test_the_page_says_what_is_significant_and_marks_it():
    made = experiment()
    page = render_page(replace(made, layers=[beside_chance(made.layers[0]), *made.layers[1:]]))
    text = " ".join(page.split())
    assert "20 are significant. Recurrence at a cosine above 0.9: 0.50, by chance 0.20" in text
    assert "(difference +0.250 to +0.350 at 95 % over members, z = 12.0)." in text
    assert "Chance levels were not measured." in text
    assert f"{N_MEMBERS}/{N_MEMBERS}*" in text


def test_the_page_shows_what_heads_attend_to_and_where_scores_are_highest():
    writings = [Writing(["e", "a"], ["␣"], 0.5, 0.25), *[Writing([], [], 0.0, 0.0)] * 2]
    heads = HeadsSummary([picture(1, 8, 8, seed=i) for i in range(3)], {"induction": [0.1, 0.75, 0.2]}, writings)
    page = " ".join(render_page(experiment(layers=[replace(layer(n=4), heads=heads)], centroids=[])).split())
    assert all(each.uri() in page for each in heads.patterns)
    assert "the first 3 of 4 clusters of heads" in page
    assert "the highest mean weights are: induction 0.75 (cluster 2)." in page
    assert '<code>e</code> <code>a</code></td><td class="text"><code>␣</code></td><td>0.5</td><td>25 %</td>' in page


def test_sizes_are_drawn_as_they_are():
    summary = layer()
    ax = figures.size_curve(summary)
    np.testing.assert_array_equal(ax.patches[-1].get_data().values, summary.size)
    assert ax.get_yscale() == "log"
    assert "12 of 512 units dead" in ax.get_title(loc="right")


def test_figures_use_the_axes_given_and_leave_nothing_behind():
    import matplotlib.pyplot as plt

    before = dict(mpl.rcParams)
    left, right = Figure(figsize=(9, 4)).subplots(1, 2)
    assert figures.accuracy_against_width(table(), left) is left
    assert figures.learning_curves(experiment().learning, table(), ax=right) is right
    for draw in (figures.frequency_curve, figures.size_curve):
        ax = Figure().subplots()
        assert draw(layer(), ax) is ax
    assert len(left.figure.axes) == 2
    figures.accuracy_against_width(table()[:4])
    assert plt.get_fignums() == []
    assert dict(mpl.rcParams) == before


def test_legends_and_notes_lie_inside_the_figure():
    drawn = [
        figures.accuracy_against_width(table()),
        figures.learning_curves(experiment().learning, table()),
        figures.frequency_curve(layer("a.layer.with.quite.a.long.name.in.it", n=512)),
        figures.size_curve(layer(n=20)),
    ]
    for ax in drawn:
        ax.figure.draw_without_rendering()
        page = ax.figure.bbox
        legend = ax.get_legend()
        for artist in [text for text in ax.texts if text.get_text()] + ([legend] if legend else []):
            box = artist.get_window_extent()
            assert page.x0 - 1 <= box.x0 <= box.x1 <= page.x1 + 1
            assert page.y0 - 1 <= box.y0 <= box.y1 <= page.y1 + 1


def test_what_cannot_be_drawn_is_refused():
    cases = [
        (lambda: render_page(experiment(table=[])), "table must have a row, got none"),
        (lambda: figures.learning_curves({}), "learning must have curves", "got no curves"),
        (lambda: figures.learning_curves({"a": []}), "learning must have curves", "0 points"),
        (lambda: figures.frequency_curve(replace(layer(), size=[1])), "hidden.0", "40 frequencies, 1 sizes"),
        (lambda: figures.size_curve(LayerSummary("a", 0, 0, 1, [], [], [])), "a must have clusters", "0 frequencies"),
        (lambda: render_page(experiment(atlas=[atlas(n=0)])), "the atlas of hidden.0 must have clusters", "got none"),
        (lambda: Picture.of(np.zeros((2, 3, 3))), "a picture must have", "C = 1 or 3", "shape (2, 3, 3) and 18 bytes"),
        (lambda: Picture((1, 2, 2), "AAAA"), "a picture must have", "shape (1, 2, 2) and 3 bytes"),
        (lambda: render_page(experiment(centroids=images(2, channels=2))), "a picture must have", "(2, 8, 8)"),
        (lambda: render_page(experiment(centroids=images(41))), "every centroid must have a frequency", "41 and 40"),
    ]
    for draw, *texts in cases:
        with pytest.raises(InputError, match="(?s)" + ".*".join(map(re.escape, texts))):
            draw()


# --- pictures ---------------------------------------------------------------------------------------------------------


def pixels(uri: str) -> np.ndarray:
    """The colors (H, W, 3) of a PNG, 0 to 1."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,"))))) / 255


def test_a_picture_keeps_its_values_to_8_bits_and_clips_others():
    values = np.random.default_rng(0).uniform(-0.2, 1.2, size=(3, 4, 5))
    kept = Picture.of(values)
    np.testing.assert_allclose(kept.values, np.clip(values, 0, 1), atol=0.5 / 255 + 1e-12)
    assert Picture.of(kept.values) == kept
    np.testing.assert_array_equal(pixels(kept.uri()), np.moveaxis(kept.values, 0, -1))
    grey = Picture.of(values[:1])
    np.testing.assert_allclose(pixels(grey.uri()), np.moveaxis(grey.values, 0, -1).repeat(3, 2), atol=1.1 / 255)


def test_weights_are_red_above_zero_blue_below_and_as_large_as_their_scale():
    red, _, blue = pixels(Picture.of_weights(np.array([[[3.0, 0.0, -3.0]]])).uri(WEIGHTS))[0].T
    assert red[0] > 2 * blue[0]
    assert blue[2] > 2 * red[2]
    assert min(red[1], blue[1]) > 0.95
    np.testing.assert_allclose(Picture.of_weights(np.array([[[1.0]]]), 4.0).values, 0.625, atol=0.5 / 255)
    np.testing.assert_allclose(Picture.of_weights(np.zeros((3, 1, 1))).values, 0.5, atol=0.5 / 255)


def test_patches_lie_where_the_image_lies_in_the_field_of_a_unit():
    made = atlas(n=1)  # of fields of 4 × 4 pixels
    assert [made.place(patch) for patch in made.portraits[0].patches] == [
        (25, 50, 75, 50),
        (0, 0, 100, 100),
        (0, 0, 50, 100),
    ]


# --- the table and the sentences --------------------------------------------------------------------------------------


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_markdown_has_a_line_for_each_row_and_group():
    heading, rule, *lines = markdown_table(table()).splitlines()
    assert cells(heading)[:5] == ["Method", "Width", "Parameters", "Test (n = 360) accuracy (%)", "Test (n = 360) loss"]
    assert len({len(line) for line in (heading, rule, *lines)}) == 1
    assert all(len(cells(line)) == 9 for line in (heading, rule, *lines))
    assert set(rule) <= set("|-: ")
    names = [cells(line)[0] for line in lines]
    assert [name for name in names if name.startswith("*")] == ["*Members*", "*Alternatives*", "*Assemblies*"]
    assert [name for name in names if not name.startswith("*")] == [each.method for each in table()]


def test_the_best_of_each_group_is_bold():
    marked = {cells(line)[0]: cells(line)[3] for line in markdown_table(table()).splitlines() if "**" in cells(line)[3]}
    assert list(marked) == ["ensemble of the members", "Net2Wider of the best member", "fine-tuned assembly"]
    assert marked["ensemble of the members"] == "**97.78 ± 0.78**"


def test_rows_that_read_the_same_are_marked_alike():
    twins = [row(name, Role.ASSEMBLY, "1x", 10, 97.5) for name in ("a", "b")]
    assert markdown_table(twins).count("**97.50 ± 0.82**") == 2


def test_numbers_that_are_none_are_dashes():
    nothing = replace(row("a", Role.ASSEMBLY, "1x", 10, 97.5), test=Score(NAN, NAN, NAN, 360))
    line = cells(markdown_table([nothing, row("b", Role.ASSEMBLY, "1x", 10, 97.5)]).splitlines()[3])
    assert line[3:5] == ["–", "–"]


def test_a_table_without_groups_has_one_heading_and_no_bold_cells():
    plain = Table.plain([Column("Name", is_text=True), Column("a", over="x"), Column("b", over="x")], [["n", "1", "2"]])
    assert plain.groups == {"": [[Cell("n"), Cell("1"), Cell("2")]]}
    assert plain.markdown().splitlines()[0] == "| Name | x a | x b |"
    assert [(over, [column.heading for column in columns]) for over, columns in plain.spans] == [
        ("", ["Name"]),
        ("x", ["a", "b"]),
    ]


def test_names_cannot_break_the_markdown():
    line = markdown_table([row("a|b\n<script>*", Role.ALTERNATIVE, "", 10, 50)]).splitlines()[-1]
    assert cells(line)[0] == r"a\|b \<script>\*"
    assert len(cells(line)) == 9


def test_the_table_of_nothing_is_its_heading():
    assert len(markdown_table([]).splitlines()) == 2


def test_sentences_give_the_distance_to_the_ensemble():
    text = " ".join(summary_sentences(experiment()))
    assert "Accuracy on 360 test samples: mean member 95.83 ± 1.05 %" in text
    assert "Narrowest assembly (assembly, distill; 1x; 6 % of the ensemble's parameters): 96.90 ± 0.91 %" in text
    assert "0.88 ± 1.20 points (within noise) below the ensemble." in text
    assert "Best assembly below full width, by validation accuracy (assembly, distill; 4x" in text


@pytest.mark.parametrize(
    ("tuned", "scratch", "verdict"),
    [
        (98.06, 96.4, "1.66 ± 1.22 points (within noise) above the network."),
        (98.06, 94.0, "4.06 ± 1.45 points above the network."),
        (94.0, 98.06, "4.06 ± 1.45 points below the network."),
    ],
)
def test_sentences_call_a_difference_noise_only_below_two_standard_errors(tuned: float, scratch: float, verdict: str):
    assert compared(tuned, scratch).endswith(verdict)
    assert compared(tuned, scratch).startswith("After 300 gradient steps each, besides the members' training:")


def test_differences_have_their_paired_errors():
    assert compared(98.06, 96.4, paired=0.004).endswith("1.66 ± 0.40 points above the network.")


def compared(tuned: float, scratch: float, steps: int = 300, paired: float | None = None) -> str:
    """The sentence on the two trained networks, for accuracies in %."""
    rows = {each.method: each for each in table()}
    rows["fine-tuned assembly"] = row("fine-tuned assembly", Role.FINE_TUNED, "2x", 8970, tuned, 300)
    rows["fine-tuned assembly"] = replace(rows["fine-tuned assembly"], difference_se=paired)
    rows["from scratch"] = row("from scratch", Role.SCRATCH, "2x", 8970, scratch, steps)
    (sentence,) = [s for s in summary_sentences(experiment(table=[*rows.values()], learning={})) if "from scratch" in s]
    return sentence


def test_sentences_say_that_steps_are_not_equal():
    assert "94.00 ± 1.25 % after 900, so not at equal steps" in compared(98.06, 94.0, steps=900)
    assert compared(98.06, 94.0, steps=900).startswith("After 300 gradient steps, besides")


def test_sentences_leave_out_what_is_not_there():
    assert summary_sentences(experiment(table=[], learning={})) == []
    names, widths = ("ensemble of the members", "assembly, none"), ("", "full")
    only = [each for each in table() if each.method in names and each.width in widths]
    assert summary_sentences(experiment(table=only, learning={}))[1:] == [
        "Assembly of full width (assembly, none; full; 543 % of the ensemble's parameters): 97.78 ± 0.78 %, "
        "equal to the ensemble."
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
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in elements.found}
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
            numbers += [quality(scored), f"{scored.loss:.3f}"]
        start = rf'<tr><th scope="row">{re.escape(each.method)}</th><td class="text">{each.width}</td>'
        lines = re.findall(f"{start}.*</tr>", page)
        assert len(lines) == 1
        for number in numbers:
            assert f">{number}<" in lines[0]


def test_the_page_says_what_is_seen_and_how_it_was_obtained(page: str):
    captions = re.findall(r"<figcaption>(.*)</figcaption>", page)
    assert len(captions) == 7
    assert "the weights of a unit from the pixels of the input" in captions[4]
    assert "The first 4 of 40 clusters of hidden.0, with the share of the 16 members that own each." in captions[5]
    assert "from 3 × 3 pixels of the input, at any position (red is above 0, blue below, white is 0)" in captions[5]
    assert "of 1,000 images, the strongest first: 4 × 4 pixels, all that a unit sees from one position" in captions[6]
    assert "weights" not in captions[6]
    assert "1 is owned by every member, 12 by at least half, 4 by only one" in captions[2]
    assert "<dt>command</dt><dd><pre><code>consilience demo --out runs/demo</code></pre></dd>" in page
    assert "<dt>learning rate</dt><dd>0.003</dd>" in page
    assert "prefers-color-scheme: dark" in page
    for sentence in summary_sentences(experiment()):
        assert str(Markup.escape(sentence)) in page.replace("\N{NO-BREAK SPACE}", " ")


def test_an_atlas_has_a_row_for_each_cluster():
    made = replace(atlas(), portraits=(*atlas().portraits[:3], replace(atlas().portraits[3], stability=NAN)))
    page = render_page(experiment(atlas=[made, atlas("hidden.1", kernel=0)]))
    first, second = re.findall(r'(?s)<table class="atlas">(.*?)</table>', page)
    headings = ["owned by", "centroid", "units of members", "what excites it most"]
    assert re.findall('<th scope="col"[^>]*>(.*?)</th>', first) == headings
    assert re.findall('<th scope="col"[^>]*>(.*?)</th>', second) == [headings[0], headings[3]]
    _, *rows = first.split("<tr>")[1:]
    owners = [re.findall(r'<th scope="row">(.*)\n.*width: (.*)%.*\n<small>(.*)</small>', text)[0] for text in rows]
    assert owners[::3] == [("4/16", "25.0", "7 units"), ("1/16", "6.2", "1 unit")]
    assert ["stability 0.50" in text for text in rows] == [True, True, True, False]
    portrait = made.portraits[0]
    weights = [each.uri(WEIGHTS) for each in (portrait.centroid, *portrait.kernels)]
    shown = re.findall('src="(.*?)"', rows[0])
    assert shown == [*weights, *(patch.picture.uri() for patch in portrait.patches)]
    assert "left: 25%; top: 50%; width: 75%; height: 50%" in rows[0]


def test_the_page_shows_the_most_frequent_centroids_in_their_own_scale():
    weights = np.array(images(40)) * np.arange(40).reshape(-1, 1, 1, 1)
    page = render_page(experiment(centroids=weights.tolist(), atlas=[]))
    tiles = re.findall(r'<span>(.*)<img src="(.*)" alt="">', page)
    assert [share for share, _ in tiles] == [f"{round(16 * share)}/16" for share in layer().frequency]
    largest = np.abs(weights[1]).max()
    assert tiles[1][1] == Picture.of(0.5 + 0.5 * weights[1] / largest).uri(WEIGHTS)
    odd = replace(layer(), frequency=[0.52] * 40)
    assert "<span>52 %<img" in render_page(experiment(centroids=images(1), layers=[odd], atlas=[]))


def test_the_page_escapes_all_text():
    bad = "<script>alert('1')</script>&"
    rows = [replace(each, method=each.method + bad, width=each.width and bad) for each in table()]
    made = experiment(
        title=bad,
        data={"name": bad, bad: [bad]},
        population={bad: {bad: bad}},
        obtained={"command": bad, "a": bad + "\n"},
        table=rows[:9],
        learning={bad: curve(90, 91)},
        layers=[layer(bad, n=3)],
        centroids=images(2),
        atlas=[atlas(bad)],
    )
    elements = Elements(render_page(made))
    assert "script" not in {tag for tag, _ in elements.found}
    assert elements.open == []


def test_the_same_experiment_gives_the_same_page(page: str, tmp_path: Path):
    saved(tmp_path)
    with mpl.rc_context({"font.size": 20, "xtick.direction": "in", "svg.fonttype": "none"}):  # a user's style
        assert render_page(Experiment.load(tmp_path)) == page


@pytest.mark.parametrize(
    "changes",
    [
        {"centroids": []},
        {"atlas": [], "centroids": images(2, size=3)},
        {"layers": [layer(n=3)]},
        {"layers": [], "learning": {}},
        {"layers": [LayerSummary("all.dead", 8, 8, 4, [], [], [])], "centroids": []},
        {"learning": {}, "table": table()[:3], "data": {}, "population": {}, "census": {}, "obtained": {}},
        {"learning": {"another": curve(50)}, "table": table()[-1:], "centroids": images(1, 3)},
        {"layers": [layer(stability=NAN)]},
    ],
)
def test_pages_do_without_what_is_missing(changes: dict):
    made = experiment(**{"centroids": images(2), "table": table()[::3], **changes})
    page = render_page(made)
    elements = Elements(page)
    assert elements.open == []
    headings = re.findall("<h2>(.*)</h2>", page)
    assert ("First-layer centroids" in headings) == bool(made.centroids and made.layers)
    assert ("What excites the clusters" in headings) == bool(made.atlas)
    assert ("An assembly as an initialization" in headings) == bool(made.learning)
    assert ("What the members share" in headings) == bool(made.layers)
    assert ("How every number was obtained" in headings) == bool(made.obtained)
