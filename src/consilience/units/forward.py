"""A module's own forward pass: in eval mode, and under other parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call


@contextmanager
def eval_mode(*modules: object) -> Iterator[None]:
    """Put all parts of modules into eval mode, without gradients, and give each its mode back; skip other callables."""
    parts = [part for module in modules if isinstance(module, nn.Module) for part in module.modules()]
    modes = [part.training for part in parts]
    try:
        for part in parts:
            part.training = False
        with torch.no_grad():
            yield
    finally:
        for part, training in zip(parts, modes, strict=True):
            part.training = training


def forward(module: nn.Module, state: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Return the module's outputs in eval mode under other parameters, without gradients."""
    with eval_mode(module):
        outputs: Tensor = functional_call(module, dict(state), (x,))
        return outputs
