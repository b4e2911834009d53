"""The assembly against every published alternative: any width, with and without data, in one table.

    python benchmarks/assembly.py --data FILE.npz [--cache runs/populations] [--seeds 3] [--only ABCDE] [--out FILE.md]

For each population of `populations.py` and seed: all methods at 1x, 2x and 4x of the members' median widths, data-free,
with 5000 unlabelled calibration images, and (population A only) with gradient steps towards the members' outputs on
those images. Rivals get every correction and, where members know different classes (population C), every pooling that
an assembly gets. Differences are in points of accuracy to the ensemble of the same members, with standard errors;
seconds are of processor time on one thread (median over seeds), and those of ours count the census.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from assembly_table import CORRECTIONS, ENSEMBLE, IMAGES, MEAN, NO_DATA, OURS, STEPS, Kind, Run, write
from harness import arguments, command, measured, parse, save
from joblib import Parallel, delayed
from populations import CACHE, RECIPES, obtain
from sklearn.cluster import KMeans
from torch import Tensor, nn

import consilience as cs
from consilience.assembly.pooling import POOLINGS, pooled
from consilience.baselines import best_member, net2wider
from consilience.baselines.concatenation import transplanted_bases
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


@dataclass
class Contest:
    """All methods on one population."""

    name: str
    seed: int
    population: cs.Population
    data: cs.Data
    quick: bool = False

    @property
    def x(self) -> Tensor:
        """Calibration images, without their labels."""
        return self.data.calibration.x

    @property
    def poolings(self) -> tuple[str, ...]:
        """Every pooling where members know different classes; where all know all classes, the mean."""
        return tuple(POOLINGS) if self.name == "C" else (MEAN,)

    @property
    def corrections(self) -> tuple[str, ...]:
        """What follows a construction; gradient steps on one population: on all they would take most of the time."""
        if self.quick:
            return "none", "least-squares"
        return tuple(c for c, data in CORRECTIONS.items() if self.name == "A" or data != STEPS)

    def score(self, kind: Kind, network: nn.Module, seconds: float) -> Run:
        """Score one network."""
        size = sum(parameter.numel() for parameter in network.parameters())
        return Run(self.name, self.seed, kind, size, self.right(network), seconds)

    def right(self, network: Callable[[Tensor], Tensor]) -> tuple[np.ndarray, np.ndarray]:
        """Whether each test and each validation image is classified correctly."""
        with torch.no_grad():
            outputs = [torch.cat([network(x) for x in part.x.split(1000)]) for part in self.parts]
        test, validation = (
            (out.argmax(1) == part.y).double().numpy() for out, part in zip(outputs, self.parts, strict=True)
        )
        return test, validation

    @property
    def parts(self) -> tuple[cs.Dataset, cs.Dataset]:
        """What is scored: test and validation."""
        return self.data.test, self.data.validation

    def made(self, kind: Kind, before: float, make: Callable[[], nn.Module]) -> Run:
        """Make a network and score it; ``before``: seconds spent on what it is made of."""
        network, seconds, _ = measured(make)
        return self.score(kind, network, before + seconds)

    def references(self) -> Iterator[Run]:
        """The members, their ensembles, and the best of them."""
        rights = [self.right(member.module) for member in self.population]
        test, validation = (np.mean(part, axis=0) for part in zip(*rights, strict=True))
        sizes = [sum(p.numel() for p in member.module.parameters()) for member in self.population]
        mean_size = round(statistics.mean(sizes))
        yield Run(self.name, self.seed, Kind("mean member"), mean_size, (test, validation), 0)
        best = best_member(self.population, self.data.validation)
        yield self.score(Kind("best member (labels)"), best, 0)
        responses = Responses(self.population.networks, self.x)
        for pooling in self.poolings:
            weights = POOLINGS[pooling](responses)
            ensemble = partial(self.ensemble, weights)
            method = ENSEMBLE if pooling == MEAN else f"{ENSEMBLE}, {pooling}"
            yield Run(self.name, self.seed, Kind(method), sum(sizes), self.right(ensemble), 0)

    def ensemble(self, weights: Tensor, x: Tensor) -> Tensor:
        """Return the members' outputs, pooled."""
        return pooled(Responses(self.population.networks, x), weights)

    def ours(self) -> Iterator[Run]:
        """Assemblies: of a census on imagined inputs, and of one on images."""
        fit = cs.Census(n_resamples=0).fit
        census, seconds, _ = measured(lambda: fit(self.population, cs.imagine_inputs(self.population)))
        for width in WIDTHS:
            kind = Kind(OURS, width, MEAN, "least-squares", NO_DATA)
            yield self.made(kind, seconds, partial(cs.assemble, census, width))
        census, seconds, _ = measured(lambda: fit(self.population, self.x))
        for pooling, correction, width in product(self.poolings, self.corrections, WIDTHS):
            kind = Kind(OURS, width, pooling, correction, max(IMAGES, CORRECTIONS[correction], key=len))
            make = partial(cs.assemble, census, width, correction=correction, pooling=pooling)
            yield self.made(kind, seconds, make)

    def rivals(self) -> Iterator[Run]:
        """Everything else, with every pooling and correction."""
        for method, make in self.at_one_width().items():
            yield from self.corrected(method, "1x", make, needs_data="activation" in method)
        for width in WIDTHS:
            multiple = self.multiple(width)
            yield from self.corrected("k-means", width, partial(self.clustered, multiple), needs_data=True)
            if all(max(self.population.widths(layer)) <= cap for layer, cap in multiple.items()):
                grown = partial(global_bases, self.population, 0.3, math.inf, 1.0, multiple, self.seed)
                yield from self.corrected("PFNM", width, grown)
            yield from self.corrected("transplantation", width, partial(transplanted_bases, self.population, multiple))
            if width != "1x":  # there it is the member itself
                kind = Kind("Net2Wider of the best member (labels)", width, "", "none", NO_DATA)
                yield self.made(kind, 0, partial(self.widened, multiple))

    def at_one_width(self) -> dict[str, Callable[[], Mapping[str, Basis]]]:
        """The bases of methods whose networks are as wide as a member, by method."""
        population, x, seed = self.population, self.x, self.seed
        methods: dict[str, Callable[[], Mapping[str, Basis]]] = {
            "transport, weights": lambda: transport_bases(population, widest(population), None),
            "transport, activations": lambda: transport_bases(population, widest(population), x),
        }
        if len({tuple(network.architecture.widths.items()) for network in population.networks}) > 1:
            return methods
        return methods | {
            "parameter average": lambda: average_of(population, [identity(population)] * len(population)),
            "weight matching": lambda: average_of(population, weight_orders(population, 0, seed)),
            "activation matching": lambda: average_of(population, activation_orders(population, x, 0, "activations")),
            "MergeMany": lambda: average_of(population, merging_orders(population, seed)),
            "C2M3": lambda: average_of(population, universe_orders(population, seed)),
        }

    def multiple(self, width: str) -> dict[str, int]:
        """Units by hidden layer."""
        hidden = self.population.architecture.hidden
        return {layer.name: int(width[:-1]) * self.population.median_width(layer.name) for layer in hidden}

    def clustered(self, widths: Mapping[str, int]) -> dict[str, Basis]:
        """k-means on the pre-activations of all members at a fixed width (as in Neuron Interpolation, 2025)."""
        responses = Responses(self.population.networks, self.x)
        bases = {}
        for layer, k in widths.items():
            points = responses.units(layer)
            labels = KMeans(k, n_init=1, random_state=self.seed).fit(points.numpy()).labels_.astype(np.int64)
            groups, alive = Groups.of_labels(labels), np.ones(len(points), dtype=bool)
            bases[layer] = basis_of_groups(points, groups, self.population.widths(layer), Symmetry(), alive)
        return bases

    def widened(self, widths: Mapping[str, int]) -> nn.Module:
        """Net2Wider of the best member; it may be as wide already."""
        best = best_member(self.population, self.data.validation)
        member = next(k for k, other in enumerate(self.population) if other.module is best)
        present = self.population.members[member].network.architecture.widths
        wanted = {name: max(present[name], units) for name, units in widths.items()}
        return net2wider(self.population, wanted, member=member, random_state=self.seed)

    def corrected(
        self, method: str, width: str, make: Callable[[], Mapping[str, Basis]], *, needs_data: bool = False
    ) -> Iterator[Run]:
        """The bases of one method, with every pooling and correction."""
        bases, seconds, _ = measured(make)
        for pooling, correction in product(self.poolings, self.corrections):
            data = CORRECTIONS[correction]
            if data == NO_DATA and (needs_data or pooling != MEAN):
                data = IMAGES
            fused = partial(
                fuse,
                self.population,
                bases,
                correction=correction,
                calibration=None if data == NO_DATA else self.x,
                pooling=pooling,
                random_state=self.seed,
            )
            yield self.made(Kind(method, width, pooling, correction, data), seconds, fused)


