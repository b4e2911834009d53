"""A network as a weighted graph: a node for each unit, an edge where a weight leads from one to another.

Inputs and outputs are nodes too. The weight of an edge is |w|, of a convolution the L1 norm of the kernel, with batch
norms folded in (Filan et al. 2021); biases do not matter. A relu unit whose incoming weights are 100 times as large and
whose outgoing ones are 100 times as small computes the same, but has another graph: `representative` makes such
networks equal. Layers are those of `consilience.units`: a residual stream is
one set of units, and a depthwise convolution connects each unit with itself alone.

Axis legend: ``m`` nodes, ``u`` units written, ``i`` units read, ``s`` weights of one unit written for one read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import get_args

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from torch import Tensor, nn

from consilience.checks import check_choice
from consilience.clustering.spectral import Block, FloatArray, adjacency, degrees
from consilience.errors import InputError
from consilience.names import Scale
from consilience.units.architecture import TracedNetwork, read_state
from consilience.units.axes import Axis
from consilience.units.follow import find_layers
from consilience.units.inputs import one_tensor
from consilience.units.modules import as_example, plain_copy, unwrapped
from consilience.units.symmetry import balanced
from consilience.units.written_out import write_out

INPUTS = "inputs"
SCALES = get_args(Scale)


@dataclass(frozen=True)
class Part:
    """Signed weights of a map between two groups of nodes."""

    map: str
    read: str  # names of the groups: layers, or the inputs
    written: str
    weights: Tensor  # (u, i, s), or (u, 1, s) if per_unit
    per_unit: bool  # whether unit j reads unit j alone


@dataclass(frozen=True, eq=False)
class Edges:
    """Absolute weights between two groups of nodes; attributes as in `Part`."""

    map: str
    read: str
    written: str
    weights: FloatArray
    per_unit: bool

    @cached_property
    def matrix(self) -> FloatArray:
        """Weight of the edge between every two units: (u, i)."""
        summed: FloatArray = self.weights.sum(2)
        return np.diag(summed[:, 0]) if self.per_unit else summed


@dataclass(frozen=True, eq=False)
class UnitGraph:
    """An undirected graph of a network's units.

    Attributes
    ----------
    sizes : name → number of units, for the inputs and every layer, in the order of the nodes.
    edges : weights between them; those between the same units add up.
    """

    sizes: Mapping[str, int]
    edges: tuple[Edges, ...]

    @classmethod
    def of(cls, network: TracedNetwork) -> UnitGraph:
        """Build the graph of a traced network; raise an `InputError` if a weight is not finite, or all are zero."""
        edges = tuple(
            Edges(part.map, part.read, part.written, finite(part.weights.detach().double().abs(), part), part.per_unit)
            for part in parts_of(network)
        )
        if not any(part.weights.any() for part in edges):
            raise InputError("network must have a weight other than 0, got none")
        return cls(node_groups(network), edges)

    @property
    def n_nodes(self) -> int:
        """Number of units."""
        return sum(self.sizes.values())

    @cached_property
    def nodes(self) -> Mapping[str, slice]:
        """Nodes of each group."""
        ends = np.cumsum([*self.sizes.values()]).tolist()
        return {name: slice(end - self.sizes[name], end) for name, end in zip(self.sizes, ends, strict=True)}

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The weights of edges, with the nodes that they join."""
        return tuple((self.nodes[part.written], self.nodes[part.read], part.matrix) for part in self.edges)

    @cached_property
    def degree(self) -> FloatArray:
        """Sum of the weights of each node's edges, (m,); an edge of a unit with itself counts twice."""
        return degrees(self.n_nodes, self.blocks)

    @property
    def connected(self) -> NDArray[np.bool_]:
        """Which nodes have an edge: (m,). Only these are clustered."""
        return self.degree > 0

    @property
    def removed(self) -> dict[str, list[int]]:
        """Units without an edge, by group; groups without such units are omitted."""
        isolated = {name: np.flatnonzero(~mask).tolist() for name, mask in self.by_group(self.connected).items()}
        return {name: units for name, units in isolated.items() if units}

    @cached_property
    def adjacency(self) -> sp.csr_array:
        """Edge weights between all nodes: (m, m), symmetric."""
        return adjacency(self.n_nodes, self.blocks)

    def by_group(self, values: NDArray) -> dict[str, NDArray]:
        """Split an array over nodes (m, ...) by group."""
        return {name: values[nodes] for name, nodes in self.nodes.items()}


