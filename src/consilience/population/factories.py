"""A user's module, given itself, by a function that makes it, or by the name under which either can be imported.

Only code that the user names is run, never code named in an artefact.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from consilience.errors import InputError


def make_module(given: nn.Module | Callable[[], nn.Module] | str, argument: str = "module") -> nn.Module:
    """Return the module given, or made by what is given (the ``argument``); the random state of torch is as it was.

    >>> make_module("torch.nn:ReLU"), make_module(lambda: nn.Linear(3, 2))
    (ReLU(), Linear(in_features=3, out_features=2, bias=True))
    """
    with torch.random.fork_rng(devices=[]):
        if not isinstance(given, str):
            return _made(given, argument)
        with _current_directory_importable():
            return _made(_imported(given), f"module={given!r}")


def _made(given: Any, argument: str) -> nn.Module:
    if isinstance(given, nn.Module):
        return given
    if not callable(given):
        wanted = "an nn.Module, a function that returns one, or 'package.module:Class'"
        raise InputError(f"{argument} must be {wanted}, got {type(given).__name__}")
    name = getattr(given, "__qualname__", repr(given))
    try:
        inspect.signature(given).bind()
    except (TypeError, ValueError) as error:  # or no signature is known
        cure = f"pass a function, such as `def make(): return {name}(...)`"
        raise InputError(f"{argument} must be callable without arguments, got {name}: {error}", cure=cure) from error
    try:
        made = given()
    except (Exception, SystemExit) as error:
        raise InputError(f"{argument} must make a module, got {type(error).__name__} from {name}(): {error}") from error
    if not isinstance(made, nn.Module):
        raise InputError(f"{argument} must make an nn.Module, got {type(made).__name__} from {name}()")
    return made


def _imported(path: str) -> object:
    source, _, name = path.partition(":")
    if not all(part.isidentifier() for part in (*source.split("."), name)):
        raise InputError(f"module must be 'package.module:Class', or a function in place of the class, got {path!r}")
    try:
        module = importlib.import_module(source)
    except (Exception, SystemExit) as error:  # an import runs the user's code, perhaps a whole script
        absent = isinstance(error, ModuleNotFoundError) and f"{source}.".startswith(f"{error.name}.")
        message = (
            f"module={path!r} must be in a Python module that can be imported, got {type(error).__name__}: {error}"
        )
        cure = "run this from the directory that holds it, or install it" if absent else None
        raise InputError(message, cure=cure) from error
    if not hasattr(module, name):
        names = ", ".join(n for n, v in vars(module).items() if getattr(v, "__module__", None) == source)
        raise InputError(f"module={path!r} must be one of {names or 'no names'} in {source}, got {name!r}")
    imported: object = getattr(module, name)
    return imported


@contextmanager
def _current_directory_importable() -> Iterator[None]:
    here = os.getcwd()  # first, as with ``python -m``
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
