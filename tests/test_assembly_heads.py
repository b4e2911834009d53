"""Values and outgoing weights of heads fitted together, positions that reach the outputs, and directions of streams."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from by_head import gpt_by_head
from consilience.assembly import build, directions, heads
from consilience.assembly.assembler import Assembler
from consilience.assembly.draft import Draft
from consilience.assembly.heads import HeadMoments, _root
from consilience.assembly.layerwise import least_squares, target_of
from consilience.census.census import Census
from consilience.nets import GPT, ViT
from consilience.population.population import Population
from consilience.signals.held_out import held_out
from consilience.signals.moments import Moments
from consilience.signals.positions import positions_read
from consilience.signals.responses import Responses
from consilience.units.axes import Sampling
from consilience.units.maps import Map


def random_moments(n_heads: int = 3, entries: int = 5, rows: int = 4) -> HeadMoments:
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(200, n_heads * entries, generator=draws) @ torch.randn(15, 15, generator=draws)[: n_heads * entries]
    x = x[:, : n_heads * entries]
    t = torch.randn(200, n_heads * entries, generator=draws)[:, :rows] + x[:, :rows].tanh()
    sums = Moments(n_heads * entries, rows)
    sums.add(x, t)
    return HeadMoments.of(sums, n_heads)


def test_one_head_becomes_the_nearest_map_of_its_rank() -> None:
    moments = random_moments(n_heads=1)
    features, cross = moments.features[0, :, 0], moments.cross[:, 0]
    root = torch.linalg.cholesky(features)
    strengths = torch.linalg.svdvals(torch.linalg.solve_triangular(root, cross.T, upper=False))
    start = torch.zeros(1, 2, 5, dtype=torch.float64), torch.zeros(1, 4, 2, dtype=torch.float64)
    values = moments.heads(*start, strength=1e-12)
    error = moments.error(values, moments.outgoing(values))
    assert error == pytest.approx(1 - float(strengths[:2].square().sum()) / moments.variance, abs=1e-5)


def test_each_sweep_over_heads_lowers_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    moments, draws = random_moments(), torch.Generator().manual_seed(1)
    values = torch.randn(3, 2, 5, generator=draws, dtype=torch.float64)
    outgoing, errors = moments.outgoing(values), [moments.error(values, moments.outgoing(values))]
    for sweeps in (1, 2, 3):
        monkeypatch.setattr(heads, "SWEEPS", sweeps)
        fitted = moments.heads(values, outgoing, strength=1e-12)
        errors.append(moments.error(fitted, moments.outgoing(fitted)))
    assert errors[0] - errors[1] > 0.05
    assert errors[1] >= errors[2] - 1e-9
    assert errors[2] >= errors[3] - 1e-9


def gpts(n: int = 2, *, by_head: bool = False) -> Population:
    torch.manual_seed(0)
    nets = [
        gpt_by_head(9, 6, 8, 4, 6) if by_head else GPT(9, 6, width=8, heads=(4,), mlp_widths=(6,)) for _ in range(n)
    ]
    for net in nets:
        for parameter in net.parameters():
            nn.init.normal_(parameter, std=0.7)
    return Population.from_modules(nets, torch.randint(0, 9, (4, 6)), task="next-token")


@pytest.mark.parametrize("by_head", [False, True], ids=["three weights", "one weight, by head"])
def test_fitted_heads_are_nearer_to_their_target_on_held_out_samples(
    monkeypatch: pytest.MonkeyPatch, by_head: bool
) -> None:
    population, x, compared = (
        gpts(by_head=by_head),
        torch.randint(0, 9, (400, 6), generator=torch.Generator().manual_seed(1)),
        [],
    )

    def error(draft: Draft, m: Map) -> float:
        draft = draft.with_weights(m, least_squares(draft, m))
        held = draft.subset(held_out(len(draft.responses.x))[1])
        return float((target_of(held, m) - held.rows(m.output)).square().mean())

    def fitted(draft: Draft, m: Map) -> Draft:
        after = heads.with_fitted_heads(draft, m)
        if after is not draft:
            compared.append((error(draft, m), error(after, m)))
        return after

    monkeypatch.setattr(build, "with_fitted_heads", fitted)
    Assembler(Census(n_resamples=0).fit(population, x)).assemble("1x", choice="cut")
    assert compared
    assert all(after < 0.98 * before for before, after in compared)


class Squashed(GPT):
    """A GPT with heads that pass through a function that is not linear."""

    def __init__(self) -> None:
        super().__init__(9, 6, width=8, heads=(2,), mlp_widths=(6,))
        attention = self.blocks[0].attention
        attention.o = nn.Sequential(nn.Tanh(), attention.o)


def test_heads_that_are_not_linear_in_their_values_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x = torch.randint(0, 9, (40, 6))
    population = Population.from_modules([Squashed(), Squashed()], x[:4], task="next-token")
    left: list[Any] = []

    def fitted(draft: Draft, m: Map) -> Draft:
        if m.inputs[0].inside > 1:
            left.append(heads.with_fitted_heads(draft, m) is draft)
        return draft

    monkeypatch.setattr(build, "with_fitted_heads", fitted)
    Assembler(Census(n_resamples=0).fit(population, x)).assemble("1x", choice="cut")
    assert left
    assert all(left)


class LargestPosition(nn.Module):
    """Reads the largest value over positions, of which most are not the largest in a few samples."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv1d(1, 2, 1), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.b(self.a(x).relu().amax(2))
        return result