def unit_graph(network: nn.Module | TracedNetwork | UnitGraph, example_input: Tensor | None = None) -> UnitGraph:
    """Return the graph of a network (see `traced`), or the graph given."""
    return network if isinstance(network, UnitGraph) else UnitGraph.of(traced(network, example_input))


def traced(network: nn.Module | TracedNetwork, example_input: Tensor | None = None) -> TracedNetwork:
    """Trace a module on inputs (n, ...), which it needs; a traced network is returned as it is."""
    if isinstance(network, TracedNetwork):
        return network
    if not isinstance(network, nn.Module):
        raise InputError(f"network must be an nn.Module or a TracedNetwork, got {type(network).__name__}")
    if example_input is None:
        raise InputError("example_input must be inputs (n, ...) of the module, got None", cure="pass a few samples")
    plain = plain_copy(network, "network").eval()
    x = as_example(one_tensor([plain], example_input))
    write_out([plain], x)
    own, copied = (read_state(module) for module in (unwrapped(network, "network"), plain))
    kinds = [{name: (value.dtype, value.shape) for name, value in state.items()} for state in (own, copied)]
    state = own if kinds[0] == kinds[1] else copied  # its memory, where it is plain
    return TracedNetwork(find_layers(plain, x), state)


def representative(network: TracedNetwork, scale: Scale) -> TracedNetwork:
    """Return the network whose weights are measured: with all units that may be rescaled balanced, or as it is given.

    In the balanced network, incoming and outgoing weights of such a unit have equal norms; biases do not matter.
    Networks that differ by a rescaling of units have one balanced network, up to rounding; it is in double precision.
    """
    check_choice("scale", scale, SCALES)
    if scale == "as-given":
        return network
    for part in parts_of(network):
        finite(part.weights.detach(), part)
    return balanced(network.double(), bias=False)


def node_groups(network: TracedNetwork) -> dict[str, int]:
    """Return name → number of units: of the inputs, then of the layers."""
    features = {name: axis.block for name, axis in _features(network).items()}
    return {**features, **network.architecture.widths}


def parts_of(network: TracedNetwork) -> Iterator[Part]:
    """Yield all weights of a network, with batch norms folded; gradients flow to its parameters."""
    names = {(axis.name, axis.dim, axis.before): name for name, axis in _features(network).items()}
    for m in network.architecture.maps:
        for axis, part in zip(m.inputs, m.between_units(network.weights(m)), strict=True):
            read = axis.layer or names[axis.name, axis.dim, axis.before]
            yield Part(m.name, read, m.writes, part, m.per_unit)


def finite(weights: Tensor, part: Part) -> FloatArray:
    """Return weights as an array, or raise an error that names their map unless all are finite."""
    array: FloatArray = weights.cpu().numpy()
    if not np.isfinite(array).all():
        raise InputError(f"weights of {part.map!r} must be finite, got NaN or infinity", cure="train the network again")
    return array


def _features(network: TracedNetwork) -> dict[str, Axis]:
    """Axes that maps read and no layer writes, by name: the inputs, possibly in several forms."""
    axes: dict[tuple[object, ...], Axis] = {}
    for m in network.architecture.maps:
        for axis in m.inputs:
            if axis.layer is None:
                axes.setdefault((axis.name, axis.dim, axis.before), axis)
    taken, base = network.architecture.widths, INPUTS
    while any(name == base or name.startswith(f"{base}.") for name in taken):  # a module of this name
        base = f"network {base}"
    return {base if k == 0 else f"{base}.{k}": axis for k, axis in enumerate(axes.values())}
