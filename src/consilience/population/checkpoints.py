"""A folder of checkpoints as a population.

- A checkpoint is a state dict: a ``*.safetensors``, ``*.pt`` or ``*.pth`` in the folder, or a ``model.safetensors`` in
  a directory in it (as Hugging Face and `consilience.store.save_network` write them). No deeper, and nothing hidden.
- Nothing is ever unpickled, and no code is imported but what the user names.
- A checkpoint that cannot be used is left out, with a reason, and all of them are looked at before any is proved.
"""

from __future__ import annotations

import copy
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

from consilience.errors import ArtefactError, ConsilienceError, InputError
from consilience.population.factories import make_module
from consilience.population.population import Member, Population
from consilience.population.storage import fill
from consilience.store.tensors import check_tensor
from consilience.units.follow import find_layers

SUFFIXES = (".safetensors", ".pt", ".pth")
IN_DIRECTORY = "model.safetensors"
KEYS = ("state_dict", "model_state_dict", "model", "module")  # under which training loops save the state dict
PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and torch.compile
NEW = "member 1"  # what a member that is compared with the first is called in errors


def import_population(
    directory: str | os.PathLike[str],
    module: nn.Module | Callable[[], nn.Module] | str,
    example_input: Tensor,
    *,
    strict: bool = False,
) -> Population:
    """Build a population from a folder of checkpoints, one member each, in the order of their names.

    Parameters
    ----------
    directory : the folder. Every checkpoint in it is taken for a member, so two of one network count twice.
    module : what the checkpoints are of: a module of the members' class, of any widths; or a function without
        arguments, or a class, that makes one; or where to import one of these from, as in ``"package.module:Class"``,
        the current directory first.
    example_input : (n, ...) inputs of the right shape, n ≥ 1. Checkpoints of other floating types are converted to its
        type.
    strict : raise at the first checkpoint that cannot be used, instead of leaving it out.

    Returns
    -------
    A population with ``provenance["imported"]``, file → its number among the members (``member``) and what was done to
    its content (``found_under``, ``prefix_removed``, ``converted``); and ``provenance["left_out"]``, file → reason.

    Raises
    ------
    InputError
        If the folder or the module cannot be used, or not one checkpoint can; if ``strict``, if any cannot.
    TracingError
        If the module is not understood.

    Warns
    -----
    UserWarning
        If a checkpoint is left out: how many, and why each.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from consilience.nets import MLP
    >>> with TemporaryDirectory() as folder:
    ...     torch.save(MLP(4, [5], 2).state_dict(), f"{folder}/a.pt")
    ...     torch.save({"model": MLP(4, [9], 2).state_dict()}, f"{folder}/b.pt")
    ...     population = Population.from_directory(folder, MLP(4, [1], 2), torch.randn(8, 4))
    >>> population.widths("hidden.0")
    (5, 9)
    >>> population.provenance["imported"]
    {'a.pt': {'member': 0}, 'b.pt': {'member': 1, 'found_under': 'model'}}
    """
    folder = Path(directory)
    names = _checkpoints(folder)
    if not bool(torch.isfinite(example_input).all()):
        raise InputError(
            "the example input is not finite", where="example_input", cure="remove NaN and infinite values"
        )
    dtype = example_input.dtype if example_input.is_floating_point() else torch.get_default_dtype()
    template = copy.deepcopy(make_module(module)).to(dtype=dtype)
    architecture = find_layers(template, example_input)
    account = _Account(folder, strict)
    modules: dict[str, nn.Module] = {}
    steps: dict[str, dict[str, str]] = {}
    for name in names:
        with account.of(name):
            state, steps[name] = _as_expected(_read(folder / name), template.state_dict(), dtype)
            modules[name] = fill(template, architecture, state, name)
    members = _proved(modules, example_input, account)
    left_out = dict(sorted(account.left_out.items()))
    if not members:
        raise InputError(
            "none of the checkpoints can be used", where=folder, got=_listed(left_out),
            expected=f"state dicts of {type(template).__name__}",
        )  # fmt: skip
    if left_out:
        refusal = InputError(
            f"{len(left_out)} of {len(names)} checkpoints are left out", where=folder, got=_listed(left_out),
            cure="mend them or move them away; with strict=True the first of them is an error",
        )  # fmt: skip
        warnings.warn(str(refusal), stacklevel=3)  # where Population.from_directory is called
    imported = {name: {"member": k, **steps[name]} for k, name in enumerate(members)}
    provenance = {"imported": imported, "left_out": left_out}
    return Population(tuple(members.values()), example_input, provenance=provenance)


