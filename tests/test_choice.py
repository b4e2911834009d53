"""The choice by what counts: never further from the ensemble than the nearest member, and what is said about it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import consilience.assembly.draft
from conftest import inputs, random_mlp, random_population
from consilience.assembly import Assembler, assemble
from consilience.assembly.build import LAYERWISE
from consilience.assembly.contest import Entry, best_of
from consilience.assembly.draft import Draft
from consilience.assembly.pooling import pooled
from consilience.assembly.record import Candidate
from consilience.assembly.side_by_side import side_by_side
from consilience.baselines import Ensemble
from consilience.baselines.distil import nearest_member
from consilience.census import Census
from consilience.errors import CalibrationWarning
from consilience.nets import GPT, ConvNet, ResNet
from consilience.population import Population
from consilience.signals.held_out import held_out
from consilience.store import save_network
from consilience.units.maps import Map, Weights
from consilience.units.same import settings
from test_assembly import assert_same_function, outputs
from zoo import shaken

pytestmark = pytest.mark.numerical

X, FRESH = inputs(200, seed=1), inputs(100, seed=2)
IMAGES = torch.randn(60, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def errors(y: Tensor, t: Tensor) -> Tensor:
    """KL divergence (n,) at temperature 2, as it is defined."""
    p, q = (t / 2).softmax(1), (y / 2).softmax(1)
    return (p * (p / q).log()).sum(1)


def of_images(make: Callable[[int], nn.Module]) -> Population:
    modules = [shaken(make(seed), seed).eval() for seed in range(3)]
    return Population.from_modules(modules, IMAGES[:4], task="classification")


def unequal(seed: int) -> Population:
    nets = [random_mlp((w, 4), "tanh", seed=10 * seed + w) for w in (5, 7, 6)]
    return Population.from_modules(nets, X[:4], task="classification")


POPULATIONS: Mapping[str, Callable[[], tuple[Population, Tensor]]] = {
    "unequal widths": lambda: (unequal(0), X),
    "unequal widths, again": lambda: (unequal(1), X),
    "convnet": lambda: (of_images(lambda seed: ConvNet(3, [(4, 5), (4, 5), (6, 5)][seed], 4, batch_norm=True)), IMAGES),
    "resnet": lambda: (of_images(lambda _: ResNet(3, (3, 4), 4, 1)), IMAGES),
}


@pytest.mark.parametrize("pooling", ["mean", "class-share"])
@pytest.mark.parametrize("name", POPULATIONS)
def test_no_width_is_further_from_the_ensemble_than_the_nearest_member_that_fits(name: str, pooling: str) -> None:
    population, x = POPULATIONS[name]()
    assembler = Assembler(Census(n_resamples=0).fit(population, x), pooling=pooling)
    held = held_out(len(x))[1]
    members = [outputs(member.module, x) for member in population]
    weights = assembler.builder.pooling
    ensemble = torch.stack([y * share for y, share in zip(members, weights, strict=True)]).sum(0)
    all_errors = [errors(y, ensemble) for y in members]
    layers = population.architecture.free
    for width in (1, 2):
        asked = {layer.name: width * population.median_width(layer.name) for layer in layers}
        fits = [
            all(population.widths(layer)[k] <= units for layer, units in asked.items()) for k in range(len(population))
        ]
        nearest = min((k for k, fit in enumerate(fits) if fit), key=lambda k: float(all_errors[k].mean()))
        best = float(all_errors[nearest][held].mean())
        net = assembler.assemble(f"{width}x")
        assert float(errors(outputs(net, x[held]), ensemble[held]).mean()) <= best * (1 + 1e-4)
        kept = min(candidate.error for candidate in net.assembly_.candidates)
        assert kept <= 4 * best * (1 + 1e-4)  # T² times the divergence


def test_members_are_compared_on_all_rows_since_none_was_fitted_to_them() -> None:
    def nearest(population: Population, rows: Tensor) -> int:
        logits = population.logits(X)
        return int(torch.stack([errors(y, logits.mean(0))[rows].mean() for y in logits]).argmin())

    held = held_out(len(X))[1]
    populations = (planted(list(range(start, start + 4)), 0.0) for start in range(0, 80, 4))
    population = next(each for each in populations if nearest(each, held) != nearest(each, torch.arange(len(X))))
    expected = nearest(population, torch.arange(len(X)))
    assert nearest_member(population, X) == expected
    compared = assemble(Census(n_resamples=0).fit(population, X), "1x").assembly_.candidates
    assert [each.choice for each in compared if each.correction == "none"] == [f"member {expected}"]


def planted(seeds: list[int], noise: float, hidden: tuple[int, ...] = (6, 5)) -> Population:
    """Networks of these seeds, each with noise of its own on the weights."""
    nets = []
    for k, seed in enumerate(seeds):
        net = random_mlp(hidden, "tanh", seed=seed)
        generator = torch.Generator().manual_seed(k)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter += noise * parameter.std() * torch.randn(parameter.shape, generator=generator)
        nets.append(net)
    return Population.from_modules(nets, X[:4], task="classification")


def test_noisy_copies_are_merged_and_strangers_are_not() -> None:
    noisy = assemble(Census(n_resamples=0).fit(planted([3] * 8, 0.2), X), "1x")
    assert noisy.assembly_.choice in ("cut", "reconstruction")
    assert all(layer.merged for layer in noisy.assembly_.layers.values())

    strangers = [random_mlp((4, 4, 4), "tanh", seed=seed) for seed in range(6)]
    with torch.no_grad():
        strangers[2].readout.weight *= 100  # the ensemble is this member, but for a hundredth
    population = Population.from_modules(strangers, X[:4], task="classification")
    alone = assemble(Census(n_resamples=0).fit(population, X), "1x").assembly_
    assert alone.choice == "member 2"
    assert all(layer.members == {2: 4} and layer.merged == 0 for layer in alone.layers.values())


def test_copies_of_one_network_give_it_back_though_a_unit_has_tiny_weight() -> None:
    net = random_mlp((6, 5), "relu", seed=4)
    with torch.no_grad():
        net.hidden[1].weight[:, 2] *= 1e-4
    population = Population.from_modules([net] * 3, X[:4])
    assert_same_function(assemble(Census(n_resamples=0).fit(population, X), "1x"), net, FRESH, 1e-5)


def half_dead(width: int, seed: int) -> nn.Module:
    net = random_mlp((width,), "relu", seed=seed)
    with torch.no_grad():
        net.hidden[0].weight[::2], net.hidden[0].bias[::2] = 0, -1
    return net


@pytest.mark.parametrize(
    ("widths", "width", "expected"),
    [((8, 8), "2x", 16), ((8,), "1x", 8), ((8, 12), "2x", 20), ((8,), "2x", 8), ((8, 8), 11, 11)],
)
def test_dead_units_are_used_while_there_is_room(widths: tuple[int, ...], width: int | str, expected: int) -> None:
    population = Population.from_modules([half_dead(w, w) for w in widths], X[:4])
    census = Census(n_resamples=0).fit(population, X)
    asked = {"2x": 2 * max(widths), "1x": max(widths)}.get(str(width), width)
    if asked != expected:
        with pytest.warns(UserWarning, match=f"should be at most {expected}, got {asked}: the assembly takes every"):
            net = assemble(census, width)
    else:
        net = assemble(census, width)
    assert net.config.widths == (expected,)
    if expected == sum(widths):
        assert_same_function(net, Ensemble(population), FRESH, 1e-5)


def test_full_width_looks_at_no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    population = random_population([[6, 5], [5, 5]])
    census = Census(n_resamples=0).fit(population, X)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the unfinished network ran")

    monkeypatch.setattr(consilience.assembly.draft, "stream", refuse)
    monkeypatch.setattr(consilience.assembly.draft, "rows_of", refuse)
    net = assemble(census, "full")
    assert (net.assembly_.choice, net.assembly_.correction, net.assembly_.candidates) == ("all units", "none", ())
    assert_same_function(net, Ensemble(population), FRESH, 1e-5)


def test_the_record_stays_with_the_network_and_out_of_its_artefact(tmp_path: Path) -> None:
    census = Census(n_resamples=0).fit(unequal(2), X)
    nets = [assemble(census, "1x") for _ in range(2)]
    assert nets[0].assembly_ == nets[1].assembly_
    assert copy.deepcopy(nets[0]).assembly_ == nets[0].assembly_
    assert sum(layer.width for layer in nets[0].assembly_.layers.values()) == sum(nets[0].config.widths)
    first, second = (save_network(net, tmp_path / str(i)) for i, net in enumerate(nets))
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()


class ReadTwice(nn.Module):
    """A stream that is read in two places and added to late."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.out = nn.Linear(6, 5), nn.Linear(5, 3)
        self.skip, self.c, self.late = (nn.Linear(5, 5) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """Return outputs (n, 3)."""
        x = self.stem(x)
        y = self.skip(x)
        x = x + torch.relu(self.c(torch.relu(x)))
        return self.out(y + self.late(x))


def test_a_record_changes_no_program() -> None:
    """Networks with other records are trained side by side, and one trace serves them all."""
    assembler = Assembler(Census(n_resamples=0).fit(unequal(0), X))
    first, second = (assembler.assemble(4, correction=correction) for correction in ("least-squares", "none"))
    assert first.assembly_ != second.assembly_
    assert settings(first) == settings(second)


def test_a_stream_that_is_read_twice_and_added_to_late_needs_no_data() -> None:
    population = Population.from_modules([shaken(ReadTwice(), seed) for seed in range(3)], X[:4])
    census = Census("weights", "cosine", n_resamples=0).fit(population)
    assert assemble(census, "1x", correction="none")(FRESH).shape == (100, 3)
    assert_same_function(assemble(census, "full", correction="none"), Ensemble(population), FRESH, 1e-5)


def test_members_side_by_side_are_those_that_a_fitted_readout_needs_most() -> None:
    """Against least squares on every set of members."""
    census = Census(n_resamples=0).fit(random_population([[4]] * 5, "tanh"), X)
    responses, pooling = census.responses_, torch.full((5, 3), 0.2)
    chosen = side_by_side(responses, pooling, lambda members: len(members) <= 3)
    (axis,) = census.population_.architecture.read("hidden.0")
    targets = pooled(responses, pooling).double()
    ones = torch.ones(len(X), 1, dtype=torch.float64)

    def left(members: list[int]) -> float:
        a = torch.cat([ones, *(responses.at(axis)[k].double() for k in members)], dim=1)
        return float((targets - a @ torch.linalg.lstsq(a, targets).solution).square().sum())

    assert len(chosen) == 3
    for step, member in enumerate(chosen):
        errors = {k: left([*chosen[:step], k]) for k in range(5) if k not in chosen[:step]}
        assert errors[member] <= min(errors.values()) * (1 + 1e-2)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            X[:10],
            r"10 samples, 10 rows for 17 unknowns of each unit of 'readout' and too few to hold any out .*; pass 34",
        ),
        (X[:3].repeat(20, 1), "3 samples and 57 copies of them, 3 rows for 17 unknowns"),
        (X[:30], "30 samples, 30 rows for 17 unknowns of each unit of 'readout': the network may be worse"),
        (X[:60] * 100, "x has a spread of .* where the members' example inputs have .*: scale the samples"),
        (X[:60] + 100, "x has a mean of .* where the members' example inputs have .*: scale the samples"),
    ],
)
def test_strange_calibration_data_is_said_once(x: Tensor, message: str) -> None:
    population = random_population([[8], [8], [8]])
    with pytest.warns(CalibrationWarning, match=message) as warnings:
        assemble(Census(n_resamples=0).fit(population, x), "2x")
    assert len(warnings) == 1


