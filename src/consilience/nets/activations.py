"""The elementwise functions that networks are built with, by name."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from consilience.errors import InputError

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "leaky_relu": functional.leaky_relu,
    "tanh": torch.tanh,
    "erf": torch.erf,
    "identity": lambda z: z,
    "sigmoid": torch.sigmoid,
    "softplus": functional.softplus,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "elu": functional.elu,
}


def check_activation(activation: str, net: str) -> None:
    """Refuse a name that is not one of `ACTIVATIONS`, on behalf of a class of networks.

    Raises
    ------
    InputError
        If the activation is unknown.
    """
    if activation not in ACTIVATIONS:
        raise InputError(
            "unknown activation", where=f"{net}(activation=...)", got=repr(activation),
            expected=", ".join(ACTIVATIONS), cure="choose one of these, or write your own nn.Module",
        )  # fmt: skip
