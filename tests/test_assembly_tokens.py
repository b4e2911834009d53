"""Assemblies of networks for tokens: what they are compared by."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

import consilience.signals.responses
from consilience.assembly.assembler import Assembler
from consilience.assembly.nearness import Nearness
from consilience.census.census import Census
from consilience.errors import InputError
from consilience.nets import GPT
from consilience.population.population import Population
from consilience.signals.held_out import held_out


def test_networks_for_tokens_are_compared_by_the_tokens_that_follow() -> None:
    torch.manual_seed(0)
    nets, x = [GPT(7, 5, width=8, heads=(2,), mlp_widths=(6,)).eval() for _ in range(2)], torch.randint(0, 7, (40, 5))
    population = Population.from_modules(nets, x[:4], task="next-token")
    assembler = Assembler(Census(n_resamples=0).fit(population, x))
    nearness = Nearness.to_pooled(assembler.responses, assembler.builder.pooling, "next-token")
    with torch.no_grad():
        logits = nets[0](x)
    expected = functional.cross_entropy(logits[:, :-1].flatten(0, 1), x[:, 1:].flatten())
    assert abs(nearness.error(nearness.outputs(nets[0])) - float(expected)) < 1e-5


def test_single_tokens_tell_no_next_one_and_networks_are_compared_with_the_ensemble() -> None:
    torch.manual_seed(1)
    nets, x = [GPT(60, 4, width=8, heads=(2,), mlp_widths=(6,)).eval() for _ in range(3)], torch.arange(60)[:, None]
    population = Population.from_modules(nets, x[:4], task="next-token")
    network = Assembler(Census(n_resamples=0).fit(population, x)).assemble("2x")
    chosen, *_, member = network.assembly_.candidates
    assert member.correction == "none"
    assert chosen.error < member.error / 4


@pytest.mark.parametrize("task", ["next-token", "classification"])
def test_networks_are_compared_at_positions_that_responses_leave_out(
    task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consilience.signals.responses, "MAX_ROWS", 80)  # two positions of each sample
    torch.manual_seed(3)
    nets, x = [GPT(7, 5, width=8, heads=(2,), mlp_widths=(6,)).eval() for _ in range(2)], torch.randint(0, 7, (40, 5))
    contest = Assembler(Census(n_resamples=0).fit(Population.from_modules(nets, x[:4], task=task), x))._contest
    assert len(contest.responses.at(contest.responses.networks[0].architecture.returned)[0]) == 80
    nearness, held = contest.nearness, x[held_out(40)[1]]
    with torch.no_grad():
        each = torch.stack([net(held) for net in nets])
    torch.testing.assert_close(nearness.reference, each.mean(0).flatten(0, 1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(nearness.outputs(nets[0]), each[0].flatten(0, 1), rtol=1e-5, atol=1e-6)
    if task == "next-token":
        expected = functional.cross_entropy(each[0, :, :-1].flatten(0, 1), held[:, 1:].flatten(), reduction="none")
    else:
        own, ensemble = ((outputs / 2).log_softmax(-1) for outputs in (each[0], each.mean(0)))
        expected = 4 * (ensemble.exp() * (ensemble - own)).sum(-1).mean(1)  # of each sample, at temperature 2
    torch.testing.assert_close(nearness.errors(each[0].flatten(0, 1)).float(), expected, rtol=1e-4, atol=1e-6)
    if task == "next-token":  # members are compared at all positions of all samples
        with torch.no_grad():
            losses = [float(functional.cross_entropy(net(x)[:, :-1].flatten(0, 1), x[:, 1:].flatten())) for net in nets]
        assert contest._members_errors == pytest.approx(losses, rel=1e-5)


@pytest.mark.parametrize("task", ["next-token", "classification"])
def test_a_member_is_kept_in_doubt_where_the_error_is_to_the_ensemble(task: str) -> None:
    nets, x = [GPT(7, 5, width=8, heads=(2,), mlp_widths=(6,)).eval() for _ in range(2)], torch.randint(0, 7, (40, 5))
    contest = Assembler(Census(n_resamples=0).fit(Population.from_modules(nets, x[:4], task=task), x))._contest
    entries = contest.entries({name: layer.n_units // 2 for name, layer in contest.census.layers_.items()}, "none")
    assert sum(entry.stays for entry in entries) == (task == "classification")


def test_second_order_fits_networks_with_attention() -> None:
    torch.manual_seed(1)
    nets, x = [GPT(7, 5, width=8, heads=(2,), mlp_widths=(6,)).eval() for _ in range(2)], torch.randint(0, 7, (40, 5))
    census = Census(n_resamples=0).fit(Population.from_modules(nets, x[:4], task="next-token"), x)
    network = Assembler(census).assemble("1x", correction="second-order")
    candidates = network.assembly_.candidates
    assert any(candidate.correction == "second-order" for candidate in candidates)
    kept = (network.assembly_.choice, network.assembly_.correction)
    (error,) = {c.error for c in candidates if (c.choice, c.correction) == kept}
    assert error == min(c.error for c in candidates)


def test_an_elastic_assembly_shares_the_embeddings_of_its_widest_width() -> None:
    torch.manual_seed(2)
    nets, x = [GPT(7, 5, width=8, heads=(2,), mlp_widths=(6,)).eval() for _ in range(2)], torch.randint(0, 7, (40, 5))
    census = Census(n_resamples=0).fit(Population.from_modules(nets, x[:4], task="next-token"), x)
    elastic = Assembler(census).elastic(["1x", "2x"])
    narrow, wide = elastic.at_width("1x"), elastic.at_width("2x")
    assert torch.equal(narrow.tokens.weight, wide.tokens.weight[:, :8])
    with torch.no_grad():
        assert narrow(x).shape == wide(x).shape == (40, 5, 7)


def test_heads_streams_and_mlps_have_a_width_each() -> None:
    nets, x = (
        [GPT(7, 5, width=8, heads=(2, 2), mlp_widths=(6, 6)).eval() for _ in range(2)],
        torch.arange(20).view(4, 5) % 7,
    )
    census = Census(n_resamples=0).fit(Population.from_modules(nets, x, task="next-token"), x)
    kinds = census.population_.architecture.kinds
    assert sorted(kinds.values()) == ["heads", "heads", "mlp", "mlp", "stream"]
    first = next(name for name, kind in kinds.items() if kind == "mlp")
    net = Assembler(census).assemble({"heads": 3, "stream": "1.5x", "mlp": 7, first: "2x"}, correction="none")
    widths = Population.from_modules([net], x).architecture.widths
    expected = {name: {"heads": 3, "stream": 12, "mlp": 7}[kind] for name, kind in kinds.items()} | {first: 12}
    assert {name: widths[name] for name in kinds} == expected
    with pytest.raises(InputError, match=r"must name layers among .*heads.*, got 'head'\n.*did you mean 'heads'\?"):
        Assembler(census).assemble({"head": 3})
    with pytest.raises(InputError, match="(?s)got 'full'.*cure: use an int or \"2x\" for each"):
        Assembler(census).assemble({"heads": "full"})


def test_a_stream_of_which_norms_leave_nothing_is_refused() -> None:
    nets, x = (
        [GPT(7, 5, width=8, heads=(2,), mlp_widths=(6,)).eval() for _ in range(3)],
        torch.randint(0, 7, (40, 5)),
    )
    census = Census(n_resamples=0).fit(Population.from_modules(nets, x, task="next-token"), x)
    with pytest.raises(InputError, match="width of layer 'tokens' must be at least 2 where norms subtract .* got 1"):
        Assembler(census).assemble({"stream": 1})
