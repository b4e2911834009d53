"""Assemblies of convolutional networks with batch norm against the published ways to merge them.

    python benchmarks/convnets.py --data FILE.npz [FILE.npz ...] [--nets ConvNet ResNet-8] [--cache runs/populations]

For each file of images, kind of network and seed: the members and their ensemble; what is published, as published or
with moments (REPAIR); the best of that with our least squares; the ensemble distilled into a member, a widened member
and a fresh network; assemblies, chosen on held-out calibration images. Calibration images have no labels.

- Accuracies are in % on the test set and on a validation set that nothing was fitted to; only "best member" and the
  choice of the rivals that get our correction look at the latter's labels.
- Each row is made on one thread. Seconds are of processor time, so that others on the machine matter less; those of an
  assembly leave out the census, which all assemblies of a population share.
- Memory is what a row adds at its peak to the process: the high-water mark of resident memory (VmHWM), reset through
  /proc/self/clear_refs before the row, over what is resident then. Where there is no such file, none is told.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

import torch
from harness import arguments, command, mean_with_error, measured, met, parse, save
from populations import CACHE, COLOUR, CONVOLUTIONAL, GREY, Convolutional, obtain_convolutional
from torch import nn

import consilience as cs
from consilience import baselines
from consilience.baselines.distil import nearest_member
from consilience.baselines.fuse import fuse
from consilience.baselines.permutations import average_of, identity

REFERENCE, PUBLISHED, LENT, OURS = "reference", "published", "*their matching, our correction*", "assembly"
DISTILLED = "distilled"
MEMBER, NEAREST, ENSEMBLE, LEAST = "mean member", "nearest member", "ensemble", "least-squares"
STARTS = (("1x", "member"), ("1x", "fresh"), ("2x", "net2wider"), ("2x", "fresh"))
WIDTHS = ("1x", "2x", "4x")
N_LENT = 3  # rivals of each width that get our correction
LIMITS = {"C2M3": 120}  # seconds, after which a method is given up
MARKS = {  # points to the ensemble
    "ConvNet": {
        ("1x", LEAST): -2.0,
        ("2x", LEAST): -1.0,
        ("4x", LEAST): -0.4,
        ("1x", "distill"): -1.0,
        ("2x", "distill"): -0.5,
    },
    "ResNet-8": {
        ("1x", LEAST): -3.0,
        ("2x", LEAST): -1.5,
        ("4x", LEAST): -0.6,
        ("1x", "distill"): -1.5,
        ("2x", "distill"): -0.8,
    },
}

Make = Callable[[], nn.Module]


@dataclass(frozen=True)
class Row:
    """One network, or the mean member.

    Attributes
    ----------
    population, seed : which members it is made of.
    group, method, width, correction : what it is; "" for what it has not.
    parameters, test, validation : of the network; accuracies in %, NaN if it was given up.
    seconds, megabytes : what it took to make; NaN if not measured.
    difference : of test outputs to the ensemble's, at most, as a share of the largest output; where it should be 0.
    """

    population: str
    seed: int
    group: str
    method: str
    width: str
    correction: str
    parameters: float
    test: float
    validation: float
    seconds: float = math.nan
    megabytes: float = math.nan
    difference: float = math.nan


@dataclass
class Contest:
    """All methods on one population."""

    name: str
    seed: int
    population: cs.Population
    data: cs.Data

    def rows(self) -> Iterator[Row]:
        """Make everything; the census first, so that what all rows load is loaded."""
        x = self.data.calibration.x
        yield from self.references()
        fit = partial(cs.Census(n_resamples=0).fit, self.population, x)
        census, seconds, megabytes = measured(fit)
        nan = math.nan
        yield Row(self.name, self.seed, OURS, "census", "", "", nan, nan, nan, seconds, megabytes)
        rivals = []
        for row in self.rivals():
            rivals.append(row)
            yield row
        for width in dict.fromkeys(row.width for row in rivals):
            done = [row for row in rivals if row.width == width and not math.isnan(row.validation)]
            ranks = sorted(done, key=lambda row: -row.validation)
            for method in list(dict.fromkeys(row.method for row in ranks))[:N_LENT]:
                make = partial(self.published(width)[method], correction=LEAST)
                yield self.made(LENT, method, width, LEAST, make)
        for width, start in STARTS:
            wide = {} if start == "member" else {"width": width}
            make = partial(baselines.distil, self.population, x, start=start, **wide)
            yield self.made(DISTILLED, start, width, "distill", make)
        yield from self.ours(census)

    def references(self) -> Iterator[Row]:
        """The members, the best by labels, the one nearest to the ensemble on held-out images, and all together."""
        scores = [self.score(member.module) for member in self.population]
        mean = (statistics.mean(values) for values in zip(*scores, strict=True))
        yield Row(self.name, self.seed, REFERENCE, MEMBER, "", "", *mean)
        best = baselines.best_member(self.population, self.data.validation)
        nearest = self.population.members[nearest_member(self.population, self.data.calibration.x)].module
        together = baselines.Ensemble(self.population)
        for method, network in (("best member (labels)", best), (NEAREST, nearest), (ENSEMBLE, together)):
            yield Row(self.name, self.seed, REFERENCE, method, "", "", *self.score(network))

    def rivals(self) -> Iterator[Row]:
        """What is published, without correction and with moments."""
        for width in WIDTHS[:2]:
            for method, make in self.published(width).items():
                for correction in ("none", "moments"):
                    yield self.made(PUBLISHED, method, width, correction, partial(make, correction=correction))

    def published(self, width: str) -> dict[str, Callable[..., nn.Module]]:
        """By name, what makes a network of this width with a correction."""
        wider = {"transplantation": partial(self.without_need, baselines.transplantation, width=width)}
        if width != "1x":
            return wider
        transport, seen = baselines.transport_fusion, {"calibration": self.data.calibration.x}
        return {
            "parameter average": self.averaged,
            "weight matching": partial(self.without_need, baselines.weight_matching),
            "MergeMany": partial(self.without_need, baselines.merge_many),
            "activation matching": partial(baselines.activation_matching, self.population, **seen),
            "transport, weights": partial(self.without_need, transport, ground="weights"),
            "transport, activations": partial(transport, self.population, ground="activations", **seen),
            "C2M3": partial(self.without_need, baselines.cycle_matching),
            **wider,
        }

    def without_need(self, make: Callable[..., nn.Module], *, correction: str, **options: str) -> nn.Module:
        """Run a method that looks at data for corrections only."""
        calibration = None if correction == "none" else self.data.calibration.x
        return make(self.population, correction=correction, calibration=calibration, **options)

    def averaged(self, correction: str) -> nn.Module:
        """Return the mean of the parameters; what corrects it needs norms folded in before."""
        if correction == "none":
            return cs.parameter_average(self.population)
        same = identity(self.population)
        bases = average_of(self.population, [same for _ in self.population])
        return fuse(self.population, bases, correction=correction, calibration=self.data.calibration.x)

    def ours(self, census: cs.Census) -> Iterator[Row]:
        """Assemblies of one census."""
        for correction in ("none", "moments", LEAST, "second-order", "distill"):
            for width in WIDTHS[:2] if correction in ("second-order", "distill") else WIDTHS:
                make = partial(cs.assemble, census, width, correction=correction)
                yield self.made(OURS, OURS, width, correction, make)
        full = partial(cs.assemble, census, "full", correction="none")
        yield self.made(OURS, f"{OURS}, all units", "full", "none", full, check=True)

    def made(self, group: str, method: str, width: str, correction: str, make: Make, check: bool = False) -> Row:
        """Make a network, and score it; with ``check``, compare its outputs with the ensemble's."""
        labels = self.name, self.seed, group, method, width, correction
        try:
            network, seconds, megabytes = measured(make, LIMITS.get(method, 0))
        except TimeoutError:
            return Row(*labels, math.nan, math.nan, math.nan, LIMITS[method])
        difference = self.to_ensemble(network) if check else math.nan
        return Row(*labels, *self.score(network), seconds, megabytes, difference)

    def to_ensemble(self, network: nn.Module) -> float:
        """Return the largest difference of test outputs to the ensemble's, as a share of the largest output."""
        ensemble = baselines.Ensemble(self.population)
        with torch.no_grad():
            pairs = [(network(x), ensemble(x)) for x in self.data.test.x.split(250)]
        largest = max(float(theirs.abs().max()) for _, theirs in pairs)
        return max(float((ours - theirs).abs().max()) for ours, theirs in pairs) / largest

    def score(self, network: nn.Module) -> tuple[float, float, float]:
        """Return the number of parameters, and accuracies in % on test and validation."""
        size = sum(parameter.numel() for parameter in network.parameters())
        test, validation = (
            cs.evaluate(network, part).accuracy * 100 for part in (self.data.test, self.data.validation)
        )
        return size, test, validation


