"""Which units and parameters of a network the outputs on given rows determine.

They determine the parameters up to the scales of homogeneous units if the Jacobian J of the outputs with respect to the
parameters has full rank modulo these scales. With thin ``J = U S Vᵀ`` and U_i the rows of U for sample i, the rank
falls without sample i if ‖U_i‖₂ = 1; the direction that only this sample determines must change the outputs on a
held-out row. The standard error of a unit is that of its hyperplane ``[w; b]``, from the residual and ``(JᵀJ)⁻¹``.

Columns of J are at unit norm, so that its singular values do not depend on the units of inputs and outputs. Those of a
direction that is not determined are about 1e-16, others above 1e-5; the tolerance lies between them.

Axis legend: ``n`` distinct samples, ``o`` outputs, ``p`` parameters, ``u`` units with free scales.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call, jacrev, vmap

from consilience.recovery.student import Student, rows_of

SMALLEST = 1e-9  # of the largest singular value: a smaller one is of a direction that the rows do not determine
NOT_DETERMINED = 1e-2  # length of a unit's part of such a direction, of 1, above which the unit is not identified
DECISIVE = 1e-6  # 1 − ‖U_i‖₂² of a sample without which the rank falls
CONFIRMED = 1e-3  # change of the outputs, as a share of a column's norm, above which a held-out row tests a direction
ON_KINK = 1e-9  # distance of an input from a unit's hyperplane, as a share of its norm, up to which it is on it
INACTIVE = 1e-9  # of the largest gradient of a unit's hyperplane: on samples with a smaller one the unit does nothing
LARGEST_ERROR = 0.06  # standard error of a unit's hyperplane, as a share of its norm: rarely off by a tenth, then
MAX_VALUES = 2**25  # of a Jacobian, 256 MB


@dataclass(frozen=True)
class UnitEvidence:
    """How well the fitted rows determine one unit."""

    n_active: int  # distinct rows on which its hyperplane changes the outputs
    n_weights: int  # entries of its hyperplane with the bias
    n_decisive: int  # fitted rows without any of which it would not be determined, and that no held-out row confirms
    error: float  # standard error of its hyperplane, as a share of its norm
    identified: bool

    @property
    def measured(self) -> str:
        """The rows where it is active and its weights; its standard error where that is too large."""
        rows = f"{self.n_active} rows, {self.n_weights} weights"
        return rows if self.error <= LARGEST_ERROR else f"{rows}, standard error {self.error:.2g}"


def determined(
    network: Student, x: Tensor, x_held: Tensor, residual: float, homogeneous: bool
) -> tuple[int, tuple[tuple[UnitEvidence, ...], ...]]:
    """Return the rank of the Jacobian at distinct inputs x (n, d) modulo free scales, and evidence for each unit."""
    if homogeneous:
        x, x_held = (rows[_is_off_kinks(network, rows)] for rows in (x, x_held))
        if not len(x):
            return 0, ()
    jacobian = _jacobian(network, x)  # (n, o, p)
    n, _, p = jacobian.shape
    theta = torch.cat([value.detach().flatten() for value in network.parameters()])
    norms = torch.linalg.vector_norm(jacobian, dim=(0, 1))
    scale = 1 / norms.clamp(min=SMALLEST * float(norms.max()))
    free = _scales(network, theta) / scale if homogeneous else jacobian.new_zeros(0, p)
    free = free / torch.linalg.vector_norm(free, dim=1, keepdim=True).clamp(min=1e-300)
    triangle = torch.linalg.qr(torch.cat([jacobian.flatten(0, 1) * scale, free]), mode="r").R  # SVD: same S and V
    _, sizes, directions = torch.linalg.svd(triangle, full_matrices=True)
    sizes = torch.cat([sizes, sizes.new_zeros(p - len(sizes))])
    is_determined = sizes > SMALLEST * sizes[0]
    lost, kept = directions[~is_determined], directions[is_determined]  # (·, p)
    inverse = kept / sizes[is_determined, None]  # of the scaled Jacobian, up to U
    leverage = (jacobian * scale) @ inverse.T  # (n, o, r), rows of U
    largest = torch.linalg.matrix_norm(leverage, ord=2).square() if leverage.shape[2] else leverage.new_zeros(n)
    without = _lost_without(leverage[largest > 1 - DECISIVE], inverse)  # (·, p)
    if len(x_held) and len(without):
        changes = torch.linalg.vector_norm((_jacobian(network, x_held) * scale) @ without.T, dim=1)  # (held, ·)
        without = without[changes.amax(0) <= CONFIRMED]
    layers = []
    readout = _places(network)["readout.weight"].T
    for depth, blocks in enumerate(_blocks(network), 1):
        units = []
        for j, block in enumerate(blocks):
            hyperplane = theta[block]
            weights = torch.cat([block, readout[j]]) if depth == len(network.widths) else block
            active = torch.linalg.vector_norm(jacobian[:, :, block], dim=(1, 2))
            n_active = int((active > INACTIVE * active.max().clamp(min=1e-300)).sum())
            n_decisive = int((torch.linalg.vector_norm(without[:, weights], dim=1) > NOT_DETERMINED).sum())
            spread = inverse[:, block] * scale[block]  # its Gram matrix is the covariance of the hyperplane
            if homogeneous:
                direction = hyperplane / hyperplane.norm().clamp(min=1e-300)
                spread = spread - (spread @ direction)[:, None] * direction
            error = residual * float(spread.norm() / hyperplane.norm().clamp(min=1e-300))
            is_free = bool(torch.linalg.vector_norm(lost[:, weights]) > NOT_DETERMINED)
            identified = not is_free and n_decisive == 0 and error <= LARGEST_ERROR
            units.append(UnitEvidence(n_active, len(block), n_decisive, error, identified))
        layers.append(tuple(units))
    return int(is_determined.sum()) - len(free), tuple(layers)


def _is_off_kinks(network: Student, x: Tensor) -> Tensor:
    """Return which samples (n,) no unit has on its kink up to rounding, where its side depends on the last bits."""
    is_off = torch.ones(len(x), dtype=torch.bool)
    with torch.no_grad():
        for depth, layer in enumerate(network.layers[:-1]):
            h = network.units(x, depth)
            size = torch.linalg.vector_norm(rows_of(layer), dim=1) * (1 + torch.linalg.vector_norm(h, dim=1))[:, None]
            is_off &= (layer(h).abs() > ON_KINK * size).all(1)
    return is_off


def _lost_without(leverage: Tensor, inverse: Tensor) -> Tensor:
    """Return, for each sample of these rows of U (·, o, r), the unit direction (·, p) that only it determines."""
    _, _, right = torch.linalg.svd(leverage, full_matrices=False)
    directions: Tensor = right[:, 0] @ inverse
    norms: Tensor = torch.linalg.vector_norm(directions, dim=1, keepdim=True)
    return directions / norms.clamp(min=1e-300)


def _jacobian(network: Student, x: Tensor) -> Tensor:
    """Return the derivatives (n, o, p) of the outputs on as many inputs as `MAX_VALUES` allows."""
    parameters = {name: value.detach() for name, value in network.named_parameters()}

    def outputs(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        made: Tensor = functional_call(network, parameters, (x[None],))[0]
        return made

    size = len(x) * network.readout.out_features * sum(value.numel() for value in parameters.values())
    by_name = vmap(jacrev(outputs), in_dims=(None, 0))(parameters, x[:: max(1, math.ceil(size / MAX_VALUES))])
    return torch.cat([part.flatten(2) for part in by_name.values()], dim=2)


def _places(network: Student) -> dict[str, Tensor]:
    """Return the index of each parameter among all, by name, in the parameters' shapes."""
    places, start = {}, 0
    for name, value in network.named_parameters():
        places[name] = start + torch.arange(value.numel()).reshape(value.shape)
        start += value.numel()
    return places


def _blocks(network: Student) -> list[Tensor]:
    """Return, by hidden layer, where each unit's hyperplane [w; b] is among the parameters: (r, d + 1)."""
    places, depths = _places(network), range(len(network.widths))
    parts = [(places[f"hidden.{depth}.weight"], places[f"hidden.{depth}.bias"]) for depth in depths]
    return [torch.cat([weight, bias[:, None]], dim=1) for weight, bias in parts]


def _readers(network: Student) -> list[Tensor]:
    """Return, by hidden layer, where the weights that read each unit are among the parameters: (r, units above)."""
    places = _places(network)
    names = [*(f"hidden.{depth}.weight" for depth in range(1, len(network.widths))), "readout.weight"]
    return [places[name].T for name in names]


def _scales(network: Student, theta: Tensor) -> Tensor:
    """Return the directions (u, p) in which the scales of homogeneous units move the parameters theta (p,)."""
    rows = []
    for blocks, readers in zip(_blocks(network), _readers(network), strict=True):
        directions = theta.new_zeros(len(blocks), len(theta))
        directions.scatter_(1, blocks, theta[blocks])
        rows.append(directions.scatter_(1, readers, -theta[readers]))
    return torch.cat(rows)
