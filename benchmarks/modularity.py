"""Do networks split into parts, and can they be trained so that they do? Beside the published figures.

    OMP_NUM_THREADS=1 python benchmarks/modularity.py --data mnist.npz --parts mnist speed planted
    OMP_NUM_THREADS=1 python benchmarks/modularity.py --data cifar10_15k.npz --parts convnet

- mnist: 784-256⁴-10, plain, with dropout, L1, clusterable initial values and the eigenvalue regulariser, before and
  after pruning from 50 to 90 %: n-cut against three nulls (Filan et al. 2021).
- planted: matrices of 4 blocks in noise, clustered jointly and as published, separately (Golechha et al. 2025).
- convnet: conv16-fc64-64-64-10 without biases, with and without the cross-cluster loss, and with a hard mask.
- speed: seconds of one n-cut, of 50 nulls, of one step of the regulariser, and of the graph of a ResNet-18.
- ``--out FILE.md`` keeps all rows in FILE.json beside; parts that are not run stay as they are.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from harness import Part, arguments, resident, run, timed
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from torch import Tensor, nn

import consilience as cs
from consilience.data import Data
from consilience.errors import InputError
from consilience.modularity import (
    BlockMask,
    Clusterability,
    CrossClusterLoss,
    EigenvalueLoss,
    MagnitudePruning,
    Penalty,
    bipartite_clusters,
    clusterable_initialisation,
    contiguous,
    cross_modularity,
    effective_circuit,
    specialisation,
    unit_graph,
)
from consilience.modularity.cross import within_clusters
from consilience.modularity.graph import traced
from consilience.modularity.nulls import Null
from consilience.training import Callback, Run, Training, fit_members
from consilience.training.fresh import initialise
from consilience.units.architecture import TracedNetwork

Row = dict[str, Any]
NULLS: dict[Null, int] = {"permute": 50, "permute-nonzero": 20, "degree-preserving": 20}  # shuffled networks for each
# Filan et al. 2021, means over 5 runs: n-cut, its shuffled copies', z; before and after pruning.
PUBLISHED: dict[tuple[str, str], tuple[float, float | None, float | None]] = {
    ("initial values", "trained"): (10.295, None, None),
    ("plain", "trained"): (10.02, 10.17, -4.5),
    ("plain", "pruned"): (8.88, 9.18, -9.7),
    ("dropout", "pruned"): (8.35, 9.25, -24),
    ("L1", "trained"): (9.06, 6.51, 18),
    ("clusterable initial values", "trained"): (8.72, 10.07, -44),
    ("clusterable initial values", "pruned"): (5.75, 9.20, -92),
}
ORDERS = {"trained": 7, "pruned": 6}  # phase → seed of the order of samples
L1, DROPOUT, EIGENVALUES = 5e-5, 0.5, 0.1
K, WIDTH = 4, 64  # clusters and units of the convnet's dense layers
CROSS = 20.0  # λ of the cross-cluster loss
DENSE = ("fc1", "fc2", "fc3")


@dataclass(frozen=True)
class Lasso(Callback):
    """The sum of the absolute values of all weights."""

    weight: float

    def penalty(self, member: int, module_parameters: Mapping[str, Tensor]) -> Tensor:
        return self.weight * torch.stack([v.abs().sum() for v in module_parameters.values() if v.ndim >= 2]).sum()


# MNIST perceptrons


def mnist(options: argparse.Namespace) -> Iterator[Row]:
    data = read(options)
    example, n_inputs, hidden = data.train.x[:4], data.train.x[0].numel(), [16] * 2 if options.quick else [256] * 4
    plain, dropout = cs.MLP(n_inputs, hidden, 10), cs.MLP(n_inputs, hidden, 10, dropout=DROPOUT)
    eigen = Penalty(EigenvalueLoss(plain, example), EIGENVALUES)
    settings: dict[str, tuple[nn.Module, tuple[Callback, ...]]] = {
        "initial values": (plain, ()), "plain": (plain, ()), "dropout": (dropout, ()), "L1": (plain, (Lasso(L1),)),
        "clusterable initial values": (plain, ()), "eigenvalue regulariser": (plain, (eigen,)),
    }  # fmt: skip
    for name, (net, callbacks) in settings.items():
        members = [initialise(net, 100 + seed) for seed in range(options.seeds)]
        if name == "clusterable initial values":
            members = [clusterable_initialisation(m, example, random_state=k) for k, m in enumerate(members)]
        if name == "initial values":
            yield from scored(members, name, "trained", data, 0.0, options.quick)
            continue
        for phase, order in ORDERS.items():
            began = time.perf_counter()
            steps = options.epochs * -(-len(data.train) // 128)
            pruning = (MagnitudePruning(1, max(2, steps // 2)),) if phase == "pruned" else ()
            run = Run(Training(epochs=options.epochs), order, callbacks=(*callbacks, *pruning))
            found = fit_members(members, data.train.x, data.train.y, run)
            for member, state in zip(members, found.states, strict=True):
                member.load_state_dict(state)
            yield from scored(members, name, phase, data, (time.perf_counter() - began) / len(members), options.quick)


def scored(
    members: Sequence[nn.Module], name: str, phase: str, data: Data, seconds: float, quick: bool
) -> Iterator[Row]:
    for seed, member in enumerate(members):
        row: Row = {"setting": name, "phase": phase, "seed": seed, "seconds": round(seconds, 1)}
        row |= {
            "test": cs.evaluate(member, data.test).accuracy,
            "validation": cs.evaluate(member, data.validation).accuracy,
        }
        network = traced(member, data.train.x[:4])
        for null, n_null in dict.fromkeys(NULLS, 2).items() if quick else NULLS.items():
            try:
                found = Clusterability(null=null, n_null=n_null, random_state=seed).fit(network)
            except InputError:  # this null cannot be drawn: too few edges for their units
                row[null] = None
                continue
            row["n_cut"], row["removed"] = found.n_cut_, sum(map(len, found.removed_.values()))
            row[null] = [float(found.null_.mean()), float(found.null_.std(ddof=1)), found.z_]
        yield row


def write_mnist(rows: Sequence[Row]) -> Iterator[str]:
    yield (
        "Means over seeds, weights balanced. n-cut with 12 clusters; z by the published null (all weights of a matrix "
        "permuted), by the one that keeps zeros, and by the one that keeps every unit's degree (50, 20 and 20 shuffled "
        "networks; refused: too few edges for it). Published: own means over the 5 runs of Filan et al. (2021)."
    )
    yield ""
    yield (
        "| training | test | validation | n-cut | shuffled | z | z, zeros kept | z, degrees kept | without an edge | "
        "published n-cut, shuffled, z | seconds |"
    )
    yield "| --- | " + "---: | " * 10
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["setting"], row["phase"]), []).append(row)
    for (setting, phase), own in groups.items():
        known = PUBLISHED.get((setting, phase))
        told = "" if known is None else ", ".join("–" if value is None else f"{value:g}" for value in known)
        drawn = {null: [row[null] for row in own if row[null]] for null in NULLS}
        yield " | ".join([
            f"| {setting}{', pruned' if phase == 'pruned' else ''}",
            *(f"{100 * mean(own, name):.2f}" for name in ("test", "validation")), f"{mean(own, 'n_cut'):.2f}",
            f"{statistics.fmean(each[0] for each in drawn['permute']):.2f}",
            *(z_score([each[2] for each in drawn[null]], len(own)) for null in NULLS), f"{mean(own, 'removed'):.0f}",
            told, f"{mean(own, 'seconds'):.0f} |",
        ])  # fmt: skip


def z_score(values: Sequence[float], n_networks: int) -> str:
    """Write a mean z-score, and of how many networks it is, if the null could not be drawn for all of them."""
    if not values:
        return "refused"
    text = f"{statistics.fmean(values):+.1f}"
    return text if len(values) == n_networks else f"{text} ({len(values)} of {n_networks})"


# planted blocks


def separate_clusters(matrix: np.ndarray, n_clusters: int, random_state: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return clusters of the rows and of the columns, each found alone, as published (Golechha et al. 2025).

    Rows are clustered by the left, columns by the right singular vectors of ``D_U^{-1/2} |W| D_V^{-1/2}``. Cluster 1 of
    the rows has nothing to do with cluster 1 of the columns, so that C is arbitrary.
    """
    weights = np.abs(matrix)
    left, _, right = np.linalg.svd(weights / np.sqrt(weights.sum(1)[:, None] * weights.sum(0)), full_matrices=False)
    means = KMeans(n_clusters, n_init=10, random_state=random_state)
    return means.fit_predict(left[:, :n_clusters]), means.fit_predict(right[:n_clusters].T)


