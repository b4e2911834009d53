"""A folder of checkpoint files as members.

- A checkpoint is a file in the folder that holds a state dict (`SUFFIXES`), or a ``model.safetensors``, else a
  ``pytorch_model.bin``, in a directory in it (as Hugging Face and `consilience.store.save_network` write them). No
  deeper, and nothing hidden.
- Nothing is ever unpickled but tensors, numbers, texts and collections of them, by torch's weights-only reader, and no
  code is imported but what the user names.
- A checkpoint that cannot be used is skipped, with a reason, and all of them are read before any is proved.
"""

from __future__ import annotations

import copy
import json
import os
import pickle
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from consilience.checks import as_path, describe, is_mask
from consilience.errors import ArtefactError, ConsilienceError, InputError, warn
from consilience.population.factories import make_module
from consilience.population.member import Member, join_members
from consilience.population.state_dicts import CURE, SOURCE, FoundState, check_own_values, find_state
from consilience.several import are_several
from consilience.store import check_tensor
from consilience.store.config import CONFIG, read_config
from consilience.store.network import norms_in
from consilience.units.architecture import Architecture
from consilience.units.computed import computes_weights
from consilience.units.follow import find_layers
from consilience.units.inputs import inputs_of, one_tensor
from consilience.units.modules import as_example, plain_copy, unwrapped
from consilience.units.outputs import Pick
from consilience.units.resize import fill
from consilience.units.written_out import write_out, written_out

SUFFIXES = (".safetensors", ".pt", ".pth", ".pth.tar", ".ckpt", ".bin")
IN_DIRECTORY = ("model.safetensors", "pytorch_model.bin")  # the first that there is


def import_checkpoints(
    directory: str | os.PathLike[str],
    module: nn.Module | Callable[[], nn.Module] | str,
    example_input: object,
    *,
    strict: bool = False,
    key: str | None = None,
    output: Pick = None,
) -> tuple[tuple[Member, ...], Tensor, dict[str, Any]]:
    """Return the members in a folder, what they were proved on, and provenance; see `Population.from_directory`."""
    folder = as_path(directory, "directory")
    if not isinstance(key, str | None):
        raise InputError(f"key must be a text or None, got {describe(key)}")
    names = _checkpoints(folder)
    _check_plain_norms(folder)
    example = example_input if are_several(example_input) else as_example(example_input)
    whole = unwrapped(make_module(module), "module")
    template = plain_copy(whole, "module")
    computing = whole if computes_weights(whole) else None
    x = as_example(one_tensor([template], example))
    inputs = inputs_of(template)
    dtype = x.dtype if x.is_floating_point() and inputs is None else torch.get_default_dtype()
    template = template.to(dtype=dtype)
    write_out([template], x, output)
    architecture = find_layers(template, x, output)
    account = _Account(folder, strict)
    modules: dict[str, nn.Module] = {}
    steps: dict[str, dict[str, str]] = {}
    for name in names:
        with account.of(name):
            found = _found(_read(folder / name), template, computing, key)
            state, steps[name] = _converted(found, dtype)
            modules[name] = _filled(template, architecture, state)
    members: dict[str, Member] = {}
    for name, filled in modules.items():
        with account.of(name):
            first = list(members.values())[:1]
            members[name] = join_members(first, [filled], x, [SOURCE], output=output)[-1]
    left_out = dict(sorted(account.left_out.items()))
    reasons = "".join(f"\n  {name}: {reason}" for name, reason in left_out.items())
    if not members:
        raise InputError(f"{folder} must have state dicts of {type(template).__name__}, got{reasons}")
    if left_out:
        message = f"{len(left_out)} of {len(names)} checkpoints in {folder} are skipped:{reasons}"
        cure = "\n  cure: repair them or move them away; with strict=True the first of them is an error"
        warn(message + cure)
    _say_choice({name: steps[name] for name in members})
    imported = {name: {"member": k, **steps[name]} for k, name in enumerate(members)}
    return tuple(members.values()), x, {"imported": imported, "left_out": left_out}


def _check_plain_norms(folder: Path) -> None:
    """Raise if a folder is a network whose norms keep groups of units apart, which its tensors alone do not say."""
    try:
        norms = norms_in(json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("net"), str(folder / CONFIG))
    except (OSError, ValueError, AttributeError):  # no network of this package
        return
    if norms:
        got = f"groups of units, as at full width, at {', '.join(map(repr, norms))}"
        cure = "consilience.load_network(directory, module) reads it, into a module of the same widths"
        raise InputError(f"{folder} must have networks with plain norms, got {got}", cure=cure)


