"""The clusters of a census beside chance, for layers of every kind."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from conftest import inputs, random_mlp, random_population
from consilience.census import Census, Significance, extend_census, load_census, save_census
from consilience.data import Data
from consilience.errors import InputError
from consilience.nets import MLP, ConvNet, ViT
from consilience.population import Population
from consilience.training import Training, train_population
from consilience.training.fresh import fresh


def twins(n: int = 3) -> Population:
    """Copies of one network."""
    return Population.from_modules([random_mlp([6, 4])] * n, inputs(8))


def census_of(population: Population, **options: object) -> Census:
    return Census(n_resamples=2, **options).fit(population, inputs(60))  # type: ignore[arg-type]


def values(layers: dict[str, Significance]) -> list[np.ndarray]:
    return [value for layer in layers.values() for value in (layer.p, layer.recurrence, layer.turned.frequency)]


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("distance", ["activation", "cosine", "l2"])
def test_every_unit_of_copies_recurs_in_every_member(activation: str, distance: str) -> None:
    population = Population.from_modules([random_mlp([6, 4], activation)] * 3, inputs(8))
    census = census_of(population, distance=distance, n_clusters="1x")
    for name, layer in census.significance(n_rotations=30).items():
        assert layer.recurrence.tolist() == [1.0] * census.layers_[name].n_clusters_
        np.testing.assert_allclose(layer.similarity, 1, atol=1e-5)
        np.testing.assert_allclose(layer.p, 1 / 31**2)
        assert layer.n_significant == len(layer.q)
        assert (layer.chance < 1).any()
        assert layer.excess.excess > 0


def test_networks_that_have_learned_have_units_in_common_and_initial_ones_have_not(
    population: Population, digits: Data
) -> None:
    x = digits.calibration.x
    trained = Census(n_resamples=0).fit(population, x).significance_["hidden.0"]
    torch.manual_seed(1)
    fresh = Population.from_modules([MLP(64, [20, 16], 10) for _ in range(6)], population.example_input)
    untrained = Census(n_resamples=0).fit(fresh, x).significance_["hidden.0"]
    assert trained.n_significant > len(trained.q) / 4
    assert untrained.n_significant == 0
    assert abs(untrained.excess.z) < 3


def test_a_cluster_has_the_means_and_the_median_p_value_of_its_units() -> None:
    census = census_of(random_population([[6, 5]] * 3))
    layer, measured = census.layers_["hidden.0"], census.significance(["hidden.0"], n_rotations=20)["hidden.0"]
    for c in range(layer.n_clusters_):
        own = np.sort(measured.unit_p[layer.labels_ == c])
        assert measured.p[c] == own[len(own) // 2]
    assert np.isnan(measured.unit_p[~layer.alive]).all()
    assert not np.isnan(measured.unit_p[layer.alive]).any()
    assert ((measured.recurrence >= 0) & (measured.recurrence <= 1)).all()
    assert len(measured.turned.frequency) == layer.n_clusters_


def test_the_defaults_are_kept_and_a_new_fit_forgets_them() -> None:
    census = census_of(random_population([[6, 5]] * 3))
    assert census.significance_ is census.significance_
    np.testing.assert_equal(values(census.significance_), values(census.significance()))
    first = census.significance_["hidden.0"].p
    assert (
        census.fit(random_population([[6, 5]] * 3, seed=7), inputs(60)).significance_["hidden.0"].p.tolist()
        != first.tolist()
    )


@pytest.mark.parametrize("distance", ["activation", "cosine"])
def test_a_saved_census_and_one_with_more_members_have_it_too(distance: str, tmp_path: Path) -> None:
    population = random_population([[6, 5]] * 3)
    population.save(tmp_path / "population")
    census = census_of(population, distance=distance)
    save_census(census, tmp_path / "census", tmp_path / "population")
    np.testing.assert_equal(values(load_census(tmp_path / "census").significance_), values(census.significance_))
    extended = extend_census(census, [random_mlp([6, 5], seed=9)])
    assert len(extended.significance_["hidden.1"].p) == extended.layers_["hidden.1"].n_clusters_


@pytest.mark.parametrize("clusterer", ["kmeans", "hdbscan", "average"])
def test_every_clusterer_has_it(clusterer: str) -> None:
    census = census_of(random_population([[6, 5]] * 3), clusterer=clusterer)
    for name, layer in census.significance(n_rotations=5).items():
        assert layer.q.shape == (census.layers_[name].n_clusters_,)


def test_channels_with_their_positions_as_rows_and_without_data() -> None:
    torch.manual_seed(0)
    x = torch.randn(12, 1, 6, 6)
    population = Population.from_modules([ConvNet(1, [3, 4], 2, batch_norm=True)] * 3, x)
    for options, data in (({}, x), ({"grounding": "weights", "distance": "cosine"}, None)):
        measured = Census(n_clusters="1x", n_resamples=0, **options).fit(population, data).significance(n_rotations=20)
        assert [layer.recurrence.tolist() for layer in measured.values()] == [[1.0] * 3, [1.0] * 4]


class Gated(nn.Module):
    """Two layers whose units are paired."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.value, self.out = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.sigmoid(self.gate(x)) * self.value(x))


