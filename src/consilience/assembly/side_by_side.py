"""Whole members side by side: which of them, for a readout that is fitted to the ensemble's outputs.

Side by side, members keep their hidden layers, and their ensemble's outputs t are read from their last activations a:

    min Σ ‖t − W a − b‖² + λ‖W‖².

Members are taken one at a time, each the one that lowers this most. One Gram matrix of all members' activations gives
the error of any set.

Axis legend: ``k`` member, ``r`` samples, ``U`` units of all members that the outputs read, ``o`` outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from consilience.assembly.pooling import pooled
from consilience.bases.grounding import RIDGE
from consilience.signals.responses import Responses, evenly
from consilience.ties import first_largest

MAX_UNITS = 4096  # read by the outputs; of more, the members' own outputs stand for their units


def side_by_side(responses: Responses, pooling: Tensor, fits: Callable[[Sequence[int]], bool]) -> list[int]:
    """Return members that fit side by side, in the order in which they are taken, until no other fits."""
    features = [a[evenly(a)] for a in _read_by_outputs(responses)]
    targets = pooled(responses, pooling)
    targets = targets[evenly(targets)]
    targets = targets - targets.mean(0)
    every = torch.cat([a - a.mean(0) for a in features], dim=1)
    gram, cross = (every.T @ every).double(), (every.T @ targets).double()
    columns = torch.arange(every.shape[1]).split([a.shape[1] for a in features])
    chosen: list[int] = []
    while True:
        possible = [k for k in range(len(features)) if k not in chosen and fits([*chosen, k])]
        if not possible:
            return chosen
        sets = (torch.cat([columns[j] for j in (*chosen, k)]) for k in possible)
        gains = torch.tensor([_explained(gram[own][:, own], cross[own]) for own in sets])
        chosen.append(possible[int(first_largest(gains))])


def _explained(gram: Tensor, cross: Tensor) -> float:
    """How much of ``Σ‖t‖²`` the ridge solution W of centred a explains, ``2⟨W, C⟩ − ⟨W, W G⟩``, with C (U, o)."""
    penalty = RIDGE * gram.diagonal().mean()
    damped = gram + torch.where(penalty > 0, penalty, 1) * torch.eye(len(gram), dtype=gram.dtype)
    weight = torch.cholesky_solve(cross, torch.linalg.cholesky(damped))
    return float(2 * (weight * cross).sum() - (weight * (gram @ weight)).sum())


def _read_by_outputs(responses: Responses) -> list[Tensor]:
    """What the outputs read of each member (r, u): activations; the outputs themselves where these have positions."""
    architecture = responses.networks[0].architecture
    axes = [axis for m in architecture.maps if m.writes in architecture.heads for axis in m.inputs if axis.layer]
    places = [responses.at(axis) for axis in axes]
    if all(len(values[0]) == len(responses.x) for values in places):
        rows = [torch.cat(parts, dim=1) for parts in zip(*places, strict=True)]
        if 0 < sum(a.shape[1] for a in rows) <= MAX_UNITS:
            return rows
    return responses.at(architecture.returned)
