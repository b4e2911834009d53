"""Norms with one group of units for each member, so that members side by side keep their own statistics.

A norm over units mixes all units that it reads. In a network in which members stand side by side, one with a group for
each member gives each what its own norm gave it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from consilience.errors import InputError
from consilience.units.program import Program

CURE = "give each norm a module of its own, such as nn.LayerNorm or an RMSNorm with the attribute weight"


@dataclass(frozen=True)
class Statistic:
    """A norm over all units of a layer.

    Attributes
    ----------
    value : the traced value of the operation that computes the statistic.
    layer : whose units.
    module : path of the module of the norm; None where that has other parameters too.
    centred : whether the mean is subtracted.
    eps : what is added to the mean square.
    shift : what is added to the weight.
    """

    value: str
    layer: str
    module: str | None
    centred: bool
    eps: float
    shift: float


@dataclass(frozen=True)
class Grouping:
    """What a grouped norm has beside its parameters; see `GroupedNorm`."""

    groups: tuple[int, ...]
    centred: bool
    eps: float
    shift: float


class GroupedNorm(nn.Module):
    """Layer norm or RMS norm of each group of neighbouring units by itself.

    Parameters
    ----------
    weight, bias : (u,), or no bias.
    groups : number of units of each group.
    centred : whether the mean of each group is subtracted.
    eps, shift : added to the mean square, and to the weight.
    """

    def __init__(
        self,
        weight: nn.Parameter,
        bias: nn.Parameter | None,
        groups: Sequence[int],
        centred: bool,
        eps: float,
        shift: float,
    ) -> None:
        super().__init__()
        self.weight, self.groups, self.centred, self.eps, self.shift = weight, tuple(groups), centred, eps, shift
        self.register_parameter("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map values (..., u) to values of the same shape."""
        x = x - mean_of_groups(x, self.groups) if self.centred else x
        x = x * (mean_of_groups(x.square(), self.groups) + self.eps).rsqrt() * (self.weight + self.shift)
        bias = self._parameters["bias"]
        return x if bias is None else x + bias


def groupings(module: nn.Module) -> dict[str, Grouping]:
    """Return what the grouped norms of a module have beside their parameters, by path."""
    norms = ((path, part) for path, part in module.named_modules() if isinstance(part, GroupedNorm))
    return {path: Grouping(norm.groups, norm.centred, norm.eps, norm.shift) for path, norm in norms}


def regroup(module: nn.Module, norms: Mapping[str, Grouping]) -> None:
    """Replace the norms of a module at these paths by grouped ones with the same parameters, in place.

    Raises
    ------
    ValueError : if there is no norm at a path, or it has another number of units.
    """
    parts = dict(module.named_modules())
    for path, norm in norms.items():
        own = parts.get(path)
        weight, bias = (None if own is None else own._parameters.get(name) for name in ("weight", "bias"))
        if own is None or weight is None or sum(norm.groups) != len(weight):
            raise ValueError(f"'{path}' has no norm of {sum(norm.groups)} units")
        grouped = GroupedNorm(weight, bias, norm.groups, norm.centred, norm.eps, norm.shift)
        module.set_submodule(path, grouped.train(own.training))


def mean_of_groups(value: Tensor, groups: Sequence[int]) -> Tensor:
    """Return the mean of each group along the last dimension, at each of its places: the shape of ``value``."""
    means = [part.mean(-1, keepdim=True).expand_as(part) for part in value.split(list(groups), -1)]
    return torch.cat(means, -1)


def group_norms(module: nn.Module, statistics: Sequence[Statistic], groups: Mapping[str, Sequence[int]]) -> None:
    """Replace the norms of a module by grouped ones, in place; ``groups`` has the units of each group by layer."""
    found = dict[str, Grouping]()
    for norm in statistics:
        if norm.module is None:
            raise InputError(f"the norm of layer '{norm.layer}' must be a module of its own to be grouped", cure=CURE)
        found[norm.module] = Grouping(tuple(groups[norm.layer]), norm.centred, norm.eps, norm.shift)
    regroup(module, found)


def with_grouped_norms(
    program: Program, statistics: Sequence[Statistic], groups: Mapping[str, Sequence[int]]
) -> Program:
    """Return the program with grouped norms; see `group_norms`."""
    functions = {norm.value: _Grouped(norm, tuple(groups[norm.layer])) for norm in statistics}
    return replace(program, functions={**program.functions, **functions})


@dataclass(frozen=True)
class _Grouped:
    """The operation of a statistic, by group: a whole norm, or the mean that one written by hand takes."""

    norm: Statistic
    groups: tuple[int, ...]

    def __call__(self, value: Tensor, shape: object, *options: Any, **_: Any) -> Tensor:
        if not options or not isinstance(options[0], Tensor):  # mean(value, dims, keepdim)
            return mean_of_groups(value, self.groups)
        bias = options[1] if self.norm.centred else None
        value = value - mean_of_groups(value, self.groups) if self.norm.centred else value
        value = value * (mean_of_groups(value.square(), self.groups) + self.norm.eps).rsqrt() * options[0]
        return value if bias is None else value + bias


def statistic_of(program: Program, node: fx.Node, layer: str, shift: float) -> Statistic:
    """Return what is known of a norm from the operation that computes its statistic."""
    name = str(node.target)
    if "layer_norm" in name:
        centred, eps = True, float(node.args[4] if len(node.args) > 4 else 1e-5)  # type: ignore[arg-type]
    elif "rms_norm" in name:
        given = node.args[3] if len(node.args) > 3 else None
        centred, eps = False, torch.finfo(torch.float32).eps if given is None else float(given)  # type: ignore[arg-type]
    else:
        numbers = [a for user in node.users for a in user.args if isinstance(a, int | float)]
        centred, eps = False, float(numbers[0]) if len(numbers) == 1 else 0.0
    stack = [path for key, (path, _) in (node.meta.get("nn_module_stack") or {}).items() if not key.startswith("_")]
    return Statistic(node.name, layer, stack[-1] if stack else None, centred, eps, shift)
