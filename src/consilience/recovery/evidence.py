"""What supports that a recovered network is the one behind the outputs, and not one of many that explain them.

A network that explains all rows may still be wrong: a relu unit that is active on fewer rows than it has weights fits
them with many weights. A claim therefore needs three things.

- **Held-out rows.** A tenth of the distinct inputs is kept from every fit; the error there must be as small as on the
  fitted rows.
- **Rank.** The outputs on the fitted rows determine the parameters up to the scales of homogeneous units if the
  Jacobian J of the outputs with respect to the parameters has full rank modulo these scales. With thin
  ``J = U S Vᵀ`` and U_i the rows of U for sample i, the rank falls without sample i if ‖U_i‖₂ = 1; the direction that
  only this sample determines must change the outputs on a held-out row. The standard error of a unit is that of its
  hyperplane ``[w; b]``, from the residual and ``(JᵀJ)⁻¹``.
- **Agreement.** Students that are trained from different initial values share every cluster that was kept.

Columns of J are at unit norm, so that its singular values do not depend on the units of inputs and outputs. Those of a
direction that is not determined are about 1e-16, others above 1e-5; the tolerance lies between them.

Axis legend: ``n`` distinct samples, ``o`` outputs, ``p`` parameters, ``u`` units with free scales.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call, jacrev, vmap

from consilience.recovery.network import ROUNDING, STANDARD_ERRORS, relative_error
from consilience.recovery.student import Student, rows_of
from consilience.signals.held_out import held_out

SMALLEST = 1e-9  # of the largest singular value: a smaller one is of a direction that the rows do not determine
NOT_DETERMINED = 1e-2  # length of a unit's part of such a direction, of 1, above which the unit is not identified
DECISIVE = 1e-6  # 1 − ‖U_i‖₂² of a sample without which the rank falls
CONFIRMED = 1e-3  # change of the outputs, as a share of a column's norm, above which a held-out row tests a direction
ON_KINK = 1e-9  # distance of an input from a unit's hyperplane, as a share of its norm, up to which it is on it
INACTIVE = 1e-9  # of the largest gradient of a unit's hyperplane: on samples with a smaller one the unit does nothing
LARGEST_ERROR = 0.06  # standard error of a unit's hyperplane, as a share of its norm: rarely off by a tenth, then
LARGER = 100.0  # held-out error over the error on fitted rows
FEWEST, SHARE = 2, 0.5  # students that have each unit: at least so many, and this share of those that reach the outputs
MAX_PARAMETERS, MAX_VALUES = 3000, 2**26  # of a Jacobian: above, its rank takes minutes, or half a gigabyte


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


@dataclass(frozen=True)
class Agreement:
    """How many students share the clusters of one layer."""

    n_agreeing: int  # students in the kept cluster that fewest students share
    n_reaching: int  # students that reach the outputs about as well as the best
    n_students: int  # students trained

    @property
    def needed(self) -> int:
        """The smallest number of agreeing students that supports a claim."""
        return max(FEWEST, math.ceil(SHARE * self.n_reaching - 1e-9))


@dataclass(frozen=True)
class Evidence:
    """The evidence for a recovered network; errors are shares of the outputs' variance."""

    n_fitted: int  # rows that students and network were fitted to
    n_held_out: int  # rows that no fit has read
    error: float  # on the fitted rows
    held_out_error: float
    largest_held_out_error: float  # that supports a claim
    rank: int  # of the Jacobian modulo the scales of homogeneous units; −1 if it is too large to compute
    n_free: int  # parameters less these scales; the rank that supports a claim
    units: tuple[tuple[UnitEvidence, ...], ...]  # by hidden layer
    agreement: tuple[Agreement, ...]  # by hidden layer

    @property
    def doubts(self) -> tuple[str, ...]:
        """What does not support a claim; empty if everything does."""
        doubts = []
        if not self.held_out_error <= self.largest_held_out_error:
            doubts.append(
                f"the error on {self.n_held_out} held-out rows is {self.held_out_error:.1e}, "
                f"on {self.n_fitted} fitted rows {self.error:.1e}"
            )
        if self.rank < 0:
            doubts.append(f"its {self.n_free} parameters are too many for the rank of their Jacobian")
        elif self.rank < self.n_free:
            doubts.append(f"the fitted rows determine {self.rank} of {self.n_free} free parameters")
        doubts += [text for depth, layer in enumerate(self.units) if (text := _doubted(depth, layer))]
        for depth, students in enumerate(self.agreement, 1):
            if students.n_agreeing < students.needed:
                doubts.append(
                    f"{students.n_agreeing} students share every unit of layer {depth}, of {students.n_reaching} that "
                    f"reach the outputs; {students.needed} must"
                )
        return tuple(doubts)

    @property
    def reason(self) -> str:
        """The doubts and the cure as one text."""
        return "; ".join([*self.doubts, self.cure])

    @property
    def cure(self) -> str:
        """What may identify the network; "" if it is identified."""
        cures = []
        if any(not unit.identified for layer in self.units for unit in layer):
            cures.append("give more inputs on which these units are active")
        elif self.doubts:
            cures.append("give more inputs")
        if any(students.n_agreeing < students.needed for students in self.agreement):
            cures.append("train more students")
        return " or ".join(cures)


