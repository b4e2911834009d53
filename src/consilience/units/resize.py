"""A copy of a module with other layer widths."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from consilience.errors import InputError
from consilience.units.architecture import Architecture, read_state
from consilience.units.forward import forward

# Attributes that hold a module's own sizes, which follow the shape of its weight. The groups of a depthwise convolution
# are set first: with them, the weight's second dimension is the channels of one group.
SIZE_ATTRIBUTES: dict[type[nn.Module], dict[str, Callable[[Any], object]]] = {
    nn.Linear: {"out_features": lambda m: m.weight.shape[0], "in_features": lambda m: m.weight.shape[1]},
    nn.modules.conv._ConvNd: {
        "out_channels": lambda m: m.weight.shape[0],
        "in_channels": lambda m: m.weight.shape[1] * m.groups,
    },
    nn.modules.batchnorm._NormBase: {"num_features": lambda m: m.weight.shape[0]},
    nn.LayerNorm: {"normalized_shape": lambda m: tuple(m.weight.shape)},
}


def resize(module: nn.Module, architecture: Architecture, widths: Mapping[str, int]) -> nn.Module:
    """Return a copy of ``module`` whose layers have the given widths.

    Parameters are zero; the statistics of batch norms are those that leave values as they are.

    Parameters
    ----------
    module : any module whose layers are known.
    architecture : its layers, from `find_layers`.
    widths : layer name → units; layers not named keep theirs.

    Raises
    ------
    InputError
        If a name is not a hidden layer, a width is not positive, or the copy fails to run because the module's forward
        pass writes out one of its widths.
    """
    for name, width in widths.items():
        layer = architecture.layer(name)
        if not layer.interchangeable and width != layer.width:
            raise InputError(
                f"the width of layer '{name}' must stay {layer.width}, got {width}",
                cure="change hidden layers only, whose units are interchangeable",
            )
        if width < 1:
            raise InputError(f"the width of layer '{name}' must be >= 1, got {width}")
    new = copy.deepcopy(module)
    variances = {m.norm.variance for m in architecture.maps if m.norm is not None}
    for name, shape in architecture.shapes(widths, read_state(module)).items():
        path, _, attribute = name.rpartition(".")
        part = new.get_submodule(path)
        old = getattr(part, attribute)
        if isinstance(old, nn.Parameter):
            setattr(part, attribute, nn.Parameter(old.new_zeros(shape), requires_grad=old.requires_grad))
        elif shape != tuple(old.shape) or name in architecture.program.parameters.values():
            setattr(part, attribute, old.new_ones(shape) if name in variances else old.new_zeros(shape))
    for m in architecture.maps:
        part = new.get_submodule(m.weight.rpartition(".")[0])
        if m.per_unit and isinstance(part, nn.modules.conv._ConvNd):
            part.groups = part.weight.shape[0]
    for part in new.modules():
        for kind, attributes in SIZE_ATTRIBUTES.items():
            if isinstance(part, kind) and isinstance(getattr(part, "weight", None), Tensor):
                for attribute, size in attributes.items():
                    setattr(part, attribute, size(part))
    _check_runs(new, architecture)
    return new


def _check_runs(module: nn.Module, architecture: Architecture) -> None:
    dtype, name = next(module.parameters()).dtype, type(module).__name__
    cure = "let its forward pass take sizes from tensors (x.flatten(1), x.shape) instead of writing them out"
    x = torch.zeros(2, *architecture.program.input_shape, dtype=dtype)
    try:
        output = forward(module, {}, x)
    except Exception as error:
        raise InputError(f"{name} must run at other widths, got {type(error).__name__}: {error}", cure=cure) from error
    expected = (2, architecture.output.width)
    if output.shape != expected:
        raise InputError(f"{name} must return {expected} at other widths, got {tuple(output.shape)}", cure=cure)
