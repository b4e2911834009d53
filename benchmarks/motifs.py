"""Motifs: are planted ones found, and is anything found where there are none?

    python benchmarks/motifs.py [--parts planted null digits] [--seeds N] [--snr S …] [--out docs/results/motifs.md]

- ``planted``: synthetic members with three planted motifs, at several ratios of signal to noise.
- ``null``: members that share the units of the first layer, wired at random; and members that share nothing.
- ``digits``: 16 members as in the demo, trained, and with their initial values drawn anew; what the members lose
  without each motif, beside as many random units.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from harness import Part, arguments, run, table, timed
from torch import Tensor
from torch.nn.functional import normalize

import consilience as cs
from consilience.census import LayerCensus
from consilience.motifs import Motifs, ablate
from consilience.studies import demo
from consilience.training.fresh import initialise

N_INPUTS, WIDTHS = 24, (24, 16)
N_MOTIFS, N_READ, N_WRITTEN = 3, 3, 2  # units of each motif that are read, and that read them
OWN = 0.25  # length of what is added to the direction of a unit that members share, a unit vector
Orders = list[tuple[Tensor, Tensor]]


def planted(seed: int, snr: float, *, n_members: int = 8, shared: bool = True) -> tuple[cs.Population, Tensor, Orders]:
    """Members 24-24-16-3 with motifs, inputs, and which planted unit each unit of a member is.

    The first nine units of the first layer are common to all members (``shared``). In each of three motifs, two units
    of the second layer read three of them with weights ±1, not both with the same ones: they would be one unit twice.
    All weights have noise beside; ``snr`` is the ratio of the standard deviations of what the planted weights of a unit
    add, and of what the noise adds, for inputs of variance 1.
    0 plants nothing: all units of the second layer are wired at random.
    """
    g = torch.Generator().manual_seed(seed)
    common = normalize(torch.randn(N_MOTIFS * N_READ, N_INPUTS, generator=g))
    signs = torch.randn(N_MOTIFS, N_WRITTEN, N_READ, generator=g).sign()
    while bool((signs[:, 0] == signs[:, 1]).all(1).any()):
        signs = torch.randn(N_MOTIFS, N_WRITTEN, N_READ, generator=g).sign()
    nets, orders = list[torch.nn.Module](), Orders()
    for _ in range(n_members):
        first = normalize(torch.randn(WIDTHS[0], N_INPUTS, generator=g))
        if shared:
            first[: len(common)] = common + OWN * normalize(torch.randn(common.shape, generator=g))
        second = torch.randn(WIDTHS[1], WIDTHS[0], generator=g)
        for m in range(N_MOTIFS if snr > 0 else 0):
            for t in range(N_WRITTEN):
                row = second[m * N_WRITTEN + t]
                row *= math.sqrt(N_READ / WIDTHS[0]) / snr
                row[m * N_READ : (m + 1) * N_READ] += signs[m, t]
        order = torch.randperm(WIDTHS[0], generator=g), torch.randperm(WIDTHS[1], generator=g)
        net = cs.MLP(N_INPUTS, WIDTHS, 3)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.zero_()
            net.hidden[0].weight.copy_(first[order[0]])
            net.hidden[1].weight.copy_(second[order[1]][:, order[0]])
            net.readout.weight.copy_(torch.randn(3, WIDTHS[1], generator=g))
        nets.append(net)
        orders.append(order)
    x = torch.randn(600, N_INPUTS, generator=g)
    return cs.Population.from_modules(nets, x[:8]), x, orders


def identities(layer: LayerCensus, orders: Orders, number: int) -> list[int]:
    """The planted unit that most units of each cluster are."""
    named = np.array([int(orders[k][number][i]) for k, i in zip(layer.member, layer.index, strict=True)])
    return [int(np.bincount(named[layer.labels_ == c]).argmax()) for c in range(layer.n_clusters_)]


def found_in(population: cs.Population, x: Tensor, seed: int) -> tuple[cs.Census, Motifs]:
    census = cs.Census(n_resamples=0, random_state=seed).fit(population, x)
    return census, Motifs(n_resamples=0, random_state=seed).fit(census)


def score(census: cs.Census, motifs: Motifs, orders: Orders) -> tuple[int, int, float]:
    """Planted motifs that one motif holds, and holds with nothing else; the share of edges that are not planted."""
    named = [identities(layer, orders, number) for number, layer in enumerate(census.layers_.values())]
    names = list(census.layers_)
    whole = exact = 0
    held = [[{named[i][c] for c in m.clusters.get(name, ())} for i, name in enumerate(names)] for m in motifs.motifs_]
    for m in range(N_MOTIFS):
        read = set(range(m * N_READ, (m + 1) * N_READ))
        written = set(range(m * N_WRITTEN, (m + 1) * N_WRITTEN))
        whole += any(read <= own[0] and written <= own[1] for own in held)
        exact += any(read == own[0] and written == own[1] for own in held)
    ends = [(named[0][edge.source[1]], named[1][edge.target[1]]) for edge in motifs.recurring_]
    wrong = [b >= N_MOTIFS * N_READ or c >= N_MOTIFS * N_WRITTEN or b // N_READ != c // N_WRITTEN for b, c in ends]
    return whole, exact, float(np.mean(wrong)) if wrong else 0.0


def planted_rows(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    n = 1 if options.quick else options.seeds
    for snr in options.snr[-2:] if options.quick else options.snr:
        scores = []
        for seed in range(n):
            population, x, orders = planted(seed, snr)
            scores.append(score(*found_in(population, x, seed), orders))
        whole, exact, wrong = np.mean(scores, 0)
        yield {"snr": snr, "draws": n, "found": whole / N_MOTIFS, "exact": exact / N_MOTIFS, "wrong": wrong}


def planted_text(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        [f"{r['snr']:.1f}", str(r["draws"]), *(f"{100 * r[name]:.1f} %" for name in ("found", "exact", "wrong"))]
        for r in rows
    ]
    head = ["signal to noise", "populations", "motifs found", "found with nothing else", "recurring edges not planted"]
    return [
        "8 members 24-24-16-3; each of three motifs is three units that two units of the next layer read. Nine units "
        "of the first layer are common to the members up to a quarter of their length.",
        "",
        *table(head, lines),
        "",
    ]


def null_rows(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    n = 1 if options.quick else options.seeds
    for kind, shared in (("common units, wired at random", True), ("nothing in common", False)):
        found = [found_in(*planted(seed, 0.0, shared=shared)[:2], seed)[1] for seed in range(n)]
        edges = [len(motifs.recurring_) for motifs in found]
        yield {"kind": kind, "draws": n, "any": float(np.mean(np.array(edges) > 0)), "edges": float(np.mean(edges))}


def null_text(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = [[r["kind"], str(r["draws"]), f"{100 * r['any']:.0f} %", f"{r['edges']:.2f}"] for r in rows]
    return [*table(["members", "populations", "with any motif", "recurring edges, mean"], lines), ""]


def digits_rows(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    data = cs.load_data("digits", random_state=0)
    epochs, n = (2, 4) if options.quick else (demo.EPOCHS, 16)
    training = cs.Training(epochs=epochs, batch_size=demo.BATCH_SIZE, learning_rate=demo.LEARNING_RATE)
    trained = cs.train_population(cs.MLP(64, demo.HIDDEN, 10), data.train, n, training=training, random_state=0)
    fresh = cs.Population.from_modules([initialise(m.module, k) for k, m in enumerate(trained)], trained.example_input)
    for kind, population in (("trained", trained), ("untrained", fresh)):
        census = cs.Census(random_state=0).fit(population, data.calibration.x)
        motifs, seconds = timed(lambda census=census: Motifs(random_state=0).fit(census))
        lost = ablate(motifs.motifs_, census, data.test, n_random=5 if options.quick else 20)
        yield {
            "kind": kind,
            "tested": len(motifs.edges_),
            "recurring": len(motifs.recurring_),
            "seconds": seconds,
            "motifs": [
                {
                    "clusters": motif.n_clusters,
                    "parent": motif.parent,
                    "frequency": motif.frequency,
                    "stability": motif.stability,
                    "units": own.units,
                    "loss": float(np.nanmean(own.loss)),
                    "random": float(np.nanmean(own.mean)),
                    "p": own.p,
                    "hardest": own.hardest,
                    "of_hardest": [float(own.loss[own.hardest]), float(own.mean[own.hardest])],
                }
                for motif, own in zip(motifs.motifs_, lost, strict=True)
            ],
        }


def digits_text(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = []
    for row in rows:
        said = f"{row['kind']}: of {row['tested']} edges {row['recurring']} recur ({row['seconds']:.0f} s)."
        lines += [said, ""]
        cells = [
            [
                str(number),
                "" if m["parent"] is None else str(m["parent"]),
                str(m["clusters"]),
                f"{m['units']:.1f}",
                f"{m['frequency']:.2f}",
                f"{m['stability']:.2f}",
                f"{100 * m['loss']:.1f} / {100 * m['random']:.1f}",
                f"{m['p']:.2f}",
                f"{m['hardest']}: {100 * m['of_hardest'][0]:.1f} / {100 * m['of_hardest'][1]:.1f}",
            ]
            for number, m in enumerate(row["motifs"])
        ]
        head = ["motif", "half of", "clusters", "units off", "frequency", "stability"]
        head += ["accuracy lost / random units (points)", "p", "class that loses most"]
        lines += [*table(head, cells), ""] if cells else []
    return lines


def introduction(rows: dict[str, Any]) -> list[str]:
    found = [100 * row["found"] for row in rows.get("planted", []) if row["snr"] == 2.0]
    chance = [f"{100 * row['any']:.0f} % ({row['kind']})" for row in rows.get("null", [])]
    said = [f"At a signal-to-noise ratio of 2, {share:.1f} % of the planted motifs are found." for share in found]
    return [" ".join([*said, f"Of populations without motifs, {' and '.join(chance)} have any." if chance else ""])]


def main() -> None:
    parts = {
        "planted": Part("Planted motifs", planted_rows, planted_text),
        "null": Part("No motifs", null_rows, null_text),
        "digits": Part("Digits", digits_rows, digits_text),
    }
    parser = arguments(__doc__, seeds=100)
    parser.add_argument("--snr", nargs="+", type=float, default=[1.0, 1.5, 2.0, 3.0], help="signal-to-noise ratios")
    run("Motifs", parts, parser, introduction=introduction)


if __name__ == "__main__":
    main()
