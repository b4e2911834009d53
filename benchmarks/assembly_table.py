"""The table of `assembly.py`: differences to the ensemble, paired differences to the best rival, and the marks.

What is best is chosen on validation images alone; the test column is read afterwards.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from harness import met, shared_error, table
from numpy.typing import NDArray

NO_DATA, IMAGES, STEPS = "none", "5000 images", "5000 images, 500 steps"
CORRECTIONS = {"none": NO_DATA, "moments": IMAGES, "least-squares": IMAGES, "second-order": IMAGES, "distill": STEPS}
MEAN = "mean"
REFERENCE, OURS, ENSEMBLE = "reference", "assembly", "ensemble"
TEST, VALIDATION = 0, 1
TITLES = {
    "A": "A: 8 members 784-128-64-10, relu",
    "B": "B: 32 members 784-64-32-10, relu",
    "C": "C: 10 members 784-100-10, each with other shares of the classes (Dirichlet 0.5)",
    "D": "D: 12 members of mixed widths, 784-{48,64,96,128}-{32,48,64}-10",
    "E": "E: as A, tanh",
}
Right = NDArray[np.float64]


@dataclass(frozen=True)
class Kind:
    """What a network is: one method at one width; empty strings for what it has not."""

    method: str
    width: str = ""
    pooling: str = ""
    correction: str = ""
    data: str = REFERENCE

    @property
    def ours(self) -> bool:
        """Whether it is an assembly."""
        return self.method == OURS

    def __str__(self) -> str:
        return ", ".join(filter(None, (self.method, self.correction, self.pooling)))


@dataclass(frozen=True)
class Run:
    """One network that one method made in one population.

    Attributes
    ----------
    population, seed, kind : what it is.
    parameters : of the network.
    right : of each test and each validation image (n,), whether it is classified correctly; of the mean member, how
        often. Populations share the test images; each has its own validation images.
    seconds : what it took to make.
    """

    population: str
    seed: int
    kind: Kind
    parameters: int
    right: tuple[Right, Right]
    seconds: float

    def record(self) -> dict[str, object]:
        """Return what is kept of it: accuracies in %, in place of images."""
        test, validation = (float(right.mean()) * 100 for right in self.right)
        scores = {"parameters": self.parameters, "test": test, "validation": validation, "seconds": self.seconds}
        return {"population": self.population, "seed": self.seed, **asdict(self.kind), **scores}


@dataclass(frozen=True)
class Gap:
    """A mean difference in points of accuracy, and its standard error."""

    mean: float
    error: float

    def __str__(self) -> str:
        return f"{self.mean:+.2f} ± {self.error:.2f}"


@dataclass(frozen=True)
class Line:
    """One kind of network, over the populations of one recipe; parameters and seconds are medians."""

    kind: Kind
    runs: tuple[Run, ...]  # one for each seed, in order
    gaps: tuple[Gap, Gap]  # to the ensemble: test, validation

    @property
    def parameters(self) -> int:
        """Of the network."""
        return round(statistics.median(run.parameters for run in self.runs))

    @property
    def seconds(self) -> float:
        """What it took to make."""
        return statistics.median(run.seconds for run in self.runs)


def lines_of(runs: Sequence[Run]) -> list[Line]:
    """Return the lines of one recipe, in the order in which methods were run."""
    ensembles = [run for run in runs if run.kind.method == ENSEMBLE]
    lines = []
    for kind in dict.fromkeys(run.kind for run in runs):
        group = tuple(run for run in runs if run.kind == kind)
        lines.append(Line(kind, group, (gap(group, ensembles, TEST), gap(group, ensembles, VALIDATION))))
    return lines


def gap(runs: Sequence[Run], rivals: Sequence[Run], part: int) -> Gap:
    """Return the mean paired difference of runs to rivals of the same seeds."""
    pairs = [(a.right[part], b.right[part]) for a in runs for b in rivals if a.seed == b.seed]
    differences = 100 * np.array([a - b for a, b in pairs])
    if part == TEST or len(pairs) == 1:
        return Gap(float(differences.mean()), shared_error(differences))
    means = differences.mean(1)
    return Gap(float(means.mean()), float(means.std(ddof=1) / np.sqrt(len(means))))


def write(runs: Sequence[Run], shown: str) -> str:
    """Return the whole text as markdown."""
    seeds = len({run.seed for run in runs})
    text = [
        "# Assemblies and their alternatives",
        "",
        f"`{shown}`; {seeds} populations each.",
        "",
        "Accuracy against the ensemble of the same members (the mean of their outputs), in points, ± standard error. "
        "All populations share the test images, so the standard error of a test difference counts images as well as "
        "populations; each population has its own validation images. What is best (**bold**, and the best rival) is "
        "chosen on validation images; nothing is chosen on test images. Seconds are of processor "
        "time on one thread; those of assemblies count the census.",
        "",
    ]
    recipes = {
        name: lines_of([run for run in runs if run.population == name]) for name in sorted({r.population for r in runs})
    }
    marks = [line for name, lines in recipes.items() for line in _marks(name, lines)]
    if marks:
        text += ["## Marks", "", *marks, ""]
    for name, lines in recipes.items():
        text += [f"## {TITLES[name]}", "", *_references(lines), "", *_best_rivals(lines), ""]
        for data in dict.fromkeys(line.kind.data for line in lines if line.kind.data != REFERENCE):
            text += [f"### Data: {data}", "", *_table([line for line in lines if line.kind.data == data]), ""]
    return "\n".join(text) + "\n"


def _references(lines: Sequence[Line]) -> list[str]:
    def percent(line: Line, part: int) -> str:
        return f"{100 * statistics.mean(float(run.right[part].mean()) for run in line.runs):.2f}"

    return table(
        ["Reference", "Parameters", "Test (%)", "Validation (%)", "Test − ensemble", "Validation − ensemble"],
        (
            [
                line.kind.method,
                f"{line.parameters:,}",
                percent(line, TEST),
                percent(line, VALIDATION),
                *map(str, line.gaps),
            ]
            for line in lines
            if line.kind.data == REFERENCE
        ),
    )


def _table(lines: Sequence[Line]) -> list[str]:
    def cells() -> Iterator[list[str]]:
        for width in sorted({line.kind.width for line in lines}):
            group = sorted((line for line in lines if line.kind.width == width), key=_on_validation, reverse=True)
            for line in group:
                gaps = [f"**{each}**" if line is group[0] else str(each) for each in line.gaps]
                kind = line.kind
                name = f"*{kind.method}*" if kind.ours else kind.method
                size = f"{line.parameters:,}"
                yield [width, name, kind.correction, kind.pooling, *gaps, size, _seconds(line.seconds)]

    heads = ["Width", "Method", "Correction", "Pooling", "Test", "Validation", "Parameters", "Seconds"]
    return table(heads, cells(), n_labels=4)


def _best_rivals(lines: Sequence[Line]) -> list[str]:
    """For each data, pooling and width: our best kind, the best rival, and their paired difference."""

    def cells() -> Iterator[list[str]]:
        made = [line for line in lines if line.kind.data != REFERENCE]
        for key in dict.fromkeys(_terms(line.kind) for line in made):
            group = [line for line in made if _terms(line.kind) == key]
            ours, rivals = ([line for line in group if line.kind.ours is own] for own in (True, False))
            if ours and rivals:
                best, rival = max(ours, key=_on_validation), max(rivals, key=_on_validation)
                names = (f"{line.kind.method}, {line.kind.correction}" for line in (best, rival))
                paired = (str(gap(best.runs, rival.runs, part)) for part in (TEST, VALIDATION))
                yield [*key, *names, str(best.gaps[TEST]), str(rival.gaps[TEST]), *paired]

    heads = ["Data", "Pooling", "Width", "Ours", "Best rival", "Ours, test", "Rival, test"]
    return table([*heads, "Ours − rival, test", "Ours − rival, validation"], cells(), n_labels=5)


def _terms(kind: Kind) -> tuple[str, str, str]:
    """What two kinds have in common that are compared."""
    return kind.data, kind.pooling, kind.width


def _on_validation(line: Line) -> float:
    return line.gaps[VALIDATION].mean


def _marks(name: str, lines: Sequence[Line]) -> Iterator[str]:
    """The project's marks for one recipe, of assemblies with least squares, and what was measured."""
    by_kind = {line.kind: line for line in lines}
    plain = Kind(OURS, pooling=MEAN, correction="least-squares", data=IMAGES)
    part, where = (VALIDATION, "validation") if name == "B" else (TEST, "test")
    for width, (mark, limit) in MARKS.get(name, {}).items():
        line = by_kind[replace(plain, width=width)]
        value, time = line.gaps[part], f"{_seconds(line.seconds)} s of {limit:g}: {met(line.seconds <= limit)}"
        yield f"- {name} {width}, {where}: {value}, mark {mark:+g}: {met(value.mean >= mark)}; {time}"
    for width, method in (("1x", "mean member"), ("2x", "best member (labels)")):
        ahead = gap(by_kind[replace(plain, width=width)].runs, by_kind[Kind(method)].runs, TEST)
        yield f"- {name} {width}, test − {method}: {ahead}, mark +0: {met(ahead.mean >= 0)}"


MARKS = {  # by recipe and width: points to the ensemble, and seconds with the census
    "A": {"1x": (-0.45, 1), "2x": (-0.15, 1.5), "4x": (-0.05, 3)},
    "B": {"1x": (-0.95, 2), "2x": (-0.4, 2.5), "4x": (-0.2, 4)},
    "C": {"4x": (-0.2, 4)},
    "D": {"4x": (-0.2, 4)},
    "E": {"4x": (-0.2, 4)},
}


def _seconds(value: float) -> str:
    return f"{value:.1f}" if value >= 0.95 else f"{value:.2f}"
