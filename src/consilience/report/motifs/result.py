"""What a search for motifs gives: the motifs as a table, what members lose without them, and what that says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from consilience.errors import InputError
from consilience.motifs import Ablation, Edge, Motif
from consilience.report.numbers import counted, decimal, percent
from consilience.report.tables import Column, Table

CHANCE = 0.05  # p up to which a motif is called needed


@dataclass(frozen=True)
class MotifsResult:
    """The motifs of a census.

    Attributes
    ----------
    n_members : of the population.
    layers : name of each layer → number of its clusters, in the order of the forward pass.
    n_tested : number of edges that were tested.
    recurring : those that recur.
    motifs : as in `consilience.motifs.Motifs`.
    ablations : what members lose without each motif, in their order; empty without labels.
    untested : map → why its edges were not tested.
    level : false discovery rate of recurring edges.
    obtained : how to get the result again.
    """

    n_members: int
    layers: Mapping[str, int]
    n_tested: int
    recurring: Sequence[Edge]
    motifs: Sequence[Motif]
    ablations: Sequence[Ablation]
    untested: Mapping[str, str]
    level: float
    obtained: Mapping[str, Any]

    def __post_init__(self) -> None:
        if len(self.ablations) not in (0, len(self.motifs)):
            got = f"{len(self.ablations)} for {len(self.motifs)} motifs"
            raise InputError(f"ablations must be one for each motif, or none, got {got}")


COLUMNS = (
    Column("Motif", is_text=True),
    Column("Half of"),
    Column("Clusters", is_text=True),
    Column("Edges"),
    Column("Members"),
    Column("Stability"),
)
LOSSES = (Column("Units"), Column("Accuracy lost"), Column("Random units"), Column("p"))


def motifs_table(result: MotifsResult) -> Table:
    """Return one row for each motif."""
    rows = []
    for i, motif in enumerate(result.motifs):
        where = "; ".join(f"{name}: {', '.join(map(str, numbers))}" for name, numbers in motif.clusters.items())
        row = [
            str(motif.number),
            "" if motif.parent is None else str(motif.parent),
            where,
            str(len(motif.edges)),
            f"{len(motif.members)} of {result.n_members}",
            decimal(motif.stability),
        ]
        if result.ablations:
            own = result.ablations[i]
            lost, random = float(np.nanmean(own.loss)), np.nanmean(own.random, 1)
            sizes = [decimal(own.units, 1), percent(lost), f"{percent(random.mean())} ± {percent(random.std(ddof=1))}"]
            row += [*sizes, decimal(own.p)]
        rows.append(row)
    return Table.plain([*COLUMNS, *(LOSSES if result.ablations else ())], rows)


def motifs_sentences(result: MotifsResult) -> list[str]:
    """Return what was found, in sentences."""
    edges = f"{counted(len(result.recurring), 'edge')} of {result.n_tested:,} between clusters of consecutive layers"
    verb = "recurs" if len(result.recurring) == 1 else "recur"
    sentences = [f"{edges} {verb} in {result.n_members} members (false discovery rate {result.level:g})."]
    whole = [motif for motif in result.motifs if motif.parent is None]
    if not whole:
        sentences.append("There are no motifs: what members share, if anything, is single clusters.")
    else:
        largest = max(whole, key=lambda motif: (motif.n_clusters, -motif.number))
        sizes = f"{counted(largest.n_clusters, 'cluster')} and {counted(len(largest.edges), 'edge')}"
        parts = f"They form {counted(len(whole), 'motif')}; the largest, number {largest.number}, has {sizes}"
        sentences.append(f"{parts}, and {len(largest.members)} of {result.n_members} members have it.")
    if result.ablations:
        needed = [own for own in result.ablations if own.p <= CHANCE]
        share = f"{len(needed)} of {counted(len(result.ablations), 'motif')}"
        lost = "members lose more accuracy than without as many random ones"
        sentences.append(f"Without the units of {share}, {lost} (p ≤ {CHANCE:g} each).")
    sentences += [f"Edges of {name} were not tested: {reason}." for name, reason in result.untested.items()]
    return sentences
