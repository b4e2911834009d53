"""A census that is extended: new units go where the linkage puts them, and old ones stay together as they were."""

from __future__ import annotations

import pickle
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import is_monotonic, is_valid_linkage
from sklearn.metrics import adjusted_rand_score
from torch import nn

from conftest import inputs, random_mlp
from consilience.assembly import assemble
from consilience.baselines import Ensemble
from consilience.census import Census, load_census, save_census
from consilience.census.growth import LINKAGES, grow
from consilience.census.incremental import extend_census, with_known_stability
from consilience.clustering.clusterers import CLUSTERERS, Clustering
from consilience.clustering.clusters import Clusters, count
from consilience.clustering.distances import Points
from consilience.data import Data
from consilience.errors import ConsilienceError, InputError
from consilience.nets import MLP
from consilience.population import Population
from consilience.units.architecture import TracedNetwork, read_state
from test_census import CLUSTERINGS, same_partition
from test_census import scrambled as scrambled_network

pytestmark = pytest.mark.numerical

X = inputs(200, seed=5)


def scrambled(module: MLP, seed: int) -> tuple[MLP, dict[str, np.ndarray]]:
    """The same function with units permuted, rescaled and flipped; and which old unit each new one is, by layer."""
    state, orders = read_state(module), dict[str, np.ndarray]()
    architecture = traced(module.config.activation).architecture
    network = TracedNetwork(architecture.with_widths(architecture.widths_in(state)), state)
    copied = MLP(**vars(module.config))
    copied.load_state_dict(scrambled_network(network, seed, orders).state)
    return copied, orders


@lru_cache
def traced(activation: str) -> Population:
    return Population.from_modules([MLP(6, [6, 5], 3, activation=activation)], inputs(8))


def population_of(modules: list[MLP]) -> Population:
    """What `Population.from_modules` returns, without tracing networks of one kind again and again: that is slow."""
    kind = traced(modules[0].config.activation)
    return Population(kind.with_members(modules).members[1:], kind.example_input)


def shared(activation: str) -> MLP:
    """What planted members have in common: a network 6-6-5-3, of which unit 2 of the first layer matters little."""
    net = random_mlp([6, 5], activation, seed=8)
    with torch.no_grad():
        net.hidden[1].weight[:, 2] *= 0.1
    return net


def planted(activation: str, seeds: range, *, but_one: bool = False) -> list[MLP]:
    """Members of shared units: scrambled, slightly noisy copies of one network.

    With ``but_one``, member k has a unit of its own in the place of unit k of the last hidden layer.
    """
    modules = []
    for seed in seeds:
        net, g = shared(activation), torch.Generator().manual_seed(1000 + seed)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter += 0.003 * torch.randn(parameter.shape, generator=g)
            if but_one:
                net.hidden[1].weight[seed] = 2 * torch.randn(6, generator=g)
        modules.append(scrambled(net, seed)[0])
    return modules


def with_own_unit(activation: str, seed: int, layer: str = "hidden.0") -> tuple[MLP, int]:
    """A planted member with one unit that no other has, and the number of that unit."""
    net = shared(activation)
    with torch.no_grad():
        net.get_submodule(layer).weight[2] = torch.tensor([0.1, -2, 0.3, 2, -1, 1.5])
    net, orders = scrambled(net, seed)
    return net, int(np.flatnonzero(orders[layer] == 2)[0])


def three() -> list[MLP]:
    return [random_mlp([6, 5], seed=k) for k in range(3)]


def fitted(modules: list[MLP], *geometry: str, **arguments: object) -> Census:
    arguments = {"n_resamples": 0, **arguments}
    return Census(*geometry, **arguments).fit(population_of(modules), X)


def leaves_below(merges: np.ndarray) -> list[frozenset[int]]:
    """The leaves below each node, leaves first."""
    below = [frozenset([i]) for i in range(len(merges) + 1)]
    for a, b in merges[:, :2].astype(int):
        below.append(below[a] | below[b])
    return below