def _doubted(depth: int, units: Sequence[UnitEvidence]) -> str:
    """Return in words which units of a layer are not identified; "" if all are."""
    doubted = [(j, unit) for j, unit in enumerate(units) if not unit.identified]
    if not doubted:
        return ""
    shown = ", ".join(f"{j} ({unit.measured})" for j, unit in doubted[:5])
    more = f" and {len(doubted) - 5} more" if len(doubted) > 5 else ""
    return f"units of layer {depth + 1} not identified: {shown}{more}"


def split(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the indices of the fitted and of the held-out rows of x (n, d); equal rows are on the same side."""
    distinct, which = torch.unique(x, dim=0, return_inverse=True)
    _, held = held_out(len(distinct))
    is_held = torch.isin(which, held)
    return (~is_held).nonzero()[:, 0], is_held.nonzero()[:, 0]


def evidence_of(
    network: Student,
    fitted: tuple[Tensor, Tensor],
    held: tuple[Tensor, Tensor],
    agreement: Sequence[Agreement],
    homogeneous: bool,
    noisy: bool,
) -> Evidence:
    """Return the evidence for a network from standardized inputs (n, d) and outputs (n, o), fitted and held out.

    With ``homogeneous`` units the scale of each is free. With noise, the held-out error may be above the fitted one by
    what the parameters have fitted, and by `STANDARD_ERRORS`; without, by a factor `LARGER`, rounding aside.
    """
    (x, y), (x_held, y_held) = fitted, held
    variance = float(y.var(0, correction=0).mean())
    error = relative_error(network, x, y)
    with torch.no_grad():
        held_out_error = float((network(x_held) - y_held).square().mean()) / variance
    p = sum(parameter.numel() for parameter in network.parameters())
    n_free = p - (sum(network.widths) if homogeneous else 0)
    spare = max(1, y.numel() - n_free)
    largest = LARGER * max(error, ROUNDING)
    if noisy:
        largest = error * (y.numel() + n_free) / spare * (1 + STANDARD_ERRORS * math.sqrt(2 / y_held.numel()))
    rank, units = -1, tuple[tuple[UnitEvidence, ...], ...]()
    if p <= MAX_PARAMETERS:
        residual = math.sqrt(max(error, ROUNDING) * variance * y.numel() / spare)
        rank, units = _determined(network, torch.unique(x, dim=0), x_held, residual, homogeneous)
    agreed = tuple(agreement)
    return Evidence(len(x), len(x_held), error, held_out_error, largest, rank, n_free, units, agreed)


def _determined(
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

    size = sum(value.numel() for value in parameters.values()) * network.readout.out_features
    by_name = vmap(jacrev(outputs), in_dims=(None, 0))(parameters, x[: max(1, MAX_VALUES // size)])
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
