"""What users with networks of their own meet: their layers shown and proved, or a refusal that says what to do."""

from __future__ import annotations

import io
import json
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

import consilience
from conftest import inputs, random_mlp, random_population, refused, run
from consilience.census import Census
from consilience.data import Data
from consilience.errors import InputError
from consilience.population import Population
from consilience.store import save_network
from consilience.studies.inspection import Inspection, inspect_population
from zoo import TRAPS, ZOO, shaken

ROOT = Path(__file__).parent.parent
SOURCE = '''
import sys
import torch
from torch import nn
from torch.nn import functional

print("imported")


class Net(nn.Module):
    """A residual stream of convolutions with batch norm."""

    def __init__(self, width=4, inner=3):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv1, self.norm1 = nn.Conv2d(width, inner, 3, padding=1, bias=False), nn.BatchNorm2d(inner)
        self.conv2, self.norm2 = nn.Conv2d(inner, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.out = nn.Linear(4 * width, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(x + self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x))))))
        return self.out(functional.adaptive_max_pool2d(x, 2).flatten(1))


def wide():
    return Net(7, 5)


class Other(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(16, 5), nn.Tanh(), nn.Linear(5, 3))


class Softmax(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(16, 5), nn.Softmax(-1), nn.Linear(5, 3))


class Branching(Other):
    def forward(self, x):
        return super().forward(x if x.sum() > 0 else -x)


def script():
    sys.exit("usage: train.py")
'''
NET = """\
Net: inputs (1, 4, 4), 3 outputs, 325 parameters

layer  width  activations     symmetries        batch norms  written by   read by
stem   4      relu, max_pool  permute, rescale  norm, norm2  stem, conv2  conv1, out
conv1  3      relu            permute, rescale  norm1        conv1        conv2

outputs: out (3)
found and proved in _ s: every layer permuted, rescaled and doubled: outputs unchanged to 1e-5 of their spread
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current directory with the user's module and a folder of three checkpoints of two widths."""
    (tmp_path / "my_nets.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "runs").mkdir()
    for k, widths in enumerate([(4, 3), (6, 3), (4, 3)]):
        save_file(trained(*widths, seed=k), tmp_path / "runs" / f"{k}.safetensors")
    yield tmp_path
    sys.modules.pop("my_nets", None)


def trained(width: int, inner: int, seed: int) -> dict[str, torch.Tensor]:
    """The state dict of a network as if it had been trained."""
    from my_nets import Net

    with torch.random.fork_rng():
        return shaken(Net(width, inner), seed).state_dict()


def untimed(text: str) -> str:
    return re.sub(r"proved in [\d.]+ s", "proved in _ s", text)


def of_zoo(name: str) -> Inspection:
    specimen = (ZOO | TRAPS)[name]
    return inspect_population(Population.from_modules([specimen.module()], specimen.inputs()), 0.0)


# --- what is shown ------------------------------------------------------------------------------------------------


def test_symmetries_are_those_that_the_proof_used() -> None:
    found = of_zoo("tanh-convnet")
    assert {layer.name: layer.symmetries for layer in found.layers} == {
        "0": ("permute", "flip"),
        "4": ("permute", "flip"),
        "7": ("permute", "rescale"),
        "12": ("permute", "flip"),
    }
    assert found.proved == {"permuted": 4, "rescaled": 1, "flipped": 3, "doubled": 4}
    assert str(found).splitlines()[-1] == (
        "found and proved in 0.0 s: every layer permuted and doubled, 1 rescaled, 3 flipped: "
        "outputs unchanged to 1e-5 of their spread"
    )


def test_tied_layers_and_gates_are_told() -> None:
    layers = {layer.name: layer for layer in of_zoo("squeeze-excite").layers}
    assert layers["stem.0"].written_by == ("stem.0", "conv")
    assert layers["stem.0"].read_by == ("excite1.reduce", "conv", "excite2.reduce", "readout")
    assert layers["stem.0"].batch_norms == ("stem.1", "norm")
    assert layers["excite1.expand"].tied_to == layers["excite2.expand"].tied_to == "stem.0"
    assert layers["excite1.expand"].activations == ("sigmoid", "gate")
    assert layers["excite1.reduce"].tied_to is None


def test_what_no_census_can_be_taken_of_is_said() -> None:
    lines = str(of_zoo("mixer")).splitlines()
    assert lines[-4:-1] == [
        "outputs: readout (3)",
        "units not interchangeable, so that no census can be taken: blocks.0.tokens.2 (6), blocks.1.tokens.2 (6)",
        "applied once for each unit of another layer, so that no census can be taken: "
        "blocks.0.tokens.0, blocks.0.tokens.2, blocks.1.tokens.0, blocks.1.tokens.2",
    ]


def test_a_network_without_hidden_layers_is_shown_too() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(6, 3))
    text = str(inspect_population(Population.from_modules([net], inputs(8)), 0.0))
    assert "found and proved in 0.0 s: no layer to change: outputs unchanged" in text
    assert "outputs: 0 (3)" in text


