"""Which module of which model is compared with which: places.

A *place* is one module in every model. If the models' modules have the same names, places are these names; otherwise
models are aligned by a mapping that the user gives, or by relative depth.

Axis legend: ``m`` model, ``P`` places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from itertools import chain
from typing import Any, TypeAlias, cast

from torch import Tensor, nn
from torch.nn.utils import parametrize

from consilience.checks import describe
from consilience.errors import InputError
from consilience.signals.record import hooks, like_parameters
from consilience.units.forward import eval_mode

N_PROBE = 2  # samples of the forward pass that tells which modules are called
Patterns: TypeAlias = "str | Sequence[str] | Mapping[str, str | Sequence[str]]"


@dataclass(frozen=True)
class Calls:
    """The modules that one forward pass of a model calls."""

    called: tuple[str, ...]  # names of `named_modules` without the model, in the order in which they (last) return
    weighted: tuple[str, ...]  # those that directly have a weight of two axes or more, once; the last is the readout
    n_outputs: int | None  # number of outputs of the model, if these are (n, o)


def calls(module: nn.Module, x: Tensor, model: str) -> Calls:
    """Run a model on the first samples of x (n, ...) and return the modules that it calls."""
    parts = {name: part for name, part in module.named_modules(remove_duplicate=False) if name}
    order: dict[nn.Module, None] = {}

    def note(part: nn.Module, _inputs: Any, _output: Any) -> None:
        order.pop(part, None)
        order[part] = None

    with eval_mode(module), hooks((part, note) for part in module.modules() if part is not module):
        try:
            outputs = module(like_parameters(x[:N_PROBE], module))
        except Exception as error:  # whatever the model's own code raises
            raise InputError(
                f"X must be inputs of model {model!r}, got {describe(x)}, on which it fails: {error}",
                cure=("" if x.is_floating_point() else "convert to float, unless they are tokens; ")
                + "give X as a mapping model → inputs if models take different forms of them",
            ) from error
    rank = {part: i for i, part in enumerate(order)}
    called = sorted((name for name, part in parts.items() if part in rank), key=lambda name: rank[parts[name]])
    once = dict(module.named_modules())
    weighted = tuple(name for name in called if name in once and _is_weighted(parts[name]))
    n_outputs = outputs.shape[1] if isinstance(outputs, Tensor) and outputs.dim() == 2 else None
    return Calls(tuple(called), weighted, n_outputs)


def find_places(models: Mapping[str, Calls], layers: Patterns | None) -> dict[str, tuple[str, ...]]:
    """Return, for each place, the name of its module in every model.

    Layers are names or globs of `named_modules` (a ``*`` also spans dots) that match a module which is called:

    - One or several patterns: the names that match are the places, and must be the same in all models.
    - A mapping place → one or several patterns: in each model the first that matches, which must match one module.
    - None: the modules that directly have a weight of two axes or more, in the order of the forward pass, without the
      last, which is the readout. If they have the same names in all models, these are the places. If not, places are
      "depth 0", "depth 1", …, as many (P) as the model with the fewest such layers has, and place j is layer
      ⌊j (L − 1)/(P − 1) + ½⌋ of a model with L of them (the last one if P = 1).
    """
    for patterns in [] if layers is None else layers.values() if isinstance(layers, Mapping) else [layers]:
        is_sequence = isinstance(patterns, Sequence) and not isinstance(patterns, bytes)
        if not is_sequence or not all(isinstance(pattern, str) for pattern in patterns):
            message = f"layers must be names or globs of modules, got {describe(patterns)}"
            raise InputError(message, cure="pass texts, or a mapping place → texts")
    if layers is None:
        return _by_depth({model: of_model.weighted[:-1] for model, of_model in models.items()})
    if isinstance(layers, Mapping):
        wanted = {place: _as_list(layers[place]) for place in layers}
        places = {
            place: tuple(_first_match(model, of_model, place, patterns) for model, of_model in models.items())
            for place, patterns in wanted.items()
        }
    else:
        names = {model: _matching(model, of_model, _as_list(layers)) for model, of_model in models.items()}
        reference, first = next(iter(names.items()))
        for model, of_model in names.items():
            if of_model != first:
                got = f"{', '.join(of_model)} in model {model!r} and {', '.join(first)} in model {reference!r}"
                cure = "name the places with a mapping {place: (patterns, ...)}, or align them by depth: layers=None"
                raise InputError(f"layers must have the same names in all models, got {got}", cure=cure)
        places = {name: (name,) * len(models) for name in first}
    if not places:
        raise InputError(f"layers must name at least one module, got {layers!r}")
    return places


def _by_depth(layers: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    for model, names in layers.items():
        if not names:
            message = f"layers=None needs a layer with weights before the last one, got none in model {model!r}"
            raise InputError(message, cure="name the modules to compare: layers=[...]")
    first = next(iter(layers.values()))
    if all(names == first for names in layers.values()):
        return {name: (name,) * len(layers) for name in first}
    steps = min(map(len, layers.values())) - 1
    if steps == 0:
        return {"depth 0": tuple(names[-1] for names in layers.values())}
    return {
        f"depth {j}": tuple(names[(2 * j * (len(names) - 1) + steps) // (2 * steps)] for names in layers.values())
        for j in range(steps + 1)
    }


def _as_list(patterns: str | Sequence[str]) -> Sequence[str]:
    return [patterns] if isinstance(patterns, str) else patterns


def _matching(model: str, calls: Calls, patterns: Sequence[str]) -> tuple[str, ...]:
    matched = {pattern: _matches(calls, pattern) for pattern in patterns}
    for pattern, names in matched.items():
        if not names:
            raise _no_match(f"layers of model {model!r}", calls, [pattern])
    return tuple(dict.fromkeys(chain(*matched.values())))


def _first_match(model: str, calls: Calls, place: str, patterns: Sequence[str]) -> str:
    where = f"place {place!r} of model {model!r}"
    for pattern in patterns:
        matched = _matches(calls, pattern)
        if len(matched) > 1:
            raise InputError(f"{where} must be one module, got {', '.join(matched)} for {pattern!r}")
        if matched:
            return matched[0]
    raise _no_match(where, calls, patterns)


def _matches(calls: Calls, pattern: str) -> list[str]:
    return [pattern] if pattern in calls.called else [name for name in calls.called if fnmatchcase(name, pattern)]


def _no_match(where: str, calls: Calls, patterns: Sequence[str]) -> InputError:
    close = [name for pattern in patterns for name in get_close_matches(pattern, calls.called, n=3, cutoff=0.4)]
    names = ", ".join(calls.called[:12]) + (", …" if len(calls.called) > 12 else "")
    return InputError(
        f"{where} must match a module that the forward pass calls, got {' or '.join(map(repr, patterns))}",
        cure=f"did you mean {' or '.join(map(repr, dict.fromkeys(close)))}?" if close else f"modules are {names}",
    )


def _is_weighted(part: nn.Module) -> bool:
    direct = any("weight" in name and value.dim() > 1 for name, value in part.named_parameters(recurse=False))
    return direct or (parametrize.is_parametrized(part, "weight") and cast(Tensor, part.weight).dim() > 1)
