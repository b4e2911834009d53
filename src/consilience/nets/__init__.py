"""What a member is. Each network has a frozen ``config`` from which `build` makes it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from consilience.errors import InputError
from consilience.nets.activations import ACTIVATIONS
from consilience.nets.convnet import ConvNet, ConvNetConfig
from consilience.nets.mlp import MLP, MLPConfig
from consilience.nets.resnet import ResNet, ResNetConfig

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "NETS",
    "ConvNet",
    "ConvNetConfig",
    "MLPConfig",
    "ResNet",
    "ResNetConfig",
    "build",
]

NETS: dict[str, type[nn.Module]] = {"MLP": MLP, "ConvNet": ConvNet, "ResNet": ResNet}


def build(kind: str, config: Mapping[str, Any]) -> nn.Module:
    """Return a new network of class ``NETS[kind]`` with the given config.

    Raises
    ------
    InputError
        If the class is not one of this package's, or the config does not fit it.
    """
    if kind not in NETS:
        raise InputError("unknown network class", got=repr(kind), expected=", ".join(NETS), cure="pass module=")
    try:
        return NETS[kind](**config)
    except TypeError as error:
        raise InputError(f"the config does not fit {kind}", got=dict(config), expected=str(error)) from error
