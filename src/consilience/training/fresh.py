"""Modules with initial values of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from consilience.errors import InputError
from consilience.population.factories import make_module
from consilience.seeds import INITIALISATION, global_seed, seed
from consilience.units.inputs import Inputs, take_packed
from consilience.units.modules import plain_copy

Nets = nn.Module | Callable[[], nn.Module] | Sequence[nn.Module]


@dataclass(frozen=True)
class _Packed:
    """Makes modules that take several inputs side by side in one tensor; see `consilience.units.inputs`."""

    net: Callable[[], nn.Module]
    inputs: Inputs

    def __call__(self) -> nn.Module:
        module = make_module(self.net, "net")
        take_packed([module], self.inputs)
        return module


def taking(net: Nets, inputs: Inputs) -> Nets:
    """Return nets that take several inputs side by side in one tensor; the modules given stay as they are."""
    if not isinstance(net, nn.Module | Sequence):
        return _Packed(net, inputs)
    modules = [plain_copy(module, "net") for module in (net if isinstance(net, Sequence) else [net])]
    take_packed(modules, inputs)
    return modules if isinstance(net, Sequence) else modules[0]


def initialise(module: nn.Module, random_state: int) -> nn.Module:
    """Return a copy of a module with initial values drawn anew, by the ``reset_parameters`` of its parts."""
    module = plain_copy(module, "net")
    with global_seed(random_state):
        for name, part in module.named_modules():
            reset = getattr(part, "reset_parameters", None)
            if callable(reset):
                reset()
            elif next(part.parameters(recurse=False), None) is not None:
                raise InputError(f"'{name}' must have a method reset_parameters(), got a {type(part).__name__} without")
    return module


def fresh(net: Nets, k: int, random_state: int) -> nn.Module:
    """Return member k with its initial values."""
    random_state = seed(random_state, INITIALISATION, k)
    if isinstance(net, nn.Module):
        return initialise(net, random_state)
    if isinstance(net, Sequence):
        if not net:
            raise InputError("net must have at least one module, got an empty sequence")
        return initialise(net[k % len(net)], random_state)
    with global_seed(random_state):  # a function that makes modules chooses their initial values itself
        return plain_copy(make_module(net, "net"), "net")
