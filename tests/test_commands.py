"""The commands, as a user runs them: from data to report, again, interrupted, and wrongly."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from conftest import refused, run
from consilience import cli
from consilience.report.results import Experiment
from consilience.store import load_network

SMALL = ["--members", "4", "--hidden", "12", "10", "--epochs", "20", "--batch-size", "64", "--learning-rate", "3e-3"]


def files_in(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run of all commands."""
    root = tmp_path_factory.mktemp("run")
    for arguments in (
        ["train", "--out", root / "population", *SMALL],
        ["census", root / "population", "--out", root / "census", "--resamples", "2"],
        ["assemble", root / "census", "--out", root / "network"],
        ["report", root / "census", "--out", root / "report"],
    ):
        cli.main([str(a) for a in arguments])
    return root


def test_from_data_to_report(done: Path) -> None:
    assert sorted(p.name for p in done.iterdir()) == ["census", "network", "population", "report"]
    assert load_network(done / "network").config.widths == (24, 20)
    metrics = [json.loads(line) for line in (done / "population" / "metrics.jsonl").read_text().splitlines()]
    assert len(metrics) == 4 * 20
    assert metrics[-1]["validation_accuracy"] > 0.7
    experiment = Experiment.load(done / "report")
    accuracy = {(row.method, row.width): row.test.accuracy for row in experiment.table}
    ensemble = accuracy["ensemble of the members", ""]
    assert accuracy["assembly, none", "full"] == ensemble
    assert accuracy["assembly, least-squares", "2x"] > ensemble - 0.03
    assert accuracy["average of parameters", "1x"] < ensemble - 0.2
    assert ("from scratch", "2x") in accuracy
    assert ("fine-tuned assembly", "2x") in accuracy
    steps = {row.method: row.steps for row in experiment.table}
    assert steps["from scratch"] == steps["fine-tuned assembly"] == 20 * -(-1169 // 64)
    page = (done / "report" / "report.html").read_text()
    assert page.count("<svg") >= 4
    assert "consilience report" in page


def test_a_rerun_skips_what_is_finished(
    done: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from consilience.studies import commands

    before = files_in(done)
    for work in ("train_population", "build_assembly", "run_experiment", "save_census"):
        monkeypatch.setattr(commands, work, None)
    run(capsys, "train", "--out", done / "population", *SMALL)
    run(capsys, "census", done / "population", "--out", done / "census", "--resamples", "2")
    result = json.loads(run(capsys, "assemble", done / "census", "--out", done / "network", "--json"))
    assert result["parameters"] == 64 * 24 + 24 + 24 * 20 + 20 + 20 * 10 + 10
    assert run(capsys, "report", done / "census", "--out", done / "report").startswith("| Method")
    assert files_in(done) == before


def test_same_seed_same_bytes_and_another_seed_other_ones(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "train", "--out", tmp_path / "population", *SMALL)
    run(capsys, "census", tmp_path / "population", "--out", tmp_path / "census", "--resamples", "2")
    run(capsys, "assemble", tmp_path / "census", "--out", tmp_path / "network")
    for name in ("population", "census", "network"):
        assert files_in(tmp_path / name) == files_in(done / name), name
    run(capsys, "train", "--out", tmp_path / "other", "--seed", 1, *SMALL)
    assert files_in(tmp_path / "other") != files_in(done / "population")


def test_another_request_does_not_overwrite_a_result(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files_in(done)
    message = refused(capsys, "train", "--out", done / "population", *SMALL, "--seed", 7)
    assert "the output directory holds another population" in message
    assert "differs in seed" in message
    message = refused(capsys, "assemble", done / "census", "--out", done / "network", "--width", "1x")
    assert "differs in width" in message
    assert "choose another --out" in message
    message = refused(capsys, "census", done / "population", "--out", done / "network")
    assert "network" in message
    assert files_in(done) == before


def broken_npz(path: Path, kind: str) -> Path:
    g = np.random.default_rng(0)
    arrays = {
        "x_train": g.normal(size=(60, 5)).astype(np.float32), "y_train": np.arange(60) % 3,
        "x_test": g.normal(size=(12, 5)).astype(np.float32), "y_test": np.arange(12) % 3,
    }  # fmt: skip
    if kind == "nan":
        arrays["x_train"][7, 2] = np.nan
    if kind == "shapes":
        arrays["y_train"] = arrays["y_train"][:-1]
    if kind == "class missing":
        arrays["y_train"] = np.where(arrays["y_train"] == 1, 0, arrays["y_train"])
    np.savez(path, **arrays)
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:500])
    return path


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("nan", "nan"), ("shapes", "59"), ("class missing", "1"), ("cut", "damaged")],
)
def test_bad_data_is_one_clear_error_and_nothing_on_disk(
    kind: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = broken_npz(tmp_path / "data.npz", kind)
    message = refused(capsys, "train", "--data", data, "--out", tmp_path / "population", *SMALL)
    assert expected in message.lower()
    assert "cure:" in message
    assert [p.name for p in tmp_path.iterdir()] == ["data.npz"]


def test_bad_artefacts_and_places_are_refused(done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").write_text("precious")
    assert "thesis.tex" in refused(capsys, "train", "--out", tmp_path / "taken", *SMALL)
    assert (tmp_path / "taken" / "thesis.tex").read_text() == "precious"
    assert "nothing" not in refused(capsys, "census", tmp_path / "nowhere", "--out", tmp_path / "c").splitlines()[0]
    assert "of another kind" in refused(capsys, "census", done / "network", "--out", tmp_path / "c")
    assert "does not exist" in (
        wide := refused(capsys, "assemble", done / "census", "--width", "999", "--out", tmp_path / "n")
    ).replace("do not exist", "does not exist")
    assert "cure:" in wide
    assert "not a width" in refused(capsys, "assemble", done / "census", "--width", "large", "--out", tmp_path / "n")
    assert "not a width" in refused(capsys, "census", done / "population", "--n-clusters", "x", "--out", tmp_path / "c")
    assert "data" in refused(capsys, "report", done / "census", "--data", "nothing.npz", "--out", tmp_path / "r")
    assert "learning rate" in refused(
        capsys, "train", "--out", tmp_path / "p", *SMALL[:-1], "-1"
    ) or "learning_rate" in refused(capsys, "train", "--out", tmp_path / "p", *SMALL[:-1], "-1")
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize(
    ("flags", "layers"),
    [
        (["convnet", "--hidden", "4", "5", "--dropout", "0.1"], {"hidden.0": ["norms.0"], "hidden.1": ["norms.1"]}),
        (["convnet", "--hidden", "4", "--no-batch-norm"], {"hidden.0": []}),
        (
            ["resnet", "--hidden", "4", "--blocks", "2", "--activation", "tanh"],
            {
                "stem": ["stem_norm", "stages.0.0.norm2", "stages.0.1.norm2"],
                "stages.0.0.conv1": ["stages.0.0.norm1"],
                "stages.0.1.conv1": ["stages.0.1.norm1"],
            },
        ),
    ],
)
def test_networks_of_convolutions_are_trained_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], layers: dict[str, list[str]]
) -> None:
    short = ["--members", "2", "--epochs", "1", "--batch-size", "128", "--out", tmp_path / "population"]
    run(capsys, "train", "--net", *flags, *short)
    found = json.loads(run(capsys, "inspect", tmp_path / "population", "--json"))
    assert found["input_shape"] == [1, 8, 8]
    assert {layer["name"]: layer["batch_norms"] for layer in found["layers"]} == layers
    assert re.search(r"a result that differs in .*\bnet\b", refused(capsys, "train", *short))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--net", "resnet", "--dropout", "0.2"], "--net resnet takes no dropout\n  where:    --dropout\n  got:  "),
        (["--blocks", "2"], "--net mlp takes no blocks\n  where:    --blocks\n  got:      2\n  cure:     leave it out"),
        (["--net", "convnet", "--blocks", "0"], "--net convnet takes no blocks"),
        (["--net", "resnet", "--blocks", "0"], "a ResNet needs positive sizes and at least one stage"),
        (["--net", "convnet", "--hidden", "0"], "a ConvNet needs positive sizes and at least one convolution"),
        (["--dropout", "1"], "not a probability\n  where:    --dropout\n  got:      1.0\n  expected: 0 or more, "),
        (["--net", "convnet", "--data", "rows.npz"], "--net convnet needs images\n  where:    --data rows.npz\n"),
    ],
)  # fmt: skip
def test_networks_that_cannot_be_trained_are_refused_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, flags: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    broken_npz(tmp_path / "rows.npz", "not at all")
    assert message in refused(capsys, "train", *flags, "--out", tmp_path / "population")
    assert [path.name for path in tmp_path.iterdir()] == ["rows.npz"]


