"""Factors for the weights of a network, and the hard mask between clusters that is made of them.

Axis legend: ``u`` units written, ``i`` units read, ``s`` weights of one unit written for one read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from consilience.errors import InputError
from consilience.modularity.graph import parts_of, traced
from consilience.modularity.unit_labels import matrix_labels, same_cluster
from consilience.training.callbacks import Callback
from consilience.units.architecture import TracedNetwork
from consilience.units.maps import Weights


def edge_factors(network: TracedNetwork, factor: Callable[[str, str], NDArray | None]) -> dict[str, Tensor]:
    """Return, for every weight that mixes units, a factor for each of its entries: parameter → tensor of its shape.

    Parameters
    ----------
    network : the network.
    factor : (read, written) → (u, i) a number for every two units of these groups, or None for 1. All entries of a
        kernel have the same factor.
    """
    factors = dict[str, Tensor]()
    parts = parts_of(network)
    for m in network.architecture.maps:
        parts_of_map = [next(parts) for _ in m.inputs]
        if m.per_unit:
            continue
        placed = []
        for part in parts_of_map:
            numbers = factor(part.read, part.written)
            ones = torch.ones_like(part.weights)
            placed.append(ones if numbers is None else ones * torch.as_tensor(numbers).to(ones)[:, :, None])
        weights = Weights(tuple(placed), ones.new_zeros(len(ones)))
        unfolded = replace(m, norm=None, bias=None)  # biases and norms have no factors
        factors |= unfolded.written(network.state, network.architecture.widths, weights)
    return factors


class BlockMask(Callback):
    """Set weights between different clusters to zero: the bound that a loss of modularity is compared with.

    Weights of units without a cluster stay. As a callback of `consilience.train_population` it acts after every step;
    in any other training loop, call it with the module.

    Parameters
    ----------
    clusters : layer → cluster of each unit (u,), −1 for none.
    network, example_input : as of `EigenvalueLoss`.

    Raises
    ------
    InputError
        If clusters do not fit the layers, or no weight matrix is between two of these.
    """

    def __init__(
        self,
        clusters: Mapping[str, ArrayLike],
        network: nn.Module | TracedNetwork,
        example_input: Tensor | None = None,
    ) -> None:
        network = traced(network, example_input)
        labels = matrix_labels(clusters, network)
        self.clusters = {name: values.tolist() for name, values in labels.items()}

        def same(read: str, written: str) -> NDArray | None:
            if read not in labels or written not in labels:
                return None
            unclustered = (labels[written] < 0)[:, None] | (labels[read] < 0)
            kept: NDArray = same_cluster(labels[written], labels[read]) | unclustered
            return kept

        self.masks = {name: mask for name, mask in edge_factors(network, same).items() if not bool(mask.all())}

    def __call__(self, module: nn.Module) -> None:
        """Set weights between clusters to zero."""
        with torch.no_grad():
            self.after_step(0, 0, dict(module.named_parameters()))

    def after_step(self, member: int, step: int, parameters: Mapping[str, Tensor]) -> None:
        """Set a member's weights between clusters to zero."""
        for name, mask in self.masks.items():
            got = tuple(parameters[name].shape) if name in parameters else "none that is trained"
            if got != tuple(mask.shape):
                raise InputError(
                    f"parameter {name!r} must have shape {tuple(mask.shape)}, as the mask, got {got}",
                    cure="make the mask for a network of these widths",
                )
            parameters[name].mul_(mask.to(parameters[name].device))

    def __repr__(self) -> str:
        return f"BlockMask({self.clusters})"
