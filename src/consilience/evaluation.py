"""Accuracy and loss of a network on labeled data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from consilience.checks import check_labels
from consilience.errors import InputError
from consilience.signals.batches import BATCH_SIZE

if TYPE_CHECKING:  # torch is imported when something is evaluated, so that plain results can be read without it
    from torch import Tensor

    from consilience.data.dataset import Dataset


@dataclass(frozen=True)
class Score:
    """Accuracy and loss on one data set.

    Attributes
    ----------
    accuracy : share of samples whose largest output is the label, 0 to 1.
    accuracy_se : its standard error over samples, √(p(1 − p)/n).
    loss : mean cross-entropy, in nats.
    n : number of samples.
    """

    accuracy: float
    accuracy_se: float
    loss: float
    n: int


def evaluate(network: Callable[[Tensor], Tensor], dataset: Dataset) -> Score:
    """Return accuracy and loss of a network, in eval mode if it has one, on samples with integer labels.

    Raises
    ------
    InputError : if there are no labels, or the outputs do not fit them: not (n, o), or a label ≥ o.
    """
    import torch
    from torch.nn import functional

    from consilience.units.forward import eval_mode

    check_labels(dataset.y, len(dataset), "y")
    with eval_mode(network):
        outputs = torch.cat([network(batch) for batch in dataset.x.split(BATCH_SIZE)])
    if outputs.dim() != 2:
        raise InputError(f"outputs must have shape (n, classes), got {tuple(outputs.shape)}")
    check_labels(dataset.y, len(outputs), "y", outputs.shape[1])
    accuracy = float((outputs.argmax(1) == dataset.y).double().mean())
    loss = float(functional.cross_entropy(outputs.double(), dataset.y))
    return Score(accuracy, math.sqrt(accuracy * (1 - accuracy) / len(dataset)), loss, len(dataset))


def mean_score(scores: Sequence[Score]) -> Score:
    """Return the mean over networks scored on the same data; its standard error is that of a typical one of them."""
    columns = zip(*((score.accuracy, score.accuracy_se, score.loss) for score in scores), strict=True)
    accuracy, accuracy_se, loss = (sum(column) / len(scores) for column in columns)
    return Score(accuracy, accuracy_se, loss, scores[0].n)
