"""All maps fitted together to reference outputs by damped Gauss–Newton steps with a Kronecker preconditioner.

A step minimizes ``⟨∇E, s⟩ + ½ sᵀ (G + λ) s`` by conjugate gradients: the gradient is of all fitted samples, G of a random
part. (Martens 2010, ICML: Hessian-free optimization.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from consilience import seeds
from consilience.assembly.fit import Fit
from consilience.assembly.kronecker import inverse
from consilience.signals.held_out import held_out
from consilience.units.architecture import TracedNetwork
from consilience.units.maps import Map

STEPS = 4
ITERATIONS = 12  # of conjugate gradients in each step
CURVATURE_SAMPLES = 1000
LENGTHS = (1.0, 0.5, 0.25)  # of a step; the one with the smallest held-out error is taken
DAMPING = 1e-2  # of the mean diagonal of G


def gauss_newton(
    network: TracedNetwork,
    x: Tensor,
    reference: Tensor,
    task: str | None = None,
    maps: Sequence[Map] | None = None,
) -> TracedNetwork:
    """Return the network with its maps fitted to ``reference`` (n, o) on inputs x (n, ...).

    Of the networks before and after each step, that with the smallest held-out error is returned.
    """
    maps = [m for m in network.architecture.maps if m.fitted] if maps is None else maps
    with torch.inference_mode(mode=False), torch.enable_grad():
        fit = Fit.of(network, maps, x.clone(), reference.clone(), task)
        theta = _minimize(fit, *held_out(len(x)))
        return network if theta is None else fit.at(theta)


def _minimize(fit: Fit, rows: Tensor, held: Tensor) -> Tensor | None:
    generator = seeds.generator(0)
    theta, lowest, best = fit.vector, fit.error(fit.vector, held), None
    for _ in range(STEPS):
        part = rows[torch.randperm(len(rows), generator=generator)[:CURVATURE_SAMPLES].sort().values]
        signs = torch.randint(0, 2, (len(part), fit.reference.shape[1]), generator=generator) * 2.0 - 1
        probe = torch.randint(0, 2, (len(theta),), generator=generator) * 2.0 - 1
        curvature = fit.gauss_newton(theta, part)
        damping = DAMPING * float(probe @ curvature(probe)) / len(probe)
        step = conjugate_gradients(
            lambda v, curvature=curvature, damping=damping: curvature(v) + damping * v,  # type: ignore[misc]
            -fit.gradient(theta, rows),
            inverse(fit, theta, part, signs),
            ITERATIONS,
        )
        errors = [fit.error(theta + length * step, held) for length in LENGTHS]
        error = min(errors)
        if not error < lowest:
            break
        theta, lowest = theta + LENGTHS[errors.index(error)] * step, error
        best = theta
    return best


def conjugate_gradients(
    product: Callable[[Tensor], Tensor], target: Tensor, preconditioner: Callable[[Tensor], Tensor], iterations: int
) -> Tensor:
    """Return an approximate solution of ``A s = target`` for a positive definite A, given as v ↦ A v."""
    solution, residual = torch.zeros_like(target), target.clone()
    conditioned = preconditioner(residual)
    direction, along = conditioned, residual @ conditioned
    for _ in range(iterations):
        image = product(direction)
        length = along / (direction @ image)
        solution += length * direction
        residual -= length * image
        conditioned = preconditioner(residual)
        new = residual @ conditioned
        direction, along = conditioned + new / along * direction, new
    return solution
