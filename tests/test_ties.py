"""Choices among equals do not depend on the last digits, which every kernel rounds in its own way."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conftest import inputs, random_mlp
from consilience.assembly.selection import forward_selection
from consilience.baselines import cycle_consistent
from consilience.baselines.concatenation import transplanted_bases
from consilience.baselines.cycle_consistent import highest, universe_orders
from consilience.baselines.permutations import assign
from consilience.baselines.transport import transport
from consilience.bases.grounding import Groups, basis_of_groups
from consilience.census.growth import grow
from consilience.clustering.clusterers import Clustering, average, kmeans, ward
from consilience.clustering.clusters import Clusters, in_order
from consilience.clustering.distances import Points
from consilience.clustering.spectral import clusters_of, degrees, spectrum
from consilience.comparison import find_consensus, loss_barriers
from consilience.errors import InputError, TracingError
from consilience.modularity.lesions import Effects
from consilience.population import Population
from consilience.recovery.network import without_excess
from consilience.recovery.signs import turned
from consilience.recovery.student import Student
from consilience.signals.moments import Moments, ridge
from consilience.ties import descending, first_largest, rounded
from consilience.units.symmetry import permute, symmetry_of
from consilience.units.trace import check_samples_apart, trace

pytestmark = pytest.mark.numerical

SEEDS = range(8)
TOGETHER = Groups.of_labels(np.zeros(2, dtype=int))  # two units in one cluster
Jitter = Callable[[Tensor], Tensor]


@pytest.fixture(params=SEEDS)
def jitter(request: pytest.FixtureRequest) -> Jitter:
    """Change numbers by a few units of their last digit, as another kernel does."""
    generator = torch.Generator().manual_seed(request.param)

    def changed(values: Tensor) -> Tensor:
        noise = torch.randint(-4, 5, values.shape, generator=generator).to(values.dtype)
        return values * (1 + noise * torch.finfo(values.dtype).eps)

    return changed


def double(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Cancelling(nn.Module):
    """Adds and takes away what is 1e7 times as large; what is left depends on all of the batch or of the weights."""

    def __init__(self, over_samples: bool) -> None:
        super().__init__()
        self.layer, self.over_samples = nn.Linear(4, 3), over_samples

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        large = 1e7 * (y.sum(0, keepdim=True) if self.over_samples else y.sum(1, keepdim=True))
        return (y + large) - large


class Batchwise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


def test_rounding_is_not_taken_for_outputs_that_depend_on_the_batch() -> None:
    module, x = Cancelling(over_samples=True), inputs(2, n_inputs=4)
    program = trace(module, x)
    check_samples_apart(program, module, x)
    batchwise = Batchwise()
    with pytest.raises(TracingError, match="depend on the others"):
        check_samples_apart(trace(batchwise, x), batchwise, x)


class Reordered(Cancelling):
    """The same function, with the terms in another order."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        large = 1e7 * y.sum(1, keepdim=True)
        return y + (large - large)


def test_rounding_is_not_taken_for_another_function() -> None:
    one, other, x = Cancelling(over_samples=False), Reordered(over_samples=False), inputs(20, n_inputs=4)
    y = torch.arange(20) % 3
    assert not torch.allclose(one(x), other(x), atol=1e-2)
    assert loss_barriers([one, other], x, y).shape == (2, 2)
    with pytest.raises(InputError, match="two that compute the same function"):
        loss_barriers([one, nn.Sequential(nn.Linear(4, 3), nn.ReLU())], x, y)


def test_equal_networks_have_no_barrier_between_them() -> None:
    x, y = inputs(20, n_inputs=4), torch.arange(20) % 3
    for seed in range(8):
        net = random_mlp([5], seed=seed, n_inputs=4)
        assert loss_barriers([net, copy.deepcopy(net)], x, y).max() == 0


