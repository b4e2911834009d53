"""Distillation of the ensemble from several starts: the same steps, data, rates and held-out rows for all.

    python benchmarks/distillation.py --data mnist.npz [--cache runs/populations] [--seeds 3] [--only ABE] [--steps 500]

An assembly, the member nearest to the ensemble (made wider by Net2Wider above 1x) and a fresh network are distilled on
5000 unlabelled images. Differences of the assembly to the others are paired: over populations and seeds.
"""

from __future__ import annotations

import statistics
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from harness import Part, arguments, mean_with_error, run, table, timed
from populations import CACHE, obtain
from torch import nn

import consilience as cs
from consilience.baselines import distil

WIDTHS = ("1x", "2x", "4x")
OURS, MEMBER, FRESH = "assembly", "member", "fresh"


@dataclass(frozen=True)
class Row:
    """One distilled network: test accuracy in %, and error to the ensemble in nats, before and after distillation."""

    population: str
    seed: int
    width: str
    start: str
    accuracy: float
    ensemble: float
    error: float
    before: float
    rate: float
    seconds: float


def distilled(population: cs.Population, census: cs.Census, width: str, steps: int) -> dict[str, nn.Module]:
    """Return what each start becomes at one width: an assembly, the nearest member, a fresh network."""
    x = census.calibration_
    assert x is not None
    member = partial(distil, population, x, steps=steps)
    return {
        OURS: cs.assemble(census, width, correction="distill", steps=steps),
        MEMBER: member() if width == "1x" else member(start="net2wider", width=width),
        FRESH: member(start="fresh", width=width),
    }


def rows_of(name: str, seed: int, population: cs.Population, data: cs.Data, steps: int) -> Iterator[Row]:
    """Distill from every start at every width, and score on the test images."""
    census = cs.Census(n_resamples=0).fit(population, data.calibration.x)
    ensemble = 100 * cs.evaluate(cs.Ensemble(population), data.test).accuracy
    for width in WIDTHS:
        networks, seconds = timed(partial(distilled, population, census, width, steps))
        for start, network in networks.items():
            record = network.assembly_.distillation if start == OURS else network.distillation_  # kept or not
            error = cs.evaluate(network, data.test, reference=population).error
            accuracy = 100 * cs.evaluate(network, data.test).accuracy
            took = seconds / len(networks)
            yield Row(name, seed, width, start, accuracy, ensemble, error, record.before, record.learning_rate, took)


def rows(options: Namespace) -> Iterator[Row]:
    for name in options.only:
        for seed in range(options.seeds):
            n_calibration = 500 if options.quick else 5000
            data = cs.load_data(options.data, random_state=seed, n_calibration=n_calibration)
            if options.quick:
                data = replace(data, train=data.train.take(torch.arange(min(1000, len(data.train)))))
            population = obtain(name, data, seed, options.cache, options.quick)
            yield from rows_of(name, seed, population, data, 20 if options.quick else options.steps)


def text(rows: Sequence[Row]) -> Iterable[str]:
    heads = ["population", "width", "start", "points to the ensemble", "error (nats)", "assembly's error − its"]
    lines = []
    for name, width in dict.fromkeys((row.population, row.width) for row in rows):
        group = [row for row in rows if (row.population, row.width) == (name, width)]
        ours = {row.seed: row.error for row in group if row.start == OURS}
        for start in (OURS, MEMBER, FRESH):
            own = [row for row in group if row.start == start]
            points = mean_with_error([row.accuracy - row.ensemble for row in own], "+")
            paired = [1000 * (ours[row.seed] - row.error) for row in own if row.seed in ours]
            error = f"{1000 * statistics.mean(row.error for row in own):.2f}e-3"
            lines.append(
                [name, width, start, points, error, "" if start == OURS else mean_with_error(paired, "+") + "e-3"]
            )
    yield from table(heads, lines, n_labels=3)


def main() -> None:
    parser = arguments(__doc__ or "", data=True, seeds=3)
    parser.add_argument("--cache", type=Path, default=CACHE, help="directory of trained populations")
    parser.add_argument("--only", default="ABE", help="populations, by letter")
    parser.add_argument("--steps", type=int, default=500, help="gradient steps of each")
    parts = {"distillation": Part("Starts of a distillation", rows, text, row=Row)}
    run("Distillation of the ensemble", parts, parser)


if __name__ == "__main__":
    main()