def test_help_needs_neither_torch_nor_scikit_learn() -> None:
    script = (
        "import sys\n"
        "from consilience import cli\n"
        "try:\n    cli.main(['census', '--help'])\nexcept SystemExit:\n    pass\n"
        "print({'torch', 'sklearn', 'matplotlib', 'numpy'} & set(sys.modules))"
    )
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert printed.splitlines()[-1] == "set()"
    assert "--grounding" in printed


def start(*arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "consilience.cli", *map(str, arguments)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def kill_when(process: subprocess.Popen[bytes], happened, timeout: float = 60) -> None:  # type: ignore[no-untyped-def]
    limit = time.monotonic() + timeout
    while process.poll() is None and not happened() and time.monotonic() < limit:
        time.sleep(0.01)
    assert process.poll() is None, "the command was done before it could be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def test_a_killed_training_goes_on_and_ends_with_the_same_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = [*SMALL[:5], "--epochs", "60", "--batch-size", "16"]
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    checkpoint = tmp_path / ".killed.checkpoint"
    process = start("train", "--out", killed, *long)
    kill_when(process, lambda: any(checkpoint.glob("*.safetensors")))
    assert not killed.exists()
    assert any(checkpoint.iterdir())
    run(capsys, "train", "--out", killed, *long)
    run(capsys, "train", "--out", undisturbed, *long)
    assert files_in(killed) == files_in(undisturbed)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["killed", "undisturbed"]


def test_a_killed_census_leaves_nothing_half_written(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    population, out = done / "population", tmp_path / "census"
    process = start("census", population, "--out", out, "--resamples", "20000")
    time.sleep(6)
    kill_when(process, lambda: True)
    assert not out.exists()
    run(capsys, "census", population, "--out", out, "--resamples", "3")
    run(capsys, "census", population, "--out", tmp_path / "undisturbed", "--resamples", "3")
    assert files_in(out) == files_in(tmp_path / "undisturbed")
