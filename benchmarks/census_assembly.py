"""Seconds of a census and of assemblies from it, on one thread: 32 members 784-64-32-10, ward, activation distance.

    OMP_NUM_THREADS=1 python benchmarks/census_assembly.py [--data FILE.npz] [--members 32] [--repeats 5]

Seconds are the process's own (median), so that other processes count little. The marks: 2.5 s for a census and a 1x
assembly, 3 s for a census and a 2x assembly. Without ``--data`` inputs are random, which changes the time of no step.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from harness import arguments, command, parse, table

import consilience as cs

HIDDEN, N_CALIBRATION = (64, 32), 5000


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Median of the process's own time."""
    times = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return statistics.median(times)


def made_up(n: int) -> cs.Data:
    """Random images of ten classes."""
    x = torch.rand(n, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    part = cs.Dataset(x, torch.arange(n) % 10, torch.arange(n))
    return cs.Data("random", part, part, part, part, 10)


def main() -> None:
    parser = arguments(__doc__, data=False)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--members", type=int, default=32)
    options = parse(parser)
    n_members, n, repeats = (3, 300, 1) if options.quick else (options.members, N_CALIBRATION, options.repeats)
    data = cs.load_data(options.data, n_calibration=n) if options.data else made_up(n)
    train, x = data.train.take(range(n)) if options.quick else data.train, data.calibration.x
    training = cs.Training(epochs=1) if options.quick else cs.Training(epochs=3, learning_rate=3e-3)
    net = cs.MLP(x[0].numel(), HIDDEN, data.n_classes)
    population = cs.train_population(net, train, n_members, training=training, random_state=0)

    def scores(network: torch.nn.Module) -> list[str]:
        return [f"{100 * cs.evaluate(network, part).accuracy:.1f}" for part in (data.test, data.validation)]

    census = cs.Census(random_state=0)
    bare = cs.Census(n_resamples=0)
    without = seconds(lambda: bare.fit(population, x), repeats)
    taken = seconds(lambda: census.fit(population, x), repeats)
    rows = [["census without stability", f"{without:.2f}", "", "", ""], ["census", f"{taken:.2f}", "", "", ""]]
    for width in ("1x",) if options.quick else ("1x", "2x", "4x"):
        took = seconds(lambda width=width: cs.assemble(census, width), repeats)
        network = cs.assemble(census, width)
        rows.append([f"assembly {width}, least squares", f"{took:.2f}", f"{taken + took:.2f}", *scores(network)])
    rows.append(["ensemble of the members", "", "", *scores(cs.Ensemble(population))])
    lines = table(("what", "seconds", "with the census", "test, %", "validation, %"), rows)
    print("\n".join(lines))
    if options.out:
        options.out.write_text("\n".join([f"`{command(parser, options)}`, median", "", *lines, ""]))


if __name__ == "__main__":
    main()
