"""Factors for the edges of a network as tensors of its parameters' shapes, and the hard mask made of them.

Axis legend: ``u`` units written, ``i`` units read, ``s`` weights of one unit written for one read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from consilience.errors import InputError
from consilience.modularity.cross import checked_clusters, same_cluster
from consilience.modularity.graph import parts_of, traced
from consilience.training.callbacks import Callback
from consilience.units.architecture import TracedNetwork
from consilience.units.maps import Weights


def edge_factors(network: TracedNetwork, factor: Callable[[str, str], NDArray | None]) -> dict[str, Tensor]:
    """Return, for every weight that mixes units, a factor for each of its entries.

    Parameters
    ----------
    network : the network.
    factor : (read, written) → a number for each two units of these groups (u, i), or None for 1.

    Returns
    -------
    Parameter name → tensor of its shape. A convolution's kernel has one factor for all its entries.
    """
    factors = dict[str, Tensor]()
    parts = parts_of(network)
    for m in network.architecture.maps:
        own = [next(parts) for _ in m.inputs]
        if m.per_unit:
            continue
        placed = []
        for part in own:
            numbers = factor(part.read, part.written)
            ones = torch.ones_like(part.weights)
            placed.append(ones if numbers is None else ones * torch.as_tensor(numbers).to(ones)[:, :, None])
        weights = Weights(tuple(placed), ones.new_zeros(len(ones)))
        alone = replace(m, norm=None, bias=None)  # what follows a weight keeps its own values
        factors |= alone.written(network.state, network.architecture.widths, weights)
    return factors


class BlockMask(Callback):
    """No weights between different clusters: the network that a loss of modularity is to be compared with.

    Weights between layers of which one has no clusters stay. As a callback of `consilience.train_population` it acts
    after every step, and as a function on a module, in any training loop.

    Parameters
    ----------
    clusters : layer → cluster of each unit (u,).
    network : a network of the kind that will be trained; widths included.
    example_input : (n, ...) inputs on which a module is traced.

    Raises
    ------
    InputError
        If clusters do not fit the layers, or no weight matrix lies between two of these.
    """

    def __init__(
        self,
        clusters: Mapping[str, ArrayLike],
        network: nn.Module | TracedNetwork,
        example_input: Tensor | None = None,
    ) -> None:
        network = traced(network, example_input)
        checked = checked_clusters(clusters, network)
        self.clusters = {name: labels.tolist() for name, labels in checked.items()}

        def same(read: str, written: str) -> NDArray | None:
            if read not in checked or written not in checked:
                return None
            without = (checked[written] < 0)[:, None] | (checked[read] < 0)  # of no cluster: their weights stay
            kept: NDArray = same_cluster(checked[written], checked[read]) | without
            return kept

        self.masks = {name: mask for name, mask in edge_factors(network, same).items() if not bool(mask.all())}

    def __call__(self, module: nn.Module) -> None:
        """Set weights between clusters to zero."""
        with torch.no_grad():
            self.after_step(0, 0, dict(module.named_parameters()))

    def after_step(self, member: int, step: int, parameters: Mapping[str, Tensor]) -> None:
        """Set a member's weights between clusters to zero."""
        for name, mask in self.masks.items():
            if name not in parameters or parameters[name].shape != mask.shape:
                raise InputError(
                    "a mask does not fit the network", where=f"'{name}'",
                    got=tuple(parameters[name].shape) if name in parameters else "no parameter that is trained",
                    expected=tuple(mask.shape), cure="make the mask for a network of this kind, all trained",
                )  # fmt: skip
            parameters[name].mul_(mask.to(parameters[name].device))

    def __repr__(self) -> str:
        return f"BlockMask({self.clusters})"
