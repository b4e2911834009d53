"""How good a network is on data, by the task, and how near it is to the ensemble of a population.

Importing this file does not import torch, so that plain results can be read without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, overload

from consilience.checks import as_labels, as_tensor, check_finite, describe, with_one_label
from consilience.errors import InputError
from consilience.seeds import SUB_ENSEMBLES, generator
from consilience.several import are_several, check_same_samples, in_batches, n_samples
from consilience.signals.batches import BATCH_SIZE

if TYPE_CHECKING:
    from torch import Tensor

    from consilience.data.dataset import Dataset
    from consilience.population.population import Population
    from consilience.units.outputs import Pick

    Network = Callable[[Any], Any]

PROBABILITY = 1e-4  # of 1: what sums of probabilities in single precision may be off
SMALLEST, PRECISION = 2.0**-126, 2.0**-24  # probability above 0, and distance to 1, in single precision
N_DRAWS = 16  # random orders of the members, whose first m are the sub-ensembles of m members


@dataclass(frozen=True)
class Score:
    """Accuracy and loss on one data set, of classes, of several labels, or of the next tokens.

    Attributes
    ----------
    accuracy : share of samples whose largest output is the label, 0 to 1; of several labels, share of labels whose
        output says rightly whether a sample has them; of tokens, share of positions.
    accuracy_se : its standard error over samples, √(p(1 − p)/n) for classes.
    loss : mean cross-entropy, in nats; of several labels, for each.
    n : number of samples.
    """

    metric: ClassVar[str] = "accuracy"
    accuracy: float
    accuracy_se: float
    loss: float
    n: int

    @property
    def perplexity(self) -> float:
        """The exponential of the loss: among how many equally likely classes, or tokens, a network chooses."""
        return math.exp(self.loss)

    @property
    def quality(self) -> float:
        """What networks are compared by: the accuracy."""
        return self.accuracy

    @property
    def quality_se(self) -> float:
        """Its standard error."""
        return self.accuracy_se


@dataclass(frozen=True)
class RegressionScore:
    """How well numbers are predicted on one data set.

    Attributes
    ----------
    r2 : share of the targets' variance that is explained, ``1 − Σ(y − t)² / Σ(t − t̄)²``, mean over outputs; 1 at best.
    r2_se : its standard error over samples, to first order.
    rmse : √ of the mean squared error of each output, in the targets' own units.
    n : number of samples.
    """

    metric: ClassVar[str] = "R²"
    r2: float
    r2_se: float
    rmse: tuple[float, ...]
    n: int

    @property
    def quality(self) -> float:
        """What networks are compared by: R²."""
        return self.r2

    @property
    def quality_se(self) -> float:
        """Its standard error."""
        return self.r2_se

    @property
    def loss(self) -> float:
        """Share of the variance that is not explained."""
        return 1 - self.r2


AnyScore = Score | RegressionScore


@dataclass(frozen=True)
class Closeness:
    """How near a network is to the ensemble of a population: the mean of the members' outputs.

    Attributes
    ----------
    error : to the ensemble's outputs. For classes and tokens, ``KL(softmax t ‖ softmax y)`` in nats; for several
        labels, the mean of that of each; for numbers, and where the task is unknown, the squared error as a share of
        the ensemble's variance, mean over outputs.
    top1 : share of samples whose largest output is the ensemble's; None but for classes, and of a single output.
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
def evaluate(
    network: Network, dataset: Dataset, reference: None = None, *, task: str | None = None, output: Pick = None
) -> AnyScore: ...
@overload
def evaluate(
    network: Network, dataset: Dataset | Tensor, reference: Population, *, task: str | None = None, output: Pick = None
) -> Closeness: ...
def evaluate(
    network: Network,
    dataset: Dataset | Tensor,
    reference: Population | None = None,
    *,
    task: str | None = None,
    output: Pick = None,
) -> AnyScore | Closeness:
    """Return how good a network is on samples with targets, or how near it is to the ensemble of a population.

    Parameters
    ----------
    network : a module, evaluated in eval mode, or another callable. Outputs that are probabilities (of classes: from 0
        to 1, with the sum 1; of several labels: from 0 to 1) are taken as such, others as logits.
    dataset : samples with targets; with a reference, samples or inputs (n, ...), whose targets are not used.
    reference : a population. Outputs are compared by its task.
    task : what the targets stand for: "classification", "regression", "multilabel" or "next-token". By default the
        data's, else that of the targets: integers are classes, and floats are numbers.
    output : which of the values that the network returns are its outputs, as in ``"logits"``; see
        `Population.from_modules`. With a reference, those of its members.

    Returns
    -------
    A `Score` of classes or labels, or a `RegressionScore`; with a reference, a `Closeness`.

    Raises
    ------
    InputError : if there are no targets, or the outputs do not fit them: not (n, o), or a label ≥ o, or of another
        shape than numbers; or if the outputs do not have the shape of the members'.
    """
    if reference is not None:
        return _closeness(network, dataset, reference)
    return scored(network, dataset, task, output)[0]


