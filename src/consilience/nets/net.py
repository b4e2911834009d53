"""What all networks of this package have in common: they are built from a frozen config, and tell it again."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, TypeVar

from torch import nn

from consilience.checks import check_choice, check_count, check_number, is_count
from consilience.errors import InputError
from consilience.nets.activations import ACTIVATIONS

MOST = 2**31 - 1  # units of a layer
COUNTS = ("blocks_per_stage", "width", "image_size", "patch_size", "queries_per_key")  # ints whose names lack "n_"
Part = TypeVar("Part", bound=nn.Module)


class Net(nn.Module):
    """A network with the arguments of its ``Config``, a frozen dataclass that checks them.

    A subclass reads ``config`` from the layers that it makes in ``build``, so that a resized one has its new widths.
    """

    Config: ClassVar[type]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        config = self.Config(*args, **kwargs)
        self.activation: str = config.activation
        self.build(config)

    def __init_subclass__(cls) -> None:
        cls.__signature__ = inspect.signature(cls.Config)  # type: ignore[attr-defined]

    def build(self, config: Any) -> None:
        """Make the layers."""
        raise NotImplementedError


def check_config(config: Any, sequences: Sequence[str] = ("widths",)) -> None:
    """Make the sequences of a config tuples; raise unless its ints are >= 1, and its activation and dropout valid."""
    for argument in sequences:
        given = getattr(config, argument)
        is_sequence = isinstance(given, Sequence) and not isinstance(given, str | bytes)
        object.__setattr__(config, argument, tuple(given) if is_sequence else (given,))
    for argument, value in vars(config).items():
        if argument.startswith("n_") or argument in COUNTS:
            check_count(argument, value)
            check_count(argument, value, most=MOST)
    for argument in sequences:
        check_widths(argument, getattr(config, argument))
    check_choice("activation", config.activation, ACTIVATIONS)
    check_number("dropout", getattr(config, "dropout", 0), 0, 1)


def check_widths(argument: str, widths: Sequence[int]) -> None:
    """Raise unless widths are one or more ints >= 1."""
    if not widths or not all(is_count(width, most=MOST) for width in widths):
        raise InputError(f"{argument} must be one or more ints >= 1, got {list(widths)}")


def of_type(parts: Iterable[nn.Module], kind: type[Part]) -> list[Part]:
    """Return the parts of one class."""
    return [part for part in parts if isinstance(part, kind)]
