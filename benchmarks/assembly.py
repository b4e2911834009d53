"""The assembly against every published alternative: any width, with and without data, in one table.

    python benchmarks/assembly.py --data FILE.npz [--cache runs/populations] [--seeds 3] [--only ABCDE] [--out FILE.md]

For each population of `populations.py` and seed: all methods at 1x, 2x and 4x of the members' median widths, data-free,
with 5000 unlabelled calibration images, and (population A only) with gradient steps towards the members' outputs on
those images. Rivals get our corrections too. Differences are in points of accuracy to the ensemble of the same members,
mean ± standard error over seeds; seconds are on one thread (median over seeds), and those of ours count the census.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from assembly_table import write
from harness import arguments, command, parse, save
from populations import CACHE, RECIPES, obtain
from sklearn.cluster import KMeans
from torch import nn

import consilience as cs
from consilience.assembly.pooling import class_share, pooled
from consilience.baselines import best_member, net2wider, transplantation
from consilience.baselines.cycle_consistent import universe_orders
from consilience.baselines.fuse import fuse
from consilience.baselines.matching import activation_orders, merging_orders, weight_orders
from consilience.baselines.permutations import average_of, identity
from consilience.baselines.probabilistic import global_bases
from consilience.baselines.transport import transport_bases, widest
from consilience.bases.grounding import Basis, Groups, basis_of_groups
from consilience.signals.responses import Responses
from consilience.units.symmetry import Symmetry

N_CALIBRATION = 5000
WIDTHS = ("1x", "2x", "4x")
NO_DATA, IMAGES, STEPS = "none", "5000 images", "5000 images, 500 steps"
DATA = {"none": NO_DATA, "moments": IMAGES, "least-squares": IMAGES, "second-order": IMAGES, "distill": STEPS}
OURS = "assembly"
REFERENCE = "reference"


@dataclass(frozen=True)
class Run:
    """One network that one method made in one population.

    ``test`` and ``validation`` are accuracies in %; ``width`` is as asked for, or "" for what has none.
    """

    population: str
    seed: int
    method: str
    width: str
    data: str
    parameters: int
    test: float
    validation: float
    seconds: float


@dataclass
class Contest:
    """All methods on one population."""

    name: str
    seed: int
    population: cs.Population
    data: cs.Data

    @property
    def x(self) -> torch.Tensor:
        """Calibration images, without their labels."""
        return self.data.calibration.x

    def score(self, method: str, width: str, data: str, network: nn.Module, seconds: float) -> Run:
        """Score one network."""
        size = sum(parameter.numel() for parameter in network.parameters())
        test, validation = (
            cs.evaluate(network, part).accuracy * 100 for part in (self.data.test, self.data.validation)
        )
        return Run(self.name, self.seed, method, width, data, size, test, validation, seconds)

    def references(self) -> Iterator[Run]:
        """The members, their ensembles, and the best of them."""
        scores = [[cs.evaluate(m.module, part).accuracy * 100 for m in self.population] for part in self.parts]
        size = statistics.mean(sum(p.numel() for p in m.module.parameters()) for m in self.population)
        yield Run(self.name, self.seed, "mean member", "", REFERENCE, round(size), *map(statistics.mean, scores), 0)
        best = best_member(self.population, self.data.validation)
        yield self.score("best member (labels)", "", REFERENCE, best, 0)
        yield self.score("ensemble", "", REFERENCE, cs.Ensemble(self.population), 0)
        if self.name == "C":
            responses = Responses(self.population.networks, self.x)
            weights = class_share(responses)
            outputs = [pooled(Responses(self.population.networks, part.x), weights) for part in self.parts]
            right = [
                float((out.argmax(1) == part.y).double().mean()) * 100
                for out, part in zip(outputs, self.parts, strict=True)
            ]
            size = sum(p.numel() for p in cs.Ensemble(self.population).parameters())
            yield Run(self.name, self.seed, "ensemble, class-share", "", REFERENCE, size, *right, 0)

    @property
    def parts(self) -> tuple[cs.Dataset, cs.Dataset]:
        """What is scored: test and validation."""
        return self.data.test, self.data.validation

    def ours(self) -> Iterator[Run]:
        """Assemblies: of a census on imagined inputs, and of one on images."""
        began = time.perf_counter()
        census = cs.Census(n_resamples=0).fit(self.population, cs.imagine_inputs(self.population))
        took = time.perf_counter() - began
        for width in WIDTHS:
            yield self.timed(OURS, width, NO_DATA, took, partial(cs.assemble, census, width))
        began = time.perf_counter()
        census = cs.Census(n_resamples=0).fit(self.population, self.x)
        took = time.perf_counter() - began
        poolings = ("mean", "class-share") if self.name == "C" else ("mean",)
        for pooling in poolings:
            for correction in ("moments", "least-squares", "second-order", *self.steps):
                for width in WIDTHS:
                    method = f"{OURS}, {correction}" + ("" if pooling == "mean" else f", {pooling}")
                    yield self.timed(
                        method, width, DATA[correction], took,
                        partial(cs.assemble, census, width, correction=correction, pooling=pooling),
                    )  # fmt: skip

    def clustered(self, width: str) -> dict[str, Basis]:
        """k-means on the pre-activations of all members at a fixed width (as in Neuron Interpolation, 2025)."""
        responses = Responses(self.population.networks, self.x)
        bases = {}
        for layer, k in self.multiple(width).items():
            points = responses.units(layer)
            labels = KMeans(k, n_init=1, random_state=self.seed).fit(points.numpy()).labels_.astype(np.int64)
            groups, alive = Groups.of_labels(labels), np.ones(len(points), dtype=bool)
            bases[layer] = basis_of_groups(points, groups, self.population.widths(layer), Symmetry(), alive)
        return bases

    def rivals(self) -> Iterator[Run]:
        """Everything else, each followed by our corrections."""
        population, x = self.population, self.x
        methods: dict[str, Callable[[], dict[str, Basis]]] = {
            "transport, weights": lambda: transport_bases(population, widest(population), None),
            "transport, activations": lambda: transport_bases(population, widest(population), x),
        }
        if len({tuple(m.network.architecture.widths.items()) for m in population}) == 1:
            same = [identity(population)] * len(population)
            methods |= {
                "parameter average": lambda: average_of(population, same),
                "weight matching": lambda: average_of(population, weight_orders(population, 0, self.seed)),
                "activation matching": lambda: average_of(
                    population, activation_orders(population, x, 0, "activations")
                ),
                "MergeMany": lambda: average_of(population, merging_orders(population, self.seed)),
                "C2M3": lambda: average_of(population, universe_orders(population, self.seed)),
            }
        for method, make in methods.items():
            needs_data = "activation" in method
            yield from self.corrected(method, "1x", make, needs_data=needs_data)
        for width in WIDTHS:
            make = partial(self.clustered, width)
            yield from self.corrected("k-means", width, make, needs_data=True)
            if all(max(population.widths(layer)) <= cap for layer, cap in self.multiple(width).items()):
                yield from self.corrected(f"PFNM up to {width}", width, partial(self.grown, width), needs_data=False)
        best = best_member(population, self.data.validation)
        member = next(k for k, each in enumerate(population) if each.module is best)
        for width in WIDTHS:
            for correction in self.corrections:
                method = "transplantation" + ("" if correction == "none" else f", {correction}")
                yield self.timed(
                    method, width, DATA[correction], 0,
                    partial(transplantation, population, width, correction=correction, calibration=x),
                )  # fmt: skip
            if width != "1x":  # there it is the member itself
                with_labels = "Net2Wider of the best member (labels)"
                yield self.timed(with_labels, width, NO_DATA, 0, partial(self.widened, member, width))

    @property
    def corrections(self) -> tuple[str, ...]:
        """What follows a rival's construction."""
        return ("none", "moments", "least-squares", *self.steps)

    @property
    def steps(self) -> tuple[str, ...]:
        """The correction by gradient steps, on one population: on all it would take longer than all else together."""
        return ("distill",) if self.name == "A" else ()

    def multiple(self, width: str) -> dict[str, int]:
        """Units by hidden layer."""
        hidden = self.population.architecture.hidden
        return {layer.name: int(width[:-1]) * self.population.median_width(layer.name) for layer in hidden}

    def grown(self, width: str) -> dict[str, Basis]:
        """PFNM with as many units at most as the width says."""
        return global_bases(self.population, 0.3, math.inf, 1.0, self.multiple(width), self.seed)

    def widened(self, member: int, width: str) -> nn.Module:
        """Net2Wider of one member; it may be as wide already."""
        own = self.population.members[member].network.architecture
        wanted = {name: max(own.layer(name).width, units) for name, units in self.multiple(width).items()}
        return net2wider(self.population, wanted, member=member, random_state=self.seed)

    def corrected(
        self, method: str, width: str, make: Callable[[], dict[str, Basis]], *, needs_data: bool
    ) -> Iterator[Run]:
        """One method's bases, with every correction."""
        began = time.perf_counter()
        bases = make()
        took = time.perf_counter() - began
        for correction in self.corrections:
            given = None if correction == "none" else self.x
            yield self.timed(
                method + ("" if correction == "none" else f", {correction}"), width,
                IMAGES if needs_data and correction == "none" else DATA[correction], took,
                partial(
                    fuse, self.population, bases, correction=correction, calibration=given, random_state=self.seed
                ),
            )  # fmt: skip

    def timed(self, method: str, width: str, data: str, before: float, make: Callable[[], nn.Module]) -> Run:
        """Make a network and score it; ``before``: seconds spent on what it is made of."""
        began = time.perf_counter()
        network = make()
        return self.score(method, width, data, network, before + time.perf_counter() - began)


