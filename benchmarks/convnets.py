"""Assemblies of convolutional networks with batch norm against the published ways to merge them.

    python benchmarks/convnets.py --data FILE.npz [FILE.npz ...] [--nets ConvNet ResNet-8] [--cache runs/populations]

For each file of images, kind of network and seed: the members and their ensemble; what is published, as published or
with moments (REPAIR); the best of that with our least squares; assemblies. Calibration images have no labels.

- Accuracies are in % on the test set and on a validation set that nothing was fitted to; only "best member" and the
  choice of the rivals that get our correction look at the latter's labels.
- Each row is made on one thread. Seconds are of processor time, so that others on the machine matter less; those of an
  assembly leave out the census, which all assemblies of a population share.
- Memory is what a row adds at its peak to the process: the high-water mark of resident memory (VmHWM), reset through
  /proc/self/clear_refs before the row, over what is resident then. Where there is no such file, none is told.
- ``--quick`` tells in a minute or two whether all this runs; its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import math
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TypeVar

import torch
from populations import COLOUR, CONVOLUTIONAL, GREY, Convolutional, obtain_convolutional
from torch import nn

import consilience as cs
from consilience import baselines
from consilience.baselines.fuse import fuse
from consilience.baselines.permutations import average_of, identity

REFERENCE, PUBLISHED, LENT, OURS = "reference", "published", "*their matching, our correction*", "assembly"
ENSEMBLE, LEAST = "ensemble", "least-squares"
WIDTHS = ("1x", "2x", "4x")
N_LENT = 3  # rivals of each width that get our correction
LIMITS = {"C2M3": 120}  # seconds, after which a method is given up

Make = Callable[[], nn.Module]
Made = TypeVar("Made")


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
        yield from self.ours(census)

    def references(self) -> Iterator[Row]:
        """The members, the best of them, and all together."""
        scores = [self.score(member.module) for member in self.population]
        mean = (statistics.mean(values) for values in zip(*scores, strict=True))
        yield Row(self.name, self.seed, REFERENCE, "mean member", "", "", *mean)
        best = baselines.best_member(self.population, self.data.validation)
        for method, network in (("best member (labels)", best), (ENSEMBLE, baselines.Ensemble(self.population))):
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
        same = identity({layer.name: layer.width for layer in self.population.architecture.free})
        bases = average_of(self.population, [same for _ in self.population])
        return fuse(self.population, bases, correction=correction, calibration=self.data.calibration.x)

    def ours(self, census: cs.Census) -> Iterator[Row]:
        """Assemblies of one census."""
        for correction in ("none", "moments", LEAST):
            for width in WIDTHS:
                choices = ("reconstruction", "cut") if correction == LEAST else ("cut",)
                for choice in choices:
                    name = f"{OURS}, {choice}"
                    make = partial(cs.assemble, census, width, correction=correction, choice=choice)
                    yield self.made(OURS, name, width, correction, make)
        full = partial(cs.assemble, census, "full", correction="none")
        yield self.made(OURS, f"{OURS}, all units", "full", "none", full, check=True)
        for width in WIDTHS[:2]:
            name = f"{OURS}, reconstruction"
            yield self.made(OURS, name, width, "distill", partial(cs.assemble, census, width, correction="distill"))

    def made(self, group: str, method: str, width: str, correction: str, make: Make, check: bool = False) -> Row:
        """Make a network, and score it; with ``check``, compare its outputs with the ensemble's."""
        labels = self.name, self.seed, group, method, width, correction
        try:
            network, seconds, megabytes = measured(make, LIMITS.get(method))
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


def measured(make: Callable[[], Made], limit: int | None = None) -> tuple[Made, float, float]:
    """Return what is made, the seconds of processor time it took, and how many megabytes more were in use at the peak.

    Raises
    ------
    TimeoutError
        If it takes more than ``limit`` seconds.
    """

    def give_up(number: int, frame: FrameType | None) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(limit or 0)
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)  # memory that is free but kept would hide what a row takes
    reset, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if reset.exists():
        reset.write_text("5")
    before, began = resident(status, "VmRSS"), time.process_time()
    try:
        made = make()
    finally:
        signal.alarm(0)
    return made, time.process_time() - began, resident(status, "VmHWM") - before


def resident(status: Path, what: str) -> float:
    """Return a figure of the process's resident memory in megabytes, NaN where the system does not tell."""
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(what)), math.nan)


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


def told(values: Sequence[float], sign: str = "") -> str:
    """Write a mean, with its standard error if there are several values."""
    error = f" ± {statistics.stdev(values) / math.sqrt(len(values)):.2f}" if len(values) > 1 else ""
    return number(statistics.mean(values), f"{sign}.2f", error)


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
            *map(told, line.accuracies), *(told(points, "+") for points in line.points),
            number(line.parameters, ",.0f"), number(line.seconds, ".1f"), number(line.megabytes, ".0f"),
        )  # fmt: skip
        yield f"| {' | '.join((name, line.width, line.correction, *cells))} |"