def test_signs_are_kept_where_the_path_does_not_tell(jitter: Jitter) -> None:
    hyperplanes, weights = double(5, 6), double(3, 5, seed=1)
    weights[:, 1] = 1e-20 * weights[:, 0]  # unread, but for rounding
    hyperplanes[3], weights[:, 3] = hyperplanes[2], weights[:, 2]  # the path has the sum of the two
    wrong = torch.tensor([True, False, False, True, False])
    path = -(weights * wrong) @ hyperplanes[:, :-1]
    expected = torch.tensor([True, False, False, False, False])
    assert torch.equal(turned(1.0, jitter(hyperplanes), jitter(weights), jitter(path)), expected)


def test_the_first_of_equal_units_is_removed(jitter: Jitter) -> None:
    network, x = Student(3, [4], 2, torch.tanh).double(), double(60, 3)
    with torch.no_grad():
        for name in ("weight", "bias"):
            own = getattr(network.hidden[0], name)
            own.copy_(double(*own.shape, seed=2))
            own[3] = own[1]  # twice the same unit
    y = network(x).detach()
    changed = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.copy_(jitter(parameter))
    small, error, removed = without_excess(changed, 0.0, x, y, noisy=False)
    assert (removed, small.widths) == (1, (3,))
    torch.testing.assert_close(small.hidden[0].weight, network.hidden[0].weight[[0, 2, 3]], rtol=1e-6, atol=1e-6)
    assert error < 1e-20


@pytest.mark.parametrize("n", range(2, 8))
def test_a_centroid_of_opposite_units_points_as_the_first(n: int, jitter: Jitter) -> None:
    unit = double(1, n, seed=n)
    points = jitter(torch.cat([unit, -unit]))
    basis = basis_of_groups(points, TOGETHER, [2], symmetry_of(("tanh",)), np.ones(2, dtype=bool))
    assert basis.mixing[0].flatten().tolist() == [0.5, -0.5]
    assert basis.projections[0].matrix.flatten().tolist() == [1, -1]


def test_what_is_left_of_units_that_cancel_is_not_scaled_up(jitter: Jitter) -> None:
    unit = double(1, 7).float()
    points = jitter(torch.cat([unit, -unit]))
    basis = basis_of_groups(points, TOGETHER, [2], symmetry_of(("relu",)), np.ones(2, dtype=bool))
    assert float(basis.mixing[0].abs().max()) < 10


def test_of_equal_centroids_the_first_is_the_nearest(jitter: Jitter) -> None:
    unit = double(1, 7)
    points = jitter(unit.expand(4, 7))
    groups = Groups.of_labels(np.array([0, 1, 2, -1]))
    for activation in ("relu", "tanh", "gelu"):
        basis = basis_of_groups(points, groups, [4], symmetry_of((activation,)), np.ones(4, dtype=bool))
        assert (basis.projections[0].matrix[3] != 0).tolist() == [True, False, False]


def test_equal_gains_leave_units_in_place(jitter: Jitter) -> None:
    assert assign(jitter(torch.full((6, 6), 1 / 3, dtype=torch.float64))).tolist() == assign(torch.ones(6, 6)).tolist()
    blocks = torch.block_diag(*[torch.full((2, 2), 0.7, dtype=torch.float64)] * 3)
    assert torch.equal(assign(jitter(blocks)), assign(torch.block_diag(*[torch.ones(2, 2)] * 3)))
    for n_anchor in (4, 6):
        cost = torch.full((4, n_anchor), 0.3, dtype=torch.float64)
        assert torch.equal(transport(jitter(cost)), transport(cost))


