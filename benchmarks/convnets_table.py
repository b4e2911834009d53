"""The tables of `convnets.py`: rows over populations, paired differences to the best rival, and the marks."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness import mean_with_error, met, table
from populations import COLOUR

REFERENCE, PUBLISHED, WHOLE, DISTILLED, OURS = "reference", "published", "whole members", "distilled", "assembly"
LENT = "*their matching, our correction*"
MEMBER, BEST, NEAREST, ENSEMBLE = "mean member", "best member (labels)", "nearest member", "ensemble"
LEAST = "least-squares"
ORDER = ((LEAST, "second-order"), (LEAST, "distill"))  # a weaker correction and a stronger one
ONE_POPULATION = 0.8  # points: standard error of a difference of two networks on 3500 images
Key = tuple[str, str, str, str]
MARKS = {  # points to the ensemble, on images in colour
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
INTRODUCTION = """\
Accuracies are of 1000 test and 2500 validation images together (on MNIST 3000 and 5000), in points to the ensemble of
the same members; *error* is the divergence to the ensemble's class probabilities on these images in nats, *top-1* how
often the class is the ensemble's. No network is fitted to these images and none of ours is chosen on them; "best
member (labels)" is the best on these very images, and so are the best rivals that paired differences are to. Means over
populations ± their standard error. Seconds are medians of processor time on one thread; an assembly's leave out the
census (a row of its own) and what an earlier row of the same `Assembler` did: second-order and distill go on from the
networks of least squares. MB: resident memory at the peak over what was resident before the row. Every
distillation takes the same steps, images, held-out images and search of the rate. Published methods have moments
(REPAIR) and were run on the first population alone, where the standard error of a difference is about 0.8 points."""


@dataclass(frozen=True)
class Row:
    """One network, or the mean member.

    Attributes
    ----------
    population, seed : which members it is made of.
    group, method, width, correction : what it is; "" for what it has not.
    parameters : of the network.
    accuracy, error, top1 : in %, in nats to the ensemble, and share of its classes in %; infinite error if given up.
    seconds, megabytes : what it took to make; NaN if not measured.
    kept : what an assembly was made of.
    """

    population: str
    seed: int
    group: str
    method: str
    width: str
    correction: str
    parameters: float = math.nan
    accuracy: float = math.nan
    error: float = math.nan
    top1: float = math.nan
    seconds: float = math.nan
    megabytes: float = math.nan
    kept: str = ""

    @property
    def key(self) -> Key:
        """What it is in any population: group, method, width, correction."""
        return self.group, self.method, self.width, self.correction


@dataclass(frozen=True)
class Results:
    """The rows of one kind of network."""

    rows: Sequence[Row]

    @property
    def keys(self) -> list[Key]:
        """What there is, in the order in which it was made."""
        return list(dict.fromkeys(row.key for row in self.rows))

    def of(self, key: Key) -> list[Row]:
        """Return the rows of one network, one for each population that has it."""
        return [row for row in self.rows if row.key == key]

    def paired(self, key: Key, other: Key, column: str = "accuracy") -> list[float]:
        """Return differences of a column to another network, in the populations that have both."""
        theirs = {row.seed: getattr(row, column) for row in self.of(other)}
        return [getattr(row, column) - theirs[row.seed] for row in self.of(key) if row.seed in theirs]

    def points(self, key: Key) -> list[float]:
        """Return differences of accuracy to the ensemble."""
        return self.paired(key, (REFERENCE, ENSEMBLE, "", ""))

    def best(self, keys: Iterable[Key]) -> Key | None:
        """Return the network of the highest mean accuracy to the ensemble."""
        found = [key for key in keys if key in self.keys and math.isfinite(statistics.mean(self.points(key)))]
        return max(found, key=lambda key: statistics.mean(self.points(key)), default=None)


def text(rows: Sequence[Row]) -> Iterator[str]:
    """One kind of network as markdown."""
    results = Results(rows)
    yield from (rows[0].population, "", *_networks(results), "", *_differences(results), "", *_marks(results), "")


def introduction(rows: Mapping[str, Sequence[Row]]) -> Iterable[str]:
    """Return what all tables share."""
    return [INTRODUCTION]


def _networks(results: Results) -> list[str]:
    heads = ["network", "width", "populations", "points", "error", "top-1 (%)", "parameters", "s", "MB"]
    lines = []
    for key in results.keys:
        own, first = results.of(key), results.of(key)[0]
        name = f"{_name(key)} {LENT}" if first.group == LENT else _name(key)
        cells = (mean_with_error([getattr(row, column) for row in own]) for column in ("top1",))
        errors = [row.error for row in own]
        error = f"{statistics.mean(errors):.4f}" if all(map(math.isfinite, errors)) else ""
        numbers = (
            _number(statistics.median(getattr(row, column) for row in own), form)
            for column, form in (("parameters", ",.0f"), ("seconds", ".0f"), ("megabytes", ".0f"))
        )
        lines.append(
            [name, first.width, str(len(own)), mean_with_error(results.points(key), "+"), error, *cells, *numbers]
        )
    return table(heads, lines, n_labels=2)


def _differences(results: Results) -> list[str]:
    """Ours against the best rival of the same width: without gradient steps, and distilled."""
    heads = ["assembly", "best rival of its width", "populations", "points", "error"]
    lines = []
    for key in (key for key in results.keys if key[0] == OURS and key[2]):
        best = results.best(_rivals(results, key))
        if best is not None:
            points, errors = results.paired(key, best), results.paired(key, best, "error")
            cells = [f"{key[2]}, {key[3]}", _name(best), str(len(points)), mean_with_error(points, "+")]
            lines.append([*cells, f"{statistics.mean(errors):+.4f}"])
    return table(heads, lines, n_labels=2)


def _rivals(results: Results, key: Key) -> list[Key]:
    """Networks of the same width that are no assembly; distilled if the assembly is."""
    groups = (DISTILLED,) if key[3] == "distill" else (PUBLISHED, LENT, WHOLE)
    rivals = [other for other in results.keys if other[0] in groups and other[2] == key[2]]
    member = (REFERENCE, NEAREST, "", "")
    return [*rivals, member] if key[3] != "distill" and key[2] == "1x" else rivals


def _marks(results: Results) -> Iterator[str]:
    """What was asked, and what was measured."""
    name = results.rows[0].population
    asked = MARKS.get(name.split(" ")[0], {}) if COLOUR in name else {}
    ours = {key[2:]: key for key in results.keys if key[0] == OURS and key[2]}
    for kind, mark in asked.items():
        if kind in ours:
            gap = statistics.mean(results.points(ours[kind]))
            yield f"- {', '.join(kind)}: {gap:+.2f} to the ensemble, mark {mark:+g}: {met(gap >= mark)}"
    for (width, correction), key in ours.items():
        if correction == "distill":
            rivals = [other for other in _rivals(results, key) if other[1] != "distilled fresh"]
            yield from (_against(results, key, other, 0.0) for other in rivals)
        elif width == "4x":
            gap = statistics.mean(results.points(key))
            yield f"- {width}, {correction}: {gap:+.2f} to the ensemble, mark -0.2: {met(gap >= -0.2)}"
        else:
            slack = {NEAREST: 0.1, MEMBER: 0.0} if width == "1x" else {BEST: 0.0}
            yield from (_against(results, key, (REFERENCE, other, "", ""), below) for other, below in slack.items())
    for (width, stronger), (_, weaker) in ((a, b) for a in ours for b in ours if a[0] == b[0]):
        if (weaker, stronger) in ORDER:
            gaps = results.paired(ours[width, stronger], ours[width, weaker])
            error = statistics.stdev(gaps) / math.sqrt(len(gaps)) if len(gaps) > 1 else ONE_POPULATION
            fine = met(statistics.mean(gaps) >= -error)
            difference = f"{width}: {stronger} − {weaker} {mean_with_error(gaps, '+')}"
            yield f"- {difference}, not below zero by a standard error: {fine}"


def _against(results: Results, key: Key, other: Key, below: float) -> str:
    gaps = results.paired(key, other)
    fine = met(statistics.mean(gaps) >= -below)
    return f"- {key[2]}, {key[3]}: {mean_with_error(gaps, '+')} to the {_name(other)}, mark {-below:+g}: {fine}"


def _name(key: Key) -> str:
    group, method, _, correction = key
    return method if group == DISTILLED or not correction else f"{method}, {correction}"


def _number(value: float, form: str) -> str:
    return "" if math.isnan(value) else f"{value:{form}}"