def test_tied_layers_are_compared_as_pairs_in_which_each_layer_counts_alike() -> None:
    torch.manual_seed(0)
    nets = [Gated() for _ in range(3)]
    for net in nets[1:]:  # the same gates, other values
        net.gate.load_state_dict(nets[0].gate.state_dict())
    census = census_of(Population.from_modules(nets, inputs(8)), n_clusters="1x")
    (layer,) = census.significance(n_rotations=50).values()
    assert 0.4 < layer.similarity.mean() < 0.95
    same = census_of(Population.from_modules([nets[0]] * 3, inputs(8)), n_clusters="1x")
    assert next(iter(same.significance(n_rotations=50).values())).similarity.tolist() == pytest.approx([1.0] * 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radius": 1.0}, "radius must be a number in [0, 1), got 1.0"),
        ({"n_rotations": 0}, "n_rotations must be an int >= 1, got 0"),
        ({"layers": ["out"]}, "layers must be one of 'hidden.0', 'hidden.1', got 'out'"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(message)}"):
        census_of(twins()).significance(**options)  # type: ignore[arg-type]


def test_one_member_and_fewer_rows_than_units_are_refused() -> None:
    with pytest.raises(InputError, match="members must be at least two for units to recur, got 1 with live units"):
        _ = census_of(twins(1)).significance_
    few = Census(n_resamples=0).fit(twins(), inputs(5))
    message = (
        "x must have at least as many rows as a member has units in layer 'hidden.0', 6, got 5\n  cure: fit the census"
    )
    with pytest.raises(InputError, match=message):
        _ = few.significance_


# --- beside untrained members ---


@pytest.mark.parametrize("distance", ["activation", "cosine"])
def test_copies_recur_more_than_untrained_members_and_other_untrained_ones_do_not(distance: str) -> None:
    initial = random_population([[12, 10]] * 5, seed=1)
    copies = Population.from_modules([random_mlp([12, 10])] * 5, inputs(8))
    census, other = (
        census_of(population, distance=distance, n_clusters="1x")
        for population in (copies, random_population([[12, 10]] * 5, seed=2))
    )
    measured = census.beside_untrained(initial=initial)
    for name, layer in measured.items():
        assert layer.n_significant >= 0.8 * len(layer.q)
        assert other.beside_untrained([name], initial=initial)[name].n_significant == 0


def test_p_is_the_share_of_untrained_units_with_as_much_excess(population: Population, digits: Data) -> None:
    x = digits.calibration.x
    torch.manual_seed(1)
    initial = Population.from_modules([MLP(64, [20, 16], 10) for _ in range(6)], population.example_input)
    census = Census(n_resamples=0).fit(population, x)
    layer, measured = census.layers_["hidden.0"], census.beside_untrained(["hidden.0"], initial=initial)["hidden.0"]
    before = Census(n_resamples=0).fit(initial, x).layers_["hidden.0"]
    np.testing.assert_allclose(measured.untrained, excess_of(initial, x, before.alive, before.member), atol=0.04)
    most = int(measured.excess.argmax())
    share = (1 + (measured.untrained >= measured.excess[most]).sum()) / (1 + len(measured.untrained))
    assert measured.p[most] <= max(share, 2 / (1 + len(measured.untrained)))
    assert len(measured.p) == layer.n_clusters_


def excess_of(population: Population, x: torch.Tensor, alive: np.ndarray, member: np.ndarray) -> np.ndarray:
    """The excess of each live unit, with 200 rotations of our own."""
    random = np.random.default_rng(0)
    with torch.no_grad():
        rows = torch.cat([net.module.hidden[0](x.flatten(1)).T.double() for net in population]).numpy()[alive]
    member, points, total = member[alive], rows / np.linalg.norm(rows, axis=1, keepdims=True), np.zeros(len(rows))
    for k in range(len(population)):
        own, others = rows[member == k], member != k
        total += (points @ points[member == k].T).max(1) * others
        for _ in range(200):
            q, r = np.linalg.qr(random.normal(size=(len(own), len(own))))
            turned = (q * np.sign(np.diag(r))) @ own
            total -= (points @ (turned / np.linalg.norm(turned, axis=1, keepdims=True)).T).max(1) * others / 200
    return total / (len(population) - 1)


def test_the_population_knows_its_initial_values_from_the_snapshot_of_epoch_0(digits: Data) -> None:
    options = {"training": Training(epochs=2), "random_state": 3}
    population = train_population(MLP(64, [8], 10), digits.train, 2, checkpoint_epochs=[0], **options)
    fresh_values = [fresh(MLP(64, [8], 10), k, 3).state_dict() for k in range(2)]
    for member, expected in zip(population.snapshots[0], fresh_values, strict=True):
        assert all(torch.equal(value, expected[name]) for name, value in member.module.state_dict().items())
    census = Census(n_resamples=0).fit(population, digits.calibration.x)
    by_snapshot = census.beside_untrained()["hidden.0"].p
    np.testing.assert_array_equal(by_snapshot, census.beside_untrained(initial=population.snapshots[0])["hidden.0"].p)


def test_initial_values_that_are_not_known_or_do_not_fit_are_refused() -> None:
    census = census_of(twins())
    with pytest.raises(InputError, match="must know its members' initial values, got no snapshot of epoch 0"):
        census.beside_untrained()
    for initial in (random_population([[9, 4]] * 3), random_population([[6, 4]] * 2)):
        with pytest.raises(InputError, match="initial must have the layers and widths of the members"):
            census.beside_untrained(initial=initial)


def test_heads_are_measured_beside_untrained_ones_alone() -> None:
    torch.manual_seed(0)
    net = ViT(1, 8, 4, 10, width=12, heads=(4,), mlp_widths=(8,))
    x, others = torch.randn(60, 1, 8, 8), [ViT(1, 8, 4, 10, width=12, heads=(4,), mlp_widths=(8,)) for _ in range(6)]
    copies, initial = (Population.from_modules(nets, x[:4]) for nets in ([net] * 6, others))
    census, name = Census(n_clusters="1x", n_resamples=0).fit(copies, x), "blocks.0.attention.q"
    assert name in census.layers_
    assert name not in census.significance_
    with pytest.raises(InputError, match=f"layers must be of units .*, got the heads of '{name}': mixtures of heads"):
        census.significance([name])
    assert census.beside_untrained([name], initial=initial)[name].p.tolist() == pytest.approx([1 / 25] * 4)
    fresh_census = Census(n_clusters="1x", n_resamples=0).fit(initial, x)
    torch.manual_seed(1)
    more = [ViT(1, 8, 4, 10, width=12, heads=(4,), mlp_widths=(8,)) for _ in range(6)]
    measured = fresh_census.beside_untrained([name], initial=Population.from_modules(more, x[:4]))[name]
    assert measured.n_significant == 0
