"""How strongly the units of one layer act on those of the next, member by member.

Unit j of layer R is read by unit i of layer L through the weights ``W_ij`` (s,) of one map: one weight, or one for
each position of a kernel. In one row of the data, R's unit has the activations ``a_j`` (s,), and adds ``W_ij · a_j`` to
the pre-activation ``z_i``. The *strength* of the edge is the standardised slope of what is added on ``m_j = Σ_s a_js``,

    e_ij = Cov(W_ij · a_j, m_j) / (sd(m_j) sd(z_i)) = Σ_s W_ijs Cov(a_js, m_j) / (sd(m_j) sd(z_i)):

by how many of its standard deviations z_i moves where a_j moves by one of its own. With one weight, that is
``W_ij sd(a_j) / sd(z_i)``. Of a layer that several maps write, z_i is what this map writes.

Edges are defined where a map reads and writes units of one row each, and mixes them. They are not defined for heads of
attention, whose rows have no basis of their own, nor for norms, embeddings and depthwise convolutions.

Axis legend: ``k`` member, ``i`` units written, ``j`` units read, ``s`` entries of a unit read, ``r`` rows of data,
``c`` clusters of the layer written, ``b`` clusters of the layer read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from consilience.census import Census, LayerCensus
from consilience.census.census import check_fitted
from consilience.census.orientation import unit_signs
from consilience.errors import InputError
from consilience.signals.responses import MAX_SAMPLES, evenly, stream
from consilience.units.architecture import TracedNetwork
from consilience.units.axes import Sampling
from consilience.units.maps import Map

SMALL = 1e-12  # of a standard deviation: a unit that is constant on the data acts on nothing


@dataclass(frozen=True, eq=False)
class Wiring:
    """One map in one member, in the directions of the units' clusters."""

    weights: Tensor  # (i, j, s)
    read: Tensor  # (r, j, s) activations, less their means
    written: Tensor  # (r, i) pre-activations

    @property
    def strengths(self) -> Tensor:
        """The strengths of the edges (i, j); 0 for units that are constant on the data."""
        mean = self.read.sum(2)
        spread, moves = mean.square().mean(0).sqrt()[:, None], self.written.double().std(0, correction=0)[:, None]
        along = torch.einsum("rjs,rj->js", self.read, mean) / (len(mean) * spread.clamp(min=SMALL))
        slope = torch.einsum("ijs,js->ij", self.weights, torch.where(spread > SMALL, along, 0.0))
        return torch.where(moves > SMALL, slope / moves.clamp(min=SMALL), 0.0)

    def permuted(self, order: Tensor) -> Wiring:
        """Return the wiring with the units that are read in another order (j,): other units feed the same weights."""
        weights = self.weights[:, order]
        added = torch.einsum("ijs,rjs->ri", weights - self.weights, self.read)
        return Wiring(weights, self.read, self.written + added)


@dataclass(frozen=True, eq=False)
class Edges:
    """The edges of one map.

    Attributes
    ----------
    map : name of the map.
    reads, writes : the layers of the census whose clusters it connects.
    alone : whether nothing else writes the layer that it writes.
    wirings : by member.
    """

    map: str
    reads: str
    writes: str
    alone: bool
    wirings: tuple[Wiring, ...]


