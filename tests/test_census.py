"""The census: what recurs is found, counted and ordered, whatever the members' own numbering, scale and sign."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from conftest import inputs, random_mlp, random_population
from consilience.assembly import assemble
from consilience.bases.grounding import Basis, Groups, basis_of_groups, express
from consilience.bases.hyperplanes import Projection
from consilience.census.census import Census
from consilience.clustering.clusterers import CLUSTERERS, Clustering
from consilience.clustering.clusters import Clusters, count, in_order
from consilience.clustering.distances import Points, embed
from consilience.clustering.tree import Tree
from consilience.data import Data
from consilience.errors import InputError
from consilience.nets import MLP
from consilience.population import Population
from consilience.signals.responses import Responses
from consilience.units.architecture import TracedNetwork
from consilience.units.symmetry import NO_SYMMETRY, SYMMETRIES, can_flip, flip, permute, rescale, symmetry_of

pytestmark = pytest.mark.numerical

X = inputs(200, seed=5)
CLUSTERINGS = [("activations", "activation"), ("weights", "cosine"), ("activations", "l2"), ("weights", "activation")]


def scrambled(network: TracedNetwork, seed: int, orders: dict[str, np.ndarray] | None = None) -> TracedNetwork:
    """The same function with units permuted (``orders`` gets the permutations), rescaled and flipped."""
    g, orders = torch.Generator().manual_seed(seed), {} if orders is None else orders
    for layer in network.architecture.hidden:
        order = torch.randperm(layer.width, generator=g)
        network, orders[layer.name] = permute(network, layer.name, order), order.numpy()
        if symmetry_of(layer.activations).homogeneous:
            network = rescale(network, layer.name, 0.2 + 2 * torch.rand(layer.width, generator=g))
        if can_flip(network.architecture, layer.name):
            network = flip(network, layer.name, torch.randint(0, 2, (layer.width,), generator=g) * 2.0 - 1.0)
    return network


def scrambled_population(population: Population, seed: int) -> Population:
    modules = []
    for k, member in enumerate(population):
        module = MLP(**vars(member.module.config))
        module.load_state_dict(scrambled(member.network, seed + k).state)
        modules.append(module)
    return Population.from_modules(modules, population.example_input)


def same_partition(first: np.ndarray, second: np.ndarray) -> bool:
    pairs = set(zip(first.tolist(), second.tolist(), strict=True))
    return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "gelu"])
@pytest.mark.parametrize(("grounding", "distance"), CLUSTERINGS)
@pytest.mark.parametrize("clusterer", sorted(CLUSTERERS))
def test_scrambled_copies_of_one_network_are_found_unit_by_unit(
    activation: str, grounding: str, distance: str, clusterer: str
) -> None:
    planted = random_population([[5, 4]], activation)
    copies = scrambled_population(Population.from_modules([m.module for m in planted] * 4, X), seed=1)
    census = Census(grounding, distance, clusterer, {"hidden.0": 5, "hidden.1": 4}, n_resamples=3).fit(copies, X)
    for name, width in (("hidden.0", 5), ("hidden.1", 4)):
        layer = census.layers_[name]
        assert layer.size_.tolist() == [4] * width
        assert layer.frequency_.tolist() == [1.0] * width
        assert layer.stability_.tolist() == [1.0] * width


@settings(max_examples=8)
@given(seed=st.integers(0, 10**6), activation=st.sampled_from(["relu", "tanh"]), geometry=st.sampled_from(CLUSTERINGS))
def test_the_partition_does_not_depend_on_numbering_scale_or_sign(
    seed: int, activation: str, geometry: tuple[str, str]
) -> None:
    population = random_population([[6, 4], [5, 4], [7, 5]], activation, seed=seed)
    other = scrambled_population(population, seed)
    first, second = (Census(*geometry, n_clusters=4, n_resamples=0).fit(p, X) for p in (population, other))
    # Undo the permutation by matching functions: a unit is known by its response on X, up to scale and sign.
    for name in ("hidden.0", "hidden.1"):
        order = []
        for mine, theirs in zip(first.networks_, second.networks_, strict=True):
            a, b = (Responses([net], X).written(name)[0].T for net in (mine, theirs))
            a, b = a / a.norm(dim=1, keepdim=True), b / b.norm(dim=1, keepdim=True)
            order.append((a @ b.T).abs().argmax(1) + sum(len(o) for o in order))
        assert same_partition(first.layers_[name].labels_, second.layers_[name].labels_[torch.cat(order).numpy()])


def test_what_recurs_comes_first() -> None:
    """Three members share two units; every other unit is one member's own."""
    common = torch.tensor([[3.0, 0, 0, 0, 0, 0, 1], [0, 3, 0, 0, 0, 0, -1]])
    nets = [random_mlp([4], "gelu", seed=k) for k in range(3)]
    with torch.no_grad():
        for k, net in enumerate(nets):
            rows = [k, (k + 1) % 4]
            net.hidden[0].weight[rows] = common[:, :6]
            net.hidden[0].bias[rows] = common[:, 6]
    layer = Census(n_clusters=8, n_resamples=5).fit(Population.from_modules(nets, X), X).layers_["hidden.0"]
    assert layer.frequency_.tolist() == [1.0, 1.0] + [1 / 3] * 6
    assert layer.size_.tolist() == [3, 3] + [1] * 6
    assert sorted(np.flatnonzero(layer.labels_ < 2).tolist()) == [0, 1, 4 + 1, 4 + 2, 8 + 2, 8 + 3]
    np.testing.assert_allclose(np.sort(layer.centroid_[:2], axis=0), np.sort(common.numpy(), axis=0), atol=1e-5)


