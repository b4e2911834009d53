"""Norms with one group of units for each member, so that members side by side keep their own statistics.

A norm over units mixes all units that it reads. In a network in which members stand side by side, one with a group for
each member gives each what its own norm gave it. A norm over several layers side by side has the units of a member in
several places; a norm in groups has some groups for each member.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from consilience.errors import InputError
from consilience.units.program import Program

CURE = "give each norm a module of its own, such as nn.LayerNorm or an RMSNorm with the attribute weight"


@dataclass(frozen=True)
class Grouping:
    """What a grouped norm has beside its parameters; see `GroupedNorm`."""

    groups: tuple[int, ...]
    centred: bool
    eps: float
    shift: float
    together: tuple[int, ...] = ()
    positions: bool = False
    units_second: bool = False


@dataclass(frozen=True)
class Statistic:
    """A norm over all units of layers that lie side by side.

    Attributes
    ----------
    value : the traced value of the operation that computes the statistic.
    layers : whose units, in order.
    parts : for each of these the group of the norm that it is in; more than one in a group norm.
    module : path of the module of the norm; None where that has other parameters too, or values of no layer.
    centred : whether the mean is subtracted.
    eps : what is added to the mean square.
    shift : what is added to the weight.
    positions : whether the statistic is over positions too, with units along dimension 1.
    units_second : whether units lie along dimension 1, not the last, in what the module takes and returns.
    kind : "norm", or the operation alone, "mean" or "var", of a norm written by hand.
    rows : of each unit of these layers: more than one of heads.
    """

    value: str
    layers: tuple[str, ...]
    parts: tuple[int, ...]
    module: str | None
    centred: bool
    eps: float
    shift: float
    positions: bool
    units_second: bool
    kind: str
    rows: tuple[int, ...]

    def grouping(self, widths: Sequence[Sequence[int]]) -> Grouping:
        """Return the grouping that keeps members apart; ``widths`` has the units of each member, by layer."""
        together = [part * len(own) + k for own, part in zip(widths, self.parts, strict=True) for k in range(len(own))]
        groups = tuple(width * rows for own, rows in zip(widths, self.rows, strict=True) for width in own)
        kind = (tuple(together), self.positions, self.units_second)
        return Grouping(groups, self.centred, self.eps, self.shift, *kind)


class GroupedNorm(nn.Module):
    """Layer norm or RMS norm of each group of units by itself.

    Parameters
    ----------
    weight, bias : (u,), or no bias.
    grouping : ``groups``, numbers of neighbouring units; ``together``, for each of these the number of the group that
        it is part of, by default one of its own; whether the mean of each group is subtracted (``centred``); what is
        added to the mean square (``eps``) and to the weight (``shift``); whether statistics are over ``positions`` too;
        whether ``units_second``, before positions, where statistics are of each position.
    """

    eps = math.nan  # torch's encoder layers take a fused path, without this norm, where two norms have equal ones

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None, grouping: Grouping) -> None:
        super().__init__()
        self.weight, self.grouping = weight, grouping
        self.register_parameter("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map values (..., u), or (n, u, ...) with units second or statistics over positions, to the same shape."""
        bias = self._parameters["bias"]
        if not self.grouping.units_second:
            return normalized(x, self.grouping, self.weight, bias)
        return normalized(x.movedim(1, -1), self.grouping, self.weight, bias).movedim(-1, 1)


