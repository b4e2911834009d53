"""Regression ensembles as one network, against the nearest member, distilled members and distilled fresh networks.

    OMP_NUM_THREADS=1 python benchmarks/regression.py [--seeds 3] [--out FILE.md]

For each table, activation and kind of widths: eight members, trained apart; assemblies of their census, and the
ensemble distilled (500 steps, the same rows). Errors are mean squares to the ensemble's outputs on rows that nothing
has seen, as shares of the ensemble's variance, in thousandths: geometric means over populations. Nothing is chosen on
these rows.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import torch
from harness import arguments, command, measured, met, parse, publish, table
from sklearn.datasets import load_diabetes
from torch import Tensor, nn
from torch.nn import functional

import consilience as cs
from consilience import baselines
from consilience.baselines.distil import nearest_member

N_MEMBERS = 8
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "silu": nn.SiLU}
WIDTHS = {"24-16": [(24, 16)], "mixed": [(16, 12), (24, 16), (20, 20), (32, 16)]}  # of one member after the other
CORRECTIONS = ("least-squares", "second-order", "distill")


@dataclass(frozen=True)
class Table:
    """Rows of one regression."""

    x: Tensor  # (n, d) that members are trained on
    y: Tensor  # (n, o), standardized
    calibration: Tensor  # inputs without targets
    fresh: Tensor
    steps: int  # of training


@dataclass(frozen=True)
class Row:
    """The error of one method in one population, and its processor time (the census counts)."""

    table: str
    activation: str
    widths: str
    seed: int
    method: str
    error: float
    seconds: float


def surrogate(seed: int) -> Table:
    """A function of eight inputs with three outputs, in noise; a quarter of the calibration rows has no targets."""
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(3000, 8, generator=g)
    y = torch.stack(
        [
            torch.sin(3 * x[:, 0] * x[:, 1]) + x[:, 2] ** 2,
            torch.exp(-x[:, 3]) * torch.cos(4 * x[:, 4]),
            (x[:, 5] - x[:, 6]).abs() + 0.3 * x[:, 7],
        ],
        dim=1,
    )
    y = y + 0.05 * torch.randn(y.shape, generator=g)
    y = (y - y.mean(0)) / y.std(0)
    return Table(x[:1500], y[:1500], x[:2000], x[2000:], 1500)


def diabetes(seed: int) -> Table:
    """Scikit-learn's diabetes: 442 patients, 10 measurements, one target; calibrated on the members' rows."""
    data = load_diabetes()
    order = torch.randperm(len(data.data), generator=torch.Generator().manual_seed(seed))
    x = torch.tensor(data.data, dtype=torch.float32)[order] / data.data.std()
    y = torch.tensor(data.target, dtype=torch.float32)[order, None]
    y = (y - y.mean()) / y.std()
    return Table(x[:300], y[:300], x[:300], x[300:], 300)


TABLES = {"surrogate": surrogate, "diabetes": diabetes}


def member(rows: Table, widths: Sequence[int], activation: str, seed: int, steps: int) -> nn.Module:
    """One perceptron, trained by Adam at a falling rate."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sizes = [rows.x.shape[1], *widths]
        layers = [m for pair in zip(sizes, widths, strict=False) for m in (nn.Linear(*pair), ACTIVATIONS[activation]())]
        net = nn.Sequential(*layers, nn.Linear(widths[-1], rows.y.shape[1]))
        optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            batch = torch.randint(len(rows.x), (64,))
            optimizer.zero_grad()
            functional.mse_loss(net(rows.x[batch]), rows.y[batch]).backward()
            optimizer.step()
            schedule.step()
    return net


def rows_of(name: str, activation: str, kind: str, seed: int, quick: bool) -> Iterator[Row]:
    """Train one population and score everything."""
    rows, n_members = TABLES[name](seed), 4 if quick else N_MEMBERS
    each, steps = WIDTHS[kind], 50 if quick else rows.steps
    modules = [member(rows, each[k % len(each)], activation, 100 * seed + k, steps) for k in range(n_members)]
    population = cs.Population.from_modules(modules, rows.x[:16], task="regression")
    more = {"steps": 20} if quick else {}

    def row(method: str, network: nn.Module, seconds: float = 0) -> Row:
        error = cs.evaluate(network, rows.fresh, reference=population).error
        return Row(name, activation, kind, seed, method, error, seconds)

    yield row("nearest member", modules[nearest_member(population, rows.calibration)])
    for start in ("member", "fresh"):
        make = partial(baselines.distil, population, rows.calibration, start=start, **more)
        network, seconds, _ = measured(make)
        yield row("distilled member" if start == "member" else "distilled fresh network", network, seconds)
    census, before, _ = measured(partial(cs.Census(n_resamples=0).fit, population, rows.calibration))
    for width, correction in product(("1x", "2x"), CORRECTIONS):
        options = more if correction == "distill" else {}
        network, seconds, _ = measured(partial(cs.assemble, census, width, correction=correction, **options))
        yield row(f"{width}, {correction}", network, before + seconds)


def main() -> None:
    parser = arguments(__doc__, seeds=3)
    options = parse(parser)
    kinds = list(product(TABLES, ACTIVATIONS, WIDTHS))[: 1 if options.quick else None]
    rows: list[Row] = []
    for name, activation, kind in kinds:
        for seed in range(1 if options.quick else options.seeds):
            print(f"{name}, {activation}, {kind}, seed {seed}", flush=True)
            rows += rows_of(name, activation, kind, seed, options.quick)
    methods = list(dict.fromkeys(row.method for row in rows))
    lines, ahead = [], dict.fromkeys(CORRECTIONS, 0)
    halved = dict.fromkeys(CORRECTIONS, 0)
    for key in kinds:
        own = [row for row in rows if (row.table, row.activation, row.widths) == key]
        errors = {m: statistics.geometric_mean(row.error for row in own if row.method == m) for m in methods}
        lines.append([*key, *(f"{1000 * error:.2g}" for error in errors.values())])
        for correction in CORRECTIONS:
            rival = min(errors["nearest member"], errors["distilled member"])
            ahead[correction] += errors[f"1x, {correction}"] <= rival
            halved[correction] += errors[f"2x, {correction}"] <= errors[f"1x, {correction}"] / 2
    seconds = {m: statistics.median(row.seconds for row in rows if row.method == m) for m in methods}
    lines.append(["processor seconds", "", "", *(f"{value:.1f}" if value else "" for value in seconds.values())])
    text = table(["table", "activation", "widths", *methods], lines, 3)
    text += ["", "## Marks", ""]
    for correction in CORRECTIONS:
        text += [
            f"- 1x, {correction}: at most the error of the nearest member and of that member distilled, in "
            f"{ahead[correction]} of {len(kinds)} rows: {met(ahead[correction] == len(kinds))}",
            f"- 2x, {correction}: at most half of the error at 1x, in {halved[correction]} of {len(kinds)} rows: "
            f"{met(halved[correction] == len(kinds))}",
        ]
    introduction = (
        "# Regression ensembles as one network\n\n"
        f"`{command(parser, options)}`\n\n"
        "Mean squared error to the ensemble's outputs on fresh rows, as a share of the ensemble's variance, in "
        f"thousandths; geometric means over {options.seeds} populations of {N_MEMBERS} members. Seconds are medians; "
        "those of assemblies count the census."
    )
    publish(options, introduction, text, rows)


if __name__ == "__main__":
    main()