def compete(name: str, seed: int, source: Path, cache: Path, quick: bool) -> list[dict[str, object]]:
    """Run everything on one population."""
    torch.set_num_threads(1)
    data = cs.load_data(source, random_state=seed, n_calibration=N_CALIBRATION)
    if quick:
        data = replace(data, train=data.train.take(torch.arange(min(1000, len(data.train)))))
    contest = Contest(name, seed, obtain(name, data, seed, cache, quick), data)
    runs = [*contest.references(), *contest.ours(), *contest.rivals()]
    return [asdict(run) for run in runs]


def main() -> None:
    parser = arguments(__doc__, data=True, seeds=3)
    parser.add_argument("--cache", type=Path, default=CACHE, help="directory of trained populations")
    parser.add_argument("--only", default="".join(RECIPES), help="populations, by letter")
    parser.add_argument("--processes", type=int, default=2, help="one thread each")
    options = parse(parser)
    runs: list[Run] = []
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        jobs = [
            pool.submit(compete, name, seed, options.data, options.cache, options.quick)
            for name in sorted(options.only, key="DBAEC".index)
            for seed in range(options.seeds)
        ]
        for job in jobs:
            runs += [Run(**record) for record in job.result()]
            print(f"{runs[-1].population}, seed {runs[-1].seed}", flush=True)
    text = write(sorted(runs, key=lambda run: run.population), command(parser, options))
    print(text)
    if options.out:
        options.out.write_text(text)
        save(options.out.with_suffix(".json"), runs)


if __name__ == "__main__":
    main()
