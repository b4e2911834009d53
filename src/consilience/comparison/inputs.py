"""The samples that models are compared on: the same for all models, in the same order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from consilience.checks import check_finite, check_rows, describe
from consilience.errors import InputError

Ids: TypeAlias = "tuple[int | str, ...]"


@dataclass(frozen=True)
class Samples:
    """Inputs, labels and ids of n samples.

    Attributes
    ----------
    x : model → inputs (n, ...).
    y : (n,) labels from 0 on, or None.
    ids : n different ints or strings.
    """

    x: Mapping[str, Tensor]
    y: NDArray[np.int64] | None
    ids: Ids

    def __len__(self) -> int:
        return len(self.ids)


def check_samples(models: Sequence[str], X: Any, y: ArrayLike | None, ids: Any) -> Samples:
    """Return the samples of all models.

    Parameters
    ----------
    models : names.
    X : inputs (n, ...), or a mapping model → inputs.
    y : labels (n,).
    ids : n different ints or strings, or a mapping model → ids of its inputs. By default 0 … n − 1.

    Raise an `InputError` if there are fewer than two samples; inputs are not finite; numbers of inputs, ids and labels
    differ; labels are not classes; ids repeat, or differ between models.
    """
    if isinstance(X, Mapping):
        x = {model: checked_inputs(_of(model, X, "X"), f"X of model {model!r}") for model in models}
    else:
        x = dict.fromkeys(models, checked_inputs(X, "X"))
    n = len(x[models[0]])
    for model in models:
        check_rows(x[model], n, f"X of model {model!r}", f"X of model {models[0]!r}")
    return Samples(x, None if y is None else _checked_labels(y, n), _common_ids(models, ids, n))


def as_tensor(x: ArrayLike | Tensor) -> Tensor:
    """Return a tensor of these values, which are copied if torch cannot share them."""
    return x.detach() if isinstance(x, Tensor) else torch.as_tensor(np.require(x, requirements=["C", "W"]))


def _of(model: str, values: Mapping[str, Any], argument: str) -> Any:
    if model not in values:
        raise InputError(f"{argument} must have a value for model {model!r}, got {', '.join(map(str, values))}")
    return values[model]


def checked_inputs(x: Any, argument: str) -> Tensor:
    """Return inputs as a tensor, or raise unless they are finite and of at least two samples."""
    inputs = as_tensor(x)
    if inputs.dim() < 2 or len(inputs) < 2:
        raise InputError(f"{argument} must have shape (n, ...) with n >= 2, got {tuple(inputs.shape)}")
    check_finite(inputs, argument)
    return inputs


def _checked_labels(y: ArrayLike, n: int) -> NDArray[np.int64]:
    labels = np.asarray(y.detach().cpu() if isinstance(y, Tensor) else y)
    whole = labels.dtype.kind != "f" or bool((np.isfinite(labels) & (labels == np.round(labels))).all())
    if labels.shape != (n,) or not whole:
        got = describe(labels) if whole else "floats that are not whole numbers"
        raise InputError(f"y must be one class for each of the {n} samples, got {got}", cure="leave y out")
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
            cure = (
                "sort the inputs of all models by their ids"
                if set(other) == set(first)
                else f"compare on common samples: {len(set(other) - set(first))} ids are not of model {models[0]!r}"
            )
            got = f"{other[sample]!r} in place of {first[sample]!r} for sample {sample}"
            raise InputError(f"ids of model {model!r} must be those of model {models[0]!r}, got {got}", cure=cure)
    return first


def _checked_ids(ids: Any, n: int, argument: str) -> Ids:
    values = ids.tolist() if isinstance(ids, Tensor | np.ndarray) else ids
    values = tuple(value.item() if isinstance(value, np.generic) else value for value in values)
    if len(values) != n or len(set(values)) != n or not all(isinstance(value, int | str) for value in values):
        got = f"{len(values)}, {len(set(values))} of them different, of {', '.join({type(v).__name__ for v in values})}"
        raise InputError(f"{argument} must be {n} different ints or strings, got {got}")
    return values