def marks(lines: Sequence[Line]) -> Iterator[str]:
    """What was asked of a population of ConvNets in colour, and what was measured."""
    least = {
        line.width: line for line in lines if line.method == f"{OURS}, reconstruction" and line.correction == LEAST
    }
    scored = [line for line in lines if line.group == PUBLISHED and not math.isnan(line.gap(0) + line.gap(1))]
    for part, where in enumerate(("test", "validation")):
        best = max(scored, key=lambda line, part=part: line.gap(part))
        ahead = least["1x"].gap(part) - best.gap(part)
        rival = f"{best.name}: {told(best.accuracies[part])} %"
        yield f"- {where}: 1x least-squares {ahead:+.2f} to the best published ({rival}), mark +5: {met(ahead >= 5)}"
        for width, mark in (("2x", -2.0), ("4x", -0.5)):
            gap = least[width].gap(part)
            yield f"- {where}: {width} least-squares {gap:+.2f} to the ensemble, mark {mark:+g}: {met(gap >= mark)}"


def met(fine: bool) -> str:
    return "met" if fine else "**missed**"


def write(rows: Sequence[Row], titles: dict[str, str], options: str) -> str:
    """Return the whole text as markdown."""
    n_seeds = len({row.seed for row in rows})
    text = [
        "# Assemblies of convolutional networks and their alternatives", "",
        f"`python benchmarks/convnets.py {options}`", "",
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
        if "ConvNet" in name and COLOUR in title:
            judged += [f"{title}:", "", *marks(lines), ""]
    return "\n".join([*text, *(["## Marks", "", *judged] if judged else [])])


def with_options(recipe: Convolutional, arguments: argparse.Namespace) -> Convolutional:
    """Return a recipe with what the command line says otherwise."""
    if arguments.quick:
        recipe = replace(recipe, widths=(4, 6, 8), n_members=6, epochs=(1, 1))
    if arguments.widths:
        recipe = replace(recipe, widths=tuple(arguments.widths))
    if arguments.epochs:
        recipe = replace(recipe, epochs=tuple(arguments.epochs))
    return recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    nets = sorted({name for name, _ in CONVOLUTIONAL})
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--nets", nargs="+", choices=nets, default=["ConvNet", "ResNet-8"])
    parser.add_argument(
        "--cache", type=Path, default=Path("runs/populations"), help="where trained populations are kept"
    )
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--widths", type=int, nargs="+", help="channels of each convolution or stage")
    parser.add_argument("--epochs", type=int, nargs=2, help="at the recipe's rate, and then at a tenth of it")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where members are trained")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, help="a file for the text; the rows go beside it, as .json")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: there is no GPU that torch can use; leave it out")
    torch.set_num_threads(1)
    began = time.perf_counter()
    rows: list[Row] = []
    titles: dict[str, str] = {}
    for path in arguments.data:
        for net in arguments.nets:
            for seed in range(arguments.seeds):
                data = cs.load_data(path, random_state=seed, n_calibration=500 if arguments.quick else 5000)
                if arguments.quick:
                    data = replace(data, train=data.train.take(torch.arange(2000)))
                if data.image_shape is None:
                    parser.error(f"--data {path.name}: these are no images")
                look = GREY if data.image_shape[0] == 1 else COLOUR
                recipe = with_options(CONVOLUTIONAL[net, look], arguments)
                population = obtain_convolutional(net, recipe, data, seed, arguments.cache, arguments.device)
                name = f"{path.name}, {net}"
                titles[name] = f"{name} {recipe.widths}, {len(population)} members, {look}"
                print(f"{titles[name]}, seed {seed}: {time.perf_counter() - began:.0f} s", flush=True)
                for row in Contest(name, seed, population, data).rows():
                    rows.append(row)
                    label = " ".join((row.method, row.width, row.correction))
                    print(
                        f"  {label:<50}{row.test:7.2f}{row.validation:7.2f}{row.seconds:8.1f} s{row.megabytes:7.0f} MB",
                        flush=True,
                    )
            if arguments.out:  # so far
                save(rows, titles, arguments)
    print(write(rows, titles, options_of(arguments)))
    print(f"{time.perf_counter() - began:.0f} s in all")


def options_of(arguments: argparse.Namespace) -> str:
    """Return the command line that leads to the same numbers, without directories."""
    given = [f"--data {' '.join(path.name for path in arguments.data)}", f"--nets {' '.join(arguments.nets)}"]
    given += [f"--seeds {arguments.seeds}"] if arguments.seeds > 1 else []
    given += [f"--widths {' '.join(map(str, arguments.widths))}"] if arguments.widths else []
    given += [f"--epochs {' '.join(map(str, arguments.epochs))}"] if arguments.epochs else []
    given += [f"--device {arguments.device}"] if arguments.device != "cpu" else []
    return " ".join([*given, *(["--quick"] if arguments.quick else [])])


def save(rows: Sequence[Row], titles: dict[str, str], arguments: argparse.Namespace) -> None:
    """Write both files."""
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.with_suffix(".md").write_text(write(rows, titles, options_of(arguments)))
    known = [{name: value for name, value in asdict(row).items() if value == value} for row in rows]  # JSON has no NaN
    arguments.out.with_suffix(".json").write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
