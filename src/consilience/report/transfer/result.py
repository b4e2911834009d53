"""What a transfer gives: clusters by task as a table, trunks for a new task as another, and what they say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from consilience.report.numbers import counted, listed, percent, with_spread
from consilience.report.tables import Cell, Column, Table
from consilience.transfer import LayerTasks, Trial
from consilience.transfer.comparison import paired

BESIDE = {"one member": "one member's units", "least invariant": "as many of the least invariant clusters"}


@dataclass(frozen=True)
class TransferResult:
    """The clusters of several tasks, and trunks for a new one.

    Attributes
    ----------
    n_members : by task.
    layers : name of each layer → its clusters by task.
    share : of the members of each task that must own a cluster for it to be invariant.
    new_task : what the trunks are for; empty without one.
    trials : of the trunks, as from `consilience.transfer.compare_trunks`; empty without a new task.
    obtained : how to get the result again.
    """

    n_members: Mapping[str, int]
    layers: Mapping[str, LayerTasks]
    share: float
    new_task: str
    trials: Sequence[Trial]
    obtained: Mapping[str, Any]


def transfer_table(result: TransferResult) -> Table:
    """Return one row for each layer."""
    columns = [
        Column("Layer", is_text=True),
        Column("Clusters"),
        Column("Invariant"),
        Column("Shared"),
        Column("Shared by chance"),
        *(Column(task, over="Specific to") for task in result.n_members),
    ]
    rows = [
        [
            name,
            str(len(layer.invariant)),
            str(int(layer.invariant.sum())),
            str(layer.n_invariant_by_frequency),
            with_spread(*layer.n_invariant_by_chance, digits=1),
            *map(str, layer.specific.sum(0)),
        ]
        for name, layer in result.layers.items()
    ]
    return Table.plain(columns, rows)


def trunks_table(result: TransferResult) -> Table:
    """Return one row for each trunk, with its accuracy by labels of a class; the best of each column is bold."""
    numbers = labels_of(result)
    cells = {
        (trial.trunk, trial.n_labels): (float(np.mean(trial.accuracy)), _error(trial.accuracy))
        for trial in result.trials
    }
    best = {n: max(mean for (_, number), (mean, _) in cells.items() if number == n) for n in numbers}
    rows = []
    for trunk, n_features in {trial.trunk: trial.n_features for trial in result.trials}.items():
        row = [Cell(trunk), Cell(f"{n_features:.0f}")]
        for n in numbers:
            mean, error = cells[trunk, n]
            row.append(Cell(with_spread(100 * mean, 100 * error, 1) + " %", mean == best[n]))
        rows.append(row)
    columns = [
        Column("Trunk", is_text=True),
        Column("Features"),
        *(Column(str(n), "Labels of each class") for n in numbers),
    ]
    return Table(columns, {"": rows})


def transfer_sentences(result: TransferResult) -> list[str]:
    """Return what was found, in sentences."""
    total = sum(len(layer.invariant) for layer in result.layers.values())
    invariant = sum(int(layer.invariant.sum()) for layer in result.layers.values())
    specific = sum(int(layer.specific.any(1).sum()) for layer in result.layers.values())
    tasks = [f"{task} ({counted(n, 'member')})" for task, n in result.n_members.items()]
    shared = sum(layer.n_invariant_by_frequency for layer in result.layers.values())
    chance = sum(layer.n_invariant_by_chance[0] for layer in result.layers.values())
    sentences = [
        f"Networks for {listed(tasks)} have {counted(total, 'cluster')}. Shared, that is owned by at least "
        f"{percent(result.share, 0)} of the members of every task: {shared}, where {chance:.1f} would be if tasks made "
        f"no difference. Invariant, that is shared and specific to none: {invariant}. Specific to a task: {specific}."
    ]
    for n in labels_of(result):
        (mine,) = (t.accuracy for t in result.trials if (t.trunk, t.n_labels) == ("invariant clusters", n))
        beside = []
        for other, words in BESIDE.items():
            differences = 100 * paired(result.trials, n, other)
            beside.append(
                f"{float(differences.mean()):+.1f} ± {_error(differences.tolist()):.1f} points beside {words}"
            )
        sentences.append(
            f"With {counted(n, 'label')} of each class of {result.new_task}, readouts of the most invariant clusters "
            f"have an accuracy of {percent(float(np.mean(mine)))}: {listed(beside)} (± standard errors over labels)."
        )
    return sentences


def labels_of(result: TransferResult) -> list[int]:
    """Return the numbers of labels a class that trunks were tried with."""
    return sorted({trial.n_labels for trial in result.trials})


def _error(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