@pytest.mark.parametrize("correction", ["least-squares", "second-order", "distill"])
def test_of_too_few_samples_the_nearest_member_is_taken(correction: str) -> None:
    population = random_population([[8, 4], [8, 4], [8, 4]])
    with pytest.warns(CalibrationWarning, match="a member that fits is returned as it is"):
        net = assemble(Census(n_resamples=0).fit(population, X[:10]), "1x", correction=correction)
    own = population.logits(X[:10])
    nearest = int((own - own.mean(0)).square().div(own.mean(0).var(0, correction=0)).mean((1, 2)).argmin())
    assert net.assembly_.choice == f"member {nearest}"
    assert_same_function(net, population.members[nearest].module, FRESH, 1e-6)


@pytest.mark.parametrize("choice", ["cut", None])
def test_a_correction_that_makes_things_worse_is_undone(monkeypatch: pytest.MonkeyPatch, choice: str | None) -> None:
    census = Census(n_resamples=0).fit(planted([3] * 4, 0.5), X)
    as_built = assemble(census, "frequency>=0.5", correction="none").assembly_

    def harmful(draft: Draft, m: Map) -> Weights:
        weights = draft.network.weights(m)
        return weights.with_matrix(-3 * weights.matrix, weights.bias)

    monkeypatch.setitem(LAYERWISE, "moments", harmful)
    record = assemble(census, "frequency>=0.5", correction="moments", choice=choice).assembly_
    assert record.correction == "none"
    assert record.layers == as_built.layers
    assert [each.correction for each in record.candidates] == ["none", "moments"]


