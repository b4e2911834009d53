"""A module of the user's own, from itself, from what makes it, or from where either can be imported.

The code that runs is the code that the user has named, nothing that an artefact tells.
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


def make_module(given: nn.Module | Callable[[], nn.Module] | str) -> nn.Module:
    """Return the module given, or made by what is given; the random state of torch is as it was.

    Parameters
    ----------
    given : a module; a function without arguments, or a class, that makes one; or where to import one of these from, as
        in ``"package.module:Class"``, the current directory first.

    Raises
    ------
    InputError
        If the text is not of this form, nothing can be imported from there, or what is there makes no module.

    Examples
    --------
    >>> make_module("torch.nn:ReLU"), make_module(lambda: nn.Linear(3, 2))
    (ReLU(), Linear(in_features=3, out_features=2, bias=True))
    """
    with torch.random.fork_rng(devices=[]):
        if not isinstance(given, str):
            return _made(given, "module")
        with _current_directory_importable():
            return _made(_imported(given), f"module={given!r}")


def _made(given: Any, where: str) -> nn.Module:
    """Return a module, or what a function without arguments makes."""
    if isinstance(given, nn.Module):
        return given
    if not callable(given):
        raise InputError(
            "not a module, nor anything that makes one", where=where, got=type(given).__name__,
            expected="an nn.Module, a function that returns one, or 'package.module:Class'",
        )  # fmt: skip
    name = getattr(given, "__qualname__", repr(given))
    try:
        inspect.signature(given).bind()
    except TypeError as error:
        raise InputError(
            "it takes arguments to make a module", where=where, got=f"{name}: {error}",
            expected="a function or class that can be called without arguments",
            cure=f"give a factory, such as `def make(): return {name}(...)`",
        ) from error  # fmt: skip
    try:
        made = given()
    except (Exception, SystemExit) as error:
        raise InputError(
            "the module cannot be made", where=where, got=f"{name}() raises {type(error).__name__}: {error}"
        ) from error
    if not isinstance(made, nn.Module):
        raise InputError("no module was made", where=where, got=f"{name}() returns {type(made).__name__}",
                         expected="an nn.Module")  # fmt: skip
    return made


def _imported(path: str) -> object:
    """Return what ``package.module:name`` names."""
    source, _, name = path.partition(":")
    where, form = f"module={path!r}", "'package.module:Class', or a function in place of the class"
    if not all(part.isidentifier() for part in (*source.split("."), name)):
        raise InputError("this does not tell what to import", where=where, expected=form)
    try:
        module = importlib.import_module(source)
    except (Exception, SystemExit) as error:  # an import runs the user's code, perhaps a whole script
        lost = isinstance(error, ModuleNotFoundError) and f"{source}.".startswith(f"{error.name}.")
        raise InputError(
            "there is no such Python module" if lost else "the Python module cannot be imported", where=where,
            got=f"{type(error).__name__}: {error}",
            cure="run this from the directory that holds it, or install it" if lost else None,
        ) from error  # fmt: skip
    if not hasattr(module, name):
        raise InputError(
            "the Python module has nothing of this name", where=where, got=name,
            expected=", ".join(n for n, v in vars(module).items() if getattr(v, "__module__", None) == source) or form,
        )  # fmt: skip
    found: object = getattr(module, name)
    return found


@contextmanager
def _current_directory_importable() -> Iterator[None]:
    """Look for Python modules in the current directory first, as ``python -m`` does."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
