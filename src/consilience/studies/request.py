"""What a command is asked to do: its options, and which of them identify its result.

Each command has a frozen dataclass ``Request`` of plain values, which the command line reads. The metadata of a field
has its role: `INPUT` (a place, identified by what it holds), `OUTPUT`, `PRESENTATION` or, without one, an option that
belongs to the identity of the request. Importing a request does not import torch, so that ``--help`` answers at once.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from inspect import signature
from pathlib import Path
from typing import Any

from consilience.errors import InputError
from consilience.names import Layout, Scaled, Task

INPUT, PRESENTATION = {"role": "input"}, {"role": "presentation"}
OUTPUT = {"role": "output", "argument": "directory"}
POSITIONAL = {"role": "input", "positional": True}  # an input that is given without a flag
DISTINCT = ("epochs", "checkpoint_epochs", "layers")  # options whose values are names or places
LARGEST = 2**63  # of what torch can hold
ADDED = {"role": "added"}  # an option that older requests lack; at its default, the identity is as it was then


def argument(name: str) -> dict[str, str]:
    """Return the metadata of an option that is a parameter of another name."""
    return {"argument": name}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of every command."""

    seed: int = field(default=0, metadata=argument("random_state"))
    """Seed of all random numbers."""
    threads: int = field(default=1, metadata=PRESENTATION)
    """Threads for linear algebra. One is fastest for small networks; the last bits of results may depend on it."""
    engine: str = field(default="serial", metadata=PRESENTATION)
    """Where tasks run: serial, processes:N or dask:ADDRESS. Results are the same bytes."""
    device: str = field(default="cpu", metadata=ADDED)
    """Where networks are trained and run: cpu, cuda, cuda:N or mps. Results differ by rounding."""
    json: bool = field(default=False, metadata=PRESENTATION)
    """Print the result as JSON."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where a command writes."""

    out: Path = field(metadata=OUTPUT)
    """Directory to write: new, empty, or with an earlier result of this command."""


@dataclass(frozen=True, kw_only=True)
class OwnNetworks:
    """Networks of a class that is not one of this package."""

    module: str | None = None
    """Class of your own networks, as in package.module:Class, or a function that returns one; it is imported."""
    key: str | None = field(default=None, metadata=ADDED)
    """Which weights of a checkpoint file, where several fit: a key of the file, or a prefix of names, as in ema."""
    output: str | None = field(default=None, metadata=ADDED)
    """Key or number of the outputs among what your own networks return, as in logits; by default all."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a file of data is read; by default as the population's was, if it is of the same kind."""

    layout: Layout = field(default="auto", metadata=INPUT)
    """Layout of images in a .npz file, where it cannot be told from their shape; rows leaves the axes as they are."""
    columns: tuple[str, ...] = field(default=(), metadata=INPUT)
    """Columns of a .csv or .parquet file that are inputs; by default all but the targets.
    Of a .npz file, the names of several inputs: of x mask, the arrays x_train, x_test, mask_train and mask_test."""
    target: tuple[str, ...] = field(default=(), metadata=INPUT)
    """Column of a .csv or .parquet file with the labels or numbers to predict, or several; by default label or y."""
    task: Task | None = field(default=None, metadata=INPUT)
    """What targets are: classes (by default), numbers (regression), 0 and 1 by label (multilabel), or next tokens."""
    input_scale: Scaled = field(default="auto", metadata=INPUT)
    """Scale of inputs; auto standardizes the columns of a .csv file for networks that train has trained."""
    target_scale: Scaled = field(default="auto", metadata=INPUT)
    """Scale of numbers to predict; auto standardizes them for networks that train has trained."""
    context: int | None = field(default=None, metadata=INPUT)
    """Length of a window of a text, in characters or subwords; 64 by default."""
    subwords: int | None = field(default=None, metadata=INPUT)
    """Number of subwords, 257 or more, that a text is cut into (extra subwords); by default characters."""
    labels: str | None = field(default=None, metadata=INPUT)
    """Another task on the same rows: parity, above-four or loops of digits, or animal of CIFAR-10.
    Or class, for the classes themselves; or the new label of each class, as in 0,1,1."""


@dataclass(frozen=True, kw_only=True)
class InputShape:
    """Inputs of networks in a directory that does not have their shape."""

    example_shape: str | None = None
    """Shape of one input, as in 3,32,32, if it is known neither from the directory nor from the data."""


