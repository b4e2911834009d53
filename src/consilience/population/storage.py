"""A population on disk: ``config.json``, sharded safetensors and, if it was trained here, ``metrics.jsonl``.

The config has the proof of every member: on loading, members whose program and numbers are those that this version
of the package and of torch has proved are not proved again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from consilience.errors import ArtefactError, ConsilienceError, InputError
from consilience.population.member import Member, join_members
from consilience.store import Artefact, read_artefact, write_artefact
from consilience.store.config import versions
from consilience.store.network import FOREIGN, build_described, describe_network
from consilience.units.architecture import Architecture
from consilience.units.follow import find_layers
from consilience.units.resize import fill

KIND = "population"
METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class Contents:
    """What the directory of a population holds; see `consilience.population.Population`, whose snapshots are these."""

    members: Sequence[Member]
    example_input: Tensor
    failed: Mapping[int, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    metrics: Sequence[Mapping[str, Any]] = ()
    task: str | None = None
    snapshots: Mapping[int, Sequence[Member]] = field(default_factory=dict)


def write_population(
    contents: Contents, directory: str | os.PathLike[str], extra_config: Mapping[str, Any] | None = None
) -> Path:
    """Write a population; see `Population.save`."""
    by_epoch = {str(epoch): kept for epoch, kept in contents.snapshots.items()}
    groups = {"members": contents.members, **by_epoch}
    proofs = {name: [member.proof for member in members] for name, members in groups.items()}
    config = {
        **(extra_config or {}),
        "members": [describe_network(member.module) for member in contents.members],
        "failed": {str(k): why for k, why in contents.failed.items()},
        "provenance": contents.provenance,
        "task": contents.task,
        "proved": {**versions(), **proofs},
    }
    tensors: dict[str, Any] = {"example_input": contents.example_input, "members": member_tensors(contents.members)}
    if by_epoch:
        config["snapshots"] = list(contents.snapshots)
        tensors["snapshots"] = {epoch: member_tensors(kept) for epoch, kept in by_epoch.items()}
    lines = "".join(json.dumps(record, sort_keys=True) + "\n" for record in contents.metrics)
    return write_artefact(directory, KIND, config, tensors, extra_files={METRICS: lines} if lines else None)


def read_population(directory: str | os.PathLike[str], module: nn.Module | None = None) -> Contents:
    """Read a population; see `Population.load`."""
    artefact = read_artefact(directory, KIND)
    if not artefact.config.get("members"):
        raise ArtefactError(f"{artefact.directory} must hold at least one member, got none")
    x, config, metrics = artefact.tensors["example_input"], artefact.config, artefact.directory / METRICS
    given = None if module is None else (module, find_layers(module, x))
    proved = config.get("proved", {})
    current = all(version not in ("unknown", "") and proved.get(k) == version for k, version in versions().items())

    def members(old: Sequence[Member], *names: object) -> tuple[Member, ...]:
        proofs = proved.get(str(names[-1]), ()) if current else ()
        return join_members(old, _modules(artefact, names, given), x, proofs=proofs)[len(old) :]

    try:
        first = members((), "members")
        snapshots = {epoch: members(first, "snapshots", epoch) for epoch in config.get("snapshots", ())}
    except ConsilienceError as error:
        error.add_note(f"in the population {artefact.directory}")
        raise
    records = tuple(json.loads(line) for line in metrics.read_text().splitlines()) if metrics.exists() else ()
    return Contents(
        members=first,
        example_input=x,
        failed={int(k): why for k, why in config["failed"].items()},
        provenance=config["provenance"],
        metrics=records,
        task=config["task"] if "task" in config else _task_of(records),
        snapshots=snapshots,
    )


def member_tensors(members: Iterable[Member]) -> dict[str, dict[str, Any]]:
    """Return the members' tensors by number and name."""
    return {str(k): dict(member.module.state_dict()) for k, member in enumerate(members)}


def _task_of(metrics: Sequence[Mapping[str, Any]]) -> str | None:
    """The task of members that an older version trained: accuracies were recorded for labels alone."""
    if not metrics:
        return None
    return "classification" if "accuracy" in metrics[0] else "regression"


def _modules(
    artefact: Artefact, names: tuple[object, ...], given: tuple[nn.Module, Architecture] | None
) -> list[nn.Module]:
    modules = []
    for k, description in enumerate(artefact.config["members"]):
        state = artefact.part(*names, k)
        if description["type"] != FOREIGN:
            modules.append(build_described(description))
            modules[-1].load_state_dict(state)
        elif given is None:
            message = "module must be given for members that are not of consilience.nets, got none for "
            raise InputError(f"{message}{description.get('class')}", cure="pass module=, a module of that class")
        else:
            modules.append(fill(*given, state, f"member {k} of {artefact.directory}"))
    return modules
