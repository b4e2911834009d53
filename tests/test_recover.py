"""The command `recover` as a user runs it, rightly and wrongly, and its report: figures and one page."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from scipy.cluster.hierarchy import leaves_list

from conftest import random_mlp, refused, run
from consilience import cli
from consilience.clustering.clusterers import average
from consilience.clustering.distances import Points
from consilience.errors import InputError
from consilience.nets import ConvNet
from consilience.nets.activations import ACTIVATIONS
from consilience.recovery.distance import distance
from consilience.recovery.student import Student, symmetry_of_function
from consilience.report.recovery import (
    Comparison,
    RecoveryResult,
    StudentLayer,
    UnitCluster,
    kept_and_dropped,
    recovered_weights,
    recovery_sentences,
    render_recovery,
    similarities,
    training_errors,
    tree_of_units,
)
from consilience.report.students import rule_of
from consilience.store import load_network, save_network
from test_commands import files_in
from test_report import self_contained, within

SMALL = ["--units", 2, "--students", 6, "--activation", "tanh"]


def teach(directory: Path, widths: tuple[int, ...] = (2,)) -> torch.nn.Module:
    """A saved teacher, and its outputs on 200 inputs as files."""
    teacher = random_mlp(list(widths), "tanh", seed=3, n_inputs=3).double()
    save_network(teacher, directory / "teacher")
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    np.save(directory / "X.npy", x.numpy())
    np.save(directory / "Y.npy", teacher(x).detach().numpy())
    return teacher


def files(directory: Path) -> list[object]:
    return ["--inputs", directory / "X.npy", "--outputs", directory / "Y.npy"]


def ends_with_1(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as caught:
        cli.main([str(a) for a in arguments])
    assert caught.value.code == 1
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recovery from files, and one with a teacher."""
    root = tmp_path_factory.mktemp("recover")
    teach(root)
    cli.main([str(a) for a in ["recover", *files(root), "--out", root / "from-files", *SMALL]])
    cli.main(
        [str(a) for a in ["recover", "--teacher", root / "teacher", "--samples", 200, "--out", root / "known", *SMALL]]
    )
    return root


# --- the command ------------------------------------------------------------------------------------------------------


def test_a_network_is_recovered_from_files(done: Path) -> None:
    found = json.loads((done / "from-files" / "recovery.json").read_text())
    assert found["exact"] is True
    assert found["n_units"] == [2]
    assert (found["n_inputs"], found["n_outputs"], found["n_samples"]) == (3, 3, 200)
    assert found["error"] < 1e-24
    assert found["distance"] is None
    (layer,) = found["layers"]
    assert [cluster["dropped"] for cluster in layer["clusters"][: layer["n_kept"]]] == [""] * 2
    assert all(cluster["dropped"] for cluster in layer["clusters"][layer["n_kept"] :])
    assert layer["plateau"][0] < layer["height"] < layer["plateau"][1]
    assert len(layer["losses"]) == len(layer["status"]) == len(layer["iterations"]) == 6
    network = load_network(done / "from-files" / "network")
    assert network.config.widths == (2,)
    assert {p.dtype for p in network.parameters()} == {torch.float64}
    x = torch.from_numpy(np.load(done / "X.npy"))
    np.testing.assert_allclose(network(x).detach().numpy(), np.load(done / "Y.npy"), atol=1e-11)
    assert sorted(p.name for p in (done / "from-files").iterdir()) == ["network", "recovery.json", "report.html"]


def test_a_teacher_is_compared_with_what_is_recovered(done: Path) -> None:
    found = json.loads((done / "known" / "recovery.json").read_text())
    distance = found["distance"]
    assert (distance["missing"], distance["excess"]) == (0, 0)
    assert distance["worst_error"] < 1e-9
    assert distance["function_error"] < 1e-20
    page = (done / "known" / "report.html").read_text()
    assert "<h2>Is it the teacher?</h2>" in page
    assert "<h2>Is it the teacher?</h2>" not in (done / "from-files" / "report.html").read_text()
    assert f"--teacher {done / 'teacher'}" in page