@dataclass(frozen=True)
class Line:
    """A row over all seeds; accuracies and differences to the ensemble are on (test, validation)."""

    group: str
    method: str
    width: str
    correction: str
    parameters: float
    accuracies: tuple[list[float], list[float]]
    points: tuple[list[float], list[float]]
    seconds: float
    megabytes: float

    @property
    def name(self) -> str:
        """What tells it from others."""
        return " ".join(
            filter(None, (self.width, f"{self.method}," if self.correction else self.method, self.correction))
        )

    def gap(self, part: int) -> float:
        """Mean difference to the ensemble on test (0) or validation (1)."""
        return statistics.mean(self.points[part])


def lines_of(rows: Sequence[Row]) -> list[Line]:
    """Return one population's rows over the seeds, in the order in which they were made."""
    ensembles = {row.seed: row for row in rows if row.method == ENSEMBLE}
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.group, row.method, row.width, row.correction), []).append(row)
    lines = []
    for key, group in groups.items():
        accuracies = [row.test for row in group], [row.validation for row in group]
        points = (
            [row.test - ensembles[row.seed].test for row in group],
            [row.validation - ensembles[row.seed].validation for row in group],
        )
        size, seconds, megabytes = (
            statistics.median(getattr(row, each) for row in group) for each in ("parameters", "seconds", "megabytes")
        )
        lines.append(Line(*key, size, accuracies, points, seconds, megabytes))
    return lines


