"""Checks of calibration data and members before they are merged."""

from __future__ import annotations

from torch import Tensor

from consilience import checks
from consilience.checks import describe
from consilience.errors import InputError
from consilience.population.population import Population


def as_inputs(population: Population, x: object, argument: str) -> Tensor:
    """Return inputs x as the members take them; see `consilience.checks.as_inputs`."""
    check_population(population)
    program = population.architecture.program
    return checks.as_inputs(x, program.input_shape, population.example_input.dtype, argument)


def check_population(population: object) -> None:
    """Raise unless this is a population."""
    if not isinstance(population, Population):
        cure = "Population.from_modules(modules, example_input) makes one"
        raise InputError(f"population must be a consilience.Population, got {describe(population)}", cure=cure)


def check_equal_widths(population: Population) -> None:
    """Raise unless all members have the same width in each layer."""
    for layer in population.architecture.free:
        widths = population.widths(layer.name)
        if len(set(widths)) > 1:
            cure = "use transport_fusion, probabilistic_matching or an assembly"
            raise InputError(f"members must have equal widths, got {widths} in layer '{layer.name}'", cure=cure)


def check_side_by_side(population: Population) -> None:
    """Raise unless the members' units can be put side by side in one network that computes what they compute."""
    architecture = population.architecture
    cure = "such networks can be compared, not merged"
    if architecture.crossing:
        names = ", ".join(map(repr, architecture.crossing))
        raise InputError(f"each weight must be of one layer's units, got {names} shared with another layer", cure=cure)
    fixed = [layer.name for layer in architecture.layers if not layer.interchangeable]
    fixed.remove(architecture.output.name)
    if fixed:
        got = ", ".join(f"'{name}'" for name in fixed) + ", which add to the inputs or multiply with a fixed mask"
        raise InputError(f"units of every hidden layer must be interchangeable, got layers {got}", cure=cure)
