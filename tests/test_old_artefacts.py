"""Artefacts written by version 0.1, before the rooms were rebuilt, load and compute what they computed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from consilience.assembly import load_elastic
from consilience.census import load_census
from consilience.population import Population
from consilience.store import load_network

OLD = Path(__file__).parent / "artefacts_0_1"
EXPECTED = json.loads((OLD / "expected.json").read_text())


@pytest.fixture(scope="module")
def x() -> Tensor:
    """The census's calibration data, on which everything was evaluated."""
    calibration = load_census(OLD / "census").calibration_
    assert calibration is not None
    return calibration


def close(found: Tensor, name: str) -> None:
    torch.testing.assert_close(found.detach(), torch.tensor(EXPECTED[name]), rtol=1e-5, atol=1e-6)


def test_a_population_with_metrics_and_snapshots(x: Tensor) -> None:
    population = Population.load(OLD / "population")
    close(population.logits(x).sum(0), "logits")
    close(population.snapshots[1].logits(x).sum(0), "early")
    assert population.failed == {3: "loss not finite at epoch 1, step 1"}
    assert [record["loss"] for record in population.metrics] == [0.5, 0.25]
    assert len(population.snapshots[1].metrics) == 1
    assert population.provenance == {"random_state": 0}


def test_a_population_of_a_users_modules(x: Tensor) -> None:
    module = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    close(Population.load(OLD / "modules", module).logits(x).sum(0), "modules")


def test_a_census_and_the_population_that_it_names() -> None:
    census = load_census(OLD / "census")
    assert census.layers_["hidden.0"].labels_.tolist() == EXPECTED["labels"]
    assert len(census.population_) == 3


def test_a_network_and_an_elastic_assembly(x: Tensor) -> None:
    close(load_network(OLD / "network")(x), "network")
    close(load_elastic(OLD / "elastic").at_width(2)(x), "elastic")
