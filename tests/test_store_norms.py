"""Networks whose norms have a group of units for each member come back from disk as they were."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn

import consilience as cs
from consilience.errors import ArtefactError
from consilience.nets import GPT
from consilience.units.grouped import Grouping, groupings, regroup

IDS = torch.randint(0, 11, (40, 6), generator=torch.Generator().manual_seed(0))


def own(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return GPT(11, 6, 8, [2], [8]).eval()


def theirs(seed: int, width: int = 8) -> nn.Module:
    torch.manual_seed(seed)
    sizes = {"n_embd": width, "n_layer": 1, "n_head": width // 4, "n_inner": width}
    config = transformers.GPT2Config(vocab_size=11, n_positions=6, tie_word_embeddings=False, **sizes)
    return transformers.GPT2LMHeadModel(config).eval()


def full_width(nets: list[nn.Module], **options: str) -> nn.Module:
    population = cs.Population.from_modules(nets, IDS[:4], **options)
    return cs.assemble(cs.Census(random_state=0).fit(population, IDS), "full")


def test_full_width_of_a_net_of_this_package(tmp_path: Path) -> None:
    net = full_width([own(0), own(1)])
    cs.save_network(net, tmp_path / "net")
    again = cs.load_network(tmp_path / "net")
    assert {norm.groups for norm in groupings(again).values()} == {(8, 8)}
    with torch.no_grad():
        assert torch.equal(again(IDS), net(IDS))
    config = tmp_path / "net" / "config.json"
    entries = json.loads(config.read_text())
    next(iter(entries["net"]["norms"].values()))["groups"] = [8, 9]
    config.write_text(json.dumps(entries))
    with pytest.raises(ArtefactError, match="has no norm of 17 units"):
        cs.load_network(tmp_path / "net")


def test_full_width_of_a_net_of_the_transformers_library(tmp_path: Path) -> None:
    net = full_width([theirs(0), theirs(1)], output="logits")
    cs.save_network(net, tmp_path / "net")
    again = cs.load_network(tmp_path / "net", theirs(2, width=16))
    with torch.no_grad():
        assert torch.equal(again(IDS).logits, net(IDS).logits)


def test_a_plain_net_is_not_read_into_grouped_norms(tmp_path: Path) -> None:
    net = own(0)
    cs.save_network(net, tmp_path / "net")
    grouped = copy.deepcopy(net)
    path = next(path for path, part in net.named_modules() if isinstance(part, nn.LayerNorm))
    regroup(grouped, {path: Grouping((4, 4), True, 1e-5, 0.0)})
    with pytest.raises(ArtefactError, match=f"module must have a plain norm at '{path}'"):
        cs.load_network(tmp_path / "net", grouped)
