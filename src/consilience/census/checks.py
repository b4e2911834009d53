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


def check_side_by_side(population: Population) -> None:
    """Refuse members whose units cannot be put side by side in one network that computes what they compute.

    Raises
    ------
    InputError
        If weights are shared by the units of another layer, or units inside are told apart by their index.
    """
    architecture = population.architecture
    if architecture.crossing:
        raise InputError(
            "weights are shared by the units of another layer, so that units cannot be put side by side",
            where=", ".join(map(repr, architecture.crossing)),
            cure="networks that mix tokens in this way can be compared, not merged",
        )  # fmt: skip
    fixed = [layer.name for layer in architecture.layers if not layer.interchangeable]
    fixed.remove(architecture.output.name)
    if fixed:
        raise InputError(
            "units inside the network are told apart by their index, so that members' cannot be put side by side",
            where=", ".join(f"layer '{name}'" for name in fixed),
            cure="what adds to the inputs, or multiplies with a fixed mask, can be compared, not merged",
        )  # fmt: skip
