"""Accuracy and loss of a network on labeled data, and how near it is to the ensemble of a population."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

from consilience.checks import as_labels, as_tensor, check_finite, describe
from consilience.errors import InputError
from consilience.seeds import SUB_ENSEMBLES, generator
from consilience.signals.batches import BATCH_SIZE

if TYPE_CHECKING:  # torch is imported when something is evaluated, so that plain results can be read without it
    from torch import Tensor

    from consilience.data.dataset import Dataset
    from consilience.population.population import Population

ROUNDING = 1e-9  # an error below it is that of outputs in single precision
N_DRAWS = 16  # random orders of the members, whose first m are the sub-ensembles of m members


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


@dataclass(frozen=True)
class Closeness:
    """How near a network is to the ensemble of a population: the mean of the members' outputs.

    Attributes
    ----------
    error : to the ensemble's outputs. For classes, ``KL(softmax t ‖ softmax y)`` in nats; for numbers, and where the
        task is unknown, the squared error as a share of the ensemble's variance, mean over outputs.
    top1 : share of samples whose largest output is the ensemble's; None for a regression, or of a single output.
    worth : number of members whose mean outputs have this error, from 0 to the number of members.
    member_error : mean error of a single member.
    n : number of samples.
    """

    error: float
    top1: float | None
    worth: float
    member_error: float
    n: int


@overload
def evaluate(network: Callable[[Tensor], Tensor], dataset: Dataset, reference: None = None) -> Score: ...
@overload
def evaluate(network: Callable[[Tensor], Tensor], dataset: Dataset | Tensor, reference: Population) -> Closeness: ...
def evaluate(
    network: Callable[[Tensor], Tensor], dataset: Dataset | Tensor, reference: Population | None = None
) -> Score | Closeness:
    """Return accuracy and loss of a network on labeled samples, or how near it is to the ensemble of a population.

    Parameters
    ----------
    network : a module, evaluated in eval mode, or another callable.
    dataset : samples with integer labels; with a reference, samples or inputs (n, ...), whose labels are not used.
    reference : a population. Outputs are compared by its task.

    Raises
    ------
    InputError : if there are no labels, or the outputs do not fit them: not (n, o), or a label ≥ o; or if the outputs
        do not have the shape of the members'.
    """
    if reference is not None:
        return _closeness(network, dataset, reference)
    return scored(network, dataset)[0]


def scored(network: Callable[[Tensor], Tensor], dataset: Dataset | Tensor) -> tuple[Score, Tensor]:
    """Return the score of a network on labeled samples, and whether it is right about each: bool (n,)."""
    from torch.nn import functional

    if not (hasattr(dataset, "x") and hasattr(dataset, "y")):
        cure = "pass a Dataset with labels, or reference=population to compare with its ensemble"
        raise InputError(f"dataset must have inputs and labels, got {describe(dataset)} alone", cure=cure)
    x = as_tensor(dataset.x, "x")
    as_labels(dataset.y, len(x) if x.ndim else 0, "y")
    outputs = _outputs(network, x)
    if outputs.dim() != 2:
        raise InputError(f"outputs must have shape (n, classes), got {tuple(outputs.shape)}")
    y = as_labels(dataset.y, len(outputs), "y", outputs.shape[1])
    right = outputs.argmax(1) == y
    accuracy, loss = float(right.double().mean()), float(functional.cross_entropy(outputs.double(), y))
    return Score(accuracy, math.sqrt(accuracy * (1 - accuracy) / len(y)), loss, len(y)), right


def paired_error(one: Tensor, other: Tensor) -> float:
    """Return the standard error of the difference of two accuracies on the same n samples: √(var(one − other) / n).

    ``one`` and ``other`` are bool (n,), whether each network is right, as `scored` gives them.
    """
    return float((one.double() - other.double()).std(correction=0) / math.sqrt(len(one)))


def mean_score(scores: Sequence[Score]) -> Score:
    """Return the mean over networks scored on the same data; its standard error is that of a typical one of them."""
    columns = zip(*((score.accuracy, score.accuracy_se, score.loss) for score in scores), strict=True)
    accuracy, accuracy_se, loss = (sum(column) / len(scores) for column in columns)
    return Score(accuracy, accuracy_se, loss, scores[0].n)


def worth(error: float, sub_ensembles: Sequence[float]) -> float:
    """Return the size of the sub-ensemble with this error, from those of 1, …, N members, the last of which is 0.

    Errors are interpolated linearly in 1/m, in which the error of a mean of m of N members is linear: for independent
    members it is ``(1/m − 1/N)`` times a constant. A network that is worse than one member is worth less than 1 by
    the line through 1 and N; where all members agree, a network that does not is worth NaN.

    >>> worth(0.5, [1.0, 0.0]), worth(1.0, [1.0, 0.0]), worth(0.0, [1.0, 0.0])
    (1.3333333333333333, 1.0, 2.0)
    """
    n = len(sub_ensembles)
    if error <= ROUNDING:
        return float(n)
    if sub_ensembles[0] <= ROUNDING:
        return math.nan
    if error >= sub_ensembles[0]:
        return 1 / (1 / n + (1 - 1 / n) * error / sub_ensembles[0])
    m = max(m for m in range(1, n) if sub_ensembles[m - 1] >= error)
    high, low = sub_ensembles[m - 1], sub_ensembles[m]
    return 1 / (1 / (m + 1) + (1 / m - 1 / (m + 1)) * (error - low) / (high - low))


def _closeness(network: Callable[[Tensor], Tensor], dataset: Dataset | Tensor, population: object) -> Closeness:
    import torch

    from consilience.agreement import agreement
    from consilience.population import Population
    from consilience.population.checks import as_inputs

    if not isinstance(population, Population):
        cure = "Population.from_modules(modules, example_input) makes one"
        raise InputError(f"reference must be a consilience.Population, got {describe(population)}", cure=cure)
    x = as_inputs(population, getattr(dataset, "x", dataset), "x")
    outputs = _outputs(_before_tail(network, population), x, population.output)
    members = [_outputs(_before_tail(member.module, population), x, population.output) for member in population]
    if outputs.shape != members[0].shape:
        got = f"{tuple(outputs.shape)} and {tuple(members[0].shape)}"
        raise InputError(f"the network's outputs must have the shape of the members', got {got}")
    check_finite(outputs, "the network's outputs")
    axis = population.architecture.returned
    widths = population.architecture.widths
    rows, *each = (axis.units(value, widths, len(x)).movedim(1, 2).flatten(0, 1) for value in (outputs, *members))
    ensemble = torch.stack(each).mean(0)
    errors = torch.zeros(len(each), dtype=torch.float64)
    for draw in range(N_DRAWS if len(each) > 1 else 0):
        order = torch.randperm(len(each), generator=generator(draw, SUB_ENSEMBLES)).tolist()
        total = torch.zeros_like(ensemble)
        for m, k in enumerate(order[:-1]):
            total += each[k]
            errors[m] += agreement(total / (m + 1), ensemble, population.task).error / N_DRAWS
    errors[0] = member_error = sum(agreement(own, ensemble, population.task).error for own in each) / len(each)
    result = agreement(rows, ensemble, population.task)
    return Closeness(result.error, result.top1, worth(result.error, errors.tolist()), member_error, len(x))


def _before_tail(network: Callable[[Tensor], Tensor], population: Population) -> Callable[[Tensor], Tensor]:
    """What gives a network's outputs before a softmax or another tail, where the members are pooled."""
    from torch import nn

    from consilience.units.architecture import TracedNetwork, read_state

    architecture = population.architecture
    if not architecture.program.is_bent:
        return network
    state = read_state(network) if isinstance(network, nn.Module) else {}
    if not architecture.fits(state):
        tail = ", ".join(architecture.tail)
        message = f"network must be of the members' class, since they are compared before {tail}"
        raise InputError(f"{message}, got {type(network).__name__}")
    return TracedNetwork(architecture.with_widths(architecture.widths_in(state)), state)


def _outputs(network: Callable[[Tensor], Tensor], x: Tensor, output: str | int | None = None) -> Tensor:
    import torch

    from consilience.units.forward import eval_mode, outputs_of

    if not callable(network):
        raise InputError(f"network must be a module or another function of inputs, got {describe(network)}")
    name = type(network).__name__
    with eval_mode(network):
        outputs = [outputs_of(network, batch, name, "x", output) for batch in x.split(BATCH_SIZE)]
    try:
        return torch.cat(outputs)
    except RuntimeError as error:
        raise InputError(f"{name} must return outputs (n, ...) for inputs (n, ...), got {error}") from error
