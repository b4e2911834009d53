"""Distillation: from any start, on any data, in any units; never worse than its start, and clear about bad input."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import consilience as cs
from conftest import inputs, random_population
from consilience.baselines import distil, net2wider
from consilience.errors import CalibrationWarning, InputError
from consilience.population import Population, mixtures
from consilience.population.mixtures import with_mixtures

X, FRESH = inputs(400), inputs(400, seed=5)


def scaled(population: Population, factor: float, shift: float = 0.0) -> Population:
    modules = [copy.deepcopy(member.module) for member in population]
    with torch.no_grad():
        for module in modules:
            module.readout.weight.mul_(factor)
            module.readout.bias.mul_(factor).add_(shift)
    return Population.from_modules(modules, population.example_input, task=population.task)


def error(network: nn.Module, population: Population) -> float:
    return cs.evaluate(network, FRESH, reference=population).error


@pytest.mark.parametrize("start", ["member", "fresh", "net2wider"])
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_the_ensemble_is_distilled_from_every_start(start: str, task: str) -> None:
    population = replace(random_population([[6], [6], [6]], "tanh"), task=task)
    network = distil(population, X, start=start, steps=150)
    record = network.distillation_
    assert record.kept
    assert record.after < record.before
    assert len(network.hidden[0].bias) == (12 if start == "net2wider" else 6)
    if start == "member":
        assert error(network, population) < min(error(member.module, population) for member in population)


@pytest.mark.parametrize("correction", ["second-order", "distill"])
def test_fits_do_not_depend_on_the_units_of_outputs(correction: str) -> None:
    population, errors, x = random_population([[12, 12], [12, 12], [12, 12]], "tanh"), [], inputs(2000)
    for factor, shift in ((1.0, 0.0), (1 / 1024, 0.0), (256.0, 512.0)):
        other = scaled(population, factor, shift)
        assembler = cs.Assembler(cs.Census(n_resamples=0).fit(other, x))
        start, network = (assembler.assemble("1x", correction=each) for each in ("least-squares", correction))
        errors.append(error(network, other))
        assert errors[-1] < 0.9 * error(start, other)
    assert max(errors) < 1.3 * min(errors)


class Numbers(nn.Module):
    """One output for each sample (n,), or several heads side by side."""

    def __init__(self, n_heads: int) -> None:
        super().__init__()
        self.first, self.heads = nn.Linear(6, 12), nn.ModuleList(nn.Linear(12, 1) for _ in range(n_heads))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(2 * self.first(x))
        return torch.cat([head(h) for head in self.heads], 1).squeeze(-1)


@pytest.mark.parametrize("n_heads", [1, 2])
@pytest.mark.parametrize("start", ["member", "fresh"])
def test_distillation_does_not_depend_on_the_units_of_numbers(start: str, n_heads: int) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        modules, errors = [Numbers(n_heads) for _ in range(3)], []
    for factor, shift in ((1.0, 0.0), (1e-4, 0.0), (256.0, 5120.0)):
        own = copy.deepcopy(modules)
        with torch.no_grad():
            for parameter in (p for module in own for p in module.heads.parameters()):
                parameter.mul_(factor).add_(shift if parameter.dim() == 1 else 0)
        population = Population.from_modules(own, X[:8], task="regression")
        errors.append(error(distil(population, X, start=start, steps=60), population))
    assert max(errors) < 1.1 * min(errors)


def test_net2wider_is_distilled_towards_the_ensemble() -> None:
    population = random_population([[6], [6], [6]])
    plain, network = (
        net2wider(population, "2x", correction=correction, calibration=X) for correction in ("none", "distill")
    )
    assert error(network, population) < 0.7 * error(plain, population)


def test_data_may_come_in_batches_with_the_users_augmentation() -> None:
    population = random_population([[6], [6], [6]])
    seen, steps = [], []

    def shift(x: Tensor) -> Tensor:
        seen.append(x)
        return x + 0.1

    batches = [(part, torch.zeros(len(part))) for part in X.split(50)]
    network = distil(
        population, X, batches=batches, augmentation=shift, steps=40, progress=lambda done, total: steps.append(done)
    )
    assert network.distillation_.kept
    assert any(torch.equal(x, batches[0][0]) for x in seen)
    assert steps[-1] == 40
    census = cs.Census(n_resamples=0).fit(population, X)
    assert cs.assemble(census, "1x", correction="distill", batches=batches, steps=10).distillation_.steps == 10
    with pytest.warns(
        UserWarning, match="batches should yield batches for 40 steps, got 8, and no more: pass a list or"
    ):
        once = distil(population, X, batches=(part for part in X.split(50)), steps=40)
    assert once.distillation_.steps == 8


@pytest.mark.parametrize("correction", ["second-order", "distill"])
def test_few_rows_are_not_learnt_by_heart(correction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    population, x = random_population([[12, 12], [12, 12], [12, 12]], "tanh"), X[:100]
    census = cs.Census(n_resamples=0).fit(population, x)
    mixed = error(cs.assemble(census, "1x", correction=correction), population)
    monkeypatch.setattr(mixtures, "ENOUGH", 0)
    alone = error(cs.assemble(census, "1x", correction=correction), population)
    assert mixed < 0.9 * alone


def test_distillation_goes_on_from_second_order_steps() -> None:
    population = random_population([[12, 12], [12, 12], [12, 12]], "tanh")
    assembler = cs.Assembler(cs.Census(n_resamples=0).fit(population, X))
    second, distilled = (assembler.assemble("1x", correction=each).assembly_ for each in ("second-order", "distill"))
    assert second.correction == "second-order"
    errors = {own.correction: own.error for own in distilled.candidates}
    assert errors["distill"] <= errors["second-order"]


def test_mixtures_lie_between_two_rows() -> None:
    population = random_population([[6], [6]])
    x = with_mixtures(X[:2], population)
    assert len(x) == mixtures.ENOUGH
    assert torch.equal(x[:2], X[:2])
    share = (x[2:] - X[1]) @ (X[0] - X[1]) / (X[0] - X[1]).square().sum()
    torch.testing.assert_close(x[2:], torch.lerp(X[1].expand(len(share), -1), X[0], share[:, None]))
    assert share.min() >= -1e-6
    assert share.max() <= 1 + 1e-6
    pairs = ((share > 0.01) & (share < 0.99)).float().mean()  # of two different rows: a half
    assert 0.4 < float(pairs) < 0.6


@pytest.mark.parametrize("kind", ["enough rows", "integers", "batch norms"])
def test_what_cannot_be_mixed_stays_as_it_is(kind: str) -> None:
    population, x = random_population([[6], [6]]), X[:20]
    if kind == "enough rows":
        x = inputs(mixtures.ENOUGH)
    elif kind == "integers":
        x = x.long()
    else:
        x = torch.rand(20, 1, 8, 8)
        population = Population.from_modules([cs.ConvNet(1, (4,), 3, batch_norm=True).eval() for _ in range(2)], x)
    assert with_mixtures(x, population) is x


def test_distilling_on_very_few_rows_warns() -> None:
    with pytest.warns(CalibrationWarning, match="calibration has 3 samples: .*; pass 20 samples or more"):
        distil(random_population([[6], [6]]), X[:3], steps=2)


def test_the_same_seed_gives_the_same_bytes() -> None:
    population = random_population([[6], [6]])
    first, second, other = (distil(population, X, steps=30, random_state=seed) for seed in (3, 3, 4))
    assert torch.equal(first.readout.weight, second.readout.weight)
    assert not torch.equal(first.readout.weight, other.readout.weight)


def nan(x: Tensor) -> Tensor:
    return x * torch.nan


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be an int >= 1, got 0"),
        ({"batch_size": 0}, "batch_size must be an int >= 1, got 0"),
        ({"learning_rate": -1}, "learning_rate must be a number > 0, got -1"),
        ({"batches": []}, "batches must yield at least one batch, got none"),
        ({"batches": 3}, "batches must be a list, or another iterable, got int"),
        ({"batches": [torch.zeros(4, 5)]}, r"a batch must have shape \(n, 6\) with n >= 1, got \(4, 5\)"),
        ({"batches": [torch.zeros(4, 6).long()]}, "a batch must be a tensor of torch.float32"),
        ({"augmentation": nan}, "augmentation's result must be finite"),
        ({"augmentation": lambda x: x[:1]}, "augmentation must return a tensor"),
        ({"augmentation": lambda x: x.long()}, "augmentation's result must be a tensor of torch.float32"),
        ({"augmentation": lambda x: 1 / 0}, "one that raises ZeroDivisionError"),
        ({"batches": [torch.zeros(0, 6)]}, r"a batch must have shape \(n, 6\) with n >= 1, got \(0, 6\)"),
        ({"batches": [torch.full((4, 6), torch.nan)]}, "a batch must be finite, got NaN or infinity in 4 of 4 rows"),
        ({"batches": [None]}, "a batch of distillation must be a tensor or an array of numbers, got NoneType"),
        ({"batches": iter([])}, "batches must yield at least one batch, got none"),
        ({"augmentation": 3}, "augmentation must be a function, got int"),
        ({"progress": 3}, "progress must be a function, got int"),
        ({"random_state": -1}, "random_state must be an int >= 0, got -1"),
        ({"epochs": 3}, "an option of distill must be one of 'steps'"),
        ({"start": "scratch"}, "start must be one of 'member', 'fresh', 'net2wider', got 'scratch'"),
        ({"width": "2x"}, "width must be None unless start is 'fresh' or 'net2wider', got '2x'"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        distil(random_population([[6], [6]]), X, **{"steps": 5, **options})


@pytest.mark.parametrize("make", [distil, lambda p, x: cs.assemble(cs.Census(n_resamples=0).fit(p, x), "1x")])
def test_calibration_rows_that_are_all_alike_are_refused(make: Callable[..., nn.Module]) -> None:
    with pytest.raises(InputError, match="must have rows that differ, got 20 copies of one row"):
        make(random_population([[6], [6]]), X[:1].expand(20, -1).clone())


def test_options_of_distillation_belong_to_it_alone() -> None:
    census = cs.Census(n_resamples=0).fit(random_population([[6], [6]]), X)
    with pytest.raises(InputError, match="steps must be given with correction='distill' alone, got 'least-squares'"):
        cs.assemble(census, "1x", steps=3)
    for width in ("full", 12):  # where every unit is kept, and nothing is fitted
        with pytest.raises(
            InputError, match=f"must be left out where every unit is kept, got steps at width {width!r}"
        ):
            cs.assemble(census, width, correction="distill", steps=3)
    with pytest.raises(InputError, match="random_state must be an int >= 0, got 'a'"):
        cs.assemble(census, "1x", correction="none", random_state="a")