@dataclass(frozen=True)
class _Account:
    """What is left out of a folder, and why."""

    folder: Path
    strict: bool
    left_out: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Note why a checkpoint cannot be used, or raise it."""
        try:
            yield
        except ConsilienceError as error:
            self.left_out[name] = _reason(error, name)
            if self.strict:
                raise InputError(
                    "a checkpoint cannot be used", where=self.folder / name, got=self.left_out[name],
                    cure="mend it or move it away, or leave such checkpoints out with strict=False",
                ) from error  # fmt: skip


def _reason(error: ConsilienceError, name: str) -> str:
    """Return what an error says in one line, without the name of the file, which stands before it."""
    where = None if error.where in (name, NEW) else error.where
    details = (("", where), ("got ", error.got), ("expected ", error.expected), ("", error.cure))
    texts = [error.message, *(f"{label}{text}" for label, text in details if text is not None)]
    return " ".join("; ".join(texts).split())


def _listed(left_out: Mapping[str, str]) -> str:
    return ("\n" + " " * 12).join(f"{name}: {reason}" for name, reason in left_out.items())


def _proved(modules: Mapping[str, nn.Module], x: Tensor, account: _Account) -> dict[str, Member]:
    """Return members by file: the layers of each proved on inputs x, and each of one kind with the first."""
    members: dict[str, Member] = {}
    first: Population | None = None
    for name, module in modules.items():
        with account.of(name):
            joined = Population.from_modules([module], x) if first is None else first.with_members([module])
            first = first or joined
            members[name] = joined.members[-1]
    return members


def _checkpoints(folder: Path) -> list[str]:
    """Return the checkpoints in a folder by their paths in it, sorted."""
    if not folder.is_dir():
        raise InputError("there is no such folder", where=folder, cure="check the path")
    found = [
        path
        for entry in folder.iterdir()
        for path in (entry, entry / IN_DIRECTORY)
        if not entry.name.startswith(".") and path.suffix in SUFFIXES and path.is_file()
    ]
    if not found:
        raise InputError(
            "there is no checkpoint in the folder", where=folder,
            expected=f"files *{', *'.join(SUFFIXES)}, or */{IN_DIRECTORY}", cure="check the path",
        )  # fmt: skip
    return sorted(path.relative_to(folder).as_posix() for path in found)


def _read(path: Path) -> object:
    """Return what a file holds, on the CPU."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():  # of foreign pickles and archives, which are refused anyway
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        raise ArtefactError(
            "the file cannot be read without unpickling, which may run code",
            got=code[1] if code else "an unknown format",
            expected="nothing but tensors, numbers and texts", cure="save its state_dict with safetensors",
        ) from error  # fmt: skip
    except Exception as error:  # whatever the bytes of a damaged file lead to: KeyError, EOFError, RuntimeError, ...
        raise ArtefactError(
            "the file is damaged, or no checkpoint",
            got=f"{type(error).__name__}: {str(error).partition('. ')[0]}".removesuffix(": "),
            cure="save its state_dict with safetensors",
        ) from error  # fmt: skip


def _as_expected(
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
            raise ArtefactError(
                "a tensor is not finite", where=f"'{name}'", got=f"{wrong} of {value.numel()} values NaN or infinite",
                expected=f"numbers that {_short(dtype)} can hold",
            )  # fmt: skip
    converted = f"{', '.join(sorted(types))} to {_short(dtype)}" if types else ""
    steps = {"found_under": key, "prefix_removed": prefix, "converted": converted}
    return state, {step: text for step, text in steps.items() if text}


def _find_state(content: object) -> tuple[str, dict[str, Tensor]]:
    """Return the one state dict in a file's content, after the key that it lies under ('' for none)."""
    parts = content if isinstance(content, Mapping) else {}
    candidates: dict[str, Any] = {"": content} | {key: parts[key] for key in KEYS if key in parts}
    found = {key: value for key, value in candidates.items() if _is_state(value)}
    if len(found) != 1:
        names = [f"'{key}'" for key in found or parts]
        raise ArtefactError(
            "the file holds several state dicts" if found else "the file holds no state dict",
            got=", ".join([*names[:5], *(["..."] if len(names) > 5 else [])]) or type(content).__name__,
            expected=f"tensors by name, or these under one of: {', '.join(KEYS)}",
            cure="save its state_dict with safetensors",
        )  # fmt: skip
    ((key, state),) = found.items()
    return key, dict(state)


def _is_state(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items())
    )


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