def planted(options: argparse.Namespace) -> Iterator[Row]:
    for n in (32,) if options.quick else (32, 64, 256):
        for outside in (0.0, 0.1, 0.2, 0.3, 0.5, 0.75):
            for seed in range(1 if options.quick else 10 if n < 256 else 3):
                g = np.random.default_rng(seed)
                rows, columns = g.permutation(contiguous(n, 4)), g.permutation(contiguous(n, 4))
                within, matrix = rows[:, None] == columns, g.normal(size=(n, n))
                matrix *= np.where(
                    within, np.sqrt((1 - outside) / (matrix**2 * within).sum()),
                    np.sqrt(outside / (matrix**2 * ~within).sum()),
                )  # fmt: skip
                row: Row = {"n": n, "outside": outside, "seed": seed}
                for method, clusters_of in (("joint", bipartite_clusters), ("separate", separate_clusters)):
                    own = clusters_of(matrix, 4)
                    shuffled = [g.permuted(matrix.ravel()).reshape(n, n) for _ in range(1 if options.quick else 5)]
                    null = [within_clusters(each, *clusters_of(each, 4)) for each in shuffled]
                    right = adjusted_rand_score(np.concatenate([rows, columns]), np.concatenate(own))
                    row[method] = [within_clusters(matrix, *own), right, statistics.fmean(null)]
                yield row


