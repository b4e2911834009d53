"""The census of heads: heads are compared by what they add, whatever basis their features are written in."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from consilience.assembly.assembler import assemble
from consilience.baselines import activation_matching, orthogonal_matching
from consilience.census.census import Census
from consilience.nets import GPT, Llama
from consilience.population.population import Population
from consilience.units.deviation import deviation

HEADS, INSIDE = 4, 3


def rewritten(net: GPT, seed: int) -> GPT:
    """A copy with heads in another order, each in another basis inside: the same function."""
    generator, twin = torch.Generator().manual_seed(seed), copy.deepcopy(net)
    for block in twin.blocks:
        attention, order = block.attention, torch.randperm(HEADS, generator=generator)

        def turned(rows: Tensor, by: Tensor, order: Tensor = order) -> Tensor:
            return (by @ rows.unflatten(0, (HEADS, INSIDE))[order]).flatten(0, 1)

        keys, values = (torch.randn(HEADS, INSIDE, INSIDE, generator=generator) for _ in range(2))
        inverse_keys, inverse_values = (torch.linalg.inv(by).transpose(1, 2) for by in (keys, values))
        with torch.no_grad():
            for map_, by in ((attention.q, inverse_keys), (attention.k, keys), (attention.v, values)):
                map_.weight.copy_(turned(map_.weight, by))
                if map_.bias is not None:
                    map_.bias.copy_(turned(map_.bias[:, None], by)[:, 0])
            attention.o.weight.copy_(turned(attention.o.weight.T, inverse_values).T)
    return twin


def test_heads_that_are_written_in_other_bases_are_one_cluster() -> None:
    torch.manual_seed(0)
    net = GPT(11, 6, width=12, heads=(HEADS, HEADS), mlp_widths=(8, 8), head_width=INSIDE).eval()
    members, x = [net, rewritten(net, 1), rewritten(net, 2)], torch.randint(0, 11, (60, 6))
    with torch.no_grad():
        assert deviation(members[1](x), net(x)) < 1e-4
    population = Population.from_modules(members, x[:4], task="next-token")
    census = Census(n_resamples=0, n_clusters={"blocks.0.attention.q": HEADS}).fit(population, x)
    layer = census.layers_["blocks.0.attention.q"]
    assert layer.n_units == 3 * HEADS
    assert layer.frequency_.tolist() == [1.0] * HEADS
    assert layer.size_.tolist() == [3] * HEADS
    network = assemble(census, "1x", choice="cut", correction="none")
    with torch.no_grad():
        assert deviation(network(x), net(x)) < 2e-4


def rotated(net: Llama, seed: int) -> Llama:
    """A copy whose stream is turned: the same function, since the gains of its norms are 1."""
    turn = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(seed)))[0]
    twin = copy.deepcopy(net)
    with torch.no_grad():
        for name, weight in twin.named_parameters():
            if name.split(".")[-2] in ("o", "down"):
                weight.copy_(turn.T @ weight)
            elif weight.dim() == 2:
                weight.copy_(weight @ turn)
    return twin


def test_turned_copies_of_a_network_are_assembled_to_it() -> None:
    torch.manual_seed(0)
    net = Llama(11, 6, width=12, heads=(2, 2), mlp_widths=(8, 8), head_width=4).eval()
    members, x = [rotated(net, seed) for seed in range(3)], torch.randint(0, 11, (80, 6))
    with torch.no_grad():
        assert deviation(members[1](x), net(x)) < 1e-4
    census = Census(n_resamples=0).fit(Population.from_modules(members, x[:4], task="next-token"), x)
    network = assemble(census, "1x", choice="cut")
    matched = orthogonal_matching(census.population_, reference=1, calibration=x)
    with torch.no_grad():
        assert deviation(network(x), net(x)) < 2e-4
        assert deviation(matched(x), net(x)) < 2e-4


def test_averages_over_rotations_know_the_gains_of_norms() -> None:
    torch.manual_seed(0)
    net = GPT(11, 6, width=12, heads=(2,), mlp_widths=(8,)).eval()
    twin, x = copy.deepcopy(net), torch.randint(0, 11, (80, 6))
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "norm" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
        twin.load_state_dict(net.state_dict())
        mlp, order = twin.blocks[0].mlp, torch.randperm(8)
        mlp.up.weight.copy_(mlp.up.weight[order])
        mlp.up.bias.copy_(mlp.up.bias[order])
        mlp.down.weight.copy_(mlp.down.weight[:, order])
    population = Population.from_modules([net, twin], x[:4], task="next-token")
    with torch.no_grad():
        assert deviation(orthogonal_matching(population, calibration=x)(x), net(x)) < 2e-4


def test_permutations_do_not_undo_rotations() -> None:
    torch.manual_seed(0)
    net = Llama(11, 6, width=12, heads=(2,), mlp_widths=(8,), head_width=4).eval()
    x = torch.randint(0, 11, (80, 6))
    population = Population.from_modules([net, rotated(net, 0)], x[:4], task="next-token")
    with torch.no_grad():
        assert deviation(activation_matching(population, calibration=x)(x), net(x)) > 0.1
