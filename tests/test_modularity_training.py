"""Training for modularity: losses against finite differences, masks, pruning and initial values, in any loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from conftest import inputs, random_mlp
from consilience.clustering import spectral
from consilience.data import Data
from consilience.errors import InputError
from consilience.modularity import (
    BlockMask,
    Clusterability,
    CrossClusterLoss,
    EigenvalueLoss,
    MagnitudePruning,
    MatrixClusterLoss,
    Penalty,
    clusterable_initialisation,
    contiguous,
    cross_modularity,
    matrix_modularity,
    unit_graph,
)
from consilience.modularity.graph import traced
from consilience.nets import GPT, MLP, ConvNet, ResNet
from consilience.training import Training, train_population
from consilience.units.architecture import TracedNetwork


def brute_force(network: TracedNetwork, k: int) -> float:
    """The mean of the 2nd to (k + 1)th eigenvalue of the whole Laplacian, by units with an edge."""
    graph = unit_graph(network)
    dense = graph.adjacency.toarray()[np.ix_(graph.connected, graph.connected)]
    root = 1 / np.sqrt(dense.sum(1))
    return float(1 - np.linalg.eigvalsh(root[:, None] * dense * root)[::-1][1 : k + 1].mean())


def check_gradient(net: nn.Module, x: Tensor, k: int, tolerance: float = 1e-6, step: float = 1e-6) -> None:
    """Compare the gradient by every weight that is not zero with central differences."""
    network = traced(net, x)  # its parameters are the module's own
    term = EigenvalueLoss(network, n_eigenvalues=k)
    value = term(net)
    assert value.item() == pytest.approx(brute_force(network, k), abs=1e-9)
    parameters = [p for p in net.parameters() if p.ndim >= 2]
    gradients = torch.autograd.grad(value, parameters)
    g = torch.Generator().manual_seed(0)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        flat = parameter.detach().view(-1)
        assert not gradient.view(-1)[flat == 0].any()
        for i in torch.randperm(len(flat), generator=g)[:12].tolist():
            before = flat[i].item()
            if before == 0:
                continue
            sides = []
            for sign in (1, -1):
                flat[i] = before + sign * step
                sides.append(brute_force(network, k))
            flat[i] = before
            assert gradient.view(-1)[i].item() == pytest.approx((sides[0] - sides[1]) / (2 * step), abs=tolerance)


@pytest.mark.parametrize("k", [1, 3])
def test_the_gradient_of_eigenvalues_is_that_of_finite_differences(k: int) -> None:
    check_gradient(random_mlp([9, 8], seed=3).double(), inputs(4).double(), k)


def test_the_gradient_goes_through_kernels_batch_norms_streams_and_signs() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    for net in (ConvNet(1, [4, 5], 3, batch_norm=True), ResNet(1, [4, 5], 3, 1)):
        check_gradient(net.double().eval(), x, 3)


def test_the_gradient_is_right_where_weights_are_pruned() -> None:
    net = random_mlp([12, 10], seed=1).double()
    MagnitudePruning(1, 2, start=0.6, final=0.6)(net, 1)
    check_gradient(net, inputs(4).double(), 3)


def test_equal_eigenvalues_have_the_gradient_of_their_sum() -> None:
    # Two equal halves that a third, symmetric part joins: the Laplacian has eigenvalues of multiplicity two.
    net = MLP(4, [4], 4, bias=False).double()
    with torch.no_grad():
        for layer in (net.hidden[0], net.readout):
            layer.weight.copy_(torch.eye(4) + 0.1)
    values = Clusterability(2, n_null=0).fit(net, torch.randn(2, 4).double()).graph_
    dense = values.adjacency.toarray()
    root = 1 / np.sqrt(dense.sum(1))
    spectrum = np.linalg.eigvalsh(np.eye(12) - root[:, None] * dense * root)
    assert np.allclose(spectrum[1:4], spectrum[1])  # three equal ones
    assert spectrum[4] > spectrum[1] + 0.1
    check_gradient(net, torch.randn(2, 4).double(), 3)


def test_parts_without_edges_between_them_have_the_gradient_of_the_sum() -> None:
    net = MLP(6, [6], 6, bias=False).double()
    torch.manual_seed(0)
    with torch.no_grad():
        for layer in (net.hidden[0], net.readout):
            layer.weight.copy_(torch.block_diag(torch.rand(3, 3), torch.rand(3, 3)))
    check_gradient(net, torch.randn(2, 6).double(), 3)


def test_the_term_depends_on_the_parameters_alone() -> None:
    torch.manual_seed(0)
    net, other, x = MLP(300, [80, 60], 10), MLP(300, [80, 60], 10), torch.randn(2, 300)
    term = EigenvalueLoss(net, x)
    first = torch.autograd.grad(term(net), net.hidden[0].weight)[0]
    term(other)
    assert torch.equal(torch.autograd.grad(term(net), net.hidden[0].weight)[0], first)
    assert torch.equal(torch.autograd.grad(term.of(dict(net.named_parameters())), net.hidden[0].weight)[0], first)


def test_a_step_takes_few_products_with_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net, x = MLP(784, [256] * 4, 10), torch.randn(2, 784)
    term, n_products, times = EigenvalueLoss(net, x), [], spectral._times

    def counted(blocks: list[spectral.Block], vectors: NDArray) -> NDArray:
        n_products.append(vectors.shape[1])
        return times(blocks, vectors)

    monkeypatch.setattr(spectral, "_times", counted)
    term(net).backward()
    assert 0 < sum(n_products) < 400  # a product for each of 1818 units if the matrix were built


def test_descent_on_eigenvalues_lowers_the_n_cut() -> None:
    torch.manual_seed(0)
    net, x = MLP(16, [24, 24], 4), torch.randn(2, 16)
    before = Clusterability(4, n_null=0).fit(net, x).n_cut_
    term, optimizer = EigenvalueLoss(net, x), torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        term(net).backward()
        optimizer.step()
    assert Clusterability(4, n_null=0).fit(net, x).n_cut_ < before - 0.5


def test_a_network_that_has_diverged_has_a_term_that_says_so() -> None:
    net, x = random_mlp([5, 4]), inputs(4)
    term = EigenvalueLoss(net, x)
    with torch.no_grad():
        net.hidden[0].weight[0, 0] = float("nan")
    assert torch.isnan(term(net))


def test_more_eigenvalues_than_units_are_refused() -> None:
    with pytest.raises(InputError, match="n_eigenvalues must be an int from 1 to 13, got 14"):
        EigenvalueLoss(random_mlp([5]), inputs(4), 14)


def test_the_cross_cluster_loss_is_the_mean_enmeshment() -> None:
    torch.manual_seed(0)
    net, x = ConvNet(1, [6, 8, 6], 3, batch_norm=True).eval(), torch.randn(2, 1, 8, 8)
    clusters = {name: contiguous(width, 2) for name, width in (("hidden.0", 6), ("hidden.1", 8), ("hidden.2", 6))}
    found = cross_modularity(traced(net, x), clusters, n_null=0, scale="as-given")  # as the loss takes weights
    assert [each.map for each in found] == ["hidden.1", "hidden.2"]
    value = CrossClusterLoss(clusters, net, x)(net)
    assert value.item() == pytest.approx(np.mean([each.enmeshment for each in found]), rel=1e-6)


def test_descent_on_the_cross_cluster_loss_separates_clusters() -> None:
    torch.manual_seed(0)
    net, x = MLP(16, [24, 24, 24], 4), torch.randn(64, 16)
    y = torch.randint(4, (64,))
    clusters = {f"hidden.{i}": contiguous(24, 4) for i in range(3)}
    term, optimizer = CrossClusterLoss(clusters, net, x), torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(300):
        optimizer.zero_grad()
        (functional.cross_entropy(net(x), y) + 20 * term(net)).backward()
        optimizer.step()
    assert term(net).item() < 0.01


def test_a_mask_leaves_no_weight_between_clusters() -> None:
    torch.manual_seed(0)
    net, x = ConvNet(1, [6, 8], 3, batch_norm=True).eval(), torch.randn(2, 1, 8, 8)
    first, readout = net.hidden[0].weight.clone(), net.readout.weight.clone()
    clusters = {"hidden.0": contiguous(6, 2), "hidden.1": contiguous(8, 2)}
    BlockMask(clusters, net, x)(net)
    weight = net.hidden[1].weight.detach()
    assert not weight[:4, 3:].any()
    assert not weight[4:, :3].any()
    assert weight[:4, :3].all()
    assert torch.equal(net.hidden[0].weight, first)  # the inputs have no clusters
    assert torch.equal(net.readout.weight, readout)
    assert cross_modularity(traced(net, x), clusters, n_null=0)[0].value == 1


def test_positions_of_a_flattened_channel_are_masked_with_it() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 2)
    )
    BlockMask({"0": contiguous(4, 2), "3": contiguous(6, 2)}, net, torch.randn(2, 1, 2, 2))(net)
    weight = net[3].weight.detach()
    assert not weight[:3, 8:].any()
    assert not weight[3:, :8].any()
    assert weight[:3, :8].all()


def test_pruning_leaves_the_largest_entries_of_each_matrix() -> None:
    net = random_mlp([20, 10])
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    pruning = MagnitudePruning(begin=10, end=20, start=0.5, final=0.9)
    pruning(net, 9)
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())
    for step, share in ((10, 0.5), (15, 0.85), (20, 0.9), (30, 0.9)):
        pruning(net, step)
        for name, p in net.named_parameters():
            if p.ndim == 1:
                assert torch.equal(p, before[name])
                continue
            kept = p.detach() != 0
            assert int((~kept).sum()) == round(share * p.numel())
            assert torch.equal(p[kept], before[name][kept])
            assert before[name][~kept].abs().max() <= before[name][kept].abs().min()


@pytest.mark.parametrize("settings", [(0, 5), (5, 5), (1, 5, 0.9, 0.5), (1, 5, 0.5, 1.0)])
def test_pruning_out_of_range_is_refused(settings: tuple[float, ...]) -> None:
    names = ("begin", "end") if len(settings) == 2 else ("start", "final")
    with pytest.raises(
        InputError, match=f"{names[0]} and {names[1]} must be .*, got {settings[-2]} and {settings[-1]}"
    ):
        MagnitudePruning(*settings)  # type: ignore[arg-type]


def test_initial_values_with_modules_are_clusterable_and_as_large_on_average() -> None:
    torch.manual_seed(0)
    net, x = MLP(20, [200, 200], 10), torch.randn(2, 20)
    modular = clusterable_initialisation(net, x, n_modules=4, strength=0.5, random_state=1)
    again = clusterable_initialisation(net, x, n_modules=4, strength=0.5, random_state=1)
    assert torch.equal(modular.hidden[1].weight, again.hidden[1].weight)
    assert torch.equal(modular.hidden[0].weight, net.hidden[0].weight)  # of the inputs
    ratio = (modular.hidden[1].weight / net.hidden[1].weight).detach()
    within = ratio > 1
    assert torch.allclose(ratio[within], torch.tensor(2.5))
    assert torch.allclose(ratio[~within], torch.tensor(0.5))
    assert within.float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert ratio.mean().item() == pytest.approx(1, abs=0.05)
    assert Clusterability(4, n_null=5).fit(modular, x).z_ < -5
    with pytest.raises(InputError, match=r"strength must be a number in \[0, 1\], got 1.5"):
        clusterable_initialisation(net, x, strength=1.5)


def test_all_of_it_takes_part_in_the_training_of_a_population(digits: Data) -> None:
    net, x = MLP(64, [24, 24], 10), digits.train.x[:4]
    clusters = {f"hidden.{i}": contiguous(24, 4) for i in range(2)}
    training = Training(epochs=4, batch_size=64, learning_rate=3e-3)

    def trained(*callbacks: object, net: object = net) -> list[MLP]:
        found = train_population(net, digits.train, 2, training=training, callbacks=callbacks)  # type: ignore[arg-type]
        return [member.module for member in found]  # type: ignore[misc]

    term = CrossClusterLoss(clusters, net, x)
    plain, modular = trained(), trained(Penalty(term, 20.0))
    assert max(term(each).item() for each in modular) < 0.1 < min(term(each).item() for each in plain) - 0.5
    masked = trained(BlockMask(clusters, net, x))
    assert all(term(each).item() == 0 for each in masked)
    pruned = trained(MagnitudePruning(1, 30))
    assert all(int((p == 0).sum()) == round(0.9 * p.numel()) for m in pruned for p in m.parameters() if p.ndim == 2)
    eigen = EigenvalueLoss(net, x)
    cut = trained(Penalty(eigen, 3.0))
    assert max(eigen(each).item() for each in cut) < min(eigen(each).item() for each in plain)


def test_a_penalty_tells_its_settings() -> None:
    term = EigenvalueLoss(random_mlp([5]), inputs(4), 2)
    assert repr(Penalty(term, 0.1)) == "Penalty(term=EigenvalueLoss(n_eigenvalues=2), weight=0.1)"
    clusters = {"hidden.0": contiguous(600, 2), "hidden.1": contiguous(4, 2)}
    mask = BlockMask(clusters, MLP(3, [600, 4], 2), torch.randn(2, 3))
    assert "..." not in repr(mask)
    assert "'hidden.1': [0, 0, 1, 1]" in repr(mask)


def test_a_network_that_has_vanished_has_terms_of_zero() -> None:
    net, x = random_mlp([5, 4]), inputs(4)
    term = EigenvalueLoss(net, x)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    value = term(net)
    assert value.item() == 0
    assert not any(gradient.any() for gradient in torch.autograd.grad(value, [layer.weight for layer in net.hidden]))
    clusters = {"hidden.0": contiguous(5, 2), "hidden.1": contiguous(4, 2)}
    assert CrossClusterLoss(clusters, net, x)(net).item() == 0


def test_losses_of_another_network_are_refused() -> None:
    net, x = random_mlp([6, 4]), inputs(4)
    clusters = {"hidden.0": contiguous(6, 2), "hidden.1": contiguous(4, 2)}
    for term in (EigenvalueLoss(net, x), CrossClusterLoss(clusters, net, x)):
        name = type(term).__name__
        with pytest.raises(
            InputError,
            match=rf"parameter 'hidden.1.weight' of layer 'hidden.1' must have shape \(4, 6\), .* {name} was made for, "
            rf"got \(5, 6\)\n  cure: make {name} for a network of these widths",
        ):
            term(random_mlp([6, 5]))
        with pytest.raises(InputError, match=r"'hidden.0.weight' of layer 'hidden.0' .*, got \(6, 7\)"):
            term(MLP(7, [6, 4], 3))
        with pytest.raises(InputError, match=r"'hidden.1.weight' of layer 'hidden.1' .*, got none of this name"):
            term(random_mlp([6]))
        with pytest.raises(InputError, match="module must be an nn.Module, got TracedNetwork\n  cure: of"):
            term(traced(net, x))  # type: ignore[arg-type]
        assert term(nn.DataParallel(net)).item() == term(net).item()


def test_pruning_takes_any_layout_and_leaves_something() -> None:
    torch.manual_seed(0)
    net = ConvNet(3, [4, 4], 2).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    MagnitudePruning(1, 2, 0.5, 0.9)(net, 2)
    assert int((net.hidden[1].weight == 0).sum()) == round(0.9 * 144)
    small = nn.Linear(4, 1)
    MagnitudePruning(1, 2, 0.5, 0.9)(small, 2)
    assert int((small.weight != 0).sum()) == 1


def test_a_mask_for_another_network_is_refused() -> None:
    clusters = {"hidden.0": contiguous(6, 2), "hidden.1": contiguous(4, 2)}
    mask = BlockMask(clusters, random_mlp([6, 4]), inputs(4))
    with pytest.raises(
        InputError, match=r"parameter 'hidden.1.weight' must have shape \(4, 6\), as the mask, got \(5, 6\)"
    ):
        mask(random_mlp([6, 5]))


# --- matrices by name ------------------------------------------------------------------------------------------------


def test_the_loss_of_matrices_by_name_is_that_of_the_layers_between_which_they_lie() -> None:
    net, x = random_mlp([6, 8], seed=2), inputs(4)
    layers = {"hidden.0": contiguous(6, 2), "hidden.1": contiguous(8, 2), "readout": contiguous(3, 2)}
    names = {"hidden.1.weight": (layers["hidden.1"], layers["hidden.0"])}
    names["readout.weight"] = layers["readout"], layers["hidden.1"]
    by_layer, by_name = CrossClusterLoss(layers, net, x)(net), MatrixClusterLoss(names)(net)
    assert by_name.item() == pytest.approx(by_layer.item(), abs=1e-6)
    of_layers = {c.map: c.value for c in cross_modularity(traced(net, x), layers, n_null=0, scale="as-given")}
    of_names = matrix_modularity(net, names)
    assert of_names["hidden.1.weight"] == pytest.approx(of_layers["hidden.1"], abs=1e-6)
    assert 1 - np.mean(list(of_names.values())) == pytest.approx(by_name.item(), abs=1e-6)


def test_training_with_the_loss_of_matrices_makes_attention_modular_without_a_trace() -> None:
    torch.manual_seed(0)
    net, quarters = GPT(11, 4, width=16, heads=4, mlp_widths=24), contiguous(16, 4)
    matrices = {f"blocks.0.attention.{part}.weight": (quarters, quarters) for part in "qkvo"}
    matrices["blocks.0.mlp.up.weight"] = contiguous(24, 4), quarters
    x = torch.randint(11, (32, 4))
    before = matrix_modularity(net, matrices)
    assert all(0.1 < value < 0.4 for value in before.values())
    optimizer, term = torch.optim.Adam(net.parameters(), lr=1e-2), MatrixClusterLoss(matrices)
    for _ in range(60):
        loss = functional.cross_entropy(net(x).flatten(0, 1), x.flatten()) + 20 * term(net)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(value > 0.9 for value in matrix_modularity(net, matrices).values())


@pytest.mark.parametrize(
    ("matrices", "message"),
    [
        ({}, "matrices must be a mapping from names of parameters to the clusters of rows and columns, got an"),
        ({"readout.weight": [0, 1]}, "matrices['readout.weight'] must be ints (n,), one for each unit, got int64 ()"),
        (
            {"readout.weight": ([0, 1, 0], [0] * 5)},
            "parameter 'readout.weight' must have shape (3, 5), with a label for",
        ),
        (
            {"readout": ([0], [0])},
            "parameter 'readout' must have shape (1, 1), with a label for each row and column, got",
        ),
    ],
)
def test_matrices_that_do_not_fit_are_refused(matrices: dict, message: str) -> None:
    with pytest.raises(InputError) as error:
        matrix_modularity(random_mlp([6, 8]), matrices)
    assert str(error.value).startswith(message)
