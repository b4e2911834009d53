"""What faults lead to: damaged artefacts, data that changes, a full disk, Ctrl-C, and options of odd values."""

from __future__ import annotations

import errno
import json
import pickle
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from conftest import inputs, random_mlp, random_population, refused, run
from consilience import cli
from consilience.census import Census, load_census, save_census
from consilience.errors import ArtefactError, InputError
from consilience.population import Population
from consilience.store import artefact, load_network, read_artefact, write_artefact
from consilience.studies import modularity
from consilience.studies.result import run_paged

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))
from faults import fuzz_artefacts, library_artefacts, sign_again

X = inputs(20)
SMALL = ["--hidden", "4", "--members", "2", "--epochs", "1"]


def write_data(path: Path, shift: float = 0.0) -> Path:
    g = np.random.default_rng(0)
    y = np.arange(90) % 3
    x = (g.normal(size=(90, 5)) + y[:, None] + shift).astype(np.float32)
    np.savez(path, x_train=x, y_train=y, x_test=x[:30], y_test=y[:30])
    return path


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """A population that was trained on a file given by a relative path, in the current directory."""
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path / "d.npz")
    run(capsys, "train", "--data", "d.npz", *SMALL, "--out", "p")
    return tmp_path


# --- artefacts --------------------------------------------------------------------------------------------------------


def test_damaged_artefacts_give_a_result_or_an_error_of_ours(tmp_path: Path) -> None:
    rows = list(fuzz_artefacts(tmp_path, library_artefacts, mutations=2, seed=0))
    assert [row.kind for row in rows][:4] == ["population", "census", "network", "elastic"]
    assert [other for row in rows for other in row.others] == []
    assert sum(row.errors for row in rows) > len(rows)


@pytest.mark.parametrize(
    ("array", "change", "text"),
    [
        ("leaves", lambda a: a + 100, "labels"),
        ("labels", lambda a: a - 5, "labels"),
        ("member", lambda a: a.flip(0), "member"),
        ("alive", lambda a: a[:-1], "alive bool"),
        ("merges", lambda a: a.flip(0), "merges"),
        ("centroid", lambda a: a * float("nan"), "centroid"),
        ("size", lambda a: None, "no size"),
    ],
)
def test_arrays_of_a_census_that_do_not_fit_are_refused(tmp_path: Path, array: str, change, text: str) -> None:
    population = random_population([[5, 4], [4, 4]])
    save_census(Census(n_resamples=0).fit(population, inputs(50)), tmp_path / "census", tmp_path)
    found = read_artefact(tmp_path / "census", "census")
    tensors = {**found.tensors, f"layer-0/{array}": change(found.tensors[f"layer-0/{array}"])}
    config = {name: found.config[name] for name in ("census", "population", "layers")}
    kept = {name: value for name, value in tensors.items() if value is not None}
    write_artefact(tmp_path / "bad", "census", config, kept)
    with pytest.raises(ArtefactError, match=f"layer hidden.0 in .*bad must have arrays of its units, got {text}"):
        load_census(tmp_path / "bad", population)


def test_a_population_and_its_census_go_to_another_process() -> None:
    population = random_population([[5, 4], [4, 4]])
    population = population.with_snapshot(1, [member.module for member in random_population([[5, 4], [4, 4]], seed=9)])
    census = Census(n_resamples=0).fit(population, inputs(50))
    again = pickle.loads(pickle.dumps(census))
    x = inputs(9)
    assert torch.equal(again.population_.logits(x), population.logits(x))
    assert torch.equal(again.population_.snapshots[1].logits(x), population.snapshots[1].logits(x))
    assert again.layers_["hidden.0"].labels_.tolist() == census.layers_["hidden.0"].labels_.tolist()
    assert len(again.networks_) == 2
    with pytest.raises(InputError, match="what is pickled must have no traced network in it"):
        pickle.dumps(population.members[0].network)


def test_a_missing_population_of_a_census_is_named(tmp_path: Path) -> None:
    save_census(Census(n_resamples=0).fit(random_population([[4]] * 2), inputs(50)), tmp_path / "c", tmp_path / "gone")
    with pytest.raises(ArtefactError, match="the population of the census .* must be in .*gone, got no directory"):
        load_census(tmp_path / "c")


# --- data -------------------------------------------------------------------------------------------------------------