def test_a_rerun_skips_what_is_finished_and_another_request_is_refused(
    done: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_in(done)
    monkeypatch.setattr("consilience.studies.recovery_result.run_recovery", None)
    printed = run(capsys, "recover", *files(done), "--out", done / "from-files", *SMALL)
    assert printed.startswith("Recovered: 1 hidden layer of 2 tanh units, 3 inputs, 3 outputs.\n")
    assert printed.endswith(f"report in {done / 'from-files' / 'report.html'}\n")
    as_json = json.loads(run(capsys, "recover", *files(done), "--out", done / "from-files", *SMALL, "--json"))
    assert as_json["exact"] is True
    message = refused(capsys, "recover", *files(done), "--out", done / "from-files", *SMALL, "--seed", 1)
    assert "--out must not hold another recovery" in message
    assert "differs in seed" in message
    swapped = ["--inputs", done / "Y.npy", "--outputs", done / "X.npy"]
    assert "differs in data" in refused(capsys, "recover", *swapped, "--out", done / "from-files", *SMALL)
    assert files_in(done) == before


def test_what_a_killed_run_has_left_is_finished_with_the_same_bytes(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    left = tmp_path / "from-files"
    shutil.copytree(done / "from-files", left)
    (left / "recovery.json").unlink()
    (left / ".report.html.tmp").write_text("half a p")
    other = [*SMALL, "--coverage", "0.9"]
    assert "hold another network" in refused(capsys, "recover", *files(done), "--out", left, *other)
    run(capsys, "recover", *files(done), "--out", left, *SMALL)
    assert sorted(p.name for p in left.iterdir()) == ["network", "recovery.json", "report.html"]
    mine, theirs = files_in(left), files_in(done / "from-files")
    for name in ("recovery.json", "network/config.json", "network/model.safetensors"):
        assert mine[name] == theirs[name], name


def test_what_is_not_exact_is_never_called_a_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teach(tmp_path, (3,))
    noisy = ["--units", 1, "--expansion", "3", "--students", 6, "--activation", "tanh", "--coverage", 1]
    arguments = ["recover", *files(tmp_path), "--out", tmp_path / "out", *noisy, "--max-angle", "1e-9"]
    printed = ends_with_1(capsys, *arguments)
    assert printed.startswith("NOT RECOVERED, do not trust it: no cluster of layer 1 survives.")
    assert "Recovered:" not in printed
    found = json.loads((tmp_path / "out" / "recovery.json").read_text())
    assert (found["exact"], found["saved_network"], found["error"]) == (False, False, None)
    assert "no cluster of layer 1 survives" in found["reason"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<h1>Not recovered: do not trust this network</h1>" in page
    assert "<strong>NOT RECOVERED, do not trust it" in page
    assert not (tmp_path / "out" / "network").exists()
    assert ends_with_1(capsys, *arguments) == printed


def test_a_worse_network_is_written_and_not_trusted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teach(tmp_path, (3,))
    teacher = ["--teacher", tmp_path / "teacher", "--samples", 200]
    wrong = ["--units", 2, "--students", 6, "--activation", "elu", "--noise", "0.2"]
    printed = ends_with_1(capsys, "recover", *teacher, "--out", tmp_path / "out", *wrong)
    assert printed.startswith("NOT RECOVERED, do not trust it: the network's error ")
    assert "\nWhat was found: " in printed
    assert "\nNot compared with the teacher: teacher must be a chain of linear layers with the recovered" in printed
    assert (tmp_path / "out" / "network" / "model.safetensors").is_file()


def test_a_network_whose_signs_are_not_told_is_not_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teach(tmp_path)
    flags = ["--units", 2, "--students", 6, "--activation", "relu", "--noise", "0.1"]
    with contextlib.suppress(SystemExit):
        cli.main([str(a) for a in ["recover", *files(tmp_path), "--out", tmp_path / "out", *flags]])
    printed = capsys.readouterr().out
    assert "\nThe network is not saved: the signs of its units could not be told" in printed
    assert "network in" not in printed
    assert json.loads((tmp_path / "out" / "recovery.json").read_text())["saved_network"] is False
    assert not (tmp_path / "out" / "network").exists()


def test_outputs_that_do_not_tell_the_network_are_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teach(tmp_path)
    for name in ("X", "Y"):
        np.save(tmp_path / f"{name}.npy", np.load(tmp_path / f"{name}.npy")[:15])
    with contextlib.suppress(SystemExit):  # which is for another test
        cli.main([str(a) for a in ["recover", *files(tmp_path), "--out", tmp_path / "out", *SMALL]])
    assert "CAUTION: students of widths (8,) have 59 parameters, and there are 15 × 3 = 45" in capsys.readouterr().out


def test_what_cannot_be_recovered_is_refused_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consilience.studies.recovery_result.run_recovery", None)
    teach(tmp_path)
    good = {name: np.load(tmp_path / f"{name}.npy") for name in ("X", "Y")}
    save_network(ConvNet(1, [2], 3), tmp_path / "convnet")
    save_network(torch.nn.Linear(3, 3), tmp_path / "foreign")
    save_network(random_mlp([2, 2], "tanh"), tmp_path / "deep")
    made: dict[str, np.ndarray] = {
        "nan": np.where(np.arange(600).reshape(200, 3) == 22, np.nan, good["X"]),
        "constant": np.ones((200, 2)),
        "short": good["Y"][:-1],
        "cube": good["X"][None],
        "words": np.array(["a", "b"]),
        "objects": np.array([{}, {}], dtype=object),
        "wide": np.zeros((200, 5)),
    }
    for name, array in made.items():
        np.save(tmp_path / f"{name}.npy", array, allow_pickle=True)
    np.savez(tmp_path / "both.npz", **good)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "X.npy").read_bytes()[:200])
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").write_text("precious")
    before = files_in(tmp_path)

    def message(x: str | None = "X.npy", y: str | None = "Y.npy", teacher: str | None = None, *more: object) -> str:
        given = {"--inputs": x, "--outputs": y, "--teacher": teacher}
        words = [w for flag, name in given.items() if name for w in (flag, tmp_path / name)]
        return refused(capsys, "recover", *words, *(more or ("--out", tmp_path / "out")))

    new = ("--out", tmp_path / "o")
    for text, expected in (
        (message("nowhere.npy"), "--inputs must be a .npy file, and there is no file "),
        (message(y="nowhere.npy"), "--outputs must be a .npy file, and there is no file "),
        (message("nan.npy"), "X must be finite, got NaN or infinity in 1 of 200 rows, first row 7"),
        (message("nan.npy"), f"\n  X: {tmp_path / 'nan.npy'}; Y: {tmp_path / 'Y.npy'}"),
        (message(y="constant.npy"), "Y must have rows that differ"),
        (message(y="short.npy"), "Y must have one row for each of the 200 rows of X, got float64 (199, 3)"),
        (message("cube.npy"), "X must have shape (samples, features), got (1, 200, 3)"),
        (message("words.npy"), "--inputs must hold real numbers, got <U1 in "),
        (message("objects.npy"), "arrays of objects are never unpickled"),
        (message("both.npz"), "--inputs must be a .npy file of numbers, got "),
        (message("cut.npy"), "--inputs must be a .npy file of numbers, got "),
        (message(None, "Y.npy"), "--inputs must be given with --outputs"),
        (message("X.npy", None), "one of --outputs and --teacher must be given, got neither"),
        (message("X.npy", "Y.npy", "teacher"), "one of --outputs and --teacher must be given, got both"),
        (message(None, None, "nowhere"), "nowhere must be the directory of an artefact"),
        (message(None, None, "convnet"), "--teacher must be an MLP, written by consilience.save_network, got ConvNet"),
        (message(None, None, "foreign"), "--teacher must be an MLP, written by consilience.save_network, got torch"),
        (message(None, None, "deep"), "--layers must be 2, the depth of the teacher "),
        (message("wide.npy", None, "teacher"), "--inputs must have the teacher's shape (n, 3), got (200, 5) in "),
        (message("X.npy", "Y.npy", None, "--out", tmp_path / "taken"), "thesis.tex"),
        (
            message("X.npy", "Y.npy", None, "--out", tmp_path / "teacher"),
            "--out must be new, empty, or hold an",
        ),
        (message("X.npy", "Y.npy", None, "--out", tmp_path / "X.npy"), "X.npy (a file)"),
        (message("X.npy", "Y.npy", None, *new, "--expansion", "wide"), '--expansion must be a number or "auto", got'),
        (
            message("X.npy", "Y.npy", None, *new, "--units", 2, 2, "--layers", 3),
            "--layers must be the number of --un",
        ),
        (message(None, None, "teacher", *new, "--samples", 1), "--samples must be an int >= 2, got 1"),
    ):
        assert expected in text, text
    assert files_in(tmp_path) == before


def test_settings_without_sense_are_refused_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teach(tmp_path)
    for flags, expected in (
        (["--units", 0], "--units must be one int >= 1"),
        (["--coverage", 2], "--coverage must be a number in [0, 1], got 2"),
        (["--students", 0], "--students must be an int >= 2, got 0"),
    ):
        assert expected in refused(capsys, "recover", *files(tmp_path), "--out", tmp_path / "out", *flags)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "relu"])
