"""Which module of which model is compared with which: places.

A *place* is one module in every model. Models of one architecture share the names of their modules, and these are the
places; models of different ones are aligned by a mapping of the user's, or by relative depth.

Axis legend: ``m`` model, ``P`` places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, TypeAlias, cast

from torch import Tensor, nn
from torch.nn.utils import parametrize

from consilience.errors import InputError
from consilience.signals.record import hooks, like_parameters
from consilience.units.forward import eval_mode

N_PROBE = 2  # samples of the forward pass that tells which modules are called
Patterns: TypeAlias = "str | Sequence[str] | Mapping[str, str | Sequence[str]]"


@dataclass(frozen=True)
class Calls:
    """What one forward pass of a model calls.

    Attributes
    ----------
    called : names of `named_modules` but the model itself, in the order in which they return (for the last time).
    weighted : those with a weight of two axes or more of their own, each once; the last is the readout.
    n_outputs : of the model, or None if its outputs are not (n, o).
    """

    called: tuple[str, ...]
    weighted: tuple[str, ...]
    n_outputs: int | None


def calls(module: nn.Module, x: Tensor, model: str) -> Calls:
    """Run a model on the first samples of x (n, ...) and return what it calls.

    Raises
    ------
    InputError
        If it does not take them; the text names the model.
    """
    parts = {name: part for name, part in module.named_modules(remove_duplicate=False) if name}
    order: dict[nn.Module, None] = {}

    def note(part: nn.Module, _inputs: Any, _output: Any) -> None:
        order.pop(part, None)
        order[part] = None

    with eval_mode(module), hooks((part, note) for part in module.modules() if part is not module):
        try:
            outputs = module(like_parameters(x[:N_PROBE], module))
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise InputError(
                "a model does not take these inputs", where=f"model '{model}'",
                got=f"{tuple(x.shape)} of {x.dtype}: {error}",
                cure=("" if x.is_floating_point() else "convert to float, unless they are tokens; ")
                + "give X as a mapping model → inputs where models take different forms of them",
            ) from error  # fmt: skip
    rank = {part: i for i, part in enumerate(order)}
    called = sorted((name for name, part in parts.items() if part in rank), key=lambda name: rank[parts[name]])
    flat = isinstance(outputs, Tensor) and outputs.dim() == 2
    once = dict(module.named_modules())
    weighted = tuple(name for name in called if name in once and _has_weight(parts[name]))
    return Calls(tuple(called), weighted, outputs.shape[1] if flat else None)


def find_places(models: Mapping[str, Calls], layers: Patterns | None) -> dict[str, tuple[str, ...]]:
    """Return, for each place, the name of its module in every model.

    Parameters
    ----------
    models : by name, what each calls.
    layers : names or globs of `named_modules` (a ``*`` also spans dots), each of which must match a module that the
        forward pass calls.

        - One or several: they expand, and must name the same modules in all models. These are the places.
        - A mapping place → one or several: in each model the first of them that matches, and it must match one module.
        - None: the modules with a weight of two axes or more of their own, in the order of the forward pass, without
          the last, which is the readout. If they have the same names in all models, these are the places. If not, the
          places are "depth 0", "depth 1", …, as many (P) as the model with the fewest such layers has, and place j is
          layer ⌊j (L − 1)/(P − 1) + ½⌋ of a model with L of them (the last one if P = 1).

    Raises
    ------
    InputError
        If a name matches nothing (with the nearest names there are), matches several where one is meant, or the models
        have different names.
    """
    if layers is None:
        return _by_depth({model: each.weighted[:-1] for model, each in models.items()})
    if isinstance(layers, Mapping):
        places = {
            place: tuple(_first(model, each, place, _listed(patterns)) for model, each in models.items())
            for place, patterns in layers.items()
        }
    else:
        found = {model: _expanded(model, each, _listed(layers)) for model, each in models.items()}
        first = next(iter(found.values()))
        for model, names in found.items():
            if names != first:
                raise InputError(
                    "the models' layers have different names", where=f"layers, model '{model}'", got=", ".join(names),
                    expected=f"{', '.join(first)}, as the first model has",
                    cure="name the places with a mapping {place: (patterns, ...)}, or align them by depth: layers=None",
                )  # fmt: skip
        places = {name: (name,) * len(models) for name in first}
    if not places:
        raise InputError("no layer to compare", where="layers", got=repr(layers), cure="name at least one")
    return places


def _by_depth(layers: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    for model, names in layers.items():
        if not names:
            raise InputError(
                "a model has no layer with weights before its last one", where=f"model '{model}'",
                cure="say which modules to compare: layers=",
            )  # fmt: skip
    first = next(iter(layers.values()))
    if all(names == first for names in layers.values()):
        return {name: (name,) * len(layers) for name in first}
    n_places = min(map(len, layers.values()))
    return {
        f"depth {j}": tuple(names[_nearest(j, n_places, len(names))] for names in layers.values())
        for j in range(n_places)
    }


def _nearest(place: int, n_places: int, n_layers: int) -> int:
    steps = n_places - 1
    return (2 * place * (n_layers - 1) + steps) // (2 * steps) if steps else n_layers - 1


def _listed(patterns: str | Sequence[str]) -> Sequence[str]:
    return [patterns] if isinstance(patterns, str) else patterns


def _expanded(model: str, each: Calls, patterns: Sequence[str]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for pattern in patterns:
        matched = _matches(each, pattern)
        if not matched:
            raise _nothing_matches(model, each, "layers", [pattern])
        found.update(dict.fromkeys(matched))
    return tuple(found)


def _first(model: str, each: Calls, place: str, patterns: Sequence[str]) -> str:
    for pattern in patterns:
        matched = _matches(each, pattern)
        if len(matched) > 1:
            raise InputError(
                "a place is one module, and several match", where=f"place '{place}', model '{model}'",
                got=f"'{pattern}': {', '.join(matched)}", cure="name one of them",
            )  # fmt: skip
        if matched:
            return matched[0]
    raise _nothing_matches(model, each, f"place '{place}'", patterns)


def _matches(each: Calls, pattern: str) -> list[str]:
    if pattern in each.called:
        return [pattern]
    return [name for name in each.called if fnmatchcase(name, pattern)]


def _nothing_matches(model: str, each: Calls, where: str, patterns: Sequence[str]) -> InputError:
    nearest = [name for pattern in patterns for name in get_close_matches(pattern, each.called, n=3, cutoff=0.4)]
    return InputError(
        "no module that the forward pass calls matches", where=f"{where}, model '{model}'",
        got=" or ".join(map(repr, patterns)),
        expected=f"one of {', '.join(each.called[:12])}{', …' if len(each.called) > 12 else ''}",
        cure=f"did you mean {' or '.join(map(repr, dict.fromkeys(nearest)))}?" if nearest else None,
    )  # fmt: skip


def _has_weight(part: nn.Module) -> bool:
    own = any("weight" in name and value.dim() > 1 for name, value in part.named_parameters(recurse=False))
    return own or (parametrize.is_parametrized(part, "weight") and cast(Tensor, part.weight).dim() > 1)