def compete(name: str, seed: int, source: Path, cache: Path, quick: bool) -> list[Run]:
    """Run everything on one population."""
    torch.set_num_threads(1)
    data = cs.load_data(source, random_state=seed, n_calibration=100 if quick else N_CALIBRATION)
    if quick:
        data = replace(data, train=data.train.take(torch.arange(min(300, len(data.train)))))
    contest = Contest(name, seed, obtain(name, data, seed, cache, quick), data, quick)
    return [*contest.references(), *contest.ours(), *contest.rivals()]


def main() -> None:
    parser = arguments(__doc__, data=True, seeds=3)
    parser.add_argument("--cache", type=Path, default=CACHE, help="directory of trained populations")
    parser.add_argument("--only", default="".join(RECIPES), help="populations, by letter")
    parser.add_argument("--processes", type=int, default=2, help="one thread each")
    options = parse(parser)
    runs: list[Run] = []
    populations = product(sorted(options.only, key="DBAEC".index), range(options.seeds))
    files = options.data, options.cache, options.quick
    for found in Parallel(options.processes, return_as="generator")(
        delayed(compete)(*each, *files) for each in populations
    ):
        runs += found
        print(f"{runs[-1].population}, seed {runs[-1].seed}", flush=True)
    text = write(sorted(runs, key=lambda run: run.population), command(parser, options))
    print(text)
    if options.out:
        options.out.write_text(text)
        save(options.out.with_suffix(".json"), [run.record() for run in runs])


if __name__ == "__main__":
    main()