def test_units_that_do_nothing_are_set_aside_and_do_not_form_a_cluster() -> None:
    nets = [random_mlp([6], seed=k) for k in range(4)]
    with torch.no_grad():
        for net in nets:
            net.hidden[0].bias[:2] = -100.0  # never active
            net.readout.weight[:, 2] = 0  # active, but nobody listens
    layer = Census(n_resamples=0).fit(Population.from_modules(nets, X), X).layers_["hidden.0"]
    assert layer.n_dead_ == 12
    assert (~layer.alive).nonzero()[0].tolist() == [6 * k + u for k in range(4) for u in range(3)]
    assert set(layer.labels_[~layer.alive]) == {-1}
    assert layer.size_.sum() == 12
    by_weights = Census("weights", "cosine", n_resamples=0).fit(Population.from_modules(nets, X)).layers_["hidden.0"]
    assert (~by_weights.alive).nonzero()[0].tolist() == [6 * k + 2 for k in range(4)]


def test_one_tree_gives_every_number_of_clusters_and_they_are_nested(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Census(n_resamples=0).fit(random_population([[6], [7], [5]]), X).layers_["hidden.0"]
    monkeypatch.setattr("consilience.clustering.clusterers.linkage", None)  # nothing is clustered again
    n = int(layer.alive.sum())
    finer = layer.at(n)
    assert finer.size.tolist() == [1] * n
    for k in range(n - 1, 0, -1):
        coarser = layer.at(k)
        assert len(coarser) == k
        assert len(set(zip(finer.labels.tolist(), coarser.labels.tolist(), strict=True)) - {(-1, -1)}) == k + 1
        assert np.all(np.diff(coarser.frequency) <= 0)
        finer = coarser
    with pytest.raises(InputError, match="width of layer 'hidden.0' must be an int from 1 to 18, got 19"):
        layer.at(19)


def test_dead_units_come_last_each_alone() -> None:
    nets = [MLP(6, [5], 3) for _ in range(2)]
    with torch.no_grad():
        nets[1].hidden[0].weight[:2], nets[1].hidden[0].bias[:2] = 0, -1
    layer = Census(n_resamples=0).fit(Population.from_modules(nets, X[:8]), X).layers_["hidden.0"]
    assert (layer.n_dead_, layer.n_available) == (2, 10)
    nine = layer.at(9)
    assert nine.labels[[5, 6]].tolist() == [8, -1]  # the first of the two dead units
    np.testing.assert_array_equal(np.where(nine.labels == 8, -1, nine.labels), layer.at(8).labels)
    assert sorted(layer.at(10).labels) == list(range(10))


def test_a_flat_clustering_keeps_its_most_frequent_clusters() -> None:
    layer = (
        Census(clusterer="kmeans", n_clusters=8, n_resamples=0)
        .fit(random_population([[6], [7], [5]]), X)
        .layers_["hidden.0"]
    )
    fewer = layer.at(3)
    assert len(fewer) == 3
    np.testing.assert_array_equal(fewer.frequency, layer.frequency_[:3])
    assert set(np.unique(fewer.labels)) == {-1, 0, 1, 2}
    with pytest.raises(InputError, match="width of layer 'hidden.0' must be an int from 1 to"):
        layer.at(9)


def test_order_is_by_frequency_then_size_then_stability() -> None:
    clusters = Clusters(
        labels=np.array([0, 1, 1, 2, 3, 3]), frequency=np.array([0.5, 0.5, 1.0, 0.5]), size=np.array([1, 2, 1, 2]),
        stability=np.array([0.9, 0.3, 0.1, 0.4]),
    )  # fmt: skip
    ordered = in_order(clusters)
    assert ordered.labels.tolist() == [3, 2, 2, 0, 1, 1]
    assert ordered.stability.tolist() == [0.1, 0.4, 0.3, 0.9]


@settings(max_examples=50)
@given(labels=st.lists(st.integers(-1, 4), min_size=1, max_size=30), seed=st.integers(0, 100))
def test_counts_agree_with_counting(labels: list[int], seed: int) -> None:
    member = np.random.default_rng(seed).integers(0, 3, len(labels))
    clusters = count(np.array(labels), member, 3)
    for c in range(max(labels) + 1):
        owners = {int(k) for k, label in zip(member, labels, strict=True) if label == c}
        assert clusters.size[c] == labels.count(c)
        assert clusters.frequency[c] == pytest.approx(len(owners) / 3)


@pytest.mark.parametrize("projective", [False, True])
def test_distances_are_what_they_say(projective: bool) -> None:
    points = np.random.default_rng(0).normal(size=(9, 4))
    distances = Points(points, projective).distances()
    for i in range(9):
        for j in range(9):
            apart, other = np.linalg.norm(points[i] - points[j]), np.linalg.norm(points[i] + points[j])
            assert distances[i, j] == pytest.approx(min(apart, other) if projective else apart, abs=1e-7)


def test_activation_distance_is_the_hyperplanes_distance_in_their_inputs_second_moment() -> None:
    net = random_population([[5]], "gelu").networks[0]
    rows = torch.cat([net.state["hidden.0.weight"], net.state["hidden.0.bias"][:, None]], dim=1).double()
    points = embed(Responses([net], X).written("hidden.0")[0].T, "activation", symmetry_of(["gelu"]))
    augmented = torch.cat([X, torch.ones(len(X), 1)], dim=1).double()
    moment = augmented.T @ augmented
    difference = rows[0] - rows[3]
    assert points.distances()[0, 3] ** 2 == pytest.approx(float(difference @ moment @ difference), rel=1e-4)


@pytest.mark.parametrize("name", sorted(CLUSTERERS))
@pytest.mark.parametrize("projective", [False, True])
def test_clusterers_find_separated_groups_whatever_the_order_of_the_points(name: str, projective: bool) -> None:
    g = np.random.default_rng(1)
    centres = np.linalg.qr(g.normal(size=(6, 6)))[0] * 5
    truth = np.repeat(np.arange(6), 5)
    points = centres[truth] + 0.05 * g.normal(size=(30, 6))
    if projective:
        points *= g.choice([-1.0, 1.0], size=(30, 1))
    for order in (np.arange(30), g.permutation(30)):
        clustering = CLUSTERERS[name](Points(points[order], projective), None if name == "hdbscan" else 6, 0)
        assert (clustering.tree is not None) == (name in ("ward", "average", "two-stage"))
        assert same_partition(clustering.cut(6), truth[order])


def test_two_stages_agree_with_ward_on_separated_groups_beyond_the_micro_clusters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("consilience.clustering.clusterers.N_MICRO", 40)
    g = np.random.default_rng(0)
    truth = np.repeat(np.arange(5), 60)
    points = (np.eye(5) * 9)[truth] + 0.3 * g.normal(size=(300, 5))
    points *= g.choice([-1.0, 1.0], size=(300, 1))
    clustering = CLUSTERERS["two-stage"](Points(points, True), None, 0)
    assert clustering.n_leaves <= 40
    assert same_partition(clustering.cut(5), truth)


def test_a_tree_over_leaves_labels_their_points() -> None:
    tree = Clustering(Tree.from_linkage([[0, 1, 0.1, 2], [2, 3, 0.5, 3]]), np.array([2, 0, 1, 1]))
    assert same_partition(tree.cut(2), np.array([0, 1, 1, 1]))
    assert tree.cut(1).tolist() == [0, 0, 0, 0]


def test_a_basis_of_exact_multiples_reproduces_its_units() -> None:
    g = torch.Generator().manual_seed(0)
    centres, scales = torch.randn(3, 8, generator=g), torch.rand(10, generator=g) + 0.1
    labels = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0])
    points = centres[labels] * scales[:, None]
    basis = basis_of_groups(points, Groups.of_labels(labels), [5, 5], SYMMETRIES["relu"], np.ones(10, dtype=bool))
    centroids = torch.cat(basis.mixing).T @ points
    torch.testing.assert_close(torch.cat([p.matrix for p in basis.projections]) @ centroids, points)
    torch.testing.assert_close(centroids.norm(dim=1), torch.ones(3))


