"""Transfer across tasks: a trunk of the clusters that the networks of three tasks share, for a fourth.

The tasks are functions of the class (`consilience.transfer.TASKS`): class, parity, above four, loops. Each is left out
in turn: the census is of the members of the other three, and readouts of several trunks are fitted to 1, 10 and 100
labels a class of the task left out. Every number is a mean over populations; errors are standard errors of
populations, and of all draws of labels where there is one population.

``python benchmarks/transfer.py --out docs/results/transfer.md``
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from harness import Part, arguments, met, run
from harness import table as markdown

import consilience as cs
from consilience.studies import demo
from consilience.transfer import Transfer, compare_trunks, of_task

DIGITS = ("class", "parity", "above-four", "loops")
MARK, AT = 2, 10  # standard errors by which the invariant trunk is to beat one member's, at labels a class
NAMES = (
    *("invariant clusters", "least invariant", "all clusters"),
    *("one member", "members side by side", "random features", "inputs"),
)


def populations(
    data: cs.Data, hidden: Sequence[int], n_members: int, training: cs.Training, seed: int
) -> dict[str, cs.Population]:
    n_inputs = data.train.x[0].numel()
    trained = {}
    for number, task in enumerate(DIGITS):
        train = of_task(data.train, task)
        net = cs.MLP(n_inputs, hidden, int(train.y.max()) + 1)
        trained[task] = cs.train_population(
            net, train, n_members, training=training, random_state=len(DIGITS) * seed + number
        )
    return trained


def left_out(options: argparse.Namespace, data: cs.Data, trained: dict[str, cs.Population], seed: int) -> Iterator[Any]:
    for task in DIGITS:
        others = {name: population for name, population in trained.items() if name != task}
        transfer = Transfer(random_state=seed).fit(others, data.calibration.x)
        layers = {
            name: {
                "clusters": len(layer.invariant),
                "invariant": int(layer.invariant.sum()),
                "often": layer.n_invariant_by_frequency,
                "chance": layer.n_invariant_by_chance,
                "specific": layer.specific.sum(0).tolist(),
                "sources": list(layer.tasks),
            }
            for name, layer in transfer.layers_.items()
        }
        trials = compare_trunks(
            transfer,
            of_task(data.train, task),
            of_task(data.test, task),
            (1, 10) if options.quick else (1, 10, 100),
            n_draws=3 if options.quick else 10,
            random_state=seed,
        )
        trunks = [{**vars(trial), "accuracy": [100 * value for value in trial.accuracy]} for trial in trials]
        yield {"task": task, "seed": seed, "layers": layers, "trunks": trunks}


def digits(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    epochs, n_members = (2, 3) if options.quick else (demo.EPOCHS, 8)
    training = cs.Training(epochs=epochs, batch_size=demo.BATCH_SIZE, learning_rate=demo.LEARNING_RATE)
    for seed in range(options.seeds):
        data = cs.load_data("digits", random_state=seed)
        yield from left_out(options, data, populations(data, demo.HIDDEN, n_members, training, seed), seed)


def images(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    if options.data is None:
        return
    epochs, n_members = (1, 2) if options.quick else (3, 8)
    training = cs.Training(epochs=epochs, learning_rate=3e-3)
    for seed in range(options.seeds):
        data = cs.load_data(options.data, random_state=seed, n_calibration=2000)
        yield from left_out(options, data, populations(data, (64, 32), n_members, training, seed), seed)


def values(rows: Sequence[dict[str, Any]], task: str, name: str, n_labels: int) -> list[list[float]]:
    """Accuracies by population and draw."""
    return [
        trunk["accuracy"]
        for row in rows
        if row["task"] == task
        for trunk in row["trunks"]
        if trunk["trunk"] == name and trunk["n_labels"] == n_labels
    ]


def mean_and_error(by_population: Sequence[Sequence[float]]) -> tuple[float, float]:
    means = [statistics.mean(draws) for draws in by_population]
    if len(means) > 1:
        return statistics.mean(means), statistics.stdev(means) / len(means) ** 0.5
    (draws,) = by_population
    return means[0], statistics.stdev(draws) / len(draws) ** 0.5


def tables(rows: Sequence[dict[str, Any]]) -> list[str]:
    if not rows:
        return ["Not run: it needs `--data`.", ""]
    lines, text, won = [], list[str](), 0
    for row in rows:
        if row["seed"] == 0:
            for layer, numbers in row["layers"].items():
                mean, sd = numbers["chance"]
                specific = ", ".join(
                    f"{n} {name}" for name, n in zip(numbers["sources"], numbers["specific"], strict=True)
                )
                lines.append(
                    [
                        row["task"],
                        layer,
                        str(numbers["clusters"]),
                        str(numbers["invariant"]),
                        str(numbers["often"]),
                        f"{mean:.1f} ± {sd:.1f}",
                        specific,
                    ]
                )
    head = [
        "task left out",
        "layer",
        "clusters",
        "invariant",
        "in half the members of each task",
        "if tasks were permuted",
    ]
    text += ["Clusters of the members of the other three tasks (first population).", ""]
    text += [*markdown([*head, "specific to"], lines, n_labels=2), ""]
    numbers = sorted({trunk["n_labels"] for row in rows for trunk in row["trunks"]})
    for n_labels in numbers:
        lines = []
        for task in DIGITS:
            cells = ["{:.2f} ± {:.2f}".format(*mean_and_error(values(rows, task, name, n_labels))) for name in NAMES]
            differences = np.subtract(
                values(rows, task, "invariant clusters", n_labels), values(rows, task, "one member", n_labels)
            ).tolist()
            mean, error = mean_and_error(differences)
            won += n_labels == AT and mean > MARK * error
            lines.append([task, *cells, f"{mean:+.2f} ± {error:.2f}"])
        text += [f"Accuracy on test rows (%), {n_labels} labels a class.", ""]
        text += [*markdown(["task", *NAMES, "invariant − one member"], lines), ""]
    text.append(
        f"- At {AT} labels a class the invariant trunk beats one member's by more than {MARK} standard errors on {won} "
        f"of {len(DIGITS)} tasks; the mark is 2: {met(won >= 2)}."
    )
    return [*text, ""]


PARTS = {"digits": Part("Digits", digits, tables), "images": Part("Images", images, tables)}


def line(row: dict[str, Any]) -> str:
    at = [t for t in row["trunks"] if t["n_labels"] == AT]
    return f"{row['task']} {row['seed']} " + ", ".join(
        f"{t['trunk']} ({t['n_features']:.0f}) {statistics.mean(t['accuracy']):.2f}" for t in at
    )


def main() -> None:
    run("Transfer across tasks", PARTS, arguments(__doc__, data=False, seeds=3), line=line)


if __name__ == "__main__":
    main()
