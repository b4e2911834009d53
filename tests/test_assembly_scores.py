"""Queries and keys of heads merged over a cluster."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor

from consilience.assembly import build, scores
from consilience.assembly.assembler import Assembler
from consilience.assembly.choice import CensusPlan, cut_at
from consilience.assembly.draft import Draft
from consilience.assembly.scores import Scores
from consilience.census.census import Census
from consilience.nets import GPT, Llama
from consilience.population.population import Population
from consilience.units.architecture import TracedNetwork
from consilience.units.maps import Map


def test_a_product_becomes_the_nearest_one_of_its_rank() -> None:
    draws = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 6, 5, generator=draws, dtype=torch.float64)
    x, y = scores._nearest(left, right, 2)
    strengths = torch.linalg.svdvals(left.T @ right)
    assert float((left.T @ right - x.T @ y).square().sum()) == pytest.approx(float(strengths[2:].square().sum()))
    torch.testing.assert_close(x.square().sum(1), y.square().sum(1))
    x, y = scores._nearest(left[:, :2], right, 3)  # fewer entries than rows
    torch.testing.assert_close(x.T @ y, left[:, :2].T @ right)
    assert not x[2].any()


def found(network: TracedNetwork) -> list[Scores]:
    architecture = network.architecture
    return [found for m in architecture.maps for found in Scores.completed_by(m, architecture)]


def test_scores_are_queries_times_keys_or_of_another_form() -> None:
    x = torch.randint(0, 9, (4, 6))
    (gpt,), (llama,) = (
        Population.from_modules([net(9, 6, width=8, heads=(2,), mlp_widths=(6,)).eval()], x).networks
        for net in (GPT, Llama)
    )
    one, other = found(gpt)
    assert [one.queries.name, one.keys.name] == ["blocks.0.attention.q", "blocks.0.attention.k"]
    assert one.multiple(gpt, x) == pytest.approx(4**-0.5, rel=1e-4)
    assert other.multiple(gpt, x) is None  # what attends and what is attended to are not exchanged
    assert [each.multiple(llama, x) for each in found(llama)] == [None, None]  # rotary positions


def centred_logs(each: Scores, network: TracedNetwork, x: Tensor) -> Tensor:
    logs = each.heads.patterns(network, x).double().log()
    seen = logs.isfinite()
    return scores._centred(logs.masked_fill(~seen, 0), seen)[seen]


def test_a_cluster_has_the_mean_scores_of_its_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    one = GPT(9, 6, width=8, heads=(1,), mlp_widths=(6,)).eval()
    other, x = deepcopy(one), torch.randint(0, 9, (200, 6))
    for net, rows in ((one, slice(4)), (other, slice(4, 8))):  # scores of rank 4 each, so that their mean fits a head
        attention = net.blocks[0].attention
        for m in (attention.q, attention.k):
            with torch.no_grad():
                kept = torch.randn(8, 8)
                m.weight.zero_()
                m.weight[rows] = kept[rows]
                m.bias.copy_(torch.randn(8))
    merged: list[Draft] = []

    def kept_draft(draft: Draft, m: Map) -> Draft:
        after = scores.with_merged_scores(draft, m)
        if after is not draft:
            merged.append(after)
        return after

    monkeypatch.setattr(build, "with_merged_scores", kept_draft)
    population = Population.from_modules([one, other], x[:4], task="next-token")
    Assembler(Census(n_resamples=0).fit(population, x)).assemble({"heads": 1, "stream": "2x"}, choice="cut")
    network = merged[0].network
    each = found(network)[0]
    left, right = (centred_logs(each, member, x[:20]) for member in population.networks)
    now = centred_logs(each, network, x[:20])
    share = float(((now - right) * (left - right)).sum() / (left - right).square().sum())
    assert 0.3 < share < 0.7
    assert float((now - share * left - (1 - share) * right).abs().max()) < 1e-3 * float(now.abs().max())


def test_heads_of_whole_members_stay_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    nets, x = [GPT(9, 6, width=8, heads=(2,), mlp_widths=(6,)).eval() for _ in range(3)], torch.randint(0, 9, (60, 6))
    census = Census(n_resamples=0).fit(Population.from_modules(nets, x[:4], task="next-token"), x)
    contest, widths, merged = Assembler(census)._contest, dict(census.population_.architecture.widths), list[bool]()
    widths = {name: widths[name] for name in census.layers_}

    def noted(draft: Draft, m: Map) -> Draft:
        after = scores.with_merged_scores(draft, m)
        merged.append(after is not draft)
        return after

    monkeypatch.setattr(build, "with_merged_scores", noted)
    for choice, expected in ((contest._alone(0, widths), False), (cut_at(census, widths), True)):
        merged.clear()
        contest.builder.hidden(widths, CensusPlan(census, choice), "least-squares")
        assert any(merged) == expected
