"""Assemblies of convolutional networks with batch norm, and what else makes one network of an ensemble.

    python benchmarks/convnets.py --data FILE.npz [--parts ConvNet ResNet-8] [--seeds 3] [--cache runs/populations]

For each kind of network and seed, without labels, from 5000 calibration images that the members were trained on:

- the members, the one nearest to the ensemble, and the ensemble;
- published methods with moments (REPAIR) on the first ``--thorough`` populations, and the best of them with our least
  squares;
- whole members side by side (Neuron Transplantation of the members nearest to the ensemble) with our least squares;
- the ensemble distilled into the nearest member, into that member made wider by Net2Wider, and into a fresh network,
  with the steps, images and held-out images of our own distillation;
- assemblies with least squares, second-order steps and distillation, from one `Assembler`.

Every network is scored on the same test and validation images. Nothing is fitted to them; only "best member (labels)"
and the choice of rivals look at their labels. Seconds are of processor time on one thread; an assembly's leave out the
census and what an earlier row of the same `Assembler` has done. Memory is what a row adds at its peak to the process.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from convnets_table import (
    BEST,
    DISTILLED,
    ENSEMBLE,
    LEAST,
    LENT,
    MEMBER,
    NEAREST,
    OURS,
    PUBLISHED,
    REFERENCE,
    WHOLE,
    Row,
    introduction,
    text,
)
from harness import Part, arguments, measured, run
from populations import CACHE, COLOUR, CONVOLUTIONAL, GREY, Convolutional, obtain_convolutional
from torch import Tensor, nn

import consilience as cs
from consilience import baselines
from consilience.agreement import agreement
from consilience.assembly.nearness import mean_error
from consilience.baselines.fuse import basis_from, fuse
from consilience.baselines.permutations import average_of, identity
from consilience.bases.grounding import Basis
from consilience.signals.held_out import held_out

STARTS = (("1x", "member"), ("2x", "net2wider"), ("1x", "fresh"), ("2x", "fresh"))
CORRECTIONS = {LEAST: ("1x", "2x", "4x"), "second-order": ("1x", "2x"), "distill": ("1x", "2x")}
N_LENT = 2  # published methods that get our least squares
LIMITS = {"C2M3": 120}  # seconds, after which a method is given up

Make = Callable[[], nn.Module]


@dataclass
class Contest:
    """All methods on one population."""

    name: str
    seed: int
    population: cs.Population
    data: cs.Data
    thorough: bool
    steps: int
    outputs: list[Tensor] = field(init=False)  # of each member for the images that all is scored on

    def __post_init__(self) -> None:
        self.outputs = [self.run(member.module) for member in self.population]
        self.ensemble = torch.stack(self.outputs).mean(0)

    def rows(self) -> Iterator[Row]:
        """Make everything; what is cheap first."""
        x = self.data.calibration.x
        yield from self.references()
        fit = partial(cs.Census(n_resamples=0).fit, self.population, x)
        census, seconds, megabytes = measured(fit)
        nan = math.nan
        yield Row(self.name, self.seed, OURS, "census", "", "", nan, nan, nan, nan, seconds, megabytes)
        yield from self.whole()
        assembler = cs.Assembler(census)
        for correction, widths in CORRECTIONS.items():
            for width in widths:
                yield self.assembled(assembler, width, correction)
        for width, start in STARTS:
            yield self.distilled(width, start)
        if self.thorough:
            yield from self.rivals()
            yield self.assembled(assembler, "4x", "distill")
            yield self.distilled("4x", "net2wider")

    def assembled(self, assembler: cs.Assembler, width: str, correction: str) -> Row:
        """One of our networks."""
        options = {"steps": self.steps} if correction == "distill" else {}
        return self.made(
            OURS, OURS, width, correction, partial(assembler.assemble, width, correction=correction, **options)
        )

    def distilled(self, width: str, start: str) -> Row:
        """The ensemble distilled into one network from another start."""
        wide = {} if start == "member" else {"width": width}
        make = partial(
            baselines.distil, self.population, self.data.calibration.x, start=start, steps=self.steps, **wide
        )
        return self.made(DISTILLED, f"distilled {start}", width, "distill", make)

    def references(self) -> Iterator[Row]:
        """The members, the best by labels, the one nearest to the ensemble on held-out images, and all together."""
        sizes = [sum(p.numel() for p in member.module.parameters()) for member in self.population]
        scores = [self.score(outputs) for outputs in self.outputs]
        mean = [sum(values) / len(scores) for values in zip(*scores, strict=True)]
        yield Row(self.name, self.seed, REFERENCE, MEMBER, "", "", sizes[0], *mean)
        best = max(range(len(scores)), key=lambda k: scores[k])
        nearest = self.nearest[0]
        for name, k in ((BEST, best), (NEAREST, nearest)):
            yield Row(self.name, self.seed, REFERENCE, name, "", "", sizes[k], *scores[k])
        yield Row(self.name, self.seed, REFERENCE, ENSEMBLE, "", "", sum(sizes), *self.score(self.ensemble))

    @property
    def nearest(self) -> list[int]:
        """The members, the one nearest to the ensemble on held-out calibration images first."""
        x = self.data.calibration.x[held_out(len(self.data.calibration.x))[1]]
        with torch.no_grad():
            outputs = torch.stack([member.module(x) for member in self.population])
        errors = [mean_error(own, outputs.mean(0), self.population.task) for own in outputs]
        return sorted(range(len(errors)), key=errors.__getitem__)

    def whole(self) -> Iterator[Row]:
        """The nearest members side by side, with our least squares."""
        for width, n_members in (("2x", 2), ("4x", 4)):
            make = partial(
                fuse, self.population, self.kept(self.nearest[:n_members]),
                correction=LEAST, calibration=self.data.calibration.x,
            )  # fmt: skip
            yield self.made(WHOLE, f"{n_members} members", width, LEAST, make)

    def kept(self, members: Sequence[int]) -> dict[str, Basis]:
        """Return the basis of each hidden layer of members side by side, without the others' units."""
        bases = {}
        for layer in self.population.architecture.free:
            widths = self.population.widths(layer.name)
            owner = torch.arange(len(widths)).repeat_interleave(torch.tensor(widths))
            columns = torch.eye(len(owner))[:, torch.isin(owner, torch.tensor(members))].split(list(widths))
            bases[layer.name] = basis_from(columns, columns)
        return bases

    def rivals(self) -> Iterator[Row]:
        """Published methods with moments; the best of them at a member's width also with our least squares."""
        done = []
        for width, methods in (("1x", self.methods()), ("2x", {"transplantation": self.transplanted("2x")})):
            for method, make in methods.items():
                done.append(self.made(PUBLISHED, method, width, "moments", partial(make, correction="moments")))
                yield done[-1]
        ranks = sorted((row for row in done if row.width == "1x" and row.error < math.inf), key=lambda r: -r.accuracy)
        lent = [("1x", row.method, self.methods()[row.method]) for row in ranks[:N_LENT]]
        for width, method, make in (*lent, ("2x", "transplantation", self.transplanted("2x"))):
            yield self.made(LENT, method, width, LEAST, partial(make, correction=LEAST))

    def methods(self) -> dict[str, Callable[..., nn.Module]]:
        """By name, what makes a network of a member's width with a correction."""
        given = {"calibration": self.data.calibration.x}
        names = ("weight_matching", "merge_many", "activation_matching", "transport_fusion", "cycle_matching")
        weights, merged, matched, transport, cycle = (
            partial(getattr(baselines, name), self.population, **given) for name in names
        )
        return {
            "parameter average": self.averaged,
            "weight matching": weights,
            "MergeMany": merged,
            "activation matching": matched,
            "transport, activations": partial(transport, ground="activations"),
            "C2M3": cycle,
            "transplantation": self.transplanted("1x"),
        }

    def transplanted(self, width: str) -> Callable[..., nn.Module]:
        """What makes the largest units of all members a network."""
        return partial(baselines.transplantation, self.population, width=width, calibration=self.data.calibration.x)

    def averaged(self, correction: str) -> nn.Module:
        """Return the mean of the parameters."""
        same = identity(self.population)
        bases = average_of(self.population, [same for _ in self.population])
        return fuse(self.population, bases, correction=correction, calibration=self.data.calibration.x)

    def made(self, group: str, method: str, width: str, correction: str, make: Make) -> Row:
        """Make a network, and score it."""
        labels = self.name, self.seed, group, method, width, correction
        try:
            network, seconds, megabytes = measured(make, LIMITS.get(method, 0))
        except TimeoutError:
            return Row(*labels, math.nan, math.nan, math.inf, math.nan, LIMITS[method])
        size = sum(parameter.numel() for parameter in network.parameters())
        kept = str(network.assembly_.choice) if group == OURS else ""
        return Row(*labels, size, *self.score(self.run(network)), seconds, megabytes, kept)

    def run(self, network: nn.Module) -> Tensor:
        """Return outputs for the images that all is scored on: test, then validation."""
        images = torch.cat([self.data.test.x, self.data.validation.x])
        with torch.no_grad():
            return torch.cat([network(x) for x in images.split(250)])

    def score(self, outputs: Tensor) -> tuple[float, float, float]:
        """Return the accuracy in %, the error to the ensemble in nats, and how often its class is the same, in %."""
        labels = torch.cat([self.data.test.y, self.data.validation.y])
        near = agreement(outputs, self.ensemble, "classification")
        assert near.top1 is not None
        return float((outputs.argmax(1) == labels).double().mean()) * 100, near.error, near.top1 * 100


