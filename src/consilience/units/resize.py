"""Copies of a module with other layer widths: with zeros, or with parameters read from elsewhere."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from consilience.errors import ArtefactError, InputError
from consilience.units.architecture import Architecture, read_state, write_state
from consilience.units.attributes import set_sizes
from consilience.units.configs import set_config
from consilience.units.forward import forward
from consilience.units.modules import first_names
from consilience.units.multihead import plain_attention
from consilience.units.program import sizes


def resize(
    module: nn.Module,
    architecture: Architecture,
    widths: Mapping[str, int],
    state: Mapping[str, Tensor] | None = None,
) -> nn.Module:
    """Return a copy of ``module`` with these widths (layer → units; layers not named keep theirs).

    Parameters that have a part in the outputs are zero, others as they are. The statistics of batch norms are those
    that leave values as they are. If the ``state`` is given under which the copy will run, its own parameters take no
    memory, and cannot be written to.
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
    shapes = architecture.shapes(widths, read_state(module))
    replaced = (value for name, value in module.named_parameters() if name in shapes.keys() - {*architecture.kept})
    new = copy.deepcopy(module, {id(value): value for value in replaced})
    variances = {m.norm.variance for m in architecture.maps if m.norm is not None}
    for name, shape in shapes.items():
        path, _, attribute = name.rpartition(".")
        if name in architecture.kept:
            continue
        part = new.get_submodule(path)
        old = getattr(part, attribute)
        if isinstance(old, nn.Parameter):
            zeros = old.new_zeros(()).expand(shape) if state else old.new_zeros(shape)
            setattr(part, attribute, nn.Parameter(zeros, requires_grad=old.requires_grad))
        elif shape != tuple(old.shape) or name in architecture.program.parameters.values():
            setattr(part, attribute, old.new_ones(shape) if name in variances else old.new_zeros(shape))
    set_sizes(
        new, architecture.with_widths(architecture.widths_in(read_state(module))), architecture.with_widths(widths)
    )
    set_config(new)
    _check_runs(new, architecture, state or {})
    return new


def hollow_double(module: nn.Module) -> nn.Module:
    """Return a copy of a module in double precision whose parameters take no memory: who runs it passes others."""
    zeros = {id(p): nn.Parameter(p.new_zeros((), dtype=torch.float64).expand(p.shape)) for p in module.parameters()}
    return copy.deepcopy(module, dict[int, object](zeros)).double()


def fill(module: nn.Module, architecture: Architecture, state: Mapping[str, Tensor], source: object) -> nn.Module:
    """Return a copy of ``module`` with the parameters and buffers of ``state``, and with the widths that they have.

    Batch norm's ``num_batches_tracked``, which older versions did not save, may be missing; ``source`` is what the
    state was read from, for messages.
    """
    own, buffers, state = module.state_dict(), dict(module.named_buffers()), _by_first_names(module, state, source)
    own = _by_first_names(module, own, source)
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    extra = [name for name in state if name not in own and name not in buffers]
    own |= {name: buffers[name] for name in state if name in buffers}
    problems = [f"{what}: {_some(names)}" for what, names in (("missing", missing), ("not expected", extra)) if names]
    if problems:
        raise _misfit(module, source, f"the {len(own)} tensors", "; ".join(problems))
    for name, value in state.items():
        if value.dim() != own[name].dim():
            raise _misfit(module, source, f"{own[name].dim()} axes", f"'{name}' {tuple(value.shape)}")
        if value.is_floating_point() != own[name].is_floating_point():
            raise _misfit(module, source, f"{own[name].dtype}", f"'{name}' of {value.dtype}")
    in_state = architecture.widths_in(state)
    widths = {layer.name: in_state[layer.name] for layer in architecture.hidden}
    for name, shape in architecture.shapes(widths, own).items():
        if name in state and name not in architecture.kept and tuple(state[name].shape) != shape:
            raise _misfit(module, source, f"{shape} at these widths", f"'{name}' {tuple(state[name].shape)}")
    filled = resize(module, architecture, widths)
    for name in architecture.kept:  # these may have any shape
        if name in state and state[name].shape != own[name].shape:
            path, _, attribute = name.rpartition(".")
            setattr(filled.get_submodule(path), attribute, nn.Parameter(state[name].clone()))
    write_state(filled, state)
    return filled


def _by_first_names(module: nn.Module, state: Mapping[str, Tensor], source: object) -> dict[str, Tensor]:
    """Return a state by the first names of a module's tensors; those of a part that it holds twice have two."""
    first, named = first_names(module), dict[str, Tensor]()
    for name, value in state.items():
        other = named.setdefault(first.get(name, name), value)
        if other is not value and not torch.equal(other, value):
            raise _misfit(module, source, f"one '{first[name]}'", f"another under its second name '{name}'")
    return named


def _check_runs(module: nn.Module, architecture: Architecture, state: Mapping[str, Tensor]) -> None:
    name, program = type(module).__name__, architecture.program
    cure = "let its forward pass take sizes from tensors (x.flatten(1), x.shape) instead of writing them out"
    dtype = program.input_dtype if not program.input_dtype.is_floating_point else next(module.parameters()).dtype
    x = torch.zeros(2, *program.input_shape, dtype=dtype)
    try:
        with plain_attention():  # torch's fused path fails where zeros are all padding
            output = forward(module, state, x, program.pick)
    except Exception as error:
        reason = error.__cause__ or error
        raise InputError(
            f"{name} must run at other widths, got {type(reason).__name__}: {reason}", cure=cure
        ) from error
    (returned,) = (node for node in program.nodes if node.name == program.returned)
    expected = tuple(sizes(returned.meta["val"], 2))
    if output.shape != expected:
        raise InputError(f"{name} must return {expected} at other widths, got {tuple(output.shape)}", cure=cure)


def _misfit(module: nn.Module, source: object, expected: str, got: str) -> ArtefactError:
    message = f"{source} must have {expected} of a {type(module).__name__}, got {got}"
    return ArtefactError(message, cure="pass a module of the members' class")


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
