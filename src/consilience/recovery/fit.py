"""Fits to machine precision: many small networks of one architecture at once, in float64, by second-order steps.

Where the targets are the outputs of a network, a wide enough student can reach them to rounding; first-order training
stops far above that. Levenberg-Marquardt solves, for residuals r and their Jacobian J,

    (JᵀJ + μ I) δ = −Jᵀ r,

exactly and for all networks side by side, with one damping μ per network (Marquardt 1963). Networks wider than their
task have a singular JᵀJ, and valleys in which only a small μ allows long steps: it falls fast, as long as the
factorization succeeds. Networks with too many parameters for that are fitted by L-BFGS (Liu and Nocedal 1989); problems
too large for both by Adam in float32, with a rate that falls where the loss does not. Networks whose fits take long are
fitted in blocks, which are tasks of the engine.

Axis legend: ``k`` networks, ``n`` samples, ``o`` outputs, ``p`` parameters of one network.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, stack_module_state, vmap

from consilience import seeds
from consilience.checks import check_choice, check_finite, check_rows
from consilience.devices import precise_device
from consilience.engines import current
from consilience.errors import InputError
from consilience.seeds import REDRAW, seed
from consilience.training.fresh import initialise

METHODS = ("levenberg-marquardt", "l-bfgs", "adam")
MAX_PARAMETERS = 1500  # of a network that Levenberg-Marquardt takes: JᵀJ is p × p
MAX_ADAM = 2e9  # samples × parameters above which only batches are affordable
JACOBIAN_VALUES = 2**24  # numbers in a Jacobian at a time, 128 MB
WARM_UP, WARM_UP_RATE = 300, 1e-2  # steps of Adam first: far from a solution, second-order steps go astray
FIRST_DAMPING, LARGEST_DAMPING = 1e-2, 1e12  # as a share of the mean squared column norm of J
LESS, MORE = 0.1, 3.0  # factors of the damping, after a fair step and after one that gains nothing
FAIR = 0.25  # share of the gain that the linear model expects
PATIENCE, PROGRESS = 12, 0.02  # a network whose loss has not fallen by this share in so many steps has stalled
BLOCK_WORK = 1e11  # multiplications of a block of networks at least: ten seconds or more
STEPS, GRADIENTS = 30, 1000  # that a fit may take
BATCH_SIZE, FIRST_RATE, LOWEST_RATE = 256, 1e-3, 1e-6
PLATEAU = 5  # epochs without a lower loss, after which Adam's rate is halved


@dataclass(frozen=True)
class Fit:
    """Fitted networks."""

    modules: tuple[nn.Module, ...]  # the networks in float64, on new memory
    losses: Tensor  # (k,) mean squared error as a share of the targets' variance; inf if not finite
    # "converged" (loss at most the tolerance), "stalled" (the loss falls no further), "unfinished" (all iterations
    # used) or "diverged" (not finite, although initialized twice)
    status: tuple[str, ...]
    iterations: tuple[int, ...]  # of each network, second-order steps tried; for Adam, epochs
    redrawn: tuple[int, ...] = ()  # networks that diverged and were initialized once more


def method_for(module: nn.Module, n_samples: int) -> str:
    """Return the most precise method that is affordable for networks like ``module`` on so many samples."""
    size = sum(parameter.numel() for parameter in module.parameters())
    if size <= MAX_PARAMETERS:
        return "levenberg-marquardt"
    return "l-bfgs" if size * n_samples <= MAX_ADAM else "adam"


def fit_precisely(
    modules: Sequence[nn.Module],
    x: Tensor,
    y: Tensor,
    *,
    method: str | None = None,
    tolerance: float = 1e-24,
    max_iterations: int = 100,
    warm_up: int = WARM_UP,
    random_state: int = 0,
) -> Fit:
    """Fit networks of one architecture to targets y (n, o) on inputs x (n, ...), each by itself and all at once.

    The initialized networks may differ only in the values of their parameters; they are copied. The method is one of
    `METHODS`, by default the most precise that is affordable (`method_for`), after ``warm_up`` steps of Adam on all
    samples. A network is done at a loss of ``tolerance`` (a share of the targets' variance), or after
    ``max_iterations`` second-order steps, for "adam" epochs. ``random_state`` seeds new initial values and batches.
    """
    _check(modules, x, y, method)
    method = method or method_for(modules[0], len(x))
    size = block_size(modules[0], x, y, method)
    shared = {"x": x, "y": y, "method": method, "tolerance": tolerance, "max_iterations": max_iterations}
    shared |= {"warm_up": warm_up, "random_state": random_state, "device": precise_device()}

    def fit(networks: Sequence[nn.Module]) -> Fit:
        starts = range(0, len(networks), size)
        blocks = [tuple(networks[start : start + size]) for start in starts]
        names = [f"students {start} to {min(start + size, len(networks)) - 1}" for start in starts]
        return _joined(current(worth=len(blocks) > 1).map(fit_block, blocks, shared=shared, names=names))

    first = fit(modules)
    again = tuple(k for k, loss in enumerate(first.losses) if not math.isfinite(loss))
    if not again:
        return first
    second = fit([initialise(modules[k], seed(random_state, REDRAW, k)) for k in again])
    networks, losses = list(first.modules), first.losses.clone()
    status, iterations = list(first.status), list(first.iterations)
    for row, k in enumerate(again):
        networks[k], losses[k] = second.modules[row], second.losses[row]
        status[k], iterations[k] = second.status[row], second.iterations[row]
    return Fit(tuple(networks), losses, tuple(status), tuple(iterations), again)


def block_size(module: nn.Module, x: Tensor, y: Tensor, method: str) -> int:
    """Return how many networks like ``module`` are fitted together, by the multiplications that a fit takes."""
    p = sum(parameter.numel() for parameter in module.parameters())
    of_one = STEPS * y.numel() * p**2 if method == "levenberg-marquardt" else GRADIENTS * 6 * len(x) * p
    return math.ceil(BLOCK_WORK / max(1, of_one))


def fit_block(
    networks: Sequence[nn.Module],
    *,
    x: Tensor,
    y: Tensor,
    method: str,
    tolerance: float,
    max_iterations: int,
    warm_up: int,
    random_state: int,
    device: str,
) -> Fit:
    """Fit some networks side by side: a task."""
    dtype = torch.float32 if method == "adam" else torch.float64
    stack = _Stack(networks, x.to(device, dtype), y.to(device, dtype))
    if method == "adam":
        iterations = _batched_adam(stack, max_iterations, random_state)
        losses = stack.losses(stack.theta)
    else:
        stack.warm_up(warm_up)
        search = _levenberg_marquardt if method == "levenberg-marquardt" else _quasi_newton
        losses, iterations = search(stack, tolerance, max_iterations)
    losses = torch.where(torch.isfinite(losses), losses, math.inf).cpu().double()
    status = [_status(loss, n, tolerance, max_iterations) for loss, n in zip(losses, iterations, strict=True)]
    return Fit(tuple(module.cpu().double() for module in stack.modules()), losses, tuple(status), tuple(iterations))


def _joined(fits: Sequence[Fit]) -> Fit:
    modules, status, iterations = (
        tuple(chain.from_iterable(getattr(fit, name) for fit in fits)) for name in ("modules", "status", "iterations")
    )
    return Fit(modules, torch.cat([fit.losses for fit in fits]), status, iterations)


def _status(loss: Tensor, n_iterations: int, tolerance: float, max_iterations: int) -> str:
    if not math.isfinite(loss):
        return "diverged"
    if loss <= tolerance:
        return "converged"
    return "unfinished" if n_iterations >= max_iterations else "stalled"


class _Stack:
    """Networks side by side: all parameters as one tensor ``theta`` (k, p)."""

    def __init__(self, modules: Sequence[nn.Module], x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y
        self.scale = float(y.var(0, correction=0).mean())
        self.template = copy.deepcopy(modules[0]).to(x.device, x.dtype).eval()
        parameters, _ = stack_module_state([copy.deepcopy(module).to(x.device, x.dtype) for module in modules])
        self.shapes = {name: value.shape[1:] for name, value in parameters.items()}
        self.theta = torch.cat([value.detach().flatten(1) for value in parameters.values()], dim=1)

    def split(self, theta: Tensor) -> dict[str, Tensor]:
        """Return the parameters by name; theta (k, p) or (p,)."""
        parts = theta.split([math.prod(shape) for shape in self.shapes.values()], dim=-1)
        named = zip(self.shapes.items(), parts, strict=True)
        return {name: part.reshape(*theta.shape[:-1], *shape) for (name, shape), part in named}

    def outputs(self, theta: Tensor, x: Tensor) -> Tensor:
        """Return outputs (k, n, o)."""
        run = vmap(lambda parameters, x: functional_call(self.template, parameters, (x,)), in_dims=(0, None))
        outputs: Tensor = run(self.split(theta), x)
        return outputs

    def losses(self, theta: Tensor) -> Tensor:
        """Return each network's mean squared error as a share of the targets' variance: (k,)."""
        total = theta.new_zeros(len(theta))
        size = max(1, JACOBIAN_VALUES // max(1, theta.numel()))
        for x, y in zip(self.x.split(size), self.y.split(size), strict=True):
            total = total + (self.outputs(theta, x) - y).square().sum((1, 2))
        return total / (self.y.numel() * self.scale)

    def normal_equations(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return JᵀJ (k, p, p) and Jᵀr (k, p) of residuals at the scale of `losses`, some samples at a time."""

        def one(parameters: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
            outputs: Tensor = functional_call(self.template, parameters, (x[None],))[0]
            return outputs, outputs

        jacobian = vmap(vmap(jacrev(one, has_aux=True), in_dims=(None, 0)), in_dims=(0, None))
        k, p = theta.shape
        gram, slope = theta.new_zeros(k, p, p), theta.new_zeros(k, p)
        size = max(1, JACOBIAN_VALUES // (k * p * self.y.shape[1]))
        for x, y in zip(self.x.split(size), self.y.split(size), strict=True):
            by_name, outputs = jacobian(self.split(theta), x)
            rows = torch.cat([part.flatten(3) for part in by_name.values()], dim=3).flatten(1, 2)  # (k, n·o, p)
            gram += rows.mT @ rows
            slope += ((outputs - y).flatten(1)[:, None] @ rows)[:, 0]
        return gram / (self.y.numel() * self.scale), slope / (self.y.numel() * self.scale)

    def gradients(self, theta: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return losses (k,) on these samples, and their gradients (k, p)."""
        theta = theta.detach().requires_grad_(True)
        losses = (self.outputs(theta, x) - y).square().mean((1, 2)) / self.scale
        return losses.detach(), torch.autograd.grad(losses.sum(), theta)[0]

    def warm_up(self, steps: int) -> None:
        adam = _Adam(self.theta, WARM_UP_RATE)
        for _ in range(steps):
            self.theta = adam.step(self.theta, self.gradients(self.theta, self.x, self.y)[1])

    def modules(self) -> tuple[nn.Module, ...]:
        modules = tuple(copy.deepcopy(self.template) for _ in self.theta)
        for module, theta in zip(modules, self.theta, strict=True):
            module.load_state_dict({**module.state_dict(), **self.split(theta)})
        return modules


class _Adam:
    """Adam (Kingma and Ba 2015) with one rate per network."""

    def __init__(self, theta: Tensor, rate: float) -> None:
        self.rates = theta.new_full((len(theta), 1), rate)
        self.first, self.second, self.steps = torch.zeros_like(theta), torch.zeros_like(theta), 0

    def step(self, theta: Tensor, gradient: Tensor) -> Tensor:
        self.steps += 1
        self.first = self.first.lerp(gradient, 0.1)
        self.second = self.second.lerp(gradient.square(), 0.001)
        first, second = self.first / (1 - 0.9**self.steps), self.second / (1 - 0.999**self.steps)
        return theta - self.rates * first / (second.sqrt() + 1e-12)


def _levenberg_marquardt(stack: _Stack, tolerance: float, max_iterations: int) -> tuple[Tensor, list[int]]:
    """Move ``stack.theta`` to where no network improves; return the losses (k,) and the steps tried per network."""
    theta = stack.theta
    losses, (gram, slope) = stack.losses(theta), stack.normal_equations(theta)
    damping = FIRST_DAMPING * gram.diagonal(dim1=1, dim2=2).mean(1)
    history = [losses]
    iterations = [0] * len(theta)
    active = torch.isfinite(losses) & (losses > tolerance)
    for iteration in range(1, max_iterations + 1):
        rows = active.nonzero()[:, 0]
        if not len(rows):
            break
        for k in rows.tolist():
            iterations[k] = iteration
        step, solved = _solve(gram[rows], slope[rows], damping[rows])
        tried = theta[rows] + step
        tried_losses = torch.where(solved, torch.nan_to_num(stack.losses(tried), nan=math.inf), math.inf)
        predicted = (step * (damping[rows, None] * step - slope[rows])).sum(1)  # what the linear model expects to gain
        better = tried_losses < losses[rows]
        gain = torch.where(better, (losses[rows] - tried_losses) / predicted.clamp(min=1e-300), 0)
        damping[rows] *= torch.where(better, torch.where(gain > FAIR, LESS, 1.0), MORE)
        moved = rows[better]
        theta = theta.index_copy(0, moved, tried[better])
        losses = losses.index_copy(0, moved, tried_losses[better])
        history.append(losses)
        active = torch.isfinite(losses) & (losses > tolerance)
        if len(history) > PATIENCE:
            active &= losses < (1 - PROGRESS) * history[-1 - PATIENCE]
        active &= damping < LARGEST_DAMPING * gram.diagonal(dim1=1, dim2=2).mean(1)
        renewed = moved[active[moved]]
        if len(renewed):
            gram[renewed], slope[renewed] = stack.normal_equations(theta[renewed])
    stack.theta = theta
    return losses, iterations


def _solve(gram: Tensor, slope: Tensor, damping: Tensor) -> tuple[Tensor, Tensor]:
    """Return steps (k, p), and the networks (k,) that have one: the damping of the others is too small for rounding."""
    damped = gram + torch.diag_embed(damping[:, None].expand(-1, gram.shape[1]))
    factor, failed = torch.linalg.cholesky_ex(damped)
    step = -torch.cholesky_solve(slope[:, :, None], factor)[:, :, 0]
    solved = (failed == 0) & torch.isfinite(step).all(1)
    return torch.where(solved[:, None], step, 0), solved


def _quasi_newton(stack: _Stack, tolerance: float, max_iterations: int) -> tuple[Tensor, list[int]]:
    """As `_levenberg_marquardt`, one network after the other; an iteration is `PATIENCE` steps of L-BFGS."""
    losses, iterations = [], []
    for k in range(len(stack.theta)):
        theta = stack.theta[k : k + 1].clone().requires_grad_(True)
        optimizer = torch.optim.LBFGS(
            [theta],
            max_iter=PATIENCE,
            tolerance_grad=0,
            tolerance_change=0,
            history_size=50,
            line_search_fn="strong_wolfe",
        )

        def closure(theta: Tensor = theta, optimizer: torch.optim.Optimizer = optimizer) -> float:
            optimizer.zero_grad()
            loss, theta.grad = stack.gradients(theta, stack.x, stack.y)
            return float(loss)

        last, done, loss = math.inf, 0, float(stack.losses(theta.detach()))
        while done < max_iterations:
            optimizer.step(closure)
            done += 1
            loss = float(stack.losses(theta.detach()))
            if loss <= tolerance or not loss < (1 - PROGRESS) * last:
                break
            last = loss
        stack.theta[k] = theta.detach()[0]
        losses.append(loss)
        iterations.append(done)
    return torch.tensor(losses, dtype=torch.float64), iterations


def _batched_adam(stack: _Stack, epochs: int, random_state: int) -> list[int]:
    """Train by Adam in batches; halve the rate of a network whose loss does not fall for `PLATEAU` epochs."""
    adam, generator = _Adam(stack.theta, FIRST_RATE), seeds.generator(random_state)
    waited = stack.theta.new_zeros(len(stack.theta))
    best = stack.theta.new_full((len(stack.theta),), math.inf)
    iterations = [0] * len(stack.theta)
    for epoch in range(1, epochs + 1):
        total = stack.theta.new_zeros(len(stack.theta))
        for rows in torch.randperm(len(stack.x), generator=generator).to(stack.x.device).split(BATCH_SIZE):
            losses, gradient = stack.gradients(stack.theta, stack.x[rows], stack.y[rows])
            stack.theta = adam.step(stack.theta, gradient)
            total += losses * len(rows) / len(stack.x)
        running = adam.rates[:, 0] > LOWEST_RATE
        iterations = [epoch if runs else n for runs, n in zip(running.tolist(), iterations, strict=True)]
        fallen = total < best
        waited = torch.where(fallen, 0, waited + 1)
        adam.rates[waited >= PLATEAU] /= 2
        waited[waited >= PLATEAU] = 0
        best = torch.where(fallen, total, best)
        if not bool(running.any()):
            break
    return iterations


def _check(modules: Sequence[nn.Module], x: Tensor, y: Tensor, method: str | None) -> None:
    if not modules:
        raise InputError("modules must hold at least one network, got none")
    if method is not None:
        check_choice("method", method, METHODS)
    shapes = [{name: tuple(value.shape) for name, value in module.named_parameters()} for module in modules]
    for k, other in enumerate(shapes):
        if other != shapes[0]:
            raise InputError(f"modules[{k}] must have the parameters of modules[0], {shapes[0]}, got {other}")
    check_rows(y, len(x), "y")
    if y.dim() != 2:
        raise InputError(f"y must have shape (n, outputs), got {tuple(y.shape)}")
    check_finite(x, "x")
    check_finite(y, "y")
    if float(y.var(0, correction=0).mean()) == 0:
        raise InputError(f"y must have rows that differ, got {len(y)} equal rows")
