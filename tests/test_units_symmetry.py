"""Symmetries: the table against the functions themselves, and the group actions against the network's function."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from conftest import inputs, random_mlp
from consilience.errors import FunctionChangedError, InputError
from consilience.nets import ACTIVATIONS
from consilience.units.architecture import TracedNetwork, incoming_norms, outgoing_norms, read_state
from consilience.units.follow import find_layers
from consilience.units.forward import forward
from consilience.units.operations import HANDLERS
from consilience.units.operations.elementwise import activation
from consilience.units.proof import prove
from consilience.units.symmetry import SYMMETRIES, balanced, can_flip, canonical, flip, permute, rescale, symmetry_of

pytestmark = pytest.mark.numerical

Z = torch.linspace(-6, 6, 241, dtype=torch.float64)
WIDTHS = [5, 4]
TRACED = {
    (name, bias): find_layers(random_mlp(WIDTHS, name, bias=bias), inputs(3))
    for name in ACTIVATIONS
    for bias in (True, False)
}
seeds = st.integers(0, 2**32 - 1)


def traced(module: nn.Module, activation: str, *, bias: bool = True) -> TracedNetwork:
    return TracedNetwork(TRACED[activation, bias], read_state(module))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_table_says_of_each_activation_what_is_true_of_the_function(name: str) -> None:
    f, symmetry = ACTIVATIONS[name], symmetry_of([name])
    homogeneous = torch.allclose(f(3 * Z), 3 * f(Z), atol=1e-12)
    total, difference = f(Z) + f(-Z), f(Z) - f(-Z)
    odd = torch.allclose(total, total.mean().expand_as(total), atol=1e-12)
    slope = float((difference * Z).sum() / (Z * Z).sum())
    even = torch.allclose(difference, slope * Z, atol=1e-12)
    assert symmetry.homogeneous == homogeneous
    assert symmetry.flippable == odd
    if odd:
        assert symmetry.odd_constant == pytest.approx(float(total.mean()), abs=1e-12)
    elif name != "leaky_relu":  # its slope depends on its leak; the table leaves it out
        assert (symmetry.even_slope is not None) == even
        assert not even or symmetry.even_slope == pytest.approx(slope)


def test_activations_in_sequence_have_what_they_share() -> None:
    assert symmetry_of([]) == SYMMETRIES["identity"]
    assert symmetry_of(["leaky_relu(0.2)", "relu"]).homogeneous
    assert symmetry_of(["tanh", "erf"]).odd_constant == 0
    assert not symmetry_of(["sigmoid", "tanh"]).flippable  # the constant would have to pass through the tanh
    assert not symmetry_of(["hardswish"]).homogeneous


@settings(max_examples=40)
@given(activation=st.sampled_from(sorted(ACTIVATIONS)), bias=st.booleans(), seed=seeds)
def test_group_actions_leave_the_function_alone(activation: str, bias: bool, seed: int) -> None:
    net, x, g = random_mlp(WIDTHS, activation, bias=bias, seed=seed), inputs(20), torch.Generator().manual_seed(seed)
    network = traced(net, activation, bias=bias)
    for layer in network.architecture.hidden:
        network = permute(network, layer.name, torch.randperm(layer.width, generator=g))
        if symmetry_of(layer.activations).homogeneous:
            network = rescale(network, layer.name, 0.1 + 3 * torch.rand(layer.width, generator=g))
        if can_flip(network.architecture, layer.name):
            network = flip(network, layer.name, torch.randint(0, 2, (layer.width,), generator=g) * 2.0 - 1.0)
    torch.testing.assert_close(forward(net, network.state, x), net(x).detach(), rtol=1e-4, atol=1e-5)


def test_group_actions_do_what_they_say() -> None:
    network, order = traced(random_mlp(WIDTHS, "identity"), "identity"), torch.tensor([3, 0, 4, 1, 2])
    weight, outgoing = network.state["hidden.0.weight"], network.state["hidden.1.weight"]
    assert torch.equal(permute(network, "hidden.0", order).state["hidden.0.weight"], weight[order])
    assert torch.equal(permute(network, "hidden.0", order).state["hidden.1.weight"], outgoing[:, order])
    factors = torch.tensor([1.0, 2, 4, 8, 16])
    assert torch.equal(rescale(network, "hidden.0", factors).state["hidden.0.weight"], weight * factors[:, None])
    assert torch.equal(rescale(network, "hidden.0", factors).state["hidden.1.weight"], outgoing / factors)
    signs = torch.tensor([1.0, -1, -1, 1, 1])
    assert torch.equal(flip(network, "hidden.0", signs).state["hidden.0.bias"], network.state["hidden.0.bias"] * signs)


def test_what_an_activation_does_not_allow_is_refused() -> None:
    x = torch.ones(5)
    with pytest.raises(InputError, match="the activation of layer 'hidden.0' must be homogeneous, got tanh"):
        rescale(traced(random_mlp(WIDTHS, "tanh"), "tanh"), "hidden.0", x)
    relu = traced(random_mlp(WIDTHS), "relu")
    with pytest.raises(InputError, match="the activation of layer 'hidden.0' must be odd, got relu"):
        flip(relu, "hidden.0", -x)
    with pytest.raises(InputError, match="factors must be positive"):
        rescale(relu, "hidden.0", -x)
    with pytest.raises(InputError, match="order must have each of 0…4 once"):
        permute(relu, "hidden.0", torch.zeros(5, dtype=torch.int64))
    with pytest.raises(
        InputError, match=r"layer must be one whose units are interchangeable \('hidden.0', 'hidden.1'\), got 'readout'"
    ):
        permute(relu, "readout", torch.arange(3))
    no_bias = traced(random_mlp(WIDTHS, "sigmoid", bias=False), "sigmoid", bias=False)
    assert not can_flip(no_bias.architecture, "hidden.0")
    with pytest.raises(InputError, match="every map that reads layer 'hidden.0' must have a bias"):
        flip(no_bias, "hidden.0", -x)
    with pytest.raises(InputError, match="signs must be 1 or −1"):
        flip(traced(random_mlp(WIDTHS, "tanh"), "tanh"), "hidden.0", 2 * x)


@settings(max_examples=20)
@given(seed=seeds)
def test_rescaled_networks_have_one_canonical_form(seed: int) -> None:
    network = traced(random_mlp(WIDTHS, seed=seed), "relu")
    g = torch.Generator().manual_seed(seed)
    other = network
    for layer in network.architecture.hidden:
        other = rescale(other, layer.name, 0.1 + 3 * torch.rand(layer.width, generator=g))
    first, second = canonical(network), canonical(other)
    for name, value in first.state.items():
        torch.testing.assert_close(second.state[name], value, rtol=1e-4, atol=1e-5)
    for layer in network.architecture.hidden:
        torch.testing.assert_close(incoming_norms(first, layer.name), torch.ones(layer.width))


@settings(max_examples=20)
@given(seed=seeds)
def test_a_balanced_network_has_equal_norms_on_both_sides_of_a_unit(seed: int) -> None:
    net, g = random_mlp(WIDTHS, seed=seed), torch.Generator().manual_seed(seed)
    network = traced(net, "relu")
    for layer in network.architecture.hidden:
        network = rescale(network, layer.name, 10 ** (4 * torch.rand(layer.width, generator=g) - 2))
    even = balanced(network)
    for layer in network.architecture.hidden:
        incoming, outgoing = incoming_norms(even, layer.name), outgoing_norms(even, layer.name)
        torch.testing.assert_close(incoming, outgoing, rtol=1e-3, atol=0)
    torch.testing.assert_close(forward(net, even.state, inputs(20)), net(inputs(20)).detach(), rtol=1e-4, atol=1e-4)


def test_a_unit_without_weights_stays_as_it_is_in_canonical_form() -> None:
    net = random_mlp(WIDTHS)
    with torch.no_grad():
        net.hidden[0].weight[2] = net.hidden[0].bias[2] = 0
    state = canonical(traced(net, "relu")).state
    assert torch.equal(state["hidden.0.weight"][2], torch.zeros(6))
    assert all(torch.isfinite(value).all() for value in state.values())


class OrderMatters(nn.Module):
    """Traces as a plain MLP, but looks at a unit by its index where tracing cannot see it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        order = self.a.bias.detach().argsort().tolist() if len(x) == 4 else list(range(5))
        return nn.functional.linear(
            torch.relu(self.a(x)), self.b.weight[:, order] if len(x) == 4 else self.b.weight, self.b.bias
        )