def test_what_distillation_did_is_told_though_it_was_not_kept() -> None:
    census = Census(n_resamples=0).fit(planted([3] * 4, 0.5), X)
    before = assemble(census, "1x", correction="second-order").assembly_
    for rate in (1e-12, 1e-3):
        record = assemble(census, "1x", correction="distill", steps=100, learning_rate=rate).assembly_
        assert record.distillation.kept == (rate > 1e-12)
        nearer = record.candidates[-1].error < min(own.error for own in before.candidates)
        assert record.correction == ("distill" if nearer else before.correction)
        assert record.candidates[:-1] == before.candidates
        assert record.distillation.learning_rate == rate
    assert assemble(census, "1x").assembly_.distillation is None


class NormsAfterSums(nn.Module):
    """A transformer whose norms read the stream and write it again, as in BERT."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(7, 8)
        block = nn.TransformerEncoderLayer(8, 2, 6, batch_first=True)
        self.blocks = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        self.readout = nn.Linear(8, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.readout(self.blocks(self.tokens(x)))
        return out


@pytest.mark.parametrize("make", [lambda: GPT(7, 5, width=8, heads=(2,), mlp_widths=(6,)), NormsAfterSums])
@pytest.mark.parametrize("std", [0.0, 0.3], ids=["the same gains", "other gains"])
def test_a_member_of_attention_is_itself_at_twice_its_width(make: Callable[[], nn.Module], std: float) -> None:
    torch.manual_seed(0)
    nets, x = [make().eval() for _ in range(3)], torch.randint(0, 7, (80, 5))
    for net in nets:
        for name, parameter in net.named_parameters():
            if "norm" in name:
                nn.init.normal_(parameter, mean=1.0, std=std)
    census = Census(n_resamples=0).fit(Population.from_modules(nets, x[:4], task="next-token"), x)
    contest = Assembler(census)._contest
    widths = {name: layer.n_units // 3 for name, layer in census.layers_.items()}
    for k in range(3):
        one, two = (contest._member(k, {name: m * width for name, width in widths.items()}) for m in (1, 2))
        assert two.record.error == pytest.approx(one.record.error, abs=1e-5)


def test_a_narrower_member_is_no_candidate_where_norms_would_change_it() -> None:
    nets = [GPT(7, 5, width=width, heads=(width // 4,), mlp_widths=(6,)).eval() for width in (8, 12, 12)]
    x = torch.randint(0, 7, (80, 5))
    population = Population.from_modules(nets, x[:4], task="next-token")
    contest = Assembler(Census(n_resamples=0).fit(population, x))._contest
    others = {name: 6 if "mlp" in name else 3 for name in contest.census.layers_ if name != "tokens"}
    found = [contest._nearest_member({"tokens": width, **others}) for width in (8, 12, 16, 24, 30)]
    assert found[0] == found[2] == 0
    assert found[1] in (1, 2)
    assert found[3] is not None
    assert found[4] is None


def test_a_member_stays_unless_another_network_is_nearer_beyond_doubt() -> None:
    errors = torch.tensor([1.0, 2.0, 3.0, 2.0] * 10)

    def entry(by: torch.Tensor, stays: bool = False) -> Entry:
        own = errors + by
        return Entry(Candidate("cut", "none", float(own.mean()), None), None, {}, own, stays)  # type: ignore[arg-type]

    member = entry(torch.zeros(()), stays=True)
    noise = torch.tensor([1.0, -1.0] * 20)
    assert best_of([entry(-0.1 + noise), member]) == 1  # 0.6 standard errors
    assert best_of([entry(-0.4 + noise), member]) == 0  # 2.5 of them
    assert best_of([entry(-0.1 + noise), entry(-0.2 + noise)]) == 1  # no member
    assert best_of([entry(-0.5 + 2 * noise), member, entry(-0.4 + noise)]) == 2  # the nearest is not the surest
