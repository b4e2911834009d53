"""Which networks behave alike: Zhao's experiment (2019) again, families of networks found, and what it costs.

    OMP_NUM_THREADS=1 python benchmarks/comparison.py --data mnist.npz --parts source families speed --out FILE.md
    OMP_NUM_THREADS=1 python benchmarks/comparison.py --data cifar10_15k.npz --parts source --out OTHER.md

- source: six networks of two architectures, compared at each layer before training and after 1 to 10, 20 and 30
  epochs, and their layers with each other, by the Rand index (as published) and the adjusted one.
- families: thirty networks of five families, and whether groups of them are found, by layer and measure.
- speed: the adjusted Rand indices of 200 models, and a whole comparison of 200 models at four layers.
- ``--out FILE.md`` keeps all rows in FILE.json and plots in FILE-*.svg beside; parts that are not run stay as they are.
- ``--quick`` tells in half a minute whether all this runs; its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from compared_networks import ARCHITECTURES, FAMILIES, GROUPS, LAYERS, SHUFFLED, family_populations, source_networks
from harness import Part, arguments, measured, met, run, table
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score

import consilience as cs
from consilience.comparison import (
    MEASURES,
    ModelComparison,
    as_distance,
    clustering_similarities,
    group_models,
    representation_similarities,
)
from consilience.report.style import INK, MUTED, WIDTH, styled
from consilience.signals.record import record
from consilience.training.fresh import initialise

Row = dict[str, Any]
EPOCHS = (*range(11), 20, 30)
BOTH = ("rand", "adjusted_rand")
NAMES = {
    "rand": "Rand index", "adjusted_rand": "adjusted Rand index", "cka": "CKA", "unbiased_cka": "unbiased CKA",
    "adjusted_mutual_information": "adjusted mutual information", "procrustes": "Procrustes distance", "rsa": "RSA",
    "variation_of_information": "variation of information",
}  # fmt: skip
DRAWN = ("adjusted_rand", "unbiased_cka", "rsa")
SIX = "".join(group.architecture * group.n for group in GROUPS)  # the architecture of each network
MARK, SECONDS = 0.8, 5.0


# Zhao's experiment


def source(options: argparse.Namespace) -> Iterator[Row]:
    data, train, epochs = read(options), part(options), (0, 1) if options.quick else EPOCHS
    few = data.validation.take(torch.arange(min(options.samples, len(data.validation))))
    for seed in range(options.seeds):
        began = time.process_time()
        found = source_networks(data, train, epochs, seed)
        seconds = time.process_time() - began
        for epoch, members in found.items():
            began = time.process_time()
            comparison = ModelComparison(layers=LAYERS, consensus=None, n_null=0).fit(members, few.x, few.y)
            labels = np.concatenate([comparison.labels_[layer] for layer in LAYERS])  # layer by layer, (4 · 6, n)
            yield {
                "seed": seed, "epoch": epoch, "training": round(seconds, 1),
                "seconds": round(time.process_time() - began, 1),
                **{measure: clustering_similarities(labels, measure).round(4).tolist() for measure in BOTH},
                "purity": [comparison.purity_[layer].round(4).tolist() for layer in LAYERS],
                "train": [cs.evaluate(member, train).accuracy for member in members],
                "validation": [cs.evaluate(member, data.validation).accuracy for member in members],
            }  # fmt: skip


def blocks(row: Row, measure: str) -> NDArray[np.float64]:
    """Return a row's values (layer, layer, model, model)."""
    m = len(SIX)
    return np.array(row[measure]).reshape(len(LAYERS), m, len(LAYERS), m).transpose(0, 2, 1, 3)


def pairs(architecture: str) -> tuple[list[int], list[int], list[int]]:
    """Return, of the pairs of networks in `combinations`, those within A, within B and between them."""
    kinds = ["".join(sorted(architecture[i] + architecture[j])) for i, j in combinations(range(len(architecture)), 2)]
    within_a, within_b, between = ([k for k, kind in enumerate(kinds) if kind == name] for name in ("AA", "BB", "AB"))
    return within_a, within_b, between


