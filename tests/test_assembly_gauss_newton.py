"""Several layers fitted together: products with the Gauss–Newton matrix, its Kronecker factors, and the fit."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from consilience.agreement import agreement, row_errors, softened_errors, spread_of
from consilience.assembly import fit as fitting
from consilience.assembly import gauss_newton as module
from consilience.assembly.fit import Fit
from consilience.assembly.gauss_newton import conjugate_gradients, gauss_newton
from consilience.assembly.kronecker import Kronecker
from consilience.nets import ConvNet, ResNet
from consilience.population import Population
from consilience.signals.held_out import held_out
from consilience.units.architecture import TracedNetwork
from zoo import ZOO, population_of, shaken

pytestmark = pytest.mark.numerical

X = torch.randn(160, 2, 6, 6, generator=torch.Generator().manual_seed(0))
FRESH = torch.randn(80, 2, 6, 6, generator=torch.Generator().manual_seed(1))
NETS: dict[str, Callable[[], nn.Module]] = {
    "convnet": lambda: ConvNet(2, (4, 5), 3, batch_norm=True),
    "resnet": lambda: ResNet(2, (3, 4), 3),
    "convnet without norms": lambda: ConvNet(2, (4, 5), 3, "tanh"),
}


def members(name: str) -> tuple[TracedNetwork, ...]:
    modules = [shaken(NETS[name](), seed).eval() for seed in range(3)]
    return Population.from_modules(modules, X[:4]).networks


def ensemble(networks: tuple[TracedNetwork, ...], x: Tensor) -> Tensor:
    return torch.stack([network(x) for network in networks]).mean(0)


def fit_of(name: str, task: str | None = None) -> Fit:
    networks = [network.double() for network in members(name)]
    x = X[:12].double()
    maps = [m for m in networks[0].architecture.maps if m.reads]
    return Fit.of(networks[0], maps, x, ensemble(tuple(networks), x), task)


class Divided(nn.Module):
    """The first layers have the rows of a sample as samples, as GPT-2 has the positions of a text."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(2, 5), nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        rows = self.b(self.a(x.reshape(-1, d)).tanh()).tanh()
        result: Tensor = self.c(rows.view(n, t, -1).mean(1))
        return result


def test_samples_may_be_divided_into_rows() -> None:
    x = torch.randn(60, 3, 2, generator=torch.Generator().manual_seed(0))
    modules = [shaken(Divided(), seed) for seed in range(2)]
    first, second = Population.from_modules(modules, x[:4]).networks
    maps, reference = [m for m in first.architecture.maps if m.reads], second(x)
    fit, rows = Fit.of(first, maps, x, reference), torch.tensor([0, 2, 3, 7, 11])
    assert [len(value) for value in fit.known.values()] == [3 * 60]
    torch.testing.assert_close(fit.outputs(fit.vector, rows), first(x[rows]))
    fitted = gauss_newton(first, x, reference)
    assert (fitted(x) - reference).square().mean() < 0.5 * (first(x) - reference).square().mean()


@pytest.mark.parametrize("task", [None, "classification"])
@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("name", NETS)
def test_products_are_those_of_the_jacobian(
    name: str, kept: bool, task: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit, rows = fit_of(name, task), torch.tensor([0, 2, 3, 7, 11])
    if not kept:
        monkeypatch.setattr(fitting, "KEPT_VALUES", 0)
    theta = fit.vector
    assert torch.allclose(fit.outputs(theta, rows), fit.network(fit.x[rows]))
    jacobian = torch.func.jacrev(lambda at: fit.outputs(at, rows))(theta)  # (n, o, θ)
    v = torch.randn(len(theta), dtype=torch.float64)
    slopes, hessians = derivatives(fit.outputs(theta, rows), fit.reference[rows], fit.spread, task)
    curved = torch.einsum("nop,npt,t->no", hessians, jacobian, v)
    assert torch.allclose(fit.gauss_newton(theta, rows)(v), torch.einsum("not,no->t", jacobian, curved) / 5)
    assert torch.allclose(fit.gradient(theta, rows), torch.einsum("not,no->t", jacobian, slopes) / 5)


def derivatives(outputs: Tensor, reference: Tensor, spread: Tensor, task: str | None) -> tuple[Tensor, Tensor]:
    """First (n, o) and second (n, o, o) derivatives of each row's error by its outputs."""

    slopes, hessians = [], []
    for row, target in zip(outputs.detach(), reference, strict=True):

        def error(y: Tensor, target: Tensor = target) -> Tensor:
            return softened_errors(y[None], target[None], task, spread)[0]

        slopes.append(torch.autograd.functional.jacobian(error, row))
        hessians.append(torch.autograd.functional.hessian(error, row))
    return torch.stack(slopes), torch.stack(hessians)


@pytest.mark.parametrize(("n_outputs", "task"), [(3, None), (3, "classification"), (1, "classification")])
def test_roots_of_the_curvature_have_it_as_their_second_moment(n_outputs: int, task: str | None) -> None:
    fit, g = fit_of("convnet", task), torch.Generator().manual_seed(0)
    outputs, reference = (torch.randn(5, n_outputs, generator=g, dtype=torch.float64) * 3 for _ in range(2))
    fit = replace(fit, reference=reference, spread=spread_of(reference))
    _, hessians = derivatives(outputs, reference, fit.spread, task)
    columns = [fit.curved(outputs, unit.expand(5, -1)) for unit in torch.eye(n_outputs, dtype=torch.float64)]
    assert torch.allclose(torch.stack(columns, dim=2), hessians)
    every = itertools.product((-1.0, 1.0), repeat=n_outputs)
    roots = [fit.root(outputs, torch.tensor(signs, dtype=torch.float64).expand(5, -1)) for signs in every]
    seconds = torch.stack([torch.einsum("no,np->nop", root, root) for root in roots]).mean(0)
    assert torch.allclose(seconds, hessians)


def test_factors_of_the_last_map_are_exact() -> None:
    """Its derivatives depend on no sample, so G is the product of two means."""
    fit, rows = fit_of("convnet"), torch.arange(8)
    fit = Fit.of(fit.network, fit.maps[-1:], fit.x, fit.reference)
    walsh = torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]], dtype=torch.float64)
    factors = Kronecker.of(fit, fit.vector, rows, walsh[:, 1:].repeat(2, 1))
    product = fit.gauss_newton(fit.vector, rows)
    dense = torch.stack([product(unit) for unit in torch.eye(len(fit.vector), dtype=torch.float64)])
    ((left, right),) = factors.factors
    assert torch.allclose(torch.kron(left, right), dense)
    assert torch.allclose(factors.scale, dense.diagonal().mean().expand(len(dense)))


