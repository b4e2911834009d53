"""Do members share units, more than by chance? Frequency, stability and recurrence, each beside its chance level.

    python benchmarks/significance.py [--data FILE.npz] [--cache DIR] [--parts digits images level power again]
        [--out docs/results/significance.md]

- ``digits``: 16 members as in the demo: trained; trained on shuffled labels; untrained; with trained layers whose units
  are turned by a random orthogonal matrix; untrained, each reading inputs of its own.
- ``images``: the same of 16 members of population B of `populations.py`, on a file of images.
- ``level``, ``power``: how often clusters of random linear units are called significant at q = 0.05.
- ``again``: does a number of a cluster say whether other members have it? A census of half of the members, and its rank
  correlation with the cosine of a cluster's centroid and the nearest centroid of a census of the other half.
"""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Part, arguments, run, timed
from harness import table as markdown
from numpy.typing import NDArray
from populations import CACHE, RECIPES, obtain
from scipy.stats import spearmanr

import consilience as cs
from consilience.clustering.clusterers import ward
from consilience.clustering.distances import Points
from consilience.clustering.significance import RADIUS, false_discovery_rates, recurrence, rotation
from consilience.studies import demo
from consilience.training.fresh import initialise

N_MEMBERS = 16
Floats = NDArray[np.float64]