def gap(values: NDArray[np.float64], architecture: str) -> float:
    """Mean value (of all pairs, as in `combinations`) within architectures less the mean between them."""
    within_a, within_b, between = pairs(architecture)
    return float(values[within_a + within_b].mean() - values[between].mean())


def better_splits(values: NDArray[np.float64]) -> int:
    """How many of the other ways to take two networks out of the six leave a larger gap."""
    own, n = gap(values, SIX), len(SIX)
    splits = ["".join("B" if k in two else "A" for k in range(n)) for two in combinations(range(n), SIX.count("B"))]
    return sum(gap(values, split) > own + 1e-12 for split in splits)


def closeness(rows: Sequence[Row], measure: str, epoch: int, layer: int) -> tuple[float, float, float, float, float]:
    """Return mean values within A, within B, between, their gap, and the number of better splits, over seeds."""
    found = []
    for row in rows:
        if row["epoch"] == epoch:
            values = blocks(row, measure)[layer, layer][np.triu_indices(len(SIX), 1)]
            means = [float(values[own].mean()) for own in pairs(SIX)]
            found.append((*means, gap(values, SIX), better_splits(values)))
    a, b, between, apart, splits = np.mean(found, axis=0).tolist()
    return a, b, between, apart, splits


def between_layers(rows: Sequence[Row], measure: str, epoch: int, architecture: str = "AB") -> NDArray[np.float64]:
    """Return mean values (layer, layer) within the networks of these architectures, over seeds."""
    own = [k for k, name in enumerate(SIX) if name in architecture]
    found = [blocks(row, measure)[:, :, own, own].mean(-1) for row in rows if row["epoch"] == epoch]
    mean: NDArray[np.float64] = np.mean(found, axis=0)
    return mean


def layer_pairs(values: NDArray[np.float64]) -> dict[str, float]:
    """Return what the source compares, from values (layer, layer)."""
    return {
        "conv1–conv2": float(values[0, 1]), "fc1–fc2": float(values[2, 3]),
        "conv–fc": float(values[:2, 2:].mean()), "conv2–fc1": float(values[1, 2]),
    }  # fmt: skip


def source_text(rows: Sequence[Row]) -> Iterator[str]:
    epochs, n_seeds = list(dict.fromkeys(row["epoch"] for row in rows)), len({row["seed"] for row in rows})
    told = "; ".join(
        f"{name}: {kernel}×{kernel} kernels, padding {padding}, widths {'-'.join(map(str, widths))}"
        for name, (kernel, padding, widths) in ARCHITECTURES.items()
    )
    yield (
        f"Two convolutions and two dense layers before the readout, four networks A, two B ({told}); SGD, batches of "
        f"64, {epochs[-1]} epochs where the source has 100. Rates, momenta and accuracies are below. All are compared "
        f"on images that none was trained on, with 10 clusters of 50 principal components, by what layers return "
        f"before relu. {sets(n_seeds)}; epoch 0 is before training. Unrelated clusterings into ten equal clusters have "
        "a Rand index of 0.82, and an adjusted one of 0."
    )
    yield from ["", *networks(rows, epochs), "", "### Findings, beside the published", ""]
    for measure in BOTH:
        yield from [*findings(rows, measure, epochs[1], epochs[-1]), ""]
    yield from (differences(rows, measure, epochs[1], epochs[-1]) for measure in BOTH)
    yield from (layer_findings(rows, measure, epochs[-1]) for measure in BOTH)
    for measure in BOTH:
        yield from ["", f"### Networks over epochs, {NAMES[measure]}", ""]
        yield (
            "Within A, within B, between, and how many of the other 14 ways to take two networks out of the six "
            "separate better."
        )
        lines = []
        for epoch in epochs:
            cells = [closeness(rows, measure, epoch, k) for k in range(len(LAYERS))]
            lines.append([str(epoch), *(f"{a:.3f}, {b:.3f} / {c:.3f} ({splits:.3g})" for a, b, c, _, splits in cells)])
        yield from ["", *table(("epoch", *LAYERS), lines)]
    yield from ["", "### Layers over epochs", "", "Within a network, means over all of them.", ""]
    heads, lines = ["epoch"], []
    for epoch in epochs:
        lines.append([str(epoch)])
        for measure in BOTH:
            found = layer_pairs(between_layers(rows, measure, epoch))
            lines[-1] += [f"{value:.3f}" for value in found.values()]
            heads += [f"{NAMES[measure]}: {name}" for name in found] if epoch == epochs[0] else []
    yield from table(heads, lines)
    yield ""


