"""Outputs of chosen modules on a data set: forward hooks, one batch at a time, each sample as one row.

- Of a module that is called several times in one forward pass, the last output counts.
- A hook copies the output at once: the next module may work in place.

Axis legend: ``n`` sample, ``b`` sample of a batch, ``d`` feature (a unit, or a unit at a position).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from consilience.checks import describe
from consilience.errors import ConsilienceError, InputError
from consilience.signals.batches import BATCH_SIZE
from consilience.units.forward import eval_mode

POSITIONS = ("flatten", "pool", "rows")
UNITS_LAST = (nn.Linear, nn.Bilinear, nn.Embedding, nn.MultiheadAttention)
NORMS = (nn.LayerNorm, nn.RMSNorm)  # units last too; classes derived from them are often made for channels first
ONE_DIMENSIONAL = (nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d, nn.InstanceNorm1d, nn.MaxPool1d, nn.AvgPool1d)


def record(
    module: nn.Module, names: Sequence[str], x: Tensor, positions: str, model: str = "model"
) -> dict[str, NDArray[np.float32]]:
    """Return what named modules of a network in eval mode return on x (n, ...): name → (n, d) in float32, d may differ.

    Each module must return a finite tensor (of several, the first counts) with a row per sample. ``model`` is the name
    of the network in errors. ``positions`` is "flatten", "pool" for the mean over positions, or "rows", with which each
    position is a row of its own, (n·t, d). The units of an output with positions are its last axis if the module is a
    linear layer, a layer norm (but not of a derived class), an embedding or attention, or has an output of three axes
    and no one-dimensional convolution, norm or pooling inside; else its axis 1, as in convolutions.
    """
    outputs: dict[str, NDArray[np.float32]] = {}
    ends: dict[str, int] = {}
    for rows in stream(module, names, x, positions, model):
        for name, batch in rows.items():
            if name not in outputs:
                rows_per_sample = len(batch) // min(BATCH_SIZE, len(x))
                outputs[name] = np.empty((len(x) * rows_per_sample, batch.shape[1]), dtype=np.float32)
                ends[name] = 0
            outputs[name][ends[name] : ends[name] + len(batch)] = batch
            ends[name] += len(batch)
    return outputs


def stream(
    module: nn.Module, names: Sequence[str], x: Tensor, positions: str, model: str = "model"
) -> Iterator[dict[str, NDArray[np.float32]]]:
    """Yield what `record` returns, {name: (b, d)}, one batch of x at a time and in order."""
    parts = dict(module.named_modules(remove_duplicate=False))
    outputs: dict[str, NDArray[np.float32]] = {}
    first = 0

    def keep(name: str, part: nn.Module, _: Any, output: Any) -> None:
        outputs[name] = _rows(part, output, n_rows, positions, where=f"{model}, layer '{name}'")

    with eval_mode(module), hooks((parts[name], partial(keep, name)) for name in names):
        for batch in x.split(BATCH_SIZE):
            outputs, n_rows = {}, len(batch)
            _run(module, like_parameters(batch, module), model)
            for name in names:
                _check_rows(outputs.get(name), first, where=f"{model}, layer '{name}'")
            first += n_rows
            yield outputs


def _run(module: nn.Module, x: Tensor, model: str) -> None:
    try:
        module(x)
    except ConsilienceError:
        raise
    except Exception as error:  # whatever the model's own code raises
        got = f"{describe(x)}, on which it raises {type(error).__name__}: {error}"
        raise InputError(f"x must be inputs of {model}, got {got}") from error


@contextmanager
def hooks(wanted: Iterable[tuple[nn.Module, Callable[[nn.Module, Any, Any], None]]]) -> Iterator[None]:
    """Call functions with (module, inputs, output) after these modules, for a while."""
    handles = [part.register_forward_hook(function) for part, function in wanted]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def like_parameters(x: Tensor, module: nn.Module) -> Tensor:
    """Return inputs on the module's device and, unless they are integers, in the type of its parameters."""
    for parameter in module.parameters():
        if parameter.is_floating_point():
            return x.to(parameter.device, parameter.dtype if x.is_floating_point() else x.dtype)
    return x


def _rows(part: nn.Module, output: Any, n_rows: int, positions: str, where: str) -> NDArray[np.float32]:
    if isinstance(output, tuple | list) and output:
        output = output[0]
    if not isinstance(output, Tensor) or output.dim() < 1 or len(output) != n_rows:
        got = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
        raise InputError(
            f"{where} must return a tensor ({n_rows}, ...) for {n_rows} samples, got {got}", cure="leave this layer out"
        )
    value = output.detach().float()
    if positions != "flatten" and value.dim() > 2:
        units = value.dim() - 1 if _units_last(part, value.dim()) else 1
        value = value.movedim(units, -1)
        value = value.flatten(1, -2).mean(1) if positions == "pool" else value.flatten(0, -2)
    rows: NDArray[np.float32] = (value.flatten(1) if value.dim() > 1 else value[:, None]).cpu().numpy()
    return rows.copy()


def _units_last(part: nn.Module, n_axes: int) -> bool:
    if isinstance(part, UNITS_LAST) or type(part) in NORMS:
        return True
    return n_axes == 3 and not any(isinstance(inner, ONE_DIMENSIONAL) for inner in part.modules())


def _check_rows(rows: NDArray[np.float32] | None, first: int, where: str) -> None:
    if rows is None:
        raise InputError(
            f"{where} must be called for every batch, got no call for the batch from sample {first} on",
            cure="leave this layer out",
        )
    bad = ~np.isfinite(rows).all(1)
    if bad.any():
        raise InputError(
            f"activations of {where} must be finite, got NaN or infinity in {int(bad.sum())} samples, "
            f"first in sample {first + int(bad.argmax())}",
            cure="leave this model out",
        )
