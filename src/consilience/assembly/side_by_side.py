"""Whole members side by side: which of them, for a readout that is fitted to the ensemble's outputs.

Side by side, members keep their hidden layers, and their ensemble's outputs t are read from their last activations a:

    min Σ ‖t − W a − b‖² + λ‖W‖².

Members are taken one at a time, each the one that lowers this most. Products of the activations of those taken with
each other member's give the error of any set that comes next.

Axis legend: ``k`` member, ``r`` samples, ``U`` units of all members that the outputs read, ``o`` outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from consilience.assembly.pooling import pooled
from consilience.bases.grounding import RIDGE
from consilience.signals.responses import Responses, evenly
from consilience.signals.shelf import Each
from consilience.ties import first_largest

MAX_UNITS = 4096  # read by the outputs; of more, the members' own outputs stand for their units


def side_by_side(responses: Responses, pooling: Tensor, fits: Callable[[Sequence[int]], bool]) -> list[int]:
    """Return members that fit side by side, in the order in which they are taken, until no other fits."""
    features, targets = _read_by_outputs(responses), _centred(pooled(responses, pooling))
    products = [((a.T @ a).double(), (a.T @ targets).double()) for a in map(_centred, features)]
    beside = [a.new_zeros(0, len(a)) for a, _ in products]  # products of what is taken with each member's activations
    chosen, gram, cross = list[int](), torch.zeros(0, 0).double(), torch.zeros(0, targets.shape[1]).double()
    while True:
        sets = {}
        for k in range(len(features)):
            if k not in chosen and fits([*chosen, k]):
                own, targeted = products[k]
                whole = torch.cat([torch.cat([gram, beside[k]], 1), torch.cat([beside[k].T, own], 1)])
                sets[k] = whole, torch.cat([cross, targeted])
        if not sets:
            return chosen
        gains = torch.tensor([_explained(*each) for each in sets.values()])
        chosen.append([*sets][int(first_largest(gains))])
        gram, cross = sets[chosen[-1]]
        taken = _centred(features[chosen[-1]])
        beside = [torch.cat([b, (taken.T @ _centred(a)).double()]) for b, a in zip(beside, features, strict=True)]


def _centred(values: Tensor) -> Tensor:
    values = values[evenly(values)]
    return values - values.mean(0)


def _explained(gram: Tensor, cross: Tensor) -> float:
    """How much of ``Σ‖t‖²`` the ridge solution W of centred a explains, ``2⟨W, C⟩ − ⟨W, W G⟩``, with C (U, o)."""
    penalty = RIDGE * gram.diagonal().mean()
    damped = gram + torch.where(penalty > 0, penalty, 1) * torch.eye(len(gram), dtype=gram.dtype)
    weight = torch.cholesky_solve(cross, torch.linalg.cholesky(damped))
    return float(2 * (weight * cross).sum() - (weight * (gram @ weight)).sum())


def _read_by_outputs(responses: Responses) -> Sequence[Tensor]:
    """What the outputs read of each member (r, u): activations; the outputs themselves where these have positions."""
    architecture = responses.networks[0].architecture
    axes = [axis for m in architecture.maps if m.writes in architecture.heads for axis in m.inputs if axis.layer]
    places = [responses.at(axis) for axis in axes]
    if all(len(values[0]) == len(responses.x) for values in places):
        rows = Each(len(responses.networks), lambda k: torch.cat([values[k] for values in places], dim=1))
        if 0 < sum(a.shape[1] for a in rows) <= MAX_UNITS:
            return rows
    return responses.at(architecture.returned)
