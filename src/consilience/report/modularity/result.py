"""What a measurement of modularity gives: the networks as a table, the one shown in detail, and a verdict.

An n-cut is reported beside those of shuffled copies. Networks of different sizes are compared by how far the n-cut is
*below* that of their own copies, as a share of it: z and the n-cut of copies both grow with the number of units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from consilience.errors import InputError
from consilience.modularity import Circuit, Clusterability, CrossModularity
from consilience.modularity.graph import Part
from consilience.modularity.lesions import Effects, Lesions, Specialisation
from consilience.report.numbers import decimal, with_precise_spread
from consilience.report.tables import Column, Table

CHANCE = 0.05  # p up to which a network is called more modular than by chance
LESS = 2.0  # z above which it is called less modular
BEYOND = 2.0  # standard deviations of random sets beyond which a lesion counts
NULLS = {
    "permute": "networks with the same weights shuffled",
    "permute-nonzero": "networks with the same weights shuffled, zeros in their places,",
    "degree-preserving": "networks shuffled so that every unit keeps the number and sum of its edges",
}
CRITERIA = {"class": "the published criterion (the class's own samples)", "one-vs-rest": "one against the rest"}


@dataclass(frozen=True)
class NetworkRow:
    """One network of the table."""

    name: str
    kind: str  # "member", "assembly" or "network"
    accuracy: float | None  # 0 to 1; None if there are no labelled data
    n_units: int  # inputs and outputs included
    n_removed: int  # units without an edge
    n_cut: float  # of its clusters
    null_mean: float  # mean of the n-cuts of its shuffled copies
    null_sd: float
    z: float  # of the n-cut among those of the copies; low is modular
    p: float
    cross: float  # mean cross-cluster modularity of its weight matrices; NaN if unknown
    cross_null: float  # the same of shuffled matrices; NaN if one of them cannot be shuffled
    r2: float | None = None  # of networks of numbers, in place of the accuracy

    @classmethod
    def of(
        cls,
        name: str,
        kind: str,
        accuracy: float | None,
        fitted: Clusterability,
        cross: Sequence[CrossModularity],
        r2: float | None = None,
    ) -> NetworkRow:
        """Return the row of a network from its n-cuts and the C of its matrices."""
        null = fitted.null_ if len(fitted.null_) > 1 else np.full(2, math.nan)
        n_units, n_removed = fitted.graph_.n_nodes, sum(map(len, fitted.removed_.values()))
        chance = (float(null.mean()), float(null.std(ddof=1)), fitted.z_, fitted.p_)
        value = mean_and_sd([c.value for c in cross])[0]
        of_null = float(np.mean([c.null_mean for c in cross])) if cross else math.nan
        return cls(name, kind, accuracy, n_units, n_removed, fitted.n_cut_, *chance, value, of_null, r2)

    @property
    def below(self) -> float:
        """1 − n-cut / mean of the null: how far the n-cut is below its copies', as a share; NaN without a null."""
        return 1 - self.n_cut / self.null_mean if self.null_mean > 0 else math.nan

    @property
    def verdict(self) -> str:
        """Whether the network is more or less modular than by chance."""
        if self.p <= CHANCE:
            return "more modular than by chance"
        if self.z > LESS:
            return "less modular than its shuffled copies"
        return "no more modular than by chance"


@dataclass(frozen=True, eq=False)
class ModularityResult:
    """Everything on the page of a measurement of modularity."""

    rows: Sequence[NetworkRow]  # all networks
    shown: int  # index of the row that is shown in detail
    name: str  # of that network
    detail: Clusterability  # its clusters, n-cuts and spectrum
    # its weight matrices, with the C of each; None where C was not measured
    matrices: Sequence[tuple[Part, CrossModularity | None]] = ()
    probe: Specialisation | None = None  # accuracy with clusters off, if there are labelled data
    circuits: Sequence[Circuit] = ()  # weights that classes need; () if they were not measured
    lesions: Lesions | None = None
    obtained: Mapping[str, Any] = field(default_factory=dict)  # command, seed, versions


def mean_and_sd(values: Sequence[float | None]) -> tuple[float, float]:
    """Return mean and standard deviation of the finite values; NaN where there are none, or only one.

    >>> mean_and_sd([1.0, 3.0, None, float("nan")])
    (2.0, 1.4142135623730951)
    """
    finite = [value for value in values if value is not None and math.isfinite(value)]
    mean = float(np.mean(finite)) if finite else math.nan
    return mean, float(np.std(finite, ddof=1)) if len(finite) > 1 else math.nan


def beyond(effects: Effects) -> np.ndarray:
    """Return which clusters cost more accuracy than random sets, by more than two standard deviations: (c,)."""
    limit: np.ndarray = effects.mean + BEYOND * np.nan_to_num(effects.sd)
    return effects.single > limit


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


ACCURACY, R2 = "Accuracy (%)", "R² (%)"
Cells = dict[str, tuple[Callable[[NetworkRow], float | None], int]]
NUMBERS: Cells = {  # heading → value and decimals
    "n-cut": (lambda row: row.n_cut, 2),
    "Shuffled": (lambda row: row.null_mean, 2),
    "Below (%)": (lambda row: 100 * row.below, 1),
    "z": (lambda row: row.z, 1),
    "p": (lambda row: row.p, 2),
    "C": (lambda row: row.cross, 2),
    "C shuffled": (lambda row: row.cross_null, 2),
    ACCURACY: (lambda row: _percent(row.r2 if row.accuracy is None else row.accuracy), 2),
    "Units": (lambda row: row.n_units, 0),
    "No edge": (lambda row: row.n_removed, 0),
}