def write_planted(rows: Sequence[Row]) -> Iterator[str]:
    yield (
        "Square matrices with 4 blocks of Gaussian entries in random order, and a share of the squares outside of them "
        "(0.75 is pure noise). C of the clusters found, their adjusted Rand index with the planted ones (rows and "
        "columns together), the share of matrices in which they are exactly these, and C of shuffled matrices. "
        "Published for the separate method on planted blocks: C = 0.33 ± 0.30 where matched labels give 0.999."
    )
    yield ""
    yield (
        "| units a side | outside | joint: C | adjusted Rand | exact | shuffled C | separate: C | adjusted Rand | "
        "shuffled C |"
    )
    yield "| ---: | " + "---: | " * 8
    for n, outside in dict.fromkeys((row["n"], row["outside"]) for row in rows):
        own = [row for row in rows if (row["n"], row["outside"]) == (n, outside)]
        joint, separate = (
            [statistics.fmean(row[method][i] for row in own) for i in range(3)] for method in ("joint", "separate")
        )
        spread = statistics.pstdev(row["separate"][0] for row in own)
        exact = statistics.fmean(row["joint"][1] == 1 for row in own)
        yield (
            f"| {n} | {outside} | {joint[0]:.3f} | {joint[1]:.3f} | {exact:.2f} | {joint[2]:.3f} | "
            f"{separate[0]:.3f} ± {spread:.3f} | {separate[1]:.3f} | {separate[2]:.3f} |"
        )


# the convnet


