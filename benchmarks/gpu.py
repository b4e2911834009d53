"""Does another device compute what the CPU computes, and how fast? At most 5 minutes.

    python benchmarks/gpu.py [--device cuda] [--quick]

- ``same``: the largest difference from the CPU, as a share of the spread: outputs of members after one epoch of SGD
  (Adam's first steps are signs of gradients, which rounding turns), responses of a convolutional network, outputs of a
  distilled assembly, and in double precision the losses of students of a recovery (log10).
- ``train``: members of 784-32-32-10 side by side for some steps, against one after the other with a plain optimizer,
  and against their matrix products alone: one batched product for each of the three passes of each layer.
- ``use``: seconds of a census, of an assembly at twice the width by least squares, and of 500 steps of distillation.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from harness import Part, arguments, run, table
from torch import Tensor, nn

import consilience as cs
from consilience.recovery.fit import fit_precisely
from consilience.signals.responses import Responses
from consilience.training import Run, fit_members

SIZES = (784, 32, 32, 10)
BATCH = 128


def seconds(work: Callable[[], object], device: str) -> float:
    """Seconds until the device has done some work."""
    waits = getattr(torch, device.partition(":")[0], None)
    synchronize: Callable[[], None] = getattr(waits, "synchronize", lambda: None)
    synchronize()
    began = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - began


def samples(n: int) -> cs.Dataset:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, SIZES[0], generator=g)
    labels = (x @ torch.randn(SIZES[0], SIZES[-1], generator=g)).argmax(1)
    return cs.Dataset(x, labels, torch.arange(n))


# --- the same numbers


@dataclass(frozen=True)
class Difference:
    what: str
    difference: float
    tolerance: float


def differences(options: argparse.Namespace) -> Iterator[Difference]:
    n = 200 if options.quick else 5000
    data = samples(n)

    def apart(what: str, tolerance: float, compute: Callable[[], Tensor]) -> Difference:
        here = compute()
        with cs.device(options.device):
            there = compute()
        return Difference(what, float((there - here).abs().max() / here.std()), tolerance)

    def members() -> cs.Population:
        training = cs.Training(epochs=1, batch_size=BATCH, optimizer="sgd", learning_rate=0.05)
        return cs.train_population(cs.MLP(SIZES[0], [*SIZES[1:-1]], SIZES[-1]), data, 4, training=training)

    population = members()
    yield apart("training", 1e-3, lambda: members().logits(data.x[:100]))
    net = cs.ConvNet(3, [16, 32], 10, batch_norm=True)
    images = torch.randn(20 if options.quick else 1000, 3, 16, 16)
    networks = cs.Population.from_modules([net], images[:4]).networks
    last = networks[0].architecture.free[-1].name
    yield apart("responses", 1e-4, lambda: Responses(networks, images).read(last)[0])
    census = cs.Census(n_resamples=0).fit(population, data.x)
    steps = 4 if options.quick else 200

    def distilled() -> Tensor:
        with torch.no_grad():
            return cs.assemble(census, "1x", correction="distill", steps=steps)(data.x[:100])

    yield apart("distillation", 0.05, distilled)
    if not options.device.startswith("mps"):  # without float64
        x, students = torch.randn(400, 3), [cs.MLP(3, [6], 1, activation="tanh") for _ in range(4)]
        y = torch.tanh(x @ torch.randn(3, 2)).sum(1, keepdim=True)
        found: list[Tensor] = []
        for device in ("cpu", options.device):
            with cs.device(device):
                found.append(fit_precisely(students, x, y, max_iterations=5 if options.quick else 30).losses)
        decades = (found[1].clamp(min=1e-24).log10() - found[0].clamp(min=1e-24).log10()).abs().max()
        yield Difference("losses of recovery, decades", float(decades), 1.0)


def difference_lines(rows: list[Difference]) -> list[str]:
    cells = [
        [
            row.what,
            f"{row.difference:.1e}",
            f"{row.tolerance:.0e}",
            "yes" if row.difference <= row.tolerance else "**no**",
        ]
        for row in rows
    ]
    return [*table(("what", "difference", "tolerance", "within"), cells), ""]


# --- training


@dataclass(frozen=True)
class Trained:
    device: str
    members: int
    together: float  # ms a step of all members
    loop: float  # ms a step of one member, times the members
    products: float  # ms of the matrix products of a step of all members


def training(options: argparse.Namespace) -> Iterator[Trained]:
    n, steps = (4, 2) if options.quick else (256, 100)
    device = options.device
    data = samples(BATCH * (2 if options.quick else 50))
    x, y = data.x.to(device), data.y.to(device)
    nets = [
        nn.Sequential(*[part for i, o in pairwise(SIZES) for part in (nn.Linear(i, o), nn.ReLU())][:-1]).to(device)
        for _ in range(n)
    ]

    def together() -> None:
        fit_members(nets, x, y, Run(cs.Training(batch_size=BATCH), max_steps=steps))

    def loop() -> None:
        for net in nets[: min(n, 8)]:
            optimizer = torch.optim.Adam(net.parameters())
            for step in range(steps):
                rows = slice(BATCH * step % len(x), BATCH * step % len(x) + BATCH)
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
                optimizer.step()

    operands = [
        (torch.randn(n, BATCH, i, device=device), torch.randn(n, i, o, device=device)) for i, o in pairwise(SIZES)
    ]

    def products() -> None:
        for _ in range(steps):
            for inputs, weights in operands:
                outputs = inputs @ weights
                inputs.mT @ outputs
                if weights is not operands[0][1]:  # no gradient of the data
                    outputs @ weights.mT

    together()
    took = [seconds(work, device) for work in (together, loop, products)]
    yield Trained(device, n, *(1000 * each / steps for each in (took[0], took[1] * n / min(n, 8), took[2])))


def training_lines(rows: list[Trained]) -> list[str]:
    cells = []
    for row in rows:
        times = (f"{ms:.2f}" for ms in (row.together, row.loop, row.products))
        shares = f"{row.loop / row.together:.1f}", f"{100 * row.products / row.together:.0f} %"
        cells.append([row.device, str(row.members), *times, *shares])
    heads = ("device", "members", "ms a step", "in a loop", "products alone", "times as fast", "of the limit")
    return [*table(heads, cells), ""]


# --- census, assembly, distillation


@dataclass(frozen=True)
class Used:
    device: str
    census: float  # s
    assembly: float
    distillation: float


def uses(options: argparse.Namespace) -> Iterator[Used]:
    data, n = samples(200 if options.quick else 5000), 4 if options.quick else 64
    net = cs.MLP(SIZES[0], [8] if options.quick else [*SIZES[1:-1]], SIZES[-1])
    population = cs.train_population(net, data, n, training=cs.Training(epochs=1))
    for device in dict.fromkeys(("cpu", options.device)):
        with cs.device(device):
            census = cs.Census()
            fitted = seconds(lambda census=census: census.fit(population, data.x), device)
            distil = {"correction": "distill", "steps": 4 if options.quick else 500}
            built, distilled = (
                seconds(lambda census=census, how=how: cs.assemble(census, "2x", **how), device) for how in ({}, distil)
            )
        yield Used(device, fitted, built, distilled)


def use_lines(rows: list[Used]) -> list[str]:
    cells = [[row.device, *(f"{s:.1f}" for s in (row.census, row.assembly, row.distillation))] for row in rows]
    return [*table(("device", "census, s", "assembly, s", "with distillation, s"), cells), ""]


PARTS = {
    "same": Part("The same numbers", differences, difference_lines, row=Difference),
    "train": Part("Training", training, training_lines, row=Trained),
    "use": Part("Census, assembly, distillation", uses, use_lines, row=Used),
}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--device", default="cuda")
    run("Devices", PARTS, parser)


if __name__ == "__main__":
    main()
