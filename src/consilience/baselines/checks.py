"""What every method of this room refuses before any work."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral

from torch import Tensor

from consilience.assembly.building import check_correction
from consilience.checks import Width, resolve_width
from consilience.errors import InputError
from consilience.population.checks import check_inputs
from consilience.population.population import Population

Widths = Width | Mapping[str, Width]


def check_fusion(population: Population, correction: str, calibration: Tensor | None, where: str) -> None:
    """Refuse an empty population, an unknown correction, and calibration data that is missing or does not fit."""
    if len(population) == 0:
        raise InputError(
            "there is no member to fuse", where=where, got=0, expected="at least 1 member",
            cure="train members, or give modules to Population.from_modules",
        )  # fmt: skip
    check_correction(correction, calibration)
    if calibration is not None:
        check_inputs(population, calibration, "calibration")


def check_equal_widths(population: Population, where: str) -> None:
    """Refuse members of different widths."""
    for layer in population.architecture.free:
        widths = population.widths(layer.name)
        if len(set(widths)) > 1:
            raise InputError(
                f"{where} needs members of equal widths", where=f"layer '{layer.name}'", got=list(widths),
                expected="one width", cure="use transport_fusion, probabilistic_matching or an assembly",
            )  # fmt: skip


def check_member(population: Population, index: object, where: str) -> None:
    """Refuse the index of a member that does not exist."""
    if isinstance(index, bool) or not isinstance(index, Integral) or not 0 <= int(index) < len(population):
        raise InputError(
            "no member has this index", where=where, got=repr(index), expected=f"0 to {len(population) - 1}"
        )


def needed(calibration: Tensor | None, where: str) -> Tensor:
    """Return the calibration data of a method that looks at activations, or refuse to go without."""
    if calibration is None:
        raise InputError(
            "this method compares activations, which needs calibration data", where=f"{where}(calibration=...)",
            expected="inputs (n, ...)", cure="pass unlabelled inputs, or use a method that compares weights",
        )  # fmt: skip
    return calibration


def check_choice(value: str, choices: tuple[str, ...], where: str) -> None:
    """Refuse a value that is none of the choices."""
    if value not in choices:
        raise InputError("unknown choice", where=where, got=repr(value), expected=", ".join(map(repr, choices)))


def layer_widths(population: Population, width: Widths, default: Mapping[str, int]) -> dict[str, int]:
    """Return the width of each hidden layer: an int, a multiple of the members' median, or a dict by layer.

    Layers that a dict does not name get their ``default``.
    """
    names = [layer.name for layer in population.architecture.free]
    if isinstance(width, Mapping):
        for name in width:
            if name not in names:
                raise InputError(
                    "no hidden layer has this name", where="width", got=repr(name), expected=", ".join(map(repr, names))
                )
        chosen: Mapping[str, Width] = {name: width.get(name, default[name]) for name in names}
    else:
        chosen = dict.fromkeys(names, width)
    return {name: resolve_width(w, population.median_width(name), "width") for name, w in chosen.items()}