def shuffled(data: cs.Dataset, seed: int) -> cs.Dataset:
    """The samples with their labels in another order."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    return replace(data, y=data.y[order])


def turned(net: cs.MLP, seed: int) -> cs.MLP:
    """The network with the units of each hidden layer turned: hyperplanes ``Q [w; b]``."""
    net, source = copy.deepcopy(net), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in net.hidden:
            q = rotation(layer.out_features, source).to(layer.weight.dtype)
            layer.weight.copy_(q @ layer.weight)
            layer.bias.copy_(q @ layer.bias)
    return net


def with_own_inputs(nets: Sequence[cs.MLP], seed: int) -> list[cs.MLP]:
    """The networks, of which each reads an equal share of the inputs that vary, and no other."""
    shares = torch.randperm(nets[0].hidden[0].in_features, generator=torch.Generator().manual_seed(seed))
    nets = [copy.deepcopy(net) for net in nets]
    with torch.no_grad():
        for net, own in zip(nets, shares.chunk(len(nets)), strict=True):
            kept = torch.zeros(len(shares))
            kept[own] = 1
            net.hidden[0].weight.mul_(kept)
    return nets


def kinds(trained: cs.Population, on_shuffled: cs.Population, seed: int) -> Iterator[tuple[str, cs.Population]]:
    """Populations from the one with the most in common to the one with the least."""
    x = trained.example_input
    fresh = [initialise(member.module, 1000 * seed + k) for k, member in enumerate(trained)]
    mixed = [turned(member.module, 1000 * seed + k) for k, member in enumerate(trained)]
    yield "trained", trained
    yield "shuffled labels", on_shuffled
    yield "untrained", cs.Population.from_modules(fresh, x)
    yield "trained, turned", cs.Population.from_modules(mixed, x)
    yield "inputs of their own", cs.Population.from_modules(with_own_inputs(fresh, seed), x)


def rows_of(populations: Iterator[tuple[str, cs.Population]], x: torch.Tensor, seed: int) -> Iterator[dict[str, Any]]:
    for kind, population in populations:
        census = cs.Census(random_state=seed).fit(population, x)
        for name, layer in census.layers_.items():
            layers, seconds = timed(partial(census.significance, [name]))
            measured = layers[name]
            found, by_chance = layer.clusters, measured.turned
            yield {
                "members": kind,
                "layer": name,
                "units": int(layer.alive.sum()),
                "frequency": [float(found.frequency.mean()), float(by_chance.frequency.mean())],
                "stability": [float(np.nanmean(found.stability)), float(np.nanmean(by_chance.stability))],
                "share": [measured.excess.share, measured.excess.chance],
                "interval": list(measured.excess.interval),
                "z": measured.excess.z,
                "similarity": [float(measured.similarity.mean()), float(measured.chance_similarity.mean())],
                "significant": measured.n_significant,
                "clusters": len(measured.q),
                "seconds": seconds,
            }


def digits(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    data = cs.load_data("digits", random_state=0)
    epochs = 2 if options.quick else demo.EPOCHS
    training = cs.Training(epochs=epochs, batch_size=demo.BATCH_SIZE, learning_rate=demo.LEARNING_RATE)
    net, n = cs.MLP(64, demo.HIDDEN, 10), 4 if options.quick else N_MEMBERS
    trained, other = (
        cs.train_population(net, samples, n, training=training, random_state=0)
        for samples in (data.train, shuffled(data.train, 0))
    )
    yield from rows_of(kinds(trained, other, 0), data.calibration.x, 0)


def images(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    if options.data is None:
        return
    data = cs.load_data(options.data, random_state=0, n_calibration=5000)
    members = obtain("B", data, 0, options.cache, options.quick).members[:N_MEMBERS]
    trained = cs.Population.from_modules([member.module for member in members], data.train.x[:16])
    training = replace(RECIPES["B"].training, epochs=1) if options.quick else RECIPES["B"].training
    other = cs.train_population(
        trained.members[0].module, shuffled(data.train, 0), len(trained), training=training, random_state=0
    )
    yield from rows_of(kinds(trained, other, 0), data.calibration.x, 0)


def layers_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    def pair(row: dict[str, Any], name: str) -> str:
        return f"{row[name][0]:.2f} / {row[name][1]:.2f}"

    head = ["members", "layer", "frequency", "stability", f"recurrence (cosine > {RADIUS})", "excess", "z", "cosine"]
    lines = [
        [
            row["members"],
            row["layer"],
            pair(row, "frequency"),
            pair(row, "stability"),
            f"{row['share'][0]:.3f} / {row['share'][1]:.3f}",
            f"{row['interval'][0]:+.3f} … {row['interval'][1]:+.3f}",
            f"{row['z']:.1f}",
            pair(row, "similarity"),
            f"{row['significant']} of {row['clusters']}",
            f"{row['seconds']:.1f}",
        ]
        for row in rows
    ]
    return [
        "Each number / by chance, for members that are turned at random.",
        "",
        *markdown([*head, "significant", "seconds"], lines, n_labels=2),
        "",
    ]


def units(n: int, width: int, n_inputs: int, g: np.random.Generator, common: int, share: float, noise: float):
    """Responses of random linear units to correlated inputs with a mean, their members, and which are common ones."""
    spread = np.exp(-4 * np.arange(n_inputs) / n_inputs)
    inputs = (g.normal(size=(200, n_inputs)) + g.normal(size=n_inputs)) * spread
    shared, weights, planted = normalized(g.normal(size=(common, n_inputs))), [], []
    for _ in range(n):
        w = normalized(g.normal(size=(width, n_inputs)))
        chosen = np.flatnonzero(g.random(common) < share)
        w[chosen] = normalized(shared[chosen] + noise * w[chosen])
        weights.append(w)
        planted.append(np.isin(np.arange(width), chosen))
    return np.concatenate(weights) @ inputs.T, np.repeat(np.arange(n), width), np.concatenate(planted)


def normalized(x: Floats) -> Floats:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def significant(points: Floats, member: NDArray[np.int64], seed: int) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Which of ward's clusters, twice as many as a member has units, are significant, and the cluster of each unit."""
    n = int(member.max()) + 1
    labels = ward(Points(normalized(points), False), None, 0).cut(2 * len(points) // n)
    p = recurrence(points, member, n, radius=RADIUS, n_rotations=100, random_state=seed, projective=False).p
    medians = [np.sort(p[labels == c])[(labels == c).sum() // 2] for c in range(labels.max() + 1)]
    return false_discovery_rates(np.array(medians)) <= 0.05, labels


def level(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    n_draws = 4 if options.quick else 200
    for kind in ("random functions", "common units, turned"):
        for n, width, n_inputs in ((4, 8, 12), (8, 16, 24)):
            shares = []
            for seed in range(n_draws):
                common = 0 if kind == "random functions" else width
                points, member, _ = units(n, width, n_inputs, np.random.default_rng(seed), common, 1.0, 0.1)
                if common:
                    for k in range(n):
                        q = rotation(width, torch.Generator().manual_seed(1000 * seed + k)).numpy()
                        points[member == k] = q @ points[member == k]
                shares.append(float(significant(points, member, seed)[0].mean()))
            error, any_at_all = np.std(shares) / math.sqrt(n_draws), float(np.mean(np.array(shares) > 0))
            yield {
                "members": kind,
                "n": n,
                "width": width,
                "draws": n_draws,
                "share": float(np.mean(shares)),
                "error": float(error),
                "any": any_at_all,
            }


def level_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        [
            r["members"],
            f"{r['n']} × {r['width']}",
            str(r["draws"]),
            f"{r['share']:.4f} ± {r['error']:.4f}",
            f"{r['any']:.3f}",
        ]
        for r in rows
    ]
    head = ["members with nothing in common", "members × units", "draws", "significant share", "draws with any"]
    return [*markdown(head, lines, n_labels=2), ""]


def power(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for n in (4, 8, 16):
        for share in (1.0, 0.5):
            for noise in (0.25, 0.5, 0.75):
                found, false = [], []
                for seed in range(1 if options.quick else 5):
                    points, member, planted = units(n, 32, 64, np.random.default_rng(seed), 16, share, noise)
                    called, labels = significant(points, member, seed)
                    common = np.array([planted[labels == c].mean() for c in range(len(called))])
                    found.append(float(called[common > 0.5].mean()) if (common > 0.5).any() else math.nan)
                    false.append(float(called[common == 0].mean()) if (common == 0).any() else math.nan)
                yield {
                    "n": n,
                    "share": share,
                    "noise": noise,
                    "found": float(np.nanmean(found)),
                    "false": float(np.nanmean(false)),
                }


def power_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        [str(r["n"]), f"{100 * r['share']:.0f} %", f"{r['noise']:.2f}", f"{r['found']:.2f}", f"{r['false']:.3f}"]
        for r in rows
    ]
    text = "16 of 32 units are common unit vectors plus noise of this length; 64 clusters."
    return [
        text,
        "",
        *markdown(
            ["members", "that have each", "noise", "clusters of them called significant", "of other clusters"], lines
        ),
        "",
    ]


def again(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    data = cs.load_data("digits", random_state=0)
    epochs = 2 if options.quick else demo.EPOCHS
    training = cs.Training(epochs=epochs, batch_size=demo.BATCH_SIZE, learning_rate=demo.LEARNING_RATE)
    n = 8 if options.quick else 2 * N_MEMBERS
    yield from halves(
        "digits",
        cs.train_population(cs.MLP(64, demo.HIDDEN, 10), data.train, n, training=training, random_state=0),
        data.calibration.x,
    )
    if options.data is not None:
        data = cs.load_data(options.data, random_state=0, n_calibration=5000)
        population = obtain("B", data, 0, options.cache, options.quick)
        yield from halves(Path(data.name).stem, population, data.calibration.x)


def halves(name: str, population: cs.Population, x: torch.Tensor) -> Iterator[dict[str, Any]]:
    modules, half = [member.module for member in population], len(population) // 2
    first, second = (
        cs.Census(random_state=0).fit(cs.Population.from_modules(part, population.example_input), x)
        for part in (modules[:half], modules[half:])
    )
    for layer_name, layer in first.layers_.items():
        measured = first.significance([layer_name])[layer_name]
        cosines = (centroids(first, layer_name) @ centroids(second, layer_name).T).max(1)
        numbers = {
            "frequency": layer.frequency_,
            "stability": np.nan_to_num(layer.stability_),
            "recurrence": measured.recurrence,
            "cosine": measured.similarity,
            "-p": -measured.p,
        }
        correlations = {key: float(spearmanr(value, cosines)[0]) for key, value in numbers.items()}
        yes = measured.q <= 0.05
        yield {
            "data": name,
            "layer": layer_name,
            **correlations,
            "significant": float(cosines[yes].mean()) if yes.any() else math.nan,
            "others": float(cosines[~yes].mean()) if (~yes).any() else math.nan,
        }


def centroids(census: cs.Census, name: str) -> Floats:
    """Mean directions of the units of clusters: (K, r)."""
    layer = census.layers_[name]
    z = normalized(census.responses_.units(name).double().numpy()[layer.alive])
    sums = np.zeros((layer.n_clusters_, z.shape[1]))
    np.add.at(sums, layer.labels_[layer.alive], z)
    return normalized(sums)


def again_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    names = ["frequency", "stability", "recurrence", "cosine", "-p"]
    lines = [
        [
            r["data"],
            r["layer"],
            *(f"{r[name]:+.2f}" for name in names),
            f"{r.get('significant', math.nan):.2f}",
            f"{r.get('others', math.nan):.2f}",
        ]
        for r in rows
    ]
    text = (
        "Rank correlation (Spearman) of a number of the clusters of one half of the members with the cosine of "
        "their centroids and the nearest centroid of the other half; and the mean of this cosine."
    )
    return [text, "", *markdown(["data", "layer", *names, "significant ones", "others"], lines, n_labels=2), ""]


PARTS = {
    "digits": Part("Digits", digits, layers_table),
    "images": Part("Images", images, layers_table),
    "level": Part("Level", level, level_table),
    "power": Part("Power", power, power_table),
    "again": Part("Found again in other members", again, again_table),
}


def introduction(rows: object) -> list[str]:
    return [
        "Members with nothing in common: untrained ones, ones whose units were turned, ones that read inputs of their "
        "own. Some of the last are called significant in hidden.1, where responses are nearly constant. A possible "
        "reason, not tested: only live units are turned, and to be alive they need the same sign. Members trained on "
        "shuffled labels of MNIST may suffer from the same: 304 of the 1024 units of hidden.0 are alive.",
    ]


def main() -> None:
    parser = arguments(__doc__, data=False)
    parser.add_argument("--cache", type=Path, default=CACHE, help="directory of trained populations")
    run("Significance of clusters", PARTS, parser, introduction=introduction)


if __name__ == "__main__":
    main()