def scored(
    network: Network, dataset: Dataset | Tensor, task: str | None = None, output: Pick = None
) -> tuple[AnyScore, Tensor]:
    """Return the score of a network, and what each sample adds to its quality: (n,), whose mean it is.

    For classes, whether the network is right. R² is a quotient of means; a sample adds what it does to first order.
    """
    if not (hasattr(dataset, "x") and hasattr(dataset, "y")):
        cure = "pass consilience.Dataset(x, y), or reference=population to compare with its ensemble"
        wanted = "dataset must be a consilience Dataset, inputs with targets"
        raise InputError(f"{wanted}, got {describe(dataset)}", cure=cure)
    from consilience.tasks import as_targets, check_task, check_varies, task_of

    check_task(task)
    x = dataset.x if are_several(dataset.x) else as_tensor(dataset.x, "x")
    check_same_samples(x, "x")
    y = as_tensor(dataset.y, "y")
    given: str | None = task or getattr(dataset, "task", None)
    n = n_samples(x)
    targets = as_targets(y, n, "y", given)  # checked before anything is computed
    if given == "regression":
        check_varies(targets, "y")
    if given == "next-token":
        return _of_tokens(network, x, targets, output)
    outputs = _outputs(network, x, output)
    outputs = outputs.unsqueeze(1) if outputs.dim() == 1 else outputs
    kind: str = given or task_of(y)
    if given is None and outputs.shape != targets.shape and not with_one_label(y, n, "y").is_floating_point():
        kind = "classification"  # of floats that are whole
    if kind == "classification":
        if outputs.dim() != 2:
            raise InputError(f"outputs must have shape (n, classes), got {tuple(outputs.shape)}")
        return _of_classes(outputs.double(), as_labels(y, len(outputs), "y", outputs.shape[1]))
    if outputs.shape != targets.shape:
        wanted = f"outputs must have the shape of the targets of a {kind}, {tuple(targets.shape)}"
        raise InputError(f"{wanted}, got {tuple(outputs.shape)}", cure="pass the task that the network is for")
    if kind == "multilabel":
        return _of_labels(outputs.double(), targets.double())
    check_varies(targets, "y")
    unit = getattr(dataset, "unit", None)
    return _of_numbers(outputs.double(), targets.double(), outputs.new_ones(1).double() if unit is None else unit)


def _of_classes(outputs: Tensor, y: Tensor) -> tuple[Score, Tensor]:
    from torch.nn import functional

    right = outputs.argmax(1) == y
    accuracy = float(right.double().mean())
    sums = outputs.sum(1)
    if bool(((outputs >= 0).all(1) & ((sums - 1).abs() < PROBABILITY)).all()):  # a softmax in the network
        outputs = outputs.clamp(min=SMALLEST).log()
    loss = float(functional.cross_entropy(outputs, y))
    return Score(accuracy, math.sqrt(accuracy * (1 - accuracy) / len(y)), loss, len(y)), right


