"""Trunks for a new task at a few labels a class: of invariant clusters, and of what else one would take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from consilience.checks import check_count
from consilience.data import Dataset
from consilience.errors import InputError
from consilience.seeds import FEW_LABELS, RANDOM_TRUNK, numpy_generator, seed
from consilience.training.fresh import initialise
from consilience.transfer.transfer import Transfer
from consilience.transfer.trunk import Trunk, fit_head, standardization
from consilience.units.architecture import TracedNetwork, read_state
from consilience.units.resize import resize

LABELS = (1, 10, 100)


@dataclass(frozen=True)
class Trial:
    """The accuracy of one kind of trunk at some labels a class.

    Attributes
    ----------
    trunk : what it is made of.
    n_features : that its readout reads; mean where there are several trunks.
    n_labels : of each class.
    accuracy : (draws,) of test rows; where there are several trunks, the mean over them.
    """

    trunk: str
    n_features: float
    n_labels: int
    accuracy: tuple[float, ...]


def trunks_for(transfer: Transfer, random_state: int = 0) -> dict[str, list[Trunk]]:
    """Return the trunks to compare, by kind.

    Beside clusters (the most invariant, as many of the least invariant, all): one member alone (each member once), as
    many random members side by side as have the features of the invariant clusters, an untrained network of the widths
    of the invariant trunk, and the inputs.
    """
    invariant, networks = transfer.trunk("invariant"), transfer.census_.population_.networks
    last = transfer.census_.population_.architecture.free[-1].name
    width = invariant.networks[0].architecture.layer(last).width
    order = numpy_generator(random_state, RANDOM_TRUNK).permutation(len(networks))
    some, total = [], 0
    for k in order:
        if total >= width:
            break
        some.append(networks[k])
        total += networks[k].architecture.layer(last).width
    return {
        "invariant clusters": [invariant],
        "least invariant": [transfer.trunk("least-invariant")],
        "all clusters": [transfer.trunk("all")],
        "one member": [Trunk("one member", (network,)) for network in networks],
        "members side by side": [Trunk("members side by side", tuple(some))],
        "random features": [_random_trunk(transfer, invariant.networks[0], random_state)],
        "inputs": [Trunk("inputs", ())],
    }


def compare_trunks(
    transfer: Transfer,
    train: Dataset,
    test: Dataset,
    n_labels: Sequence[int] = LABELS,
    *,
    n_draws: int = 10,
    random_state: int = 0,
) -> list[Trial]:
    """Return how accurate readouts of each trunk are on test rows of a new task, with some labels of each class.

    All trunks get the same rows in each draw, and readouts of one kind (`consilience.transfer.trunk.fit_head`).

    Raises
    ------
    InputError : if labels are not classes, or a class has fewer rows than labels are asked for.
    """
    check_count("n_draws", n_draws)
    for number in n_labels:
        check_count("n_labels", number)
    y = train.y
    if y.is_floating_point() or y.ndim != 1:
        raise InputError(f"train must have the labels of classes, got {y.dtype} {tuple(y.shape)}")
    counts = torch.bincount(y)
    if int(counts.min()) < max(n_labels):
        got = f"{int(counts.min())} of class {int(counts.argmin())}"
        raise InputError(f"train must have {max(n_labels)} rows of each class, got {got}", cure="ask for fewer labels")
    draws = {number: [_rows(y, number, random_state, draw) for draw in range(n_draws)] for number in n_labels}
    targets = functional.one_hot(y).to(train.x.dtype)
    trials = []
    for name, trunks in trunks_for(transfer, random_state).items():
        accuracies: dict[int, list[list[float]]] = {number: [] for number in n_labels}
        widths = []
        for trunk in trunks:
            mean, spread = standardization(trunk.features(transfer.calibration_))
            seen, unseen = trunk.features(train.x), trunk.features(test.x)
            widths.append(seen.shape[1])
            for number, rows in draws.items():
                accuracies[number].append(
                    [_accuracy(fit_head(seen[r], targets[r], mean, spread)(unseen), test.y) for r in rows]
                )
        for number, values in accuracies.items():
            by_draw = np.mean(values, axis=0)
            trials.append(Trial(name, float(np.mean(widths)), number, tuple(by_draw.tolist())))
    return trials


def paired(
    trials: Sequence[Trial], n_labels: int, other: str, trunk: str = "invariant clusters"
) -> NDArray[np.float64]:
    """Return by how much a trunk is more accurate than another one in each draw: (draws,)."""
    (mine,), (theirs,) = (
        [trial.accuracy for trial in trials if trial.trunk == name and trial.n_labels == n_labels]
        for name in (trunk, other)
    )
    difference: NDArray[np.float64] = np.subtract(mine, theirs)
    return difference


def _rows(y: Tensor, number: int, random_state: int, draw: int) -> Tensor:
    random = numpy_generator(random_state, FEW_LABELS, number, draw)
    rows = [random.choice(np.flatnonzero(y.numpy() == c), number, replace=False) for c in range(int(y.max()) + 1)]
    return torch.from_numpy(np.concatenate(rows))


def _accuracy(outputs: Tensor, y: Tensor) -> float:
    return float((outputs.argmax(1) == y).double().mean())


def _random_trunk(transfer: Transfer, like: TracedNetwork, random_state: int) -> Trunk:
    """The trunk of an untrained network of the same widths."""
    template = transfer.census_.population_.members[0].module
    widths = {layer.name: layer.width for layer in like.architecture.hidden}
    module = initialise(resize(template, like.architecture, widths), seed(random_state, RANDOM_TRUNK))
    return Trunk("random features", (TracedNetwork(like.architecture, read_state(module)),))