def number(value: float, form: str, rest: str = "") -> str:
    """Write a number; nothing for NaN."""
    return "" if math.isnan(value) else f"{value:{form}}{rest}"


def table(lines: Sequence[Line]) -> Iterator[str]:
    """One population as markdown."""
    heads = "test (%)", "validation (%)", "test − ensemble", "validation − ensemble", "parameters", "seconds", "MB"
    yield f"| method | width | correction | {' | '.join(heads)} |"
    yield "| --- | --- | --- |" + " ---: |" * len(heads)
    for line in lines:
        name = f"{line.method} {line.group}" if line.group == LENT else line.method
        cells = (
            *map(mean_with_error, line.accuracies), *(mean_with_error(points, "+") for points in line.points),
            number(line.parameters, ",.0f"), number(line.seconds, ".1f"), number(line.megabytes, ".0f"),
        )  # fmt: skip
        yield f"| {' | '.join((name, line.width, line.correction, *cells))} |"


def marks(net: str, lines: Sequence[Line]) -> Iterator[str]:
    """What was asked of a population in colour, and what was measured; seconds count the census."""
    by = {(line.method, line.width, line.correction): line for line in lines}
    for (width, correction), mark in MARKS[net].items():
        for part, where in enumerate(("test", "validation")):
            line, gap = by[OURS, width, correction], by[OURS, width, correction].gap(part)
            yield f"- {where}: {line.name} {gap:+.2f} to the ensemble, mark {mark:+g}: {met(gap >= mark)}"
    for width, correction in product(WIDTHS[:2], (LEAST, "second-order")):
        for part, where in enumerate(("test", "validation")):
            ours = by[OURS, width, correction].gap(part)
            member, nearest = (by[name, "", ""].gap(part) for name in (MEMBER, NEAREST))
            asked = f"mean member {member:+.2f}, nearest member {nearest:+.2f}"
            yield f"- {where}: {width} {correction} {ours:+.2f}, {asked}: {met(ours >= max(member, nearest - 0.1))}"


