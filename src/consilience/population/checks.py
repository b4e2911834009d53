"""What calibration data must be, for a census as for whatever else is built of a population."""

from __future__ import annotations

from torch import Tensor

from consilience import checks
from consilience.errors import InputError
from consilience.population.population import Population


def check_inputs(population: Population, x: Tensor, argument: str) -> None:
    """Raise unless the members can take the inputs x."""
    program = population.architecture.program
    checks.check_inputs(x, program.input_shape, population.example_input.dtype, argument)


def check_equal_widths(population: Population) -> None:
    """Raise unless all members have the same width in each layer."""
    for layer in population.architecture.free:
        widths = population.widths(layer.name)
        if len(set(widths)) > 1:
            cure = "use transport_fusion, probabilistic_matching or an assembly"
            raise InputError(f"members must have equal widths, got {widths} in layer '{layer.name}'", cure=cure)


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
