"""The command ``report``: a census's assemblies beside their alternatives, on one page."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from consilience.studies.request import POSITIONAL, Options, Output, command_line, identity
from consilience.studies.result import PAGE, Result, run_cached

if TYPE_CHECKING:
    from consilience.census import Census
    from consilience.data import Data
    from consilience.report.results import Experiment


@dataclass(frozen=True, kw_only=True)
class Request(Options, Output):
    """Compare a census's assemblies with their alternatives, and write the comparison as one HTML file."""

    census: tyro.conf.Positional[Path] = field(metadata=POSITIONAL)
    """Directory of the census."""
    data: str | None = None
    """Labeled data; by default the data that the population was trained on."""
    module: str | None = None
    """Class of your own networks, as in package.module:Class; it is imported. What is trained for comparison is trained
    with default settings."""


def run(request: Request) -> Result:
    """Return the table of scores, and what it says."""
    from consilience.studies.artefacts import open_census, request_of
    from consilience.studies.samples import data_of

    def inputs() -> tuple[Census, Data, dict[str, Any]]:
        census, source = open_census(request.census, request.module)
        return census, data_of(source, request.data, request.seed), request_of(source)

    return reported(request, inputs, command_line(request))


def reported(request: Request, inputs: Callable[[], tuple[Census, Data, dict[str, Any]]], command: str) -> Result:
    """Do what `run` does, with inputs from memory.

    Parameters
    ----------
    request : of the report.
    inputs : gives the census, the data, and the request that made the members; called if the report is not finished.
    command : what to type for the same result.
    """
    from consilience.report import markdown_table, render_page, summary_sentences
    from consilience.report.results import FILE_NAME, Experiment
    from consilience.store import write_artefact
    from consilience.store.config import versions
    from consilience.studies.artefacts import digest_of
    from consilience.studies.experiment import run_experiment
    from consilience.studies.progress import stages

    def make() -> Experiment:
        census, data, training = inputs()
        obtained = {
            "command": command,
            "seed": request.seed,
            "versions": versions(),
            "training of the members": training,
        }
        with stages("comparing") as progress:
            return run_experiment(census, data, random_state=request.seed, obtained=obtained, progress=progress)

    def write(experiment: Experiment, directory: Path, config: dict[str, Any]) -> None:
        files = {FILE_NAME: experiment.to_json(), PAGE: render_page(experiment)}
        write_artefact(directory, "report", config, {}, extra_files=files)

    key = identity(request, census=digest_of(request.census))
    experiment = run_cached(request.out, "report", key, make, write, Experiment.load)
    text = [markdown_table(experiment.table), "", *summary_sentences(experiment), "", f"report in {request.out / PAGE}"]
    return Result("\n".join(text), json.loads(experiment.to_json()))
