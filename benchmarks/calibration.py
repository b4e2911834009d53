"""Do p-values and intervals mean what they say? Measured where the truth is known.

    OMP_NUM_THREADS=1 python benchmarks/calibration.py --processes 2

- modules: networks without modules, of equal and of unequal units, dense and sparse: their p under the null that keeps
  every unit's degree should be uniform.
- power: the same with planted modules: p should be small.
- cross: p of cross-cluster modularity C on networks without modules, with all degrees kept and with entries permuted.
- intervals: shares of the intervals of CKA and Procrustes distances from few samples that cover the value of the
  population.
- ``--out FILE.md`` keeps all rows in FILE.json beside; parts that are not run stay as they are.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from harness import Part, arguments, run, table
from joblib import Parallel, delayed
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.stats import kstest

import consilience as cs
from consilience.comparison import similarity_intervals
from consilience.errors import InputError
from consilience.modularity import Clusterability, CrossModularity, UnitGraph, contiguous, cross_modularity
from consilience.modularity.graph import Edges, traced

Matrix = NDArray[np.float64]
N_NULL = 19  # p is a multiple of 0.05
SHARES = ("number", "p ≤ 0.05 (%)", "p = 1 (%)", "uniform", "mean z")
WIDTHS = ((24, 24, 24), (48, 48, 48), (64, 32, 32, 10), (96, 96, 96))
SIGMA = 0.8  # of the logarithms of a unit's factors


@dataclass(frozen=True)
class Kind:
    """Networks of one kind."""

    weights: Callable[[Generator, tuple[int, int]], Matrix]  # sizes of weights, without factors of units
    unequal: bool = False  # whether every unit has a lognormal factor of its incoming and one of its outgoing weights
    density: float = 1.0  # share of weights that are not zero

    def matrix(self, shape: tuple[int, int], generator: Generator) -> Matrix:
        """Return random sizes of weights (u, i)."""
        weights, (written, read) = self.weights(generator, shape), shape
        if self.unequal:
            weights *= generator.lognormal(sigma=SIGMA, size=(written, 1)) * generator.lognormal(sigma=SIGMA, size=read)
        return weights * (generator.random(shape) < self.density)


def gaussian(generator: Generator, shape: tuple[int, int]) -> Matrix:
    return np.abs(generator.normal(size=shape))


def lognormal(generator: Generator, shape: tuple[int, int]) -> Matrix:
    return generator.lognormal(size=shape)


KINDS = {
    "equal units": Kind(gaussian),
    "unequal units": Kind(gaussian, unequal=True),
    "equal units, 30 % of the edges": Kind(gaussian, density=0.3),
    "equal units, 10 % of the edges": Kind(gaussian, density=0.1),
    "equal units, lognormal weights": Kind(lognormal),
    "unequal units, 30 % of the edges": Kind(gaussian, unequal=True, density=0.3),
    "unequal units, 10 % of the edges": Kind(gaussian, unequal=True, density=0.1),
}


@dataclass(frozen=True)
class Ps:
    """The p-values of networks of one kind and of some widths."""

    kind: str
    widths: tuple[int, ...]
    within: float  # factor of the weights within planted modules; 1 for none
    p: tuple[float, ...]
    z: tuple[float, ...]
    n_refused: int


def network(kind: Kind, widths: Sequence[int], within: float, generator: Generator) -> UnitGraph:
    """Return a random network, with weights within four random clusters of units multiplied by a factor."""
    labels = [generator.permutation(contiguous(width, 4)) for width in widths]
    edges = []
    for k, (read, written) in enumerate(pairwise(widths)):
        weights = kind.matrix((written, read), generator)
        weights *= np.where(labels[k + 1][:, None] == labels[k], within, 1)
        edges.append(Edges(f"map {k}", f"layer {k}", f"layer {k + 1}", weights[:, :, None], False))
    return UnitGraph({f"layer {k}": width for k, width in enumerate(widths)}, tuple(edges))


def p_and_z(kind: str, widths: Sequence[int], within: float, n_null: int, seed: int) -> tuple[float, float] | None:
    """Return p and z of one network; None if the null refuses it."""
    graph = network(KINDS[kind], widths, within, np.random.default_rng([seed, len(widths), widths[0]]))
    try:
        found = Clusterability(null="degree-preserving", n_null=n_null, random_state=seed).fit(graph)
    except InputError:
        return None
    return found.p_, found.z_


def measured(kind: str, widths: Sequence[int], within: float, seeds: int, options: argparse.Namespace) -> Ps:
    network = kind, widths, within, copies(options)
    found = Parallel(options.processes)(delayed(p_and_z)(*network, seed) for seed in range(seeds))
    values = [value for value in found if value is not None]
    p, z = tuple(zip(*values, strict=True)) if values else ((), ())
    return Ps(kind, tuple(widths), within, p, z, len(found) - len(values))


def copies(options: argparse.Namespace) -> int:
    return 2 if options.quick else N_NULL


def modules(options: argparse.Namespace) -> Iterator[Ps]:
    for kind in KINDS:
        for widths in WIDTHS[:1] if options.quick else WIDTHS:
            yield measured(kind, widths, 1.0, 1 if options.quick else options.seeds, options)


def power(options: argparse.Namespace) -> Iterator[Ps]:
    for kind in KINDS:
        for within in (1.5, 2.0, 3.0):
            widths = WIDTHS[0] if options.quick else WIDTHS[1]
            yield measured(kind, widths, within, 1 if options.quick else 20, options)


def write_modules(rows: Sequence[Ps]) -> Iterator[str]:
    yield (
        f"Networks whose weights are independent of each other but for the factors of units (lognormal, σ = {SIGMA:g}, "
        f"for incoming and for outgoing weights). p of the n-cut with 12 clusters among {N_NULL} copies with all "
        "degrees kept. By chance, 5 % have p ≤ 0.05 and 5 % have p = 1; z has mean 0. Uniform: p of a "
        "Kolmogorov–Smirnov test that p is uniform (steps filled at random). Refused: networks whose edges are too few "
        "to be rewired with all sums kept, and which get an error in place of p."
    )
    yield ""
    groups = [(kind, [row for row in rows if row.kind == kind]) for kind in dict.fromkeys(row.kind for row in rows)]
    lines = []
    for kind, own in groups:
        for name, some in [*(("-".join(map(str, row.widths)), [row]) for row in own), ("all", own)]:
            p, z = (np.array([value for row in some for value in getattr(row, of)]) for of in ("p", "z"))
            lines.append([kind, name, *_shares(p, z), f"{sum(row.n_refused for row in some)}"])
    yield from table(["networks", "widths", *SHARES, "refused"], lines, 2)
    yield ""


def _shares(p: Matrix, z: Matrix) -> list[str]:
    if not len(p):
        return ["0", "", "", "", ""]
    filled = p - np.random.default_rng(0).random(len(p)) / (N_NULL + 1)
    low, high = 100 * np.mean(p < 0.051), 100 * np.mean(p > 0.999)
    return [f"{len(p)}", f"{low:.1f}", f"{high:.1f}", f"{kstest(filled, 'uniform').pvalue:.2f}", f"{np.mean(z):+.2f}"]


def write_power(rows: Sequence[Ps]) -> Iterator[str]:
    yield (
        "Weights within each of four clusters of units, with units of all layers, are multiplied by a factor. "
        f"Share of networks with p ≤ 0.05 among {N_NULL} copies, and mean z; widths {rows[0].widths}, 20 networks each."
    )
    yield ""
    lines = []
    for kind in dict.fromkeys(row.kind for row in rows):
        own = [row for row in rows if row.kind == kind]
        cells = [
            f"{100 * np.mean(np.array(row.p) < 0.051):.0f} % ({np.mean(row.z):+.1f})" if row.p else "refused"
            for row in own
        ]
        lines.append([kind, *cells])
    yield from table(["networks", *(f"× {row.within:g}" for row in rows if row.kind == rows[0].kind)], lines)
    yield ""


# cross-cluster modularity

CROSS_WIDTH, MATRICES = 48, 10  # units of each layer, and weight matrices, of one network


@dataclass(frozen=True)
class CrossPs:
    """p and z of C of matrices without clusters."""

    kind: str
    null: str
    p: tuple[float, ...]
    z: tuple[float, ...]
    n_refused: int


def cross(options: argparse.Namespace) -> Iterator[CrossPs]:
    width, n_matrices = (16, 2) if options.quick else (CROSS_WIDTH, MATRICES)
    net = cs.MLP(width, [width] * (n_matrices - 1), width, bias=False)
    template = traced(net, torch.zeros(2, width))
    for kind in KINDS:
        for null in ("degree-preserving", "permute"):
            found = list[CrossModularity]()
            for seed in range(1 if options.quick else options.seeds // 5):
                g = np.random.default_rng(seed)
                state = {name: torch.from_numpy(KINDS[kind].matrix((width, width), g)) for name in template.state}
                sample = replace(template, state=state)
                found += cross_modularity(
                    sample, n_null=copies(options), null=null, scale="as-given", random_state=seed
                )
            drawn = [one for one in found if not one.no_null]
            p, z = (tuple(getattr(one, of) for one in drawn) for of in ("p", "z"))
            yield CrossPs(kind, null, p, z, len(found) - len(drawn))


def write_cross(rows: Sequence[CrossPs]) -> Iterator[str]:
    yield (
        f"C of single matrices of the same kinds, {CROSS_WIDTH} × {CROSS_WIDTH}, with 4 clusters found jointly, among "
        f"{N_NULL} shuffled matrices that are clustered in the same way. z above 0 is more modular. Refused: matrices "
        "without a null (`no_null`)."
    )
    yield ""
    lines = [[row.kind, row.null, *_shares(np.array(row.p), np.array(row.z)), f"{row.n_refused}"] for row in rows]
    yield from table(["matrices", "null", *SHARES, "refused"], lines, 2)
    yield ""


# intervals

SAMPLES = (20, 50, 200)
MEASURES = ("cka", "unbiased_cka", "procrustes")
LATENT = 5  # dimensions that both models have in common


@dataclass(frozen=True)
class Coverage:
    """Intervals of one measure at one number of samples."""

    units: tuple[int, int]
    shared: float  # share of the variance that comes from the latent variables
    n: int
    measure: str
    truth: float  # value of the population
    value: float  # mean over draws of the samples' value
    estimate: float  # of the corrected value
    width: float  # of the intervals
    covering: float  # share of the intervals that cover the truth


class Pair:
    """Two models that are linear in the same Gaussian variables, plus noise; the population's values are known."""

    def __init__(self, units: tuple[int, int], shared: float) -> None:
        generator = np.random.default_rng(1)
        spreads = [np.geomspace(1, 3, width) for width in units]
        self.maps = [
            np.sqrt(shared / LATENT) * generator.normal(size=(LATENT, w)) * s
            for w, s in zip(units, spreads, strict=True)
        ]
        self.noise = [np.sqrt(1 - shared) * spread for spread in spreads]

    def draw(self, n: int, generator: Generator) -> list[Matrix]:
        latent = generator.normal(size=(n, LATENT))
        return [latent @ m + generator.normal(size=(n, len(s))) * s for m, s in zip(self.maps, self.noise, strict=True)]

    def truth(self, measure: str) -> float:
        (a, b), (s, t) = self.maps, self.noise
        first, second, both = a.T @ a + np.diag(s**2), b.T @ b + np.diag(t**2), a.T @ b
        if measure == "procrustes":
            nuclear = np.linalg.svd(both, compute_uv=False).sum()
            return float(np.sqrt(2 - 2 * nuclear / np.sqrt(np.trace(first) * np.trace(second))))
        return float(np.square(both).sum() / (np.linalg.norm(first) * np.linalg.norm(second)))


