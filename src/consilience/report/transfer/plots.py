"""The plots of a transfer. Each draws on a figure of its own and returns it."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from consilience.report.plots import heat_map, legend_beside, plain_log_ticks
from consilience.report.style import MUTED, new_axes, new_figure, shortened, styled
from consilience.report.transfer.result import TransferResult, labels_of

LOOKS = {
    "invariant clusters": ("#1b6ca8", "o"),
    "least invariant": ("#74b3e3", "v"),
    "all clusters": ("#2e8b57", "s"),
    "one member": ("#c2571a", "D"),
    "members side by side": ("#8a4fa0", "^"),
    "random features": ("#a08020", "P"),
    "inputs": (MUTED, "X"),
}
HEIGHT = 0.28  # inches for each task


@styled
def frequencies(result: TransferResult) -> Figure:
    """Draw the share of the members of each task that own a cluster: a row for each task, the most invariant first."""
    layers, tasks = result.layers, list(result.n_members)
    figure = new_figure(len(layers) * (HEIGHT * len(tasks) + 0.75))
    for ax, (name, layer) in zip(figure.subplots(len(layers), 1, squeeze=False)[:, 0], layers.items(), strict=True):
        shares = layer.frequency[layer.order].T
        heat_map(ax, shares, colors="Blues", limits=(0.0, 1.0), rows=[shortened(task, 16) for task in tasks])
        rows, columns = np.nonzero(layer.specific[layer.order].T)
        ax.plot(columns, rows, ".", color="#c2571a", markersize=4)
        ax.set(xticks=[], xlabel=f"{len(layer.order):,} clusters, the most invariant first")
        ax.set_title(shortened(name), loc="left")
    return figure


@styled
def accuracies(result: TransferResult) -> Figure:
    """Draw the mean accuracy of each trunk against labels of a class."""
    figure, ax = new_axes(3.2)
    numbers = labels_of(result)
    for trunk in dict.fromkeys(trial.trunk for trial in result.trials):
        color, marker = LOOKS[trunk]
        trials = sorted((trial for trial in result.trials if trial.trunk == trunk), key=lambda trial: trial.n_labels)
        means = [100 * np.mean(trial.accuracy) for trial in trials]
        ax.plot(numbers, means, color=color, marker=marker, label=trunk)
    ax.set(xscale="log", xlabel=f"labels of each class of {shortened(result.new_task)}", ylabel="accuracy (%)")
    plain_log_ticks(ax.xaxis)
    ax.set_xticks(numbers, [str(n) for n in numbers])
    legend_beside(ax)
    return figure
