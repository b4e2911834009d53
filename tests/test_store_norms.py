"""Networks whose norms have a group of units for each member come back from disk as they were."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor, nn

import consilience as cs
from conftest import run
from consilience.errors import ArtefactError, InputError
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


class Normed(nn.Module):
    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.hidden, self.norm, self.out = nn.Linear(8, width), nn.LayerNorm(width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.norm(self.hidden(x))))


def test_a_network_at_full_width_is_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its tensors fit the class, whose norm would mix the members' units."""
    monkeypatch.chdir(tmp_path)
    x = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    population = cs.Population.from_modules([Normed(), Normed()], x)
    cs.save_census(cs.Census(n_resamples=0).fit(population, x), "census", population.save("population"))
    own = ["--module", "test_store_norms:Normed"]
    full = ["--width", "full", "--correction", "none", "--out", "net", "--json"]
    written = run(capsys, "assemble", "census", *own, *full)
    net = eval(json.loads(written)["load"], {"consilience": cs, "module": Normed(24)})
    torch.testing.assert_close(net(x), population.logits(x).mean(0), rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match=r"net must have networks with plain norms, got groups of units, .* at 'norm'"):
        cs.Population.from_directory("net", Normed, x)


class Beside(nn.LayerNorm):
    def forward(self, input: Tensor) -> Tensor:
        return input + super().forward(input)


class Response(nn.Module):
    """The size of each unit beside the mean of all, as in global response norm: no layer norm or RMS norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(1, width) + 0.5), nn.Parameter(torch.rand(1, width))

    def forward(self, x: Tensor) -> Tensor:
        size = x.square()
        return self.weight * (x * (size / (size.mean(-1, keepdim=True) + 1e-6))) + self.bias + x


@pytest.mark.parametrize("kind", [Beside, Response])
def test_a_module_that_is_more_than_a_norm_is_not_taken_for_one(kind: type[nn.Module]) -> None:
    nets, x = [Normed(), Normed()], torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    for net in nets:
        net.norm = kind(12)
    census = cs.Census(n_resamples=0).fit(cs.Population.from_modules(nets, x), x)
    with pytest.warns(UserWarning, match="should be the ensemble, got norms or means over units of 'hidden' that mix"):
        full = cs.assemble(census, "full")
    assert full(x).shape == (40, 3)


def test_full_width_of_a_net_of_the_transformers_library(tmp_path: Path) -> None:
    net = full_width([theirs(0), theirs(1)], output="logits")
    cs.save_network(net, tmp_path / "net")
    again = cs.load_network(tmp_path / "net", theirs(2, width=16))
    with torch.no_grad():
        assert torch.equal(again(IDS).logits, net(IDS).logits)


class SideBySide(nn.Module):
    """A layer norm over two layers of different functions."""

    shape = (5,)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = nn.Linear(5, 4), nn.Linear(5, 6), nn.LayerNorm(10)
        self.c, self.readout = nn.Linear(10, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        side_by_side = torch.cat([torch.relu(self.a(x)), torch.tanh(self.b(x))], 1)
        return self.readout(torch.relu(self.c(self.norm(side_by_side))))


class CutAfterwards(nn.Module):
    """An RMS norm over a layer of which two parts are then multiplied."""

    shape = (5,)

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.c, self.readout = nn.Linear(5, 8), nn.RMSNorm(8), nn.Linear(4, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        values, gates = self.norm(self.a(x)).chunk(2, 1)
        return self.readout(torch.relu(self.c(values * torch.sigmoid(gates))))


class InGroups(nn.Module):
    """A group norm in several groups, or in one, over channels and positions."""

    shape = (5, 4, 4)

    def __init__(self, groups: int = 3) -> None:
        super().__init__()
        self.a, self.norm, self.readout = nn.Conv2d(5, 6, 3), nn.GroupNorm(groups, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(torch.relu(self.norm(self.a(x))).mean((2, 3)))


class ChannelsFirst(nn.LayerNorm):
    """A layer norm over channels that come before positions, as ConvNeXt has it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class OfChannels(InGroups):
    """The same with such a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = ChannelsFirst(6)


class ByHand(nn.Module):
    """A layer norm as people write it, of channels before positions."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(units)), nn.Parameter(torch.zeros(units))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        x = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class WithVariance(ByHand):
    """The same by its variance, of units that come last."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.movedim(1, -1)
        x = (x - x.mean(-1, keepdim=True)) * torch.rsqrt(x.var(-1, unbiased=False, keepdim=True) + 1e-6)
        return (x * self.weight + self.bias).movedim(-1, 1)


def of_norm(norm: nn.Module) -> nn.Module:
    net = InGroups()
    net.norm = norm
    return net


HAND = (lambda: of_norm(ByHand(6)), lambda: of_norm(WithVariance(6)))


@pytest.mark.parametrize("kind", [SideBySide, CutAfterwards, InGroups, lambda: InGroups(1), OfChannels, *HAND])
def test_norms_of_several_layers_or_in_groups_keep_members_apart(kind: Callable[[], nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    nets = [kind() for _ in range(3)]
    for net in nets:
        for value in net.norm.parameters():
            nn.init.normal_(value)
    x = torch.randn(40, *nets[0].shape)
    population = cs.Population.from_modules(nets, x[:8])
    assert {norm.module for norm in population.architecture.statistics} == {"norm"}
    full = cs.assemble(cs.Census(n_resamples=0).fit(population, x), "full")
    cs.save_network(full, tmp_path / "net")
    mixed, outputs, expected = copy.deepcopy(full), full(x), population.logits(x).mean(0)
    mixed.norm.grouping = replace(mixed.norm.grouping, together=(0,) * len(mixed.norm.grouping.groups))
    assert torch.allclose(outputs, expected, atol=1e-5)
    assert not torch.allclose(mixed(x), expected, atol=1e-2)
    with torch.no_grad():
        mixed.norm.weight.zero_()
    assert torch.equal(cs.load_network(tmp_path / "net", mixed)(x), outputs)


def test_a_plain_net_is_not_read_into_grouped_norms(tmp_path: Path) -> None:
    net = own(0)
    cs.save_network(net, tmp_path / "net")
    grouped = copy.deepcopy(net)
    path = next(path for path, part in net.named_modules() if isinstance(part, nn.LayerNorm))
    regroup(grouped, {path: Grouping((4, 4), True, 1e-5, 0.0)})
    with pytest.raises(ArtefactError, match=f"module must have a plain norm at '{path}'"):
        cs.load_network(tmp_path / "net", grouped)