def test_members_that_are_copies_find_one_universe(jitter: Jitter, monkeypatch: pytest.MonkeyPatch) -> None:
    gradient = cycle_consistent.gradient

    def rounded_otherwise(*arguments: Any) -> dict[str, Tensor]:
        return {name: jitter(slope) for name, slope in gradient(*arguments).items()}

    monkeypatch.setattr(cycle_consistent, "gradient", rounded_otherwise)
    net = random_mlp([6, 5], seed=3).double()
    first = Population.from_modules([net], inputs(8).double()).networks[0]
    modules = [net]
    for k in range(3):
        network = first
        for layer in ("hidden.0", "hidden.1"):
            order = torch.randperm(network.architecture.layer(layer).width, generator=torch.Generator().manual_seed(k))
            network = permute(network, layer, order)
        modules.append(copy.deepcopy(net))
        modules[-1].load_state_dict({name: jitter(value) for name, value in network.state.items()})
    population = Population.from_modules(modules, inputs(8).double())
    for seed in range(4):
        orders = universe_orders(population, seed)
        rows = [net.hidden[0].weight.detach() for net in modules]
        for order, row in zip(orders, rows, strict=True):
            torch.testing.assert_close(row[order["hidden.0"]], rows[0][orders[0]["hidden.0"]])


def test_a_step_that_gains_nothing_is_not_taken() -> None:
    flat = np.polynomial.Polynomial([1.0, 1e-17, 0.0, -1e-17, 2e-17])
    assert highest(flat) == 0
    assert highest(np.polynomial.Polynomial([0.0, 1.0, -1.0])) == pytest.approx(0.5)


def test_units_of_the_first_members_are_transplanted(jitter: Jitter) -> None:
    net = random_mlp([6, 5], seed=3)
    modules = [net, *(copy.deepcopy(net) for _ in range(3))]
    for module in modules[1:]:
        module.load_state_dict({name: jitter(value) for name, value in net.state_dict().items()})
    bases = transplanted_bases(Population.from_modules(modules, inputs(8)), {"hidden.0": 6, "hidden.1": 5})
    for width, basis in zip((6, 5), bases.values(), strict=True):
        owned = [int(each.sum()) for each in basis.mixing]
        norms = net.hidden[0 if width == 6 else 1].weight.norm(dim=1)
        best = norms.argsort(descending=True)
        assert owned == [2, 2, 1, 1] if width == 6 else [2, 1, 1, 1]
        assert bool(basis.mixing[0][best[0]].any())


def test_the_first_of_equal_candidates_is_chosen(jitter: Jitter) -> None:
    features = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)).repeat(1, 3)
    features = features - features.mean(0)
    targets = features[:, :4] @ torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0]))
    assert forward_selection(jitter(features), targets, 4) == [0, 1, 2, 3]
    assert forward_selection(jitter(features), 1e-6 * targets, 4) == [0, 1, 2, 3]


@pytest.mark.parametrize("clusterer", [ward, average])
@pytest.mark.parametrize("projective", [False, True])
def test_copies_of_units_are_cut_alike(clusterer: Callable[..., Clustering], projective: bool, jitter: Jitter) -> None:
    points = torch.randn(5, 20, generator=torch.Generator().manual_seed(1)).repeat(4, 1)
    expected = clusterer(Points(points.numpy(), projective), None, 0)
    found = clusterer(Points(jitter(points).numpy(), projective), None, 0)
    for n_clusters in range(1, 20):
        assert np.array_equal(found.cut(n_clusters), expected.cut(n_clusters))
    more = torch.cat([points, points[:5]])
    grown = [grow(tree, Points(x.numpy(), projective), clusterer.__name__)
             for tree, x in ((expected, more), (found, jitter(more)))]  # fmt: skip
    for n_clusters in range(1, 25):
        assert np.array_equal(*(tree.cut(n_clusters) for tree in grown))


def test_kmeans_begins_alike_where_all_points_are_as_long(jitter: Jitter) -> None:
    points = nn.functional.normalize(double(60, 8), dim=1)
    labels = kmeans(Points(points.numpy(), False), 9, 0).labels
    assert np.array_equal(kmeans(Points(jitter(points).numpy(), False), 9, 0).labels, labels)


def test_clusters_that_are_as_stable_go_by_their_first_unit() -> None:
    stability = np.array([0.1 + 0.2 + 0.3, 0.3 + 0.2 + 0.1, 0.6])
    assert len(set(stability)) == 2
    for order in ([0, 1, 2], [1, 2, 0], [2, 0, 1]):
        clusters = Clusters(np.array([0, 1, 2]), np.ones(3), np.ones(3, dtype=np.int64), stability[order])
        assert in_order(clusters).labels.tolist() == [0, 1, 2]


