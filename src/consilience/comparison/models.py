"""The models of a comparison, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from torch import nn

from consilience.errors import InputError
from consilience.population.population import Population

Models: TypeAlias = Mapping[str, nn.Module] | Sequence[nn.Module] | Population


def modules_of(models: Models) -> dict[str, nn.Module]:
    """Return at least two modules by name: those given, "model 0", … of a sequence, "member 0", … of a population.

    Raises
    ------
    InputError
        If there is one only, or one is no module.
    """
    if isinstance(models, nn.Module):
        raise InputError("one module where several are expected", where="models", got=type(models).__name__,
                         cure="pass a list, a mapping name → module or a population")  # fmt: skip
    if isinstance(models, Population):
        found = {f"member {k}": member.module for k, member in enumerate(models)}
    elif isinstance(models, Mapping):
        found = {str(name): module for name, module in models.items()}
    else:
        found = {f"model {k}": module for k, module in enumerate(models)}
    for name, module in found.items():
        if not isinstance(module, nn.Module):
            raise InputError("not a module", where=f"models, '{name}'", got=type(module).__name__, expected="nn.Module")
    if len(found) < 2:
        raise InputError("a comparison takes at least two models", where="models", got=f"{len(found)}")
    return found
