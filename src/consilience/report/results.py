"""What a report shows, as plain data: numbers, names and arrays, never models.

`Experiment.save` writes ``results.json``; `Experiment.load` reads it, so that a report can be drawn again without
computing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from consilience.errors import ArtefactError
from consilience.evaluation import Score
from consilience.report.portraits import LayerAtlas

FORMAT_VERSION = 1
FILE_NAME = "results.json"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes
    ----------
    method : what the user would call it, e.g. "assembly, least-squares" or "ensemble of the members".
    group : "members", "alternative" or "assembly".
    width : "1x", "2x", …, or "" where it does not apply.
    parameters : number of parameters at inference (an ensemble counts all its members).
    test, validation : scores.
    steps : gradient steps that this row took beyond the population's training; 0 for zero-shot methods.
    seconds : wall-clock seconds that this row took beyond the population's training.
    """

    method: str
    group: str
    width: str
    parameters: int
    test: Score
    validation: Score
    steps: int
    seconds: float


@dataclass(frozen=True)
class LearningPoint:
    """Test score after a number of gradient steps."""

    step: int
    test: Score


@dataclass(frozen=True)
class LayerSummary:
    """One layer of the census; `frequency`, `size` and `stability` by cluster, in canonical order."""

    name: str
    n_units: int
    n_dead: int
    median_width: int
    frequency: list[float]
    size: list[int]
    stability: list[float]


@dataclass(frozen=True)
class Experiment:
    """Everything in a report.

    Attributes
    ----------
    title : heading.
    data : name, sizes of the splits, number of classes, image shape.
    population : number of members, their class and widths, failed members, training hyperparameters.
    census : hyperparameters of the census.
    table : rows in the order shown.
    learning : curve name ("fine-tuned assembly", "from scratch") → points.
    layers : the census, layer by layer.
    centroids : first-layer centroids as images (C, H, W) nested lists, in canonical order; empty if inputs are no
    images.
    atlas : portraits of each layer's most frequent clusters; empty if inputs are no images.
    obtained : what a reader needs to get these numbers again: command, seed, versions, method of each column.
    """

    title: str
    data: Mapping[str, Any]
    population: Mapping[str, Any]
    census: Mapping[str, Any]
    table: list[Row]
    learning: Mapping[str, list[LearningPoint]]
    layers: list[LayerSummary]
    centroids: list[Any] = field(default_factory=list)
    atlas: list[LayerAtlas] = field(default_factory=list)
    obtained: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the text of ``results.json``."""
        return json.dumps({"format_version": FORMAT_VERSION, **asdict(self)}, indent=1, sort_keys=True)

    def save(self, directory: Path) -> Path:
        """Write ``results.json`` into an existing directory."""
        from consilience.store import atomic_write  # imports torch, which nothing else here needs

        text = self.to_json()
        path = directory / FILE_NAME
        atomic_write(path, text.encode())
        return path

    @classmethod
    def load(cls, directory: Path) -> Experiment:
        """Read ``results.json``; raise `ArtefactError` if it is missing, damaged or of another format version."""
        path = directory / FILE_NAME
        if not path.is_file():
            raise ArtefactError(
                "there are no results here",
                where=directory,
                expected=FILE_NAME,
                cure="run `consilience report` on a census first",
            )
        try:
            raw = json.loads(path.read_text())
            version = raw.pop("format_version")
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ArtefactError(
                "the results are damaged", where=path, got=str(error), cure="make them again"
            ) from error
        if version != FORMAT_VERSION:
            raise ArtefactError(
                "unknown format version",
                where=path,
                got=version,
                expected=FORMAT_VERSION,
                cure="use the version of consilience that wrote it",
            )
        try:
            return cls(
                **{
                    **raw,
                    "table": [_row(row) for row in raw["table"]],
                    "learning": {
                        name: [LearningPoint(point["step"], Score(**point["test"])) for point in points]
                        for name, points in raw["learning"].items()
                    },
                    "layers": [LayerSummary(**layer) for layer in raw["layers"]],
                    "atlas": [LayerAtlas.from_plain(layer) for layer in raw.get("atlas", [])],
                }
            )
        except (KeyError, AttributeError, TypeError, ValueError) as error:
            raise ArtefactError(
                "the results are damaged", where=path, got=str(error), cure="make them again"
            ) from error


def _row(raw: Mapping[str, Any]) -> Row:
    return Row(**{**raw, "test": Score(**raw["test"]), "validation": Score(**raw["validation"])})
