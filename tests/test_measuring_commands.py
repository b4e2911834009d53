"""The commands modularity and compare, as a user runs them: on populations, networks and wrongly."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import refused, run
from consilience import cli
from consilience.data import load_data
from consilience.modularity import Clusterability
from consilience.nets import MLP
from consilience.population import Population
from consilience.store import read_config, save_network

FEW = ["--clusters", "4", "--nulls", "4"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two populations with snapshots, and an assembly of the first."""
    root = tmp_path_factory.mktemp("trained")
    small = ["--members", "3", "--epochs", "6", "--batch-size", "64", "--learning-rate", "3e-3"]
    few = ["--checkpoint-epochs", "1", "6"]
    for arguments in (
        ["train", "--out", root / "relu", "--hidden", "12", "10", *small, *few],
        ["train", "--out", root / "tanh", "--hidden", "14", "--activation", "tanh", *small, *few],
        ["census", root / "relu", "--out", root / "census", "--resamples", "2"],
        ["assemble", root / "census", "--out", root / "network"],
    ):
        cli.main([str(a) for a in arguments])
    return root


# --- modularity -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_modularity_of_a_population_and_its_assembly(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "parts"
    arguments = ["modularity", trained / "relu", "--assembly", trained / "network", "--member", 1, "--out", out, *FEW]
    printed = run(capsys, *arguments)
    found = json.loads((out / "modularity.json").read_text())
    assert [row["name"] for row in found["networks"]] == ["member 0", "member 1", "member 2", "assembly"]
    assert [row["kind"] for row in found["networks"]] == ["member"] * 3 + ["assembly"]
    assert found["shown"] == f"member 1 of {trained / 'relu'}"
    direct = Clusterability(4, n_null=4).fit(Population.load(trained / "relu").members[1].network)
    assert found["n_cut"] == pytest.approx(direct.n_cut_) == found["networks"][1]["n_cut"]
    assert np.allclose(found["null_values"], direct.null_)
    assert found["labels"]["hidden.0"] == direct.labels_["hidden.0"].tolist()
    assert len(found["circuits"]) == 20  # ten classes, two criteria
    assert len(found["lesions"]["drop"]) == len(found["probe"]["off"][0]) <= 4
    assert "| member 1 " in printed
    assert found["summary"][0] in printed
    page = (out / "report.html").read_text()
    assert "Weights that each class needs" in page
    before = (out / "modularity.json").read_bytes(), page
    assert run(capsys, *arguments) == printed
    assert ((out / "modularity.json").read_bytes(), (out / "report.html").read_text()) == before
    assert "a result that differs in nulls" in refused(capsys, *arguments[:-1], 5)
    assert read_config(out)["kind"] == "modularity"


def test_modularity_of_one_network_without_data(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = json.loads(run(capsys, "modularity", trained / "network", "--out", tmp_path / "parts", "--json", *FEW))
    (row,) = found["networks"]
    assert (row["kind"], row["accuracy"], found["probe"], found["circuits"]) == ("network", None, None, [])
    with_data = ["modularity", trained / "network", "--data", "digits", "--circuits", "0", "--json", *FEW]
    found = json.loads(run(capsys, *with_data, "--out", tmp_path / "known"))
    assert found["networks"][0]["accuracy"] > 0.5
    assert found["circuits"] == []
    assert found["lesions"] is not None


def test_a_network_with_one_hidden_layer_and_two_outputs_has_parts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    save_network(MLP(3, [6], 2), tmp_path / "net", {"example_shape": [3]})
    found = json.loads(run(capsys, "modularity", tmp_path / "net", "--out", tmp_path / "parts", "--json", *FEW))
    assert found["networks"][0]["n_units"] == 11
    assert found["networks"][0]["cross"] is None  # no matrix has four rows and four columns


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--member", "3"], "--member must be an int from 0 to 2, got 3"),
        (["--clusters", "1"], "--clusters must be an int >= 2, got 1"),
        (["--clusters", "500"], "--clusters must be an int from 2 to 96, got 500"),
        (["--nulls", "-1"], "--nulls must be an int >= 0, got -1"),
    ],
)
def test_what_modularity_cannot_do_is_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    assert message in refused(capsys, "modularity", trained / "relu", "--out", tmp_path / "parts", *flags)
    assert not (tmp_path / "parts").exists()


# --- compare ----------------------------------------------------------------------------------------------------------


