"""The inputs of a comparison: modules by name, now and at earlier epochs, and the samples that they are compared on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from consilience.checks import as_labels, as_tensor, check_finite, check_rows, describe, is_count
from consilience.errors import InputError
from consilience.population.population import Population
from consilience.tasks import check_varies

Models: TypeAlias = Mapping[str, nn.Module] | Mapping[str, Population] | Sequence[nn.Module] | Population
Ids: TypeAlias = "tuple[int | str, ...]"


def modules_of(models: Models) -> dict[str, nn.Module]:
    """Return at least two modules by name.

    Names are those of a mapping; "model 0", … of a sequence; "member 0", … of a population; "NAME 0", … of several.
    """
    if isinstance(models, nn.Module):
        got = f"one {type(models).__name__}"
        raise InputError(f"models must be a list, a mapping name → module or a population, got {got}")
    modules: dict[str, nn.Module]
    if populations := _populations(models):
        modules = {f"{name} {k}": m.module for name, members in populations.items() for k, m in enumerate(members)}
    else:
        given: object = models
        if not isinstance(given, Iterable) or isinstance(given, str | Tensor):
            wanted = "a list, a mapping name → module or a population"
            raise InputError(f"models must be {wanted}, got {describe(models)}")
        named = models if isinstance(models, Mapping) else {f"model {k}": module for k, module in enumerate(models)}
        modules = {str(name): module for name, module in named.items()}  # type: ignore[misc]
        if len(modules) < len(named):
            raise InputError(f"names of models must differ as text, got {', '.join(map(repr, named))}")
    for name, module in modules.items():
        if not isinstance(module, nn.Module):
            raise InputError(f"models[{name!r}] must be an nn.Module, got {type(module).__name__}")
    if len(modules) < 2:
        raise InputError(f"models must be at least two, got {len(modules)}")
    return modules


def snapshots_of(models: Models, epochs: Sequence[int]) -> dict[int, dict[str, nn.Module]]:
    """Return the modules after these epochs of training: epoch, ascending → name → module."""
    if not isinstance(epochs, Sequence) or not all(is_count(epoch, 0) for epoch in epochs):
        raise InputError(f"epochs must be a sequence of ints >= 0, got {describe(epochs)}")
    populations = _populations(models)
    snapshots = [set(population.snapshots) for population in populations.values()]
    shared = set.intersection(*snapshots) if snapshots else set()
    for epoch in epochs:
        if epoch not in shared:
            wanted = f"one of {', '.join(map(str, sorted(shared)))}" if shared else "empty for models without snapshots"
            cure = "train_population(..., checkpoint_epochs=[...]) keeps them"
            raise InputError(f"epochs must be {wanted}, got {epoch}", cure=cure)
    return {
        epoch: modules_of({name: population.snapshots[epoch] for name, population in populations.items()})
        for epoch in sorted(set(epochs))
    }


def _populations(models: Models) -> dict[str, Population]:
    """The models by name if they are populations, else nothing."""
    if isinstance(models, Population):
        return {"member": models}
    if isinstance(models, Mapping) and models:
        populations = {str(name): model for name, model in models.items() if isinstance(model, Population)}
        return populations if len(populations) == len(models) else {}
    return {}


Targets = NDArray[np.int64] | NDArray[np.float64]


@dataclass(frozen=True)
class Samples:
    """Inputs, targets and ids of n samples."""

    x: Mapping[str, Tensor]  # model → inputs (n, ...); or tokens, of which there are n in all
    y: Targets | None  # int64 (n,) labels from 0 on, or float64 (n, o) numbers
    ids: Ids  # n different ints or strings

    def __len__(self) -> int:
        return len(self.ids)


def check_samples(models: Sequence[str], X: Any, y: ArrayLike | None, ids: Any, *, tokens: bool = False) -> Samples:
    """Return the samples of all models, or raise unless they are the same; X and ids may be mappings by model.

    With ``tokens``, inputs are (n, t), and each of the n·t tokens is a sample, with the id "ID:POSITION".
    """
    if isinstance(X, Mapping):
        x = {model: checked_inputs(_of(model, X, "X"), f"X of model {model!r}") for model in models}
    else:
        x = dict.fromkeys(models, checked_inputs(X, "X"))
    n = len(x[models[0]])
    for model in models:
        check_rows(x[model], n, f"X of model {model!r}", f"X of model {models[0]!r}")
    common = _common_ids(models, ids, n)
    if tokens:
        shape = x[models[0]].shape
        for model in models:
            if x[model].shape != shape or len(shape) != 2:
                wanted = "tokens (n, t), as many for all models, for positions='rows'"
                raise InputError(f"X of model {model!r} must be {wanted}, got {describe(x[model])}")
        common = tuple(f"{sample}:{position}" for sample in common for position in range(shape[1]))
        y = None if y is None else as_tensor(y, "y").reshape(-1)
    return Samples(x, None if y is None else _checked_targets(y, len(common)), common)


def _of(model: str, values: Mapping[str, Any], argument: str) -> Any:
    if model not in values:
        raise InputError(f"{argument} must have a value for model {model!r}, got {', '.join(map(str, values))}")
    return values[model]


def checked_inputs(x: Any, argument: str) -> Tensor:
    """Return inputs as a tensor, or raise unless they are finite and of at least two samples."""
    inputs = as_tensor(x, argument)
    if inputs.dim() < 2 or len(inputs) < 2:
        raise InputError(f"{argument} must have shape (n, ...) with n >= 2, got {tuple(inputs.shape)}")
    check_finite(inputs, argument)
    return inputs


def _checked_targets(y: ArrayLike, n: int) -> Targets:
    """Classes as numbers from 0 on; or, of a floating point type and not all whole or of two dimensions, numbers."""
    texts = isinstance(y, np.ndarray | list | tuple) and all(isinstance(name, str) for name in y)
    if texts:
        labels = np.asarray(y)
    else:
        tensor = as_tensor(y, "y").cpu()
        labels = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
        if labels.ndim == 2 and labels.dtype.kind != "f":
            with suppress(InputError):
                labels = as_labels(tensor, n, "y").numpy()  # a column, or one-hot rows
    if labels.dtype.kind == "f" and labels.ndim in (1, 2) and len(labels) == n:
        check_finite(tensor, "y")
        if labels.ndim == 2 or not bool((labels == np.round(labels)).all()):
            check_varies(numbers := tensor.double().reshape(n, -1), "y")
            return numbers.numpy()
    if labels.shape != (n,):
        wanted = f"one class for each of the {n} samples, or numbers (n, o)"
        raise InputError(f"y must be {wanted}, got {describe(labels)}", cure="leave y out")
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)


def _common_ids(models: Sequence[str], ids: Any, n: int) -> Ids:
    if ids is None:
        return tuple(range(n))
    if not isinstance(ids, Mapping):
        return _checked_ids(ids, n, "ids")
    of_model = {model: _checked_ids(_of(model, ids, "ids"), n, f"ids of model {model!r}") for model in models}
    first = of_model[models[0]]
    for model, other in of_model.items():
        if other != first:
            sample = next(i for i in range(n) if other[i] != first[i])
            cure = "sort the inputs of all models by their ids"
            if n_foreign := len({*other} - {*first}):
                cure = f"compare on common samples: {n_foreign} ids are not of model {models[0]!r}"
            got = f"{other[sample]!r} in place of {first[sample]!r} for sample {sample}"
            raise InputError(f"ids of model {model!r} must be those of model {models[0]!r}, got {got}", cure=cure)
    return first


def _checked_ids(ids: Any, n: int, argument: str) -> Ids:
    values = as_tensor(ids, argument).tolist() if isinstance(ids, Tensor) else ids
    values = values.tolist() if isinstance(values, np.ndarray) else values
    if not isinstance(values, Iterable):
        raise InputError(f"{argument} must be {n} different ints or strings, got {describe(ids)}")
    values = tuple(value.item() if isinstance(value, np.generic) else value for value in values)
    usable = all(isinstance(value, int | str) for value in values)
    if not usable or len(values) != n or len(set(values)) != n:
        if not usable:
            names = ", ".join(sorted({type(v).__name__ for v in values}))
            raise InputError(f"{argument} must be {n} different ints or strings, got {len(values)} of {names}")
        got = f"{len(values)}, {len(set(values))} of them different, of {', '.join({type(v).__name__ for v in values})}"
        raise InputError(f"{argument} must be {n} different ints or strings, got {got}")
    return values
