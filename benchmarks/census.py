"""Speed of a census and of assemblies, one thread: N = 32 members 784-64-32-10, ward, activation distance.

    OMP_NUM_THREADS=1 python benchmarks/census.py [--data FILE.npz] [--repeats 5]

Without ``--data`` the inputs are random and the members hardly trained, which changes the time of no step but the
number of dead units; the mark is a census in at most 3 s.
"""

from __future__ import annotations

import torch
from harness import arguments, command, parse, table, timed

import consilience as cs

N_MEMBERS, WIDTHS, N_CALIBRATION = 32, (64, 32), 5000


def main() -> None:
    parser = arguments(__doc__, data=False)
    parser.add_argument("--repeats", type=int, default=5)
    options = parse(parser)
    n_members, n = (3, 300) if options.quick else (N_MEMBERS, N_CALIBRATION)
    if options.data:
        train = cs.load_data(options.data, n_calibration=n).train.take(range(n if options.quick else 20000))
    else:
        x = torch.rand(n, 1, 28, 28, generator=torch.Generator().manual_seed(0))
        train = cs.Dataset(x, torch.arange(n) % 10, torch.arange(n))
    net, training = cs.MLP(train.x[0].numel(), WIDTHS, 10), cs.Training(epochs=1)
    population = cs.train_population(net, train, n_members, training=training, random_state=0)
    x, repeats = train.x[:n], 1 if options.quick else options.repeats
    bare = cs.Census(clusterer="ward", distance="activation", n_resamples=0)
    seconds = {"census without stability": timed(lambda: bare.fit(population, x), repeats)[1]}
    census = cs.Census(clusterer="ward", distance="activation")
    seconds["census with stability from 10 resamples"] = timed(lambda: census.fit(population, x), repeats)[1]
    for width in ("1x",) if options.quick else ("1x", "2x", "4x"):
        seconds[f"assembly {width}, least squares"] = timed(lambda width=width: cs.assemble(census, width), repeats)[1]
    lines = table(("what", "seconds"), ([what, f"{value:.2f}"] for what, value in seconds.items()))
    print("\n".join(lines))
    if options.out:
        options.out.write_text("\n".join([f"`{command(parser, options)}`, median", "", *lines, ""]))


if __name__ == "__main__":
    main()