def intervals(options: argparse.Namespace) -> Iterator[Coverage]:
    for units, shared in (((8, 12), 0.5), ((8, 12), 0.95), ((30, 40), 0.95)):
        pair = Pair(units, shared)
        for n in SAMPLES[:1] if options.quick else SAMPLES:
            for measure in MEASURES:
                truth, draws = pair.truth(measure), 2 if options.quick else options.draws
                found = Parallel(options.processes)(delayed(interval)(pair, n, measure, seed) for seed in range(draws))
                value, estimate, low, high = np.array(found).T
                covering = float(np.mean((low <= truth) & (truth <= high)))
                means = (float(part.mean()) for part in (value, estimate, high - low))
                yield Coverage(units, shared, n, measure, truth, *means, covering)


def interval(pair: Pair, n: int, measure: str, seed: int) -> tuple[float, ...]:
    found = similarity_intervals(pair.draw(n, np.random.default_rng([seed, n])), measure)
    return tuple(float(part[0, 1]) for part in (found.value, found.estimate, found.low, found.high))


def write_intervals(rows: Sequence[Coverage]) -> Iterator[str]:
    yield (
        f"Two models of Gaussian activations that share {LATENT} latent variables. Truth: value of the population, "
        "from its covariances. Value: mean over draws of the samples' value; corrected: of the jackknife's estimate. "
        "Covering: share of the 95 % intervals (`similarity_intervals`) that cover the truth."
    )
    yield ""
    lines = [
        [
            f"{row.units[0]}, {row.units[1]}", f"{100 * row.shared:.0f} %", row.measure, str(row.n),
            f"{row.truth:.3f}", f"{row.value:.3f}", f"{row.estimate:.3f}", f"{row.width:.3f}",
            f"{100 * row.covering:.0f} %",
        ]
        for row in rows
    ]  # fmt: skip
    heads = ["units", "shared", "measure", "samples", "truth", "value", "corrected", "width", "covering"]
    yield from table(heads, lines, 3)
    yield ""


PARTS = {
    "modules": Part("p of networks without modules", modules, write_modules, row=Ps),
    "power": Part("p of networks with planted modules", power, write_power, row=Ps),
    "cross": Part("p of cross-cluster modularity without modules", cross, write_cross, row=CrossPs),
    "intervals": Part("Intervals of similarities of activations", intervals, write_intervals, row=Coverage),
}


def main() -> None:
    parser = arguments(__doc__, seeds=50)
    parser.add_argument("--draws", type=int, default=200, help="of intervals")
    parser.add_argument("--processes", type=int, default=1)
    run("Calibration", PARTS, parser, line=partial(str))


if __name__ == "__main__":
    main()