def test_units_whose_sign_is_free_meet_in_one_centroid() -> None:
    points = torch.randn(2, 8).repeat(3, 1)
    flipped = points * torch.tensor([1.0, 1, -1, 1, -1, -1])[:, None]
    labels = np.array([0, 1, 0, 1, 0, 1])
    basis = basis_of_groups(flipped, Groups.of_labels(labels), [2, 2, 2], SYMMETRIES["sigmoid"], np.ones(6, dtype=bool))
    centroids = torch.cat(basis.mixing).T @ flipped
    torch.testing.assert_close(centroids.abs(), points[:2].abs())
    for projection, rows in zip(basis.projections, flipped.split(2), strict=True):
        # σ(z) = P σ(z̃) + c exactly, flipped or not
        torch.testing.assert_close(projection.matrix @ centroids.sigmoid() + projection.offset[:, None], rows.sigmoid())


def test_a_live_unit_in_no_cluster_is_placed_on_the_nearest_centroid_and_a_dead_one_on_none() -> None:
    points = torch.tensor([[1.0, 0], [0, 1], [0.9, 0.1], [5, 5.1]])
    alive = np.array([True, True, True, False])
    for symmetry in (NO_SYMMETRY, SYMMETRIES["relu"], SYMMETRIES["tanh"]):
        basis = basis_of_groups(points, Groups.of_labels(np.array([0, 1, -1, -1])), [4], symmetry, alive)
        matrix = basis.projections[0].matrix
        assert matrix[2, 0] > 0
        assert matrix[2, 1] == 0
        assert not matrix[3].any()
        assert not basis.mixing[0][2:].any()


