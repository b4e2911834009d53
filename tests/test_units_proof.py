"""The proof sees what it claims to: beside large constants, in branches without effect, in members' own buffers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from consilience.errors import ConsilienceError, FunctionChangedError, InputError
from consilience.population import Population
from consilience.units import precision, proof
from consilience.units.architecture import TracedNetwork, read_state
from consilience.units.deviation import deviation
from consilience.units.follow import find_layers
from consilience.units.proof import prove
from consilience.units.readings import prove_readings
from consilience.units.symmetry import duplicate

pytestmark = pytest.mark.numerical

X = torch.randn(12, 6, generator=torch.Generator().manual_seed(0))


class FarFromZero(nn.Module):
    """A perceptron whose outputs are near −40,000, with something done around its hidden layer."""

    def __init__(self, forward: Callable[[nn.Module, Tensor], Tensor], scale: float = 1.0) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)
        self.register_buffer("scale", torch.tensor(scale), persistent=False)
        self.register_buffer("order", torch.arange(6), persistent=False)
        self.function = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x) - 4e4


def plain(m: nn.Module, x: Tensor) -> Tensor:
    return m.b(m.a(x * m.scale).relu())


WRONG = {
    "a width in the forward pass": (lambda m, x: m.b(m.a(x).relu() / m.a(x).shape[-1] ** 0.5), "doubling the units"),
    "a mean over samples": (lambda m, x: m.b(m.a(x - x.mean(0)).relu()), "from that sample alone"),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_error_is_seen_beside_a_large_constant(name: str) -> None:
    function, message = WRONG[name]
    with pytest.raises(ConsilienceError, match=message):
        Population.from_modules([FarFromZero(function)], X)


def test_outputs_far_from_zero_are_proved() -> None:
    population = Population.from_modules([FarFromZero(plain), FarFromZero(plain)], X)
    assert population.widths("a") == (8, 8)


def test_members_with_buffers_of_their_own_are_told_apart_beside_a_large_constant() -> None:
    with pytest.raises(ConsilienceError, match="member 1 must compute what member 0 computes of the same parameters"):
        Population.from_modules([FarFromZero(plain), FarFromZero(plain, 2.0)], X)


def test_buffers_that_a_state_dict_leaves_out_are_saved_with_a_population(tmp_path: Path) -> None:
    module = FarFromZero(lambda m, x: m.b(m.a(x[:, m.order] * m.scale).relu()), 2.0)
    module.order = module.order.flip(0)
    Population.from_modules([module], X).save(tmp_path / "population")
    fresh = FarFromZero(module.function)
    loaded = Population.load(tmp_path / "population", fresh)
    assert torch.equal(loaded.logits(X)[0], module(X).detach())


class Branches(nn.Module):
    """Two residual branches that count for nothing yet: their last weights are zero."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.out = nn.Linear(6, 5), nn.Linear(5, 3)
        self.inner, self.back = (nn.ModuleList(nn.Linear(*shape) for _ in range(2)) for shape in ((5, 4), (4, 5)))
        for back in self.back:
            nn.init.zeros_(back.weight)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        for inner, back in zip(self.inner, self.back, strict=True):
            h = h + back(inner(h).relu())
        return self.out(h)


def test_a_layer_without_effect_on_the_outputs_is_proved_where_it_is_read() -> None:
    module = Branches()
    network = TracedNetwork(find_layers(module, X), read_state(module))
    prove_readings(network, X)
    swapped = {("back.0.weight", 1): (("inner.1", 1),), ("back.1.weight", 1): (("inner.0", 1),)}
    divided = {**network.architecture.divided, **swapped}
    wrong = replace(network, architecture=replace(network.architecture, divided=divided))
    prove(module, wrong, X)
    with pytest.raises(
        FunctionChangedError, match="permuting the units of layer 'inner.0' must not change what 'back.0'"
    ):
        prove_readings(wrong, X)


@pytest.fixture
def all_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every network has many parameters, and every parameter many numbers."""
    monkeypatch.setattr(proof, "LARGE", 0)
    monkeypatch.setattr(precision, "LARGE", 0)
    monkeypatch.setattr(precision, "PORTION", 20)


@pytest.mark.usefixtures("all_are_large")
def test_large_networks_are_proved_in_portions() -> None:
    Population.from_modules([FarFromZero(plain), FarFromZero(plain)], X)
    for function, message in WRONG.values():
        with pytest.raises(ConsilienceError, match=message):
            Population.from_modules([FarFromZero(function)], X)


class NormOfTwo(nn.Module):
    """A norm over two layers side by side, and one over the first of them, wide enough to be doubled in part."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norms = nn.Linear(6, 64), nn.Linear(6, 128), nn.ModuleList([nn.LayerNorm(64)])
        self.norms.append(nn.LayerNorm(192))
        self.out = nn.Linear(192, 3)

    def forward(self, x: Tensor) -> Tensor:
        first = self.norms[0](self.a(x)).tanh()
        return self.out(self.norms[1](torch.cat([first, self.b(x).relu()], 1)).tanh())


@pytest.mark.usefixtures("all_are_large")
def test_norms_of_large_networks_are_proved_with_all_that_they_are_over() -> None:
    Population.from_modules([NormOfTwo()], X)


def test_a_width_that_is_written_out_is_named_where_roundings_are_large() -> None:
    class WrittenOut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.relu(self.a(x * 1e-5))[:, :8])

    with pytest.raises(InputError, match="WrittenOut must run at other widths"):
        Population.from_modules([WrittenOut()], X)


@pytest.mark.usefixtures("all_are_large")
@pytest.mark.parametrize("share", [1, 2])
def test_large_parameters_in_double_precision_are_converted_where_they_are_used(share: int) -> None:
    module = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3))
    network = TracedNetwork(find_layers(module, X), read_state(module))
    lazy, x = network.computing_in_double(), X.double()
    assert {value.dtype for value in lazy.state.values()} == {torch.float32}
    with torch.no_grad():
        expected = module.double()(x)
    assert torch.allclose(lazy.outputs(x), expected, rtol=1e-12)
    wide = duplicate(lazy, ["0", "2"], share)
    assert wide.architecture.widths["2"] == 16 + 16 // share
    assert torch.allclose(wide.outputs(x), expected, rtol=1e-12)


def test_deviations_are_shares_of_the_spread() -> None:
    expected = torch.tensor([[0.0, 1e6], [2.0, 1e6 + 2]], dtype=torch.float64)
    assert deviation(expected + torch.tensor([0.0, 0.5]), expected) == pytest.approx(0.5, rel=1e-6)
    assert deviation(expected[:, :1] * 0 + 1, expected[:, :1] * 0) == torch.inf
    assert deviation(expected * torch.nan, expected) == torch.inf
