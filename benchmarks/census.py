"""Speed of a census and of assemblies, one thread: N = 32 members 784-64-32-10, ward, activation distance.

    OMP_NUM_THREADS=1 python benchmarks/census.py [--data FILE.npz] [--repeats 5]

Without ``--data`` the inputs are random and the members hardly trained, which changes the time of no step but the
number of dead units; the mark is a census in at most 3 s.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

import consilience as cs

N_MEMBERS, WIDTHS, N_CALIBRATION = 32, (64, 32), 5000


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Median wall-clock time."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.data:
        train = cs.load_data(arguments.data, n_calibration=N_CALIBRATION).train
        train = train.take(range(20000))
    else:
        g = torch.Generator().manual_seed(0)
        x = torch.rand(N_CALIBRATION, 1, 28, 28, generator=g)
        train = cs.Dataset(x, torch.arange(len(x)) % 10, torch.arange(len(x)))
    population = cs.train_population(
        cs.MLP(784, WIDTHS, 10), train, N_MEMBERS, training=cs.Training(epochs=1), random_state=0
    )
    x = train.x[:N_CALIBRATION]
    census = cs.Census(clusterer="ward", distance="activation")
    took = seconds(lambda: census.fit(population, x), arguments.repeats)
    print(f"census with stability from 10 resamples: {took:.2f} s (mark: at most 3)")
    bare = cs.Census(clusterer="ward", distance="activation", n_resamples=0)
    print(f"census without stability: {seconds(lambda: bare.fit(population, x), arguments.repeats):.2f} s")
    for width in ("1x", "2x", "4x"):
        took = seconds(lambda width=width: cs.assemble(census, width), arguments.repeats)
        print(f"assembly {width}, least squares: {took:.2f} s")


if __name__ == "__main__":
    main()