def tree_of(points: Points, name: str) -> Clustering:
    return CLUSTERERS[name](points, None, 0)


@st.composite
def old_and_new_points(draw: st.DrawFn) -> tuple[Points, Clustering, str]:
    """Points, the tree of the first 12, and its linkage."""
    g, name = np.random.default_rng(draw(st.integers(0, 10**6))), draw(st.sampled_from(["ward", "average"]))
    x = g.normal(size=(20, 5)) + 2 * g.normal(size=(4, 5))[g.integers(0, 4, 20)]
    points = Points(x, draw(st.booleans()))
    return points, tree_of(points.subset(np.arange(12)), name), name


@settings(max_examples=10)
@given(case=old_and_new_points())
def test_a_new_point_joins_what_agglomeration_of_all_points_merges_it_with(case: tuple) -> None:
    points, old, name = case
    first = points.subset(np.arange(13))
    grown, fresh = (tree.tree.to_linkage() for tree in (grow(old, first, name), tree_of(first, name)))
    row, expected = (int((merges[:, :2] == 12).any(1).argmax()) for merges in (grown, fresh))
    assert leaves_below(grown)[13 + row] == leaves_below(fresh)[13 + expected]
    np.testing.assert_allclose(grown[: row + 1, 2], fresh[: row + 1, 2], rtol=1e-6)  # up to there the trees are one


@settings(max_examples=10)
@given(case=old_and_new_points())
def test_heights_are_the_linkage_of_the_clusters_that_merge_or_of_their_children(case: tuple) -> None:
    points, old, name = case
    merges, apart = grow(old, points, name).tree.to_linkage(), points.distances()
    below, heights = leaves_below(merges), np.concatenate([np.zeros(20), merges[:, 2]])

    def scatter(units: frozenset[int]) -> float:  # Σ over pairs of d²/n: the sum of squares around the mean
        return float(np.square(apart[np.ix_(sorted(units), sorted(units))]).sum()) / 2 / len(units)

    for row, (a, b, height, size) in enumerate(merges):
        left, right = below[int(a)], below[int(b)]
        if name == "average":
            between = apart[np.ix_(sorted(left), sorted(right))].mean()
        else:
            between = np.sqrt(max(2 * (scatter(left | right) - scatter(left) - scatter(right)), 0))
        assert height == pytest.approx(max(between, heights[int(a)], heights[int(b)]), rel=1e-5)
        assert size == len(below[20 + row])


@settings(max_examples=10)
@given(case=old_and_new_points())
def test_a_grown_tree_is_a_tree_over_all_and_the_old_one_over_the_old(case: tuple) -> None:
    points, old, name = case
    grown = grow(grow(old, points.subset(np.arange(15)), name), points, name)  # in two steps
    merges = grown.tree.to_linkage()
    assert is_valid_linkage(merges)
    assert is_monotonic(merges)
    for k in range(1, 21):
        assert len(np.unique(grown.cut(k))) == k
    among_old = {below & frozenset(range(12)) for below in leaves_below(merges)} - {frozenset()}
    assert among_old == set(leaves_below(old.tree.to_linkage()))
    same = grow(grown, points, name)  # without new points
    np.testing.assert_allclose(same.tree.to_linkage(), merges)
    np.testing.assert_array_equal(same.labels, grown.labels)


@settings(max_examples=10)
@given(case=old_and_new_points(), seed=st.integers(0, 10**6))
def test_the_numbering_of_new_points_changes_nothing(case: tuple, seed: int) -> None:
    points, old, name = case
    order = np.concatenate([np.arange(12), 12 + np.random.default_rng(seed).permutation(8)])
    first, second = (grow(old, p, name) for p in (points, Points(points.coordinates[order], points.projective)))
    np.testing.assert_allclose(first.tree.to_linkage()[:, 2], second.tree.to_linkage()[:, 2], rtol=1e-9)
    assert all(same_partition(first.cut(k)[order], second.cut(k)) for k in range(1, 21))


