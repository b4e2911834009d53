"""The rival of every merge: one network trained to compute what the ensemble computes, without labels."""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from consilience.assembly.contest import LEAST_ROWS
from consilience.assembly.distillation import distill, distillation_of
from consilience.assembly.nearness import mean_error, nearest
from consilience.assembly.output_units import OutputUnits
from consilience.assembly.pooling import Pooled, mean
from consilience.baselines.fuse import Widths, layer_widths
from consilience.baselines.widening import net2wider
from consilience.checks import check_choice
from consilience.errors import CalibrationWarning, InputError, warn
from consilience.population.checks import calibration_inputs, check_poolable, check_population
from consilience.population.mixtures import with_mixtures
from consilience.population.population import Population
from consilience.seeds import INITIALISATION, seed
from consilience.signals.batches import BATCH_SIZE
from consilience.signals.responses import Responses
from consilience.training.fresh import initialise
from consilience.units.architecture import TracedNetwork, read_state, write_state
from consilience.units.modules import plain_copy
from consilience.units.resize import resize

STARTS = ("member", "fresh", "net2wider")


def distil(
    population: Population,
    calibration: Tensor,
    *,
    start: str | nn.Module = "member",
    width: Widths | None = None,
    random_state: int = 0,
    **distillation: Any,
) -> nn.Module:
    """Distill the ensemble of a population into one network of the members' class.

    The same steps, data, rates and held-out rows as ``correction="distill"``, from another start (Hinton, Vinyals and
    Dean 2015).

    Parameters
    ----------
    population : members of any widths.
    calibration : inputs (n, ...), n ≥ 2; a tenth is held out. To few rows, mixtures of them are added
        (`consilience.population.mixtures`).
    start : "member", the member nearest to the ensemble on all rows; "fresh", initial values, with outputs in the
        ensemble's units; "net2wider", that member made wider; or a module of the members' class.
    width : of a fresh network or one made wider: an int, a multiple of the members' median width, or a dict by layer;
        by default "1x" of a fresh network, "2x" of one made wider.
    random_state : seed of batches and initial values.
    **distillation : ``steps``, ``batch_size``, ``learning_rate``, ``batches``, ``augmentation`` and ``progress``, as in
        `consilience.assembly.distillation.Distillation`.

    Returns
    -------
    A module in eval mode; its ``distillation_`` says what was gained.
    """
    check_population(population)
    if len(population) == 0:
        raise InputError("population must have at least 1 member, got none")
    check_poolable(population)
    calibration = calibration_inputs(population, calibration, "calibration")
    if len(calibration) < LEAST_ROWS:
        warn(
            f"calibration has {len(calibration)} samples: what is nearer to the ensemble on them may be further from "
            f"it on others; pass {LEAST_ROWS} samples or more",
            CalibrationWarning,
        )
    if width is not None and start not in ("fresh", "net2wider"):
        raise InputError(f"width must be None unless start is 'fresh' or 'net2wider', got {width!r}")
    teacher = Pooled(population.networks, mean(Responses.without_data(population.networks, population.example_input)))
    module = (
        _own(start, population)
        if isinstance(start, nn.Module)
        else _start(population, calibration, start, width, random_state, teacher)
    )
    return distill(
        module,
        population.architecture,
        with_mixtures(calibration, population),
        teacher,
        task=population.task,
        options=distillation_of("distill", distillation),
        random_state=random_state,
    )


def _own(start: nn.Module, population: Population) -> nn.Module:
    """A plain copy of a module of the members' class, or raise."""
    module = plain_copy(start, "start")
    if not population.architecture.fits(read_state(module)):
        name = type(population.members[0].module).__name__
        raise InputError(f"start must be a {name}, as the members, got other parameters in {type(start).__name__}")
    return module


def nearest_member(population: Population, x: Tensor) -> int:
    """Return the member nearest to the ensemble on inputs x (n, ...), without labels: no row has been fitted."""
    dim = population.architecture.returned.dim

    def outputs(member: TracedNetwork) -> Tensor:
        return torch.cat([member(rows) for rows in x.split(BATCH_SIZE)]).movedim(dim, -1).flatten(0, -2)

    with torch.no_grad():
        ensemble = reduce(torch.add, map(outputs, population.networks)) / len(population)
        return nearest([mean_error(outputs(member), ensemble, population.task) for member in population.networks])


def _start(
    population: Population, x: Tensor, start: str, width: Widths | None, random_state: int, teacher: Pooled
) -> nn.Module:
    check_choice("start", start, STARTS)
    if start == "fresh":
        names = [layer.name for layer in population.architecture.free]
        widths = layer_widths(population, width or "1x", {name: population.median_width(name) for name in names})
        module = resize(population.members[0].module, population.architecture, widths)
        module = initialise(module, seed(random_state, INITIALISATION))
        return _in_units(module, population, x[:BATCH_SIZE], teacher)
    member = nearest_member(population, x)
    if start == "member":
        return population.members[member].module
    return net2wider(population, width or "2x", member=member, random_state=random_state)


def _in_units(module: nn.Module, population: Population, x: Tensor, teacher: Pooled) -> nn.Module:
    """Return a module with outputs multiplied and shifted into the ensemble's units on inputs x, as if standardized.

    Initial values are made for targets of mean 0 and spread 1. From others, most gradient steps would look for these.
    """
    state, architecture = read_state(module), population.architecture
    network = TracedNetwork(architecture.with_widths(architecture.widths_in(state)), state)
    with torch.no_grad():
        rows = teacher(x).movedim(architecture.returned.dim, -1).flatten(0, -2)
        units = OutputUnits.of(network, x, rows, population.task)
        write_state(module, units.restored(network).state)
    return module
