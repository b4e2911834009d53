"""The commands, as a user runs them: from data to report, again, interrupted, and wrongly."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import MISSING, fields, replace
from inspect import signature
from itertools import pairwise
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import tyro

from conftest import refused, run
from consilience import __version__, cli, names
from consilience.assembly import CORRECTIONS
from consilience.assembly.pooling import POOLINGS
from consilience.census import Census
from consilience.census.census import GROUNDINGS
from consilience.clustering import clusterers, samples
from consilience.clustering.distances import DISTANCES
from consilience.comparison import MEASURES, ModelComparison
from consilience.errors import InputError
from consilience.modularity.clusterability import Clusterability
from consilience.modularity.nulls import NULLS
from consilience.nets import GPTConfig, LlamaConfig, ViTConfig
from consilience.nets.activations import ACTIVATIONS
from consilience.recovery import ExpandAndCluster
from consilience.recovery.cuts import RULES
from consilience.report.results import Experiment
from consilience.signals.record import POSITIONS
from consilience.store import load_network
from consilience.studies import census, compare, demo, doctor, modularity, recover, train
from consilience.studies.request import Options, Reading, command_line, identity, in_options, parse_width
from consilience.studies.request import arguments as options_of
from consilience.studies.result import Result
from consilience.studies.samples import named
from consilience.training import Training

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
    assert accuracy["distilled member", "1x"] > accuracy["mean member", ""] - 0.01
    assert accuracy["distilled member, widened", "2x"] > accuracy["mean member", ""] - 0.01
    for curve in experiment.learning.values():
        assert [point.step for point in curve] == [0, *range(19, 305, 19), *range(304 + 19, 380, 19), 380]
    errors = {(row.method, row.width): (row.difference_se, row.test.accuracy_se) for row in experiment.table}
    paired, single = errors["assembly, least-squares", "2x"]
    assert paired is not None
    assert paired < single  # it is right where the ensemble is
    assert errors["assembly, none", "full"][0] == 0
    assert {error for (method, _), (error, _) in errors.items() if method in ("MergeMany", "from scratch")} == {None}
    steps = {row.method: row.steps for row in experiment.table}
    assert steps["from scratch"] == steps["fine-tuned assembly"] == 20 * -(-1169 // 64)
    page = (done / "report" / "report.html").read_text()
    assert page.count("<svg") >= 4
    assert "consilience report" in page


def test_a_rerun_skips_what_is_finished(
    done: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_in(done)
    for work in (
        "training.train_population",
        "assembly.Assembler",
        "studies.experiment.run_experiment",
        "census.save_census",
    ):
        monkeypatch.setattr(f"consilience.{work}", None)
    run(capsys, "train", "--out", done / "population", *SMALL)
    run(capsys, "census", done / "population", "--out", done / "census", "--resamples", "2")
    result = json.loads(run(capsys, "assemble", done / "census", "--out", done / "network", "--json"))
    assert result["parameters"] == 64 * 24 + 24 + 24 * 20 + 20 + 20 * 10 + 10
    assert run(capsys, "report", done / "census", "--out", done / "report").startswith("| Method")
    assert files_in(done) == before


def test_another_request_does_not_overwrite_a_result(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files_in(done)
    message = refused(capsys, "train", "--out", done / "population", *SMALL, "--seed", 7)
    assert "--out must not hold another population, got " in message
    assert "differs in seed\n  cure: choose another --out" in message
    message = refused(capsys, "assemble", done / "census", "--out", done / "network", "--width", "1x")
    assert "differs in width\n" in message
    assert "network" in refused(capsys, "census", done / "population", "--out", done / "network")
    assert files_in(done) == before


def broken_npz(path: Path, kind: str) -> Path:
    g = np.random.default_rng(0)
    arrays = {
        "x_train": g.normal(size=(60, 5)).astype(np.float32),
        "y_train": np.arange(60) % 3,
        "x_test": g.normal(size=(12, 5)).astype(np.float32),
        "y_test": np.arange(12) % 3,
    }
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
    [("nan", "nan"), ("shapes", r"\(59,\)"), ("class missing", "none of class 1"), ("cut", "npz of plain arrays")],
)
def test_bad_data_is_one_clear_error_and_nothing_on_disk(
    kind: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = broken_npz(tmp_path / "data.npz", kind)
    message = refused(capsys, "train", "--data", data, "--out", tmp_path / "population", *SMALL)
    assert re.search(expected, message.lower())
    assert "cure:" in message
    assert [p.name for p in tmp_path.iterdir()] == ["data.npz"]


def test_bad_artefacts_and_places_are_refused(done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").write_text("precious")
    assert "thesis.tex" in refused(capsys, "train", "--out", tmp_path / "taken", *SMALL)
    assert (tmp_path / "taken" / "thesis.tex").read_text() == "precious"
    for arguments, expected in (
        (["census", tmp_path / "nowhere"], f"there is no directory {tmp_path / 'nowhere'}\n"),
        (["census", done / "network"], f"the data that {done / 'network'} was trained on is unknown\n"),
        (["census", done / "network", "--data", "digits"], "cure: make one: consilience train --out population\n"),
        (
            ["census", done / "population", "--n-clusters", "x"],
            "--n-clusters of layer 'hidden.0' must be a positive int",
        ),
        (["census", done], f"cure: pass {done / 'population'}\n"),
        (["assemble", done / "population"], f"make one: consilience census {done / 'population'} --out census\n"),
        (["assemble", done / "census", "--width", "large"], "--width must be"),
        (["report", done / "census", "--data", "nothing.npz"], "nothing.npz"),
        (["train", *SMALL[:-1], "-1"], "--learning-rate must be a number > 0, got -1"),
        (["train", "--threads", "0"], "--threads must be an int >= 1, got 0\n  cure: consilience train --help\n"),
        (["train", "--seed", "-1"], "--seed must be"),
    ):
        assert expected in refused(capsys, *arguments, "--out", tmp_path / "new"), arguments
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
        (["--net", "resnet", "--dropout", "0.2"], "--dropout must be left out with --net resnet, got 0.2"),
        (["--blocks", "2"], "--blocks must be left out with --net mlp, got 2"),
        (["--net", "convnet", "--blocks", "0"], "--blocks must be left out with --net convnet, got 0"),
        (["--net", "resnet", "--blocks", "0"], "--blocks must be an int >= 1, got 0"),
        (["--net", "convnet", "--hidden", "0"], "--hidden must be one or more ints >= 1, got [0]"),
        (["--dropout", "1"], "--dropout must be a probability in [0, 1), got 1.0"),
        (["--net", "convnet", "--data", "rows.npz"], "--data must hold images (n, C, H, W) for --net convnet"),
        (["--net", "gpt"], "--net must fit the data, got --net gpt for classification of digits"),
        (
            ["--net", "mlp", "--data", "text:notes.md"],
            "--net must fit the data, got --net mlp for next-token of notes.md",
        ),
        (
            ["--net", "gpt", "--data", "text:notes.md", "--heads", "1", "2", "3"],
            "--heads must be one number, or one for",
        ),
        (
            ["--net", "gpt", "--data", "text:notes.md", "--patch-size", "2"],
            "--patch-size must be left out with --net gpt",
        ),
        (["--net", "vit", "--activation", "tanh"], "--activation must be left out with --net vit, got tanh"),
        (["--net", "vit", "--patch-size", "3"], "image_size must be a multiple of patch_size 3, got 8"),
        (["--context", "3"], "--context must be left out for a source that is no text, got 3 for 'digits'"),
    ],
)
def test_networks_that_cannot_be_trained_are_refused_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, flags: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    broken_npz(tmp_path / "rows.npz", "not at all")
    (tmp_path / "notes.md").write_text("a b " * 500)
    assert message in refused(capsys, "train", *flags, "--out", tmp_path / "population")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.md", "rows.npz"]


@pytest.mark.parametrize(
    ("flags", "config"),
    [
        (["--net", "vit", "--patch-size", "2", "--width", "8"], ViTConfig(1, 8, 2, 10, 8, (4, 4), (32, 32))),
        (["--net", "gpt", "--hidden", "5", "6", "7"], GPTConfig(4, 64, 64, (4, 4, 4), (5, 6, 7))),
        (["--net", "llama", "--context", "9", "--heads", "1", "2"], LlamaConfig(4, 9, 64, (1, 2), (32, 32))),
    ],
)
def test_options_say_which_transformer_is_trained(tmp_path: Path, flags: list[str], config: object) -> None:
    (tmp_path / "notes.txt").write_text("a b " * 500)
    source = [] if "vit" in flags else ["--data", f"text:{tmp_path / 'notes.txt'}"]
    request = tyro.cli(train.Request, args=[*flags, *source, "--out", str(tmp_path / "population")])
    data = named(request.data, request.seed, request).load()
    assert train.network(request, data).config == config


@pytest.mark.slow
def test_language_models_are_trained_looked_at_and_compared_by_tokens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("the quick brown fox jumps over the lazy dog " * 60)
    flags = ["--context", "8", "--width", "8", "--heads", "2", "--hidden", "12", "--members", "2", "--epochs", "2"]
    flags += ["--data", tmp_path / "notes.txt", "--batch-size", "16", "--learning-rate", "1e-2"]
    for kind in ("gpt", "llama"):
        said = run(capsys, "train", "--net", kind, *flags, "--out", tmp_path / kind)
        assert "notes.txt is read as x: windows of 8 characters; y: the next character, of 28" in said
        assert "validation accuracy" in said
    populations = [tmp_path / kind for kind in ("gpt", "llama")]
    options = ["--layers", "blocks.0", "--clusters", "4", "--samples", "200", "--out", tmp_path / "compared"]
    message = "--positions must be rows to compare networks on a text, got flatten"
    assert message in refused(capsys, "compare", *populations, *options)
    run(capsys, "compare", *populations, "--positions", "rows", *options)
    compared = json.loads((tmp_path / "compared" / "comparison.json").read_text())
    assert (compared["n_samples"], compared["n_clusters"]) == (200, 4)
    assert all(":" in token for token in compared["disputed"]["ids"])


def test_the_name_of_a_text_is_kept_relative_to_what_was_trained_on_it(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("a b " * 500)
    source = named(f"text:{tmp_path / 'notes.md'}", 0, Reading())
    assert source.content == named(str(tmp_path / "notes.md"), 0, Reading()).content
    assert source.entries(source.name)["data"] == "text:notes.md"
    assert source.stored_name(tmp_path / "population") == source.name
    relative = replace(source, name=f"text:{os.path.relpath(tmp_path / 'notes.md')}")
    assert relative.stored_name(tmp_path / "population") == "text:../notes.md"


@pytest.mark.slow
def test_the_demo_gives_what_its_steps_give_and_reads_nothing_back(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in (("HIDDEN", (12, 10)), ("MEMBERS", 4), ("EPOCHS", 20)):
        monkeypatch.setattr(demo, name, value)
    with monkeypatch.context() as reading:
        reading.setattr("consilience.store.artefact.load_file", None)
        printed = run(capsys, "demo", "--json")
    assert files_in(tmp_path / "demo" / "population") == files_in(done / "population")
    shutil.copytree(done / "population", "again/population")
    run(capsys, "census", "again/population", "--out", "again/census")
    run(capsys, "assemble", "again/census", "--out", "again/network")
    for kind in ("census", "network"):
        assert files_in(tmp_path / "again" / kind) == files_in(tmp_path / "demo" / kind)
    assert run(capsys, "demo", "--json") == printed


# --- requests ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "table"),
    [
        (names.Activation, ACTIVATIONS),
        (names.Grounding, GROUNDINGS),
        (names.Distance, DISTANCES),
        (names.Clusterer, clusterers.CLUSTERERS),
        (names.Correction, CORRECTIONS),
        (names.Pooling, POOLINGS),
        (names.Rule, RULES),
        (names.Null, NULLS),
        (names.ClusteringMeasure | names.ActivationMeasure, MEASURES),
        (names.SampleClusterer, samples.CLUSTERERS),
        (names.Reduction, samples.REDUCTIONS),
        (names.Positions, POSITIONS),
    ],
)
def test_options_take_the_names_that_the_rooms_know(option: object, table: object) -> None:
    parts = [part for part in get_args(option) if not isinstance(part, str)]  # of a union
    assert sorted(name for part in parts or [option] for name in get_args(part)) == sorted(table)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("request_type", "called", "others"),
    [
        (train.Request, Training, {}),
        (census.Request, Census, {"n_clusters": "2x"}),  # None is 2x in a census
        (modularity.Request, Clusterability, {}),
        (compare.Request, ModelComparison, {"layers": ()}),
        (recover.Request, ExpandAndCluster, {"n_units": (), "expansion": "4"}),
    ],
)
def test_options_have_the_defaults_of_the_rooms(
    request_type: type[Options], called: type, others: dict[str, object]
) -> None:
    required = [option.name for option in fields(request_type) if option.default is MISSING]
    options = options_of(request_type(**{name: Path("there") for name in required}), called)
    defaults = {name: parameter.default for name, parameter in signature(called).parameters.items()}
    assert len(options) >= 4
    assert options == {name: others.get(name, defaults[name]) for name in options}


def test_the_identity_of_a_request_has_neither_places_nor_presentation() -> None:
    request = train.Request(out=Path("here"), hidden=(3,), json=True, threads=2)
    assert identity(request) == identity(train.Request(out=Path("there"), hidden=(3,)))
    assert identity(request, data="1f")["data"] == "1f"
    assert not {"out", "json", "threads", "checkpoint_epochs"} & identity(request).keys()
    assert identity(train.Request(out=Path("here"), checkpoint_epochs=(2,)))["checkpoint_epochs"] == [2]
    assert identity(request)["hidden"] == [3]


def test_the_command_line_of_a_request_gives_it_again() -> None:
    request = train.Request(out=Path("my runs"), hidden=(3, 4), batch_norm=False, threads=2)
    assert command_line(request) == "consilience train --out 'my runs' --hidden 3 4 --no-batch-norm"
    comparing = compare.Request(out=Path("c"), sources=("a", "b"), barriers=True)
    assert command_line(comparing) == "consilience compare a b --out c --barriers"


def test_errors_name_the_option() -> None:
    request = census.Request(out=Path("c"), population=Path("p"))
    assert in_options("n_resamples must be >= 0", request) == "--resamples must be >= 0"
    assert in_options("population must be saved", request) == "population must be saved"


def test_lines_of_help_break_after_sentences() -> None:
    classes = [
        node
        for path in Path(census.__file__).parent.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    ]
    texts = [
        str(text.value)
        for node in classes
        for option, below in pairwise(node.body)
        if isinstance(option, ast.AnnAssign) and isinstance(below, ast.Expr)
        for text in [below.value]
        if isinstance(text, ast.Constant)
    ]
    assert len(texts) > 100
    assert [text for text in texts if not all(line.endswith(".") for line in text.splitlines())] == []  # breaks stay


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


def test_without_a_verb_all_verbs_are_shown_by_question(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main([])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == [*cli.VERBS]
    assert [line for line in lines[1:] if line and not line.startswith("  ")] == [*cli.QUESTIONS]
    cli.main(["--version"])
    assert capsys.readouterr().out == f"consilience {__version__}\n"


def test_an_unknown_verb_is_told_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "cenus", "population") == (
        "consilience: there is no verb cenus\n  cure: consilience census\n"
    )
    assert refused(capsys, "xyz").endswith("cure: consilience, without a verb, lists them\n")


def test_a_shell_completes_verbs_options_and_values(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The command of docs/command-line.md, and what bash makes of its output."""
    (line,) = re.findall(
        r"\nconsilience (--tyro-print-completion bash) >",
        (Path(__file__).parent.parent / "docs" / "command-line.md").read_text(),
    )
    with pytest.raises(SystemExit):
        cli.main(line.split())
    script = tmp_path / "completion"
    script.write_text(capsys.readouterr().out)
    asked = f"""
        source {script}
        complete=$(complete -p consilience); complete=${{complete#*-F }}; complete=${{complete%% *}}
        for words in ass 'assemble --corr' 'assemble --correction se'; do
            COMP_WORDS=(consilience $words); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
            $complete consilience "${{COMP_WORDS[-1]}}" "${{COMP_WORDS[-2]}}"
            echo "${{COMPREPLY[@]}}"
        done
    """
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["assemble", "--correction", "second-order"]