def test_projections_on_data_are_least_squares_around_their_prior() -> None:
    g = torch.Generator().manual_seed(0)
    shared, truth, offset = (
        torch.randn(500, 4, generator=g),
        torch.randn(3, 4, generator=g),
        torch.randn(3, generator=g),
    )
    own = [shared @ truth.T + offset]

    def refitted(matrix: torch.Tensor, constant: torch.Tensor) -> Projection:
        prior = Basis((torch.zeros(3, 4),), (Projection(matrix, constant),))
        return express(prior, own, shared, intercept=True).projections[0]

    fitted = refitted(torch.zeros(3, 4), torch.zeros(3))
    torch.testing.assert_close(fitted.matrix, truth, rtol=0.01, atol=0.01)
    torch.testing.assert_close(fitted.offset, offset, rtol=0.02, atol=0.02)
    kept = refitted(truth, offset)  # where the prior is exact nothing is left to fit, and it does not shrink
    torch.testing.assert_close(kept.matrix, truth, rtol=0, atol=1e-6)


def test_most_units_may_be_dead() -> None:
    net = random_mlp([10])
    with torch.no_grad():
        net.readout.weight[:, :7] *= 1e-7
    layer = Census(n_resamples=0).fit(Population.from_modules([net], X), X).layers_["hidden.0"]
    assert layer.n_dead_ == 7