def test_factors_are_a_good_preconditioner() -> None:
    fit, rows = fit_of("convnet"), torch.arange(12)
    signs = torch.randint(0, 2, (12, 3), generator=torch.Generator().manual_seed(0)) * 2 - 1
    factors = Kronecker.of(fit, fit.vector, rows, signs)
    product, target = fit.gauss_newton(fit.vector, rows), fit.gradient(fit.vector, rows)
    damping = 1e-2 * factors.scale

    def left(preconditioner: Callable[[Tensor], Tensor]) -> float:
        step = conjugate_gradients(product, damping, target, preconditioner, 6)
        return float(0.5 * step @ (product(step) + damping * step) - step @ target)

    assert left(factors.inverse()) < left(lambda v: v) < 0


@pytest.mark.parametrize(
    ("name", "task"), [("convnet", "classification"), ("convnet without norms", "classification"), ("resnet", None)]
)
def test_a_member_comes_nearer_to_its_ensemble(name: str, task: str | None) -> None:
    networks = members(name)
    fitted = gauss_newton(networks[0], X, ensemble(networks, X), task)
    before, after = (agreement(net(FRESH), ensemble(networks, FRESH), task).error for net in (networks[0], fitted))
    assert after < 0.5 * before
    stem = next(m for m in networks[0].architecture.maps if not m.reads)
    assert torch.equal(fitted.weights(stem).matrix, networks[0].weights(stem).matrix)


@pytest.mark.parametrize("scale", [2.0**-13, 2.0**13])
def test_a_fit_does_not_depend_on_the_units_of_the_outputs(scale: float) -> None:
    networks = members("convnet")
    (readout,) = networks[0].architecture.writing(networks[0].architecture.output.name)
    rescaled = []
    for network in networks:
        weights = network.weights(readout)
        rescaled.append(
            network.with_weights(readout, weights.with_matrix(weights.matrix * scale, weights.bias * scale))
        )
    fitted = [gauss_newton(nets[0], X, ensemble(tuple(nets), X)) for nets in (networks, rescaled)]
    outputs, expected = fitted[1](FRESH) / scale, fitted[0](FRESH)
    assert float((outputs - expected).abs().max()) < 1e-3 * float(expected.abs().max())


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_every_kind_of_network_is_never_worse_on_held_out_samples(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STEPS", 1)
    population = population_of(name)
    x = population.example_input
    reference = torch.randn(len(x), population.architecture.output.width)
    network = population.networks[0]
    fitted = gauss_newton(network, x, reference)
    _, held = held_out(len(x))
    spread = spread_of(reference)
    before, after = (row_errors(net(x)[held], reference[held], None, spread).mean() for net in (network, fitted))
    assert float(after) <= float(before) * (1 + 1e-5)


def test_an_exact_network_is_returned_as_it_is() -> None:
    network = members("resnet")[0]
    assert gauss_newton(network, X, network(X)) is network
    broken = replace(network, state={**network.state, "readout.bias": network.state["readout.bias"] * torch.nan})
    assert gauss_newton(broken, X, network(X)) is broken
