"""Lesions against a hook that sets activations to zero, and circuits against a loop that tries one weight at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from conftest import inputs, random_mlp
from consilience.data import Data
from consilience.errors import InputError
from consilience.modularity.circuits import Circuit, class_loss, effective_circuit, one_vs_rest_loss
from consilience.modularity.graph import traced
from consilience.modularity.lesions import Effects, lesions, specialisation, without_units
from consilience.nets import MLP, ConvNet, ResNet
from consilience.population import Population
from consilience.units.architecture import TracedNetwork
from consilience.units.symmetry import permute, rescale
from zoo import ZOO, shaken

pytestmark = pytest.mark.numerical

IMAGES = torch.randn(12, 2, 8, 8, generator=torch.Generator().manual_seed(0))


@cache
def specimen(name: str) -> tuple[nn.Module, Tensor, TracedNetwork]:
    module, x = ZOO[name].module(), ZOO[name].inputs()
    return module, x, traced(module, x)


def random_mask(width: int, seed: int = 0) -> Tensor:
    mask = torch.rand(width, generator=torch.Generator().manual_seed(seed)) < 0.5
    mask[0], mask[-1] = True, False
    return mask


def with_hooks(module: nn.Module, off: Mapping[str, Tensor], x: Tensor, *, before: bool = False) -> Tensor:
    """Outputs when channels are zero in what some modules give, or in what they get."""

    def zeroed(value: Tensor, mask: Tensor) -> Tensor:
        return value.masked_fill(mask.view(1, -1, *[1] * (value.dim() - 2)), 0)

    handles = []
    for name, mask in off.items():
        part = module.get_submodule(name)
        if before:
            handles.append(part.register_forward_pre_hook(lambda _, got, mask=mask: (zeroed(got[0], mask),)))
        else:
            handles.append(part.register_forward_hook(lambda _, got, gives, mask=mask: zeroed(gives, mask)))
    try:
        with torch.no_grad():
            return module(x)
    finally:
        for handle in handles:
            handle.remove()


def assert_lesioned(network: TracedNetwork, off: Mapping[str, Tensor], x: Tensor, expected: Tensor) -> None:
    got = without_units(network, off)(x)
    scale = float(expected.abs().max())
    assert torch.allclose(got, expected, atol=1e-5 * scale, rtol=0)
    assert float((network(x) - expected).abs().max()) > 1e-2 * scale  # it does something


# ------------------------------------------------------------------------------------------------------------ lesions


@pytest.mark.parametrize("activation", ["relu", "sigmoid", "softplus"])  # of the last two, f(0) ≠ 0
def test_units_off_in_an_mlp(activation: str) -> None:
    module, x = random_mlp([7, 5], activation), inputs(20)
    network = traced(module, x)
    off = {"hidden.0": random_mask(7), "hidden.1": random_mask(5, 1)}
    readers = {"hidden.1": off["hidden.0"], "readout": off["hidden.1"]}
    assert_lesioned(network, off, x, with_hooks(module, readers, x, before=True))
    assert torch.equal(without_units(network, {})(x), network(x))


def test_units_off_in_a_convnet_with_norms() -> None:
    module = shaken(ConvNet(2, (6, 5), 4, batch_norm=True), 0)
    network = traced(module, IMAGES)
    off = {"hidden.0": random_mask(6), "hidden.1": random_mask(5, 1)}
    readers = {"hidden.1": off["hidden.0"], "readout": off["hidden.1"]}
    assert_lesioned(network, off, IMAGES, with_hooks(module, readers, IMAGES, before=True))


@pytest.mark.parametrize("batch_norm", [True, False])
def test_units_off_in_a_residual_stream_and_inside_a_block(batch_norm: bool) -> None:
    module = shaken(ResNet(2, (6, 5), 4, 2, batch_norm=batch_norm), 1)
    network = traced(module, IMAGES)
    stream, inner = random_mask(6), random_mask(5, 2)
    blocks = {"stages.0.0": stream, "stages.0.1": stream}

    def expected() -> Tensor:
        handle = module.stages[0][0].register_forward_pre_hook(
            lambda _, got: (got[0].masked_fill(stream[:, None, None], 0), *got[1:])
        )  # after the stem's activation
        second = module.stages[1][0].conv2.register_forward_pre_hook(
            lambda _, got: (got[0].masked_fill(inner[:, None, None], 0),)
        )
        try:
            return with_hooks(module, blocks, IMAGES)
        finally:
            handle.remove()
            second.remove()

    assert_lesioned(network, {"stem": stream, "stages.1.0.conv1": inner}, IMAGES, expected())


def test_depthwise_convolutions_and_stream_norms_pass_lesions_on() -> None:
    module, x, network = specimen("mobilenet")
    mask = random_mask(7)
    expected = with_hooks(module, {"blocks.1.project.0": mask}, x, before=True)
    for name in ("blocks.1.expand.0", "blocks.1.depthwise.0"):  # two layers, tied: lesioned together
        assert_lesioned(network, {name: mask}, x, expected)
    module, x, network = specimen("pre-activation-resnet")
    mask = random_mask(4)
    readers = {"blocks.0.conv1": mask, "blocks.1.conv1": mask, "blocks.1.shortcut": mask}
    assert_lesioned(network, {"stem": mask}, x, with_hooks(module, readers, x, before=True))


def test_tied_layers_are_off_where_either_is() -> None:
    _, x, network = specimen("mobilenet")
    a, b = random_mask(7, 0), random_mask(7, 1)
    both = without_units(network, {"blocks.1.expand.0": a, "blocks.1.depthwise.0": b})(x)
    assert torch.equal(both, without_units(network, {"blocks.1.expand.0": a | b})(x))


def own_classes(network: TracedNetwork, x: Tensor) -> Tensor:
    """Labels that the network gets right, but for every fourth sample."""
    y = network(x).argmax(1)
    y[::4] = (y[::4] + 1) % network.architecture.output.width
    return y


CLUSTERS = {"hidden.0": np.array([0, 0, 1, 1, 3, -1, 3]), "hidden.1": torch.tensor([1, 1, -1, 0, 3])}


def test_lesions_by_brute_force() -> None:
    module, x = random_mlp([7, 5]), inputs(90)
    network = traced(module, x)
    y = own_classes(network, x)
    found = lesions(network, CLUSTERS, x, y, n_random=7, random_state=5)
    assert (found.labels, found.sizes) == ((0, 1, 3), (3, 4, 3))

    def measured(*labels: int) -> tuple[float, float]:
        readers = {
            "hidden.1": torch.tensor(np.isin(CLUSTERS["hidden.0"], labels)),
            "readout": torch.tensor(np.isin(CLUSTERS["hidden.1"], labels)),
        }
        outputs = with_hooks(module, readers, x, before=True)
        return float((outputs.argmax(1) == y).double().mean()), float(functional.cross_entropy(outputs.double(), y))

    accuracy, loss = measured()
    assert (found.accuracy.before, found.loss.before) == pytest.approx((accuracy, loss), rel=1e-6)
    assert accuracy == pytest.approx(67 / 90)
    for i, a in enumerate(found.labels):
        assert found.accuracy.single[i] == pytest.approx(accuracy - measured(a)[0])
        assert found.loss.single[i] == pytest.approx(measured(a)[1] - loss, rel=1e-4)
        for j, b in enumerate(found.labels):
            assert found.accuracy.double[i, j] == pytest.approx(accuracy - measured(a, b)[0])
            assert found.loss.double[i, j] == pytest.approx(measured(a, b)[1] - loss, rel=1e-4)
    assert found.loss.random.shape == (3, 7)
    assert np.unique(found.loss.random.round(9)).size > 15


def test_lesions_of_networks_of_numbers_by_brute_force() -> None:
    module, x = random_mlp([7, 5]), inputs(90)
    network = traced(module, x)
    g = torch.Generator().manual_seed(0)
    y = network(x) + 0.1 * torch.randn(90, 3, generator=g)
    found, probe = lesions(network, CLUSTERS, x, y, n_random=3), specialisation(network, CLUSTERS, x, y)
    assert (found.metric, probe.metric, found.labels) == ("R²", "R²", (0, 1, 3))

    def measured(*labels: int) -> tuple[Tensor, float]:
        off = {name: torch.tensor(np.isin(values, labels)) for name, values in CLUSTERS.items()}
        error = (without_units(network, off)(x).double() - y.double()).square()
        return 1 - error.mean(0) / y.double().var(0, correction=0), float(error.mean())

    r2, error = measured()
    assert (found.accuracy.before, found.loss.before) == pytest.approx((float(r2.mean()), error), rel=1e-6)
    np.testing.assert_allclose(probe.before, r2, rtol=1e-6)
    for i, label in enumerate(found.labels):
        without, loss = measured(label)
        assert found.accuracy.single[i] == pytest.approx(float((r2 - without).mean()), rel=1e-5)
        assert found.loss.single[i] == pytest.approx(loss - error, rel=1e-5)
        np.testing.assert_allclose(probe.off[:, i], without, rtol=1e-5, atol=1e-8)
        others = [other for other in found.labels if other != label]
        np.testing.assert_allclose(probe.alone[:, i], measured(*others)[0], rtol=1e-5, atol=1e-8)
    with pytest.raises(InputError, match=r"y must have shape \(90, 3\), as the outputs, got \(90, 2\)"):
        lesions(network, CLUSTERS, x, y[:, :2])
    with pytest.raises(InputError, match="y must have targets that vary, got 0.5 in all rows of column 0"):
        lesions(network, CLUSTERS, x, torch.full((90, 3), 0.5))


@pytest.mark.parametrize(("n_outputs", "shape"), [(1, (90,)), (1, (90, 1)), (2, (90, 2))])
def test_whole_numbers_are_numbers_where_they_can_be_no_classes(n_outputs: int, shape: tuple[int, ...]) -> None:
    module, x = MLP(6, [7, 5], n_outputs), inputs(90)
    network, y = traced(module, x), torch.arange(90 * n_outputs).remainder(7).float().reshape(shape)
    assert lesions(network, CLUSTERS, x, y, n_random=2).metric == "R²"
    assert specialisation(network, CLUSTERS, x, y).before.shape == (n_outputs,)


def test_rows_with_a_one_are_classes() -> None:
    module, x = random_mlp([7, 5]), inputs(90)
    network, y = traced(module, x), torch.arange(90) % 3
    for same in (y.float(), y.float()[:, None], torch.eye(3)[y]):
        assert (
            lesions(network, CLUSTERS, x, same, n_random=2).loss.before == lesions(network, CLUSTERS, x, y).loss.before
        )


def test_random_units_are_as_many_in_each_layer_from_all_of_it() -> None:
    """A readout that counts tells how many, and which, units were off."""
    module, x = MLP(2, [8], 2), torch.ones(1, 2)
    with torch.no_grad():
        module.hidden[0].weight.zero_()
        module.hidden[0].bias.fill_(1)
        module.readout.weight.copy_(torch.stack([2.0 ** torch.arange(8) / 64, torch.zeros(8)]))
        module.readout.bias.zero_()
    network, clusters = traced(module, x), {"hidden.0": np.array([0, 0, 0, 1, -1, -1, -1, -1])}
    found = lesions(network, clusters, x, torch.tensor([0]), n_random=300)
    left = -np.log(np.expm1(found.loss.random + found.loss.before)) * 64  # loss = log(1 + exp(−logit))
    off = (255 - np.rint(left)).astype(int)
    drawn = (off[:, :, None] >> np.arange(8)) & 1
    assert (drawn.sum(2) == [[3], [1]]).all()
    assert np.abs(drawn.mean(1) - [[3 / 8], [1 / 8]]).max() < 0.1  # four standard errors
    assert (drawn[0, 1:] != drawn[0, :-1]).any(1).mean() > 0.9


def test_importance_is_in_units_of_what_random_units_do() -> None:
    random = np.array([[1.0, 2.0, 3.0], [2.0, 2.0, 2.0], [2.0, 2.0, 2.0]])
    effects = Effects(0.9, np.array([5.0, 2.0, 1.0]), random, np.array([[5.0, 9, 4], [9, 2, 3], [4, 3, 1]]))
    assert np.array_equal(effects.mean, [2, 2, 2])
    assert np.array_equal(effects.sd, [1, 0, 0])
    assert np.array_equal(effects.importance, [3, np.nan, -np.inf], equal_nan=True)
    assert np.array_equal(effects.p, [1 / 4, 1, 1])
    nan = np.nan
    assert np.array_equal(effects.excess, [[nan, 2, -2], [2, nan, 0], [-2, 0, nan]], equal_nan=True)


@settings(max_examples=20)
@given(seed=st.integers(0, 50))
def test_lesions_do_not_depend_on_the_order_of_units_or_on_other_clusters(seed: int) -> None:
    x, g, network = inputs(40), torch.Generator().manual_seed(seed), NETWORK
    y, labels = own_classes(network, x), torch.randint(-1, 3, (7,), generator=g)
    labels[:3] = torch.arange(3)
    order = torch.randperm(7, generator=g)
    found = lesions(network, {"hidden.0": labels}, x, y, n_random=2, random_state=seed)
    other = lesions(permute(network, "hidden.0", order), {"hidden.0": labels[order]}, x, y, n_random=2)
    assert np.allclose(found.loss.single, other.loss.single, atol=1e-5)
    assert np.allclose(found.loss.double, other.loss.double, atol=1e-5)
    alone = lesions(network, {"hidden.0": torch.where(labels == 1, 1, -1)}, x, y, n_random=2, random_state=seed)
    assert np.array_equal(alone.loss.random[0], found.loss.random[1])


NETWORK = traced(random_mlp([7, 5]), inputs(2))


def test_the_same_seed_gives_the_same_random_units() -> None:
    x = inputs(40)
    y = own_classes(NETWORK, x)
    state = torch.get_rng_state()
    once, again, other = (lesions(NETWORK, CLUSTERS, x, y, n_random=4, random_state=k).loss.random for k in (1, 1, 2))
    assert np.array_equal(once, again)
    assert not np.array_equal(once, other)
    assert torch.equal(state, torch.get_rng_state())


# ----------------------------------------------------------------------------------------------------- specialisation


def two_specialists() -> TracedNetwork:
    """Class 0 is for the first two units, class 1 for the next two, class 2 for what nobody says."""
    module = MLP(2, [5], 4)
    with torch.no_grad():
        module.hidden[0].weight.copy_(torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1], [1, 1]]))
        module.hidden[0].bias.zero_()
        module.readout.weight.copy_(torch.tensor([[1.0, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0] * 5, [0] * 5]))
        module.readout.bias.copy_(torch.tensor([0.0, 0, 0.5, 0]))
    return traced(module, torch.zeros(2, 2))


def test_specialists_are_found_and_classes_without_samples_are_nan() -> None:
    x = torch.tensor([[1.0, 0], [2, 0], [0, 1], [0, 3], [0, 0], [0, 1]])
    y = torch.tensor([0, 0, 1, 1, 2, 2])
    found = specialisation(two_specialists(), {"hidden.0": np.array([4, 4, 2, 2, -1])}, x, y)
    nan = np.nan
    assert found.labels == (2, 4)
    assert np.array_equal(found.before, [1, 1, 0.5, nan], equal_nan=True)
    assert np.array_equal(found.off, [[1, 0], [0, 1], [1, 0.5], [nan, nan]], equal_nan=True)
    assert np.array_equal(found.alone, [[0, 1], [1, 0], [0.5, 1], [nan, nan]], equal_nan=True)
    assert np.array_equal(found.drop, [[0, 1], [1, 0], [-0.5, 0], [nan, nan]], equal_nan=True)


def test_a_cluster_alone_leaves_units_of_no_cluster_on() -> None:
    x = inputs(60)
    y = own_classes(NETWORK, x)
    one = specialisation(NETWORK, {"hidden.0": np.array([0, 0, 0, -1, -1, -1, -1])}, x, y)
    assert np.array_equal(one.alone[:, 0], one.before)
    assert not np.array_equal(one.off[:, 0], one.before)


# ----------------------------------------------------------------------------------------------------------- circuits


def planted() -> tuple[TracedNetwork, Tensor, Tensor, dict[str, Tensor]]:
    """Class 0 is said by two units of two layers; everything else has weights too, and no effect."""
    module, g = MLP(4, [5, 4], 3), torch.Generator().manual_seed(0)
    masks = {"hidden.0": torch.zeros(5, 4), "hidden.1": torch.zeros(4, 5), "readout": torch.zeros(3, 4)}
    masks["hidden.0"][1:3, :2] = masks["hidden.1"][2:, 1:3] = masks["readout"][0, 2:] = 1
    idle = {name: torch.randn(mask.shape, generator=g) for name, mask in masks.items()}
    idle["hidden.0"][1:3, :2] = 0
    idle["hidden.1"][:, 1:3] = 0  # nothing but the circuit reads its first units
    idle["hidden.1"][2:, :] = 0  # it reads nothing else but a unit that is dead
    idle["hidden.1"][2:, 0] = 1
    idle["readout"][:, 2:] = 0
    idle["readout"][:, 1] = 0  # a unit that nothing reads; unit 0 is dead
    with torch.no_grad():
        for name, part in (("hidden.0", module.hidden[0]), ("hidden.1", module.hidden[1]), ("readout", module.readout)):
            strength = 0.5 + torch.rand(part.weight.shape, generator=g)
            part.weight.copy_(masks[name] * strength + idle[name])
            part.bias.zero_()
        module.hidden[0].bias[0] = module.hidden[1].bias[0] = -100.0
        module.readout.bias[1] = 1.0
    x = torch.rand(40, 4, generator=g)
    x[:, 2:] = 0  # inputs that never vary
    x[20:] = -x[20:]
    y = torch.tensor([0] * 20 + [1] * 20)
    return traced(module, x), x, y, masks


@pytest.mark.parametrize("criterion", ["class", "one-vs-rest"])
@pytest.mark.parametrize("block", [1, 4, 1000])
def test_a_planted_circuit_is_found_exactly(criterion: str, block: int) -> None:
    network, x, y, masks = planted()
    found = effective_circuit(network, x, y, 0, criterion=criterion, block=block)
    assert {name: mask.int().tolist() for name, mask in found.masks.items()} == {
        name: mask.int().tolist() for name, mask in masks.items()
    }
    assert (found.n_left, found.n_weights) == (10, 52)
    assert found.size == 10 / 52
    assert (found.label, found.criterion) == (0, criterion)
    assert found.loss_after == found.loss_before
    assert (found.tpr, found.tnr) == (1.0, 1.0)


def test_the_criteria_are_their_formulas() -> None:
    outputs, own = 3 * inputs(30)[:, :4], torch.arange(30) % 3 == 0
    p = outputs.double().softmax(1)[:, 2]
    assert class_loss(outputs, own, 2) == pytest.approx(float(-p[own].log().mean()), rel=1e-12)
    balanced = float(-p[own].log().mean() - (1 - p[~own]).log().mean()) / 2
    assert one_vs_rest_loss(outputs, own, 2) == pytest.approx(balanced, rel=1e-12)
    sure = torch.tensor([[0.0, 60.0], [60.0, 0.0]])
    assert 0 < one_vs_rest_loss(sure, torch.tensor([False, True]), 0) < 1e-25  # no rounding to 0, or infinity


def margin(outputs: Tensor) -> Tensor:
    return outputs[:, 0] - outputs[:, 1:].logsumexp(1)


def is_another(outputs: Tensor) -> Tensor:
    """0 for samples that class 0 has more than half of the probability on, else 1."""
    return (margin(outputs) < 0).long()


def centred(network: TracedNetwork, x: Tensor) -> TracedNetwork:
    """The network with a bias for which class 0 has more than half of the probability on half of the samples."""
    outputs, bias = network(x), network.architecture.maps[-1].bias
    middle = margin(outputs).median()
    shift = functional.one_hot(torch.tensor(0), outputs.shape[1]) * middle
    return replace(network, state={**network.state, bias: network.state[bias] - shift})


def greedily(module: MLP, x: Tensor, y: Tensor, criterion: str, block: int) -> dict[str, Tensor]:
    """The loop as it is told, for class 0: a forward pass of the module for everything that is tried."""
    parts = {"hidden.0": module.hidden[0], "hidden.1": module.hidden[1], "readout": module.readout}

    def loss() -> float:
        p, own = module(x).softmax(1)[:, 0], y == 0
        others = -(1 - p[~own]).log().mean()
        return float(-p[own].log().mean() + (others if criterion == "one-vs-rest" else 0))

    lowest = loss()
    for part in reversed(parts.values()):
        weight = part.weight.data.view(-1)
        waiting = list(weight.abs().argsort(stable=True).split(block))
        while waiting:
            tried = waiting.pop(0)
            before, weight[tried] = weight[tried], 0.0
            after = loss()
            if after <= lowest * (1 + 1e-13):
                lowest = min(lowest, after)
                continue
            weight[tried] = before
            if len(tried) > 1:
                waiting = [*tried.tensor_split([len(tried) // 2]), *waiting]
    return {name: part.weight != 0 for name, part in parts.items()}


@pytest.mark.parametrize("criterion", ["class", "one-vs-rest"])
@pytest.mark.parametrize("block", [1, 6])
@pytest.mark.parametrize("seed", range(3))
def test_circuits_are_those_of_the_plain_loop(criterion: str, block: int, seed: int) -> None:
    module, x = random_mlp([5, 4], "tanh", seed=seed).double(), inputs(40).double()
    network = centred(traced(module, x), x)
    module.load_state_dict(network.state)
    y = is_another(network(x))
    found = effective_circuit(network, x, y, 0, criterion=criterion, block=block)
    with torch.no_grad():
        expected = greedily(module, x, y, criterion, block)
    for name, mask in expected.items():
        assert torch.equal(found.masks[name], mask)
    assert found.n_left < found.n_weights
    if criterion == "one-vs-rest":  # a constant minimizes "class"
        assert found.n_left > 0
    assert found.loss_after <= found.loss_before


def applied(network: TracedNetwork, found: Circuit) -> TracedNetwork:
    for m in network.architecture.maps:
        if m.name in found.masks:
            weights = network.weights(m)
            kept = weights.matrix * found.masks[m.name]
            network = network.with_weights(m, weights.with_matrix(kept, weights.bias))
    return network


NETS = {
    "mlp": (lambda: random_mlp([6], n_inputs=5), (5,)),
    "convnet": (lambda: shaken(ConvNet(2, (4, 3), 3, batch_norm=True), 0), (2, 8, 8)),
    "resnet": (lambda: shaken(ResNet(2, (3,), 3), 0), (2, 8, 8)),
    "depthwise": (lambda: ZOO["convolutions-1d"].module(), ZOO["convolutions-1d"].shape),
    "norms": (lambda: ZOO["norm-after-activation"].module(), ZOO["norm-after-activation"].shape),
    "used-twice": (lambda: ZOO["used-twice"].module(), ZOO["used-twice"].shape),
}


@pytest.mark.parametrize("name", NETS)
def test_circuits_of_every_kind_of_network(name: str) -> None:
    build, shape = NETS[name]
    module, x = build(), torch.randn(24, *shape, generator=torch.Generator().manual_seed(3))
    network = centred(traced(module, x), x)
    before = {key: value.clone() for key, value in network.state.items()}
    y = is_another(network(x))
    found = effective_circuit(network, x, y, 0, block=256)
    pruned = applied(network, found)
    own, said = y == 0, pruned(x).argmax(1) == 0
    assert one_vs_rest_loss(pruned(x), own, 0) == pytest.approx(found.loss_after, rel=1e-4)
    assert found.loss_after <= found.loss_before * (1 + 1e-4)
    assert found.loss_before < math.log(2)  # of a constant
    assert found.tpr == pytest.approx(float((said & own).sum() / own.sum()))
    assert found.tnr == pytest.approx(float((~said & ~own).sum() / (~own).sum()))
    weights = [p for p in module.parameters() if p.dim() > 1]
    assert found.n_weights == sum(p.numel() for p in weights)
    assert 0 < found.n_left < found.n_weights
    assert all(torch.equal(before[key], network.state[key]) for key in before)  # nothing was changed in place


def test_circuits_do_not_depend_on_whether_norms_are_folded() -> None:
    module, x = shaken(ConvNet(2, (4, 3), 3, batch_norm=True), 0), IMAGES.double()
    network = centred(traced(module.double(), x), x)
    folded = network
    for m in network.architecture.maps:
        folded = folded.with_weights(m, folded.weights(m))
    found, other = (effective_circuit(each, x, is_another(network(x)), 0, block=2) for each in (network, folded))
    assert 0 < found.n_left < found.n_weights
    assert all(torch.equal(mask, other.masks[name]) for name, mask in found.masks.items())


def test_a_rescaled_unit_changes_neither_circuits_nor_lesions() -> None:
    x = inputs(40).double()
    network = centred(traced(random_mlp([5, 4], "relu").double(), x), x)
    other = rescale(network, "hidden.0", torch.tensor([1.0, 128.0, 1.0, 1 / 64, 1.0]))
    y = is_another(network(x))
    found, again = (effective_circuit(each, x, y, 0, block=2) for each in (network, other))
    assert 0 < found.n_left < found.n_weights
    assert all(torch.equal(mask, again.masks[name]) for name, mask in found.masks.items())
    clusters = {"hidden.0": np.array([0, 0, 1, 1, 1]), "hidden.1": np.array([0, 0, 1, 1])}
    first, second = (lesions(each, clusters, x, y, n_random=2).loss.double for each in (network, other))
    np.testing.assert_allclose(second, first, atol=1e-9)


def test_the_published_criterion_ends_near_a_constant(population: Population, digits: Data) -> None:
    network, data = population.members[0].network, digits.validation
    x, y, label = data.x[:150], data.y[:150], 3
    said = network(x).argmax(1) == label
    published, against = (effective_circuit(network, x, y, label, criterion=name) for name in ("class", "one-vs-rest"))
    assert published.tpr == 1
    assert published.tnr < 0.3
    assert against.tpr >= float(said[y == label].double().mean())
    assert against.tnr > 0.95
    assert published.size < against.size < 1
    assert published.loss_after < published.loss_before


def test_a_class_alone_has_no_true_negatives() -> None:
    network, x, y, _ = planted()
    assert np.isnan(effective_circuit(network, x[:20], y[:20], 0, criterion="class").tnr)


# -------------------------------------------------------------------------------------------------------------- errors

X, Y = inputs(9), torch.arange(9) % 3
WITH_NAN = X.clone()
WITH_NAN[4, 2] = torch.nan


@pytest.mark.parametrize(
    ("clusters", "message"),
    [
        ({"hidden.0": np.zeros(6, int)}, "clusters['hidden.0'] must be ints (7,), one for each unit, got int64 (6,)"),
        ({"hidden.7": np.zeros(7, int)}, "layer must be one of 'hidden.0', 'hidden.1', 'readout', got 'hidden.7'"),
        ({"readout": np.zeros(3, int)}, "a layer with clusters or lesions must be hidden, got 'readout'"),
        ({"hidden.0": np.zeros(7)}, "clusters['hidden.0'] must be ints (7,), one for each unit, got float64 (7,)"),
        ({"hidden.0": np.full(7, -2)}, "clusters['hidden.0'] must be >= 0, or -1 for no cluster, got -2"),
        ({"hidden.0": np.full(7, -1)}, "clusters must have a label >= 0, got only -1"),
        ({}, "clusters must have a label >= 0, got no layer"),
    ],
)
def test_clusters_that_do_not_fit(clusters: dict[str, np.ndarray], message: str) -> None:
    for probe in (lesions, specialisation):
        with pytest.raises(InputError) as caught:
            probe(NETWORK, clusters, X, Y)
        assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (WITH_NAN, Y, "x must be finite, got NaN or infinity in 1 of 9 rows, first row 4"),
        (X[:8], Y, "y must be integer labels (8,), got int64 (9,)"),
        (X, Y + 0.5, "y must be integer labels (9,), got float32 (9,)"),
        (X, Y + 1, "y must be labels from 0 to 2, got 3 in row 2"),
        (X, Y - 1, "y must be labels from 0 to 2, got -1 in row 0"),
        (X.long(), Y, "x must be a tensor of torch.float32"),
        (X[:, :5], Y, "x must have shape (n, 6) with n >= 1, got (9, 5)"),
        (X[:0], Y[:0], "x must have shape (n, 6) with n >= 1, got (0, 6)"),
    ],
)
def test_data_that_does_not_fit(x: Tensor, y: Tensor, message: str) -> None:
    probes = (
        lambda: lesions(NETWORK, CLUSTERS, x, y),
        lambda: specialisation(NETWORK, CLUSTERS, x, y),
        lambda: effective_circuit(NETWORK, x, y, 0),
    )
    for probe in probes:
        with pytest.raises(InputError) as caught:
            probe()
        assert str(caught.value).startswith(message)


def test_masks_that_do_not_fit() -> None:
    for mask in (torch.ones(6, dtype=torch.bool), torch.ones(7, dtype=torch.int64)):
        with pytest.raises(InputError, match=rf"off\['hidden.0'\] must be bool \(7,\), got \w+ \({len(mask)},\)"):
            without_units(NETWORK, {"hidden.0": mask})
    with pytest.raises(InputError, match="must be hidden, got 'readout'"):
        without_units(NETWORK, {"readout": torch.ones(3, dtype=torch.bool)})


def test_tied_layers_with_different_clusters() -> None:
    _, x, network = specimen("mobilenet")
    a, b = torch.arange(7), torch.arange(7).flip(0)
    with pytest.raises(InputError, match="tied layers 'blocks.1.expand.0' and 'blocks.1.depthwise.0' must be equal"):
        specialisation(network, {"blocks.1.expand.0": a, "blocks.1.depthwise.0": b}, x[:3], torch.arange(3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lesions(NETWORK, CLUSTERS, X, Y, n_random=1), "n_random must be an int >= 2, got 1"),
        (lambda: lesions(NETWORK, CLUSTERS, X, Y, random_state=-1), "random_state must be an int >= 0, got -1"),
        (
            lambda: effective_circuit(NETWORK, X, Y, 0, criterion="loss"),
            "criterion must be one of 'class', 'one-vs-rest', got 'loss'",
        ),
        (lambda: effective_circuit(NETWORK, X, Y, 0, block=0), "block must be an int >= 1, got 0"),
        (lambda: effective_circuit(NETWORK, X, Y % 2, 2), "y must have samples of class 2, got none"),
        (
            lambda: effective_circuit(NETWORK, X, torch.ones_like(Y), 1),
            "y must have samples of other classes than 1, got none",
        ),
    ],
)
def test_options_out_of_range(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_a_network_that_is_not_finite() -> None:
    state = {**NETWORK.state, "readout.bias": torch.full((3,), torch.inf)}
    with pytest.raises(InputError, match="the criterion of class 0 must be finite, got"):
        effective_circuit(TracedNetwork(NETWORK.architecture, state), X, Y, 0)
