"""What calibration data must be, for a census as for whatever else is built of a population."""

from __future__ import annotations

import torch
from torch import Tensor

from consilience.errors import InputError
from consilience.population.population import Population


def check_inputs(population: Population, x: Tensor, what: str) -> None:
    """Refuse inputs that the members cannot take.

    Raises
    ------
    InputError
        If x is empty, not finite, or its samples do not have the shape of the population's inputs.
    """
    shape, dtype = population.architecture.program.input_shape, population.example_input.dtype
    if not isinstance(x, Tensor) or x.dtype != dtype:
        raise InputError(
            f"{what} has the wrong type", got=x.dtype if isinstance(x, Tensor) else type(x).__name__,
            expected=f"a tensor of {dtype}, as the members' inputs are",
        )  # fmt: skip
    if tuple(x.shape[1:]) != shape or len(x) < 2:
        raise InputError(
            f"{what} has the wrong shape", got=tuple(x.shape), expected=f"(n, {', '.join(map(str, shape))}), n ≥ 2"
        )
    bad = ~torch.isfinite(x).flatten(1).all(1)
    if bool(bad.any()):
        raise InputError(
            f"{what} is not finite",
            where=f"row {int(bad.nonzero()[0])}",
            got=f"{int(bad.sum())} rows with NaN or infinity",
            cure="remove these rows",
        )
