"""The data of a command: what the user names, or what the population was trained on, with the same split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from consilience.checks import check_count
from consilience.data import Data, Dataset, load_data
from consilience.errors import InputError
from consilience.store import read_config
from consilience.store.config import CONFIG


def request_of(population: str | Path) -> dict[str, Any]:
    """Return the request that made a population; nothing for anything else."""
    path = Path(population)
    config = read_config(path) if (path / CONFIG).is_file() else {}
    return config.get("request", {}) if config.get("kind") == "population" else {}


def data_of(population: str | Path, source: str | None, random_state: int) -> Data:
    """Return the data named, or what the population was trained on; split as then, so that no test row was seen."""
    request = request_of(population)
    if source is None and "data" not in request:
        raise InputError(
            f"the data that {population} was trained on is unknown", cure="pass --data, or a population made by train"
        )
    return load_data(source or request["data"], random_state=request.get("seed", random_state))


def labeled_samples(source: str, data: str | None, random_state: int) -> Dataset | None:
    """Return the test samples of the data named, or of what a population was trained on; None if that is unknown."""
    known = data is not None or "data" in request_of(source)
    return data_of(source, data, random_state).test if known else None


def unseen_samples(sources: Sequence[str], data: str | None, random_state: int, n: int) -> Dataset:
    """Return up to n test samples that no population was trained on, as far as the populations' requests say."""
    check_count("--samples", n, least=2)
    names = {source: request_of(source)["data"] for source in sources if "data" in request_of(source)}
    name = data or next(iter(names.values()), None)
    if name is None:
        raise InputError(f"the data that {' '.join(sources)} were trained on is unknown", cure="pass --data")
    tests = [data_of(source, name, random_state).test for source in names if names[source] == name]
    samples = tests[0] if tests else load_data(name, random_state=random_state).test
    for other in tests[1:]:
        samples = samples.take(torch.isin(samples.ids, other.ids).nonzero()[:, 0])
    return samples.sample(n, random_state)
