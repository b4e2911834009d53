"""Artefacts that a command reads: what made them, and what they hold."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from consilience.census import Census, load_census
from consilience.errors import ArtefactError
from consilience.store import read_config
from consilience.store.config import CONFIG
from consilience.studies.networks import open_population


def open_census(directory: Path, module: str | None) -> tuple[Census, Path]:
    """Return a census, and where its population is; ``module`` is the class of the user's own networks."""
    config = _config_of(directory, "census")
    population = (directory / config["population"]["path"]).resolve()
    return load_census(directory, open_population(population, module, config.get("example_shape"))), population


def request_of(population: Path) -> dict[str, Any]:
    """Return the request that made a population; nothing for a folder of checkpoints."""
    if population.is_dir() and not (population / CONFIG).is_file():
        return {}
    return _config_of(population, "population").get("request", {})  # type: ignore[no-any-return]


def digest_of(directory: Path) -> str:
    """Return a digest of the files of an artefact, wherever it lies."""
    files = json.dumps(read_config(directory)["files"], sort_keys=True)
    return hashlib.sha256(files.encode()).hexdigest()[:16]


def _config_of(directory: Path, kind: str) -> dict[str, Any]:
    config = read_config(directory)
    if config["kind"] != kind:
        raise ArtefactError(f"{directory} must be a {kind}, got an artefact of kind {config['kind']}")
    return config