def test_points_join_the_micro_clusters_of_two_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consilience.clustering.clusterers.N_MICRO", 40)
    g = np.random.default_rng(0)
    truth = np.concatenate([np.repeat(np.arange(4), 60), np.repeat(np.arange(5), 6)])  # the fifth group is new
    x = ((np.eye(5) * 9)[truth] + 0.3 * g.normal(size=(270, 5))) * g.choice([-1.0, 1.0], size=(270, 1))
    old = tree_of(Points(x[:240], True), "two-stage")
    grown = grow(old, Points(x, True), "two-stage")
    assert grown.n_leaves == old.n_leaves + 30
    assert is_valid_linkage(grown.tree.to_linkage())
    assert same_partition(grown.cut(5), truth)


@pytest.mark.parametrize(
    "case",
    [
        *("relu activations activation ward", "relu weights cosine average", "tanh weights activation ward"),
        *("tanh activations l2 average", "sigmoid weights cosine ward", "gelu activations activation average"),
    ],
)
def test_a_scrambled_copy_of_a_member_goes_to_its_original(case: str) -> None:
    activation, *geometry = case.split()
    modules = planted(activation, range(3), but_one=True)
    census = fitted(modules, *geometry, n_clusters={"hidden.0": 6, "hidden.1": 8})
    assert sorted(census.layers_["hidden.1"].size_.tolist()) == [1, 1, 1, 2, 2, 2, 3, 3]
    copied, orders = scrambled(modules[1], seed=7)
    extended = extend_census(census, [copied])
    for name, width in (("hidden.0", 6), ("hidden.1", 5)):
        before, after = census.layers_[name], extended.layers_[name]
        n_old, original = len(before.member), width + orders[name]  # member 1's units in the table
        np.testing.assert_array_equal(after.labels_[n_old:], after.labels_[original])
        assert same_partition(before.labels_, after.labels_[:n_old])
        owned = before.frequency_[before.labels_] * 3 + np.isin(before.labels_, before.labels_[original])
        np.testing.assert_allclose(after.frequency_[after.labels_[:n_old]], owned / 4)
        for k in range(1, n_old + 1):  # with its original, wherever the tree is cut
            labels = after.at(k).labels
            np.testing.assert_array_equal(labels[n_old:], labels[original])


@settings(max_examples=5)
@given(seed=st.integers(0, 10**6), activation=st.sampled_from(["relu", "tanh"]), geometry=st.sampled_from(CLUSTERINGS))
def test_the_partition_does_not_depend_on_the_new_members_numbering_scale_or_sign(
    seed: int, activation: str, geometry: tuple[str, str]
) -> None:
    old, new = [random_mlp([6, 4], activation, seed=seed + k) for k in range(3)], random_mlp([7, 5], activation, seed=9)
    other, orders = scrambled(new, seed)
    census = fitted(old, *geometry)
    first, second = extend_census(census, [new]), extend_census(census, [other])
    for name, before in census.layers_.items():
        n_old = len(before.member)
        order = np.concatenate([np.arange(n_old), n_old + orders[name]])
        one, two = first.layers_[name], second.layers_[name]
        for k in (one.n_clusters_, 3, n_old):
            assert same_partition(one.at(k).labels[order], two.at(k).labels)