class Net(nn.Module):
    """One convolution and three dense layers, without biases, as published."""

    def __init__(self, image: tuple[int, int, int], width: int = WIDTH) -> None:
        super().__init__()
        channels, rows, columns = image
        self.conv = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.fc1 = nn.Linear(16 * (rows // 4) * (columns // 4), width, bias=False)
        self.fc2 = nn.Linear(width, width, bias=False)
        self.fc3 = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, 10, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.max_pool2d(torch.relu(self.conv(x)), 4).flatten(1)
        for layer in (self.fc1, self.fc2, self.fc3):
            x = torch.relu(layer(x))
        return self.out(x)


def convnet(options: argparse.Namespace) -> Iterator[Row]:
    data = read(options)
    width = 12 if options.quick else WIDTH
    example, net = data.train.x[:4], Net(data.image_shape, width)
    clusters = {name: contiguous(width, K) for name in DENSE}
    settings: dict[str, tuple[Callback, ...]] = {
        "plain": (), "cross-cluster loss": (Penalty(CrossClusterLoss(clusters, net, example), CROSS),),
        "hard mask": (BlockMask(clusters, net, example),),
    }  # fmt: skip
    for name, callbacks in settings.items():
        members = [initialise(net, 200 + seed) for seed in range(options.seeds)]
        run = Run(Training(epochs=options.epochs), callbacks=callbacks)
        found = fit_members(members, data.train.x, data.train.y, run)
        for seed, (member, state) in enumerate(zip(members, found.states, strict=True)):
            member.load_state_dict(state)
            yield of_convnet(name, seed, traced(member, example), member, clusters, data, options)


def of_convnet(
    name: str, seed: int, network: TracedNetwork, module: nn.Module, clusters: Mapping[str, np.ndarray], data: Data,
    options: argparse.Namespace,
) -> Row:  # fmt: skip
    test, few = data.test, data.validation.take(range(10 if options.quick else options.circuit_samples))
    drawn: dict[str, int] = {"n_null": 2 if options.quick else 20, "random_state": seed}
    fixed = cross_modularity(network, clusters, **drawn)
    joint = [c for c in cross_modularity(network, "joint", K, **drawn) if c.read in DENSE and c.written in DENSE]
    gradients = cross_modularity(network, clusters, n_null=0, gradients_of=(data.train.x[:2000], data.train.y[:2000]))
    probe = specialisation(network, clusters, test.x, test.y)
    row: Row = {
        "setting": name, "seed": seed,
        "test": cs.evaluate(module, test).accuracy, "validation": cs.evaluate(module, data.validation).accuracy,
        "C": statistics.fmean(c.value for c in fixed), "C null": statistics.fmean(c.null_mean for c in fixed),
        "C joint": statistics.fmean(c.value for c in joint),
        "C joint null": statistics.fmean(c.null_mean for c in joint),
        "C gradients": statistics.fmean(c.value for c in gradients),
        "largest drop": float(np.nanmean(probe.drop.max(1))),  # of each class, by the cluster that matters most
        "best alone": float(np.nanmean(probe.alone.max(1))),
    }  # fmt: skip
    labels = range(1 if options.quick else 10)
    if seed < options.circuit_seeds:
        for criterion in ("class", "one-vs-rest"):
            own = [effective_circuit(network, few.x, few.y, label, criterion=criterion) for label in labels]
            row[criterion] = [
                statistics.fmean(c.n_left / c.n_weights for c in own), statistics.fmean(c.tpr for c in own),
                statistics.fmean(c.tnr for c in own),
            ]  # fmt: skip
    return row


def write_convnet(rows: Sequence[Row]) -> Iterator[str]:
    yield (
        f"conv16-fc64-64-64-10 without biases; {K} clusters of each dense layer. C: mean of the two matrices between "
        "the dense layers, with contiguous blocks as clusters; of copies in which every unit keeps its sum of weights "
        "(refused: too few edges for that); with jointly found clusters; of the gradients. Largest drop: of "
        "each class's accuracy, by the cluster that matters most to it; best alone: with no other cluster. Circuits: "
        "share of weights left, and the rates of true positives and negatives of the circuit, mean over classes. "
        f"λ = {CROSS:g}. Published (single runs): 65.4 % plain, 66.0 % with C = 0.9999 (on all of CIFAR-10); circuits "
        "0.009 → 0.005."
    )
    yield ""
    yield (
        "| training | test | validation | C | shuffled | joint C | shuffled | C of gradients | largest drop | "
        "best alone | circuit, published (TPR, TNR) | one against the rest (TPR, TNR) |"
    )
    yield "| --- | " + "---: | " * 11
    for name in dict.fromkeys(row["setting"] for row in rows):
        own = [row for row in rows if row["setting"] == name]
        circuits = []
        for criterion in ("class", "one-vs-rest"):
            sizes = [row[criterion] for row in own if criterion in row]
            parts = [statistics.fmean(each[i] for each in sizes) for i in range(3)] if sizes else []
            circuits.append(f"{parts[0]:.4f} ({parts[1]:.2f}, {parts[2]:.2f})" if parts else "")
        yield " | ".join([
            f"| {name}", *(f"{100 * mean(own, score):.2f}" for score in ("test", "validation")),
            f"{mean(own, 'C'):.4f}", *(f"{mean(own, part):.2f}".replace("nan", "refused") for part in (
                "C null", "C joint", "C joint null", "C gradients", "largest drop", "best alone"
            )), *circuits,
        ]) + " |"  # fmt: skip


# speed


def speed(options: argparse.Namespace) -> Iterator[Row]:
    torch.manual_seed(0)
    net, x = cs.MLP(784, [16 if options.quick else 256] * 4, 10), torch.randn(2, 784)
    graph, term = unit_graph(net, x), EigenvalueLoss(net, x)
    yield timing("one n-cut of 784-256⁴-10", 0.5, lambda: Clusterability(n_null=0).fit(graph))
    yield timing("50 nulls, one process", 15, lambda: Clusterability().fit(graph), 1)
    yield timing("50 nulls, two processes", 15, lambda: Clusterability(n_jobs=2).fit(graph), 1)
    yield timing("regulariser, value and gradient (published: 13.9)", 0.15, lambda: term(net).backward(), 9)
    resnet = cs.ResNet(3, (4, 4, 4, 4) if options.quick else (64, 128, 256, 512), 1000, blocks_per_stage=2)
    images = torch.randn(2, 3, 64, 64)
    yield timing("ResNet-18: trace, graph and n-cut", 30, lambda: Clusterability(n_null=0).fit(resnet, images), 1)
    yield {"what": "peak memory of the process", "seconds": None, "mark": 4, "gigabytes": resident("VmHWM") / 1000}


def timing(what: str, mark: float, work: Callable[[], object], n: int = 3) -> Row:
    return {"what": what, "seconds": timed(work, n)[1], "mark": mark}


def write_speed(rows: Sequence[Row]) -> Iterator[str]:
    yield "One thread, medians."
    yield ""
    yield "| what | measured | mark |"
    yield "| --- | ---: | ---: |"
    for row in rows:
        value = f"{row['gigabytes']:.2f} GB" if row["seconds"] is None else f"{row['seconds']:.3f} s"
        yield f"| {row['what']} | {value} | {row['mark']} |"


# all of it

PARTS = {
    "mnist": Part("784-256⁴-10 on MNIST", mnist, write_mnist),
    "planted": Part("Planted blocks", planted, write_planted),
    "convnet": Part("A ConvNet on the CIFAR-10 part", convnet, write_convnet),
    "speed": Part("Speed", speed, write_speed),
}


def read(options: argparse.Namespace) -> Data:
    data = cs.load_data(str(options.data), random_state=0)
    return replace(data, train=data.train.take(range(min(500, len(data.train))))) if options.quick else data


def mean(rows: Sequence[Row], name: str) -> float:
    return statistics.fmean(row.get(name, math.nan) for row in rows)  # NaN is not saved


def main() -> None:
    parser = arguments(__doc__, data=False, seeds=3)
    parser.add_argument("--epochs", type=int, default=6, help="of each phase of mnist, of convnet")
    parser.add_argument("--circuit-samples", type=int, default=200)
    parser.add_argument("--circuit-seeds", type=int, default=1, help="networks of each kind whose circuits are sought")
    run("Modularity", PARTS, parser, line=partial(json.dumps, ensure_ascii=False))


if __name__ == "__main__":
    main()
