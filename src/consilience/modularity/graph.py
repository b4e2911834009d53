"""A network as a weighted graph: a node for each unit, an edge where a weight leads from one to another.

Inputs and outputs are nodes too. The weight of an edge is |w|, of a convolution the L1 norm of the kernel, with batch
norms folded in (Filan et al. 2021); biases do not matter. Layers are those of `consilience.units`: all that
writes into a residual stream is connected to the stream's one set of units, and a depthwise convolution connects each
unit with itself alone.

Axis legend: ``m`` nodes, ``u`` units written, ``i`` units read, ``s`` weights of one unit written for one read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from torch import Tensor, nn

from consilience.clustering.spectral import Block, FloatArray, adjacency, degrees
from consilience.errors import InputError
from consilience.units.architecture import TracedNetwork, read_state
from consilience.units.axes import Axis
from consilience.units.follow import find_layers

INPUTS = "inputs"


@dataclass(frozen=True)
class Part:
    """Signed weights between two groups of nodes, as a map has them.

    Attributes
    ----------
    map : its name.
    read, written : names of the groups: layers, or the inputs.
    weights : (u, i, s), or (u, 1, s) where unit j reads unit j alone.
    per_unit : whether it does.
    """

    map: str
    read: str
    written: str
    weights: Tensor
    per_unit: bool


@dataclass(frozen=True, eq=False)
class Edges:
    """Weights of all edges between two groups of nodes.

    Attributes
    ----------
    map, read, written, per_unit : as in `Part`.
    weights : (u, i, s) or (u, 1, s), all 0 or more.
    """

    map: str
    read: str
    written: str
    weights: FloatArray
    per_unit: bool

    @cached_property
    def matrix(self) -> FloatArray:
        """Weight of the edge between each two units: (u, i)."""
        summed: FloatArray = self.weights.sum(2)
        return np.diag(summed[:, 0]) if self.per_unit else summed


@dataclass(frozen=True, eq=False)
class UnitGraph:
    """An undirected graph of a network's units.

    Attributes
    ----------
    sizes : name → units, for the inputs and every layer, in the order of the nodes.
    edges : between them; those between equal units add up.
    """

    sizes: Mapping[str, int]
    edges: tuple[Edges, ...]

    @classmethod
    def of(cls, network: TracedNetwork) -> UnitGraph:
        """Build the graph of a traced network.

        Raises
        ------
        InputError
            If a weight is not finite, or all of them are zero.
        """
        edges = []
        for part in parts_of(network):
            weights = part.weights.detach().double().abs().cpu().numpy()
            if not np.isfinite(weights).all():
                raise InputError("a weight is not finite", where=f"'{part.map}'", cure="train the network anew")
            edges.append(Edges(part.map, part.read, part.written, weights, part.per_unit))
        if not any(each.weights.any() for each in edges):
            raise InputError("the network has no edges", got="weights that are all zero")
        return cls(node_groups(network), tuple(edges))

    @property
    def n_nodes(self) -> int:
        """Units in all."""
        return sum(self.sizes.values())

    @cached_property
    def starts(self) -> Mapping[str, int]:
        """Number of each group's first node."""
        ends = np.cumsum([0, *self.sizes.values()]).tolist()
        return dict(zip(self.sizes, ends, strict=False))

    def nodes(self, group: str) -> slice:
        """Return where the nodes of a group are."""
        return slice(self.starts[group], self.starts[group] + self.sizes[group])

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The weights of edges, with the nodes that they join."""
        return tuple((self.nodes(each.written), self.nodes(each.read), each.matrix) for each in self.edges)

    @cached_property
    def degree(self) -> FloatArray:
        """Sum of the weights of each node's edges, (m,); an edge of a unit with itself counts twice."""
        return degrees(self.n_nodes, self.blocks)

    @property
    def connected(self) -> NDArray[np.bool_]:
        """Which nodes have an edge: (m,). The others take no part in any clustering."""
        return self.degree > 0

    @property
    def removed(self) -> dict[str, list[int]]:
        """Units without an edge, by group; groups without any such unit are left out."""
        without = {name: np.flatnonzero(~self.connected[self.nodes(name)]).tolist() for name in self.sizes}
        return {name: units for name, units in without.items() if units}

    @cached_property
    def adjacency(self) -> sp.csr_array:
        """Edge weights between all nodes, symmetric: (m, m)."""
        return adjacency(self.n_nodes, self.blocks)

    def by_group(self, values: NDArray) -> dict[str, NDArray]:
        """Return an array over nodes (m, ...) split by group."""
        return {name: values[self.nodes(name)] for name in self.sizes}


def unit_graph(network: nn.Module | TracedNetwork | UnitGraph, example_input: Tensor | None = None) -> UnitGraph:
    """Return the graph of a network; a graph stays as it is. See `traced`."""
    return network if isinstance(network, UnitGraph) else UnitGraph.of(traced(network, example_input))


def traced(network: nn.Module | TracedNetwork, example_input: Tensor | None = None) -> TracedNetwork:
    """Return a network with its layers found.

    Parameters
    ----------
    network : a module, or the ``network`` of a population's member.
    example_input : (n, ...) inputs of the right shape; needed for a module.

    Raises
    ------
    InputError
        If a module comes without an example input.
    TracingError
        If a module is not understood.
    """
    if isinstance(network, TracedNetwork):
        return network
    if not isinstance(network, nn.Module):
        raise InputError("not a network", got=type(network).__name__, expected="a nn.Module or a TracedNetwork")
    if example_input is None:
        raise InputError(
            "a module is traced on inputs", where="example_input", got=None, expected="inputs (n, ...) of its shape",
            cure="pass a few samples",
        )  # fmt: skip
    return TracedNetwork(find_layers(network, example_input), read_state(network))


def node_groups(network: TracedNetwork) -> dict[str, int]:
    """Return the groups of nodes and their sizes: what is read that no layer has written, then the layers."""
    features = {name: axis.block for name, axis in _features(network).items()}
    return {**features, **network.architecture.widths}


def parts_of(network: TracedNetwork) -> Iterator[Part]:
    """Yield all weights of a network, folded; gradients flow to its parameters."""
    names = {(axis.name, axis.dim, axis.before): name for name, axis in _features(network).items()}
    for m in network.architecture.maps:
        for axis, part in zip(m.inputs, network.weights(m).parts, strict=True):
            read = axis.layer or names[axis.name, axis.dim, axis.before]
            yield Part(m.name, read, m.writes, part, m.per_unit)


def _features(network: TracedNetwork) -> dict[str, Axis]:
    """What maps read that no layer has written, by name: the inputs, possibly in several forms."""
    found: dict[tuple[object, ...], Axis] = {}
    for m in network.architecture.maps:
        for axis in m.inputs:
            if axis.layer is None:
                found.setdefault((axis.name, axis.dim, axis.before), axis)
    taken, base = network.architecture.widths, INPUTS
    while any(name == base or name.startswith(f"{base}.") for name in taken):  # a module of this name
        base = f"network {base}"
    return {base if k == 0 else f"{base}.{k}": axis for k, axis in enumerate(found.values())}