def test_samples_that_are_as_disputed_go_by_their_index() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, (7, 300))
    labels = np.concatenate([labels, labels[:, ::-1], labels[:, ::-1], labels], axis=1)  # every sample four times
    found = find_consensus(labels, 3)
    assert np.array_equal(found.disputed, np.lexsort((np.arange(1200), -found.disagreement.round(9))))
    assert len(np.unique(found.disagreement)) == len(np.unique(found.disagreement.round(9)))


def test_effects_that_differ_by_rounding_are_equal() -> None:
    single, random = np.array([0.3, 0.5]), np.array([[0.3, 0.3, 0.3], [0.5, 0.5, 0.1]])
    exact = Effects(1.0, single, random, np.zeros((2, 2)))
    for sign in (-1, 1):
        other = Effects(1.0, single, random + sign * 1e-9 * np.array([1, -1, 1]), np.zeros((2, 2)))
        assert np.array_equal(other.p, exact.p)
        assert np.isnan(other.importance[0])
        assert np.isnan(exact.importance[0])


def test_eigenvectors_and_clusters_have_their_signs_and_numbers_from_the_first_node(jitter: Jitter) -> None:
    ring = torch.zeros(4, 4, dtype=torch.float64)
    ring[[0, 0, 1, 1, 2, 2, 3, 3], [0, 1, 0, 1, 2, 3, 2, 3]] = 1
    ring = ring + 0.01
    nodes = slice(0, 4), slice(4, 8)
    blocks = [(*nodes, jitter(ring).numpy())]
    found = spectrum(blocks, degrees(8, blocks), 2)
    signs = np.sign(found.vectors[:, 1])
    assert signs.tolist() == [1, 1, -1, -1] * 2
    for random_state in range(3):
        assert clusters_of(found, random_state).tolist() == [0, 0, 1, 1] * 2


def test_of_equal_parts_of_a_graph_the_first_is_divided(jitter: Jitter) -> None:
    part = torch.full((4, 4), 0.1, dtype=torch.float64) + torch.block_diag(torch.ones(2, 2), torch.ones(2, 2))
    blocks = [(slice(0, 8), slice(8, 16), jitter(torch.block_diag(part, part)).numpy())]
    found = spectrum(blocks, degrees(16, blocks), 3)
    first_part = [0, 1, 2, 3, 8, 9, 10, 11]
    assert np.flatnonzero(np.abs(found.vectors[:, 2]) > 1e-6).tolist() == first_part


def test_what_varies_by_rounding_explains_nothing(jitter: Jitter) -> None:
    """A constant of 1e4 has a variance of 1e-8 by rounding; least squares would put any weight on it."""
    x, y = double(100, 3), double(100, 2, seed=1)
    x[:, 2] = 1e4
    moments = Moments(3, 2)
    for rows, targets in zip(jitter(x).split(7), y.split(7), strict=True):
        moments.add(rows, targets)
    weight, _ = ridge(moments, 0)
    assert float(weight[:, 2].abs().max()) < 1e-6


def test_near_equals_are_equal(jitter: Jitter) -> None:
    values = jitter(torch.tensor([[1.0, 3.0, 3.0, -3.0], [-1.0, -1.0, -2.0, -1.0]], dtype=torch.float64))
    assert first_largest(values).tolist() == [1, 0]
    assert first_largest(values.T, 0).tolist() == [1, 0]
    assert descending(values[0].numpy()).tolist() == [1, 2, 0, 3]
    assert np.ptp(rounded(jitter(torch.full((3,), 0.1, dtype=torch.float64)).numpy())) == 0
    assert descending(np.empty(0)).tolist() == rounded(np.empty(0)).tolist() == []
    assert rounded(np.zeros(2)).tolist() == [0, 0]