def test_signs_are_not_free_where_nothing_takes_the_constant() -> None:
    """Sigmoid without biases: a unit and its negative are two units, for no bias could take σ(z) + σ(−z) = 1."""
    net = random_mlp([4], "sigmoid", bias=False)
    other = random_mlp([4], "sigmoid", bias=False)
    with torch.no_grad():
        other.hidden[0].weight.neg_()
    layer = Census(n_clusters=8, n_resamples=0).fit(Population.from_modules([net, other], X), X).layers_["hidden.0"]
    labels = layer.at(7).labels
    assert not (labels[:4] == labels[4:]).any()


def test_a_fit_that_fails_leaves_no_census() -> None:
    census = Census(n_resamples=0).fit(random_population([[5, 5]]), X)
    dead = random_mlp([5, 5])
    with torch.no_grad():
        dead.hidden[1].bias[:] = -100.0
    with pytest.raises(InputError, match="layer 'hidden.1' in which every unit is dead"):
        census.fit(Population.from_modules([dead], X), X)
    assert not hasattr(census, "layers_")


class Gated(nn.Module):
    """A gate in front of what it multiplies, so that the next layer reads the gate's units."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.down, self.up = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(3, 8)
        self.b, self.readout = nn.Linear(8, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.a(x))
        return self.readout(torch.relu(self.b(torch.sigmoid(self.up(torch.relu(self.down(h)))) * h)))


class Constant(nn.Module):
    """A gate of a hidden layer that depends on no input."""

    def __init__(self, n_keys: int = 1) -> None:
        super().__init__()
        self.key, self.down, self.up = nn.Embedding(n_keys, 4), nn.Linear(4, 3), nn.Linear(3, 8)
        self.a, self.readout = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.up(torch.relu(self.down(self.key(torch.arange(self.key.num_embeddings))))))
        return self.readout(torch.relu(self.a(x)) * gate.mean(0, keepdim=True))


@pytest.mark.parametrize(("grounding", "distance"), [*CLUSTERINGS, ("weights", "l2")])
def test_a_gate_that_is_read_in_place_of_what_it_multiplies_follows_its_family(grounding: str, distance: str) -> None:
    torch.manual_seed(0)
    module, again = Gated(), Gated()
    (member,) = Population.from_modules([module], X[:16]).networks
    again.load_state_dict(scrambled(member, seed=3).state)
    population = Population.from_modules([module, again], X[:16])
    census = Census(grounding=grounding, distance=distance, n_clusters="1x", n_resamples=0).fit(population, X)
    net = assemble(census, width="1x", correction="none", choice="cut")
    with torch.no_grad():
        assert torch.allclose(net(X), module(X), atol=1e-4)


@pytest.mark.parametrize(("grounding", "distance"), [*CLUSTERINGS, ("weights", "l2")])
def test_layers_that_depend_on_no_input_are_in_the_census(grounding: str, distance: str) -> None:
    torch.manual_seed(0)
    population = Population.from_modules([Constant() for _ in range(2)], X[:16])
    census = Census(grounding=grounding, distance=distance, n_resamples=0).fit(population, X)
    assert all(layer.alive.all() for layer in census.layers_.values())
    full = assemble(census, width="full")
    with torch.no_grad():
        assert torch.allclose(full(X), population.logits(X).mean(0), atol=1e-5)
    assert assemble(census, width="1x", correction="none")(X).isfinite().all()


def test_layers_that_depend_on_no_input_must_have_a_dimension_of_samples() -> None:
    population = Population.from_modules([Constant(n_keys=3) for _ in range(2)], X[:16])
    with pytest.raises(InputError, match="'key', which depend on no input, must have a dimension of samples"):
        Census(n_resamples=0).fit(population, X)


def test_a_layer_of_dead_units_is_refused() -> None:
    net = random_mlp([4])
    with torch.no_grad():
        net.hidden[0].bias[:] = -100.0
    with pytest.raises(InputError, match="members must not be constant, got layer 'hidden.0'"):
        Census().fit(Population.from_modules([net], X), X)


@pytest.mark.parametrize(
    ("arguments", "x", "message"),
    [
        ({"grounding": "data"}, X, "grounding must be one of 'weights', 'activations', got 'data'"),
        ({"distance": "euclid"}, X, "distance must be one of 'cosine', 'l2', 'activation', got 'euclid'"),
        ({"clusterer": "Ward"}, X, "clusterer must be one of 'ward', .*, got 'Ward'"),
        ({}, None, "x must be calibration inputs .*, got None"),
        ({"distance": "cosine"}, None, "x must be calibration inputs .*, got None"),
        ({}, X[:, :5], r"x must have shape \(n, 6\) with n >= 2, got \(200, 5\)"),
        ({}, X[:0], "x must have shape"),
        ({}, torch.full((3, 6), torch.nan), "x must be finite, got NaN or infinity in 3 of 3 rows"),
        ({}, X.long(), "x must be a tensor of torch.float32, .*, got int64"),
        ({}, X.numpy() > 0, "x must be a tensor of torch.float32"),
        ({"n_clusters": "x2"}, X, "n_clusters of layer 'hidden.0' must be a positive int or a multiple .*, got 'x2'"),
        ({"n_clusters": 0}, X, "n_clusters of layer 'hidden.0' must be a positive int"),
        ({"n_clusters": 99}, X, "n_clusters of layer 'hidden.0' must be an int from 1 to 11, got 99"),
        ({"n_clusters": {"hidden.4": 3}}, X, "layer must be one of 'hidden.0', .*, got 'hidden.4'"),
        ({"n_clusters": {"readout": 3}}, X, "n_clusters must be of hidden layers, got 'readout'"),
        ({"n_resamples": -1}, X, "n_resamples must be an int >= 0, got -1"),
        ({"random_state": -1}, X, "random_state must be an int >= 0, got -1"),
    ],
)
def test_bad_input_is_refused_before_any_work(
    arguments: dict, x: torch.Tensor | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    population = random_population([[6], [5]])
    monkeypatch.setattr("consilience.census.census.canonical", None)  # the first step of the work
    with pytest.raises(InputError, match=message):
        Census(**arguments).fit(population, x)


def test_recurring_units_of_real_members_are_stable_and_the_same_every_time(
    population: Population, digits: Data
) -> None:
    first, second = (Census(n_clusters="2x", random_state=3).fit(population, digits.calibration.x) for _ in range(2))
    for name, layer in first.layers_.items():
        assert layer.frequency_[0] > 0.3
        assert 0 < np.nanmean(layer.stability_) <= 1
        np.testing.assert_array_equal(layer.labels_, second.layers_[name].labels_)
        np.testing.assert_array_equal(layer.stability_, second.layers_[name].stability_)
        np.testing.assert_array_equal(layer.centroid_, second.layers_[name].centroid_)
