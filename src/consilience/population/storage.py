"""A population on disk: ``config.json``, sharded safetensors and, if it was trained here, ``metrics.jsonl``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from consilience.errors import ArtefactError, ConsilienceError, InputError
from consilience.population.population import Population
from consilience.store import fingerprint, read_artefact, write_artefact
from consilience.store.network import FOREIGN, build_described, describe_network
from consilience.units.layers import find_layers
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
    lines = "".join(json.dumps(record, sort_keys=True) + "\n" for record in population.metrics)
    return write_artefact(directory, KIND, config, tensors, extra_files={METRICS: lines} if lines else None)


def load_population(directory: str | os.PathLike[str], module: nn.Module | None = None) -> Population:
    """Read a population; its members are traced and proved again.

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
    modules = []
    for k, description in enumerate(artefact.config["members"]):
        prefix = f"members/{k}/"
        state = {
            name.removeprefix(prefix): value for name, value in artefact.tensors.items() if name.startswith(prefix)
        }
        built = _build(description, state, module, example, f"member {k} of {artefact.directory}")
        built.load_state_dict(state)
        modules.append(built)
    metrics = artefact.directory / METRICS
    try:
        return Population.from_modules(
            modules, example, provenance=artefact.config["provenance"],
            failed={int(k): why for k, why in artefact.config["failed"].items()},
            metrics=tuple(json.loads(line) for line in metrics.read_text().splitlines()) if metrics.exists() else (),
        )  # fmt: skip
    except ConsilienceError as error:
        error.add_note(f"in the population {artefact.directory}")
        raise


def _build(
    description: Mapping[str, Any], state: Mapping[str, Tensor], module: nn.Module | None, example: Tensor, where: str
) -> nn.Module:
    """Return a network that the saved parameters fit, with other ones."""
    if description["type"] != FOREIGN:
        return build_described(description)
    if module is None:
        raise InputError(
            "the members' class is not one of this package's", where=where, got=description.get("class"),
            cure="pass module=, a module of that class",
        )  # fmt: skip
    architecture = find_layers(module, example)
    if not architecture.fits(state):
        raise ArtefactError(
            "the parameters do not fit the module given", where=where, got=f"parameters of {description.get('class')}",
            expected=f"those of {type(module).__name__}", cure="pass a module of the class that was saved",
        )  # fmt: skip
    return resize(module, architecture, architecture.widths_in(state))


def population_tensors(population: Population) -> dict[str, dict[str, Any]]:
    """Return the members' tensors by number and name."""
    return {str(k): dict(member.module.state_dict()) for k, member in enumerate(population)}


def population_fingerprint(population: Population) -> str:
    """Return a SHA-256 of all members' parameters: what a census says it was taken of."""
    return fingerprint(population_tensors(population))