def normalized(value: Tensor, grouping: Grouping, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Return what a grouped norm with these parameters makes of a value; see `GroupedNorm`."""
    value = value - mean_of_groups(value, grouping) if grouping.centred else value
    value = value * (mean_of_groups(value.square(), grouping) + grouping.eps).rsqrt()
    shape = [-1, *[1] * (value.dim() - 2)] if grouping.positions else [-1]
    value = value if weight is None else value * (weight + grouping.shift).view(shape)
    return value if bias is None else value + bias.view(shape)


def mean_of_groups(value: Tensor, grouping: Grouping) -> Tensor:
    """Return the mean of each group at each of its places: the shape of ``value`` (..., u) or (n, u, ...)."""
    dims = list(range(1, value.dim())) if grouping.positions else [-1]
    totals, means = Counter[int](), dict[int, Tensor]()
    together = grouping.together or range(len(grouping.groups))
    for group, units in zip(together, grouping.groups, strict=True):
        totals[group] += units
    parts = value.split(list(grouping.groups), dims[0])
    for part, group, units in zip(parts, together, grouping.groups, strict=True):
        share = part.mean(dims, keepdim=True) * (units / totals[group])
        means[group] = means[group] + share if group in means else share
    return torch.cat([means[group].expand_as(part) for part, group in zip(parts, together, strict=True)], dims[0])


def groupings(module: nn.Module) -> dict[str, Grouping]:
    """Return what the grouped norms of a module have beside their parameters, by path."""
    return {path: part.grouping for path, part in module.named_modules() if isinstance(part, GroupedNorm)}


def regroup(module: nn.Module, norms: Mapping[str, Grouping]) -> None:
    """Replace the norms of a module at these paths by grouped ones with the same parameters, in place.

    Raises
    ------
    ValueError : if there is no norm at a path, or it has another number of units.
    """
    parts = dict(module.named_modules())
    for path, grouping in norms.items():
        own = parts.get(path)
        weight, bias = (None if own is None else own._parameters.get(name) for name in ("weight", "bias"))
        units, together = sum(grouping.groups), len(grouping.together)
        if own is None or weight is None or units != len(weight) or together not in (0, len(grouping.groups)):
            raise ValueError(f"'{path}' has no norm of {units} units")
        module.set_submodule(path, GroupedNorm(weight, bias, grouping).train(own.training))
    for part in module.modules() if norms else ():
        if isinstance(part, nn.TransformerEncoder):
            part.use_nested_tensor = False  # which only torch's norms take


def group_norms(module: nn.Module, norms: Mapping[Statistic, Grouping]) -> None:
    """Replace the norms of a module by grouped ones, in place."""
    found = dict[str, Grouping]()
    for norm, grouping in norms.items():
        if norm.module is None:
            layers = ", ".join(f"'{layer}'" for layer in norm.layers)
            raise InputError(f"the norm of {layers} must be a module of its own to be grouped", cure=CURE)
        found[norm.module] = grouping
    regroup(module, found)


def with_grouped_norms(program: Program, norms: Mapping[Statistic, Grouping]) -> Program:
    """Return the program with grouped norms."""
    functions = {norm.value: _Grouped(grouping, norm.kind) for norm, grouping in norms.items()}
    return replace(program, functions={**program.functions, **functions})


@dataclass(frozen=True)
class _Grouped:
    """The operation of a statistic, by group: a whole norm, or the mean or variance that one written by hand takes."""

    grouping: Grouping
    kind: str

    def __call__(self, value: Tensor, shape: Any, *options: Any, **_: Any) -> Tensor:
        if self.kind != "norm":  # mean(value, dims, keepdim), var(value, dims, ...)
            (dim,) = shape
            value = value.movedim(dim, -1)
            mean = mean_of_groups(value, self.grouping)
            mean = mean_of_groups((value - mean).square(), self.grouping) if self.kind == "var" else mean
            return mean.movedim(-1, dim)
        weight, bias = (*options, None, None)[:2]  # of a layer or group norm; an RMS norm has no bias
        return normalized(value, replace(self.grouping, shift=0.0), weight, bias if self.grouping.centred else None)


def statistic_of(program: Program, node: fx.Node, layers: Sequence[tuple[str, int]]) -> Statistic:
    """Return what is known of a norm from the operation that computes its statistic, of layers and their parts."""
    name, given = str(node.target), [*node.args, *[None] * 5]
    kind, positions = "norm", "group_norm" in name
    if positions or "layer_norm" in name:
        centred, eps = True, 1e-5 if given[4] is None else float(given[4])  # type: ignore[arg-type]
    elif "rms_norm" in name:
        centred = False
        eps = torch.finfo(torch.float32).eps if given[3] is None else float(given[3])  # type: ignore[arg-type]
    else:
        numbers = [a for user in node.users for a in user.args if isinstance(a, int | float)]
        kind = "var" if "var" in name else "mean"
        centred, eps = kind == "var", float(numbers[0]) if len(numbers) == 1 else 0.0
    stack = [path for key, (path, _) in (node.meta.get("nn_module_stack") or {}).items() if not key.startswith("_")]
    module = stack[-1] if stack else None
    names, parts = zip(*layers, strict=True)
    rows = (1,) * len(names)
    return Statistic(node.name, names, parts, module, centred, eps, 0.0, positions, False, kind, rows)