def read_positions(net: nn.Module, x: Tensor) -> dict[str, list[int]]:
    population = Population.from_modules([net], x[:4])
    found = positions_read(population.members[0].network, x)
    return {f"{axis.layer} {axis.name}": reached.nonzero()[:, 0].tolist() for axis, reached in found.items()}


def test_the_last_block_of_a_vit_reaches_the_outputs_at_its_class_token_alone() -> None:
    net = ViT(1, 8, 4, 3, width=8, heads=(2, 2), mlp_widths=(6, 6))
    found = read_positions(net, torch.rand(8, 1, 8, 8))
    layers = sorted(name.split()[0] for name in found)
    assert layers == ["blocks.1.attention.q", "blocks.1.mlp.up", "blocks.1.norm2", "norm", "patches", "patches"]
    assert all(positions == [0] for positions in found.values())


def test_positions_without_a_slope_may_still_reach_the_outputs() -> None:
    assert read_positions(LargestPosition(), torch.rand(8, 1, 50)) == {}


class Padded(nn.Module):
    """Leaves positions of token 0 out of the mean over positions."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Embedding(9, 4), nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.b(self.a(x)).relu()
        result: Tensor = self.c(torch.where((x > 0)[:, :, None], h, torch.zeros(())).mean(1))
        return result


def test_what_is_padding_in_the_first_samples_may_reach_the_outputs_in_others() -> None:
    x = torch.randint(1, 9, (200, 6), generator=torch.Generator().manual_seed(0))
    x[torch.arange(6) > torch.arange(200)[:, None] // 34] = 0  # sorted by their length
    assert read_positions(Padded(), x) == {}
    assert {tuple(at) for at in read_positions(Padded(), x[:30]).values()} == {(0,)}


def test_places_come_in_one_order_in_every_process() -> None:
    net = ViT(1, 8, 4, 3, width=8, heads=(2, 2), mlp_widths=(6, 6))
    network = Population.from_modules([net], torch.rand(4, 1, 8, 8)).members[0].network
    found = positions_read(network, torch.rand(8, 1, 8, 8))
    assert [*found] == [m.output for m in network.architecture.maps if m.output in found]


def test_positions_that_reach_the_outputs_are_in_every_sample() -> None:
    sampling = Sampling(100, 400, {50: torch.tensor([7, 9, 30])})
    sample, position = sampling.rows(0, 100, 50)
    assert all({7, 9} <= set(position[sample == i].tolist()) for i in range(100))  # half of the four rows of a sample
    assert len(set(position.tolist())) > 40
    assert not torch.isin(sampling.rows(0, 100, 49)[1], torch.tensor([7, 9])).view(100, 4).all(0).any()


def test_directions_reproduce_what_is_read_better_than_principal_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    population, x = gpts(3), torch.randint(0, 9, (60, 6), generator=torch.Generator().manual_seed(2))
    responses = Responses([member.network for member in population.members], x)

    def error() -> float:
        """Of what maps read of the streams, from as many directions as a member has units."""
        basis, total = directions._directions(responses, "tokens", 8), 0.0
        values = [z.double() - z.double().mean(1, keepdim=True) for z in responses.read("tokens")]
        shared = sum(z @ mixing.double() for z, mixing in zip(values, basis.mixing, strict=True))
        for network, z, projection in zip(responses.networks, values, basis.projections, strict=True):
            missed = shared @ projection.matrix.double().T - z
            read = [m for m in network.architecture.maps if "norm" in str(m.reads) and not m.per_unit]
            for m in read:
                weights = network.weights(m).matrix.double()
                total += float((missed @ weights.T).square().sum() / (z @ weights.T).square().sum())
        return total

    now = error()
    monkeypatch.setattr(directions, "READ", 0.0)
    assert now < 0.95 * error()


def test_moments_below_zero_by_rounding_have_a_root() -> None:
    moments = torch.diag(torch.tensor([1.0, 1e-3, -1e-5], dtype=torch.float64))
    root = _root(moments, 1e-6)
    penalty = 1e-6 * float(moments.diagonal().mean())
    torch.testing.assert_close(root @ root.T, torch.diag(moments.diagonal().clamp(min=0) + penalty))
