"""The command ``report``: a census's assemblies beside their alternatives, on one page."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

import consilience as cs
from consilience.studies.request import INPUT, POSITIONAL, Options, Output, OwnNetworks, Reading
from consilience.studies.result import PAGE, Result, digest_of, obtained, run_cached

if TYPE_CHECKING:
    from consilience.report.results import Experiment

    Inputs = tuple[cs.Census, cs.Data, dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Request(OwnNetworks, Reading, Options, Output):
    """Compare a census's assemblies with their alternatives, and write the comparison as one HTML file. For this,
    networks are trained as the members were or, if that is unknown, with default options.

    Example: consilience report census --out report
    """

    census: tyro.conf.Positional[Path] = field(metadata=POSITIONAL)
    """Directory of the census."""
    data: str | None = field(default=None, metadata=INPUT)
    """Labeled data; by default the data that the population was trained on."""


def run(request: Request) -> Result:
    """Return the table of scores, and what it says."""
    from consilience.census.storage import population_of
    from consilience.studies.networks import open_census
    from consilience.studies.samples import request_of, source_of

    population = population_of(request.census)
    source = source_of(population, request.data, request.seed, request)

    def inputs() -> Inputs:
        census, _ = open_census(request.census, request.module, request.key, request.output)
        return census, source.load(), request_of(population)

    return load_or_compare(request, inputs, obtained(request), source.entries(request.data))


def load_or_compare(
    request: Request, inputs: Callable[[], Inputs], origin: dict[str, Any], data: Mapping[str, Any]
) -> Result:
    """Do what `run` does, with the census, the data and the request of the members from memory, if they are needed.

    ``origin`` says how to get the result again, and ``data`` is what its request says of the data.
    """
    from consilience.report import markdown_table, render_page, summary_sentences
    from consilience.report.results import FILE_NAME, Experiment
    from consilience.store import read_artefact, write_artefact
    from consilience.studies.experiment import run_experiment
    from consilience.studies.progress import stages

    def make() -> Experiment:
        census, data, training = inputs()
        page = {**origin, "training of the members": training}
        with stages("comparing") as progress:
            return run_experiment(census, data, random_state=request.seed, obtained=page, progress=progress)

    def write(experiment: Experiment, directory: Path, config: dict[str, Any]) -> None:
        files = {FILE_NAME: experiment.to_json(), PAGE: render_page(experiment)}
        write_artefact(directory, "report", config, {}, extra_files=files)

    def read(directory: Path) -> Experiment:
        read_artefact(directory, "report")  # or raises, if a file has changed
        return Experiment.load(directory)

    experiment = run_cached(request, "report", {"census": digest_of(request.census), **data}, make, write, read)
    text = [markdown_table(experiment.table), "", *summary_sentences(experiment), "", f"report in {request.out / PAGE}"]
    return Result("\n".join(text), json.loads(experiment.to_json()))