def test_a_module_that_is_not_what_it_was_traced_as_fails_the_proof() -> None:
    net = random_mlp(WIDTHS)
    wrong = TracedNetwork(TRACED["tanh", True], read_state(net))
    with pytest.raises(FunctionChangedError, match="running the traced program in place of the module must change"):
        prove(net, wrong, inputs(8))
    prove(net, traced(net, "relu"), inputs(8))

    module = OrderMatters()
    with torch.no_grad():
        module.a.bias.copy_(torch.arange(5.0))  # argsort is the identity until units are permuted
    network = TracedNetwork(find_layers(module, inputs(4)), read_state(module))
    with pytest.raises(FunctionChangedError, match="permuting the units of layer 'a' must change the outputs"):
        prove(module, network, inputs(4))


def test_layers_of_a_wrong_handler_do_not_fit_the_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    module = nn.Sequential(nn.Linear(6, 5), Twice(), nn.Linear(10, 3))
    monkeypatch.setitem(HANDLERS, torch.ops.aten.repeat.default, activation("repeat"))
    network = TracedNetwork(find_layers(module, inputs(4)), read_state(module))
    with pytest.raises(
        FunctionChangedError, match="the layers found in Sequential must fit the shapes of its parameters"
    ):
        prove(module, network, inputs(4))


class Twice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.repeat(1, 2)


class OutOfMemory(nn.Linear):
    """Runs with its own weight only."""

    def forward(self, x: Tensor) -> Tensor:
        if len(x) == 8 and self.weight[0, 0] != 1:
            raise RuntimeError("out of memory")
        return super().forward(x)


def test_a_failure_of_the_module_is_not_taken_for_a_wrong_layer() -> None:
    module = nn.Sequential(nn.Linear(6, 5), OutOfMemory(5, 3))
    nn.init.constant_(module[1].weight[:, :1], 1)
    network = TracedNetwork(find_layers(module, inputs(4)), read_state(module))
    with pytest.raises(InputError, match="its forward pass raises RuntimeError: out of memory"):
        prove(module, network, inputs(8))


def test_the_proof_leaves_the_module_alone() -> None:
    net = random_mlp(WIDTHS).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    prove(net, traced(net, "relu"), inputs(8))
    assert net.training
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
