"""Quality on scikit-learn's digits: is the assembly as good as the ensemble, and a better start than a fresh network?

    python benchmarks/digits.py [--seeds 3] [--out docs/results/digits.md]

For each seed: a population as in the demo, its census, the assembly at 2x with least squares, and the same width from
scratch and from the assembly at an equal number of gradient steps. Prints one line a seed and the mean over seeds,
against the marks.
"""

from __future__ import annotations

import statistics

from harness import arguments, command, met, parse, publish, table

import consilience as cs
from consilience.studies import demo
from consilience.studies.experiment import run_experiment

COLUMNS = {
    "mean member": ("mean member", ""),
    "ensemble": ("ensemble of the members", ""),
    "2x least-squares": ("assembly, least-squares", "2x"),
    "2x fine-tuned": ("fine-tuned assembly", "2x"),
    "2x from scratch": ("from scratch", "2x"),
}


def scores(seed: int, quick: bool) -> dict[str, float]:
    """Test accuracy in % of each column."""
    data = cs.load_data("digits", random_state=seed)
    epochs = 2 if quick else demo.EPOCHS
    training = cs.Training(epochs=epochs, batch_size=demo.BATCH_SIZE, learning_rate=demo.LEARNING_RATE)
    net = cs.MLP(64, demo.HIDDEN, 10)
    population = cs.train_population(net, data.train, demo.MEMBERS, training=training, random_state=seed)
    census = cs.Census(n_resamples=0, random_state=seed).fit(population, data.calibration.x)
    experiment = run_experiment(census, data, widths=("2x",), corrections=("least-squares",), random_state=seed)
    found = {(row.method, row.width): 100 * row.test.accuracy for row in experiment.table}
    return {name: found[key] for name, key in COLUMNS.items()}


def text(rows: dict[int, dict[str, float]]) -> list[str]:
    mean = {name: statistics.mean(row[name] for row in rows.values()) for name in COLUMNS}
    zero_shot = mean["2x least-squares"] - mean["ensemble"]
    tuned = mean["2x fine-tuned"] - mean["2x from scratch"]
    lines = {str(seed): row for seed, row in rows.items()} | {"mean": mean}
    return [
        *table(["seed", *COLUMNS], ([name, *(f"{v:.2f}" for v in row.values())] for name, row in lines.items())),
        "",
        f"- zero-shot 2x against the ensemble: {zero_shot:+.2f} points, mark -1: {met(zero_shot >= -1)}",
        f"- fine-tuned against from scratch, equal steps: {tuned:+.2f} points, mark 0: {met(tuned > 0)}",
    ]


def main() -> None:
    parser = arguments(__doc__, seeds=3)
    options = parse(parser)
    rows: dict[int, dict[str, float]] = {}
    for seed in range(1 if options.quick else options.seeds):
        rows[seed] = scores(seed, options.quick)
        print(seed, rows[seed], flush=True)
    publish(options, f"Test accuracy in %, `{command(parser, options)}`", text(rows), rows)


if __name__ == "__main__":
    main()
