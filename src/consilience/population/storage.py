"""A population on disk: ``config.json``, sharded safetensors and, if it was trained here, ``metrics.jsonl``.

The config has the proof of every member: on loading, members whose program and numbers are those that this version
of the package and of torch has proved are not proved again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from consilience.errors import ArtefactError, ConsilienceError, InputError
from consilience.names import Task
from consilience.population.member import Member, StoredMember, as_it_is, join_members
from consilience.schema import AGAIN
from consilience.signals.shelf import Each
from consilience.store import Artefact, digest, flatten, open_artefact, read_artefact, write_artefact
from consilience.store.config import CONFIG
from consilience.store.network import build_network, describe_network, is_foreign
from consilience.units.architecture import Architecture, TracedNetwork, read_state
from consilience.units.follow import find_layers
from consilience.units.inputs import Inputs, inputs_of, take_packed
from consilience.units.modules import plain_copy
from consilience.units.resize import fill
from consilience.units.states import States, StoredState
from consilience.units.written_out import write_out
from consilience.versions import versions

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
    inputs = inputs_of(contents.members[0].module)
    by_epoch = {str(epoch): kept for epoch, kept in contents.snapshots.items()}
    groups = {"members": contents.members, **by_epoch}
    proofs = {name: [member.proof for member in members] for name, members in groups.items()}
    config = {
        **(extra_config or {}),
        "members": [describe_network(member.module) for member in contents.members],
        "failed": {str(k): why for k, why in contents.failed.items()},
        "provenance": contents.provenance,
        "task": contents.task,
        **({} if inputs is None else {"inputs": inputs.as_json}),
        "output": contents.members[0].network.architecture.program.pick,
        "proved": {**versions(), **proofs},
    }
    tensors: dict[str, Any] = {"example_input": contents.example_input, "members": member_tensors(contents.members)}
    if by_epoch:
        config["snapshots"] = list(contents.snapshots)
        tensors["snapshots"] = {epoch: member_tensors(kept) for epoch, kept in by_epoch.items()}
    lines = "".join(json.dumps(record, sort_keys=True) + "\n" for record in contents.metrics)
    return write_artefact(directory, KIND, config, tensors, extra_files={METRICS: lines} if lines else None)


def read_population(
    directory: str | os.PathLike[str], module: nn.Module | None = None, *, stored: bool = False
) -> Contents:
    """Read a population; see `Population.load` and, for members that stay on disk (``stored``), `Population.open`."""
    artefact = open_artefact(directory, KIND) if stored else read_artefact(directory, KIND)
    entries = artefact.entries(_Entries)
    if not entries.members:
        raise ArtefactError(f"{artefact.directory} must hold at least one member, got none")
    x, proved = artefact.tensors.get("example_input"), entries.proved
    if x is None or not x.dim() or not len(x):
        raise ArtefactError(f"{artefact.directory} must hold example inputs (n, ...), got none", cure=AGAIN)
    module = None if module is None else plain_copy(module, "module")
    if module is not None and entries.inputs is not None:
        take_packed([module], entries.inputs)
    if module is not None:
        write_out([module], x, entries.output)
    given = None if module is None else (module, find_layers(module, x, entries.output))
    current = all(version not in ("unknown", "") and proved.get(k) == version for k, version in versions().items())

    def members(old: Sequence[Member], *names: object) -> tuple[Member, ...]:
        proofs = proved.get(str(names[-1]), ()) if current else ()
        modules = Each(len(entries.members), lambda k: _module(artefact, (*names, k), k, given))
        keep = _stored(modules, artefact, names) if stored else as_it_is
        return join_members(old, modules, x, proofs=proofs, output=entries.output, keep=keep)[len(old) :]

    try:
        first = members((), "members")
        snapshots = {epoch: members(first, "snapshots", epoch) for epoch in entries.snapshots}
    except ConsilienceError as error:
        error.add_note(f"in the population {artefact.directory}")
        raise
    records = _metrics(artefact)
    return Contents(
        members=first,
        example_input=x,
        failed={int(k): why for k, why in entries.failed.items()},
        provenance=entries.provenance,
        metrics=records,
        task=entries.task if "task" in artefact.config else _task_of(records),
        snapshots=snapshots,
    )


@dataclass(frozen=True)
class _Entries:
    """What the config has beside its header and the entries of whoever saved the population."""

    members: tuple[Mapping[str, Any], ...]  # descriptions
    failed: Mapping[str, str]  # by number in decimal digits
    provenance: Mapping[str, Any]
    proved: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)  # versions, and proofs by group
    task: Task | None = None
    output: str | int | None = None
    snapshots: tuple[int, ...] = ()  # epochs
    inputs: Inputs | None = None

    def __post_init__(self) -> None:
        wrong = [k for k in self.failed if not (k.isascii() and k.isdecimal())]
        if wrong:
            raise ValueError(f"failed must have the numbers of members, got {wrong[0]!r}")


def _metrics(artefact: Artefact) -> tuple[dict[str, Any], ...]:
    if not artefact.has(METRICS):
        return ()
    path = artefact.directory / METRICS
    try:
        records = tuple(json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    except ValueError as error:
        raise ArtefactError(f"{path} must have one JSON object in each line, got {error}", cure=AGAIN) from error
    if not all(isinstance(record, dict) for record in records):
        raise ArtefactError(f"{path} must have one JSON object in each line, got another value", cure=AGAIN)
    return records


def member_tensors(members: Iterable[Member]) -> dict[str, dict[str, Any]]:
    """Return the members' tensors by number and name, with the buffers that a state dict leaves out."""
    return {str(k): _tensors(member) for k, member in enumerate(members)}