def _of_tokens(network: Network, x: Any, y: Tensor, output: Pick) -> tuple[Score, Tensor]:
    """The score, batch by batch, because logits of many windows may not fit into memory; and each window's accuracy."""
    import torch

    from consilience.checks import check_targets
    from consilience.tasks import losses

    right: list[Tensor] = []
    loss = 0.0
    size = max(1, BATCH_SIZE // y.shape[1])
    for inputs, targets in zip(in_batches(x, size), y.split(size), strict=True):
        outputs = _outputs(network, inputs, output)
        check_targets(targets, outputs, "y")
        loss += float(losses(outputs.double(), targets, "next-token").sum())
        right.append((outputs.argmax(-1) == targets).double().mean(1))
    each = torch.cat(right)
    accuracy_se = float(each.std(correction=0)) / math.sqrt(len(y))
    return Score(float(each.mean()), accuracy_se, loss / len(y), len(y)), each


def _of_labels(outputs: Tensor, y: Tensor) -> tuple[Score, Tensor]:
    from torch.nn import functional

    if bool(((outputs >= 0) & (outputs <= 1)).all()):  # a sigmoid in the network
        outputs = outputs.clamp(SMALLEST, 1 - PRECISION)
        outputs = outputs.log() - (-outputs).log1p()
    right = ((outputs > 0) == (y > 0.5)).double().mean(1)
    loss = float(functional.binary_cross_entropy_with_logits(outputs, y))
    return Score(float(right.mean()), float(right.std(correction=0)) / math.sqrt(len(y)), loss, len(y)), right


def _of_numbers(outputs: Tensor, y: Tensor, unit: Tensor) -> tuple[RegressionScore, Tensor]:
    """R² and RMSE of outputs (n, o, ...); what a sample adds is ``R² − (e² − (1 − R²) d²) / mean d²``."""
    check_finite(outputs, "the network's outputs")
    outputs, y = (values.flatten(2) if values.dim() > 2 else values.unsqueeze(2) for values in (outputs, y))
    errors, spreads = (own.square().mean(2) for own in (outputs - y, y - y.mean((0, 2), keepdim=True)))
    mean = spreads.mean(0)
    r2 = 1 - errors.mean(0) / mean
    added = (r2 - (errors - (1 - r2) * spreads) / mean).mean(1)
    rmse = tuple((errors.mean(0).sqrt() * unit.double()).tolist())
    score = RegressionScore(float(r2.mean()), float(added.std(correction=0)) / math.sqrt(len(y)), rmse, len(y))
    return score, added


def paired_error(one: Tensor, other: Tensor) -> float:
    """Return the standard error of the difference of two qualities on the same n samples: √(var(one − other) / n).

    ``one`` and ``other`` (n,) are what samples add to them, as `scored` gives it.
    """
    return float((one.double() - other.double()).std(correction=0) / math.sqrt(len(one)))


def mean_score(scores: Sequence[AnyScore]) -> AnyScore:
    """Return the mean over networks scored on the same data; its standard error is that of a typical one of them."""

    def mean(name: str) -> float:
        return float(sum(getattr(score, name) for score in scores) / len(scores))

    regressions = [score for score in scores if isinstance(score, RegressionScore)]
    if not regressions:
        return Score(mean("accuracy"), mean("accuracy_se"), mean("loss"), scores[0].n)
    rmse = tuple(sum(column) / len(scores) for column in zip(*(score.rmse for score in regressions), strict=True))
    return RegressionScore(mean("r2"), mean("r2_se"), rmse, scores[0].n)


class EnsembleOutputs:
    """The outputs of a population's members, and of their ensemble, on inputs: what networks are compared with."""

    def __init__(self, population: Population, dataset: Dataset | Tensor) -> None:
        import torch

        from consilience.agreement import agreement
        from consilience.population.checks import as_inputs, check_poolable
        from consilience.signals.shelf import TOGETHER, Room, blocks

        check_poolable(population)
        self.population, self.x = population, as_inputs(population, getattr(dataset, "x", dataset), "x")
        n, task = len(population), population.task
        each = Room().shelf(self._member_rows())
        sums = [torch.stack(list(each[some])).sum(0) for some in blocks(n, TOGETHER)]
        self._ensemble = torch.stack(sums).sum(0) / n
        self._errors = torch.zeros(n, dtype=torch.float64)  # of sub-ensembles of 1, …, N members
        for draw in range(N_DRAWS if n > 1 else 0):
            order = torch.randperm(n, generator=generator(draw, SUB_ENSEMBLES)).tolist()
            total = torch.zeros_like(self._ensemble)
            for m, k in enumerate(order[:-1]):
                total += each[k]
                self._errors[m] += agreement(total / (m + 1), self._ensemble, task).error / N_DRAWS
        self._errors[0] = self.member_error = sum(agreement(own, self._ensemble, task).error for own in each) / n

    def closeness(self, network: Network) -> Closeness:
        """Return how near a network's outputs are to the ensemble's."""
        from consilience.agreement import agreement, worth

        outputs = self._outputs(network)
        if outputs.shape != self._shape:
            got = f"{tuple(outputs.shape)} and {tuple(self._shape)}"
            raise InputError(f"the network's outputs must have the shape of the members', got {got}")
        check_finite(outputs, "the network's outputs")
        result = agreement(self._rows(outputs), self._ensemble, self.population.task)
        value = worth(result.error, self._errors.tolist())
        return Closeness(result.error, result.top1, value, self.member_error, len(self.x))

    def _member_rows(self) -> Iterator[Tensor]:
        for member in self.population:
            outputs = self._outputs(member.module)
            self._shape = outputs.shape
            yield self._rows(outputs)

    def _outputs(self, network: Network) -> Tensor:
        return _outputs(_before_tail(network, self.population), self.x, self.population.output)

    def _rows(self, outputs: Tensor) -> Tensor:
        architecture = self.population.architecture
        units = architecture.returned.units(outputs, architecture.widths, len(self.x))
        return units.movedim(1, 2).flatten(0, 1)


def _closeness(network: Network, dataset: Dataset | Tensor, population: object) -> Closeness:
    from consilience.population import Population

    if not isinstance(population, Population):
        cure = "Population.from_modules(modules, example_input) makes one"
        raise InputError(f"reference must be a consilience.Population, got {describe(population)}", cure=cure)
    return EnsembleOutputs(population, dataset).closeness(network)


def _before_tail(network: Network, population: Population) -> Network:
    """What gives a network's outputs before a softmax or another tail, where the members are pooled."""
    from torch import nn

    from consilience.units.architecture import TracedNetwork, read_state

    architecture, inputs = population.architecture, population.inputs
    if not architecture.program.is_bent:
        return network if inputs is None else lambda x: inputs.call(network, x)
    state = read_state(network) if isinstance(network, nn.Module) else {}
    if not architecture.fits(state):
        tail = ", ".join(architecture.tail)
        message = f"network must be of the members' class, since they are compared before {tail}"
        raise InputError(f"{message}, got {type(network).__name__}")
    return TracedNetwork(architecture.with_widths(architecture.widths_in(state)), state)


def _outputs(network: Callable[..., Tensor], x: Any, output: Pick = None) -> Tensor:
    import torch

    from consilience.units.forward import eval_mode, outputs_of
    from consilience.units.inputs import called

    if not callable(network):
        raise InputError(
            f"network must be a module or another function of inputs, got {describe(network)}",
            cure="pass member.module for a member, and Ensemble(population) for a population",
        )
    name = type(network).__name__
    with eval_mode(network):
        if output is not None and isinstance(called(network, next(in_batches(x, 1))), torch.Tensor):
            output = None  # it returns its outputs alone, as an ensemble does
        outputs = [outputs_of(network, batch, name, "x", output) for batch in in_batches(x, BATCH_SIZE)]
    try:
        return torch.cat(outputs)
    except RuntimeError as error:
        raise InputError(f"{name} must return outputs (n, ...) for inputs (n, ...), got {error}") from error
