"""The table of `assembly.py`: differences to the ensemble, the best of each width and data in bold, and the marks."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

REFERENCE, OURS, ENSEMBLE = "reference", "assembly", "ensemble"
TITLES = {
    "A": "A: 8 members 784-128-64-10, relu",
    "B": "B: 32 members 784-64-32-10, relu",
    "C": "C: 10 members 784-100-10, each with other shares of the classes (Dirichlet 0.5)",
    "D": "D: 12 members of mixed widths, 784-{48,64,96,128}-{32,48,64}-10",
    "E": "E: as A, tanh",
}


class Run(Protocol):
    """What is read of a run; see `assembly.Run`."""

    population: str
    seed: int
    method: str
    width: str
    data: str
    parameters: int
    test: float
    validation: float
    seconds: float


@dataclass(frozen=True)
class Line:
    """One method at one width, over the seeds.

    Attributes
    ----------
    method, width, data : what it is.
    parameters, seconds : medians.
    test, validation : mean difference to the ensemble in points, and its standard error over seeds.
    """

    method: str
    width: str
    data: str
    parameters: int
    test: tuple[float, float]
    validation: tuple[float, float]
    seconds: float

    @property
    def ours(self) -> bool:
        """Whether it is an assembly."""
        return self.method.startswith(OURS)


def lines_of(runs: Sequence[Run]) -> list[Line]:
    """Return the lines of one population, in the order in which methods were run."""
    ensembles = {run.seed: run for run in runs if run.method == ENSEMBLE}
    found = []
    for key in dict.fromkeys((run.method, run.width, run.data) for run in runs):
        group = [run for run in runs if (run.method, run.width, run.data) == key]
        test = [run.test - ensembles[run.seed].test for run in group]
        validation = [run.validation - ensembles[run.seed].validation for run in group]
        parameters = round(statistics.median(run.parameters for run in group))
        seconds = statistics.median(run.seconds for run in group)
        found.append(Line(*key, parameters, _mean(test), _mean(validation), seconds))
    return found


def write(runs: Sequence[Run], shown: str) -> str:
    """Return the whole text as markdown."""
    seeds = len({run.seed for run in runs})
    text = [
        "# Assemblies and their alternatives", "",
        f"`{shown}`; {seeds} populations each.", "",
        "Accuracy against the ensemble of the same members (the mean of their outputs), in points: mean ± standard "
        "error over populations. In **bold** the best of each width and data. Seconds on one thread, beside a second "
        "process; those of assemblies count the census.", "",
    ]  # fmt: skip
    populations = {name: lines_of([run for run in runs if run.population == name]) for name in _names(runs)}
    marks = [line for name, lines in populations.items() for line in _marks(name, lines)]
    if marks:
        text += ["## Marks", "", *marks, ""]
    for name, lines in populations.items():
        text += [f"## {TITLES[name]}", "", *_references([run for run in runs if run.population == name]), ""]
        for kind in dict.fromkeys(line.data for line in lines if line.data != REFERENCE):
            text += [f"### Data: {kind}", "", *_table([line for line in lines if line.data == kind]), ""]
        text += _not_best(lines)
    return "\n".join(text) + "\n"


def _references(runs: Sequence[Run]) -> list[str]:
    rows = ["| Reference | Parameters | Test (%) | Validation (%) |", "| --- | ---: | ---: | ---: |"]
    for method in dict.fromkeys(run.method for run in runs if run.data == REFERENCE):
        group = [run for run in runs if run.method == method]
        test, validation = statistics.mean(r.test for r in group), statistics.mean(r.validation for r in group)
        rows.append(f"| {method} | {group[0].parameters:,} | {test:.2f} | {validation:.2f} |")
    return rows


def _table(lines: Sequence[Line]) -> list[str]:
    rows = [
        "| Width | Method | Test | Validation | Parameters | Seconds |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for width in sorted({line.width for line in lines}):
        group = [line for line in lines if line.width == width]
        tops = [max(line.test[0] for line in group), max(line.validation[0] for line in group)]
        for line in sorted(group, key=lambda line: -line.test[0] - line.validation[0]):
            cells = (
                f"**{_points(value)}**" if value[0] == top else _points(value)
                for value, top in zip((line.test, line.validation), tops, strict=True)
            )
            name = f"*{line.method}*" if line.ours else line.method
            rows.append(f"| {width} | {name} | {' | '.join(cells)} | {line.parameters:,} | {_seconds(line.seconds)} |")
    return rows


def _not_best(lines: Sequence[Line]) -> list[str]:
    """Say in bold where another method is best at the same width and data."""
    found = []
    for kind, width in dict.fromkeys((line.data, line.width) for line in lines if line.data != REFERENCE):
        group = [line for line in lines if (line.data, line.width) == (kind, width)]
        for what in ("test", "validation"):
            value: Callable[[Line], tuple[float, float]] = lambda line, what=what: getattr(line, what)  # noqa: E731
            best = max(group, key=value)
            own = max((line for line in group if line.ours), key=value, default=None)
            if own is not None and not best.ours:
                found.append(
                    f"- **{width}, {kind}, {what}: {best.method} is best** ({_points(value(best))}; "
                    f"ours {_points(value(own))})."
                )
    return ["Where an assembly is not the best:", "", *found, ""] if found else ["An assembly is best everywhere.", ""]


def _marks(name: str, lines: Sequence[Line]) -> Iterable[str]:
    """The project's marks for one population, and what was measured."""

    def best(methods: Sequence[str], width: str, what: str) -> Line:
        group = [line for line in lines if line.method in methods and line.width == width]
        return max(group, key=lambda line: getattr(line, what)[0])

    def judge(label: str, line: Line, what: str, mark: float, limit: float) -> str:
        value = getattr(line, what)
        quality = "met" if value[0] >= mark else "**missed**"
        time = f"{_seconds(line.seconds)} s of {limit:g}: {'met' if line.seconds <= limit else '**missed**'}"
        return f"- {label} ({line.method}): {_points(value)}, mark {mark:+g}: {quality}; {time}"

    closed, steps = ["assembly, least-squares", "assembly, second-order"], ["assembly, distill"]
    for methods, what, marks in {
        "A": [
            (closed, "test", {"1x": (-0.6, 1), "2x": (-0.2, 3), "4x": (-0.05, 5)}),
            (steps, "test", {"1x": (-0.3, 6), "2x": (-0.1, 8), "4x": (0.0, 10)}),
        ],
        "B": [(closed, "validation", {"1x": (-1.2, 1), "2x": (-0.5, 2), "4x": (-0.2, 3)})],
        "C": [(["assembly, least-squares, class-share"], "test", {"1x": (-1.0, 3), "4x": (0.5, 3)})],
    }.get(name, []):
        for width, (mark, limit) in marks.items():
            for method in methods:
                yield judge(f"{name} {width}, {what}", best([method], width, what), what, mark, limit)
    if name == "A":
        for own, rival in (("assembly", "MergeMany"), ("assembly, moments", "MergeMany, moments")):
            mine, theirs = best([own], "1x", "test"), best([rival], "1x", "test")
            verdict = "met" if mine.test[0] > theirs.test[0] else "**missed**"
            yield (
                f"- A 1x, {mine.data}: {own} {_points(mine.test)} in {_seconds(mine.seconds)} s, "
                f"{rival} {_points(theirs.test)}: {verdict}"
            )


def _mean(values: Sequence[float]) -> tuple[float, float]:
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return statistics.mean(values), error


def _points(value: tuple[float, float]) -> str:
    return f"{value[0]:+.2f} ± {value[1]:.2f}"


def _seconds(value: float) -> str:
    return f"{value:.1f}" if value >= 0.95 else f"{value:.2f}"


def _names(runs: Sequence[Run]) -> list[str]:
    return sorted({run.population for run in runs})
