"""Factors for the weights of a network, and what is made of them: initial values with clusters, and hard masks.

Networks that are clusterable before training stay so (Filan et al. 2021).

Axis legend: ``u`` units written, ``i`` units read, ``s`` weights of one unit written for one read.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from consilience import seeds
from consilience.checks import check_number, check_size
from consilience.errors import InputError
from consilience.modularity.graph import node_groups, parts_of, traced
from consilience.modularity.unit_labels import Clusters, matrix_labels, same_cluster
from consilience.training.callbacks import Callback
from consilience.units.architecture import TracedNetwork
from consilience.units.axes import by_row
from consilience.units.maps import Weights
from consilience.units.modules import unwrapped


def edge_factors(network: TracedNetwork, factor: Callable[[str, str], NDArray | None]) -> dict[str, Tensor]:
    """Return, for every weight that mixes units, a factor for each of its entries: parameter → tensor of its shape.

    ``factor`` returns a number (u, i) for every two units of the groups read and written, or None for 1.
    """
    factors = dict[str, Tensor]()
    parts = parts_of(network)
    for m in network.architecture.maps:
        parts_of_map = [next(parts) for _ in m.inputs]
        if m.per_unit:
            continue
        placed = []
        for part, own in zip(parts_of_map, network.weights(m).parts, strict=True):
            numbers, ones = factor(part.read, part.written), torch.ones_like(own)
            if numbers is not None:
                of_rows = by_row(by_row(torch.as_tensor(numbers).to(ones), own.shape[0]).T, own.shape[1]).T
                ones = ones * of_rows[:, :, None]
            placed.append(ones)
        weights = Weights(tuple(placed), ones.new_zeros(len(ones)))
        unfolded = replace(m, norm=None, bias=None)  # biases and norms have no factors
        factors |= unfolded.written(network.state, network.architecture.widths, weights)
    return factors


def clusterable_initialisation(
    module: nn.Module, example_input: Tensor, n_modules: int = 10, strength: float = 0.6, random_state: int = 0
) -> nn.Module:
    """Return a copy of a freshly initialized module, in which weights within random clusters are larger.

    Each unit gets one of M clusters at random. Weights within a cluster are scaled by 1 + (1 − d)(M − 1), others by d:
    their mean size stays. Weights of inputs, and of units with themselves, stay.

    Parameters
    ----------
    module : a module with initial values.
    example_input : (n, ...) inputs on which it is traced.
    n_modules : M, 2 or more.
    strength : d, 0 (no weights between clusters) to 1 (nothing changes).
    random_state : seed of the clusters.
    """
    check_size("n_modules", n_modules, 2)
    check_number("strength", strength, 0, 1)
    network = traced(module, example_input)
    generator, widths = seeds.numpy_generator(random_state), network.architecture.widths
    labels = {name: generator.integers(n_modules, size=n) for name, n in node_groups(network).items()}

    def factor(read: str, written: str) -> NDArray | None:
        if read not in widths:
            return None
        within = labels[written][:, None] == labels[read]
        return np.where(within, 1 + (1 - strength) * (n_modules - 1), strength)

    changed = unwrapped(copy.deepcopy(module), "module")
    parameters = dict(changed.named_parameters())
    with torch.no_grad():
        for name, numbers in edge_factors(network, factor).items():
            parameters[name].mul_(numbers)
    return changed


class BlockMask(Callback):
    """Set weights between different clusters to zero: the bound that a loss of modularity is compared with.

    Weights of units without a cluster stay. As a callback of `consilience.train_population` it acts after every step;
    in any other training loop, call it with the module.

    Parameters
    ----------
    clusters : as of `CrossClusterLoss`, −1 for no cluster.
    network, example_input : as of `EigenvalueLoss`.
    """

    def __init__(
        self, clusters: Clusters, network: nn.Module | TracedNetwork, example_input: Tensor | None = None
    ) -> None:
        network = traced(network, example_input)
        labels = matrix_labels(clusters, network)
        self.clusters = {name: values.tolist() for name, values in labels.items()}

        def same(read: str, written: str) -> NDArray | None:
            if read not in labels or written not in labels:
                return None
            unclustered = (labels[written] < 0)[:, None] | (labels[read] < 0)
            return np.asarray(same_cluster(labels[written], labels[read]) | unclustered)

        self.masks = {name: mask for name, mask in edge_factors(network, same).items() if not bool(mask.all())}

    def __call__(self, module: nn.Module) -> None:
        """Set a module's weights between clusters to zero."""
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
