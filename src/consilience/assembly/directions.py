"""Directions in place of clusters, for layers that have no basis of their own.

What a norm over all units reads is written again and again, and with the norm's gains in the maps that read it, any
rotation of it is the same network. Its units need not recur; its leading directions may. With the members' values
z⁽ᵏ⁾ side by side, each at unit mean square, and U the leading eigenvectors of their second moments over all places,

    ã = Σ_k z⁽ᵏ⁾ U⁽ᵏ⁾ Bᵀ,    z⁽ᵏ⁾ ≈ ã B U⁽ᵏ⁾ᵀ,

up to a factor that makes ã as large as the members' z, since norms add ε to a mean square. B is the identity; where
norms subtract the mean over units, it is an orthonormal basis of what is at right angles to the mean, and z are centred
over units.

Axis legend: ``r`` rows, ``u`` units of a member, ``c`` directions.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from consilience.assembly.choice import Choice
from consilience.bases.grounding import Basis
from consilience.bases.hyperplanes import Projection
from consilience.signals.responses import Responses
from consilience.units.architecture import Architecture


def with_directions(choice: Choice, responses: Responses, widths: Mapping[str, int]) -> Choice:
    """Return a choice of clusters with directions in the layers whose basis may be turned."""
    architecture, bases = responses.networks[0].architecture, dict(choice.bases)
    for name in _turnable(architecture):
        basis = _directions(responses, name, widths[name])
        bases |= {tied.name: basis for tied in architecture.family(name)}
    return Choice(choice.groups, bases)


def _turnable(architecture: Architecture) -> list[str]:
    """Free layers that norms read, and that nothing else passes through: all tied layers are what the norms write."""
    free = []
    for layer in architecture.free:
        tied = {own.name for own in architecture.family(layer.name)} - {layer.name}
        writers = [m for own in tied for m in architecture.writing(own)]
        norms = architecture.statistics
        normed = bool(tied) and {own for norm in norms for own in norm.layers} == {layer.name}
        normed = normed and not any(norm.positions for norm in norms)  # a mean over positions is no turn's
        if normed and all(m.per_unit for m in writers) and len(architecture.writing(layer.name)) > 1:
            free.append(layer.name)
    return free


def _directions(responses: Responses, layer: str, width: int) -> Basis:
    architecture = responses.networks[0].architecture
    centred = any(norm.centred for norm in architecture.statistics if layer in norm.layers)
    values = [_values(z, centred) for z in responses.read(layer)]
    sizes = [float(z.square().mean().sqrt()) or 1.0 for z in values]
    every = torch.cat([z / size for z, size in zip(values, sizes, strict=True)], dim=1)
    lengths, axes = (found.flip(-1) for found in torch.linalg.eigh(every.T @ every))  # (U, U), the longest first
    n = min(width - centred, axes.shape[1])
    present = float((lengths[:n].sum() / (len(every) * width)).sqrt())
    scale = sum(sizes) / len(sizes) / present if present > 0 else 1.0  # so that ã is as long as the members' z
    spread = _complement(width) if centred else torch.eye(width, dtype=torch.float64)
    parts = axes[:, :n].split([z.shape[1] for z in values])
    dtype = responses.networks[0].state[next(iter(responses.networks[0].state))].dtype
    mixing, projections = list[Tensor](), list[Projection]()
    for part, size in zip(parts, sizes, strict=True):
        own = _values(part.T, centred).T @ spread[:, :n].T
        mixing.append((own * scale / size).to(dtype))
        projections.append(Projection((own * size / scale).to(dtype), torch.zeros(len(own), dtype=dtype)))
    return Basis(tuple(mixing), tuple(projections), turned=True)


def _values(z: Tensor, centred: bool) -> Tensor:
    z = z.double()
    return z - z.mean(1, keepdim=True) if centred else z


def _complement(width: int) -> Tensor:
    """An orthonormal basis of what is at right angles to the mean over units: (width, width − 1)."""
    ones = torch.ones(width, 1, dtype=torch.float64)
    basis: Tensor = torch.linalg.qr(torch.cat([ones, torch.eye(width, dtype=torch.float64)[:, :-1]], 1))[0][:, 1:]
    return basis