def _found(content: object, template: nn.Module, computing: nn.Module | None, key: str | None) -> FoundState:
    """The state dict of the template in a file, or that of a module which computes weights of it, with these stored."""
    if computing is None:
        return find_state(content, template, key)
    try:
        found = find_state(content, computing, key)
    except ArtefactError:
        return find_state(content, template, key)
    expected = computing.state_dict()
    if any(name not in found.state and not name.endswith("num_batches_tracked") for name in expected):
        return find_state(content, template, key)  # as copies here have it
    own = copy.deepcopy(computing)
    for name, value in found.state.items():
        if name in expected and value.shape != expected[name].shape:
            wanted = f"'{name}' of shape {tuple(expected[name].shape)}, as layers compute weights in their forward pass"
            cure = "load each file into a module of its widths, and pass the modules to Population.from_modules"
            raise ArtefactError(f"{SOURCE} must have {wanted}, got {tuple(value.shape)}", cure=cure)
    own.load_state_dict({name: value for name, value in found.state.items() if name in expected}, strict=False)
    others = {name: value for name, value in found.state.items() if name not in expected}
    return replace(found, state=plain_copy(own, SOURCE).state_dict() | others)


def _filled(template: nn.Module, architecture: Architecture, state: Mapping[str, Tensor]) -> nn.Module:
    """Return the template with the parameters of a checkpoint, as its class has them or as copies here do."""
    try:
        return fill(template, architecture, written_out(state, template, architecture), SOURCE)
    except ArtefactError:
        return fill(template, architecture, state, SOURCE)


def _say_choice(steps: Mapping[str, Mapping[str, str]]) -> None:
    """Warn, in one line, where a file held more than one state dict that fits, or tensors that are not used."""
    chosen = {name: taken for name, taken in steps.items() if "also_fits" in taken or "ignored" in taken}
    if not chosen:
        return
    name, taken = next(iter(chosen.items()))
    source = f"under {taken['found_under']!r}" if "found_under" in taken else "by their own names"
    line = f"of {len(chosen)} of {len(steps)} checkpoints, such as {name}, the weights {source} are taken"
    if "prefix_removed" in taken:
        line += f", {taken['prefix_removed']} removed from their names"
    if "also_fits" in taken:
        line += f"; {taken['also_fits']} also fits, and key (--key) chooses it"
    if "ignored" in taken:
        listed = taken["ignored"].split(", ")
        more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
        line += f"; not used: {', '.join(listed[:3])}{more}"
    warn(line)


@dataclass(frozen=True)
class _Account:
    """Which files of a folder are skipped, and why."""

    folder: Path
    strict: bool
    left_out: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Note why a checkpoint cannot be used, or raise it."""
        try:
            yield
        except ConsilienceError as error:
            reason = re.sub(r"\n  \w+:\s+", "; ", str(error))
            self.left_out[name] = " ".join(reason.split())
            if self.strict:
                message = f"{self.folder / name} must be a checkpoint that can be used, got: {self.left_out[name]}"
                cure = "repair it or move it away, or skip such checkpoints with strict=False"
                raise InputError(message, cure=cure) from error


def _checkpoints(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise InputError(f"directory must be a folder, got {folder}", cure="check the path")
    with suppress(ArtefactError):  # of what is no artefact of this package
        if read_config(folder)["kind"] == "population":
            cure = "Population.load(directory, module) reads it, with a module of the members' class"
            raise InputError(f"{folder} must be a folder of checkpoints, got a saved population", cure=cure)
    paths = list[Path]()
    for entry in folder.iterdir():
        inside = [path for name in IN_DIRECTORY if (path := entry / name).is_file()][:1]
        if not entry.name.startswith("."):
            paths += [entry] if entry.name.lower().endswith(SUFFIXES) and entry.is_file() else inside
    if not paths:
        wanted = f"files *{', *'.join(SUFFIXES)}, or */{IN_DIRECTORY[0]}"
        raise InputError(f"{folder} must have {wanted}, got none", cure="check the path")
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def _read(path: Path) -> object:
    try:
        if path.suffix.lower() == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():  # of foreign pickles and archives, which are refused anyway
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        got = f"{code[1] if code else 'an unknown format'}, which cannot be read without unpickling, which may run code"
        message = f"{SOURCE} must hold nothing but tensors, numbers and texts, got {got}"
        raise ArtefactError(message, cure=CURE) from error
    except Exception as error:  # whatever the bytes of a damaged file lead to: KeyError, EOFError, RuntimeError, ...
        got = f"{type(error).__name__}: {str(error).partition('. ')[0]}".removesuffix(": ")
        raise ArtefactError(f"{SOURCE} must be a complete checkpoint, got {got}", cure=CURE) from error


def _converted(found: FoundState, dtype: torch.dtype) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return a state dict in ``dtype``, and what finding and converting it took."""
    state, types = dict(found.state), set()
    for name, value in state.items():
        check_tensor(name, value)
        check_own_values(name, value)
        if value.is_floating_point() and value.dtype != dtype:
            types.add(_short(value.dtype))
            state[name] = value.to(dtype)
        wrong = int((~torch.isfinite(state[name])).sum())
        if wrong and not is_mask(state[name]):
            got = f"{wrong} of {value.numel()} NaN or infinite"
            raise ArtefactError(f"'{name}' must have values that {_short(dtype)} can hold, got {got}")
    converted = {"converted": f"{', '.join(sorted(types))} to {_short(dtype)}"} if types else {}
    return state, found.steps | converted


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