def test_a_population_has_ranges_of_widths_and_no_columns_for_nothing() -> None:
    found = inspect_population(random_population([[5, 4], [7, 4], [6, 4]]), 1.25)
    assert str(found) == (
        "3 × MLP: inputs (6,), 3 outputs, 74–96 parameters\n\n"
        "layer     width  activations  symmetries        written by  read by\n"
        "hidden.0  5–7    relu         permute, rescale  hidden.0    hidden.1\n"
        "hidden.1  4      relu         permute, rescale  hidden.1    readout\n\n"
        "outputs: readout (3)\n"
        "found and proved in 1.2 s: every layer permuted, rescaled and doubled: "
        "outputs unchanged to 1e-5 of their spread"
    )
    assert found.layers[0].widths == (5, 7, 6)


def test_names_with_brackets_are_not_taken_for_markup() -> None:
    found, shown = of_zoo("densenet"), io.StringIO()
    Console(file=shown, force_terminal=True, width=400).print(found)
    plain = re.sub(r"\x1b\[[\d;]*m", "", shown.getvalue())
    for name in ("norm[block2.layers.2.conv2]", "block1.layers.2.norm1[block1.layers.0.conv2]"):
        assert name in str(found)
        assert name in plain


# --- where networks come from -------------------------------------------------------------------------------------


