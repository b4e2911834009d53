"""Whether two modules run the same program, as far as can be told without tracing them or running them.

What plain attributes do not show (a lambda, an object) is left to a comparison of outputs, which whoever asks makes.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import fields, is_dataclass
from enum import Enum

import torch
from torch import Tensor, nn

from consilience.units.attributes import ALL_HEADS, HEADS, KEY_HEADS, OUTPUTS, READ, SIZE_ATTRIBUTES, WRITTEN
from consilience.units.attributes import SIZES as OTHER_SIZES
from consilience.units.deviation import deviation

# How a network was made, is saved, and where it is from.
RECORDS = frozenset({"assembly_", "distillation_", "save_pretrained", "name_or_path"})
INTERNAL = frozenset(vars(nn.Module())) | RECORDS  # torch's own attributes, the training flag among them
CLASS_SIZES = (name for names in SIZE_ATTRIBUTES.values() for name in names)
NAMED = (*OUTPUTS, *HEADS, *KEY_HEADS, *ALL_HEADS, *WRITTEN, *READ, *OTHER_SIZES)
SIZES = frozenset({"groups", "shape", *NAMED, *CLASS_SIZES})
ROUNDINGS = 1000  # of the largest output: a sum over a thousand inputs in another order differs by about 30
SHARE = 1e-3  # of the spread of each output over samples: roundings above it could hide another function


def settings(module: nn.Module, but_for: Container[str] = ()) -> tuple[str, ...]:
    """Return the classes of a module and its parts, and their plain attributes but for those of some names."""
    lines = []
    for path, part in module.named_modules():
        lines.append(f"{path}: {type(part).__module__}.{type(part).__qualname__}")
        for name, value in vars(part).items():
            if name in INTERNAL or name in but_for:
                continue
            plain = isinstance(value, (str, int, float, tuple, list, Enum)) or is_dataclass(value)
            text = _text(value, but_for) if plain else getattr(value, "__qualname__", "")  # of a function
            if text and " at 0x" not in text:
                lines.append(f"{path}.{name}={text}")
    return tuple(lines)


def same_program(a: nn.Module, b: nn.Module, states: Container[str]) -> bool:
    """Return whether settings (but for sizes) and buffers of modules agree, but for what is in ``states`` by name."""
    if settings(a, SIZES) != settings(b, SIZES):
        return False
    ours, theirs = _constants(a, states), _constants(b, states)
    return ours.keys() == theirs.keys() and all(
        ours[name].dtype == theirs[name].dtype and torch.equal(ours[name], theirs[name]) for name in ours
    )


def same_outputs(ours: Tensor, theirs: Tensor) -> bool:
    """Return whether outputs are equal but for rounding; True where ``theirs`` are not finite, which tell nothing."""
    if ours.shape != theirs.shape:
        return False
    if not bool(theirs.isfinite().all()):
        return True
    rounding = ROUNDINGS * torch.finfo(theirs.dtype).eps * theirs.abs().max()
    return bool((ours - theirs).abs().max() <= rounding) and deviation(ours, theirs) <= SHARE


def _text(value: object, but_for: Container[str]) -> str:
    if not is_dataclass(value) or isinstance(value, type):
        return repr(value)
    entries = [f"{f.name}={getattr(value, f.name)!r}" for f in fields(value) if f.name not in but_for]
    return f"{type(value).__qualname__}({', '.join(entries)})"


def _constants(module: nn.Module, states: Container[str]) -> dict[str, Tensor]:
    buffers = module.named_buffers()
    return {name: b for name, b in buffers if name not in states and not name.endswith("num_batches_tracked")}