def test_recovered_weights_are_put_in_the_teachers_order_signs_and_scales(activation: str) -> None:
    teacher = random_mlp([3, 4], activation).double()
    model = Student(6, [3, 4], 3, ACTIVATIONS[activation]).double()
    model.load_state_dict(teacher.state_dict())
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        for below, above in itertools.pairwise(model.layers):
            order, turn = torch.arange(below.out_features).flip(0), torch.ones(below.out_features, dtype=x.dtype)
            turn[::2] = 2.5 if activation == "relu" else -1
            below.weight.copy_((turn[:, None] * below.weight)[order])
            below.bias.copy_((turn * below.bias)[order])
            if activation == "sigmoid":
                above.bias.add_(above.weight[:, turn < 0].sum(1))
            above.weight.copy_((above.weight / turn)[:, order])
        torch.testing.assert_close(model(x), teacher(x))
    symmetry = symmetry_of_function(ACTIVATIONS[activation])
    weights = distance(model, teacher, symmetry, x).weights
    for layer, (true, found) in zip([*teacher.hidden, teacher.readout], weights, strict=True):
        rows = torch.cat([layer.weight, layer.bias[:, None]], dim=1).detach()
        assert sorted(true.flatten().tolist()) == sorted(rows.flatten().tolist())
        torch.testing.assert_close(found, true)


