"""Initial values with modules in them (Filan et al. 2021): networks that begin clusterable end so."""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from consilience.errors import InputError
from consilience.modularity.graph import node_groups, traced
from consilience.modularity.masks import edge_factors


def clusterable_initialisation(
    module: nn.Module, example_input: Tensor, n_modules: int = 10, strength: float = 0.6, random_state: int = 0
) -> nn.Module:
    """Return a copy of a freshly initialised module, in which weights within random modules are larger.

    Every unit is given one of M modules at random. Weights within a module are multiplied by 1 + (1 − d)(M − 1), all
    others by d, so that their mean size stays. Weights of the inputs, and of a unit with itself, stay.

    Parameters
    ----------
    module : with initial values.
    example_input : (n, ...) inputs on which it is traced.
    n_modules : M, 2 or more.
    strength : d, 0 (no weights between modules) to 1 (nothing changes).
    random_state : seed of the modules.

    Raises
    ------
    InputError
        If a number makes no sense.
    TracingError
        If the module is not understood.
    """
    if not n_modules >= 2 or not 0 <= strength <= 1:
        raise InputError(
            "a setting makes no sense", where="n_modules, strength", got=f"{n_modules}, {strength}",
            expected="2 or more; 0 to 1",
        )  # fmt: skip
    network = traced(module, example_input)
    generator, widths = np.random.default_rng(random_state), network.architecture.widths
    modules = {name: generator.integers(n_modules, size=n) for name, n in node_groups(network).items()}

    def factor(read: str, written: str) -> NDArray | None:
        if read not in widths:
            return None
        within = modules[written][:, None] == modules[read]
        return np.where(within, 1 + (1 - strength) * (n_modules - 1), strength)

    changed = copy.deepcopy(module)
    own = dict(changed.named_parameters())
    with torch.no_grad():
        for name, numbers in edge_factors(network, factor).items():
            own[name].mul_(numbers)
    return changed
