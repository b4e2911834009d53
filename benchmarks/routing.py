"""Routing of a wide assembly: accuracy against active products and time, beside static widths and random experts.

- ``accuracy``: population A of `populations` (8 × 784-128-64-10). The assembly at 4x is routed to shares of its units;
  beside it are static assemblies at 1x, 2x and 4x. "second-order" and "least-squares" see the 5000 calibration inputs;
  "distill" rows take gradient steps on the inputs of the training data, without labels, static and routed alike.
- ``time``: seconds of a batch of 256 on one thread, of networks with random weights of 784-2048-2048-10.

``python benchmarks/routing.py --data mnist.npz --out docs/results/routing.md``
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from harness import Part, arguments, mean_with_error, met, run
from harness import table as markdown
from populations import CACHE, obtain
from torch import Tensor, nn

import consilience as cs
from consilience.nets import Routed

SIZES = (784, 2048, 2048, 10)
BATCH = 256
GAIN, LOSS, TIME = 0.2, 0.15, 0.5  # the marks: points above static 1x, points below 4x, share of the time of 4x


def products(network: nn.Module) -> int:
    """Multiplications by weights for one sample."""
    if isinstance(network, Routed):
        return network.n_products
    return sum(p.numel() for p in network.parameters() if p.dim() > 1)


def accuracy(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    settings = [
        (experts, active, grouping, "least-squares")
        for experts, active, grouping in (
            (16, 0.25, "co-activation"),
            (16, 0.5, "co-activation"),
            (64, 0.125, "co-activation"),
            (64, 0.25, "co-activation"),
            (64, 0.25, "random"),
            (64, 0.5, "co-activation"),
            (64, 0.5, "random"),
        )
    ]
    settings += [(64, 0.25, "co-activation", "distill")]
    if options.quick:
        settings = [(8, 0.25, "co-activation", "least-squares"), (8, 0.25, "random", "distill")]
    steps = 10 if options.quick else options.steps
    for seed in range(options.seeds):
        data = cs.load_data(options.data, random_state=seed, n_calibration=5000)
        population = obtain("A", data, seed, options.cache, options.quick)
        census = cs.Census(n_resamples=0, random_state=seed).fit(population, data.calibration.x)
        assembler = cs.Assembler(census)
        batches = data.train.x[torch.randperm(len(data.train.x), generator=torch.Generator().manual_seed(seed))]
        taught = {"correction": "distill", "steps": steps, "batches": list(batches.split(128)), "learning_rate": 1e-3}

        def row(name: str, network: Callable[[Tensor], Tensor], n: int, seed: int = seed, data: Any = data) -> Any:
            scores = {part: 100 * cs.evaluate(network, getattr(data, part)).quality for part in ("test", "validation")}
            return {"network": name, "seed": seed, "products": n, **scores}

        yield row("ensemble", cs.Ensemble(population), sum(products(m.module) for m in population))
        for width in ("1x", "2x", "4x"):
            wide = assembler.assemble(width, correction="second-order")
            yield row(f"static {width}", wide, products(wide))
        static = assembler.assemble("1x", **taught)
        yield row("static 1x, distilled", static, products(static))
        for experts, active, grouping, correction in settings:
            more = taught if correction == "distill" else {}
            routed = cs.route(wide, census, active, n_experts=experts, grouping=grouping, random_state=seed, **more)
            distilled = ", distilled" if correction == "distill" else ""
            kind = "random experts" if grouping == "random" else "experts"
            name = f"4x, {100 * active:g} % of {experts} {kind}{distilled}"
            yield row(name, routed, products(routed))


def accuracy_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    names = list(dict.fromkeys(row["network"] for row in rows))

    def values(name: str, part: str = "test") -> list[float]:
        return [row[part] for row in rows if row["network"] == name]

    def difference(name: str, other: str) -> str:
        pairs = zip(values(name), values(other), strict=False)
        return mean_with_error([a - b for a, b in pairs], "+")

    lines = []
    for name in names:
        n = next(row["products"] for row in rows if row["network"] == name)
        cells = [mean_with_error(values(name, part)) for part in ("test", "validation")]
        lines.append([name, f"{n:,}", *cells, difference(name, "static 1x"), difference(name, "static 4x")])
    head = ["network", "products a sample", "test (%)", "validation (%)", "test − static 1x", "test − static 4x"]
    text = [*markdown(head, lines), ""]
    for name in names:
        if name.startswith("4x, 25 %") and len(values("static 4x")) == len(values(name)):
            gain, loss = (
                statistics.mean(values(name)) - statistics.mean(values(other)) for other in ("static 1x", "static 4x")
            )
            marks = f"static 1x + {GAIN}: {met(gain >= GAIN)}; within {LOSS} of 4x: {met(loss >= -LOSS)}"
            text.append(f"- {name}: {marks}.")
    return [*text, ""]


def seconds(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    torch.manual_seed(0)
    n_inputs, first, second, n_outputs = SIZES
    networks: dict[str, nn.Module] = {"static 4x": cs.MLP(n_inputs, [first, second], n_outputs)}
    networks["static 1x"] = cs.MLP(n_inputs, [first // 4, second // 4], n_outputs)
    for experts in (16, 64):
        for share in (0.125, 0.25, 0.5):
            active = [round(share * experts)] * 2
            networks[f"{100 * share:g} % of {experts} experts"] = Routed(
                n_inputs, [first, second], n_outputs, experts=[experts] * 2, active=active
            )
    for n in (1, BATCH):
        x = torch.randn(n, n_inputs)
        times: dict[str, list[float]] = {name: [] for name in networks}
        with torch.inference_mode():
            for _ in range(3 if options.quick else 40):  # in turns, so that what else runs meets all alike
                for name, network in networks.items():
                    start = time.perf_counter()
                    network(x)
                    times[name].append(time.perf_counter() - start)
        for name, network in networks.items():
            each = {"median": statistics.median(times[name]), "least": min(times[name])}
            yield {"network": name, "batch": n, "products": products(network), **each}


def seconds_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    wide = {row["batch"]: row for row in rows if row["network"] == "static 4x"}
    lines = [
        [
            row["network"],
            str(row["batch"]),
            f"{row['products']:,}",
            f"{row['products'] / wide[row['batch']]['products']:.2f}",
            f"{1000 * row['median']:.2f}",
            f"{row['median'] / wide[row['batch']]['median']:.2f}",
            f"{row['least'] / wide[row['batch']]['least']:.2f}",
        ]
        for row in rows
    ]
    head = ["network", "batch", "products a sample", "share of 4x", "ms, median", "share of 4x", "shortest: share"]
    text = ["Networks take turns, on one thread.", "", *markdown(head, lines), ""]
    for row in rows:
        if row["network"].startswith("25 %") and row["batch"] == BATCH:
            share = row["median"] / wide[BATCH]["median"]
            text.append(f"- {row['network']}: at most {TIME} of the time of 4x at batch {BATCH}: {met(share <= TIME)}.")
    return [*text, ""]


PARTS = {
    "time": Part("Time of 784-2048-2048-10", seconds, seconds_table),
    "accuracy": Part("Accuracy on population A", accuracy, accuracy_table),
}


def main() -> None:
    parser = arguments(__doc__, data=True, seeds=3)
    parser.add_argument("--cache", type=Path, default=CACHE, help="directory of trained populations")
    parser.add_argument("--steps", type=int, default=2000, help="gradient steps of distilled networks")
    run("Routing", PARTS, parser)


if __name__ == "__main__":
    main()
