"""The commands on folders of networks of the transformers library."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn

import consilience as cs
from conftest import refused, run
from consilience.errors import InputError
from consilience.studies.experiment import run_experiment

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

IDS = torch.randint(0, 12, (60, 6), generator=torch.Generator().manual_seed(0))
NAMES = {"consilience": cs, "torch": torch, "transformers": transformers}


def neox(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    config = transformers.GPTNeoXConfig(
        vocab_size=12,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=8,
        initializer_range=0.5,
        bos_token_id=None,
        eos_token_id=None,
    )
    return transformers.GPTNeoXForCausalLM(config).eval()


def logits(net: nn.Module) -> Tensor:
    with torch.no_grad():
        return net(IDS).logits


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, cs.Census]:
    """A folder ``runs`` of two networks, ``tokens.npz``, and a census of them in ``census``."""
    root = tmp_path_factory.mktemp("pretrained")
    for k in range(2):
        neox(k).save_pretrained(root / "runs" / str(k))
    rows = {"x_train": IDS[:40].numpy(), "x_test": IDS[40:].numpy()}
    np.savez(root / "tokens.npz", **rows, **{f"y{name[1:]}": np.roll(x, -1, 1) for name, x in rows.items()})
    population = cs.Population.from_pretrained([root / "runs" / str(k) for k in range(2)], IDS[:4])
    census = cs.Census(n_resamples=0).fit(population, IDS)
    cs.save_census(census, root / "census", root / "runs", {"example_shape": (6,)})
    return root, census


@pytest.fixture
def census(made: tuple[Path, cs.Census], monkeypatch: pytest.MonkeyPatch) -> cs.Census:
    """The census and its networks as commands open them, but for the time that it takes to trace them again."""
    monkeypatch.chdir(made[0])
    monkeypatch.setattr("consilience.studies.networks.open_census", lambda *_: (made[1], made[0] / "runs"))
    monkeypatch.setattr(cs.Population, "from_pretrained", lambda *_, **__: made[1].population_)
    return made[1]


def test_an_assembly_is_a_directory_that_the_library_loads(
    census: cs.Census, capsys: pytest.CaptureFixture[str]
) -> None:
    assemble = ["assemble", "census", "--width", "1x", "--correction", "none", "--out", "fused", "--json"]
    first = json.loads(run(capsys, *assemble))
    assert first["load"] == 'transformers.GPTNeoXForCausalLM.from_pretrained("fused")'
    net = transformers.AutoModelForCausalLM.from_pretrained("fused")
    assert sum(value.numel() for value in net.parameters()) == first["parameters"]
    torch.testing.assert_close(logits(net), logits(cs.assemble(census, "1x", correction="none")))
    assert not hasattr(net.config, "request")
    with pytest.raises(InputError, match=r'cure: transformers.GPTNeoXForCausalLM.from_pretrained\("fused"\)'):
        cs.load_network("fused")
    assert json.loads(run(capsys, *assemble)) == first
    assert "differs in width" in refused(capsys, "assemble", "census", "--width", "2x", *assemble[4:])


def test_a_directory_of_one_network_can_be_inspected(census: cs.Census, capsys: pytest.CaptureFixture[str]) -> None:
    assert "GPTNeoXForCausalLM: inputs (6,)" in run(capsys, "inspect", "runs/0", "--example-shape", "6")
    message = refused(capsys, "inspect", "runs", "--example-shape", "3,8,8")
    assert "--example-shape must be the number of tokens that the networks in runs read, got 3,8,8" in message
    message = refused(capsys, "census", "runs/0", "--out", "other")
    assert "runs/0 must be a folder of networks" in message
    assert f"cure: pass the folder that it is in, {Path.cwd()}/runs" in message


@pytest.mark.parametrize(
    ("width", "option", "why"),
    [("full", "full", "norms with a group of units"), ({"stream": 6}, "stream=6", "GPTNeoXConfig refuses|one width")],
)
def test_an_assembly_that_no_config_can_say_is_loaded_beside_a_member(
    census: cs.Census, capsys: pytest.CaptureFixture[str], width: Any, option: str, why: str
) -> None:
    text = run(capsys, "assemble", "census", "--width", option, "--correction", "none", "--out", option)
    assert re.search(rf"no config can say what it is \(.*({why}).*\); to load it: ", text)
    net = eval(text.split("to load it: ")[1], NAMES)
    torch.testing.assert_close(logits(net), logits(cs.assemble(census, width, correction="none")))


NEXT = ["--task", "next-token", "--resamples", "0"]


@pytest.mark.parametrize("options", [["tokens.npz"], ["named.npz", "--columns", "input_ids"]])
def test_integers_in_a_file_are_tokens(
    census: cs.Census, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    arrays = np.load("tokens.npz")
    np.savez("named.npz", **{name.replace("x_", "input_ids_"): arrays[name] for name in arrays.files})
    out = options[0].removesuffix(".npz")
    assert "gpt_neox.embed_in " in run(capsys, "census", "runs", "--data", *options, *NEXT, "--out", out)
    read = json.loads(Path(out, "config.json").read_text())["request"]
    assert read["task"] == "next-token"


def test_tokens_that_the_networks_do_not_have_are_refused(
    census: cs.Census, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("other.txt").write_text("abcde" * 200)
    message = refused(capsys, "census", "runs", "--data", "other.txt", "--context", "6", "--out", "other")
    assert "other.txt must have inputs (6,) and 12 tokens, got inputs (6,) and 6 tokens" in message
    arrays = np.load("tokens.npz")
    np.savez("large.npz", **{name: arrays[name] + 12 * (name == "x_test") for name in arrays.files})
    message = refused(capsys, "census", "runs", "--data", "large.npz", *NEXT, "--out", "other")
    assert "inputs of large.npz must have indices from 0 to 11 for 'gpt_neox.embed_in.weight', got 12 to 23" in message


def test_reports_and_scores_take_the_logits_and_leave_out_what_is_trained_anew(
    census: cs.Census, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = partial(run_experiment, widths=("1x",), corrections=("none",))
    monkeypatch.setattr("consilience.studies.experiment.run_experiment", few)
    options = ["--data", "tokens.npz", "--task", "next-token", "--json"]
    report = json.loads(run(capsys, "report", "census", *options, "--out", "report"))
    scores = {(row["method"], row["width"]): row["test"]["accuracy"] for row in report["table"]}
    assert scores["assembly, none", "full"] == pytest.approx(scores["ensemble of the members", ""])
    assert scores.keys() >= {("mean member", ""), ("best member on validation", ""), ("assembly, none", "1x")}
    assert report["left_out"] == {
        "from scratch and fine-tuned assembly": "networks that return more than their outputs are not trained here"
    }
    assert "Not in the table, from scratch and fine-tuned assembly" in Path("report", "report.html").read_text()
    assert [bool(layer["heads"]) for layer in report["layers"]] == [False, True, False]
    scored = ["assemble", "census", "--width", "1x", "--correction", "none", "--out", "scored"]
    assert 0 <= json.loads(run(capsys, *scored, *options))["assembly_validation_accuracy"] <= 1


def test_widths_are_checked_before_networks_are_loaded(
    census: cs.Census, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consilience.studies.networks.open_census", None)
    for width, message in (
        ("hedas=2", "--width must name layers among heads, stream, mlp, .*, got 'hedas'\n.*did you mean 'heads'"),
        ("heads=two", "--width of heads must be a positive int or a multiple such as \"2x\", got 'two'"),
        ("twice", "--width must be a positive int or a multiple such as \"2x\", got 'twice'"),
    ):
        assert re.search(message, refused(capsys, "assemble", "census", "--width", width, "--out", "wrong"))


def test_a_census_of_heads_and_of_one_network(
    census: cs.Census, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    take = ["census", "runs", "--data", "tokens.npz", *NEXT, "--out"]
    text = run(capsys, *take, "of-heads")
    assert text.count("chance levels of heads not measured: mixtures of heads are not like heads\n") == 1
    assert "members to be turned" not in text
    one = replace(census.population_, members=census.population_.members[:1])
    monkeypatch.setattr(cs.Population, "from_pretrained", lambda *_, **__: one)
    assert "runs must have several networks, as a census compares their units, got one" in refused(
        capsys, *take, "of-one"
    )
