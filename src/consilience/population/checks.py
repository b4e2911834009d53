"""Checks of calibration data and members before they are merged."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from consilience import checks
from consilience.checks import describe
from consilience.data import Dataset
from consilience.errors import CalibrationWarning, InputError, warn
from consilience.population.batches import gathered, yields_batches
from consilience.population.population import Population
from consilience.units.architecture import TracedNetwork
from consilience.units.deviation import deviation
from consilience.units.operations.pooling import TOTAL

SAME = 1e-5  # of the spread of outputs: roundings of single precision
UNLIKE = 10  # times the spread of the example inputs
RANDOM_EXAMPLE = "random_example"  # in the provenance of populations whose example inputs are drawn at random


def as_inputs(population: Population, x: object, argument: str) -> Tensor:
    """Return inputs x, or those of a data set, as the members take them; see `consilience.checks.as_inputs`."""
    check_population(population)
    program = population.architecture.program
    if isinstance(x, Dataset):
        x = x.x
    if yields_batches(x):
        x = gathered(x, population.inputs, argument)
    if population.inputs is not None:
        x = population.inputs.pack(x, argument)
    x = checks.as_inputs(x, program.input_shape, population.example_input.dtype, argument)
    _check_indices(population.networks[0], x, argument)
    return x


def _check_indices(network: TracedNetwork, x: Tensor, argument: str) -> None:
    """Raise unless embeddings have a row for each index that they read in x."""
    program = network.architecture.program
    for weight, indices in program.embedded:
        read, rows = program.run(network.state, x, [indices])[indices], len(network.state[weight])
        if int(read.min()) < 0 or int(read.max()) >= rows:
            got = f"{int(read.min())} to {int(read.max())}"
            cure = "pass the tokens of the members' own tokenizer, and no more positions than they have"
            raise InputError(f"{argument} must have indices from 0 to {rows - 1} for '{weight}', got {got}", cure=cure)


def check_population(population: object) -> None:
    """Raise unless this is a population."""
    if not isinstance(population, Population):
        cure = "Population.from_modules(modules, example_input) makes one"
        raise InputError(f"population must be a consilience.Population, got {describe(population)}", cure=cure)


def calibration_inputs(population: Population, given: object, argument: str) -> Tensor:
    """Return inputs as the members take them; raise unless rows differ; warn of numbers unlike the example inputs'.

    The example inputs of a population that was trained here are rows that it was trained on. Those that commands draw
    at random for a folder of checkpoints say nothing of the members' inputs.
    """
    x = as_inputs(population, given, argument)
    if bool((x == x[:1]).all()):
        message = f"{argument} must have rows that differ, got {len(x)} copies of one row"
        raise InputError(message, cure="pass inputs like those that the members were trained on")
    if not x.is_floating_point() or population.provenance.get(RANDOM_EXAMPLE):
        return x
    rows, example = x.double(), population.example_input.double()
    (spread, mean), (expected, center) = ((float(values.std()), float(values.mean())) for values in (rows, example))
    unlike = ""
    if expected > 0 and not expected / UNLIKE <= spread <= expected * UNLIKE:  # a single number has no spread: NaN
        unlike = f"a spread of {spread:.3g} where the members' example inputs have {expected:.3g}"
    elif expected > 0 and abs(mean - center) > UNLIKE * expected:
        unlike = f"a mean of {mean:.3g} where the members' example inputs have {center:.3g}, spread {expected:.3g}"
    if unlike:
        advice = "scale the samples as those that the members were trained on"
        warn(f"{argument} has {unlike}: {advice}", CalibrationWarning)
    return x


def warn_of_few(x: Tensor, n_positions: float, n_unknowns: int, where: str, least: int = 2) -> None:
    """Warn if samples x (n, ...), copies left out, at positions are fewer rows than twice the unknowns of each fit.

    With fewer than ``least`` samples, none can be held out to compare networks on.
    """
    n = len({hash(row.tobytes()) for row in x.contiguous().numpy()})
    n_rows, reasons = round(n * n_positions), list[str]()
    if n_rows < 2 * n_unknowns:
        reasons.append(f"{n_rows} rows for {n_unknowns} unknowns of each unit of {where}")
    if n < least:
        reasons.append("too few to hold any out (a member that fits is returned as it is)")
    if reasons:
        copies = "" if n == len(x) else f" and {len(x) - n} copies of them"
        warn(
            f"calibration has {n} samples{copies}, {' and '.join(reasons)}: the network may be worse than one built "
            f"without data; pass {max(least, math.ceil(2 * n_unknowns / n_positions))} samples or more",
            CalibrationWarning,
        )


def check_equal_widths(population: Population) -> None:
    """Raise unless all members have the same width in each layer."""
    for layer in population.architecture.free:
        widths = population.widths(layer.name)
        if len(set(widths)) > 1:
            cure = "use transport_fusion, probabilistic_matching or an assembly"
            raise InputError(f"members must have equal widths, got {widths} in layer '{layer.name}'", cure=cure)


def check_side_by_side(population: Population) -> None:
    """Raise unless the members' units can be put side by side in one network that computes what they compute."""
    check_poolable(population)
    architecture = population.architecture
    cure = "such networks can be compared, not merged"
    if architecture.crossing:
        names = ", ".join(map(repr, architecture.crossing))
        raise InputError(f"each weight must be of one layer's units, got {names} shared with another layer", cure=cure)
    fixed = [n for n in architecture.layers if not n.interchangeable and n.name not in architecture.heads]
    if fixed:
        gates = any("softmax" in layer.activations for layer in fixed)
        why = (
            "weigh experts, of which each member has its own"
            if gates
            else "add to the inputs or multiply with a fixed mask"
        )
        got = f"{', '.join(repr(layer.name) for layer in fixed)}, which {why}"
        raise InputError(f"units of every hidden layer must be interchangeable, got layers {got}", cure=cure)


def check_poolable(population: Population) -> None:
    """Raise if what the members pool, before a tail that is not affine, is the same in any order of its units.

    Unit i of one member is then none of another's, as in a sum of products of two branches.
    """
    network, x = population.networks[0], population.example_input
    program, generator = network.architecture.program, torch.Generator().manual_seed(0)
    if not program.is_bent:
        return
    values = program.run(network.state, x, [*program.pooled, program.returned])
    outputs, pooled = values[program.returned], {name: values[name] for name in program.pooled}
    for width in sorted({value.shape[1] for value in pooled.values() if value.dim() == 2} - {1}):
        own = {name: value for name, value in pooled.items() if value.dim() == 2 and value.shape[1] == width}
        order = torch.arange(width).roll(1)
        permuted = {name: value[:, order] for name, value in own.items()}
        moved = {n: v + v.std() * torch.randn(v.shape, dtype=v.dtype, generator=generator) for n, v in own.items()}
        same, other = (
            deviation(program.run(network.state, x, [program.returned], {**pooled, **each})[program.returned], outputs)
            for each in (permuted, moved)
        )
        if same <= SAME < other:
            message = f"outputs must change with the order of the {width} units that they are computed of, got a sum"
            raise InputError(message, cure=TOTAL)
