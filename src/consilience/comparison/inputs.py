"""The samples that models are compared on: the same ones, in the same order, told by their ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

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
    """Return samples as all models get them.

    Parameters
    ----------
    models : their names.
    X : inputs (n, ...), or a mapping model → inputs, where models take inputs of different forms.
    y : labels (n,).
    ids : n different ints or strings; or a mapping model → ids of its inputs. By default 0 … n − 1.

    Raises
    ------
    InputError
        If there are fewer than two samples; inputs are not finite; numbers of inputs, ids and labels differ; labels are
        no classes; ids repeat themselves, or are not the same for all models or not in the same order.
    """
    given = {model: _of(model, X, "X") for model in models} if isinstance(X, Mapping) else {"": X}
    checked = {model: _inputs(x, f"X, model '{model}'" if model else "X") for model, x in given.items()}
    x = checked if isinstance(X, Mapping) else dict.fromkeys(models, checked[""])
    n = len(x[models[0]])
    for model in models:
        if len(x[model]) != n:
            raise InputError("models have different numbers of inputs", where=f"X, model '{model}'", got=len(x[model]),
                             expected=f"{n}, as model '{models[0]}' has")  # fmt: skip
    return Samples(x, _labels(y, n), _ids(models, ids, n))


def as_tensor(x: ArrayLike | Tensor) -> Tensor:
    """Return a tensor of these values: they are copied where torch does not take them as they lie, or may not write."""
    return x.detach() if isinstance(x, Tensor) else torch.as_tensor(np.require(x, requirements=["C", "W"]))


def _of(model: str, given: Mapping[str, Any], what: str) -> Any:
    if model not in given:
        raise InputError(f"a model has no {what}", where=f"model '{model}'", got=", ".join(map(str, given)))
    return given[model]


def _inputs(x: Any, where: str) -> Tensor:
    found = as_tensor(x)
    if found.dim() < 2 or len(found) < 2:
        raise InputError("these are no inputs to compare on", where=where, got=tuple(found.shape),
                         expected="(n, ...), n ≥ 2")  # fmt: skip
    if found.is_floating_point():
        bad = ~torch.isfinite(found).flatten(1).all(1)
        if bool(bad.any()):
            raise InputError(
                "inputs are not finite", where=f"{where}, sample {int(bad.nonzero()[0])}",
                got=f"{int(bad.sum())} samples with NaN or infinity", cure="remove these samples",
            )  # fmt: skip
    return found


def _labels(y: ArrayLike | None, n: int) -> NDArray[np.int64] | None:
    if y is None:
        return None
    given = np.asarray(y.detach().cpu() if isinstance(y, Tensor) else y)
    if given.shape != (n,):
        raise InputError("each sample needs one label", where="y", got=given.shape, expected=(n,))
    if given.dtype.kind == "f" and not (np.isfinite(given) & (given == np.round(given))).all():
        raise InputError("labels are not classes", where="y", got="floats that are not whole numbers",
                         expected="(n,) ints", cure="leave y out, or give classes")  # fmt: skip
    return np.unique(given, return_inverse=True)[1].astype(np.int64)


def _ids(models: Sequence[str], ids: Any, n: int) -> Ids:
    if ids is None:
        return tuple(range(n))
    if not isinstance(ids, Mapping):
        return _checked_ids(ids, n, "ids")
    found = {model: _checked_ids(_of(model, ids, "ids"), n, f"ids, model '{model}'") for model in models}
    first = found[models[0]]
    for model, own in found.items():
        if own == first:
            continue
        where = f"ids, model '{model}', sample {next(i for i in range(n) if own[i] != first[i])}"
        if set(own) == set(first):
            raise InputError(
                "the models' samples are in different orders", where=where,
                expected=f"the order of model '{models[0]}'", cure="sort the inputs of all models by their ids",
            )  # fmt: skip
        raise InputError(
            "the models' samples have different ids", where=where, got=f"{len(set(own) - set(first))} that model "
            f"'{models[0]}' does not have", cure="compare on the samples that all models have",
        )  # fmt: skip
    return first


def _checked_ids(ids: Any, n: int, where: str) -> Ids:
    given = ids.tolist() if isinstance(ids, Tensor | np.ndarray) else ids
    found = tuple(each.item() if isinstance(each, np.generic) else each for each in given)
    if len(found) != n or len(set(found)) != n:
        raise InputError("each sample needs an id of its own", where=where,
                         got=f"{len(found)} ids, {len(set(found))} different", expected=f"{n} different")  # fmt: skip
    if not all(isinstance(each, int | str) for each in found):
        raise InputError("an id is an int or a string", where=where, got=type(found[0]).__name__)
    return found
