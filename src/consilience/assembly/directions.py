"""Directions in place of clusters, for layers that have no basis of their own.

What a norm over all units reads is written again and again, and with the norm's gains in the maps that read it, any
rotation of it is the same network. Its units need not recur; its leading directions may. Directions count by what reads
them: with z⁽ᵏ⁾ a member's values at unit mean square, W its maps that read them, each with the norms' gains,

    Q⁽ᵏ⁾ = (1 − s) 1 + s Σ_W WᵀW / E‖W z⁽ᵏ⁾‖²,  with the sum at the trace of 1.

With the members' values side by side, Q of them all (block-diagonal), and U the leading eigenvectors of Q^½ ⟨z, z⟩ Q^½
over all places,

    ã = Σ_k z⁽ᵏ⁾ (Q^½ U)⁽ᵏ⁾ A Bᵀ,    z⁽ᵏ⁾ ≈ ã B A⁻¹ (Q^−½ U)⁽ᵏ⁾ᵀ,    A² = Uᵀ Q⁻¹ U.

A gives ã the norm of the z that they stand for, up to a factor that makes ã as large as the members' z, since norms add
ε to a mean square. B is the identity; where norms subtract the mean over units, it is an orthonormal basis of what is
at right angles to the mean, and z are centred over units.

Axis legend: ``r`` rows, ``u`` units of a member, ``c`` directions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from consilience.assembly.choice import Choice
from consilience.bases.grounding import Basis
from consilience.bases.hyperplanes import Projection
from consilience.errors import InputError
from consilience.signals.responses import Responses
from consilience.units.architecture import Architecture, TracedNetwork

READ = 0.9  # s


def with_directions(choice: Choice, responses: Responses, widths: Mapping[str, int]) -> Choice:
    """Return a choice of clusters with directions in the layers whose basis may be turned."""
    architecture, bases = responses.networks[0].architecture, dict(choice.bases)
    for name in turnable(architecture):
        basis = _directions(responses, name, widths[name])
        bases |= {tied.name: basis for tied in architecture.family(name)}
    return Choice(choice.groups, bases)


def turnable(architecture: Architecture) -> list[str]:
    """Free layers that norms read, and that nothing else passes through: all tied layers are what the norms write."""
    free = []
    for layer in architecture.free:
        tied = {own.name for own in architecture.family(layer.name)} - {layer.name}
        writers = [m for own in tied for m in architecture.writing(own)]
        norms = [norm for norm in architecture.statistics if not any(map(architecture.has_insides, norm.layers))]
        normed = bool(tied) and {own for norm in norms for own in norm.layers} == {layer.name}
        normed = normed and not any(norm.positions for norm in norms)  # a mean over positions is no turn's
        if normed and all(m.per_unit for m in writers) and len(architecture.writing(layer.name)) > 1:
            free.append(layer.name)
    return free


def has_means_removed(architecture: Architecture, layer: str) -> bool:
    """Whether norms subtract the mean over the units of a layer."""
    return any(norm.centred for norm in architecture.statistics if layer in norm.layers)


def _directions(responses: Responses, layer: str, width: int) -> Basis:
    centred = has_means_removed(responses.networks[0].architecture, layer)
    if width - centred < 1:
        message = f"width of layer '{layer}' must be at least 2 where norms subtract the mean over units, got {width}"
        raise InputError(message, cure="take a wider stream")
    values = [_values(z, centred) for z in responses.read(layer)]
    sizes = [float(z.square().mean().sqrt()) or 1.0 for z in values]
    unit = [z / size for z, size in zip(values, sizes, strict=True)]
    metrics = [_metric(*own, layer, centred) for own in zip(responses.networks, unit, strict=True)]
    n = min(width - centred, sum(z.shape[1] for z in values))
    there, back = _axes(unit, metrics, n)
    made = torch.stack([z @ part for z, part in zip(unit, there, strict=True)]).sum(0)
    present = float((made.square().sum() / (len(made) * width)).sqrt())
    scale = sum(sizes) / len(sizes) / present if present > 0 else 1.0  # so that ã is as long as the members' z
    spread = complement(width) if centred else torch.eye(width, dtype=torch.float64)
    dtype = next(iter(responses.networks[0].state.values())).dtype
    mixing, projections = list[Tensor](), list[Projection]()
    for to, of, size in zip(there, back, sizes, strict=True):
        encoder, decoder = (_values(each.T, centred).T @ spread[:, :n].T for each in (to, of))
        mixing.append((encoder * scale / size).to(dtype))
        projections.append(Projection((decoder * size / scale).to(dtype), torch.zeros(len(decoder), dtype=dtype)))
    return Basis(tuple(mixing), tuple(projections), turned=True)


def _axes(values: Sequence[Tensor], metrics: Sequence[Tensor], n: int) -> tuple[list[Tensor], list[Tensor]]:
    """``Q^½ U A`` and ``Q^−½ U A⁻¹`` of each member, (u, n), from values (r, u) and Q (u, u)."""
    roots = [_power(metric, 1 / 2) for metric in metrics]
    every = torch.cat([z @ root for z, root in zip(values, roots, strict=True)], dim=1)
    leading = torch.linalg.eigh(every.T @ every).eigenvectors.flip(-1)[:, :n]  # the longest first
    parts = leading.split([len(metric) for metric in metrics])
    back = [_power(metric, -1 / 2) @ part for metric, part in zip(metrics, parts, strict=True)]
    products = torch.stack([part.T @ part for part in back]).sum(0)
    stretch, shrink = _power(products, 1 / 2), _power(products, -1 / 2)
    there = [root @ part @ stretch for root, part in zip(roots, parts, strict=True)]
    return there, [part @ shrink for part in back]


def _metric(network: TracedNetwork, z: Tensor, layer: str, centred: bool) -> Tensor:
    """Q (u, u) of a member, from its values (r, u) at unit mean square."""
    same = torch.eye(z.shape[1], dtype=torch.float64)
    family, moments, read = {own.name for own in network.architecture.family(layer)}, z.T @ z / len(z), 0 * same
    for m in network.architecture.maps:
        for axis, part in zip(m.inputs, network.weights(m).parts, strict=True):
            if axis.layer in family and not m.per_unit:
                weights = _values(part.transpose(1, 2).flatten(0, 1), centred)
                products = weights.T @ weights
                size = float((products * moments).sum())
                read = read + (products / size if size > 0 else 0 * same)
    trace = float(read.trace())
    return (1 - READ) * same + READ * read * len(same) / trace if trace > 0 else same


def _power(matrix: Tensor, power: float) -> Tensor:
    """A power of a symmetric matrix with eigenvalues above zero."""
    values, vectors = torch.linalg.eigh(matrix)
    result: Tensor = (vectors * values**power) @ vectors.T
    return result


def _values(z: Tensor, centred: bool) -> Tensor:
    z = z.double()
    return z - z.mean(1, keepdim=True) if centred else z


def complement(width: int) -> Tensor:
    """An orthonormal basis of what is at right angles to the mean over units: (width, width − 1)."""
    ones = torch.ones(width, 1, dtype=torch.float64)
    basis: Tensor = torch.linalg.qr(torch.cat([ones, torch.eye(width, dtype=torch.float64)[:, :-1]], 1))[0][:, 1:]
    return basis