def edges_of(census: Census) -> list[Edges]:
    """Return the edges between the layers of a census, by map, in the order in which maps are computed.

    Raises
    ------
    InputError : if the census is not fitted, has no calibration data, or no map connects two of its layers by edges.
    """
    check_fitted(census)
    if census.calibration_ is None:
        raise InputError("census must have calibration data for edges, got none", cure="fit it with inputs")
    architecture = census.population_.architecture
    found = [(m, *parts) for m in architecture.maps for parts in _connected(census, m)]
    if not found:
        raise InputError(
            "population must have two hidden layers, one of which reads the other through a map that mixes units of "
            f"one row each, got layers {', '.join(census.layers_)}",
            cure="edges are not defined for heads of attention, norms and embeddings",
        )
    x = census.calibration_[evenly(census.calibration_)]
    signs = {
        name: unit_signs(census, layer, x).double().split(census.population_.widths(name))
        for name, layer in census.layers_.items()
    }
    wirings: list[list[Wiring]] = [[] for _ in found]
    for k, network in enumerate(census.networks_):
        seen: dict[str, tuple[Tensor, Tensor]] = {}
        for (m, part, reads, writes), own in zip(found, wirings, strict=True):
            if m.name not in seen:
                seen[m.name] = _rows(network, m, x)
            read, written = seen[m.name]
            own.append(_wiring(network.weights(m).parts, read, written, part, signs[reads][k], signs[writes][k]))
    alone = {
        layer.name: len(architecture.writing(layer.name)) == 1 and len(architecture.family(layer.name)) == 1
        for layer in architecture.layers
    }
    return [
        Edges(m.name, reads, writes, alone[m.writes], tuple(own))
        for (m, _, reads, writes), own in zip(found, wirings, strict=True)
    ]


def cluster_strengths(edges: Edges, census: Census) -> tuple[Tensor, Tensor]:
    """Return the mean strength (c, b) of edges between clusters over the members that own both, and their number.

    In one member, it is the sum over units of the cluster read, and the mean over units of the cluster written. It is 0
    where no member owns both.
    """
    total, owners = torch.zeros(()), torch.zeros(())
    for k, wiring in enumerate(edges.wirings):
        read, written = (membership(census.layers_[name], k) for name in (edges.reads, edges.writes))
        mean = written.double() / written.sum(0).clamp(min=1)
        total = total + mean.T @ wiring.strengths @ read.double()
        owners = owners + (written.any(0)[:, None] & read.any(0))
    return total / owners.clamp(min=1), owners


def membership(layer: LayerCensus, k: int) -> Tensor:
    """Return which unit of member k is in which cluster: (u, K) bool."""
    labels = torch.from_numpy(layer.labels_[layer.member == k])
    return labels[:, None] == torch.arange(layer.n_clusters_)


def _connected(census: Census, m: Map) -> Iterator[tuple[int, str, str]]:
    """Parts of a map's weights that are edges between two layers of the census: the part's number, and the layers."""
    architecture = census.population_.architecture
    if m.per_unit or not m.fitted or m.output.inside > 1 or m.output.name not in architecture.program.varying:
        return
    writes = architecture.first(m.writes)
    for part, axis in enumerate(m.inputs):
        if axis.layer is None or axis.inside > 1:
            continue
        reads = architecture.first(axis.layer)
        heads = architecture.has_insides(reads) or architecture.has_insides(writes)
        if reads != writes and not heads and {reads, writes} <= set(census.layers_):
            yield part, reads, writes


def _rows(network: TracedNetwork, m: Map, x: Tensor) -> tuple[Tensor, Tensor]:
    """At most about `MAX_SAMPLES` rows of what a map reads and writes: (r, d) and (r, i)."""
    widths, sampling = network.architecture.widths, Sampling(len(x), MAX_SAMPLES)
    value = m.inputs[0].name
    read, written = list[Tensor](), list[Tensor]()
    for which, batch in stream(network, x, [value, m.output.name]):
        n = which.stop - which.start
        rows, z = m.rows(batch[value], batch[m.output.name], widths, sampling, which.start, n)
        read.append(rows)
        written.append(z)
    return torch.cat(read), torch.cat(written)


def _wiring(
    parts: tuple[Tensor, ...], read: Tensor, written: Tensor, part: int, reading: Tensor, writing: Tensor
) -> Wiring:
    """One part of a map's weights, with the signs of units read (j,) and written (i,)."""
    rows = (
        read.split([each[0].numel() for each in parts], dim=1)[part].double().unflatten(1, tuple(parts[part][0].shape))
    )
    weights = parts[part].double() * writing[:, None, None] * reading[:, None]
    return Wiring(weights, (rows - rows.mean(0)) * reading[:, None], written.double() * writing)
