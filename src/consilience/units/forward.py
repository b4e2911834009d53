"""A module's own forward pass: in eval mode, under other parameters, and with its errors as errors of ours."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from consilience.checks import describe
from consilience.errors import ConsilienceError, InputError
from consilience.several import each_input
from consilience.units.inputs import called
from consilience.units.outputs import Pick, outputs_in
from consilience.units.program import Program

COMPUTED_FROM = "computed_from"  # attribute of a layer whose weight is stored: names of what it was computed of
MISSING = "required positional argument"
DTYPES = ("must have the same dtype", "type should be the same", "(double) should be the same")
NOT_THE_USERS = (Path(torch.__file__).parent, Path(__file__).parent)


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


def forward(module: nn.Module, state: Mapping[str, Tensor], x: Tensor, output: Pick = None) -> Tensor:
    """Return the module's outputs in eval mode under other parameters, without gradients."""

    def run(x: Tensor) -> object:
        return functional_call(module, dict(state), (x,), tie_weights=False)

    with eval_mode(module):
        return outputs_of(run, x, type(module).__name__, output=output)


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Inside, operations have second derivatives: fused attention has none."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


def outputs_of(
    function: Callable[..., object], x: Any, name: str, argument: str = "inputs", output: Pick = None
) -> Tensor:
    """Return the outputs of a user's function on x (see `consilience.units.outputs`); its errors become ours."""
    try:
        returned = called(function, x)
    except ConsilienceError:
        raise
    except Exception as error:
        if used := _used_outside(function, error):
            message = f"'{used}' of {name} must be used by its own layer alone, got a use{_line_of(error)}"
            raise InputError(message, cure="hold it outside of that layer: its weight is stored as computed") from error
        wanted, got = (
            f"{argument} must be inputs that {name} takes",
            f"{type(error).__name__}: {error}{_line_of(error)}",
        )
        cure = None
        if isinstance(error, IndexError):
            cure = "tokens and positions must be numbers of rows of the embeddings"
        elif isinstance(error, TypeError) and MISSING in str(error):
            cure = "pass all inputs: a dict by the names of the arguments, or a tuple; to commands, by --columns"
        elif isinstance(error, RuntimeError) and any(text in str(error) for text in DTYPES):
            cure = "give networks and inputs one type, as by network.float() and x.float(), or .double()"
        message = f"{wanted}, got {_described(x)}, on which its forward pass raises {got}"
        raise InputError(message, cure=cure) from error
    return outputs_in(returned, name, output)


def pooled_outputs(module: nn.Module, program: Program) -> Callable[[Tensor], Tensor]:
    """Return a function of inputs that gives a module's outputs before a tail that is not affine, with gradients.

    Where there is such a tail, the traced program runs, which is that of eval mode.
    """
    if not program.is_bent:
        return lambda x: outputs_in(module(x), program.module_name, program.pick)
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return lambda x: program.run(state, x, [program.output])[program.output]


def _used_outside(function: object, error: Exception) -> str:
    """The parameter that is missing as its layer has the weight that it computes of it; empty if none is."""
    missing = re.search(r"has no attribute '(\w+)'", str(error)) if isinstance(error, AttributeError) else None
    parts = function.named_modules() if isinstance(function, nn.Module) and missing else ()
    paths = (path for path, part in parts if missing and missing[1] in getattr(part, COMPUTED_FROM, ()))
    return next((f"{path}.{missing[1]}" for path in paths if missing), "")


def _described(x: Any) -> str:
    return str(each_input(describe, x))


def _line_of(error: Exception) -> str:
    """Return the last line of the user's code that an error passed, as in `` (net.py:12)``."""
    frames = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    lines = [f" ({path.name}:{line})" for path, line in frames if not {*path.parents} & {*NOT_THE_USERS}]
    return "".join(lines[-1:])