def test_a_help_whose_reader_has_gone_ends_quietly() -> None:
    asked = f"{sys.executable} -m consilience.cli train --help | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=False)
    assert (done.stderr, done.returncode in (0, 1)) == ("", True)


@pytest.mark.parametrize("verb", cli.VERBS)
def test_the_example_in_the_help_of_a_verb_is_one_of_it(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    request = cli.VERBS[verb].Request
    words = shlex.split(request.__doc__.partition("Example: consilience ")[2])
    monkeypatch.setitem(cli.RUN, request, lambda given: Result(type(given).__module__, {}))
    cli.main(words)
    assert capsys.readouterr().out == f"consilience.studies.{verb}\n"


def test_doctor_names_versions_and_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = json.loads(run(capsys, "doctor", "--json"))
    assert found["versions"]["numpy"] == np.__version__
    assert found["extras"].keys() >= {"hf", "hub"}
    monkeypatch.setattr(doctor, "requires", lambda name: ["numpy>=1", "no-such-package>=3; extra == 'hf'"])
    lines = run(capsys, "doctor").splitlines()
    assert "[hf]            no-such-package missing" in lines
    assert f"numpy           {np.__version__}" in lines


# --- interrupted ------------------------------------------------------------------------------------------------------

KILLED_WHILE_IT_WRITES = """
import os, signal, sys
from consilience import cli
from consilience.store import artefact
artefact.save_file = lambda *arguments, **options: os.kill(os.getpid(), signal.SIGKILL)
cli.main(sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "arguments", "left"),
    [
        ("population", ["train", *SMALL], {".population.checkpoint", ".population.lock", ".population.tmp"}),
        ("census", ["census", "population", "--resamples", "2"], {".census.lock", ".census.tmp", "population"}),
    ],
)
def test_a_killed_command_leaves_nothing_half_written_and_a_rerun_gives_the_same_bytes(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, arguments: list[str], left: set[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    if kind == "census":
        shutil.copytree(done / "population", "population")
    words = [*arguments, "--out", kind]
    killed = subprocess.run([sys.executable, "-c", KILLED_WHILE_IT_WRITES, *words], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert {path.name for path in tmp_path.iterdir()} == left
    cli.main(words)
    assert files_in(tmp_path / kind) == files_in(done / kind)
    assert {path.name for path in tmp_path.iterdir()} == {kind, "population"}


@pytest.mark.parametrize(
    ("text", "width"),
    [
        ("12", 12),
        ("2x", "2x"),
        ("frequency>=0.5", "frequency>=0.5"),
        ("heads=8, hidden.0=2x", {"heads": 8, "hidden.0": "2x"}),
        ("heads=", "heads="),
    ],
)
def test_widths_are_written_for_all_layers_or_by_name(text: str, width: object) -> None:
    assert parse_width(text) == width


def test_widths_by_name_without_a_number_are_refused() -> None:
    with pytest.raises(InputError, match="got 'heads=8,stream'\n  cure: pass name=number for each"):
        parse_width("heads=8,stream")