def of_each(probe: Specialisation) -> str:
    """Return what a specialisation is by: classes, or the outputs of networks of numbers."""
    return "class" if probe.metric == "accuracy" else "output"


def modularity_table(rows: Sequence[NetworkRow]) -> Table:
    """Return the table of networks; several members are followed by a row of their means and standard deviations."""
    if not rows:
        raise InputError("rows must have one network or more, got none")
    numbers = {
        (R2 if heading == ACCURACY and any(row.r2 is not None for row in rows) else heading): entry
        for heading, entry in NUMBERS.items()
    }
    columns = [Column("Network", is_text=True), Column("Kind", is_text=True), *map(Column, numbers)]
    cells = [[row.name, row.kind, *_numbers(row)] for row in rows]
    members = [index for index, row in enumerate(rows) if row.kind == "member"]
    if len(members) > 1:
        spreads = {
            heading: with_precise_spread(*mean_and_sd([value(rows[index]) for index in members]), digits)
            for heading, (value, digits) in NUMBERS.items()
        }
        means = [f"mean ± sd of {len(members)} members", "members", *(spreads | {"p": ""}).values()]
        cells.insert(members[-1] + 1, means)
    return Table.plain(columns, cells)


def modularity_sentences(result: ModularityResult) -> list[str]:
    """Return whether the network is more modular than by chance, then what was measured of its clusters."""
    return [_verdict(result), *_members(result.rows), *_assemblies(result.rows), *_lesions(result), *_circuits(result)]


def _numbers(row: NetworkRow) -> list[str]:
    texts = {heading: decimal(value(row), digits) for heading, (value, digits) in NUMBERS.items()}
    texts["Shuffled"] = with_precise_spread(row.null_mean, row.null_sd)
    texts["p"] = f"{row.p:.2g}" if math.isfinite(row.null_mean) and math.isfinite(row.p) else "–"
    return list(texts.values())


def _verdict(result: ModularityResult) -> str:
    row, detail = result.rows[result.shown], result.detail
    text = f"The units of {result.name} split into {len(detail.sizes_)} parts with an n-cut of {decimal(row.n_cut)}"
    null = detail.null_[np.isfinite(detail.null_)]
    if not len(null) or not math.isfinite(row.n_cut):
        return f"{text}, which was not compared with shuffled copies: it says nothing by itself."
    z = f"z = {decimal(row.z, 1)}, " if math.isfinite(row.z) else ""
    shuffled = f"{NULLS[detail.null]} have {with_precise_spread(*mean_and_sd(null.tolist()))}"
    verdict = row.verdict
    if row.p > CHANCE and row.p == 1 / (len(null) + 1):
        verdict = f"no copy is as modular, but {len(null)} are too few to exclude chance"
    return f"{text}; {shuffled} ({z}p = {row.p:.2g}): {verdict}."


def _members(rows: Sequence[NetworkRow]) -> list[str]:
    members = [row for row in rows if row.kind == "member" and math.isfinite(row.p) and math.isfinite(row.null_mean)]
    if len(members) < 2:
        return []
    more = sum(row.p <= CHANCE for row in members)
    less = sum(row.p > CHANCE and row.z > LESS for row in members)
    return [
        f"Of {len(members)} members, {more} are more modular than by chance (p ≤ {CHANCE}) and {less} less modular "
        f"than shuffled copies (z > {LESS:g})."
    ]


def _assemblies(rows: Sequence[NetworkRow]) -> list[str]:
    below = [row.below for row in rows if row.kind == "member" and math.isfinite(row.below)]
    sentences = []
    for row in rows if below else ():
        if row.kind == "assembly" and math.isfinite(row.below):
            mean, sd = mean_and_sd([100 * value for value in below])
            more, less = row.below > max(below), row.below < min(below)
            against = "more modular than every member" if more else "less modular than every member"
            chance = f", but not beyond chance (p = {row.p:.2g})" if more and row.p > CHANCE else ""
            sentences.append(
                f"The n-cut of {row.name} is {_side(100 * row.below)} its shuffled copies', that of the members "
                f"{_side(mean, sd)} theirs: {against if more or less else 'within the range of the members'}{chance}."
            )
    return sentences


def _side(below: float, sd: float = math.nan) -> str:
    return f"{with_precise_spread(abs(below), sd, 1)} % {'below' if below >= 0 else 'above'}"


def _lesions(result: ModularityResult) -> list[str]:
    if result.lesions is None or result.probe is None:
        return []
    effects, drop = result.lesions.accuracy, np.nan_to_num(result.probe.drop, nan=-math.inf)
    label, column = np.unravel_index(int(drop.argmax()), drop.shape)
    probe, more = result.probe, int(beyond(effects).sum())
    return [
        f"With a cluster off, {more} of {len(effects.single)} cost more {probe.metric} than as many "
        f"random units (by over {BEYOND:g} of their standard deviations); {of_each(probe)} {label} loses most "
        f"({decimal(100 * float(drop[label, column]), 0)} points without cluster {probe.labels[column]})."
    ]


def _circuits(result: ModularityResult) -> list[str]:
    sentences = []
    for criterion in sorted({circuit.criterion for circuit in result.circuits}):
        circuits = [circuit for circuit in result.circuits if circuit.criterion == criterion]
        size, tpr, tnr = (mean_and_sd([getattr(c, name) for c in circuits])[0] for name in ("size", "tpr", "tnr"))
        constant = " At so low a TNR the circuits are constant predictors." if tnr < 0.5 else ""
        sentences.append(
            f"By {CRITERIA[criterion]}, a class needs {decimal(100 * size, 1)} % of the weights (mean of "
            f"{len(circuits)} classes; TPR {decimal(tpr)}, TNR {decimal(tnr)}).{constant}"
        )
    return sentences