def test_data_is_known_by_content(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (trained / "p" / "config.json").read_bytes()
    (trained / "again.npz").write_bytes((trained / "d.npz").read_bytes())
    run(capsys, "train", "--data", "again.npz", *SMALL, "--out", "p")  # the same content is the same data
    write_data(trained / "d.npz", shift=1.0)
    message = refused(capsys, "train", "--data", "d.npz", *SMALL, "--out", "p")
    assert "--out must not hold another population, got p with a result that differs in data\n" in message
    assert (trained / "p" / "config.json").read_bytes() == before
    config = json.loads(before)
    del config["request"]["data_content"]  # as older versions wrote it: known by its name
    (trained / "p" / "config.json").write_text(json.dumps(config))
    run(capsys, "train", "--data", "d.npz", *SMALL, "--out", "p")


def test_data_that_is_missing_or_changed_is_refused_before_the_work(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "census", "p", "--resamples", "0", "--out", "c")
    (trained / "d.npz").rename("moved.npz")
    for words in (["census", "p"], ["assemble", "c"], ["report", "c"], ["compare", "p"], ["modularity", "p"]):
        message = refused(capsys, *words, "--out", "new")
        assert "--data must be what p was trained on, in " in message or f"what {trained / 'p'} was trained" in message
        assert "d.npz, got no file\n  cure: put it back there, or pass its path as --data" in message
    write_data(trained / "d.npz", shift=1.0)
    for words in (["census", "p"], ["assemble", "c"], ["report", "c"]):
        assert "got another content of" in refused(capsys, *words, "--out", "new")
    assert sorted(path.name for path in trained.iterdir()) == ["c", "d.npz", "moved.npz", "p"]
    assert "validation accuracy" in run(capsys, "assemble", "c", "--data", "moved.npz", "--out", "n")


def test_data_is_read_as_when_the_members_were_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    y, x = np.arange(90) % 3, np.random.default_rng(0).integers(0, 256, (90, 3, 5, 4), dtype=np.uint8)
    for name, values in (("d", x), ("other", x), ("wide", x.repeat(2, axis=3))):
        np.savez(f"{name}.npz", x_train=values, y_train=y, x_test=values[:30], y_test=y[:30])
    assert "cure: set layout (--layout)" in refused(capsys, "train", "--data", "d.npz", *SMALL, "--out", "p")
    net = ["--net", "convnet", *SMALL]
    run(capsys, "train", "--data", "d.npz", "--layout", "channels-last", *net, "--out", "p")
    run(capsys, "census", "p", "--resamples", "0", "--out", "c")
    run(capsys, "census", "p", "--data", "other.npz", "--resamples", "0", "--out", "c2")
    given = ["--data", "other.npz", "--layout", "channels-first"]
    assert "x must have shape (n, 4, 3, 5)" in refused(capsys, "census", "p", *given, "--out", "new")
    assert "differs in layout" in refused(capsys, "train", "--data", "d.npz", "--layout", "rows", *SMALL, "--out", "p")
    for words in (given, ["--data", "wide.npz"]):
        message = refused(capsys, "assemble", "c", *words, "--out", "new")
        assert "npz must have inputs (4, 3, 5) and 3 classes, got inputs (" in message
    assert not (tmp_path / "new").exists()


def test_the_key_of_checkpoints_is_chosen_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_key.py").write_text("import consilience\ndef Net(): return consilience.MLP(6, [4], 3)\n")
    (tmp_path / "runs").mkdir()
    for k in range(2):
        own, average = (random_mlp([4], seed=seed).state_dict() for seed in (k, k + 5))
        torch.save({"model": own, "ema": average}, tmp_path / "runs" / f"{k}.pt")
    words = ["runs", "--module", "own_key:Net", "--example-shape", "6", "--grounding", "weights", "--distance", "l2"]
    run(capsys, "census", *words, "--resamples", "0", "--key", "ema", "--out", "c")
    network = ["assemble", "c", "--module", "own_key:Net", "--width", "full", "--correction", "none", "--out", "n"]
    run(capsys, *network)
    expected = torch.stack([random_mlp([4], seed=k + 5)(X) for k in range(2)]).mean(0)
    torch.testing.assert_close(load_network(tmp_path / "n")(X), expected, rtol=0, atol=1e-5)
    assert "--key must be left out except for a folder of checkpoints, got n" in refused(
        capsys, "inspect", "n", "--key", "ema"
    )


def test_paths_are_found_from_anywhere(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert json.loads((trained / "p" / "config.json").read_text())["request"]["data"] == "../d.npz"
    (trained / "elsewhere").mkdir()
    monkeypatch.chdir(trained / "elsewhere")
    run(capsys, "census", "../p", "--resamples", "0", "--out", "c")
    monkeypatch.chdir("/")
    run(capsys, "assemble", trained / "elsewhere" / "c", "--out", trained / "n")
    for name in ("p", "elsewhere/c", "n"):
        assert str(trained) not in (trained / name / "config.json").read_text()


def test_the_lock_file_of_a_process_that_died_last_is_removed(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (trained / ".p.lock").write_text("12345\n")
    run(capsys, "train", "--data", "d.npz", *SMALL, "--out", "p")
    assert sorted(path.name for path in trained.iterdir()) == ["d.npz", "p"]


# --- the system -------------------------------------------------------------------------------------------------------


def ended(capsys: pytest.CaptureFixture[str], status: int, *words: object) -> str:
    """What a command that ends with this status says."""
    with pytest.raises(SystemExit) as end:
        cli.main([str(word) for word in words])
    assert end.value.code == status
    return capsys.readouterr().err


def test_an_interruption_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    words = ["train", *SMALL, "--out", tmp_path / "p"]
    with monkeypatch.context() as patch:
        patch.setattr("consilience.training.blocks.settle_norms", interrupted)  # after the last epoch
        message = ended(capsys, 130, *words)
    state = tmp_path / ".p.checkpoint"
    goes_on = "the same command goes on from there\n"
    assert message == f"consilience: interrupted; finished epochs are kept in {state}; {goes_on}"
    run(capsys, *words)
    assert [path.name for path in tmp_path.iterdir()] == ["p"]
    monkeypatch.setattr("consilience.studies.train.load_or_train", interrupted)
    assert "interrupted; what is finished is kept in " in ended(capsys, 130, *words)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise error

    Population.save(random_population([[4]] * 2), tmp_path / "p")
    monkeypatch.setattr(artefact, "save_file", full)
    without_data = ["--grounding", "weights", "--distance", "l2"]
    message = ended(capsys, 2, "census", tmp_path / "p", *without_data, "--out", tmp_path / "c")
    assert message == (
        f"consilience: {tmp_path / 'c'} must be writable, got an error of the system: no space left on device; "
        "what was there is kept\n  cure: free some space, or choose another directory; then run it again\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_too_little_memory_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    monkeypatch.setattr("consilience.studies.train.load_or_train", full)
    message = ended(capsys, 2, "train", "--out", tmp_path / "new")
    assert message == ("consilience: not enough memory; nothing has been written; the same command starts again\n")


def test_a_place_that_cannot_be_is_refused_and_warnings_are_one_line(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    too_long = "--out must be a path that the system can hold, got one too long"
    assert too_long in refused(capsys, "census", "p", "--out", "c" * 250)
    run(capsys, "census", "p", "--resamples", "0", "--out", "c")
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        cli.main(["assemble", "c", "--width", "99", "--out", "n"])
    assert capsys.readouterr().err.splitlines()[-1] == (
        "consilience: width of layer 'hidden.0' should be at most 8, got 99: the assembly takes every unit there is"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--seed", "1", "--seed", "2"], "--seed must be given once, got it 2 times"),
        (["train", "--batch-norm", "--no-batch-norm"], "--batch-norm must be given once"),
        (["train", "--seed", str(2**64)], "--seed must be a number below 2**63, got 18446744073709551616"),
        (["train", "--hidden", str(10**13), "4"], "--hidden must be one or more ints >= 1, got [10000000000000, 4]"),
        (["assemble", "census", "--seed=-1"], "--seed must be an int >= 0, got -1"),
        (["compare", "population", "--epochs", "1", "1"], "--epochs must not have a value twice, got 1 1"),
        (
            ["train", "--data", "long" * 99],
            "--data must be a path that the system can hold, got one too long, longlong",
        ),
        (["modularity", "population", "--circuits=-1"], "--circuits must be an int >= 0, got -1"),
        (["train", "--data", ""], "--data must not be empty, got ''"),
    ],
)
def test_odd_options_are_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert message in refused(capsys, *words, "--out", tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_a_measurement_that_is_no_text_is_refused(tmp_path: Path) -> None:
    request = modularity.Request(source="p", out=tmp_path / "m")

    def measured() -> object:
        made = (json.dumps({"table": "t", "summary": ["said"]}), "page")
        return run_paged(request, "modularity", "modularity.json", {}, lambda: made).text

    assert measured() == measured()
    file = tmp_path / "m" / "modularity.json"
    file.write_bytes(b"\xe3" + file.read_bytes())
    with pytest.raises(ArtefactError, match="SHA-256|changed|sum"):
        measured()
    sign_again(tmp_path / "m")
    with pytest.raises(ArtefactError, match="modularity.json must be JSON, got 'utf-8' codec"):
        measured()
