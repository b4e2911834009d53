"""Graphs, n-cuts, nulls and cross-cluster modularity, against NetworkX, brute force and planted parts."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score
from torch import nn

from conftest import inputs, random_mlp
from consilience.errors import InputError, NullWarning
from consilience.modularity import (
    Clusterability,
    UnitGraph,
    bipartite_clusters,
    contiguous,
    cross_modularity,
    unit_graph,
)
from consilience.modularity.cross import clusterable_matrices, within_clusters
from consilience.modularity.graph import Edges, traced
from consilience.modularity.nulls import DISPERSION, KEPT, degree_preserving, null_graph, permuted_nonzero
from consilience.nets import MLP, ConvNet, ResNet
from consilience.units.architecture import TracedNetwork
from consilience.units.symmetry import flip, rescale
from zoo import MobileNet, PreActivationResNet

pytestmark = pytest.mark.numerical


def bipartite(matrix: NDArray) -> UnitGraph:
    return UnitGraph(
        {"in": matrix.shape[1], "out": matrix.shape[0]}, (Edges("m", "in", "out", matrix[..., None], False),)
    )


def planted(n: int, k: int, off_block: float, seed: int) -> tuple[NDArray, NDArray, NDArray]:
    """A matrix with k blocks of random entries, in random order, and a share of its squares outside of them."""
    g = np.random.default_rng(seed)
    rows, columns = g.permutation(contiguous(n, k)), g.permutation(contiguous(n, k))
    within = rows[:, None] == columns
    matrix = g.normal(size=(n, n))
    inside, outside = (matrix * within), (matrix * ~within)
    inside *= np.sqrt((1 - off_block) / np.square(inside).sum())
    outside *= np.sqrt(off_block / np.square(outside).sum())
    return inside + outside, rows, columns


# --- graphs -----------------------------------------------------------------------------------------------------------


def test_the_graph_of_an_mlp_has_its_weights_as_edges() -> None:
    net = random_mlp([5, 4])
    graph = unit_graph(net, inputs(4))
    assert graph.sizes == {"inputs": 6, "hidden.0": 5, "hidden.1": 4, "readout": 3}
    dense = graph.adjacency.toarray()
    assert np.array_equal(dense, dense.T)
    weights = net.hidden[1].weight.detach().abs().double().numpy()
    assert np.array_equal(dense[11:15, 6:11], weights)
    assert np.count_nonzero(dense) == 2 * (6 * 5 + 5 * 4 + 4 * 3)
    assert np.allclose(graph.degree, dense.sum(1))


def test_kernels_have_their_l1_norm_and_batch_norms_are_folded() -> None:
    torch.manual_seed(0)
    net = ConvNet(2, [3, 4], 3, batch_norm=True).eval()
    norm = net.norms[1]
    with torch.no_grad():
        norm.weight.uniform_(-2, 2)
        norm.running_var.uniform_(0.5, 2)
    graph = unit_graph(net, torch.randn(2, 2, 8, 8))
    scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach().abs()
    expected = net.hidden[1].weight.detach().abs().sum((2, 3)) * scale[:, None]
    edges = {(each.read, each.written): each.matrix for each in graph.edges}
    assert np.allclose(edges["hidden.0", "hidden.1"], expected.numpy(), rtol=1e-5)
    assert graph.sizes == {"inputs": 2, "hidden.0": 3, "hidden.1": 4, "readout": 3}


def test_a_residual_stream_is_one_set_of_units() -> None:
    torch.manual_seed(0)
    net = ResNet(1, [4], 3, 2).eval()
    graph = unit_graph(net, torch.randn(2, 1, 8, 8))
    assert graph.sizes == {"inputs": 1, "stem": 4, "stages.0.0.conv1": 4, "stages.0.1.conv1": 4, "readout": 3}
    dense = graph.adjacency.toarray()
    assert not dense[1:5, 1:5].any()  # a skip connection is no edge
    assert (dense[1:5, 5:9] > 0).all()  # block 1 reads and writes the stream


@pytest.mark.parametrize(("net", "shape"), [(MobileNet, (3, 8, 8)), (PreActivationResNet, (3, 8, 8))])
def test_units_that_read_themselves_alone_have_one_edge(net: type[nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    graph = unit_graph(net().eval(), torch.randn(2, *shape))
    alone = [each for each in graph.edges if each.per_unit]
    assert alone
    for each in alone:
        assert np.count_nonzero(each.matrix) == len(each.matrix) == graph.sizes[each.read]


def test_units_without_an_edge_are_removed_and_reported() -> None:
    net = random_mlp([5, 4])
    with torch.no_grad():
        net.hidden[0].weight[2], net.hidden[1].weight[:, 2] = 0, 0
        net.hidden[0].weight[:, 3] = 0
    found = Clusterability(2, n_null=3).fit(net, inputs(4))
    assert found.removed_ == {"inputs": [3], "hidden.0": [2]}
    assert found.labels_["hidden.0"][2] == -1 == found.labels_["inputs"][3]
    assert found.sizes_.sum() == 18 - 2


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value: float) -> None:
    net = random_mlp([5, 4])
    network = traced(net, inputs(4))
    with torch.no_grad():
        net.hidden[1].weight[0, 0] = value
    for refuse in (unit_graph, cross_modularity):
        with pytest.raises(InputError, match=r"weights of 'hidden.1' must be finite"):
            refuse(network)


def test_what_is_no_network_is_refused() -> None:
    net = random_mlp([5])
    with pytest.raises(InputError, match="example_input must be inputs"):
        unit_graph(net)
    with pytest.raises(InputError, match="network must be an nn.Module or a TracedNetwork, got str"):
        unit_graph("net")  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    with pytest.raises(InputError, match="network must have a weight other than 0"):
        unit_graph(net, inputs(4))


# --- n-cuts -----------------------------------------------------------------------------------------------------------


def test_two_parts_agree_with_networkx_own_n_cut() -> None:
    net = random_mlp([9, 7])
    found = Clusterability(2, n_null=0).fit(net, inputs(4))
    graph = nx.from_scipy_sparse_array(found.graph_.adjacency)
    labels = np.concatenate(list(found.labels_.values()))
    sides = [set(np.flatnonzero(labels == c).tolist()) for c in (0, 1)]
    assert found.n_cut_ == pytest.approx(nx.normalized_cut_size(graph, *sides, weight="weight"), abs=1e-9)


@pytest.mark.parametrize("n", [8, 200])
def test_parts_without_edges_between_them_have_n_cut_zero(n: int) -> None:
    matrix, rows, columns = planted(n, 4, 0.0, seed=1)
    found = Clusterability(4, n_null=5).fit(bipartite(np.abs(matrix)))
    assert found.n_cut_ == pytest.approx(0, abs=1e-12)
    assert np.allclose(found.eigenvalues_[:4], 0, atol=1e-12)
    assert found.eigenvalues_[4] > 0.01
    assert adjusted_rand_score(np.concatenate([columns, rows]), np.concatenate(list(found.labels_.values()))) == 1
    assert found.p_ == pytest.approx(1 / 6)


def test_more_parts_than_clusters_are_put_together() -> None:
    matrix, _, _ = planted(60, 6, 0.0, seed=1)
    assert Clusterability(4, n_null=0).fit(bipartite(np.abs(matrix))).n_cut_ == pytest.approx(0, abs=1e-12)


def test_units_in_another_order_have_the_same_n_cut() -> None:
    net, other = random_mlp([30, 20]), random_mlp([30, 20])
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        other.hidden[0].weight.copy_(net.hidden[0].weight[order])
        other.hidden[1].weight.copy_(net.hidden[1].weight[:, order])
    mine, theirs = (Clusterability(2, n_null=0).fit(each, inputs(4)) for each in (net, other))
    assert np.allclose(mine.eigenvalues_, theirs.eigenvalues_, atol=1e-12)
    assert mine.n_cut_ == pytest.approx(theirs.n_cut_, abs=1e-9)


def test_one_hidden_layer_is_enough_and_seeds_are_kept() -> None:
    net = random_mlp([12])
    first, again = (Clusterability(3, n_null=8, random_state=4).fit(net, inputs(4)) for _ in range(2))
    other = Clusterability(3, n_null=8, random_state=5).fit(net, inputs(4))
    assert np.array_equal(first.null_, again.null_)
    assert first.n_cut_ == again.n_cut_
    assert not np.array_equal(first.null_, other.null_)
    assert first.z_ == pytest.approx((first.n_cut_ - first.null_.mean()) / first.null_.std(ddof=1))
    assert first.p_ == ((first.null_ < first.n_cut_).sum() + 1) / 9


@pytest.mark.slow
def test_processes_do_not_change_the_null() -> None:
    net = random_mlp([12])
    alone, parallel = (Clusterability(3, n_null=8, n_jobs=n_jobs).fit(net, inputs(4)).null_ for n_jobs in (1, 2))
    assert np.array_equal(alone, parallel)


def test_planted_parts_are_more_modular_than_by_chance_under_every_null() -> None:
    matrix, _, _ = planted(60, 4, 0.15, seed=0)
    for null in ("permute", "permute-nonzero", "degree-preserving"):
        assert Clusterability(4, null, n_null=10).fit(bipartite(np.abs(matrix))).z_ < -5, null


def test_a_network_is_no_more_modular_than_its_own_shuffled_copies() -> None:
    graph = bipartite(np.abs(np.random.default_rng(0).normal(size=(60, 60))))
    for null in ("permute", "permute-nonzero", "degree-preserving"):
        assert abs(Clusterability(4, null, n_null=20).fit(graph).z_) < 3, null


def test_weights_that_are_all_equal_have_no_z() -> None:
    found = Clusterability(2, n_null=4).fit(bipartite(np.ones((6, 6))))
    assert np.isnan(found.z_)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_clusters": 1}, "n_clusters must be an int >= 2, got 1"),
        ({"n_clusters": 13}, "n_clusters must be an int from 2 to 12, got 13\n.*only 12 units have an edge"),
        ({"n_null": -1}, "n_null must be an int >= 0, got -1"),
        ({"null": "shuffle"}, "null must be one of 'permute', 'permute-nonzero', 'degree-preserving', got 'shuffle'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, int | str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Clusterability(**{"n_clusters": 2, **settings}).fit(bipartite(np.ones((6, 6))))  # type: ignore[arg-type]


# --- units that may be rescaled ---------------------------------------------------------------------------------------


def with_other_scales() -> tuple[TracedNetwork, TracedNetwork]:
    """A relu perceptron, and the same function with one unit 100 times, one 1/16 times as large."""
    network = traced(MLP(12, [20, 16], 8, activation="relu"), torch.randn(4, 12))
    factors = torch.ones(20)
    factors[3], factors[7] = 100, 1 / 16
    return network, rescale(network, "hidden.0", factors)


def test_a_rescaled_unit_does_not_change_how_modular_a_network_is() -> None:
    torch.manual_seed(0)
    network, other = with_other_scales()
    first, second = (Clusterability(4, n_null=2).fit(each) for each in (network, other))
    assert second.n_cut_ == pytest.approx(first.n_cut_, abs=1e-5)
    assert np.allclose(second.eigenvalues_, first.eigenvalues_, atol=1e-5)
    for name, labels in first.labels_.items():
        assert np.array_equal(second.labels_[name], labels)
    as_given = [Clusterability(4, n_null=2, scale="as-given").fit(each).n_cut_ for each in (network, other)]
    assert abs(as_given[1] - as_given[0]) > 0.05


def test_a_rescaled_unit_does_not_change_cross_cluster_modularity() -> None:
    torch.manual_seed(0)
    network, other = with_other_scales()
    for mine, theirs in zip(*(cross_modularity(each, n_null=1) for each in (network, other)), strict=True):
        assert theirs.value == pytest.approx(mine.value, abs=1e-5)
    as_given = [cross_modularity(each, n_null=1, scale="as-given")[0].value for each in (network, other)]
    assert abs(as_given[1] - as_given[0]) > 0.05


def test_a_flipped_unit_does_not_change_how_modular_a_network_is() -> None:
    torch.manual_seed(0)
    network = traced(MLP(12, [20, 16], 8, activation="tanh"), torch.randn(4, 12))
    other = flip(network, "hidden.0", torch.where(torch.arange(20) % 3 == 0, -1.0, 1.0))
    first, second = (Clusterability(4, n_null=0).fit(each) for each in (network, other))
    assert second.n_cut_ == first.n_cut_


def test_a_scale_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InputError, match="scale must be one of 'balanced', 'as-given', got 'unit'"):
        Clusterability(2, scale="unit").fit(random_mlp([5]), inputs(4))  # type: ignore[arg-type]


# --- nulls ------------------------------------------------------------------------------------------------------------


def sparse_matrix(seed: int, shape: tuple[int, int] = (30, 20), density: float = 0.4) -> NDArray:
    g = np.random.default_rng(seed)
    strong = g.lognormal(sigma=0.5, size=shape) * g.lognormal(sigma=0.5, size=shape[0])[:, None]
    matrix: NDArray = strong * (g.random(shape) < density)
    return matrix


@given(st.integers(0, 10_000))
def test_a_nonzero_permutation_keeps_zeros_and_values(seed: int) -> None:
    matrix = sparse_matrix(seed)
    shuffled = permuted_nonzero(matrix, np.random.default_rng(seed))
    assert np.array_equal(shuffled == 0, matrix == 0)
    assert np.array_equal(np.sort(shuffled.ravel()), np.sort(matrix.ravel()))
    assert not np.array_equal(shuffled, matrix)


@pytest.mark.parametrize("density", [0.3, 1.0])
@given(seed=st.integers(0, 10_000))
@settings(max_examples=10)
def test_a_degree_preserving_null_keeps_numbers_sums_and_dispersion(density: float, seed: int) -> None:
    matrix = sparse_matrix(seed, (60, 40), density)
    shuffled = degree_preserving(matrix, np.random.default_rng(seed))
    for axis in (0, 1):
        assert np.array_equal((shuffled > 0).sum(axis), (matrix > 0).sum(axis))
        assert np.allclose(shuffled.sum(axis), matrix.sum(axis), rtol=KEPT, atol=0)
    assert dispersion(shuffled, matrix) == pytest.approx(dispersion(matrix, matrix), rel=DISPERSION)
    assert (shuffled != matrix).mean() > 0.5 * min(density, 0.5)


def test_a_map_of_blocks_has_copies_that_keep_sums_and_dispersion() -> None:
    labels, g = contiguous(32, 4), np.random.default_rng(0)
    matrix = g.uniform(0.5, 1, size=(32, 32)) * np.where(labels[:, None] == labels, 1, 0.01)  # as training leaves it
    for _ in range(5):
        shuffled = degree_preserving(matrix, g)
        assert np.allclose(shuffled.sum(0), matrix.sum(0), rtol=KEPT, atol=0)
        assert dispersion(shuffled, matrix) == pytest.approx(dispersion(matrix, matrix), rel=DISPERSION)
    assert Clusterability(4, "degree-preserving", n_null=5).fit(bipartite(matrix)).z_ < -5


def dispersion(matrix: NDArray, sums_of: NDArray) -> float:
    """Σ w_ij² / (s_i t_j)."""
    rows, columns = (sums_of.sum(axis) for axis in (1, 0))
    expected = np.outer(rows, columns)
    return float((np.square(matrix) / np.where(expected > 0, expected, 1)).sum())


def test_edges_that_are_too_few_to_keep_the_sums_are_refused() -> None:
    graph = bipartite(np.diag(np.geomspace(1, 100, 12)))  # every edge is the only one of two units, of unequal sums
    with pytest.raises(InputError, match=r"map 'm': edges must be enough to be rewired .*, got 12 between 12 and 12"):
        Clusterability(4, "degree-preserving", n_null=1).fit(graph)


@pytest.mark.slow
@pytest.mark.parametrize(("unequal", "density"), [(0.0, 1.0), (0.8, 1.0), (0.0, 0.3)])
def test_networks_without_modules_are_no_more_and_no_less_modular_than_their_copies(
    unequal: float, density: float
) -> None:
    z = []
    for seed in range(20):
        g = np.random.default_rng(seed)
        factors = g.lognormal(sigma=unequal, size=(32, 1)) * g.lognormal(sigma=unequal, size=32)
        matrix = np.abs(g.normal(size=(32, 32))) * factors * (g.random((32, 32)) < density)
        z.append(Clusterability(4, "degree-preserving", n_null=9, random_state=seed).fit(bipartite(matrix)).z_)
    assert abs(np.mean(z)) < 4 / np.sqrt(20)  # the standard error of 20 values of unit variance is 0.22


@pytest.mark.parametrize(
    ("null", "heavy"), [("degree-preserving", True), ("degree-preserving", False), ("permute", True)]
)
def test_heavy_tailed_weights_are_warned_of_where_they_make_p_too_small(null: str, heavy: bool) -> None:
    net, g = MLP(48, [48, 48], 48), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            values = torch.randn(parameter.shape, generator=g)
            parameter.copy_(values.mul(1.5).exp() if heavy else values)
    measure = Clusterability(n_clusters=4, null=null, n_null=1)
    if heavy and null == "degree-preserving":
        with pytest.warns(NullWarning, match=r"p may be too small: weights of 'hidden.0' \(\d+\), .* are heavy-tailed"):
            measure.fit(net, torch.zeros(2, 48))
    else:
        measure.fit(net, torch.zeros(2, 48))  # a warning is an error


def test_where_edges_are_is_forgotten() -> None:
    matrix = np.kron(np.eye(4), np.ones((10, 10)))
    shuffled = degree_preserving(matrix, np.random.default_rng(0))
    assert ((shuffled > 0) & (matrix > 0)).sum() < 160  # a quarter of 400 by chance


def test_units_that_read_themselves_keep_their_edge() -> None:
    edges = Edges("m", "a", "b", np.arange(1.0, 6)[:, None, None], True)
    graph = UnitGraph({"a": 5, "b": 5}, (edges,))
    kept = null_graph(graph, "degree-preserving", np.random.default_rng(0))
    assert np.array_equal(kept.adjacency.toarray(), graph.adjacency.toarray())
    moved = null_graph(graph, "permute", np.random.default_rng(0)).edges[0].matrix
    assert np.array_equal(np.sort(np.diag(moved)), np.arange(1.0, 6))
    assert not np.array_equal(moved, edges.matrix)


# --- cross-cluster modularity -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("off_block", [0.0, 0.1, 0.2])
@pytest.mark.parametrize("n", [64, 128])  # with 32 units and 20 % outside, one or two are put elsewhere now and then
def test_planted_blocks_are_found_and_their_share_is_told(n: int, off_block: float) -> None:
    for seed in range(4):
        matrix, rows, columns = planted(n, 4, off_block, seed)
        found = bipartite_clusters(matrix, 4)
        assert adjusted_rand_score(np.concatenate([rows, columns]), np.concatenate(found)) == 1
        assert within_clusters(matrix, *found) == pytest.approx(1 - off_block, abs=1e-6)


def test_noise_has_a_modularity_that_its_null_has_too() -> None:
    net = MLP(6, [40, 40], 8)
    network = traced(net, inputs(4))
    middle = cross_modularity(network, "joint", 4, n_null=20)[1]
    assert (middle.read, middle.written) == ("hidden.0", "hidden.1")
    assert middle.value > 0.3  # fixed clusters would have a quarter
    assert abs(middle.z) < 3
    assert middle.enmeshment == 1 - middle.value


def unequal_perceptron(widths: list[int], seed: int) -> TracedNetwork:
    """A network without modules, whose units have lognormal factors of their incoming and outgoing weights."""
    net, g = MLP(widths[0], widths[1:-1], widths[-1], bias=False), np.random.default_rng(seed)
    for parameter in net.parameters():
        factors = [g.lognormal(sigma=0.8, size=n) for n in parameter.shape]
        weights = g.normal(size=parameter.shape) * np.outer(*factors)
        parameter.data.copy_(torch.from_numpy(weights))
    return traced(net, torch.randn(2, widths[0]))


def test_unequal_units_are_no_clusters() -> None:
    found = cross_modularity(unequal_perceptron([24] * 11, seed=0), n_null=19, scale="as-given")
    z, p = np.array([each.z for each in found]), np.array([each.p for each in found])
    assert abs(z.mean()) < 4 / np.sqrt(10)  # if entries are permuted, z is -6
    assert (p <= 0.05).sum() <= 3  # of ten; more by chance once in a thousand times
    assert (p >= 0.95).sum() <= 4  # and here: p = 0.95 and 1


def test_planted_clusters_of_unequal_units_are_more_modular_than_by_chance() -> None:
    network = unequal_perceptron([40, 40, 40], seed=1)
    labels = contiguous(40, 4)
    weight = network.state["hidden.0.weight"]
    weight *= torch.from_numpy(np.where(labels[:, None] == labels, 3.0, 1.0))
    planted_in, without = cross_modularity(network, n_null=19, scale="as-given")
    assert planted_in.z > 4 > abs(without.z) + 1
    assert planted_in.p == 1 / 20


def test_a_matrix_of_too_few_edges_has_no_null_and_says_why() -> None:
    net = MLP(12, [12], 12, bias=False)
    with torch.no_grad():
        net.hidden[0].weight.copy_(torch.diag(torch.logspace(0, 2, 12)))
    without, dense = cross_modularity(traced(net, torch.randn(2, 12)), n_null=3, scale="as-given")
    assert without.no_null.startswith("edges must be enough to be rewired")
    assert len(without.null) == 0
    assert np.isnan([without.z, without.p, without.null_mean]).all()
    assert (dense.no_null, len(dense.null)) == ("", 3)


def test_fixed_clusters_have_their_share_in_every_matrix_between_them() -> None:
    net = random_mlp([6, 4])
    network = traced(net, inputs(4))
    clusters = {"hidden.0": [0, 0, 0, 1, 1, 1], "hidden.1": [0, 0, 1, 1]}
    (found,) = cross_modularity(network, clusters, n_null=3, scale="as-given")
    w = net.hidden[1].weight.detach().double().square()
    assert found.value == pytest.approx(float((w[:2, :3].sum() + w[2:, 3:].sum()) / w.sum()))
    assert len(found.null) == 3


def test_gradients_take_the_place_of_weights() -> None:
    net, x = random_mlp([6, 4]), inputs(20)
    y = torch.arange(20) % 3
    torch.nn.functional.cross_entropy(net(x), y).backward()
    clusters = {"hidden.0": contiguous(6, 2), "hidden.1": contiguous(4, 2)}
    (found,) = cross_modularity(traced(net, x), clusters, n_null=0, scale="as-given", gradients_of=(x, y))
    w = net.hidden[1].weight.grad.double().square()
    assert found.value == pytest.approx(float((w[:2, :3].sum() + w[2:, 3:].sum()) / w.sum()), rel=1e-5)
    assert np.isnan(found.z)


@pytest.mark.parametrize(
    ("clusters", "message"),
    [
        ({"hidden.0": [0, 1]}, r"clusters\['hidden.0'\] must be ints \(6,\), one for each unit, got int64 \(2,\)"),
        ({"hidden.0": [0.5] * 6}, r"clusters\['hidden.0'\] must be ints \(6,\), one for each unit, got float64 \(6,\)"),
        ({"hidden.0": [0] * 6}, "clusters must be of layers of which one reads another, got hidden.0"),
        ({"hidden.9": [0]}, "layer must be one of"),
        ("together", "clusters must be one of 'joint', got 'together'"),
    ],
)
def test_clusters_that_do_not_fit_are_refused(clusters: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        cross_modularity(traced(random_mlp([6, 4]), inputs(4)), clusters, 2)  # type: ignore[arg-type]


def test_a_matrix_with_too_few_units_is_left_out_or_refused() -> None:
    network = traced(random_mlp([6, 4]), inputs(4))
    assert [each.map for each in cross_modularity(network, n_clusters=4, n_null=0)] == ["hidden.0", "hidden.1"]
    assert [part.map for part, _ in clusterable_matrices(network, 4)] == ["hidden.0", "hidden.1"]
    assert clusterable_matrices(network, 9) == []
    with pytest.raises(InputError, match="n_clusters must be at most the rows and columns of some .*, got 9"):
        cross_modularity(network, n_clusters=9)
    with pytest.raises(InputError, match="n_clusters must be an int from 2 to 3, got 4\n.*only 3 rows, or columns"):
        bipartite_clusters(np.ones((3, 9)), 4)
    with pytest.raises(InputError, match="n_clusters must be an int from 2 to 0"):
        bipartite_clusters(np.zeros((9, 9)), 4)


# --- what a review has found ------------------------------------------------------------------------------------------


def test_a_graph_that_a_null_leaves_as_it_is_has_the_n_cut_of_its_copies() -> None:
    net = nn.Sequential(nn.Linear(6, 1), nn.ReLU(), nn.Linear(1, 2))
    with torch.no_grad():
        net[0].weight.fill_(1)
        net[2].weight.fill_(1)
    found = Clusterability(3, "degree-preserving", n_null=9).fit(net, torch.randn(2, 6))
    assert np.allclose(found.null_, found.n_cut_)
    assert np.isnan(found.z_)
    assert found.p_ == 1


def test_ties_are_no_evidence() -> None:
    assert Clusterability(2, n_null=19).fit(bipartite(np.ones((8, 8)))).p_ == 1
    assert Clusterability(4, "degree-preserving", n_null=19).fit(bipartite(np.eye(8))).p_ == 1


@pytest.mark.parametrize("scale", [1e-30, 1e-40])
def test_next_to_no_weight_is_none(scale: float) -> None:
    matrix, _, _ = planted(60, 4, 0.1, seed=0)
    matrix = np.abs(matrix)
    matrix[:, :4] *= scale
    found = Clusterability(4, n_null=0).fit(bipartite(matrix))
    without = Clusterability(4, n_null=0).fit(bipartite(matrix[:, 4:]))
    assert found.removed_ == {"in": [0, 1, 2, 3]}
    assert found.n_cut_ == pytest.approx(without.n_cut_, rel=1e-9)


def test_a_module_may_be_called_inputs() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inputs, self.out = nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(torch.relu(self.inputs(x)))

    assert unit_graph(Net(), inputs(4)).sizes == {"network inputs": 6, "inputs": 6, "out": 3}


def test_units_of_no_cluster_are_within_none() -> None:
    assert within_clusters(np.ones((2, 2)), np.array([0, -1]), np.array([0, -1])) == 0.25


def test_a_sparse_matrix_has_a_null_with_as_many_clusters_as_it_can_have() -> None:
    net = MLP(10, [10, 10], 10, bias=False)
    with torch.no_grad():
        for layer in (*net.hidden, net.readout):
            layer.weight.copy_(torch.diag(torch.rand(10) + 1))
    found = cross_modularity(traced(net, torch.randn(2, 10)), n_clusters=8, null="permute")
    assert all(len(each.null) and np.isfinite(each.null).all() for each in found)


def test_gradients_need_inputs_and_labels() -> None:
    network, x = traced(random_mlp([6, 4]), inputs(20)), inputs(20)
    with pytest.raises(InputError, match=r"y must be integer labels \(20,\)"):
        cross_modularity(network, n_clusters=2, gradients_of=(x, torch.zeros(3, dtype=torch.int64)))
