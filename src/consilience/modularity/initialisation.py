"""Initial values with clusters (Filan et al. 2021): networks that are clusterable before training stay so."""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from consilience import seeds
from consilience.checks import check_count, check_number
from consilience.modularity.graph import node_groups, traced
from consilience.modularity.masks import edge_factors


def clusterable_initialisation(
    module: nn.Module, example_input: Tensor, n_modules: int = 10, strength: float = 0.6, random_state: int = 0
) -> nn.Module:
    """Return a copy of a freshly initialized module, in which weights within random clusters are larger.

    Every unit is assigned to one of M clusters at random. Weights within a cluster are multiplied by
    1 + (1 − d)(M − 1), all others by d, so that their mean size stays. Weights of inputs, and of units with
    themselves, stay.

    Parameters
    ----------
    module : a module with initial values.
    example_input : (n, ...) inputs on which it is traced.
    n_modules : M, 2 or more.
    strength : d, 0 (no weights between clusters) to 1 (nothing changes).
    random_state : seed of the clusters.

    Raises
    ------
    InputError
        If a number is out of range.
    TracingError
        If the module has an unsupported operation.
    """
    check_count("n_modules", n_modules, 2)
    check_number("strength", strength, 0, 1)
    network = traced(module, example_input)
    generator, widths = seeds.numpy_generator(random_state), network.architecture.widths
    labels = {name: generator.integers(n_modules, size=n) for name, n in node_groups(network).items()}

    def factor(read: str, written: str) -> NDArray | None:
        if read not in widths:
            return None
        within = labels[written][:, None] == labels[read]
        return np.where(within, 1 + (1 - strength) * (n_modules - 1), strength)

    changed = copy.deepcopy(module)
    parameters = dict(changed.named_parameters())
    with torch.no_grad():
        for name, numbers in edge_factors(network, factor).items():
            parameters[name].mul_(numbers)
    return changed