def networks(rows: Sequence[Row], epochs: Sequence[int]) -> list[str]:
    """A table of the networks and what they have learnt."""
    told = [group for group in GROUPS for _ in range(group.n)]
    heads = ["network", "rate", "momentum", *(
        f"{name}, epoch {epoch}" for name in ("train", "validation") for epoch in (epochs[1], epochs[-1])
    ), "purity, fc2"]  # fmt: skip
    lines = []
    for k, group in enumerate(told):
        scores = [
            statistics.fmean(row[name][k] for row in rows if row["epoch"] == epoch)
            for name in ("train", "validation") for epoch in (epochs[1], epochs[-1])
        ]  # fmt: skip
        purity = statistics.fmean(row["purity"][-1][k] for row in rows if row["epoch"] == epochs[-1])
        label = f"{group.architecture}{k - SIX.index(group.architecture) + 1}"
        lines.append([label, f"{group.learning_rate:g}", f"{group.momentum:g}", *map(percent, scores), percent(purity)])
    return table(heads, lines)


def findings(rows: Sequence[Row], measure: str, first: int, last: int) -> list[str]:
    """A table of what is published about architectures, and what is found here."""
    when = [[closeness(rows, measure, epoch, k) for k in range(len(LAYERS))] for epoch in (0, first, last)]
    share = SIX.count("B") * (SIX.count("B") - 1) / sum(n * (n - 1) for n in map(SIX.count, "AB"))
    within = [[(1 - share) * a + share * b for a, b, *_ in each] for each in when]
    between, gaps = ([[layer[i] for layer in each] for each in when] for i in (2, 3))
    lines = []
    for what, values, sign in (
        ("equal architectures come closer", within, 1), ("different ones move apart", between, -1),
        ("the gap, within less between, grows", gaps, 1),
    ):  # fmt: skip
        right = sum(sign * (b - a) > 0 for a, b in zip(*values[1:], strict=True))
        changes = [f"({o:.3f}) {a:.3f} → {b:.3f}" for o, a, b in zip(*values, strict=True)]
        lines.append([what, *changes, verdict(right, len(LAYERS))])
    splits = [each[4] for each in when[-1]]
    best = verdict(splits.count(0), len(LAYERS))
    lines.append(["of the other 14 splits, those with a larger gap: 0", *(f"{each:g}" for each in splits), best])
    return table((f"{NAMES[measure]}, (before training) epoch {first} → {last}", *LAYERS, "verdict"), lines)


def differences(rows: Sequence[Row], measure: str, first: int, last: int) -> str:
    """Say in words where networks do otherwise than the source says."""
    before, early, late = (
        [closeness(rows, measure, epoch, k) for k in range(len(LAYERS))] for epoch in (0, first, last)
    )

    def where(right: Sequence[bool]) -> str:
        return ", ".join(name for name, each in zip(LAYERS, right, strict=True) if each) or "no layer"

    return (
        f"- {NAMES[measure]}: different architectures come closer, too, at "
        f"{where([b[2] > a[2] for a, b in zip(early, late, strict=True)])}; the gap is not larger than before training "
        f"at {where([b[3] <= a[3] for a, b in zip(before, late, strict=True)])}; no other split has a larger gap "
        f"before training at {where([each[4] == 0 for each in before])}, at epoch {last} at "
        f"{where([each[4] == 0 for each in late])}"
    )