# --- the figures ------------------------------------------------------------------------------------------------------


def student_layer(n_units: int = 3, n_students: int = 6, n_single: int = 8, projective: bool = True) -> StudentLayer:
    """Units of students around a few directions, one cluster of two more, and some that are alone."""
    g = np.random.default_rng(0)
    centres = np.eye(max(n_units + 1, 4))[: n_units + 1] * 3
    rows = [centre + 1e-5 * g.normal(size=centre.shape) for centre in centres[:-1] for _ in range(n_students)]
    rows += [centres[-1] + 1e-3 * g.normal(size=centres[-1].shape) for _ in range(2)]
    rows += list(g.normal(size=(n_single, centres.shape[1])) * 20)
    hyperplanes = np.array(rows)
    merges = average(Points(hyperplanes, projective), None, 0).tree.to_linkage()
    clusters = [
        UnitCluster(list(range(i * n_students, (i + 1) * n_students)), n_students, 1e-5, 2.0 - 0.1 * i, "")
        for i in range(n_units)
    ]
    first = n_units * n_students
    clusters.append(UnitCluster([first, first + 1], 2, 1e-3, 0.001, "students < 5"))
    return StudentLayer(
        "hidden.0", [10.0**-k for k in range(20, 20 - n_students, -1)], ["converged"] * n_students, [9] * n_students,
        list(range(n_students - 1)), hyperplanes, projective, merges, 0.1, (0.01, 1.0), clusters, 5, False, 0.02, 1,
    )  # fmt: skip


def comparison() -> Comparison:
    true = np.linspace(-1, 1, 9)
    return Comparison(1, 0, 1e-9, 1e-8, 1e-18, {"hidden.0": (true, true + 0.1), "readout": (true[:4], true[:4])})


def result(**changes: object) -> RecoveryResult:
    made = RecoveryResult(
        (3, 3, 2), "tanh", 200, True, "", [], 1e-30, 1e-16, 1e-6, [student_layer()], "", {"tanh": "median error 1e-16"},
        comparison(), "", {"seed": 0, "command": "consilience recover --out runs"},
    )  # fmt: skip
    return replace(made, **changes)


def crowded() -> list[StudentLayer]:
    many = student_layer(n_units=40, n_students=12, n_single=120, projective=False)
    angled = [replace(c, dropped=f"angle {0.3 + i / 10:.1f} > 0.26") for i, c in enumerate(many.clusters[:2])]
    weak = [replace(c, outgoing=0.0, dropped="outgoing weights < 0.01 of the largest") for c in many.clusters[2:4]]
    return [many, replace(many, clusters=[*many.clusters[4:-1], *angled, *weak, many.clusters[-1]])]


@pytest.fixture(scope="module")
def every_figure() -> list[Axes]:
    layers = [student_layer(), student_layer(n_units=1, n_single=0), crowded()[1]]
    twice = result(layers=[student_layer(), replace(student_layer(), name="hidden.1")], comparison=None)
    return [
        *(draw(layer) for draw in (tree_of_units, similarities, kept_and_dropped) for layer in layers),
        training_errors(result()), training_errors(twice), recovered_weights(comparison()),
    ]  # fmt: skip


