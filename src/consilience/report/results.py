"""What the main report shows, as plain data: numbers, names and arrays, never models.

`Experiment.to_json` is the text of ``results.json``, `Experiment.load` reads it: a page needs no new computation.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from consilience.errors import ArtefactError, ConsilienceError
from consilience.evaluation import AnyScore, Closeness
from consilience.report.portraits import LayerAtlas, Picture
from consilience.schema import read_object

FORMAT_VERSION = 1
FILE_NAME = "results.json"
LEVEL = 0.05  # of q-values up to which a cluster is called significant


class Role(StrEnum):
    """What a row of the table is."""

    MEAN_MEMBER = "mean member"
    BEST_MEMBER = "best member"
    ENSEMBLE = "ensemble"
    ALTERNATIVE = "alternative"
    SCRATCH = "from scratch"
    ASSEMBLY = "assembly"
    FINE_TUNED = "fine-tuned assembly"

    @property
    def group(self) -> str:
        """Return the group of rows: "members", "alternative" or "assembly"."""
        if self in (Role.ASSEMBLY, Role.FINE_TUNED):
            return "assembly"
        return "members" if self in REFERENCES else "alternative"


REFERENCES = (Role.MEAN_MEMBER, Role.BEST_MEMBER, Role.ENSEMBLE)
# Methods of rows in files that were written before rows had a role; the role of other methods follows from their group.
OLD_METHODS = {
    "mean member": Role.MEAN_MEMBER,
    "best member on validation": Role.BEST_MEMBER,
    "ensemble of the members": Role.ENSEMBLE,
    "from scratch": Role.SCRATCH,
    "fine-tuned assembly": Role.FINE_TUNED,
}


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    method: str  # what a user would call it, e.g. "assembly, least-squares" or "ensemble of the members"
    role: Role  # what it is
    width: str  # "1x", "2x", …, "full", or "" where widths do not apply
    parameters: int  # number of parameters at inference (an ensemble counts all its members)
    test: AnyScore
    validation: AnyScore
    steps: int  # gradient steps beyond the training of the members; 0 for zero-shot methods
    seconds: float  # wall-clock seconds beyond the training of the members
    # Standard error of the difference of its test accuracy (or R²), paired by sample, from that of the ensemble or, for
    # a fine-tuned assembly, of the network from scratch; None if it was not measured.
    difference_se: float | None = None
    closeness: Closeness | None = None  # to the ensemble on test samples; None if it was not measured


@dataclass(frozen=True)
class LearningPoint:
    """Test score after a number of gradient steps."""

    step: int
    test: AnyScore


@dataclass(frozen=True)
class ChanceSummary:
    """The clusters of a layer beside chance: members whose units are turned at random."""

    q: list[float]  # by cluster, rate of false discoveries at which it counts as one
    recurrence: list[float]  # by cluster, share of the other members that have a unit like one of it
    recurrence_by_chance: list[float]
    share: float  # of the other members that have a unit, mean over pairs of members
    share_by_chance: float
    interval: list[float]  # of the difference, over members; NaN for two members
    z: float
    radius: float  # cosine above which units count as alike
    frequency: list[float]  # of clusters of turned members, in canonical order
    stability: list[float]

    @property
    def n_significant(self) -> int:
        """Return the number of clusters with q up to `LEVEL`."""
        return sum(q <= LEVEL for q in self.q)


@dataclass(frozen=True)
class Writing:
    """Which outputs a cluster of heads moves most, along the leading direction of what it changes in them."""

    raised: list[str]  # the first moves most
    lowered: list[str]
    largest: float  # by how much, as a root mean square
    share: float  # of the square of all that it changes that lies along this direction


@dataclass(frozen=True)
class HeadsSummary:
    """What heads of attention do, by cluster in canonical order."""

    patterns: list[Picture]  # of the first clusters: roots of mean weights, positions that attend × attended to
    scores: dict[str, list[float]]  # mean weights on random tokens that are repeated; empty without tokens
    writings: list[Writing] = field(default_factory=list)  # of the same clusters; empty where it was not measured

    @property
    def highest(self) -> list[tuple[str, float, int]]:
        """Return each score, its highest value, and the cluster, counted from 1."""
        return [(name, max(values), values.index(max(values)) + 1) for name, values in self.scores.items()]


@dataclass(frozen=True)
class LayerSummary:
    """The numbers of one layer of a census that a file can hold; by cluster, in canonical order."""

    name: str
    n_units: int
    n_dead: int
    median_width: int
    frequency: list[float]
    size: list[int]
    stability: list[float]
    chance: ChanceSummary | None = None  # None where it was not measured
    heads: HeadsSummary | None = None  # None where units are not heads of attention


@dataclass(frozen=True)
class Experiment:
    """Everything in a report."""

    title: str  # heading
    data: Mapping[str, Any]  # name, task, sizes of the splits, number of classes, image shape
    population: Mapping[str, Any]  # number of members, their class and widths, failed members, training hyperparameters
    census: Mapping[str, Any]  # hyperparameters of the census
    table: list[Row]  # rows in the order shown
    learning: Mapping[str, list[LearningPoint]]  # method of a row → test scores during its training
    layers: list[LayerSummary]  # the census, layer by layer
    centroids: list[Any] = field(default_factory=list)  # of the first layer, (C, H, W); empty if inputs are not images
    atlas: list[LayerAtlas] = field(default_factory=list)  # empty if inputs are not images
    obtained: Mapping[str, Any] = field(default_factory=dict)  # how to get these numbers again: command, seed, versions
    left_out: Mapping[str, str] = field(default_factory=dict)  # what is not in the table → why

    @property
    def n_members(self) -> int | None:
        """Return the number of members, None if it is unknown."""
        n = self.population.get("n_members")
        return n if isinstance(n, int) and n > 0 else None

    def to_json(self) -> str:
        """Return the text of ``results.json``."""
        raw = asdict(self)
        for row, plain in zip(self.table, raw["table"], strict=True):
            plain["group"] = row.role.group
        return json.dumps({"format_version": FORMAT_VERSION, **raw}, indent=1, sort_keys=True)

    @classmethod
    def load(cls, directory: Path) -> Experiment:
        """Read ``results.json``; raise `ArtefactError` if it is missing, damaged or of another format version."""
        path = directory / FILE_NAME
        if not path.is_file():
            raise ArtefactError(f"{path} must exist", cure="run `consilience report` on a census first")
        try:
            raw = json.loads(path.read_text())
            version = raw.pop("format_version")
            if version == FORMAT_VERSION:
                return read_object(cls, {**raw, "table": [*map(_with_role, raw["table"])]}, "results")
        except (KeyError, AttributeError, TypeError, ValueError, ArtefactError) as error:
            reason = error.message if isinstance(error, ConsilienceError) else error
            raise ArtefactError(f"{path} is damaged: {reason}", cure="make it again") from error
        cure = "use the version of consilience that wrote it"
        raise ArtefactError(f"format version of {path} must be {FORMAT_VERSION}, got {version}", cure=cure)


def first(rows: Iterable[Row], role: Role) -> Row | None:
    """Return the first row of this role, None if there is none."""
    return next((row for row in rows if row.role == role), None)


def _with_role(raw: Mapping[str, Any]) -> dict[str, Any]:
    role = raw.get("role") or OLD_METHODS.get(raw["method"], raw["group"])
    return {**{key: value for key, value in raw.items() if key != "group"}, "role": role}
