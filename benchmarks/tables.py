"""Assemblies of members trained on tables: at a member's width never below the mean member.

    python benchmarks/tables.py [--seeds 3] [--out FILE.md]

For each table and activation: eight members of hidden layers 32-32, and assemblies with the default choice and with the
census's cut, zero-shot. Accuracies are on rows that neither members nor assemblies have seen, in points to the ensemble
of the same members; mean ± standard error over populations.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from harness import arguments, command, mean_with_error, met, parse, publish, table
from sklearn import datasets

import consilience as cs

ACTIVATIONS = ("relu", "elu", "tanh", "silu")
WIDTHS = ("1x", "2x")


@dataclass(frozen=True)
class Row:
    """Points of test accuracy to the ensemble, of one method in one population."""

    table: str
    activation: str
    method: str
    width: str
    points: float
    kept: str  # the choice that was kept


def load(name: str, seed: int) -> cs.Data:
    """Return a table, standardized."""
    make = {
        "clusters": lambda: datasets.make_classification(
            6000, 30, n_informative=15, n_redundant=5, n_classes=7, flip_y=0.02, random_state=seed
        ),
        "shells": lambda: datasets.make_gaussian_quantiles(
            n_samples=4000, n_features=10, n_classes=5, random_state=seed
        ),
        "wine": lambda: datasets.load_wine(return_X_y=True),
        "cancer": lambda: datasets.load_breast_cancer(return_X_y=True),
    }
    x, y = make[name]()
    order = np.random.default_rng(seed).permutation(len(x))
    x, y, n = ((x - x.mean(0)) / x.std(0)).astype("float32")[order], y[order], 3 * len(x) // 4
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{name}.npz"
        np.savez(file, x_train=x[:n], y_train=y[:n], x_test=x[n:], y_test=y[n:])
        return cs.load_data(file, random_state=seed)


def rows_of(name: str, activation: str, seed: int, quick: bool) -> list[Row]:
    """Train one population and score everything."""
    data = load(name, seed)
    net = cs.MLP(data.train.x[0].numel(), (32, 32), data.n_classes, activation=activation)
    training = cs.Training(epochs=2 if quick else 40, batch_size=64, learning_rate=3e-3)
    population = cs.train_population(net, data.train, 3 if quick else 8, training=training, random_state=seed)
    ensemble = 100 * cs.evaluate(cs.Ensemble(population), data.test).accuracy
    members = [100 * cs.evaluate(member.module, data.test).accuracy for member in population]
    rows = [Row(name, activation, "mean member", "", sum(members) / len(members) - ensemble, "")]
    assembler = cs.Assembler(cs.Census(n_resamples=0).fit(population, data.calibration.x))
    for width in WIDTHS:
        for method, choice in (("assembly", None), ("assembly, cut", "cut")):
            network = assembler.assemble(width, choice=choice)
            points = 100 * cs.evaluate(network, data.test).accuracy - ensemble
            rows.append(Row(name, activation, method, width, points, network.assembly_.choice))
    return rows


def main() -> None:
    parser = arguments(__doc__, seeds=3)
    options = parse(parser)
    tables = ("wine",) if options.quick else ("clusters", "shells", "wine", "cancer")
    activations = ACTIVATIONS[:1] if options.quick else ACTIVATIONS
    rows: list[Row] = []
    for name in tables:
        for activation in activations:
            for seed in range(1 if options.quick else options.seeds):
                rows += rows_of(name, activation, seed, options.quick)
    lines, marks = [], []
    for name in tables:
        for activation in activations:
            own = [row for row in rows if (row.table, row.activation) == (name, activation)]
            points = {
                key: [row.points for row in own if (row.method, row.width) == key]
                for key in dict.fromkeys((row.method, row.width) for row in own)
            }
            lines.append([name, activation, *(mean_with_error(values, "+") for values in points.values())])
            gain = np.mean(points["assembly", "1x"]) - np.mean(points["mean member", ""])
            marks.append(f"- {name}, {activation}: 1x against the mean member {gain:+.2f}: {met(bool(gain >= 0))}")
    heads = ["table", "activation", *(f"{row.method} {row.width}".strip() for row in rows[: 1 + 2 * len(WIDTHS)])]
    text = [*table(heads, lines, 2), "", *marks]
    publish(options, f"Points to the ensemble, `{command(parser, options)}`", text, rows)


if __name__ == "__main__":
    main()