def test_a_class_of_ones_own_on_the_command_line(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random, before = torch.random.get_rng_state(), sorted(own.rglob("*"))
    assert untimed(run(capsys, "inspect", "my_nets:Net", "--example-shape", "1,4,4")) == NET
    sys.modules.pop("my_nets")  # what it prints when it is imported is not among the results
    plain = json.loads(run(capsys, "inspect", "my_nets:wide", "--example-shape", "1,4,4", "--json"))
    assert [layer["widths"] for layer in plain["layers"]] == [[7], [5]]
    assert plain["layers"][0]["written_by"] == ["stem", "conv2"]
    assert [head["name"] for head in plain["outputs"]] == ["out"]
    assert torch.equal(torch.random.get_rng_state(), random)
    assert sorted(path for path in own.rglob("*") if "__pycache__" not in path.parts) == before


def test_artefacts_of_this_package(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    random_population([[5, 4], [7, 4]]).save(tmp_path / "population")
    save_network(random_mlp([5, 4]), tmp_path / "network")
    save_network(random_mlp([5, 4]), tmp_path / "told", {"example_shape": [6]})
    assert "hidden.0  5–7 " in run(capsys, "inspect", tmp_path / "population")
    assert "hidden.0  5 " in run(capsys, "inspect", tmp_path / "network", "--example-shape", "6")
    assert "hidden.0  5 " in run(capsys, "inspect", tmp_path / "told")
    message = refused(capsys, "inspect", tmp_path / "network")
    assert message.startswith("consilience: the shape of the inputs of ")
    assert "must be given\n  cure: pass it, as in --example-shape 3,32,32\n" in message
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    shown = run(capsys, "inspect", tmp_path / "told")
    assert "━" in shown
    assert "hidden.1" in shown


def test_networks_of_ones_own_in_directories(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--module", "my_nets:Net", "--json"]
    found = json.loads(run(capsys, "inspect", "runs", "--example-shape", "1,4,4", *given))
    assert [layer["widths"] for layer in found["layers"]] == [[4, 6, 4], [3, 3, 3]]
    Population.from_directory("runs", "my_nets:Net", torch.randn(4, 1, 4, 4)).save("population")
    again = json.loads(run(capsys, "inspect", "population", *given))
    assert (again["layers"], again["proved"]) == (found["layers"], found["proved"])
    for arguments in (["population"], ["runs"]):
        message = refused(capsys, "inspect", *arguments)
        assert "cure: pass --module package.module:Class" in message
    (own / "runs" / "3.pt").write_bytes(b"")
    text = run(capsys, "inspect", "runs", "--module", "my_nets:Net", "--example-shape", "1,4,4")
    assert "left out: 3.pt: the file must be a complete checkpoint, got EOFError; save its state_dict" in text


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "shape", "message"),
    [
        ("my_nets:Softmax", "16", r"unsupported operation on units: aten.softmax.int in '1' \("),
        ("my_nets:Branching", "4,4", r"Branching cannot be traced: .*data-dependent(.|\n)*replace `if"),
        (
            "my_nets:Net",
            "3,4,4",
            r"example_input must be inputs that member 0 .Net. takes, got float32 \(16, 3, 4, 4\), on .* RuntimeE",
        ),
        (
            "my_nets:Net",
            "1x4x4",
            "--example-shape must be the sizes of one input, as in 3,32,32, got 1x4x4\n  cure: consilience inspect",
        ),
        (
            "my_nets:Net",
            "1,0,4",
            "--example-shape must be the sizes of one input, as in 3,32,32, got 1,0,4\n  cure: consilience inspect",
        ),
        ("my_nets:Net", None, "the shape of the inputs of my_nets:Net must be given\n  cure: pass it, as"),
        ("my_nets:Nett", "1,4,4", "module='my_nets:Nett' must be one of Net, wide, .* in my_nets, got 'Nett'"),
        ("my_nets:script", "1,4,4", r"module='my_nets:script' must make a module, got SystemExit from script"),
        ("my_nets.Net", "1,4,4", "there is no directory my_nets.Net\n  cure: check the path; a class is "),
        ("my_net:Net", "1,4,4", "module='my_net:Net' must be in a Python module that can be imported, got Mod"),
    ],
)
def test_what_cannot_be_inspected_is_refused(
    own: Path, capsys: pytest.CaptureFixture[str], source: str, shape: str | None, message: str
) -> None:
    shapes = [] if shape is None else ["--example-shape", shape]
    assert re.match(f"consilience: {message}", refused(capsys, "inspect", source, *shapes))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"norm1.running_var": None}, "the 20 tensors of a Net, got missing: 'norm1.runn"),
        ({"norm2.running_mean": torch.full((4,), torch.nan)}, "'norm2.running_mean' must have values that "),
        ({"conv1.weight": torch.ones(3, 4, 5, 5)}, "at these widths of a Net, got 'conv1.weight' (3"),
        ({"stem.weight": torch.ones(4, 2, 3, 3)}, "at these widths of a Net, got 'stem.weight' (4"),
    ],
)
def test_checkpoints_that_cannot_be_used_are_refused(
    own: Path, capsys: pytest.CaptureFixture[str], change: dict[str, torch.Tensor | None], reason: str
) -> None:
    (own / "bad").mkdir()
    state = {name: value for name, value in {**trained(4, 3, 0), **change}.items() if value is not None}
    save_file(state, own / "bad" / "a.safetensors")
    message = refused(capsys, "inspect", "bad", "--module", "my_nets:Net", "--example-shape", "1,4,4")
    assert message.startswith("consilience: bad must have state dicts of Net, got\n  a.safetensors: ")
    assert reason in message


def test_checkpoints_of_another_architecture_are_refused(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, "inspect", "runs", "--module", "my_nets:Other", "--example-shape", "1,4,4")
    assert "must have state dicts of Other, got\n  0.safetensors: " in message
    assert "must hold tensors by the module's names, '1.weight', '1.bias'," in message
    assert ", got 'norm" in message


# --- from checkpoints to an assembly ------------------------------------------------------------------------------


@pytest.fixture
def images(own: Path) -> Path:
    g = np.random.default_rng(0)
    arrays = {f"x_{part}": g.normal(size=(n, 1, 4, 4)).astype(np.float32) for part, n in (("train", 120), ("test", 9))}
    labels = {f"y_{part}": np.arange(n) % 3 for part, n in (("train", 120), ("test", 9))}
    np.savez(own / "images.npz", **arrays, **labels)
    return own