@pytest.mark.parametrize(
    "case",
    [
        *("relu hidden.0 activations activation ward", "tanh hidden.0 activations activation average"),
        *("gelu hidden.0 weights activation ward", "relu hidden.1 weights cosine two-stage"),
        *("relu hidden.1 activations l2 average", "tanh hidden.1 activations cosine ward"),
        "tanh hidden.1 weights l2 two-stage",
    ],
)
def test_well_separated_clusters_are_those_of_a_fresh_census_and_a_new_unit_makes_one(case: str) -> None:
    activation, where, *geometry = case.split()
    old, new = planted(activation, range(3)), planted(activation, range(3, 5))
    stranger, own = with_own_unit(activation, 8, where)
    numbers = {"hidden.0": 6, "hidden.1": 5}
    width, numbers[where] = numbers[where], numbers[where] + 1
    extended = extend_census(fitted(old, *geometry, n_clusters=numbers), [*new, stranger])
    fresh = fitted([*old, *new, stranger], *geometry, n_clusters=numbers)
    for mine, theirs in zip(extended.layers_.values(), fresh.layers_.values(), strict=True):
        np.testing.assert_array_equal(mine.labels_, theirs.labels_)
        np.testing.assert_array_equal(mine.frequency_, theirs.frequency_)
        np.testing.assert_allclose(mine.centroid_, theirs.centroid_, atol=1e-4)
    layer = extended.layers_[where]
    assert np.flatnonzero(layer.labels_ == layer.labels_[5 * width + own]).tolist() == [5 * width + own]
    assert sorted(layer.size_.tolist()) == [1, 5] + [6] * (width - 1)


def test_members_may_come_in_any_order_and_well_separated_ones_one_by_one() -> None:
    census = fitted(planted("relu", range(2)), n_clusters={"hidden.0": 6, "hidden.1": 5})
    new = planted("relu", range(2, 5))
    together, reverse = extend_census(census, new), extend_census(census, new[::-1])
    one_by_one = census
    for module in new:
        one_by_one = extend_census(one_by_one, [module])
    for name, width in (("hidden.0", 6), ("hidden.1", 5)):
        at = np.arange(5 * width).reshape(5, width)[[0, 1, 4, 3, 2]].ravel()
        for k in (2, width, 2 * width, 3 * width):
            labels = together.layers_[name].at(k).labels
            assert same_partition(labels, reverse.layers_[name].at(k).labels[at])
        assert same_partition(together.layers_[name].labels_, one_by_one.layers_[name].labels_)


def test_members_of_other_widths_and_a_census_of_one_member_are_extended() -> None:
    census = fitted([random_mlp([6, 4])])
    new = population_of([random_mlp([9, 7], seed=20), random_mlp([8, 5], seed=21)])
    extended = extend_census(census, new)
    assert extended.population_.widths("hidden.0") == (6, 9, 8)
    assert extended.layers_["hidden.0"].n_clusters_ == 2 * 8
    assert len(extended.layers_["hidden.1"].frequency_) == 2 * 5
    for mine, theirs in zip(extended.population_.members[1:], new, strict=True):
        assert torch.equal(mine.module(X), theirs.module(X))
    assert extended.population_.provenance == {"n_added": 2}
    assert extend_census(extended, [random_mlp([2, 2])]).population_.provenance == {"n_added": 3}


@pytest.mark.parametrize(
    "case",
    ["relu activations activation", "tanh weights cosine", "gelu activations l2", "relu weights activation"],
)
def test_the_full_assembly_is_the_ensemble_of_all_members(case: str) -> None:
    activation, *geometry = case.split()
    census = fitted([random_mlp([6, 5], activation, seed=k) for k in range(3)], *geometry)
    extended = extend_census(census, [random_mlp([4, 7], activation, seed=5)])
    mean = Ensemble(extended.population_)(X).detach()
    torch.testing.assert_close(mean, extended.population_.logits(X).mean(0))
    atol = 1e-5 * float(mean.abs().max())
    for correction in ("none", "least-squares"):
        torch.testing.assert_close(assemble(extended, "full", correction=correction)(X), mean, rtol=1e-5, atol=atol)
    assert assemble(extended, {"hidden.0": 9, "hidden.1": "2x"})(X).shape == mean.shape


