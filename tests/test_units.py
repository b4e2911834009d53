"""Resized copies, hyperplane tables, activations, and moments against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from conftest import inputs, random_mlp, random_population
from consilience.bases.hyperplanes import Projection, ground, hyperplanes
from consilience.errors import InputError
from consilience.population import Population
from consilience.signals.moments import MOST, STRENGTHS, Moments, cross_validated, ridge
from consilience.signals.responses import Responses
from consilience.units.architecture import TracedNetwork, outgoing_norms, read_state
from consilience.units.follow import find_layers
from consilience.units.resize import resize

pytestmark = pytest.mark.numerical


def test_a_resized_copy_runs_at_its_new_widths_and_knows_them() -> None:
    net = random_mlp([5, 4], "tanh")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    wider = resize(net, find_layers(net, inputs(2)), {"hidden.0": 9, "hidden.1": 2})
    assert wider.config.widths == (9, 2)
    assert wider.config.activation == "tanh"
    assert (wider.hidden[1].in_features, wider.hidden[1].out_features) == (9, 2)
    assert wider(inputs(3)).shape == (3, 3)
    assert all(not parameter.any() for parameter in wider.parameters())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


class WrittenOut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)).view(-1, 5))


def test_a_module_that_writes_out_its_widths_is_refused_at_others() -> None:
    net = WrittenOut()
    architecture = find_layers(net, inputs(2))
    with pytest.raises(InputError, match=r"WrittenOut must (run|return .*) at other widths, got"):
        resize(net, architecture, {"a": 7})
    with pytest.raises(InputError, match="WrittenOut must .* at other widths"):
        Population.from_modules([net, WrittenOut()], inputs(4))


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ({"hidden.0": 0}, "the width of layer 'hidden.0' must be >= 1, got 0"),
        ({"readout": 4}, "the width of layer 'readout' must stay 3, got 4"),
        ({"hidden": 4}, "layer must be one of 'hidden.0', 'readout', got 'hidden'"),
    ],
)
def test_impossible_widths_are_refused(widths: dict[str, int], message: str) -> None:
    net = random_mlp([5])
    with pytest.raises(InputError, match=message):
        resize(net, find_layers(net, inputs(2)), widths)


def test_the_table_of_hyperplanes_has_every_unit_with_its_owner() -> None:
    population = random_population([[5, 4], [3, 4]])
    table = hyperplanes(population.networks, "hidden.0", {})
    nets = [member.module for member in population]
    assert table.member.tolist() == [0] * 5 + [1] * 3
    assert table.index.tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert torch.equal(table.incoming[5:], nets[1].hidden[0].weight)
    assert torch.equal(table.bias[:5], nets[0].hidden[0].bias)
    outgoing = outgoing_norms(population.networks[0], "hidden.0")
    torch.testing.assert_close(outgoing, nets[0].hidden[1].weight.norm(dim=0))
    assert table.augmented.shape == (8, 7)


def test_grounding_is_the_substitution_of_a_projection() -> None:
    """w·(P ã + c) + b = w̃·ã + b̃ for every ã."""
    net = random_mlp([5, 4])
    network = TracedNetwork(find_layers(net, inputs(2)), read_state(net))
    projection, basis = Projection(torch.randn(5, 7), torch.randn(5)), torch.randn(11, 7)
    (place,) = network.architecture.read("hidden.0")
    grounded = ground(network.architecture.writing("hidden.1")[0], network, {place: projection})
    expected = net.hidden[1](basis @ projection.matrix.T + projection.offset)
    torch.testing.assert_close(basis @ grounded.matrix.T + grounded.bias, expected.detach(), rtol=1e-4, atol=1e-5)


def test_responses_do_not_depend_on_the_batch_size(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = random_mlp([5, 4]), inputs(50)
    network = TracedNetwork(find_layers(net, x), read_state(net))
    hidden = net.hidden[0](x).detach()
    for batch_size in (7, 50):
        monkeypatch.setattr("consilience.signals.batches.MAX_BATCH", batch_size)
        responses = Responses([network, network], x)
        for written, read in zip(responses.written("hidden.0"), responses.read("hidden.0"), strict=True):
            torch.testing.assert_close(written, hidden)
            torch.testing.assert_close(read, hidden.relu())
        torch.testing.assert_close(responses.units("hidden.0"), hidden.T.repeat(2, 1))
        torch.testing.assert_close(responses.read("readout")[0], net(x).detach())


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), intercept=st.booleans(), batches=st.integers(1, 5))
def test_streamed_ridge_is_least_squares(seed: int, intercept: bool, batches: int) -> None:
    g = np.random.default_rng(seed)
    x, y = g.normal(size=(40, 4)) + 2, g.normal(size=(40, 3))
    moments = Moments(4, 3)
    for rows in np.array_split(np.arange(40), batches):
        moments.add(torch.from_numpy(x[rows]), torch.from_numpy(y[rows]))
    weight, bias = ridge(moments, 0.0, intercept=intercept)
    design = np.c_[x, np.ones(40)] if intercept else x
    expected = np.linalg.lstsq(design, y, rcond=None)[0].T
    np.testing.assert_allclose(weight, expected[:, :4], atol=1e-8)
    np.testing.assert_allclose(bias, expected[:, 4] if intercept else 0, atol=1e-8)


def test_ridge_minimises_the_penalised_error() -> None:
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(60, 4, generator=g, dtype=torch.float64), torch.randn(60, 2, generator=g, dtype=torch.float64)
    moments = Moments(4, 2)
    moments.add(x, y)
    weight, bias = ridge(moments, 0.3)
    penalty = 0.3 * float(torch.cov(x.T, correction=0).trace()) / 4

    def loss(w: Tensor, b: Tensor) -> Tensor:
        return (y - x @ w.T - b).square().sum(1).mean() + penalty * w.square().sum()

    w, b = weight.requires_grad_(), bias.detach().requires_grad_()
    gradients = torch.autograd.grad(loss(w, b), (w, b))
    assert max(float(gradient.abs().max()) for gradient in gradients) < 1e-12


@pytest.mark.parametrize(("n", "noise"), [(12, 0.1), (40, 0.1), (40, 3.0), (2000, 1.0)])
def test_cross_validation_is_that_of_the_hat_matrix(n: int, noise: float) -> None:
    x, y = torch.randn(n, 10, dtype=torch.float64), torch.randn(n, 2, dtype=torch.float64) * noise
    y += x[:, :2]
    moments = Moments(10, 2)
    moments.add(x, y)
    design, variance = x - x.mean(0), float(x.var(0, correction=0).mean())
    scores, solutions = [], []
    for strength in (1e12, *STRENGTHS.tolist()):
        penalty = n * strength * variance * torch.eye(10, dtype=torch.float64)
        solve = torch.linalg.solve(design.T @ design + penalty, design.T)
        solutions.append((solve @ y).T)
        left = y - y.mean(0) - design @ solutions[-1].T
        freedom = 1 + float((solve * design.T).sum())
        scores.append(math.log(float(left.square().sum()) / (1 - freedom / n) ** 2))
    shares = torch.softmax(-min(n, MOST) / 2 * torch.tensor(scores, dtype=torch.float64), 0)
    expected = sum(share * solution for share, solution in zip(shares, solutions, strict=True))
    weight, bias = cross_validated(moments)
    torch.testing.assert_close(weight, expected, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(bias, y.mean(0) - expected @ x.mean(0), rtol=1e-6, atol=1e-8)


def test_cross_validation_fits_less_to_noise_and_next_to_nothing_to_rounding() -> None:
    x, noise = torch.randn(30, 20), torch.randn(30, 3)
    moments = Moments(20, 3)
    moments.add(x, noise)
    assert float(cross_validated(moments)[0].norm()) < 0.3 * float(ridge(moments, 1e-3)[0].norm())
    assert float(cross_validated(moments, rounding=1e6)[0].norm()) < 0.05


def test_cross_validation_of_what_is_constant_beside_others_gives_it_no_weight() -> None:
    x, y = torch.randn(30, 2, 3), torch.randn(30, 2, 1)
    x[:, 1] = 0
    moments = Moments(3, 1, n_fits=2)
    moments.add(x, y)
    weight, bias = cross_validated(moments)
    assert torch.equal(weight[1], torch.zeros(1, 3, dtype=torch.float64))
    torch.testing.assert_close(bias[1], y[:, 1].double().mean(0))


def test_ridge_gives_no_weight_to_directions_without_variance() -> None:
    x = torch.cat([torch.randn(30, 2), torch.zeros(30, 1)], dim=1)
    moments = Moments(3, 1)
    moments.add(x, x[:, :1] * 2 + 5)
    weight, bias = ridge(moments, 0.0)
    torch.testing.assert_close(weight, torch.tensor([[2.0, 0, 0]], dtype=torch.float64), atol=1e-6, rtol=0)
    assert float(bias) == pytest.approx(5, abs=1e-6)
