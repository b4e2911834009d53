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
from consilience.units.axes import Axis, Sampling
from consilience.units.maps import Map

SMALL = 1e-12  # of a standard deviation: a unit that is constant on the data acts on nothing


@dataclass(frozen=True, eq=False)
class Edges:
    """The edges of one map.

    Attributes
    ----------
    map : name of the map.
    reads, writes : the layers of the census whose clusters it connects.
    strengths : by member, (i, j) as above; 0 for units that are constant on the data.
    """

    map: str
    reads: str
    writes: str
    strengths: tuple[Tensor, ...]


def edges_of(census: Census) -> list[Edges]:
    """Return the edges between the layers of a census, by map, in the order in which maps are computed.

    Units are oriented as their clusters are (`unit_signs`), so that strengths of members can be compared.

    Raises
    ------
    InputError : if the census is not fitted, has no calibration data, or no map connects two of its layers by edges.
    """
    check_fitted(census)
    if census.calibration_ is None:
        raise InputError("census must have calibration data for edges, got none", cure="fit it with inputs")
    architecture = census.population_.architecture
    maps = [m for m in architecture.maps if any(True for _ in _connected(census, m))]
    if not maps:
        raise InputError(
            "population must have two hidden layers, one of which reads the other through a map that mixes units of "
            f"one row each, got layers {', '.join(census.layers_)}",
            cure="edges are not defined for heads of attention, norms and embeddings",
        )
    x = census.calibration_[evenly(census.calibration_)]
    signs = {name: _signs(census, layer, x) for name, layer in census.layers_.items()}
    strengths: dict[tuple[int, int], list[Tensor]] = {}
    for k, network in enumerate(census.networks_):
        for number, m in enumerate(maps):
            moments = _Moments.of(network, m, x)
            for part, reads, writes in _connected(census, m):
                e = moments.strengths(network, m, part)
                e = e * signs[writes][k][:, None] * signs[reads][k]
                strengths.setdefault((number, part), []).append(e)
    return [
        Edges(m.name, reads, writes, tuple(strengths[number, part]))
        for number, m in enumerate(maps)
        for part, reads, writes in _connected(census, m)
    ]


def cluster_strengths(edges: Edges, census: Census) -> tuple[Tensor, Tensor]:
    """Return the mean strength (c, b) of edges between clusters over the members that own both, and their number.

    In one member, it is the sum over units of the cluster read, and the mean over units of the cluster written. It is 0
    where no member owns both.
    """
    total, owners = torch.zeros(()), torch.zeros(())
    for k, e in enumerate(edges.strengths):
        read, written = (membership(census.layers_[name], k) for name in (edges.reads, edges.writes))
        both = written.any(0)[:, None] & read.any(0)
        mean = written.double() / written.sum(0).clamp(min=1)
        total = total + mean.T @ e @ read.double()
        owners = owners + both
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


def _signs(census: Census, layer: LayerCensus, x: Tensor) -> tuple[Tensor, ...]:
    signs: tuple[Tensor, ...] = unit_signs(census, layer, x).double().split(census.population_.widths(layer.name))
    return signs


@dataclass(frozen=True)
class _Moments:
    """What strengths need of one member's data."""

    along: tuple[Tensor, ...]  # for each part, Cov(a_js, m_j) / sd(m_j): (j, s)
    spread: Tensor  # (i,) sd(z_i)

    @classmethod
    def of(cls, network: TracedNetwork, m: Map, x: Tensor) -> _Moments:
        """Look at most `MAX_SAMPLES` rows of what a map reads and writes, in one pass."""
        widths, sampling = network.architecture.widths, Sampling(len(x), MAX_SAMPLES)
        value = m.inputs[0].name
        read, written = list[Tensor](), list[Tensor]()
        for which, batch in stream(network, x, [value, m.output.name]):
            n = which.stop - which.start
            rows, z = m.rows(batch[value], batch[m.output.name], widths, sampling, which.start, n)
            read.append(rows)
            written.append(z)
        return cls(_along(torch.cat(read), m.inputs, network, m), torch.cat(written).double().std(0, correction=0))

    def strengths(self, network: TracedNetwork, m: Map, part: int) -> Tensor:
        """The strengths (i, j) of one part of the weights."""
        slope = torch.einsum("ijs,js->ij", network.weights(m).parts[part].double(), self.along[part])
        spread = self.spread[:, None]
        return torch.where(spread > SMALL, slope / spread.clamp(min=SMALL), 0.0)


def _along(rows: Tensor, axes: tuple[Axis, ...], network: TracedNetwork, m: Map) -> tuple[Tensor, ...]:
    shapes = [part.shape[1:] for part in network.weights(m).parts]
    parts = rows.double().split([shape.numel() for shape in shapes], dim=1)
    along = []
    for part, shape in zip(parts, shapes, strict=True):
        a = part - part.mean(0)
        a = a.unflatten(1, tuple(shape))  # (r, j, s)
        mean = a.sum(2)
        spread = mean.square().mean(0).sqrt()[:, None]
        covariance = torch.einsum("rjs,rj->js", a, mean) / len(a)
        along.append(torch.where(spread > SMALL, covariance / spread.clamp(min=SMALL), 0.0))
    return tuple(along)