def test_nothing_is_clustered_or_traced_again_and_old_members_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    census = fitted(three())
    monkeypatch.setattr("consilience.population.member.layers_of", None)
    monkeypatch.setattr("consilience.clustering.clusterers.linkage", None)
    monkeypatch.setattr(Points, "distances", None)
    extended = extend_census(census, [random_mlp([6, 5], seed=5)])
    assert all(a is b for a, b in zip(census.population_, extended.population_, strict=False))
    assert len(extended.population_) == len(extended.networks_) == 4


def test_the_old_census_is_unchanged() -> None:
    census = fitted(three(), n_resamples=2)
    before = pickle.dumps([census.layers_, census.calibration_, [network.state for network in census.networks_]])
    attributes, members = list(vars(census)), list(census.population_)
    extend_census(census, [random_mlp([6, 5], seed=5)])
    after = pickle.dumps([census.layers_, census.calibration_, [network.state for network in census.networks_]])
    assert after == before
    assert list(vars(census)) == attributes
    assert all(a is b for a, b in zip(census.population_, members, strict=True))


def test_stability_is_kept_by_clusters_with_the_same_old_units_and_unknown_of_others() -> None:
    old = Clusters(np.array([0, 0, 1, 2, -1]), np.ones(3), np.array([2, 1, 1]), np.array([0.9, 0.8, 0.7]))
    member = np.array([0, 0, 0, 0, 0, 1, 1])
    merged, added = np.array([0, 0, 1, 1, -1, 0, 2]), np.array([0, 0, 1, 2, -1, 3, 2])
    split = np.array([0, 1, 2, 3, -1, 0, 1])
    stabilities = [0.9, np.nan, np.nan], [0.9, 0.8, 0.7, np.nan], [np.nan, np.nan, 0.8, 0.7]
    for labels, expected in zip((merged, added, split), stabilities, strict=True):
        np.testing.assert_array_equal(with_known_stability(count(labels, member, 2), old).stability, expected)

    census = fitted(planted("relu", range(3)), n_clusters={"hidden.0": 7, "hidden.1": 5}, n_resamples=4)
    layer = extend_census(census, [with_own_unit("relu", seed=8)[0]]).layers_["hidden.1"]
    known = census.layers_["hidden.1"].stability_
    assert layer.stability_.tolist() == known.tolist() == [1.0] * 5


def test_dead_units_of_new_members_are_set_aside_and_all_may_be() -> None:
    census = fitted(three())
    some, all_dead = random_mlp([6, 5], seed=5), random_mlp([6, 5], seed=6)
    with torch.no_grad():
        some.hidden[0].bias[1:3] = -100.0
        all_dead.hidden[1].bias[:] = -100.0
    extended = extend_census(census, [some, all_dead])
    layer, deeper = extended.layers_["hidden.0"], extended.layers_["hidden.1"]
    assert np.flatnonzero(layer.labels_ < 0).tolist() == np.flatnonzero(~layer.alive).tolist() == [19, 20]
    assert np.flatnonzero(deeper.labels_ < 0).tolist() == [20, 21, 22, 23, 24]
    fresh = Census(n_resamples=0).fit(extended.population_, X)
    assert all(np.array_equal(fresh.layers_[n].alive, extended.layers_[n].alive) for n in fresh.layers_)


def test_old_units_stay_alive_or_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    census = fitted(three())
    monkeypatch.setattr("consilience.census.layer_units.THRESHOLD", 0.9)
    layer = extend_census(census, [random_mlp([6, 5], seed=5)]).layers_["hidden.0"]
    assert layer.alive[:18].all()
    assert not layer.alive[18:].all()


def test_without_data_a_census_grounded_in_weights_is_extended() -> None:
    modules = planted("tanh", range(4))
    census = Census("weights", "cosine", n_clusters=5, n_resamples=0).fit(population_of(modules[:3]))
    extended = extend_census(census, modules[3:])
    assert extended.calibration_ is None
    assert extended.layers_["hidden.1"].size_.tolist() == [4] * 5


