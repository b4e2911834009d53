"""Members of one architecture as one function of stacked parameters.

- Members are put into one `Stack` when they are of the same class and agree in every setting and in the names, shapes
  and types of their parameters and buffers. What settings cannot show (a lambda, a tensor attribute) is seen by
  comparing each member's own outputs on a few samples with those of the stack; members that differ get another stack.
- The modules given are copied, never changed.

Axis legend: ``k`` member, ``n`` sample.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, is_dataclass
from enum import Enum

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from consilience.errors import InputError

PROBE = 32  # samples for the comparison of functions: enough that most units are on for some and off for others
# Outputs agree when they differ by less than this many roundings of the largest output: a sum over a thousand inputs
# in another order differs by about 30, another activation by far more.
ROUNDINGS = 1000
INTERNAL = frozenset(vars(nn.Module()))  # torch's own attributes, the training flag among them


@dataclass(frozen=True)
class Stack:
    """K members of one architecture.

    Attributes
    ----------
    positions : where each member stands in the list of modules it came from.
    template : the function they share; a copy whose own parameters are not used.
    trainable : parameters (k, ...) by name.
    constant : parameters without ``requires_grad``, and buffers, (k, ...) by name.
    example_output : outputs of the first member for a few samples.
    """

    positions: tuple[int, ...]
    template: nn.Module
    trainable: dict[str, Tensor]
    constant: dict[str, Tensor]
    example_output: Tensor

    def outputs(self, x: Tensor, *, own: bool = False) -> Tensor:
        """Map inputs (n, ...), or with ``own`` one batch for each member (k, n, ...), to outputs (k, n, ...)."""

        def member(trainable: dict[str, Tensor], constant: dict[str, Tensor], x: Tensor) -> Tensor:
            outputs: Tensor = functional_call(self.template, {**trainable, **constant}, (x,))
            return outputs

        run: Callable[..., Tensor] = vmap(member, in_dims=(0, 0, 0 if own else None), randomness="different")
        return run(self.trainable, self.constant, x)

    def state(self, row: int, module: nn.Module) -> dict[str, Tensor]:
        """Return the state dict of member ``row``, with the keys of ``module`` (the one it was stacked from)."""
        shared = {id(value): name for name, value in module.named_parameters()}  # the first name of tied parameters
        names = {alias: shared[id(value)] for alias, value in module.named_parameters(remove_duplicate=False)}
        stacked = {**self.trainable, **self.constant}
        state = module.state_dict()
        return {
            key: (stacked[names[key]][row] if key in names else value).detach().clone() for key, value in state.items()
        }


def stack_members(modules: Sequence[nn.Module], x: Tensor) -> list[Stack]:
    """Group modules by architecture and behaviour.

    Parameters
    ----------
    modules : initialised networks; not changed.
    x : inputs (n, ...) that they take; the first few are used to compare the modules' functions.

    Raises
    ------
    InputError
        If a module cannot take ``x``, has nothing to train, has buffers that change in training (batch norm), or
        computes something else in a stack than alone.
    """
    probe = x[:PROBE]
    groups: dict[object, list[int]] = {}
    alone = []
    with torch.no_grad(), torch.random.fork_rng([x.device] if x.device.type == "cuda" else []):
        for position, module in enumerate(modules):
            alone.append(_outputs_alone(position, module, probe))
            groups.setdefault(_signature(module), []).append(position)
        return [stack for group in groups.values() for stack in _split_by_function(modules, group, alone, probe)]


def settings(module: nn.Module) -> tuple[str, ...]:
    """Return what a module and its parts were built with, as far as plain attributes tell."""
    found = []
    for path, part in module.named_modules():
        found.append(f"{path}: {type(part).__module__}.{type(part).__qualname__}")
        for name, value in vars(part).items():
            if name in INTERNAL:
                continue
            if isinstance(value, (str, int, float, tuple, list, Enum)) or is_dataclass(value):
                text = repr(value)
            else:
                text = getattr(value, "__qualname__", "")  # of a function
            if text and " at 0x" not in text:
                found.append(f"{path}.{name}={text}")
    return tuple(found)


def _signature(module: nn.Module) -> object:
    parameters = tuple((name, p.shape, p.dtype, p.requires_grad) for name, p in module.named_parameters())
    buffers = tuple((name, b.shape, b.dtype) for name, b in module.named_buffers())
    return type(module), parameters, buffers, settings(module)


def _outputs_alone(position: int, module: nn.Module, probe: Tensor) -> Tensor:
    """Return a module's outputs in eval mode, after looking for what cannot be trained in a stack."""
    where = f"modules[{position}] ({type(module).__name__})"
    if not any(p.requires_grad for p in module.parameters()):
        raise InputError("a member has no parameters to train", where=where)
    devices = {str(tensor.device) for tensor in (*module.parameters(), *module.buffers(), probe)}
    if len(devices) > 1:
        raise InputError("members are on different devices", where=where, got=", ".join(sorted(devices)),
                         cure="move all modules to one device first")  # fmt: skip
    twin = copy.deepcopy(module)
    try:
        outputs = twin.eval()(probe)
        before = {name: buffer.clone() for name, buffer in twin.named_buffers()}
        if before:
            twin.train()(probe)
    except Exception as error:
        raise InputError(
            "a member cannot take the inputs", where=where,
            got=f"x (n, {', '.join(map(str, probe.shape[1:]))}) of {probe.dtype}: {_first_line(error)}",
            cure="pass inputs of the shape and type that the member was made for",
        ) from error  # fmt: skip
    if not isinstance(outputs, Tensor):
        raise InputError("a member does not return a tensor", where=where, got=type(outputs).__name__)
    for name, buffer in twin.named_buffers():
        if not torch.equal(buffer.nan_to_num(), before[name].nan_to_num()):
            raise InputError(
                "a buffer changes during training", where=f"{where}, buffer {name!r}", expected="constant buffers",
                cure="use a network without batch normalisation",
            )  # fmt: skip
    return outputs


