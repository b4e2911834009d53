"""A folder of checkpoint files as members.

- A checkpoint is a state dict: a ``*.safetensors``, ``*.pt`` or ``*.pth`` in the folder, or a ``model.safetensors`` in
  a directory in it (as Hugging Face and `consilience.store.save_network` write them). No deeper, and nothing hidden.
- Nothing is ever unpickled, and no code is imported but what the user names.
- A checkpoint that cannot be used is skipped, with a reason, and all of them are read before any is proved.
"""

from __future__ import annotations

import os
import pickle
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from consilience.checks import as_path
from consilience.errors import ArtefactError, ConsilienceError, InputError
from consilience.population.factories import make_module
from consilience.population.member import Member, join_members
from consilience.store import check_tensor
from consilience.units.follow import find_layers
from consilience.units.modules import as_example, plain_copy
from consilience.units.resize import fill

SUFFIXES = (".safetensors", ".pt", ".pth")
IN_DIRECTORY = "model.safetensors"
KEYS = ("state_dict", "model_state_dict", "model", "module")  # under which training loops save the state dict
PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and torch.compile
SOURCE = "the file"  # its name stands before the reason
CURE = "save its state_dict with safetensors"


def import_checkpoints(
    directory: str | os.PathLike[str],
    module: nn.Module | Callable[[], nn.Module] | str,
    example_input: Tensor,
    *,
    strict: bool = False,
) -> tuple[tuple[Member, ...], dict[str, Any]]:
    """Return the members in a folder, and their provenance; see `Population.from_directory`."""
    folder = as_path(directory, "directory")
    names = _checkpoints(folder)
    example_input = as_example(example_input)
    dtype = example_input.dtype if example_input.is_floating_point() else torch.get_default_dtype()
    template = plain_copy(make_module(module), "module").to(dtype=dtype)
    architecture = find_layers(template, example_input)
    account = _Account(folder, strict)
    modules: dict[str, nn.Module] = {}
    steps: dict[str, dict[str, str]] = {}
    for name in names:
        with account.of(name):
            state, steps[name] = _expected_state(_read(folder / name), template.state_dict(), dtype)
            modules[name] = fill(template, architecture, state, SOURCE)
    members: dict[str, Member] = {}
    for name, filled in modules.items():
        with account.of(name):
            first = list(members.values())[:1]
            members[name] = join_members(first, [filled], example_input, [SOURCE])[-1]
    left_out = dict(sorted(account.left_out.items()))
    reasons = "".join(f"\n  {name}: {reason}" for name, reason in left_out.items())
    if not members:
        raise InputError(f"{folder} must have state dicts of {type(template).__name__}, got{reasons}")
    if left_out:
        message = f"{len(left_out)} of {len(names)} checkpoints in {folder} are skipped:{reasons}"
        cure = "\n  cure: repair them or move them away; with strict=True the first of them is an error"
        warnings.warn(message + cure, stacklevel=3)  # where Population.from_directory is called
    imported = {name: {"member": k, **steps[name]} for k, name in enumerate(members)}
    return tuple(members.values()), {"imported": imported, "left_out": left_out}


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
    paths = [
        path
        for entry in folder.iterdir()
        for path in (entry, entry / IN_DIRECTORY)
        if not entry.name.startswith(".") and path.suffix in SUFFIXES and path.is_file()
    ]
    if not paths:
        wanted = f"files *{', *'.join(SUFFIXES)}, or */{IN_DIRECTORY}"
        raise InputError(f"{folder} must have {wanted}, got none", cure="check the path")
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def _read(path: Path) -> object:
    try:
        if path.suffix == ".safetensors":
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


def _expected_state(
    content: object, expected: Mapping[str, Tensor], dtype: torch.dtype
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the state dict in a file's content, by the names expected and in ``dtype``, and what this took."""
    key, state = _find_state(content)
    prefix, types = "", set()
    while expected.keys().isdisjoint(state):
        common = next((p for p in PREFIXES if all(name.startswith(p) for name in state)), None)
        if common is None:
            break
        prefix += common
        state = {name.removeprefix(common): value for name, value in state.items()}
    for name, value in state.items():
        check_tensor(name, value)
        if value.is_floating_point() and value.dtype != dtype:
            types.add(_short(value.dtype))
            state[name] = value.to(dtype)
        wrong = int((~torch.isfinite(state[name])).sum())
        if wrong:
            got = f"{wrong} of {value.numel()} NaN or infinite"
            raise ArtefactError(f"'{name}' must have values that {_short(dtype)} can hold, got {got}")
    converted = f"{', '.join(sorted(types))} to {_short(dtype)}" if types else ""
    steps = {"found_under": key, "prefix_removed": prefix, "converted": converted}
    return state, {step: text for step, text in steps.items() if text}


def _find_state(content: object) -> tuple[str, dict[str, Tensor]]:
    parts = content if isinstance(content, Mapping) else {}
    candidates: dict[str, Any] = {"": content} | {key: parts[key] for key in KEYS if key in parts}
    states = {key: value for key, value in candidates.items() if _is_state(value)}
    if len(states) != 1:
        names = [f"'{key}'" for key in states or parts]
        got = ", ".join(names[:5] + ["..."] * (len(names) > 5)) or type(content).__name__
        wanted = f"one state dict, tensors by name, or these under one of {', '.join(KEYS)}"
        raise ArtefactError(f"{SOURCE} must hold {wanted}, got {got}", cure=CURE)
    ((key, state),) = states.items()
    return key, dict(state)


def _is_state(value: Any) -> bool:
    pairs = value.items() if isinstance(value, Mapping) else ()
    return bool(pairs) and all(isinstance(name, str) and isinstance(part, Tensor) for name, part in pairs)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
