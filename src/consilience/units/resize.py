"""A copy of a module with other layer widths."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from consilience.errors import InputError
from consilience.units.layers import Architecture, read_state

# Attributes that tell a module's own sizes, by axis of its weight; they follow the weight.
SIZE_ATTRIBUTES: dict[type[nn.Module], dict[int, str]] = {nn.Linear: {0: "out_features", 1: "in_features"}}


def resize(module: nn.Module, architecture: Architecture, widths: Mapping[str, int]) -> nn.Module:
    """Return a copy of ``module`` whose layers have the given widths and whose parameters are zero.

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
                "the outputs keep their number",
                where=f"layer '{name}'",
                got=width,
                expected=architecture.layer(name).width,
            )
        if width < 1:
            raise InputError("a layer needs at least one unit", where=f"layer '{name}'", got=width)
    new = copy.deepcopy(module)
    for parameter, shape in architecture.shapes(widths, read_state(module)).items():
        owner = new.get_submodule(parameter.rpartition(".")[0])
        name = parameter.rpartition(".")[2]
        old = getattr(owner, name)
        setattr(owner, name, nn.Parameter(torch.zeros(shape, dtype=old.dtype), requires_grad=old.requires_grad))
        for axis, attribute in SIZE_ATTRIBUTES.get(type(owner), {}).items() if name == "weight" else ():
            setattr(owner, attribute, shape[axis])
    _check_runs(new, architecture)
    return new


def _check_runs(module: nn.Module, architecture: Architecture) -> None:
    dtype = next(module.parameters()).dtype
    x = torch.zeros(2, *architecture.program.input_shape, dtype=dtype)
    try:
        with torch.no_grad():
            output: Tensor = module(x)
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