def with_options(recipe: Convolutional, options: argparse.Namespace) -> Convolutional:
    """Return a recipe with the changes of the command line."""
    if options.quick:
        recipe = replace(recipe, widths=(3, 4, 5), n_members=5, epochs=(1, 1))
    if options.widths:
        recipe = replace(recipe, widths=tuple(options.widths))
    if options.epochs:
        recipe = replace(recipe, epochs=tuple(options.epochs))
    return recipe


def rows_of(net: str, options: argparse.Namespace) -> Iterator[Row]:
    """All rows of one kind of network."""
    for seed in range(options.seeds):
        data = cs.load_data(options.data, random_state=seed, n_calibration=100 if options.quick else 5000)
        if options.quick:
            data = replace(data, train=data.train.take(torch.arange(min(150, len(data.train)))))
        if data.image_shape is None:
            raise SystemExit(f"--data must hold images (n, C, H, W), got {options.data.name}")
        look = GREY if data.image_shape[0] == 1 else COLOUR
        recipe = with_options(CONVOLUTIONAL[net, look], options)
        population = obtain_convolutional(net, recipe, data, seed, options.cache)
        name = f"{net} {recipe.widths}, {len(population)} members, images in {look}"
        steps = 10 if options.quick else options.steps
        yield from Contest(name, seed, population, data, seed < options.thorough, steps).rows()


def main() -> None:
    parser = arguments(__doc__ or "", data=True, seeds=3)
    parser.add_argument("--cache", type=Path, default=CACHE, help="directory of trained populations")
    parser.add_argument(
        "--thorough", type=int, default=1, help="populations with all rows; others without published and 4x ones"
    )
    parser.add_argument("--steps", type=int, default=500, help="gradient steps of each distillation")
    parser.add_argument("--widths", type=int, nargs="+", help="channels of each convolution or stage")
    parser.add_argument("--epochs", type=int, nargs=2, help="at the recipe's rate, and then at a tenth of it")
    nets = sorted({name for name, _ in CONVOLUTIONAL})
    parts = {net: Part(net, partial(rows_of, net), text, row=Row) for net in nets}
    run("Assemblies of convolutional networks", parts, parser, introduction=introduction)


if __name__ == "__main__":
    main()