def test_the_tree_has_every_merge_at_its_height_and_kept_clusters_numbered() -> None:
    layer = student_layer()
    ax = tree_of_units(layer)
    (lines,) = [each for each in ax.collections if isinstance(each, LineCollection)]
    segments = np.array(lines.get_segments())
    assert len(segments) == len(layer.merges) == len(layer.hyperplanes) - 1
    np.testing.assert_allclose(segments[:, 1, 1], np.maximum(layer.merges[:, 2], ax.get_ylim()[0]))
    leaves = segments[:, (0, 3)].reshape(-1, 2)
    leaves = leaves[np.isclose(leaves[:, 1], ax.get_ylim()[0])]
    assert sorted(leaves[:, 0].tolist()) == list(range(len(layer.hyperplanes)))  # each leaf once, none above another
    ax.figure.draw_without_rendering()
    assert sorted(text.get_text() for text in ax.get_xticklabels()) == ["1", "2", "3"]
    assert ax.get_yscale() == "log"
    assert 0.1 in [line.get_ydata()[0] for line in ax.lines]


def test_colours_of_the_tree_are_those_of_the_clusters() -> None:
    layer = student_layer()
    (lines,) = [each for each in tree_of_units(layer).collections if isinstance(each, LineCollection)]
    colours = [mpl.colors.to_hex(colour) for colour in lines.get_colors()]
    assert colours.count("#1c67ad") + colours.count("#74b3e3") == 3 * (6 - 1)
    assert colours.count("#b3541e") == 1


def test_deep_trees_are_drawn_without_recursion() -> None:
    n = 3000
    chain = np.array([[0 if i == 0 else n + i - 1, i + 1, 10.0 ** (i / n), i + 2] for i in range(n - 1)])
    layer = replace(student_layer(), merges=chain, hyperplanes=np.zeros((n, 2)), clusters=[])
    assert len(tree_of_units(layer).collections[-1].get_paths()) == n - 1
    assert len(leaves_list(chain)) == n  # it is a tree


def test_similarities_are_in_the_order_of_the_clusters() -> None:
    layer = student_layer()
    turned = layer.hyperplanes * np.where(np.arange(len(layer.hyperplanes)) % 2, -1, 1)[:, None]
    order = np.random.default_rng(1).permutation(len(turned))
    place = np.argsort(order)
    moved = [replace(c, units=place[list(c.units)].tolist()) for c in layer.clusters]
    shuffled = replace(layer, hyperplanes=turned[order], clusters=moved)
    image = similarities(shuffled).images[0]
    shown = np.asarray(image.get_array())
    assert (shown[:6, :6] > 0.99).all()
    assert (shown[6:12, :6] < 0.01).all()
    assert image.get_clim() == (0, 1)
    frames = [p for p in similarities(shuffled).patches if isinstance(p, Rectangle)]
    assert [(p.get_x(), p.get_width()) for p in frames] == [(-0.5, 6), (5.5, 6), (11.5, 6)]
    signed = similarities(replace(shuffled, projective=False)).images[0]
    assert np.asarray(signed.get_array())[:6, :6].min() < -0.99
    assert signed.get_clim() == (-1, 1)


def test_clusters_stand_where_the_rules_say() -> None:
    ax = kept_and_dropped(crowded()[1])
    drawn = {line.get_label(): np.array(line.get_xydata()) for line in ax.lines if not line.get_label().startswith("_")}
    assert {name: len(points) for name, points in drawn.items()} == {
        "kept (36)": 36, "dropped: angle > 0.26 (2)": 2, "dropped: outgoing weights < 0.01 of the largest (2)": 2,
        "dropped: fewer than 5 students (1)": 1,
    }  # fmt: skip
    assert (drawn["kept (36)"][:, 0] == 12).all()
    assert drawn["dropped: fewer than 5 students (1)"].tolist() == [[2, 0.001]]
    assert [line.get_xdata()[0] for line in ax.lines if len(set(line.get_xdata())) == 1][-1] == 4.5
    assert rule_of("units < 7") == "fewer than 7 units"


def test_errors_are_sorted_and_students_that_were_not_used_are_hollow() -> None:
    ax = training_errors(result())
    (points,) = ax.collections
    np.testing.assert_allclose(points.get_offsets()[:, 1], sorted(student_layer().losses))
    assert [tuple(face) == (1, 1, 1, 1) for face in points.get_facecolors()] == [False] * 5 + [True]
    assert [line.get_ydata()[0] for line in ax.lines] == [1e-6, 1e-30, 1e-18]
    assert len(training_errors(result(comparison=None, error=float("inf"))).lines) == 1