def test_a_folder_of_checkpoints_becomes_one_network(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = ["--module", "my_nets:Net"]
    text = run(capsys, "census", "runs", "--data", "images.npz", *own, "--out", "census", "--n-clusters", "1x")
    assert re.search(r"^stem +14 +0 +4 ", text, flags=re.MULTILINE)
    assert "\ndata images.npz is read as x: " in text
    assert run(capsys, "census", "runs", "--data", "images.npz", *own, "--out", "census", "--n-clusters", "1x") == text
    assert "the class of the networks in the folder" in refused(capsys, "assemble", "census", "--out", "network")
    assemble = ["assemble", "census", *own, "--width", "full", "--correction", "none", "--out", "network"]
    run(capsys, *assemble)
    result = json.loads(run(capsys, *assemble, "--json"))
    network = eval(result["load"], {"consilience": consilience, "torch": torch})
    assert result["parameters"] == sum(parameter.numel() for parameter in network.parameters())
    x = torch.randn(20, 1, 4, 4)
    members = Population.from_directory("runs", "my_nets:Net", x)
    torch.testing.assert_close(network(x), members.logits(x).mean(0), rtol=1e-4, atol=1e-4)
    assert "stem   14 " in run(capsys, "inspect", "network", *own)
    assert "cure: pass --module package.module:Class" in refused(capsys, "inspect", "network")
    assert "must have the 4 tensors of a Other" in refused(capsys, "inspect", "network", "--module", "my_nets:Other")


def test_a_report_of_ones_own_networks_says_how_to_get_it_again(
    images: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def experiment(census: Census, data: Data, *, obtained: dict[str, object], **others: object) -> None:
        raise InputError(f"far enough with {len(census.population_)} members and {data.name}: {obtained['command']}")

    monkeypatch.setattr("consilience.studies.experiment.run_experiment", experiment)
    own = ["--data", "images.npz", "--module", "my_nets:Net"]
    run(capsys, "census", "runs", *own, "--resamples", "0", "--out", "census")
    assert "cure: pass --data" in refused(capsys, "report", "census", *own[2:], "--out", "report")
    assert refused(capsys, "report", "census", *own, "--out", "report") == (
        "consilience: far enough with 3 members and images.npz: "
        "consilience report census --out report --module my_nets:Net --data images.npz\n"
        "  cure: consilience report --help\n"
    )


def test_a_population_of_ones_own_goes_the_same_way(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Population.from_directory("runs", "my_nets:Net", torch.randn(4, 1, 4, 4)).save("population")
    weights = ["--grounding", "weights", "--distance", "cosine", "--resamples", "0"]
    assert "cure: pass --module" in refused(capsys, "census", "population", *weights, "--out", "census")
    run(capsys, "census", "population", "--module", "my_nets:Net", *weights, "--out", "census")
    assemble = ["assemble", "census", "--width", "1x", "--correction", "none", "--out", "network"]
    assert "cure: pass --module" in refused(capsys, *assemble)
    assert run(capsys, *assemble, "--module", "my_nets:Net").startswith(
        "network in network: 325 parameters\nto load it"
    )
    message = refused(capsys, "census", "runs", "--module", "my_nets:Net", *weights, "--out", "other")
    assert "the shape of the inputs of runs must be given" in message
    run(capsys, "census", "runs", "--module", "my_nets:Net", "--example-shape", "1,4,4", *weights, "--out", "other")
    message = refused(capsys, "census", "runs", "--module", "my_nets:Net", "--example-shape", "1,4,4", "--out", "third")
    assert "the data that runs was trained on is unknown\n  cure: pass --data, or" in message


# --- what the documents say ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_example_merges_residual_networks_of_ones_own() -> None:
    accuracy = runpy.run_path(str(ROOT / "examples" / "own_networks.py"))["main"]()
    assert accuracy["assembly full"] == accuracy["ensemble"]
    assert accuracy["assembly 2x"] > accuracy["ensemble"] - 0.05


def test_the_page_shows_what_inspect_prints(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    shown = re.search(
        r"\n\$ consilience (inspect .*)\n((?:.|\n)*?)```", (ROOT / "docs" / "own-networks.md").read_text()
    )
    assert untimed(run(capsys, *shown[1].split())) == untimed(shown[2])