def write(rows: Sequence[Row], titles: dict[str, str], shown: str) -> str:
    """Return the whole text as markdown."""
    n_seeds = len({row.seed for row in rows})
    text = [
        "# Assemblies of convolutional networks and their alternatives", "",
        f"`{shown}`", "",
        f"Populations of each kind: {n_seeds}; means over them, ± standard error where there are several. Points of "
        "accuracy are to the ensemble of the same members. Seconds are of processor time on one thread; those of "
        "assemblies leave out the census, which has a row of its own. MB: resident memory at the peak over what was "
        "resident before. Correction none is as published, moments is REPAIR. A row without accuracies was given up "
        "after its seconds. Standard error of one accuracy near 60 %: 1.5 points with 1000 images, 1.0 with 2500, "
        "0.7 with 5000.", "",
    ]  # fmt: skip
    judged = []
    for name, title in titles.items():
        lines = lines_of([row for row in rows if row.population == name])
        text += [f"## {title}", "", *table(lines), ""]
        for row in rows:
            if row.population == name and not math.isnan(row.difference):
                text += [
                    f"At full width, outputs differ from the ensemble's by {row.difference:.1e} of the largest.",
                    "",
                ]
        net = name.rpartition(", ")[2]
        if net in MARKS and COLOUR in title:
            judged += [f"{title}:", "", *marks(net, lines), ""]
    return "\n".join([*text, *(["## Marks", "", *judged] if judged else [])])


def with_options(recipe: Convolutional, options: argparse.Namespace) -> Convolutional:
    """Return a recipe with the changes of the command line."""
    if options.quick:
        recipe = replace(recipe, widths=(4, 6, 8), n_members=6, epochs=(1, 1))
    if options.widths:
        recipe = replace(recipe, widths=tuple(options.widths))
    if options.epochs:
        recipe = replace(recipe, epochs=tuple(options.epochs))
    return recipe


def main() -> None:
    parser = arguments(__doc__, seeds=1)
    nets = sorted({name for name, _ in CONVOLUTIONAL})
    parser.add_argument("--data", type=Path, nargs="+", required=True, help=".npz files of images")
    parser.add_argument("--nets", nargs="+", choices=nets, default=["ConvNet", "ResNet-8"])
    parser.add_argument("--cache", type=Path, default=CACHE, help="directory of trained populations")
    parser.add_argument("--widths", type=int, nargs="+", help="channels of each convolution or stage")
    parser.add_argument("--epochs", type=int, nargs=2, help="at the recipe's rate, and then at a tenth of it")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where members are trained")
    options = parse(parser)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device must be cpu: torch finds no GPU")
    shown = command(parser, options)
    rows: list[Row] = []
    titles: dict[str, str] = {}
    for path, net, seed in product(options.data, options.nets, range(options.seeds)):
        data = cs.load_data(path, random_state=seed, n_calibration=500 if options.quick else 5000)
        if options.quick:
            data = replace(data, train=data.train.take(torch.arange(min(2000, len(data.train)))))
        if data.image_shape is None:
            parser.error(f"--data must hold images (n, C, H, W), got {path.name}")
        look = GREY if data.image_shape[0] == 1 else COLOUR
        recipe = with_options(CONVOLUTIONAL[net, look], options)
        population = obtain_convolutional(net, recipe, data, seed, options.cache, options.device)
        name = f"{path.name}, {net}"
        titles[name] = f"{name} {recipe.widths}, {len(population)} members, {look}"
        print(f"{titles[name]}, seed {seed}", flush=True)
        for row in Contest(name, seed, population, data).rows():
            rows.append(row)
            label = " ".join((row.method, row.width, row.correction))
            print(f"  {label:<50}{row.test:7.2f}{row.validation:7.2f}{row.seconds:8.1f} s{row.megabytes:7.0f} MB")
        if options.out:  # so far
            options.out.write_text(write(rows, titles, shown))
            save(options.out.with_suffix(".json"), rows)
    print(write(rows, titles, shown))


if __name__ == "__main__":
    main()