def layer_findings(rows: Sequence[Row], measure: str, last: int) -> str:
    """What is published about layers, and what is found here."""
    found = layer_pairs(between_layers(rows, measure, last))
    before = layer_pairs(between_layers(rows, measure, 0))
    alike = ("conv1–conv2", "fc1–fc2")
    right = sum(found[name] > found["conv–fc"] for name in alike)
    above = [name for name in alike if found[name] > found["conv2–fc1"]]
    told = ", ".join(f"{name} {value:.3f} ({before[name]:.3f})" for name, value in found.items())
    return (
        f"- {NAMES[measure]}: the two convolutional layers cluster alike, and so do the two dense ones: at epoch "
        f"{last} (before training) {told}: {verdict(right, 2)}; above their neighbours of different kinds, conv2–fc1: "
        f"{' and '.join(above) or 'neither'}"
    )


def verdict(right: int, n: int) -> str:
    if right == n:
        return "as published"
    return f"**in part: {right} of {n}**" if right else "**not as published**"


@styled
def models_plot(rows: Sequence[Row], measure: str) -> Figure:
    """Networks × networks, layers down and epochs across; of the first set of networks."""
    rows = [row for row in rows if row["seed"] == 0]
    panels = [[blocks(row, measure)[k, k] for row in rows] for k in range(len(LAYERS))]
    figure = multiples(panels, LAYERS, [f"epoch {row['epoch']}" for row in rows], NAMES[measure])
    for axes in figure.axes[:-1]:  # the last is the colour bar
        for line in (axes.axhline, axes.axvline):
            line(SIX.index("B") - 0.5, color="white", linewidth=1.2)
    return figure


@styled
def layers_plot(rows: Sequence[Row], measure: str) -> Figure:
    """Layers × layers within the networks of an architecture, epochs across; means over all sets."""
    epochs = list(dict.fromkeys(row["epoch"] for row in rows))
    panels = [[between_layers(rows, measure, epoch, own) for epoch in epochs] for own in ARCHITECTURES]
    return multiples(panels, list(ARCHITECTURES), [f"epoch {epoch}" for epoch in epochs], NAMES[measure])


