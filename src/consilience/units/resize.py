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

# Attributes that tell a module's own sizes, which follow the shape of its weight; the groups of a depthwise convolution
# are set before: with them, the weight's second dimension is the channels of one group.
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
        if not architecture.layer(name).interchangeable and width != architecture.layer(name).width:
            raise InputError(
                "the outputs keep their number, and so do units that are told apart by their index",
                where=f"layer '{name}'",
                got=width,
                expected=architecture.layer(name).width,
            )
        if width < 1:
            raise InputError("a layer needs at least one unit", where=f"layer '{name}'", got=width)
    new = copy.deepcopy(module)
    variances = {m.norm.variance for m in architecture.maps if m.norm is not None}
    old = read_state(module)
    for name, shape in architecture.shapes(widths, old).items():
        owner, own = new.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]
        found = getattr(owner, own)
        if isinstance(found, nn.Parameter):
            setattr(owner, own, nn.Parameter(found.new_zeros(shape), requires_grad=found.requires_grad))
        elif shape != tuple(found.shape) or name in architecture.program.parameters.values():
            setattr(owner, own, found.new_ones(shape) if name in variances else found.new_zeros(shape))
    for m in architecture.maps:
        owner = new.get_submodule(m.weight.rpartition(".")[0])
        if m.per_unit and isinstance(owner, nn.modules.conv._ConvNd):
            owner.groups = owner.weight.shape[0]
    for part in new.modules():
        for kind, attributes in SIZE_ATTRIBUTES.items():
            for attribute, size in attributes.items() if isinstance(part, kind) and _sized(part) else ():
                setattr(part, attribute, size(part))
    _check_runs(new, architecture)
    return new


def _sized(part: nn.Module) -> bool:
    """Whether a weight tells the sizes: not where it is missing, or shared by other means."""
    return isinstance(getattr(part, "weight", None), Tensor)


def _check_runs(module: nn.Module, architecture: Architecture) -> None:
    dtype = next(module.parameters()).dtype
    x = torch.zeros(2, *architecture.program.input_shape, dtype=dtype)
    try:
        output = forward(module, {}, x)
    except Exception as error:
        raise InputError(
            "the module does not run at other widths", where=type(module).__name__, got=str(error),
            cure="let its forward pass take sizes from tensors (x.flatten(1), x.shape) instead of writing them out",
        ) from error  # fmt: skip
    if output.shape != (2, architecture.output.width):
        raise InputError(
            "the module returns another shape at other widths", where=type(module).__name__, got=tuple(output.shape),
            expected=(2, architecture.output.width),
        )  # fmt: skip
