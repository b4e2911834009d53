"""Fits to machine precision: against the closed form, each network by itself, and every refusal."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import consilience as cs
from consilience.errors import InputError
from consilience.recovery import fit as precise
from consilience.recovery.fit import METHODS, fit_precisely, method_for

pytestmark = pytest.mark.numerical


def problem(n: int = 80, d: int = 3, o: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    weights = torch.randn(2, d, generator=generator, dtype=torch.float64)
    readout = torch.randn(o, 2, generator=generator, dtype=torch.float64)
    return x, torch.tanh(x @ weights.T + 0.3) @ readout.T


def students(n: int, width: int = 4, d: int = 3, o: int = 2) -> list[nn.Module]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return [cs.MLP(d, [width], o, activation="tanh") for _ in range(n)]


def test_second_order_steps_reach_rounding() -> None:
    x, y = problem()
    fitted = fit_precisely(students(4), x, y, tolerance=1e-20, max_iterations=300)
    assert fitted.status == ("converged",) * 4
    for module, loss in zip(fitted.modules, fitted.losses, strict=True):
        with torch.no_grad():
            own = (module(x) - y).square().mean() / y.var(0, correction=0).mean()
        assert next(module.parameters()).dtype == torch.float64
        assert float(own) == pytest.approx(float(loss), rel=1e-6)
        assert loss <= 1e-20


def test_one_step_without_damping_solves_a_linear_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precise, "FIRST_DAMPING", 1e-12)
    x, y = problem()
    (module,) = fit_precisely([nn.Linear(3, 2)], x, y, warm_up=0, max_iterations=1).modules
    columns = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
    expected = torch.linalg.lstsq(columns, y).solution.T
    assert torch.allclose(torch.cat([module.weight, module.bias[:, None]], dim=1), expected, atol=1e-8)


def test_normal_equations_are_those_of_the_jacobian(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = problem()
    modules = students(3)
    stack = precise._Stack(modules, x, y)
    gram, slope = stack.normal_equations(stack.theta)
    monkeypatch.setattr(precise, "JACOBIAN_VALUES", 1000)  # a few samples at a time
    again, slope_again = stack.normal_equations(stack.theta)
    assert torch.allclose(gram, again, rtol=1e-10)
    assert torch.allclose(slope, slope_again, rtol=1e-8, atol=1e-12)
    for k, module in enumerate(modules):
        module = copy.deepcopy(module).double()
        parameters = list(module.parameters())
        rows = []
        for value in module(x).flatten():
            gradient = torch.autograd.grad(value, parameters, retain_graph=True)
            rows.append(torch.cat([part.flatten() for part in gradient]))
        jacobian, scale = torch.stack(rows), y.numel() * stack.scale
        residuals = (module(x) - y).detach().flatten()
        assert torch.allclose(gram[k], jacobian.T @ jacobian / scale, rtol=1e-8, atol=1e-12)
        assert torch.allclose(slope[k], jacobian.T @ residuals / scale, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_a_network_does_not_depend_on_its_neighbours(method: str) -> None:
    x, y = problem()
    modules = students(3)
    together = fit_precisely(modules, x, y, method=method, max_iterations=5, warm_up=20)
    alone = fit_precisely(modules[1:2], x, y, method=method, max_iterations=5, warm_up=20)
    for ours, theirs in zip(together.modules[1].parameters(), alone.modules[0].parameters(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_improves_on_the_warm_up(method: str) -> None:
    x, y = problem()
    before = fit_precisely(students(2), x, y, method="levenberg-marquardt", warm_up=0, max_iterations=0).losses
    fitted = fit_precisely(students(2), x, y, method=method, max_iterations=150, warm_up=20)
    assert bool((fitted.losses < (0.9 if method == "adam" else 1e-4) * before).all())


def test_a_network_that_can_go_no_further_has_stalled() -> None:
    x, y = problem()
    noisy = y + 0.3 * torch.randn(y.shape, generator=torch.Generator().manual_seed(2), dtype=y.dtype)
    fitted = fit_precisely(students(2, width=2), x, noisy, max_iterations=200)
    assert fitted.status == ("stalled", "stalled")
    assert all(n < 200 for n in fitted.iterations)


def test_what_diverges_is_drawn_anew_once() -> None:
    x, y = problem()
    modules = students(3)
    with torch.no_grad():
        modules[1].readout.weight.fill_(float("inf"))
    fitted = fit_precisely(modules, x, y, tolerance=1e-8, max_iterations=200)
    assert fitted.redrawn == (1,)
    assert fitted.losses[1] < 1e-2
    assert bool(torch.isinf(modules[1].readout.weight).all())  # what was given is as it was


def test_what_diverges_twice_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = problem()
    modules = students(2)
    monkeypatch.setattr(precise, "WARM_UP_RATE", 1e300)
    fitted = fit_precisely(modules, x, y, warm_up=5, max_iterations=3)
    assert fitted.status == ("diverged", "diverged")
    assert bool(torch.isinf(fitted.losses).all())


def test_same_seed_same_bits() -> None:
    x, y = problem()
    first, second = (fit_precisely(students(2), x, y, method="adam", max_iterations=3, random_state=4) for _ in "ab")
    assert torch.equal(first.losses, second.losses)


def test_method_by_size() -> None:
    assert method_for(cs.MLP(6, [16], 3), 600) == "levenberg-marquardt"
    assert method_for(cs.MLP(64, [64], 10), 1500) == "l-bfgs"
    assert method_for(cs.MLP(784, [256], 10), 60_000) == "adam"


def test_bad_input() -> None:
    x, y = problem()
    nan = y.clone()
    nan[3, 0] = float("nan")
    for modules, targets, method, message in (
        ([], y, None, "modules must hold at least one network"),
        (students(1), y, "newton", "method must be one of .*, got 'newton'"),
        ([*students(1), *students(1, width=5)], y, None, r"modules\[1\] must have the parameters of modules\[0\]"),
        (students(1), y[:-1], None, "y must have one row for each of the 80 rows of x"),
        (students(1), y[:, :, None], None, r"y must have shape \(n, outputs\)"),
        (students(1), nan, None, "y must be finite"),
        (students(1), torch.ones_like(y), None, "y must have rows that differ"),
    ):
        with pytest.raises(InputError, match=message):
            fit_precisely(modules, x, targets, method=method)
