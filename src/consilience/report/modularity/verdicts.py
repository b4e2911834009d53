"""What a measurement of modularity found, and what it says, in sentences that promise no more than the numbers allow.

An n-cut says nothing by itself: it is told beside those of shuffled copies, and called more modular than by chance only
where few of these are lower.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consilience.report.modularity.networks import NetworkRow, decimal, mean_and_sd, probability, with_spread
from consilience.report.modularity.parts import UnitsOf, WeightMatrix
from consilience.report.modularity.specialists import CircuitRow, ClassClusters, LesionEffects

CHANCE = 0.05  # p up to which a network is called more modular than by chance
LESS = 2.0  # z above which it is called less modular
TOLD = 3  # assemblies, or classes, in a sentence
NULLS = {
    "permute": "networks with the same weights shuffled",
    "permute-nonzero": "networks with the same weights shuffled, zeros in their places,",
    "degree-preserving": "networks rewired so that every unit keeps the number and sum of its edges",
}
CRITERIA = {"class": "the published criterion (the class's own samples)", "one-vs-rest": "one against the rest"}

TIE = 1e-9  # n-cuts nearer than this are equal but for rounding


@dataclass(frozen=True, eq=False)
class ModularityResult:
    """Everything on the page of a measurement of modularity.

    Attributes
    ----------
    name : of the network that is shown in detail.
    n_clusters : k.
    null : how its copies are shuffled, a name of `consilience.modularity.nulls`.
    n_null : copies; 0 for none.
    rows : all networks, the one in detail among them.
    null_values : (n_null,) n-cuts of the copies of the network in detail.
    n_cut : of that network.
    eigenvalues : (k + 1,) of its normalised Laplacian, ascending.
    groups : inputs and layers → their units, in order.
    sizes : (k,) units of each cluster.
    matrices : weight matrices with their cross-cluster modularity.
    probe : accuracy by class with clusters off and alone, if there are labelled data.
    circuits : what classes need; () if it was not measured.
    lesions : accuracy lost with clusters off, if there are labelled data.
    obtained : command, seed, versions, settings.
    """

    name: str
    n_clusters: int
    null: str
    n_null: int
    rows: Sequence[NetworkRow]
    null_values: NDArray[np.float64]
    n_cut: float
    eigenvalues: NDArray[np.float64]
    groups: Mapping[str, UnitsOf]
    sizes: NDArray[np.int64]
    matrices: Sequence[WeightMatrix] = ()
    probe: ClassClusters | None = None
    circuits: Sequence[CircuitRow] = ()
    lesions: LesionEffects | None = None
    obtained: Mapping[str, Any] = field(default_factory=dict)

    @property
    def known(self) -> NDArray[np.float64]:
        """The finite n-cuts of copies."""
        values: NDArray[np.float64] = np.asarray(self.null_values, float)
        return values[np.isfinite(values)]

    @property
    def z(self) -> float:
        """(n-cut − mean of the copies') / their standard deviation; NaN if they have no spread."""
        mean, sd = mean_and_sd(self.known.tolist())
        return (self.n_cut - mean) / sd if sd > TIE * abs(mean) else math.nan

    @property
    def p(self) -> float:
        """(copies with a lower or equal n-cut + 1) / (copies + 1)."""
        return (int((self.known <= self.n_cut + TIE).sum()) + 1) / (len(self.known) + 1)


def modularity_sentences(result: ModularityResult) -> list[str]:
    """Tell whether the network splits into parts beyond chance, first of all; then what the parts are to it.

    Sentences about what was not measured are left out.
    """
    return [
        _split(result),
        *_sizes(result),
        *_several(result.rows),
        *_assemblies(result.rows),
        *([] if result.probe is None else _probe(result.probe)),
        *_circuits(result.circuits),
        *([] if result.lesions is None else _lesions(result.lesions)),
    ]


def _split(result: ModularityResult) -> str:
    text = f"The units of {result.name} split into {result.n_clusters} parts with an n-cut of {decimal(result.n_cut)}"
    if not len(result.known) or not math.isfinite(result.n_cut):
        return f"{text}, which was not compared with shuffled copies: it says nothing by itself."
    z = f"z = {decimal(result.z, 1)}, " if math.isfinite(result.z) else ""
    shuffled = f"{NULLS.get(result.null, f'copies of it ({result.null})')} have {_spread(result.known.tolist())}"
    return f"{text}; {shuffled} ({z}p = {probability(result.p)}): {_verdict(result)}."


def _verdict(result: ModularityResult) -> str:
    if result.p <= CHANCE:
        return "more modular than by chance"
    if result.z > LESS:
        return "less modular than its shuffled copies"
    least = 1 / (len(result.known) + 1)
    if least > CHANCE and result.p == least:
        return f"no copy is as modular, but {len(result.known)} are too few to exclude chance"
    return "no more modular than by chance"


def _sizes(result: ModularityResult) -> list[str]:
    sizes, sides = [int(size) for size in result.sizes if size > 0], list(result.groups)
    if not sizes or len(sides) < 2:
        return []
    first, last = (set(result.groups[name].labels.tolist()) - {-1} for name in (sides[0], sides[-1]))
    across, n = len(first & last), f"{min(sizes)} to {max(sizes)}" if min(sizes) < max(sizes) else f"{sizes[0]}"
    hold = f"{across} of them {'holds' if across == 1 else 'hold'} both" if across else "none holds both"
    return [f"The parts have {n} units; {hold} inputs and outputs."]


def _several(rows: Sequence[NetworkRow]) -> list[str]:
    members = [row for row in rows if row.kind == "member"] or list(rows)
    compared = [row for row in members if math.isfinite(row.p) and math.isfinite(row.null_mean)]
    if len(compared) < 2:
        return []
    more = sum(row.p <= CHANCE for row in compared)
    less = sum(row.z > LESS and row.p > CHANCE for row in compared)
    what = "members" if members[0].kind == "member" else "networks"
    text = f"Of {len(compared)} {what}, {more or 'none'} {'is' if more <= 1 else 'are'} more modular than by chance"
    return [f"{text} (p ≤ {CHANCE}) and {less or 'none'} less modular than shuffled copies (z > {LESS:g})."]


def _assemblies(rows: Sequence[NetworkRow]) -> list[str]:
    """Compare each assembly, or the two ends where they are many, with the members."""
    members = [row.below for row in rows if row.kind == "member" and math.isfinite(row.below)]
    assemblies = [row for row in rows if row.kind == "assembly" and math.isfinite(row.below)]
    if not members or not assemblies:
        return []
    if len(assemblies) > TOLD:
        ordered = sorted(assemblies, key=lambda row: row.below)
        assemblies = [ordered[-1], ordered[0]]
    mean, sd = mean_and_sd([100 * value for value in members])
    their = f"{with_spread(abs(mean), sd, 1)} % {_side(mean)}"
    whose = f"the {len(members)} members'" if len(members) > 1 else "the member's"
    return [
        f"The n-cut of {row.name} is {decimal(abs(100 * row.below), 1)} % {_side(row.below)} its shuffled copies', "
        f"{whose} {their} theirs: {_against(row, members)}."
        for row in assemblies
    ]  # fmt: skip


def _against(row: NetworkRow, members: Sequence[float]) -> str:
    every = "every member" if len(members) > 1 else "the member"
    if row.below > max(members):
        return f"more modular than {every}" + (f", but not beyond chance (p = {probability(row.p)})" * (row.p > CHANCE))
    return f"less modular than {every}" if row.below < min(members) else "within the range of the members"


def _side(below: float) -> str:
    return "below" if below >= 0 else "above"


def _probe(probe: ClassClusters) -> list[str]:
    lost = np.where(np.isfinite(probe.lost), 100 * probe.lost, -np.inf)
    if not np.isfinite(lost).any():
        return []
    n_clusters, told = len(probe.labels), dict[int, str]()
    for place in np.argsort(-lost, axis=None, kind="stable")[: lost.size].tolist():
        row, column = divmod(place, n_clusters)
        if len(told) < TOLD and column not in told and lost[row, column] >= 1:
            left = f"{decimal(100 * probe.accuracy[row], 0)} → {decimal(100 * probe.off[row, column], 0)} %"
            told[column] = f"{_class(probe.classes[row])} without cluster {probe.labels[column]} ({left})"
    text = f"Of all classes and clusters, these belong together most: {', '.join(told.values())}."
    if not told:
        text = f"No class loses more than {decimal(float(lost.max()), 1)} points of accuracy with any one cluster off."
    alone = [mean_and_sd(column)[0] for column in probe.alone.T.tolist()]
    if not np.isfinite(alone).any():
        return [text]
    best = int(np.argmax(np.nan_to_num(alone, nan=-1.0)))
    return [
        text,
        f"Alone, cluster {probe.labels[best]} does best: {decimal(100 * alone[best], 0)} % on average over the "
        f"classes, where one answer to everything has {decimal(100 / len(probe.classes), 0)} %.",
    ]


def _class(name: str) -> str:
    return f"class {name}" if name.isdigit() else f"'{name}'"


def _circuits(circuits: Sequence[CircuitRow]) -> list[str]:
    told = list[str]()
    for criterion in sorted({circuit.criterion for circuit in circuits}):
        own = [circuit for circuit in circuits if circuit.criterion == criterion]
        size, tpr, tnr = (mean_and_sd([getattr(c, name) for c in own])[0] for name in ("size", "tpr", "tnr"))
        text = f"By {CRITERIA.get(criterion, criterion)}, a class needs {decimal(100 * size, 1)} % of the weights"
        n = f"mean of {len(own)} classes; " if len(own) > 1 else ""
        text += f" ({n}TPR {decimal(tpr)}, TNR {decimal(tnr)})."
        if tnr < 0.5:
            text += (
                " With so low a TNR these circuits say their class of nearly everything: they are constant predictors."
            )
        told.append(text)
    return told


def _lesions(effects: LesionEffects) -> list[str]:
    known = np.isfinite(effects.drop) & np.isfinite(effects.random_mean)
    if not known.any():
        return []
    beyond = int((effects.beyond & known).sum())
    text = f"Switched off, {beyond or 'none'} of {int(known.sum())} clusters {'costs' if beyond <= 1 else 'cost'} more"
    return [f"{text} accuracy than as many random units (by over 2 of their standard deviations)."]


def _spread(values: Sequence[float]) -> str:
    return with_spread(*mean_and_sd(values))