def identity(request: Options | Output, **inputs: object) -> dict[str, Any]:
    """Return what determines a result, as JSON holds it: the options, and a digest of each input."""
    options = {
        option.name: getattr(request, option.name)
        for option in fields(request)
        if (role := option.metadata.get("role")) is None
        or (role == ADDED["role"] and getattr(request, option.name) != option.default)
    }
    return json.loads(json.dumps({**options, **inputs}))  # type: ignore[no-any-return]


def arguments(request: Options, called: Callable[..., object]) -> dict[str, Any]:
    """Return the options that are parameters of a function or class, by its names for them."""
    values = {option.metadata.get("argument", option.name): getattr(request, option.name) for option in fields(request)}
    return {name: values[name] for name in signature(called).parameters if name in values}


def parse_width(text: str) -> int | str | dict[str, int | str]:
    """Return a width from the text of an option: a number, by layer as in "heads=8,mlp=2x", or as it is, as "2x"."""
    if re.fullmatch(r"[^<>=,]+=[^<>=,]+(,[^<>=,]+=[^<>=,]+)*", text):
        by_name = (part.partition("=") for part in text.split(","))
        return {name.strip(): _number_or_text(value.strip()) for name, _, value in by_name}
    if "," in text:
        message = f"a width by layer must be names and numbers, got {text!r}"
        raise InputError(message, cure="pass name=number for each, as in hidden.0=64,hidden.1=2x")
    return _number_or_text(text)


def _number_or_text(text: str) -> int | str:
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else text


def command_line(request: Options) -> str:
    """Return what to type for the same result; options at their defaults are left out."""
    places, flags = list[str](), list[str]()
    for option in fields(request):
        value = getattr(request, option.name)
        words = [str(part) for part in value] if isinstance(value, tuple) else [str(value)]
        if "positional" in option.metadata:
            places += words
        elif option.metadata != PRESENTATION and value != option.default:
            flags += [flag(option.name, value)] if isinstance(value, bool) else [flag(option.name), *words]
    return shlex.join(["consilience", type(request).__module__.rpartition(".")[2], *places, *flags])


def flag(name: str, value: object = True) -> str:
    """Return the flag of an option."""
    return f"--{'' if value else 'no-'}{name.replace('_', '-')}"


def in_options(message: str, request: Options) -> str:
    """Return the message of an error with the flag of an option in place of the argument that it begins with."""
    word, _, rest = message.partition(" ")
    for option in fields(request):
        if word == option.metadata.get("argument", option.name) and "positional" not in option.metadata:
            return f"{flag(option.name)} {rest}"
    return message


def check_words(words: Sequence[str], request: Options) -> None:
    """Raise if an option is given twice, is empty, or is a whole number that nothing can hold."""
    flags = [word.partition("=")[0].replace("_", "-") for word in words if word.startswith("--") and word != "--"]
    names = [word.replace("--no-", "--", 1) for word in flags]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{twice} must be given once, got it {names.count(twice)} times", cure="leave one out")
    for option in fields(request):
        value = getattr(request, option.name)
        parts = value if isinstance(value, tuple) else (value,)
        name = option.name if "positional" in option.metadata else flag(option.name)
        large = next((part for part in parts if isinstance(part, int) and abs(part) >= LARGEST), None)
        if large is not None:
            raise InputError(f"{name} must be a number below 2**63, got {large}")
        if option.name in DISTINCT and len(set(parts)) < len(parts):
            raise InputError(f"{name} must not have a value twice, got {' '.join(map(str, parts))}")
        if "" in parts or (value == Path() and "" in words):
            raise InputError(f"{name} must not be empty, got ''", cure="leave it out, or pass a value")


def kept(request: Options) -> str:
    """Return what a command that has stopped has left, and how to go on."""
    out, parts = getattr(request, "out", None), list[str]()
    if out is None:
        return "nothing has been written"
    with suppress(OSError):  # of a place that is no directory
        path = out.resolve()
        state = path.parent / f".{path.name}.checkpoint"
        parts += [f"finished epochs are kept in {state}"] if state.is_dir() else []
        parts += [f"what is finished is kept in {out}"] if path.is_dir() and any(path.iterdir()) else []
    if not parts:
        return "nothing has been written; the same command starts again"
    return f"{' and '.join(parts)}; the same command goes on from there"