def multiples(
    panels: Sequence[Sequence[NDArray[np.float64]]], down: Sequence[str], across: Sequence[str], what: str
) -> Figure:
    """Small square matrices on one colour scale, which leaves out their diagonals."""
    side = (WIDTH - 1.2) / len(across)
    figure = Figure(figsize=(WIDTH, 0.35 + side * len(down)), layout="constrained")
    grid = figure.subplots(len(down), len(across), squeeze=False)
    apart = [np.where(np.eye(len(each)), np.nan, each) for row in panels for each in row]
    low, high = float(np.nanmin(apart)), float(np.nanmax(apart))
    colours = mpl.colormaps["viridis"].with_extremes(bad="white")
    for axes, each in zip(grid.flat, apart, strict=True):
        image = axes.imshow(each, vmin=low, vmax=high, cmap=colours, interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.grid(False)
        axes.spines[:].set_visible(False)
    for axes, name in zip(grid[:, 0], down, strict=True):
        axes.set_ylabel(name, color=INK)
    for axes, name in zip(grid[0], across, strict=True):
        axes.set_title(name.removeprefix("epoch ") if axes is not grid[0, 0] else name, color=MUTED, fontsize=8)
    figure.colorbar(image, ax=grid, shrink=0.9, aspect=30, pad=0.01).set_label(what, fontsize=7)
    return figure


# Families


def families(options: argparse.Namespace) -> Iterator[Row]:
    data, train = read(options), part(options)
    few = data.validation.take(torch.arange(min(options.samples, len(data.validation))))
    epochs, n_members = (1, 2) if options.quick else (options.epochs, 6)
    for seed in range(options.seeds):
        models, truth = list[torch.nn.Module](), list[int]()
        began = time.process_time()
        for k, (family, population) in enumerate(family_populations(data, train, epochs, n_members, seed)):
            members = [member.module for member in population]
            models, truth = models + members, truth + [k] * len(members)
            scores = [[cs.evaluate(member, each).accuracy for member in members] for each in (train, data.validation)]
            seconds = round(time.process_time() - began, 1)
            yield {"seed": seed, "family": family, "scores": [*map(statistics.fmean, scores)], "seconds": seconds}
        comparison = ModelComparison(consensus=None, n_null=0).fit(models, few.x, few.y)
        for place, modules in comparison.places_.items():
            rows = [record(model, [name], few.x, "flatten")[name] for model, name in zip(models, modules, strict=True)]
            for measure in MEASURES:
                began = time.process_time()
                if MEASURES[measure].of == "clusterings":
                    values = clustering_similarities(comparison.labels_[place], measure)
                else:
                    values = representation_similarities(rows, measure)
                seconds = time.process_time() - began
                yield {
                    "seed": seed, "place": place, "measure": measure, "seconds": round(seconds, 2),
                    **found_families(as_distance(values, measure), np.array(truth)),
                    "values": values.round(3).tolist(), "truth": truth,
                }  # fmt: skip


def found_families(distances: NDArray[np.float64], truth: NDArray[np.int64]) -> Row:
    """Say how well distances tell families, with and without the one on shuffled labels."""
    groups, sound = group_models(distances), truth != FAMILIES.index(SHUFFLED)
    nearest = truth[(distances + np.diag(np.full(len(truth), np.inf))).argmin(1)]
    return {
        "found": adjusted_rand_score(truth, groups.labels), "silhouette": float(np.nan_to_num(groups.silhouette)),
        "sound": adjusted_rand_score(truth[sound], group_models(distances[np.ix_(sound, sound)]).labels),
        "nearest": float((nearest == truth).mean()), "groups": groups.labels.tolist(),
    }  # fmt: skip


def by_place(rows: Sequence[Row], what: str = "found") -> dict[tuple[str, str], float]:
    """(measure, place) → mean over seeds."""
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if "place" in row:
            found.setdefault((row["measure"], row["place"]), []).append(row[what])
    return {key: statistics.fmean(values) for key, values in found.items()}


def best_of(found: Mapping[tuple[str, str], float], measures: Sequence[str]) -> tuple[float, str, str]:
    """Return the largest value, its measure and its place."""
    (measure, place), value = max(
        ((key, value) for key, value in found.items() if key[0] in measures), key=lambda item: item[1]
    )
    return value, measure, place


def champions(rows: Sequence[Row]) -> dict[str, tuple[float, str, str]]:
    """The best adjusted Rand index with the families, its measure and its place, by kind of measure."""
    found = by_place(rows)
    ours = [name for name in MEASURES if MEASURES[name].of == "clusterings"]
    kinds = {"clusterings": ours, "CKA": ("cka", "unbiased_cka"), "any measure": list(MEASURES)}
    return {kind: best_of(found, measures) for kind, measures in kinds.items()}


def families_text(rows: Sequence[Row]) -> Iterator[str]:
    scores: dict[str, list[list[float]]] = {}
    for row in rows:
        if "family" in row:
            scores.setdefault(row["family"], []).append(row["scores"])
    n_seeds, n_members = len({row["seed"] for row in rows}), next(len(r["truth"]) for r in rows if "truth" in r) // 5
    yield (
        f"{n_members} networks each of five families, three hidden layers each (64 units, or 3×3 convolutions of "
        "8, 16 and 32 channels with pooling), Adam at 2e-3, batches of 64; one order of shuffled labels for all. "
        f"{sets(n_seeds)}. Accuracies, training and validation: "
        + "; ".join(f"{name} {' / '.join(percent(v) for v in np.mean(each, 0))}" for name, each in scores.items())
        + ". (On shuffled labels, training accuracy is that on true ones.)"
    )
    yield ""
    yield (
        "Adjusted Rand index between the families and the groups found, the number of which is chosen by the "
        "silhouette; the same without the networks on shuffled labels; and the share of networks whose nearest one is "
        "of their own family."
    )
    found, sound, nearest = (by_place(rows, name) for name in ("found", "sound", "nearest"))
    places, seconds = list(dict.fromkeys(place for _, place in found)), by_place(rows, "seconds")
    lines = []
    for measure in MEASURES:
        own = [(measure, place) for place in places]
        cells = [f"{found[each]:.3f} / {sound[each]:.3f} / {nearest[each]:.2f}" for each in own]
        lines.append([NAMES[measure], *cells, f"{sum(seconds[each] for each in own):.1f}"])
    yield from ["", *table(("measure", *places, "seconds"), lines), ""]
    for name, (value, measure, place) in champions(rows).items():
        yield f"- best by {name}: {value:.3f}, {NAMES[measure]} at {place}: {composition(rows, measure, place)}"
    _, measure, place = best_of(by_place(rows, "silhouette"), ("adjusted_rand",))
    yield (
        f"- where nobody knows the families: adjusted Rand index at the place with the best silhouette, {place}: "
        f"{found[measure, place]:.3f}"
    )
    yield ""


def composition(rows: Sequence[Row], measure: str, place: str) -> str:
    """The groups of the first set of networks, in words."""
    row = next(r for r in rows if r["seed"] == 0 and (r.get("measure"), r.get("place")) == (measure, place))
    groups: dict[int, dict[str, int]] = {}
    for family, group in zip(row["truth"], row["groups"], strict=True):
        own = groups.setdefault(group, {})
        own[FAMILIES[family]] = own.get(FAMILIES[family], 0) + 1
    return "; ".join(" + ".join(f"{n} {name}" for name, n in own.items()) for own in groups.values())


@styled
def families_plot(rows: Sequence[Row], measure: str) -> Figure:
    """Networks × networks of the first set, layers across; families are in the order of the table."""
    drawn = [row for row in rows if row.get("measure") == measure and row["seed"] == 0]
    panels = [[np.array(row["values"]) for row in drawn]]
    figure = multiples(panels, [""], [row["place"] for row in drawn], NAMES[measure])
    figure.set_size_inches(WIDTH, 3.0)
    truth = drawn[0]["truth"]
    borders = [k for k in range(1, len(truth)) if truth[k] != truth[k - 1]]
    for axes in figure.axes[:-1]:
        for border in borders:
            axes.axhline(border - 0.5, color="white", linewidth=0.8)
            axes.axvline(border - 0.5, color="white", linewidth=0.8)
    middle = [statistics.fmean(k for k, own in enumerate(truth) if own == family) for family in range(len(FAMILIES))]
    figure.axes[0].set_yticks(middle, FAMILIES, fontsize=7)
    return figure


# Speed


def speed(options: argparse.Namespace) -> Iterator[Row]:
    n_models, n_samples = (4, 100) if options.quick else (200, 5000)
    labels = np.random.default_rng(0).integers(10, size=(20 if options.quick else 200, 1000))
    for measure in (name for name in MEASURES if MEASURES[name].of == "clusterings"):
        _, seconds, megabytes = measured(partial(clustering_similarities, labels, measure))
        what = f"{NAMES[measure]} of 200 × 200 clusterings, 1000 samples in 10 clusters"
        mark = SECONDS if measure == "adjusted_rand" else None
        yield {"what": what, "seconds": seconds, "megabytes": megabytes, "mark": mark}
    x, net = read(options).train.x[:n_samples], cs.MLP(read(options).train.x[0].numel(), [64] * 4, 10)
    models = [initialise(net, seed) for seed in range(n_models)]
    _, seconds, megabytes = measured(lambda: ModelComparison().fit(models, x))
    what = f"a whole comparison: {n_models} MLPs at random, 4 layers of 64, {len(x)} samples"
    yield {"what": what, "seconds": seconds, "megabytes": megabytes, "mark": None}


def speed_text(rows: Sequence[Row]) -> Iterator[str]:
    yield (
        "Processor time on one thread, and memory added at the peak. A whole comparison records, reduces and clusters "
        "at every layer, then has all adjusted Rand indices, 20 nulls, groups and the consensus."
    )
    yield ""
    lines = [
        [row["what"], f"{row['seconds']:.2f}", f"{row['megabytes']:.0f}", f"{row['mark']:g} s" if row["mark"] else ""]
        for row in rows
    ]
    yield from [*table(("what", "seconds", "MB", "mark"), lines), ""]


def read(options: argparse.Namespace) -> cs.Data:
    return cs.load_data(str(options.data), random_state=0)


def part(options: argparse.Namespace) -> cs.Dataset:
    """The training samples that are used."""
    return read(options).train.take(torch.arange(200 if options.quick else options.train))


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def sets(n: int) -> str:
    return f"Means over {n} sets of networks" if n > 1 else "One set of networks"


def marks(rows: Mapping[str, Sequence[Row]]) -> Iterator[str]:
    if any("place" in row for row in rows.get("families", ())):
        best = champions(rows["families"])
        theirs = best["CKA"][0]
        for kind in ("clusterings", "any measure"):
            value, measure, place = best[kind]
            yield (
                f"- families: adjusted Rand index of the groups by the best layer and measure, {kind}: {value:.3f} "
                f"({NAMES[measure]}, {place}), mark {MARK} and no worse than the best CKA's {theirs:.3f}: "
                f"{met(value >= MARK and value >= theirs)}"
            )
    for row in rows.get("speed", ()):
        if row["mark"]:
            fine = row["seconds"] <= row["mark"]
            yield f"- {row['what']}: {row['seconds']:.2f} s, mark {row['mark']:g} s: {met(fine)}"


# All of it

CAPTIONS = {
    "models": "Similarity of the six networks (four A, then two B), layers down, epochs across; first set of networks.",
    "layers": "Similarity of the four layers (conv1, conv2, fc1, fc2) within networks A and B, epochs across.",
}
PARTS = {
    "source": Part(
        "Zhao's experiment: two architectures over epochs",
        source,
        source_text,
        plots={
            f"{what}-{measure.replace('_', '-')}": partial(draw, measure=measure)
            for what, draw in (("models", models_plot), ("layers", layers_plot))
            for measure in BOTH
        },
        captions={f"{what}-{m.replace('_', '-')}": text for what, text in CAPTIONS.items() for m in BOTH},
    ),
    "families": Part(
        "Thirty networks of five families",
        families,
        families_text,
        plots={measure.replace("_", "-"): partial(families_plot, measure=measure) for measure in DRAWN},
        captions={m.replace("_", "-"): f"Similarity of the thirty networks by {NAMES[m]}." for m in DRAWN},
    ),
    "speed": Part("Speed", speed, speed_text),
}


def without_lists(row: Row) -> str:
    return str({key: value for key, value in row.items() if not isinstance(value, list)})


def main() -> None:
    parser = arguments(__doc__, data=True, seeds=1)
    parser.add_argument("--train", type=int, default=5000, help="training samples")
    parser.add_argument("--samples", type=int, default=1000, help="validation samples that networks are compared on")
    parser.add_argument("--epochs", type=int, default=10, help="of families")
    run("Comparison", PARTS, parser, introduction=marks, line=without_lists)


if __name__ == "__main__":
    main()