def test_an_extended_census_is_saved_and_read(tmp_path: Path) -> None:
    extended = extend_census(fitted(three()), [random_mlp([4, 7], seed=5)])
    extended.population_.save(tmp_path / "population")
    save_census(extended, tmp_path / "census", tmp_path / "population")
    loaded = load_census(tmp_path / "census")
    for mine, theirs in zip(extended.layers_.values(), loaded.layers_.values(), strict=True):
        np.testing.assert_array_equal(mine.labels_, theirs.labels_)
        np.testing.assert_array_equal(mine.clustering.tree.to_linkage(), theirs.clustering.tree.to_linkage())
    assert torch.equal(assemble(extended, 9)(X), assemble(loaded, 9)(X))
    new = random_mlp([5, 5], seed=6)
    again, same = extend_census(extended, [new]), extend_census(loaded, [new])
    assert all(np.array_equal(again.layers_[n].labels_, same.layers_[n].labels_) for n in again.layers_)


def test_real_members_are_added_as_a_fresh_census_would_have_it(population: Population, digits: Data) -> None:
    x = digits.calibration.x
    first = Population(population.members[:5], population.example_input)
    extended = extend_census(Census(n_resamples=0).fit(first, x), [population.members[5].module])
    fresh = Census(n_resamples=0).fit(population, x)
    for name, layer in fresh.layers_.items():
        # Two fresh censuses with one member between them agree to about 0.8.
        assert adjusted_rand_score(layer.labels_, extended.layers_[name].labels_) > 0.6
    scores = [(assemble(c, "2x")(digits.test.x).argmax(1) == digits.test.y).float().mean() for c in (fresh, extended)]
    assert scores[1] > scores[0] - 0.02


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([], "modules must have at least one module, got none"),
        (random_mlp([6, 4]), "modules must be a list of modules, .*, got one MLP\n  cure: put it into"),
        ([random_mlp([6, 4], "tanh")], "member 2 must have the activations of member 0"),
        ([random_mlp([6])], "member 2 must have the layers of member 0"),
        ([MLP(6, [6, 4], 2)], "member 2 must have the output size of member 0, 3, got 2"),
    ],
)
def test_what_does_not_belong_to_the_population_is_refused(modules: list[nn.Module], message: str) -> None:
    census = fitted([random_mlp([6, 4]), random_mlp([5, 4], seed=1)])
    with pytest.raises(InputError, match=message):
        extend_census(census, modules)


def test_refusals_of_new_members_say_how_these_are_counted() -> None:
    census = fitted([random_mlp([6, 4]), random_mlp([6, 4], seed=1)])
    broken, other_input = random_mlp([6, 4]), random_mlp([6, 4], n_inputs=5)
    with torch.no_grad():
        broken.hidden[0].weight[0, 0] = torch.nan
    with pytest.raises(InputError, match=r"'hidden.0.weight' of member 2 must be finite"):
        extend_census(census, [broken])
    with pytest.raises(ConsilienceError, match="example_input must be inputs that") as caught:
        extend_census(census, [other_input])
    assert caught.value.__notes__ == ["this is member 2 of the population"]


@pytest.mark.parametrize("clusterer", sorted(set(CLUSTERERS) - set(LINKAGES)))
def test_a_census_that_is_flat_or_not_fitted_is_refused(clusterer: str) -> None:
    census = fitted([random_mlp([6, 4]), random_mlp([5, 4], seed=1)], clusterer=clusterer, n_clusters=4)
    with pytest.raises(InputError, match=f"one of ward, average, two-stage, got {clusterer}\n  cure: fit a fresh"):
        extend_census(census, [random_mlp([6, 4])])
    with pytest.raises(InputError, match="census must be fitted"):
        extend_census(Census(), [random_mlp([6, 4])])
