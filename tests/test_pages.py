"""The code of pages about files of the reader's own runs, on files made here; `test_house.py` runs the main page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor, nn

import consilience as cs
from conftest import inputs

ROOT = Path(__file__).parent.parent


class Net(nn.Module):
    """Some class of the reader's."""

    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)))


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), flags=re.DOTALL)


def ran(page: str, names: dict[str, object]) -> dict[str, object]:
    for block in blocks(page):
        exec(compile(block, page, "exec"), names)
    return names


def test_ones_own_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    torch.manual_seed(0)
    nets, x = [Net(), Net(4), Net()], inputs(300)
    for k, net in enumerate(nets):
        torch.save(net.state_dict(), f"runs/{k}.pt")
    names = ran("own-networks.md", {"cs": cs, "torch": torch, "Net": Net, "nets": nets, "x": x})
    assert isinstance(names["net"], Net)
    assert names["net"].a.out_features == 10
    assert names["full"].a.out_features == 14


@pytest.mark.slow
def test_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    sizes = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_inner": 8, "vocab_size": 11, "n_positions": 6}
    config = transformers.GPT2Config(**sizes, tie_word_embeddings=False)
    models = [transformers.GPT2LMHeadModel(config).eval() for _ in range(3)]
    for name, model in zip("abc", models, strict=True):
        model.save_pretrained(f"runs/{name}")
    ids = torch.randint(0, 11, (200, 6))
    mask = torch.ones_like(ids)
    census = cs.Census(n_resamples=0).fit(cs.Population.from_modules(models, ids, output="logits"), ids)
    names: dict[str, object] = {
        "cs": cs,
        "models": models,
        "input_ids": ids,
        "ids": ids,
        "mask": mask,
        "census": census,
    }
    names["AutoModelForCausalLM"] = transformers.AutoModelForCausalLM
    names = ran("transformers.md", names)
    assert names["population"].inputs is not None
    assert names["net"].config.n_embd == 16
    with torch.no_grad():
        torch.testing.assert_close(names["net"](ids).logits, cs.assemble(census, "2x")(ids).logits)


def test_recovery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran("recovery.md", {})
    assert {path.name for path in tmp_path.iterdir()} == {"X.npy", "Y.npy"}