def _split_by_function(
    modules: Sequence[nn.Module], group: list[int], alone: list[Tensor], probe: Tensor
) -> list[Stack]:
    stacks = []
    while group:
        name = type(modules[group[0]]).__name__
        stack = _stack(modules, group, alone)
        try:
            together = stack.outputs(probe)
            stack.template.train()
            stack.outputs(probe)
        except Exception as error:
            raise InputError(
                "a module cannot be trained in one pass with others", where=f"modules[{group[0]}] ({name})",
                got=_first_line(error), expected="operations that torch.func.vmap knows",
            ) from error  # fmt: skip
        same = [_agree(together[row], alone[position]) for row, position in enumerate(group)]
        if not same[0]:
            raise InputError("a module computes something else under torch.func.vmap than alone",
                             where=f"modules[{group[0]}] ({name})",
                             cure="make its outputs a function of its inputs")  # fmt: skip
        stacks.append(
            stack if all(same) else _stack(modules, [p for p, s in zip(group, same, strict=True) if s], alone)
        )
        stacks[-1].template.train()
        group = [p for p, s in zip(group, same, strict=True) if not s]
    return stacks


def _stack(modules: Sequence[nn.Module], group: list[int], alone: list[Tensor]) -> Stack:
    members = [modules[position] for position in group]
    parameters = [dict(module.named_parameters()) for module in members]
    buffers = [dict(module.named_buffers()) for module in members]
    trains = {name: value.requires_grad for name, value in parameters[0].items()}
    stacked = {name: torch.stack([own[name].detach() for own in parameters]).contiguous() for name in trains}
    return Stack(
        positions=tuple(group),
        template=copy.deepcopy(members[0]).eval(),
        trainable={name: value.requires_grad_() for name, value in stacked.items() if trains[name]},
        constant={name: value for name, value in stacked.items() if not trains[name]}
        | {name: torch.stack([own[name] for own in buffers]) for name in buffers[0]},
        example_output=alone[group[0]],
    )


def _agree(together: Tensor, alone: Tensor) -> bool:
    """Tell whether outputs are equal but for rounding; outputs that are not finite tell nothing, and training will."""
    if together.shape != alone.shape:
        return False
    if not bool(alone.isfinite().all()):
        return True
    return bool((together - alone).abs().max() <= ROUNDINGS * torch.finfo(alone.dtype).eps * alone.abs().max())


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
