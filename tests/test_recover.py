"""The command `recover` as a user runs it, rightly and wrongly, and its report: figures and one page."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection
from matplotlib.patches import Rectangle

from conftest import random_mlp, refused, run
from consilience import cli
from consilience.clustering.clusterers import average
from consilience.clustering.distances import Points
from consilience.clustering.tree import Tree
from consilience.errors import InputError
from consilience.nets import ConvNet
from consilience.nets.activations import ACTIVATIONS
from consilience.recovery.clusters import Cluster, Cut, StudentUnits
from consilience.recovery.distance import Distance, distance
from consilience.recovery.expand_and_cluster import Diagnostics
from consilience.recovery.fit import Fit
from consilience.recovery.guesses import Trial
from consilience.recovery.recover import Stage
from consilience.recovery.student import Student, symmetry_of_function
from consilience.report.recovery import RecoveryResult, recovery_sentences, render_recovery
from consilience.report.recovery.plots import (
    kept_and_dropped,
    recovered_weights,
    similarities,
    training_errors,
    tree_of_units,
)
from consilience.report.recovery.result import rule_of
from consilience.store import load_network, save_network
from test_commands import files_in
from test_recovery_evidence import inputs as hard_inputs
from test_recovery_evidence import teacher as hard_teacher
from test_report import self_contained

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
    evidence = found["evidence"]
    assert found["explains"] is True
    assert (evidence["n_fitted"], evidence["n_held_out"]) == (180, 20)
    assert evidence["held_out_error"] < 1e-24
    assert evidence["rank"] == evidence["n_free"] == 2 * 4 + 3 * 3
    assert [unit["identified"] for unit in evidence["units"][0]] == [True, True]
    assert evidence["agreement"] == [{"n_agreeing": 6, "n_reaching": 6, "n_students": 6}]
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
    noisy = ["--units", 1, "--expansion", "3", "--students", 6, "--activation", "tanh", "--coverage", 1, "--seed", 1]
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


def test_a_network_that_explains_the_outputs_is_not_claimed_where_the_rows_do_not_determine_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = hard_teacher(2, 1.9)
    save_network(net, tmp_path / "teacher")
    np.save(tmp_path / "X.npy", hard_inputs(2).numpy())
    flags = ["--inputs", tmp_path / "X.npy", "--teacher", tmp_path / "teacher", "--out", tmp_path / "out"]
    printed = ends_with_1(capsys, "recover", *flags, "--units", 2, "--students", 6, "--activation", "relu")
    assert printed.startswith(
        "EXPLAINS THE OUTPUTS, NOT IDENTIFIED, do not trust it: the error on 20 held-out rows is "
    )
    assert "; give more inputs on which these units are active.\nWhat was found: " in printed
    found = json.loads((tmp_path / "out" / "recovery.json").read_text())
    assert (found["exact"], found["explains"]) == (False, True)
    assert found["distance"]["function_error"] > 1e-3
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<h1>Not identified: the network explains the outputs, others may too</h1>" in page
    assert "<h2>Is it identified?</h2>" in page
    content = json.loads((tmp_path / "out" / "recovery.json").read_text())
    del content["evidence"]  # as an earlier version wrote it, which claimed without
    (tmp_path / "out" / "recovery.json").write_text(json.dumps(content | {"exact": True}))
    assert ends_with_1(capsys, "recover", *flags, "--units", 2, "--students", 6, "--activation", "relu") == printed


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
    assert "CAUTION: students of widths (8,) have 59 parameters, and there are 14 × 3 = 42" in capsys.readouterr().out


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


# --- the page ---------------------------------------------------------------------------------------------------------


def student_stage(n_units: int = 3, n_students: int = 6, n_single: int = 8, projective: bool = True) -> Stage:
    """Units of students around a few directions, one cluster of two more, and some that are alone."""
    g = np.random.default_rng(0)
    centers = np.eye(max(n_units + 1, 4))[: n_units + 1] * 3
    rows = [center + 1e-5 * g.normal(size=center.shape) for center in centers[:-1] for _ in range(n_students)]
    rows += [centers[-1] + 1e-3 * g.normal(size=centers[-1].shape) for _ in range(2)]
    rows += list(g.normal(size=(n_single, centers.shape[1])) * 20)
    hyperplanes, first = np.array(rows), n_units * n_students
    units = StudentUnits(hyperplanes, np.ones((len(rows), 1)), np.zeros(len(rows), np.int64), projective, False)
    tree = average(Points(hyperplanes, projective), None, 0).tree
    clusters = [cluster(range(i * n_students, (i + 1) * n_students), 2.0 - 0.1 * i) for i in range(n_units)]
    clusters.append(cluster([first, first + 1], 0.001, "students < 5"))
    cut = Cut(tree, 0.1, (0.01, 1.0), 5, False, 0.02, tuple(clusters))
    losses = torch.tensor([10.0**-k for k in range(20, 20 - n_students, -1)], dtype=torch.float64)
    students = Fit((), losses, ("converged",) * n_students, (9,) * n_students)
    return Stage(students, 9, tuple(range(n_students - 1)), units, cut, n_excess=1)


def cluster(units: Sequence[int], outgoing: float, dropped: str = "") -> Cluster:
    return Cluster(np.array(units), np.ones(len(units)), len(units), 1e-5, outgoing, dropped)


def teacher_distance() -> Distance:
    true = torch.linspace(-1, 1, 9, dtype=torch.float64)
    return Distance(((),), 1, 0, 1e-9, 1e-8, 1e-9, ((true, true + 0.1), (true[:4], true[:4])))


def result(*stages: Stage, exact: bool = True, reason: str = "", **changes: object) -> RecoveryResult:
    trials = (Trial("tanh", 1e-16, 2.5),)
    found = Diagnostics(exact, 1e-30, 1e-16, stages or (student_stage(),), trials, (8,), reason)
    made = RecoveryResult((3, 3, 2), "tanh", 200, found, 1e-6, distance=teacher_distance(), obtained={"seed": 0})
    return replace(made, **changes)


def test_another_size_than_expected_is_said() -> None:
    said = "2 units were expected, and 3 found: students wide enough show the size."
    assert said in recovery_sentences(result(expected=(2,)))
    assert said not in recovery_sentences(result(expected=(3,)))


def crowded() -> Stage:
    many = student_stage(n_units=40, n_students=12, n_single=120, projective=False)
    *kept, last = many.cut.clusters
    angled = [replace(c, dropped=f"angle {0.3 + i / 10:.1f} > 0.26") for i, c in enumerate(kept[:2])]
    weak = [replace(c, outgoing=0.0, dropped="outgoing weights < 0.01 of the largest") for c in kept[2:4]]
    return replace(many, cut=replace(many.cut, clusters=(*kept[4:], *angled, *weak, last)))


def branches(stage: Stage) -> LineCollection:
    (lines,) = [part for part in tree_of_units(stage).axes[0].collections if isinstance(part, LineCollection)]
    return lines


def test_the_tree_has_every_merge_at_its_height_and_kept_clusters_numbered() -> None:
    stage = student_stage()
    ax = tree_of_units(stage).axes[0]
    segments, n = np.array(branches(stage).get_segments()), len(stage.units)
    np.testing.assert_allclose(segments[:, 1, 1], np.maximum(stage.cut.tree.heights, ax.get_ylim()[0]))
    leaves = segments[:, (0, 3)].reshape(-1, 2)
    leaves = leaves[np.isclose(leaves[:, 1], ax.get_ylim()[0])]
    assert sorted(leaves[:, 0].tolist()) == list(range(n))  # each leaf once, none above another
    assert sorted(text.get_text() for text in ax.get_xticklabels()) == ["1", "2", "3"]
    assert (ax.get_yscale(), ax.lines[0].get_ydata()[0]) == ("log", 0.1)


def test_colors_of_the_tree_are_those_of_the_clusters() -> None:
    colors = [mpl.colors.to_hex(color) for color in branches(student_stage()).get_colors()]
    assert colors.count("#1c67ad") + colors.count("#74b3e3") == 3 * (6 - 1)
    assert colors.count("#b3541e") == 1


def test_deep_trees_are_drawn_without_recursion() -> None:
    n = 3000
    chain = Tree.from_linkage([[0 if i == 0 else n + i - 1, i + 1, 10.0 ** (i / n), i + 2] for i in range(n - 1)])
    stage = student_stage()
    units = replace(stage.units, hyperplanes=np.zeros((n, 2)))
    deep = replace(stage, units=units, cut=replace(stage.cut, tree=chain, clusters=()))
    assert len(branches(deep).get_paths()) == n - 1


def test_similarities_are_in_the_order_of_the_clusters() -> None:
    stage = student_stage()
    turned = stage.units.hyperplanes * np.where(np.arange(len(stage.units)) % 2, -1, 1)[:, None]
    order = np.random.default_rng(1).permutation(len(turned))
    place = np.argsort(order)
    clusters = tuple(replace(c, units=place[c.units]) for c in stage.cut.clusters)
    units = replace(stage.units, hyperplanes=turned[order])
    shuffled = replace(stage, units=units, cut=replace(stage.cut, clusters=clusters))
    ax = similarities(shuffled).axes[0]
    shown = np.asarray(ax.images[0].get_array())
    assert (shown[:6, :6] > 0.99).all()
    assert (shown[6:12, :6] < 0.01).all()
    assert ax.images[0].get_clim() == (0, 1)
    frames = [p for p in ax.patches if isinstance(p, Rectangle) and not p.get_fill()]
    assert [(p.get_x(), p.get_width()) for p in frames] == [(-0.5, 6), (5.5, 6), (11.5, 6)]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        *("kept: 18 units", "dropped: 2 units", "single: 8 units")
    ]
    signed = similarities(replace(shuffled, units=replace(units, projective=False))).axes[0].images[0]
    assert np.asarray(signed.get_array())[:6, :6].min() < -0.99
    assert signed.get_clim() == (-1, 1)


def test_clusters_stand_where_the_rules_say() -> None:
    ax = kept_and_dropped(crowded()).axes[0]
    drawn = {line.get_label(): np.array(line.get_xydata()) for line in ax.lines if not line.get_label().startswith("_")}
    assert {name: len(points) for name, points in drawn.items()} == {
        "kept (36)": 36,
        "dropped: angle > 0.26 (2)": 2,
        "dropped: outgoing weights < 0.01 of the largest (2)": 2,
        "dropped: fewer than 5 students (1)": 1,
    }
    assert (drawn["kept (36)"][:, 0] == 12).all()
    assert drawn["dropped: fewer than 5 students (1)"].tolist() == [[2, 0.001]]
    assert [line.get_xdata()[0] for line in ax.lines if len(set(line.get_xdata())) == 1][-1] == 4.5
    assert rule_of("units < 7") == "fewer than 7 units"


def test_errors_are_sorted_and_students_that_were_not_used_are_hollow() -> None:
    ax = training_errors(result()).axes[0]
    (points,) = ax.collections
    np.testing.assert_allclose(points.get_offsets()[:, 1], sorted(student_stage().students.losses))
    assert [tuple(face) == (1, 1, 1, 1) for face in points.get_facecolors()] == [False] * 5 + [True]
    assert [line.get_ydata()[0] for line in ax.lines[1:]] == pytest.approx([1e-6, 1e-18, 1e-30], rel=1e-9)
    found = replace(result().diagnostics, error=float("inf"))
    assert len(training_errors(result(distance=None, diagnostics=found)).axes[0].lines[1:]) == 1


def test_weights_are_drawn_against_the_teachers() -> None:
    diagonal, *series = recovered_weights(teacher_distance()).axes[0].lines
    assert (diagonal.get_xdata() == diagonal.get_ydata()).all()
    for line, (true, found) in zip(series, teacher_distance().weights, strict=True):
        np.testing.assert_array_equal(line.get_xydata(), np.column_stack([true, found]))


def test_what_cannot_be_drawn_is_refused() -> None:
    for draw in (tree_of_units, similarities, kept_and_dropped):
        with pytest.raises(InputError, match="a layer must have clusters that survive, got none of 5 students"):
            draw(replace(student_stage(), cut=None))
    diverged = replace(student_stage().students, losses=torch.full((6,), float("inf")))
    with pytest.raises(InputError, match="a student must have a finite error, got none in 1 layers"):
        training_errors(result(replace(student_stage(), students=diverged)))
    with pytest.raises(InputError, match="units must be paired"):
        recovered_weights(replace(teacher_distance(), weights=((torch.zeros(0), torch.zeros(0)),)))


@pytest.fixture(scope="module")
def page() -> str:
    return render_recovery(result())


def test_the_page_needs_nothing_else_and_escapes_all_text(page: str) -> None:
    bad = "<script>alert('1')</script>&"
    made = result(student_stage(), replace(student_stage(), cut=None), exact=False, reason=bad)
    made = replace(made, cautions=[bad], activation=bad, unsaved=bad, uncompared=bad, obtained={"command": bad})
    for text in (page, render_recovery(made)):
        self_contained(text)


def test_the_page_is_the_same_whatever_the_users_style(page: str) -> None:
    with mpl.rc_context({"font.size": 20, "svg.fonttype": "none"}):
        assert render_recovery(result()) == page


def test_the_page_says_first_whether_it_can_be_trusted(page: str) -> None:
    assert "<h1>A network recovered: 1 hidden layer of 3 tanh units</h1>" in page
    assert "<dt>tanh</dt><dd>median error 1.0e-16, plateau of e^2.5</dd>" in page
    page = render_recovery(result(exact=False, reason="the network's error 1.0e-03 is above the students' 1.0e-16"))
    assert "<h1>Not recovered: do not trust this network</h1>" in page
    assert "A network recovered" not in page
    assert len(re.findall("<figcaption>", page)) == 5
    assert "Is it identified?" not in page
    assert "1 unit of the teacher without a partner" in page


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
    caution = recovery_sentences(result(cautions=["too few outputs"], distance=None))
    assert caution[1] == "CAUTION: too few outputs."
    assert not any("teacher" in sentence for sentence in caution)
