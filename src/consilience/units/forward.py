"""A module's own forward pass under other parameters."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call


def forward(module: nn.Module, state: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Return the module's outputs in eval mode under other parameters, without gradients; its mode stays as it was."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        with torch.no_grad():
            outputs: Tensor = functional_call(module.eval(), dict(state), (x,))
            return outputs
    finally:
        for part, training in modes:
            part.training = training