def fingerprint_of(members: Sequence[Member]) -> str:
    """Return the SHA-256 of `member_tensors`, with one member after the other in memory."""
    order = sorted(range(len(members)), key=lambda k: f"{k}/")
    return digest(item for k in order for item in flatten({str(k): _tensors(members[k])}).items())


def _tensors(member: Member) -> dict[str, Tensor]:
    module = member.module
    return {**module.state_dict(), **dict(module.named_buffers())}


def _task_of(metrics: Sequence[Mapping[str, Any]]) -> str | None:
    """The task of members that an older version trained: accuracies were recorded for labels alone."""
    if not metrics:
        return None
    return "classification" if "accuracy" in metrics[0] else "regression"


def _module(
    artefact: Artefact, names: tuple[object, ...], k: int, given: tuple[nn.Module, Architecture] | None
) -> nn.Module:
    """Member k, with the tensors that lie under these names."""
    place, source = f"members[{k}] in {artefact.directory / CONFIG}", f"member {k} of {artefact.directory}"
    net, state = artefact.config["members"][k], artefact.part(*names)
    if not is_foreign(net):
        return build_network(net, state, place, source)
    if given is None:
        message = "module must be given for members that are not of consilience.nets, got none for "
        raise InputError(f"{message}{net.get('class')}", cure="pass module=, a module of that class")
    return fill(*given, state, source)


def _stored(
    modules: Sequence[nn.Module], artefact: Artefact, names: tuple[object, ...]
) -> Callable[[int, Member], Member]:
    """Return what keeps of a member only where it lies."""
    parameters = dict[int, Sequence[str]]()

    def read(k: int) -> Mapping[str, Tensor]:
        if is_foreign(artefact.config["members"][k]):  # whose class decides about types
            return read_state(modules[k])
        tensors = artefact.part(*names, k)
        return {name: tensors[name] for name in parameters[k]}

    states = States(read)

    def keep(k: int, member: Member) -> Member:
        parameters[k] = same(tuple(member.network.state))
        network = TracedNetwork(member.network.architecture, StoredState(states, k))
        return StoredMember(partial(modules.__getitem__, k), network, member.proof)

    @cache
    def same(parts: tuple[str, ...]) -> tuple[str, ...]:
        return parts

    return keep
