"""The data of a command: what the user names, or what the population was trained on, with the same split.

A request has the content of its data, so that a file that changes under its name is other data. Its path is kept only
where later commands need it, in a population: relative to it, if it was given relative, so that it is found from
anywhere.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from consilience.checks import check_count, describe
from consilience.data import Data, Dataset, load_data
from consilience.data.content import content_of, is_file_name, split_name, text_of
from consilience.errors import ArtefactError, InputError
from consilience.names import Scaled, Task
from consilience.population import Population
from consilience.population.checks import as_inputs
from consilience.population.pretrained import is_pretrained
from consilience.schema import read_entries
from consilience.several import are_several
from consilience.store import read_config
from consilience.store.config import CONFIG
from consilience.studies.request import Reading

KINDS = {"classification": "classes", "regression": "numbers", "multilabel": "labels", "next-token": "tokens"}


@dataclass(frozen=True)
class Source:
    """Data that is there.

    Attributes
    ----------
    name : what `load_data` takes.
    content : digest of a file; empty for a name, such as ``"digits"``.
    random_state : seed of the split.
    layout, columns, target, task, input_scale, target_scale, context, subwords, labels : how it is read, as in
        `load_data`.
    scaled_as : other data, whose scales are used.
    """

    name: str
    content: str
    random_state: int
    layout: str = "auto"
    columns: tuple[str, ...] = ()
    target: tuple[str, ...] = ()
    task: Task | None = None
    input_scale: Scaled = "auto"
    target_scale: Scaled = "auto"
    context: int | None = None
    subwords: int | None = None
    labels: str | None = None
    scaled_as: Source | None = None

    def load(self) -> Data:
        """Read and split the data."""
        scaling = None if self.scaled_as is None else self.scaled_as.load().scaling
        options = {**self.reading, "target": self.target or None, "scaling": scaling}
        return load_data(self.name, random_state=self.random_state, **options)

    @property
    def reading(self) -> dict[str, Any]:
        """The options by which it is read."""
        return {option.name: getattr(self, option.name) for option in fields(Reading)}

    def entries(self, data: str | None) -> dict[str, Any]:
        """Return what the request of a result says of its data; ``data`` is the name that the user gave, if any."""
        name = data
        if data is not None and is_file_name(data):
            prefix, path = split_name(data)
            name = prefix + Path(path).name
        reading = {option: value for option, value in self.reading.items() if value != getattr(Reading(), option)}
        if len(self.target) == 1:
            reading["target"] = self.target[0]  # as requests of older versions have it
        return {"data": name, **({"data_content": self.content} if self.content else {}), **reading}

    def stored_name(self, directory: Path) -> str:
        """Return the name for a ``config.json``: a relative path is taken relative to the artefact."""
        prefix, name = split_name(self.name)
        path = Path(name).expanduser()
        if not is_file_name(self.name) or path.is_absolute():
            return self.name
        try:
            return prefix + Path(os.path.relpath(path.resolve(), directory.resolve())).as_posix()
        except ValueError:  # on another drive of Windows
            return prefix + str(path.resolve())


@dataclass(frozen=True)
class Trained:
    """What the request that made a population says of its data; empty for anything else."""

    data: str | None = None
    data_content: str = ""
    seed: int | None = None
    layout: str = "auto"
    columns: tuple[str, ...] = ()
    target: str | tuple[str, ...] = ()
    task: Task | None = None
    input_scale: Scaled = "auto"
    target_scale: Scaled = "auto"
    context: int | None = None
    subwords: int | None = None
    labels: str | None = None

    @property
    def reading(self) -> dict[str, Any]:
        """The options by which it was read."""
        target = (self.target,) if isinstance(self.target, str) else self.target
        return {**{option.name: getattr(self, option.name) for option in fields(Reading)}, "target": target}

    @property
    def is_scaled(self) -> bool:
        """Whether inputs or targets were scaled by what is in the data."""
        inputs = {"auto": _kind(self.data or "") == ".csv", "standardize": True}
        return inputs.get(self.input_scale, False) or (self.task == "regression" and self.target_scale != "none")


@dataclass(frozen=True)
class _Config:
    request: Mapping[str, Any] = field(default_factory=dict)


def request_of(population: str | Path) -> dict[str, Any]:
    """Return the request that made a population; nothing for anything else."""
    path = Path(population)
    config = read_config(path) if (path / CONFIG).is_file() and not is_pretrained(path) else {}
    return dict(read_entries(_Config, config, path / CONFIG).request) if config.get("kind") == "population" else {}


def _is_population(directory: Path) -> bool:
    with contextlib.suppress(ArtefactError):  # a config of another program
        return bool(read_config(directory, "population"))
    return False


def trained_on(population: str | Path) -> Trained:
    """Return what is known of the data that a population was trained on."""
    return read_entries(Trained, request_of(population), Path(population) / CONFIG)


def named(data: str, random_state: int, reading: Reading, trained: Trained | None = None) -> Source:
    """Return the data that the user names; raise an `InputError` if its file is not there.

    It is read by the options given; those at their defaults are as when the population was trained, on a file of the
    same kind; of another kind, the task alone.
    """
    if not data:
        raise InputError("data must be a name or a path, got nothing", cure="leave it out, or pass a path")
    options = {option.name: getattr(reading, option.name) for option in fields(Reading)}
    if trained is not None and trained.data is not None:
        shared = options if _kind(trained.data) == _kind(data) else {"task": None}
        options |= {name: trained.reading[name] for name in shared if options[name] == getattr(Reading(), name)}
    return Source(data, content_of(data), random_state, **options)


def _kind(data: str) -> str:
    if text_of(data) is not None:
        return ".txt"
    return Path(data).suffix.lower() if is_file_name(data) else data


def source_of(population: str | Path, data: str | None, random_state: int, reading: Reading) -> Source:
    """Return the data that the user names or, by default, that a population was trained on; split as then.

    Raises
    ------
    InputError : if it is unknown, its file is missing, or the file is not that of then.
    """
    trained = trained_on(population)
    seed = random_state if trained.seed is None else trained.seed
    if data is not None:
        return _for_members(named(data, seed, reading, trained), population, trained)
    if trained.data is None:
        inside = [file.parent for file in sorted(Path(population).glob(f"*/{CONFIG}")) if _is_population(file.parent)]
        cure = f"pass {inside[0]}" if inside else "pass --data, or a population made by train"
        raise InputError(f"the data that {population} was trained on is unknown", cure=cure)
    name = _place(trained.data, Path(population))
    source = named(name, seed, reading, trained)
    if trained.data_content and source.content != trained.data_content:
        message = f"data must be what {population} was trained on, got another content of {name}"
        raise InputError(message, cure="put the file of then back, or pass --data to use this one")
    return source


def _for_members(source: Source, population: str | Path, trained: Trained) -> Source:
    """Return data at the scales that members take: those of the data that they were trained on, or as they are."""
    if trained.data is None:
        inputs, targets = source.input_scale, source.target_scale
        return replace(
            source,
            input_scale="none" if inputs == "auto" else inputs,
            target_scale="none" if targets == "auto" else targets,
        )
    same = source.content == trained.data_content if trained.data_content else source.name == trained.data
    if same or not trained.is_scaled:
        return source
    return replace(source, scaled_as=source_of(population, None, source.random_state, Reading()))


def known_source(population: str | Path, data: str | None, random_state: int, reading: Reading) -> Source | None:
    """Return what `source_of` does, and None where the data is unknown."""
    known = data is not None or trained_on(population).data is not None
    return source_of(population, data, random_state, reading) if known else None


def _place(name: str, population: Path) -> str:
    """Return where data is that a population names; older ones name it relative to where the command was run."""
    prefix, path = split_name(name)[0], Path(split_name(name)[1]).expanduser()
    if not is_file_name(name) or path.is_absolute():
        places = [path]
    else:
        places = [Path(os.path.normpath(population.resolve() / path)), path]
    if is_file_name(name) and not any(place.is_file() for place in places):
        message = f"data must be what {population} was trained on, in {places[0]}, got no file"
        raise InputError(message, cure="put it back there, or pass its path as --data")
    return next((prefix + str(place) for place in places if place.is_file()), name)


def sole(x: Any) -> Any:
    """Return the one input of a dict that has a single one; others as they are."""
    return next(iter(x.values())) if isinstance(x, Mapping) and len(x) == 1 else x


def packed(population: Population, samples: Dataset) -> Dataset:
    """Return samples with several inputs side by side in one tensor, as the members take them; others as they are.

    Members that take a tuple get the inputs in the order in which they were named.
    """
    inputs = population.inputs
    if not are_several(samples.x):
        if inputs is not None and tuple(samples.x.shape[1:]) != population.architecture.program.input_shape:
            wanted = ", ".join(map(repr, inputs.names)) or f"{len(inputs.shapes)} in a tuple"
            columns = " ".join(inputs.names) or " ".join(f"x{i}" for i in range(len(inputs.shapes)))
            cure = f"pass a .npz file with them and --columns {columns}"
            cure += "" if inputs.names else ", or other names of its arrays, in the order of the forward pass"
            raise InputError(
                f"data must have the inputs of the members, {wanted}, got {describe(samples.x)}", cure=cure
            )
        return samples
    if inputs is None and len(samples.x) == 1:
        return replace(samples, x=sole(samples.x))
    if inputs is None:
        got = ", ".join(map(repr, samples.x))
        raise InputError(f"data must have the one input of the members, got {got}", cure="leave --columns out")
    x = samples.x if inputs.names or not isinstance(samples.x, Mapping) else tuple(samples.x.values())
    return replace(samples, x=inputs.pack(x, "data"))


def fitted(population: Population, data: Data) -> Data:
    """Return data with inputs as the members take them; raise unless it has the inputs and targets of a population."""
    train, calibration = packed(population, data.train), packed(population, data.calibration)
    validation, test = packed(population, data.validation), packed(population, data.test)
    data = replace(data, train=train, calibration=calibration, validation=validation, test=test)
    shape, n_outputs = tuple(data.test.x.shape[1:]), population.architecture.n_outputs
    wanted, kind = population.architecture.program.input_shape, KINDS[data.task]
    if data.task == "next-token" and data.vocabulary is None and data.n_outputs < n_outputs:
        data = replace(data, n_classes=n_outputs)  # some tokens are in no row
    if shape != wanted or data.n_outputs != n_outputs:
        raise InputError(
            f"{data.name} must have inputs {wanted} and {n_outputs} {kind}, got inputs {shape} and {data.n_outputs} "
            f"{kind}",
            cure="pass the data the members were trained on, and their --task",
        )
    if population.task not in (None, data.task):
        got, cure = f"{data.task} of {data.name}", f"pass --task {population.task}, or other data"
        raise InputError(f"the task must be that of the members, {population.task}, got {got}", cure=cure)
    for part in (data.calibration, data.validation, data.test):
        as_inputs(population, part.x, f"inputs of {data.name}")
    return data


def unseen_source(sources: Sequence[str], data: str | None, random_state: int, reading: Reading) -> Source:
    """Return the data named, or that of the first population whose data is known."""
    known = next((source for source in sources if trained_on(source).data is not None), None)
    if data is not None:
        if known is None:
            return named(data, random_state, reading)
        return _for_members(named(data, random_state, reading, trained_on(known)), known, trained_on(known))
    if known is None:
        raise InputError(f"the data that {' '.join(sources)} were trained on is unknown", cure="pass --data")
    return source_of(known, None, random_state, reading)


def unseen_samples(sources: Sequence[str], source: Source, random_state: int, n: int) -> Dataset:
    """Return up to n test samples that no population was trained on, as far as the populations' requests say."""
    check_count("samples", n, least=2)
    tests = []
    for population in sources:
        trained = trained_on(population)
        same = trained.data_content == source.content if trained.data_content else trained.data == source.name
        if same and trained.data is not None:
            seed = random_state if trained.seed is None else trained.seed
            tests.append(replace(source, random_state=seed).load().test)
    samples = tests[0] if tests else replace(source, random_state=random_state).load().test
    for other in tests[1:]:
        samples = samples.take(torch.isin(samples.ids, other.ids).nonzero()[:, 0])
    return samples.sample(n, random_state)