def test_compare_populations_of_two_kinds(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "compared"
    arguments = ["compare", trained / "relu", trained / "tanh", "--out", out, "--samples", 200]
    printed = run(capsys, *arguments)
    found = json.loads((out / "comparison.json").read_text())
    assert found["names"] == [f"{family} {k}" for family in ("relu", "tanh") for k in range(3)]
    assert found["families"] == ["relu"] * 3 + ["tanh"] * 3
    assert found["n_samples"] == 200
    assert list(found["epochs"]) == ["1", "6"]
    assert found["epochs"]["6"] == found["matrices"]  # the last snapshot is the end
    (place,) = found["matrices"]  # the shallowest has one hidden layer
    matrix = np.array(found["matrices"][place])
    assert np.array_equal(matrix, matrix.T)
    assert np.array_equal(np.diag(matrix), np.ones(6))
    assert found["table"] in printed
    page = (out / "report.html").read_bytes()
    assert run(capsys, *arguments) == printed
    assert (out / "report.html").read_bytes() == page
    assert "a result that differs in samples" in refused(capsys, *arguments[:-1], 100)


def test_compare_members_of_one_population_with_barriers(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--layers", "hidden.1", "--measure", "cka", "--barriers", "--epochs", "6", "--samples", "100"]
    found = json.loads(run(capsys, "compare", trained / "relu", "--out", tmp_path / "compared", "--json", *flags))
    assert found["names"] == ["relu 0", "relu 1", "relu 2"]
    assert list(found["matrices"]) == ["hidden.1"]
    barriers = np.array(found["barriers"], float)
    assert (barriers[~np.eye(3, dtype=bool)] > 0).all()
    assert found["agreement_with_families"] == {"hidden.1": None}


@pytest.mark.parametrize(
    ("sources", "flags", "message"),
    [
        (["relu"], ["--layers", "hiden.0"], "hidden.0"),
        (["relu"], ["--epochs", "2"], "epochs must be one of 1, 6, got 2"),
        (["relu", "tanh/../relu"], [], "compare must be given different directories"),
        ([], [], "compare must be given at least one directory"),
        (["relu"], ["--samples", "1"], "--samples must be an int >= 2, got 1"),
        (["network"], ["--data", "digits"], "models must be at least two, got 1"),
        (["network", "census/../network/."], ["--samples", "9"], "compare must be given different directories"),
        (["relu"], ["--samples", "15", "--clusters", "20"], "samples, one for each cluster"),
        (["nowhere"], [], "there is no directory "),
    ],
)
def test_what_cannot_be_compared_is_refused(
    trained: Path, capsys: pytest.CaptureFixture[str], sources: list[str], flags: list[str], message: str
) -> None:
    paths = [trained / source for source in sources]
    assert message in refused(capsys, "compare", *paths, "--out", trained / "compared", *flags)
    assert not (trained / "compared").exists()


def test_networks_are_compared_on_samples_that_none_was_trained_on(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "train", "--out", tmp_path / "other", "--members", "2", "--epochs", "1", "--seed", "7")
    sources = [trained / "network", trained / "tanh", tmp_path / "other"]
    found = json.loads(run(capsys, "compare", *sources, "--out", tmp_path / "compared", "--json"))
    first, other = (set(load_data("digits", random_state=seed).test.ids.tolist()) for seed in (0, 7))
    assert found["n_samples"] == len(first & other) < len(first)
    assert {int(each) for each in found["disputed"]["ids"]} <= first & other


def test_a_rerun_sees_other_snapshots(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    population = Population.load(trained / "tanh")
    replace(population, snapshots={}).save(tmp_path / "tanh")
    arguments = ["compare", tmp_path / "tanh", "--data", "digits", "--samples", 60, "--out", tmp_path / "compared"]
    run(capsys, *arguments)
    population.save(tmp_path / "tanh")
    assert "a result that differs in networks" in refused(capsys, *arguments)


def test_populations_of_one_name_are_told_apart_by_their_folders(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    population = Population.load(trained / "relu")
    for folder in ("a", "b"):
        plain = Population(population.members, population.example_input)
        plain.save(tmp_path / folder / "members")
    flags = ["--data", "digits", "--samples", "60", "--out", tmp_path / "compared", "--json"]
    found = json.loads(run(capsys, "compare", *(tmp_path / folder / "members" for folder in ("a", "b")), *flags))
    assert found["names"][0] == "a/members 0"
    assert found["families"][3] == "b/members"
    assert np.array(found["matrices"]["hidden.0"])[0, 3] == 1  # the same networks
