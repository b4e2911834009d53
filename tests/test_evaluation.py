"""How near outputs are to an ensemble's: closed forms, independence of units, and what a network is worth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import consilience as cs
from conftest import inputs, random_mlp, random_population
from consilience.agreement import agreement, spread_of, worth
from consilience.errors import InputError
from consilience.evaluation import paired_error
from consilience.population import Population
from consilience.signals.held_out import held_out

X = inputs(200)


def test_the_error_of_classes_is_the_divergence_of_their_shares() -> None:
    outputs, reference = torch.randn(2, 50, 4, dtype=torch.float64).unbind()
    p, q = (np.exp(z) / np.exp(z).sum(1, keepdims=True) for z in (reference.numpy(), outputs.numpy()))
    got = agreement(outputs, reference, "classification")
    assert got.error == pytest.approx((p * np.log(p / q)).sum(1).mean())
    assert got.top1 == (p.argmax(1) == q.argmax(1)).mean()
    assert agreement(outputs + 3, reference - 1, "classification").error == pytest.approx(got.error)


def test_one_output_of_a_classification_is_the_logit_of_one_of_two_classes() -> None:
    outputs, reference = torch.randn(2, 50, 1, dtype=torch.float64).unbind()
    p, q = reference.sigmoid(), outputs.sigmoid()
    expected = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    assert agreement(outputs, reference, "classification").error == pytest.approx(float(expected.mean()))


def test_the_error_of_numbers_does_not_depend_on_their_units() -> None:
    outputs, reference = torch.randn(2, 50, 3, dtype=torch.float64).unbind()
    error = agreement(outputs, reference, "regression").error
    shares = ((outputs - reference) ** 2).mean(0) / reference.var(0, correction=0)
    assert error == pytest.approx(float(shares.mean()))
    scale, shift = torch.tensor([1e-3, 1, 1e3]), torch.tensor([5, 0, -2.0])
    assert agreement(outputs * scale + shift, reference * scale + shift, "regression").error == pytest.approx(error)
    assert agreement(outputs, reference, "regression").top1 is None


@pytest.mark.parametrize(("dtype", "offset"), [(torch.float32, 1e5), (torch.float64, 1e12)])
def test_a_large_offset_is_no_constant(dtype: torch.dtype, offset: float) -> None:
    generator = torch.Generator().manual_seed(0)
    outputs, reference = torch.randn(2, 500, 2, dtype=dtype, generator=generator).unbind()
    error = agreement(outputs, reference, "regression").error
    assert agreement(outputs + offset, reference + offset, "regression").error == pytest.approx(error, rel=1e-2)
    rounding = offset * torch.finfo(dtype).eps * torch.randn(500, 2, dtype=dtype, generator=generator)
    assert float(spread_of(offset + rounding).min()) > offset / 2


def test_outputs_that_do_not_vary_count_by_their_size_or_by_the_others() -> None:
    reference = torch.tensor([[2.0, 0.0, 1.0], [2.0, 0.0, 7.0]])
    assert spread_of(reference).tolist() == [2, 3, 3]
    assert spread_of(torch.zeros(2, 1)).tolist() == [1]


def test_the_worth_of_independent_members_is_their_number() -> None:
    errors = [1 / m - 1 / 8 for m in range(1, 9)]
    for m in range(1, 9):
        assert worth(errors[m - 1], errors) == pytest.approx(m)
    assert worth(1 / 2.5 - 1 / 8, errors) == pytest.approx(2.5)
    assert worth(1 / 0.5 - 1 / 8, errors) == pytest.approx(0.5)
    assert worth(0.1, [0.0]) != worth(0.0, [0.0]) == 1


@pytest.mark.parametrize("task", ["classification", "regression", None])
def test_networks_are_compared_with_the_ensemble_of_a_population(task: str | None) -> None:
    population = replace(random_population([[5], [7], [6], [5]]), task=task)
    full = cs.evaluate(cs.Ensemble(population), X, reference=population)
    member = cs.evaluate(population.members[1].module, X, reference=population)
    pair = cs.evaluate(cs.Ensemble(replace(population, members=population.members[:2])), X, reference=population)
    assert (full.error, full.worth, full.n) == (pytest.approx(0, abs=1e-9), 4, 200)
    assert 0 < pair.error < member.error
    assert 0.5 < member.worth < pair.worth < 3
    singles = [cs.evaluate(own.module, X, reference=population).error for own in population]
    assert member.member_error == pytest.approx(sum(singles) / 4)
    assert (full.top1 is None) is (task == "regression")


def test_a_population_knows_its_task_and_keeps_it(tmp_path: Path) -> None:
    x, labels = inputs(32), torch.arange(32) % 3
    training = cs.Training(epochs=1)
    for y, task in ((labels, "classification"), (torch.randn(32, 3), "regression")):
        data = cs.Dataset(x, y, torch.arange(32))
        assert cs.train_population(cs.MLP(6, [4], 3), data, 2, training=training).task == task
    population = Population.from_modules([random_mlp([4])], X, task="regression")
    assert Population.load(population.save(tmp_path / "p")).task == "regression"
    assert random_population([[4]]).task is None
    with pytest.raises(
        InputError,
        match="task must be one of 'classification', 'regression', 'multilabel', 'next-token', got 'ranking'",
    ):
        replace(population, task="ranking")


def test_outputs_and_inputs_that_do_not_fit_are_refused() -> None:
    population = random_population([[5], [5]])
    with pytest.raises(InputError, match=r"shape of the members', got \(200, 2\) and \(200, 3\)"):
        cs.evaluate(lambda x: x[:, :2], X, reference=population)
    with pytest.raises(InputError, match="reference must be a consilience.Population, got MLP"):
        cs.evaluate(population.members[0].module, X, reference=population.members[0].module)
    with pytest.raises(InputError, match="the network's outputs must be finite"):
        cs.evaluate(lambda x: x[:, :3] / 0, X, reference=population)
    with pytest.raises(InputError, match=r"x must have shape \(n, 6\)"):
        cs.evaluate(cs.Ensemble(population), X[:, :5], reference=population)
    with pytest.raises(InputError, match="dataset must be a consilience Dataset, inputs with targets, got float32"):
        cs.evaluate(cs.Ensemble(population), X)
    with pytest.raises(InputError, match=r"got Member\n  cure: pass member.module for a member, and Ensemble"):
        cs.evaluate(population[0], cs.Dataset(X, torch.zeros(len(X)).long()))


def test_differences_of_accuracies_are_paired() -> None:
    one, other = torch.rand(2, 50).unbind()
    one, other = one < 0.7, (one < 0.6) | (other < 0.1)
    difference = one.numpy().astype(float) - other.numpy().astype(float)
    assert paired_error(one, other) == pytest.approx(difference.std() / np.sqrt(50))
    assert paired_error(one, one) == 0


def test_a_tenth_of_the_rows_is_held_out_whatever_their_order() -> None:
    for n in (2, 3, 19, 20, 5000):
        fitted, held = held_out(n)
        assert sorted([*fitted.tolist(), *held.tolist()]) == list(range(n))
        assert len(held) == max(1, n // 10)
    fitted, held = held_out(5000)
    assert torch.equal(held, held_out(5000)[1])
    assert abs(float(held.double().mean()) / 2500 - 1) < 0.1
    assert len(held.diff().unique()) > 5
    with pytest.raises(InputError, match="calibration must have at least 2 rows, got 1"):
        held_out(1)
