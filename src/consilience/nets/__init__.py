"""What a member is. Each network has a frozen ``config`` from which `build` makes it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from consilience.errors import InputError
from consilience.nets.activations import ACTIVATIONS
from consilience.nets.convnet import ConvNet, ConvNetConfig
from consilience.nets.mlp import MLP, MLPConfig
from consilience.nets.net import Net
from consilience.nets.resnet import ResNet, ResNetConfig
from consilience.nets.routed import Routed, RoutedConfig
from consilience.nets.transformer import GPT, GPTConfig, Llama, LlamaConfig, ViT, ViTConfig

NETS: dict[str, type[Net]] = {
    "MLP": MLP,
    "ConvNet": ConvNet,
    "ResNet": ResNet,
    "ViT": ViT,
    "GPT": GPT,
    "Llama": Llama,
    "Routed": Routed,
}
__all__ = [
    "ACTIVATIONS",
    "GPT",
    "MLP",
    "NETS",
    "ConvNet",
    "ConvNetConfig",
    "GPTConfig",
    "Llama",
    "LlamaConfig",
    "MLPConfig",
    "ResNet",
    "ResNetConfig",
    "Routed",
    "RoutedConfig",
    "ViT",
    "ViTConfig",
    "build",
    "config_of",
]


def config_of(kind: str) -> type[Any]:
    """Return the dataclass of the config of a class of networks; raise `InputError` if there is no such class."""
    if kind not in NETS:
        raise InputError(f"the class of a network must be one of {', '.join(NETS)}, got {kind!r}", cure="pass module=")
    return NETS[kind].Config


def build(kind: str, config: Mapping[str, Any]) -> nn.Module:
    """Return a new network of class ``NETS[kind]`` with the given config; raise `InputError` if it does not fit."""
    config_of(kind)
    try:
        return NETS[kind](**config)
    except TypeError as error:
        raise InputError(f"config must fit {kind}, got {dict(config)}: {error}") from error
