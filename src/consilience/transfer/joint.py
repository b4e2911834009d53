"""One population of the members of several tasks: their outputs differ in number, their hidden layers do not.

Outputs are padded with zeros to the largest number, so that all members have one program. They belong to different
tasks and are never pooled.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from consilience.checks import describe
from consilience.errors import InputError
from consilience.population.checks import check_population
from consilience.population.population import Population
from consilience.units.architecture import Architecture, read_state, write_state
from consilience.units.attributes import set_sizes
from consilience.units.configs import set_config
from consilience.units.maps import Map


def joint_population(populations: Mapping[str, Population]) -> Population:
    """Return the members of all tasks as one population, in the order of the tasks.

    Raises
    ------
    InputError : if there are less than two tasks or fewer than two members of one, inputs differ in shape, or members
        differ in more than widths and outputs.
    """
    if not isinstance(populations, Mapping) or len(populations) < 2:
        got = f"{len(populations)}" if isinstance(populations, Mapping) else describe(populations)
        raise InputError(
            f"populations must be a dict of two tasks or more, got {got}", cure='{"parity": population, …}'
        )
    for task, population in populations.items():
        check_population(population)
        if len(population) < 2:
            raise InputError(f"populations must have two members or more, got one for {task!r}", cure="train more")
    first, *others = populations
    shape = populations[first].architecture.program.input_shape
    for task in others:
        other = populations[task].architecture.program.input_shape
        if other != shape:
            wanted = f"populations must have inputs of one shape, {shape} as of {first!r}"
            raise InputError(f"{wanted}, got {other} for {task!r}", cure="compare tasks on the same inputs")
    n_outputs = max(population.architecture.n_outputs for population in populations.values())
    modules = [
        with_outputs(member.module, member.network.architecture, n_outputs)
        for population in populations.values()
        for member in population
    ]
    return Population.from_modules(modules, populations[first].example_input)


def readout_of(architecture: Architecture) -> Map:
    """Return the one map that writes the outputs from features (n, d), or raise."""
    output = architecture.output
    maps = architecture.writing(output.name) if output is not None else ()
    if (
        len(maps) != 1
        or maps[0].kernel is not None
        or len(maps[0].inputs) != 1
        or architecture.tail
        or not maps[0].reads
    ):
        cure = "transfer networks that end in one linear layer"
        raise InputError("the outputs of members must be written by one linear layer, got another end", cure=cure)
    return maps[0]


def with_outputs(module: nn.Module, architecture: Architecture, n_outputs: int) -> nn.Module:
    """Return a copy of a module with another number of outputs: further ones are zero, the last ones are left out."""
    head = readout_of(architecture).writes
    state, new = read_state(module), copy.deepcopy(module)
    here = architecture.with_widths(architecture.widths_in(state))
    other = here.with_widths({head: n_outputs})
    values = dict[str, Tensor]()
    for name, shape in other.shapes(other.widths, state).items():
        old = state[name]
        if shape != tuple(old.shape):
            values[name] = old.new_zeros(shape)
            part = tuple(slice(min(a, b)) for a, b in zip(shape, old.shape, strict=True))
            values[name][part] = old[part]
            path, _, attribute = name.rpartition(".")
            setattr(new.get_submodule(path), attribute, nn.Parameter(torch.zeros_like(values[name])))
    write_state(new, values)
    set_sizes(new, here, other)
    set_config(new)
    return new
