"""Networks as a population, wherever they come from: a class, an artefact, or a folder of checkpoints."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from consilience import seeds
from consilience.census import Census, load_census
from consilience.census.storage import population_of
from consilience.errors import InputError
from consilience.population import Population
from consilience.population.checks import RANDOM_EXAMPLE
from consilience.population.factories import make_module
from consilience.population.pretrained import is_pretrained, n_tokens, pretrained_in
from consilience.schema import read_entries
from consilience.store import load_network, read_config
from consilience.store.config import config_file
from consilience.store.network import FOREIGN
from consilience.training.train import N_EXAMPLES

MODULE = "pass --module package.module:Class"
Shape = Sequence[int] | None


def open_networks(
    source: str,
    module: str | None,
    example_shape: Shape,
    random_state: int,
    key: str | None = None,
    output: str | None = None,
) -> Population:
    """Return networks as a population, traced and proved on random inputs of a shape.

    ``source`` is a class or a function, ``"package.module:Class"``, or a directory: a population or network of this
    package, or a folder of checkpoints. ``module`` is the class of the networks in a directory, if it is not one of
    this package; ``key`` chooses the weights of checkpoints where several fit, ``output`` among what they return.
    """
    path = Path(source)
    if ":" in source and not path.exists():
        _check_no_key(key, source)
        x = _random_inputs(example_shape, random_state, source)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(random_state)
            return Population.from_modules([make_module(source)], x, output=parse_output(output))
    if not path.is_dir():
        raise InputError(f"there is no directory {source}", cure="check the path; a class is package.module:Class")
    if module is None and is_pretrained(path):
        _check_no_key(key, source)
        return _open_pretrained([path], example_shape, random_state, output, source=path)
    if is_population(path) and read_config(path)["kind"] == "network":
        _check_no_key(key, source)
        return _open_network(path, module, example_shape, random_state, output)
    return open_population(path, module, example_shape, random_state, key, output)


def open_population(
    directory: Path,
    module: str | None,
    example_shape: Shape = None,
    random_state: int = 0,
    key: str | None = None,
    output: str | None = None,
    task: str | None = None,
) -> Population:
    """Read a population, or the networks in a folder of checkpoints, which needs the shape; see `open_networks`.

    Checkpoints without ``module`` may be directories that Hugging Face's ``save_pretrained`` has written.

    ``task`` is what the networks in a folder are for, if it is known.
    """
    if is_population(directory) or not directory.is_dir():
        _check_no_key(key, directory)
        _check_module(module, _entries(directory).members, directory)
        population = Population.open(directory, None if module is None else make_module(module))
        _check_as_saved(population, example_shape, output, directory)
        return population
    pretrained = pretrained_in(directory)
    if module is None and pretrained:
        return _open_pretrained(pretrained, example_shape, random_state, output, directory, task)
    if module is None:
        raise InputError(
            f"the class of the networks in the folder of checkpoints {directory} must be given",
            cure=f"{MODULE}; for a population of this package, check the path",
        )
    x = _random_inputs(example_shape, random_state, directory)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\d+ of \d+ checkpoints in .* are skipped")
        population = Population.from_directory(directory, module, x, key=key, output=parse_output(output), task=task)
    return _of_random_example(population)


def _open_pretrained(
    directories: Sequence[Path],
    example_shape: Shape,
    random_state: int,
    output: str | None,
    source: Path,
    task: str | None = None,
) -> Population:
    tokens = n_tokens(directories[0])
    if tokens is not None and example_shape is not None and len(example_shape) != 1:
        got = ",".join(map(str, example_shape))
        message = f"--example-shape must be the number of tokens that the networks in {source} read, got {got}"
        raise InputError(message, cure="pass one number, as in --example-shape 8")
    x = _random_inputs(example_shape, random_state, source, tokens)
    picked = "logits" if output is None else parse_output(output)
    return _of_random_example(Population.from_pretrained(directories, x, output=picked, task=task))


def _of_random_example(population: Population) -> Population:
    return replace(population, provenance={**population.provenance, RANDOM_EXAMPLE: True})


def names_of(sources: Sequence[str], verb: str) -> list[str]:
    """Return what the populations of a command are called: the shortest ends of their paths that differ."""
    places = [Path(source).resolve() for source in sources]
    if not sources:
        raise InputError(f"{verb} must be given at least one directory")
    if len(set(places)) < len(places):
        raise InputError(f"{verb} must be given different directories, got {' '.join(sources)}")
    depth = 1
    while len({place.parts[-depth:] for place in places}) < len(places):
        depth += 1
    return ["/".join(place.parts[-depth:]) for place in places]


def is_population(directory: Path) -> bool:
    """Whether a directory is one that this package wrote, not a folder of checkpoints or a network of transformers."""
    return config_file(directory).is_file() and not is_pretrained(directory)


def check_folder(directory: Path) -> None:
    """Raise unless a directory is there that is not a single network of transformers."""
    if not directory.is_dir():
        raise InputError(f"there is no directory {directory}", cure="check the path")
    if is_pretrained(directory):
        message = f"{directory} must be a folder of networks, a directory each, got the directory of a single network"
        raise InputError(message, cure=f"pass the folder that it is in, {directory.resolve().parent}")


def parse_output(text: str | None) -> str | int | None:
    """Return the key or number of outputs from the text of an option."""
    return int(text) if text is not None and re.fullmatch("-?[0-9]{1,9}", text) else text


def _check_as_saved(population: Population, example_shape: Shape, output: str | None, directory: Path) -> None:
    shape = population.architecture.program.input_shape
    if example_shape is not None and tuple(example_shape) != shape:
        raise InputError(
            f"example_shape must be that of the inputs of {directory}, {','.join(map(str, shape))}, got "
            f"{','.join(map(str, example_shape))}",
            cure="leave it out: a population has its inputs' shape",
        )
    if output is not None and parse_output(output) != population.output:
        got = f"{output} for outputs {population.output!r}" if population.output is not None else f"{output} for all"
        raise InputError(f"output must be as {directory} was saved, got {got}", cure="leave it out")


def open_census(
    directory: Path, module: str | None, key: str | None = None, output: str | None = None
) -> tuple[Census, Path]:
    """Return a census, and where its population is; ``module`` is the class of the user's own networks.

    ``key`` and ``output`` are by default those of the request that made the census.
    """
    population, entries = population_of(directory), _entries(directory)
    request, shape = entries.request, entries.example_shape
    key, output = (request.get(name) if given is None else given for name, given in (("key", key), ("output", output)))
    options: dict[str, Any] = {"key": key, "output": output, "task": request.get("task")}
    return load_census(directory, open_population(population, module, shape, **options)), population


def _check_no_key(key: str | None, source: object) -> None:
    if key is not None:
        raise InputError(f"key must be left out except for a folder of checkpoints, got {source}")


def left_out_of(population: Population) -> Mapping[str, str]:
    """Return the files that are not among the members of a population, and why."""
    return read_entries(_Provenance, population.provenance, "the provenance of the population").left_out


@dataclass(frozen=True)
class _Provenance:
    left_out: Mapping[str, str] = field(default_factory=dict)


def parse_shape(text: str | None) -> tuple[int, ...] | None:
    """Return the shape of one sample from text such as ``3,32,32``."""
    if text is None:
        return None
    sizes = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch("[0-9]{1,18}", part) and int(part) > 0 for part in sizes):
        raise InputError(f"--example-shape must be the sizes of one input, as in 3,32,32, got {text}")
    return tuple(map(int, sizes))


def _random_inputs(shape: Shape, random_state: int, source: object, tokens: int | None = None) -> Tensor:
    """Return normally distributed inputs (n, \\*shape), or tokens, on which networks are traced and proved."""
    if shape is None:
        raise InputError(
            f"the shape of the inputs of {source} must be given", cure="pass it, as in --example-shape 3,32,32"
        )
    generator = seeds.generator(random_state)
    if tokens is not None:
        return torch.randint(tokens, (N_EXAMPLES, *shape), generator=generator)
    return torch.randn(N_EXAMPLES, *shape, generator=generator)


def _open_network(
    directory: Path, module: str | None, example_shape: Shape, random_state: int, output: str | None
) -> Population:
    entries = _entries(directory)
    _check_module(module, [entries.net], directory)
    x = _random_inputs(example_shape or entries.example_shape, random_state, directory)
    if module is None:
        return Population.from_modules([load_network(directory)], x)
    pick = parse_output(output)
    return Population.from_modules([load_network(directory, make_module(module), x, output=pick)], x, output=pick)


@dataclass(frozen=True)
class _Entries:
    """What configs of populations, networks and censuses may have."""

    members: tuple[Mapping[str, Any], ...] = ()
    net: Mapping[str, Any] = field(default_factory=dict)
    request: Mapping[str, Any] = field(default_factory=dict)
    example_shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.example_shape is not None and (min(self.example_shape, default=1) < 1):
            raise ValueError(f"example_shape must be sizes >= 1, got {self.example_shape}")


def _entries(directory: Path) -> _Entries:
    return read_entries(_Entries, read_config(directory), config_file(directory))


def _check_module(module: str | None, descriptions: Sequence[Mapping[str, Any]], directory: Path) -> None:
    """Raise if networks are of a class that is not one of this package and not given."""
    foreign = next((net for net in descriptions if net.get("type") == FOREIGN), None)
    if foreign is not None and module is None:
        raise InputError(f"the class of the networks in {directory} must be given, {foreign.get('class')}", cure=MODULE)
