"""Distance of a recovered network from its teacher, after the symmetries of units are removed.

Layer by layer, units are paired by the angles of their hyperplanes ``[w; b]`` (the assignment with the smallest sum),
up to the sign where the activation allows it. A recovered unit then takes the place, the sign and the scale of the
teacher's unit, and the layer above is compared in that order.

Axis legend: ``r`` units of the recovered network, ``t`` of the teacher, ``d`` entries of a hyperplane with its bias.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from consilience.errors import InputError
from consilience.recovery.student import Function, Student
from consilience.units.symmetry import Symmetry

FAR = 0.1  # radians, above which two hyperplanes are not the same unit
SAME_FUNCTION = 1e-5  # of the largest output: error up to which linear layers and activation are the whole teacher


@dataclass(frozen=True)
class Distance:
    """Differences to a teacher, after permutations, signs and scales; NaN without pairs."""

    pairs: tuple[tuple[tuple[int, int], ...], ...]  # by hidden layer, (recovered unit, teacher's unit)
    missing: int  # teacher's units without a partner, over all layers
    excess: int  # recovered units without a partner
    worst_angle: float  # radians between paired hyperplanes, at most
    worst_error: float  # relative error of paired units' parameters, incoming and outgoing, at most
    function_error: float  # root mean squared error on fresh inputs, as a share of the outputs' standard deviation
    # By layer with the readout, the teacher's [w; b] (of paired units; all of the readout) and the recovered ones in
    # the same order, sign and scale; 0 where units have no partner.
    weights: tuple[tuple[Tensor, Tensor], ...] = field(repr=False)

    @property
    def is_exact(self) -> bool:
        """Whether every unit has a partner."""
        return self.missing == self.excess == 0


def distance(model: Student, teacher: nn.Module, symmetry: Symmetry, x: Tensor) -> Distance:
    """Compare a recovered network with its teacher on fresh inputs x (n, d).

    The teacher must be a chain of linear layers with the network's activation between them, in any module, and as deep.
    """
    theirs = _chain(teacher, model.function, x)
    if len(theirs) != len(model.layers):
        raise InputError(
            f"teacher must have {len(model.widths)} hidden layers, got {len(theirs) - 1}",
            cure="give n_units one size for each hidden layer",
        )
    ours = [_affine(layer) for layer in model.layers]
    with torch.no_grad():
        outputs = model(x)
        wanted = teacher.double()(x).reshape(outputs.shape)
        function_error = float(((wanted - outputs).square().mean() / wanted.var(0, correction=0).mean()).sqrt())
    pairs, weights, angles, errors, missing, excess = [], [], list[float](), list[float](), 0, 0
    for i, (teacher_rows, teacher_above) in enumerate(pairwise(theirs)):
        own, above = ours[i], ours[i + 1]
        matched = _matched(own, teacher_rows, symmetry)
        missing, excess = missing + len(teacher_rows) - len(matched), excess + len(own) - len(matched)
        pairs.append(tuple((j, t) for j, t, _ in matched))
        aligned = own.new_zeros(len(above), len(teacher_rows) + 1)
        aligned[:, -1] = above[:, -1]
        turned = teacher_rows.new_zeros(len(matched), teacher_rows.shape[1])
        for row, (j, t, sign) in enumerate(matched):
            scale = teacher_rows[t].norm() / own[j].norm() if symmetry.homogeneous else own.new_ones(())
            incoming, outgoing = own[j] * sign * scale, above[:, j] / scale
            if sign < 0 and symmetry.odd_constant is not None:
                aligned[:, -1] += symmetry.odd_constant * outgoing
                outgoing = -outgoing
            turned[row], aligned[:, t] = incoming, outgoing
            angles.append(_angle(incoming, teacher_rows[t]))
            errors.append(float((incoming - teacher_rows[t]).norm() / teacher_rows[t].norm()))
            if i + 1 == len(theirs) - 1:  # below, these are a part of the hyperplanes above
                size = teacher_above[:, t].norm().clamp(min=1e-300)
                errors.append(float((outgoing - teacher_above[:, t]).norm() / size))
        ours[i + 1] = aligned
        weights.append((teacher_rows[[t for _, t, _ in matched]], turned))
    weights.append((theirs[-1], ours[-1]))
    worst_angle, worst_error = (max(values, default=float("nan")) for values in (angles, errors))
    return Distance(tuple(pairs), missing, excess, worst_angle, worst_error, function_error, tuple(weights))


def _matched(own: Tensor, theirs: Tensor, symmetry: Symmetry) -> list[tuple[int, int, float]]:
    """Pairs of rows, and −1 where their signs differ."""
    unit, wanted = (rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-300) for rows in (own, theirs))
    cosine = unit @ wanted.T
    projective = symmetry.odd_constant is not None or symmetry.even_slope is not None
    closeness = cosine.abs() if projective else cosine
    rows, columns = linear_sum_assignment(torch.acos(closeness.clamp(-1, 1)).numpy())
    pairs = []
    for j, t in zip(rows.tolist(), columns.tolist(), strict=True):
        sign = -1.0 if projective and cosine[j, t] < 0 else 1.0
        if _angle(own[j] * sign, theirs[t]) <= FAR:
            pairs.append((j, t, sign))
    return pairs


def _angle(a: Tensor, b: Tensor) -> float:
    """The angle of two vectors, exact for small ones too."""
    a, b = a / a.norm().clamp(min=1e-300), b / b.norm().clamp(min=1e-300)
    return float(2 * torch.atan2((a - b).norm(), (a + b).norm()))


def _chain(teacher: nn.Module, function: Function, x: Tensor) -> list[Tensor]:
    """Return the [w; b] of each linear layer; raise unless they and the activation are the whole function."""
    rows = [_affine(layer) for layer in teacher.modules() if isinstance(layer, nn.Linear)]
    fits = bool(rows) and all(len(a) == b.shape[1] - 1 for a, b in pairwise(rows))
    if fits and rows[0].shape[1] - 1 == x.shape[1]:
        with torch.no_grad():
            wanted = teacher.double().eval()(x)
            wanted, h = wanted[:, None] if wanted.dim() == 1 else wanted, x @ rows[0][:, :-1].T + rows[0][:, -1]
            for layer in rows[1:]:
                h = function(h) @ layer[:, :-1].T + layer[:, -1]
        if h.shape == wanted.shape and (h - wanted).abs().max() <= SAME_FUNCTION * wanted.abs().max():
            return rows
    raise InputError(
        f"teacher must be a chain of linear layers with the recovered activation, got {type(teacher).__name__}",
        cure="compare outputs instead, or recover with the teacher's activation",
    )


def _affine(layer: nn.Linear) -> Tensor:
    weight = layer.weight.detach().double()
    bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach().double()
    return torch.cat([weight, bias[:, None]], dim=1)
