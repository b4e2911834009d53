"""Quality on scikit-learn's digits: is the assembly as good as the ensemble, and a better start than a fresh network?

    python benchmarks/digits.py [--seeds 3] [--out docs/results]

For each seed: a population as in the demo, its census, the assembly at 2x with least squares, and the same width from
scratch and from the assembly at an equal number of gradient steps. Prints one line a seed and the mean over seeds,
against the marks.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import torch

import consilience as cs
from consilience.studies.commands import DEMO_BATCH_SIZE, DEMO_EPOCHS, DEMO_HIDDEN, DEMO_LEARNING_RATE, DEMO_MEMBERS
from consilience.studies.experiment import run_experiment

COLUMNS = {
    "mean member": ("mean member", ""),
    "ensemble": ("ensemble of the members", ""),
    "2x least-squares": ("assembly, least-squares", "2x"),
    "2x fine-tuned": ("fine-tuned assembly", "2x"),
    "2x from scratch": ("from scratch", "2x"),
}


def scores(seed: int) -> dict[str, float]:
    """Test accuracy in % of each column."""
    data = cs.load_data("digits", random_state=seed)
    training = cs.Training(epochs=DEMO_EPOCHS, batch_size=DEMO_BATCH_SIZE, learning_rate=DEMO_LEARNING_RATE)
    net = cs.MLP(64, DEMO_HIDDEN, 10)
    population = cs.train_population(net, data.train, DEMO_MEMBERS, training=training, random_state=seed)
    census = cs.Census(n_resamples=0, random_state=seed).fit(population, data.calibration.x)
    experiment = run_experiment(census, data, widths=("2x",), corrections=("least-squares",), random_state=seed)
    found = {(row.method, row.width): 100 * row.test.accuracy for row in experiment.table}
    return {name: found[key] for name, key in COLUMNS.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="directory for digits.md and digits.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = {}
    lines = ["| seed | " + " | ".join(COLUMNS) + " |", "| --- |" + " ---: |" * len(COLUMNS)]
    for seed in range(arguments.seeds):
        rows[seed] = scores(seed)
        lines.append(f"| {seed} | " + " | ".join(f"{value:.2f}" for value in rows[seed].values()) + " |")
        print(lines[-1], flush=True)
    mean = {name: statistics.mean(row[name] for row in rows.values()) for name in COLUMNS}
    lines.append("| mean | " + " | ".join(f"{value:.2f}" for value in mean.values()) + " |")
    zero_shot = mean["2x least-squares"] - mean["ensemble"]
    tuned = mean["2x fine-tuned"] - mean["2x from scratch"]
    lines += [
        "",
        f"- zero-shot 2x against the ensemble: {zero_shot:+.2f} points (mark: at least -1)",
        f"- fine-tuned against from scratch, equal steps: {tuned:+.2f} points (mark: above 0)",
    ]
    print("\n".join(lines))
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        header = f"Test accuracy in %, `python benchmarks/digits.py --seeds {arguments.seeds}`\n\n"
        (arguments.out / "digits.md").write_text(header + "\n".join(lines) + "\n")
        (arguments.out / "digits.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
