"""A population on disk: ``config.json``, sharded safetensors and, if it was trained here, ``metrics.jsonl``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from consilience.errors import ArtefactError, ConsilienceError, InputError
from consilience.population.population import Population
from consilience.store import Artefact, fingerprint, read_artefact, write_artefact
from consilience.store.network import FOREIGN, build_described, describe_network
from consilience.units.architecture import Architecture
from consilience.units.follow import find_layers
from consilience.units.resize import resize

KIND = "population"
METRICS = "metrics.jsonl"


def save_population(
    population: Population, directory: str | os.PathLike[str], extra_config: Mapping[str, Any] | None = None
) -> Path:
    """Write a population; the same population gives the same bytes.

    Raises
    ------
    ArtefactError
        If the directory holds anything but a population. Nothing has changed.
    """
    config = {
        **(extra_config or {}),
        "members": [describe_network(member.module) for member in population],
        "failed": {str(k): why for k, why in population.failed.items()},
        "provenance": population.provenance,
    }
    tensors: dict[str, Any] = {"example_input": population.example_input, "members": population_tensors(population)}
    if population.snapshots:
        config["snapshots"] = list(population.snapshots)
        tensors["snapshots"] = {str(e): population_tensors(kept) for e, kept in population.snapshots.items()}
    lines = "".join(json.dumps(record, sort_keys=True) + "\n" for record in population.metrics)
    return write_artefact(directory, KIND, config, tensors, extra_files={METRICS: lines} if lines else None)


def load_population(directory: str | os.PathLike[str], module: nn.Module | None = None) -> Population:
    """Read a population; its members are traced and proved again, those of its snapshots proved.

    Parameters
    ----------
    directory : what `save_population` wrote.
    module : a module of the members' class, for members that are not of `consilience.nets`; of any widths.

    Raises
    ------
    InputError
        If ``module`` is needed and not given.
    ArtefactError
        If the directory is no population, or damaged, or the parameters do not fit.
    """
    artefact = read_artefact(directory, KIND)
    example = artefact.tensors["example_input"]
    given = None if module is None else (module, find_layers(module, example))
    modules = _members(artefact, "members", given)
    metrics = artefact.directory / METRICS
    try:
        population = Population.from_modules(
            modules, example, provenance=artefact.config["provenance"],
            failed={int(k): why for k, why in artefact.config["failed"].items()},
            metrics=tuple(json.loads(line) for line in metrics.read_text().splitlines()) if metrics.exists() else (),
        )  # fmt: skip
        for epoch in artefact.config.get("snapshots", ()):
            population = population.with_snapshot(epoch, _members(artefact, f"snapshots/{epoch}", given))
        return population
    except ConsilienceError as error:
        error.add_note(f"in the population {artefact.directory}")
        raise


def fill(module: nn.Module, architecture: Architecture, state: Mapping[str, Tensor], where: object) -> nn.Module:
    """Return a copy of a module with the parameters and buffers of ``state``, and with the widths that they have.

    Parameters
    ----------
    module : of any widths; it stays as it is, and so do the types of its tensors.
    architecture : its layers, from `find_layers`.
    state : tensors by name. Batch norm's ``num_batches_tracked``, which older versions did not save, may be missing.
    where : what the state was read from, for messages.

    Raises
    ------
    ArtefactError
        If names are missing or not expected, or a tensor has a kind of number or a shape that the module has at no
        widths.
    InputError
        If the module does not run at these widths.
    """
    own = module.state_dict()
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    extra = [name for name in state if name not in own]
    problems = [f"{what}: {_some(names)}" for what, names in (("missing", missing), ("not expected", extra)) if names]
    if problems:
        raise _unfit(module, where, "; ".join(problems), f"the {len(own)} tensors of its state dict")
    for name, value in state.items():
        if value.dim() != own[name].dim():
            raise _unfit(module, where, f"'{name}' {tuple(value.shape)}", f"{own[name].dim()} axes")
        if value.is_floating_point() != own[name].is_floating_point():
            raise _unfit(module, where, f"'{name}' of {value.dtype}", f"{own[name].dtype}")
    found = architecture.widths_in(state)
    widths = {layer.name: found[layer.name] for layer in architecture.hidden}
    for name, shape in architecture.shapes(widths, own).items():
        if name in state and tuple(state[name].shape) != shape:
            raise _unfit(module, where, f"'{name}' {tuple(state[name].shape)}", f"{shape} at these widths")
    filled = resize(module, architecture, widths)
    filled.load_state_dict(state, strict=False)  # names have been compared
    return filled


def _unfit(module: nn.Module, where: object, got: str, expected: str) -> ArtefactError:
    return ArtefactError(
        "the parameters do not fit the module given", where=where, got=got,
        expected=f"{expected}, as in {type(module).__name__}", cure="pass a module of the members' class",
    )  # fmt: skip


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def _members(artefact: Artefact, folder: str, given: tuple[nn.Module, Architecture] | None) -> list[nn.Module]:
    """Return the members whose tensors lie under this name."""
    modules = []
    for k, description in enumerate(artefact.config["members"]):
        prefix = f"{folder}/{k}/"
        state = {
            name.removeprefix(prefix): value for name, value in artefact.tensors.items() if name.startswith(prefix)
        }
        modules.append(_build(description, state, given, f"member {k} of {artefact.directory}"))
    return modules


def _build(
    description: Mapping[str, Any],
    state: Mapping[str, Tensor],
    given: tuple[nn.Module, Architecture] | None,
    where: str,
) -> nn.Module:
    """Return the network that was saved."""
    if description["type"] != FOREIGN:
        built = build_described(description)
        built.load_state_dict(state)
        return built
    if given is None:
        raise InputError(
            "the members' class is not one of this package's", where=where, got=description.get("class"),
            cure="pass module=, a module of that class",
        )  # fmt: skip
    return fill(*given, state, where)


def population_tensors(population: Population) -> dict[str, dict[str, Any]]:
    """Return the members' tensors by number and name."""
    return {str(k): dict(member.module.state_dict()) for k, member in enumerate(population)}


def population_fingerprint(population: Population) -> str:
    """Return a SHA-256 of all members' parameters: what a census says it was taken of."""
    return fingerprint(population_tensors(population))
