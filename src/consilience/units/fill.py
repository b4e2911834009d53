"""A copy of a module with parameters read from elsewhere, and with the widths that they have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from consilience.errors import ArtefactError
from consilience.units.architecture import Architecture
from consilience.units.resize import resize


def fill(module: nn.Module, architecture: Architecture, state: Mapping[str, Tensor], source: object) -> nn.Module:
    """Return a copy of a module with the parameters and buffers of ``state``, and with the widths that they have.

    Parameters
    ----------
    module : of any widths; it stays as it is, and so do the types of its tensors.
    architecture : its layers, from `find_layers`.
    state : tensors by name. Batch norm's ``num_batches_tracked``, which older versions did not save, may be missing.
    source : what the state was read from, for messages.

    Raises
    ------
    ArtefactError
        If names are missing or unexpected, or a tensor has a kind of number or a shape that the module has at no
        widths.
    InputError
        If the module does not run at these widths.
    """
    own = module.state_dict()
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    extra = [name for name in state if name not in own]
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
        if name in state and tuple(state[name].shape) != shape:
            raise _misfit(module, source, f"{shape} at these widths", f"'{name}' {tuple(state[name].shape)}")
    filled = resize(module, architecture, widths)
    filled.load_state_dict(state, strict=False)  # names have been compared
    return filled


def _misfit(module: nn.Module, source: object, expected: str, got: str) -> ArtefactError:
    message = f"{source} must have {expected} of a {type(module).__name__}, got {got}"
    return ArtefactError(message, cure="pass a module of the members' class")


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
