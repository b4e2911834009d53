"""Several layers fitted together to the members' pooled outputs: damped Gauss–Newton steps.

Least squares reproduces the units of each layer; it does not know how the remaining errors of several layers add up. A
step s minimizes ``⟨∇E, s⟩ + ½ sᵀ (G + λ) s`` (`consilience.assembly.fit`) by conjugate gradients with Kronecker factors
as preconditioner (Martens 2010, ICML). The gradient is of all fitted samples, G of a random part of them. There is no
learning rate and no batch. λ grows until a step lowers the held-out error.

Steps let rounding grow: in single precision, networks that are one network in other units end a tenth apart. Where
values are few, all is computed in double precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from consilience import seeds
from consilience.assembly.fit import Fit
from consilience.assembly.kronecker import Kronecker
from consilience.devices import precise_device
from consilience.signals.held_out import held_out
from consilience.ties import SINGLE
from consilience.units.architecture import TracedNetwork
from consilience.units.axes import Sampling
from consilience.units.forward import twice_differentiable
from consilience.units.maps import Map

STEPS = 8
ITERATIONS = 12  # of conjugate gradients in each step
CURVATURE_SAMPLES = 300  # that G is computed on, or more where they are small:
CURVATURE_VALUES = 2**22  # numbers in their largest value
LENGTHS = (1.0, 0.5, 0.25)  # of a step; the one with the smallest held-out error is taken
DAMPING = 0.03  # λ at first, as a share of the mean diagonal of a map's block of G
ATTEMPTS = 3  # of a step, each with ten times the damping of the one before
DOUBLED_VALUES = 2**20  # numbers in the largest value of all samples, up to which precision is double
LEAST_GAIN = 0.01  # a step that lowers the held-out error by a smaller share is the last


def gauss_newton(
    network: TracedNetwork,
    x: Tensor,
    reference: Tensor,
    task: str | None = None,
    maps: Sequence[Map] | None = None,
    sampling: Sampling | None = None,
) -> TracedNetwork:
    """Return the network with its maps fitted to ``reference`` on inputs x (n, ...).

    The reference is (n, o), or (r, o) with the rows of ``sampling`` where outputs have positions. By default the maps
    are all those that read layers: maps that read the inputs are centroids of the members' hyperplanes, and stay. So do
    maps that the outputs do not depend on, as those of heads that are not picked. Of the networks before and after each
    step, that with the smallest error on held-out samples is returned.
    """
    if maps is None:
        maps = [m for m in network.architecture.maps if m.reads]
    program = network.architecture.program
    needed = program.needed([program.output])
    maps = [m for m in maps if m.fitted and m.output.name in needed]
    if not maps or len(x) < 2:
        return network
    place = precise_device()
    with torch.inference_mode(mode=False), torch.enable_grad(), twice_differentiable(), _one_thread():
        x, reference = x.clone().to(place), reference.clone().to(place)
        fit = precise = Fit.of(network.on(place), maps, x, reference, task, sampling)
        if len(x) * network.architecture.largest_value <= DOUBLED_VALUES:
            x = x.double() if x.is_floating_point() else x
            precise = Fit.of(fit.network.double(), maps, x, reference.double(), task, sampling)
            precise = replace(precise, spread=fit.spread.double())  # what is constant in the members' precision
        theta = _minimize(precise, *held_out(len(x)))
        if theta is None:
            return network
        state = {name: value.cpu() for name, value in fit.at(theta.to(fit.vector.dtype)).state.items()}
        return TracedNetwork(network.architecture, state)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run linear algebra on one thread: sums that threads share end in other digits, which the steps let grow."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _minimize(fit: Fit, rows: Tensor, held: Tensor) -> Tensor | None:
    """Return the weights after the last step that lowers the held-out error; None if there is none."""
    generator, theta, moved = seeds.generator(0), fit.vector, False
    n_curved = max(CURVATURE_SAMPLES, CURVATURE_VALUES // fit.network.architecture.largest_value)
    device = theta.device
    fitted, held = rows.to(device), held.to(device)
    error, share = fit.error(theta, held), DAMPING
    for _ in range(STEPS):
        if error <= SINGLE**2:  # rounding
            break
        part = rows[torch.randperm(len(rows), generator=generator)[:n_curved].sort().values]
        signs = torch.randint(0, 2, (len(part) * fit.positions, fit.reference.shape[1]), generator=generator) * 2.0 - 1
        part = part.to(device)
        factors, product, gradient = (
            Kronecker.of(fit, theta, part, signs.to(device)),
            fit.gauss_newton(theta, part),
            fit.gradient(theta, fitted),
        )
        scale, inverse, before = factors.scale.to(theta.dtype), factors.inverse(), error
        for _ in range(ATTEMPTS):
            step = conjugate_gradients(product, share * scale, -gradient, inverse)
            tried = [fit.error(theta + length * step, held) for length in LENGTHS]
            chosen = min(range(len(LENGTHS)), key=tried.__getitem__)
            if tried[chosen] < before:
                break
            share *= 10
        else:
            break
        theta, error, moved = theta + LENGTHS[chosen] * step, tried[chosen], True
        if error > (1 - LEAST_GAIN) * before:
            break
        share *= (1 / 3, 1, 3)[chosen]
    return theta if moved else None


def conjugate_gradients(
    product: Callable[[Tensor], Tensor],
    damping: Tensor,
    target: Tensor,
    preconditioner: Callable[[Tensor], Tensor],
    iterations: int = ITERATIONS,
) -> Tensor:
    """Return an approximate solution of ``(A + diag(damping)) s = target``; A, given as v ↦ A v, is semidefinite."""
    solution, residual = torch.zeros_like(target), target.clone()
    direction = conditioned = preconditioner(residual)
    along = first = float(residual @ conditioned)
    for _ in range(iterations):
        if not along > 1e-12 * first:  # solved, or no direction is left
            break
        image = product(direction) + damping * direction
        length = along / float(direction @ image)
        solution = solution + length * direction
        residual = residual - length * image
        conditioned = preconditioner(residual)
        along, before = float(residual @ conditioned), along
        direction = conditioned + along / before * direction
    return solution
