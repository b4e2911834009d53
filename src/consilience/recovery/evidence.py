"""What supports that a recovered network is the one behind the outputs, and not one of many that explain them.

A network that explains all rows may still be wrong: a relu unit that is active on fewer rows than it has weights fits
them with many weights. A claim therefore needs three things.

- **Held-out rows.** A tenth of the distinct inputs is kept from every fit; the error there must be as small as on the
  fitted rows.
- **Rank.** The fitted rows determine all parameters and every unit (`consilience.recovery.identification`).
- **Agreement.** Students that are trained from different initial values share every cluster that was kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from consilience.recovery.identification import UnitEvidence, determined
from consilience.recovery.network import ROUNDING, STANDARD_ERRORS, relative_error
from consilience.recovery.student import Student
from consilience.signals.held_out import held_out

LARGER = 100.0  # held-out error over the error on fitted rows
FEWEST, SHARE = 2, 0.5  # students that have each unit: at least so many, and this share of those that reach the outputs
MAX_PARAMETERS = 3000  # of a network: above, the rank of its Jacobian takes minutes


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
        rank, units = determined(network, torch.unique(x, dim=0), x_held, residual, homogeneous)
    agreed = tuple(agreement)
    return Evidence(len(x), len(x_held), error, held_out_error, largest, rank, n_free, units, agreed)