def test_weights_are_drawn_against_the_teachers() -> None:
    ax = recovered_weights(comparison())
    diagonal, *series = ax.lines
    assert (diagonal.get_xdata() == diagonal.get_ydata()).all()
    for line, (true, found) in zip(series, comparison().weights.values(), strict=True):
        np.testing.assert_array_equal(line.get_xydata(), np.column_stack([true, found]))


def test_figures_use_the_axes_given() -> None:
    draws: list[Callable[[Axes], Axes]] = [
        lambda ax: tree_of_units(student_layer(), ax),
        lambda ax: similarities(student_layer(), ax),
        lambda ax: kept_and_dropped(student_layer(), ax),
        lambda ax: training_errors(result(), ax),
        lambda ax: recovered_weights(comparison(), ax),
    ]
    for draw in draws:
        ax = Figure().subplots()
        assert draw(ax) is ax


def test_no_text_covers_another_or_is_cut(every_figure: list[Axes]) -> None:
    for ax in every_figure:
        figure = ax.figure
        figure.draw_without_rendering()
        shown = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text() and within(t, ax)]
        boxes = [Text.get_window_extent(text).padded(-1) for text in shown]
        for text, box in zip(shown, boxes, strict=True):
            assert min(box.x0, box.y0) >= 0, text
            assert box.x1 <= figure.bbox.x1, text
            assert box.y1 <= figure.bbox.y1, text
        for (a, one), (b, other) in itertools.combinations(zip(shown, boxes, strict=True), 2):
            assert not one.overlaps(other), (a, b)


def test_what_cannot_be_drawn_is_refused() -> None:
    nothing = replace(student_layer(), merges=None)
    for draw in (tree_of_units, similarities, kept_and_dropped):
        with pytest.raises(InputError, match="a layer has no tree to draw"):
            draw(nothing)
    with pytest.raises(InputError, match="no student has a finite error"):
        training_errors(result(layers=[replace(student_layer(), losses=[float("inf")] * 6)]))
    with pytest.raises(InputError, match="no units are paired"):
        recovered_weights(replace(comparison(), weights={"hidden.0": (np.zeros(0), np.zeros(0))}))


# --- the page ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page() -> str:
    return render_recovery(result())


def test_the_page_needs_nothing_else_and_escapes_all_text(page: str) -> None:
    bad = "<script>alert('1')</script>&"
    made = result(
        layers=[replace(student_layer(), name=bad), replace(student_layer(), name="hidden.1", merges=None)],
        exact=False, reason=bad, cautions=[bad], activation=bad, unsaved=bad, trials={bad: bad},
        obtained={"command": bad},
    )  # fmt: skip
    for text in (page, render_recovery(made)):
        self_contained(text)


def test_the_page_is_the_same_whatever_the_users_style(page: str) -> None:
    with mpl.rc_context({"font.size": 20, "svg.fonttype": "none"}):
        assert render_recovery(result()) == page


def test_the_page_says_first_whether_it_can_be_trusted(page: str) -> None:
    assert "<h1>A network recovered: 1 hidden layer of 3 tanh units</h1>" in page
    page = render_recovery(result(exact=False, reason="the network's error 1.0e-03 is above the students' 1.0e-16"))
    assert "<h1>Not recovered: do not trust this network</h1>" in page
    assert "A network recovered" not in page
    assert len(re.findall("<figcaption>", page)) == 5
    assert "1 units of the teacher have no partner" in page


def test_sentences_tell_what_was_kept_and_dropped() -> None:
    text = recovery_sentences(result())
    assert text[0] == "Recovered: 1 hidden layer of 3 tanh units, 3 inputs, 2 outputs."
    assert text[2] == (
        "hidden.0: 3 clusters kept, 1 dropped (1 with fewer than 5 students); cut at 0.1, plateau 0.01 to 1; "
        "1 units removed that nothing needs."
    )
    assert text[3].startswith(
        "Against the teacher: 1 of its units not found, 0 found that it lacks; largest angle 1.0e-09"
    )
    caution = recovery_sentences(result(cautions=["too few outputs"], comparison=None))
    assert caution[1] == "CAUTION: too few outputs."
    assert not any("teacher" in sentence for sentence in caution)
