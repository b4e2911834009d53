"""The data of a command: what the user names, or what the population was trained on, with the same split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from consilience.checks import check_count
from consilience.data import Data, Dataset, load_data
from consilience.errors import InputError
from consilience.store import read_config
from consilience.store.config import CONFIG
from consilience.studies.artefacts import request_of


def data_of(population: Path, source: str | None, random_state: int) -> Data:
    """Return the data named, or what the population was trained on; split as then, so that no test row was seen."""
    request = request_of(population)
    if source is None and "data" not in request:
        raise InputError(f"the data that {population} was trained on is unknown", cure="pass --data")
    return load_data(source or request["data"], random_state=request.get("seed", random_state))


def labelled(source: str, data: str | None, random_state: int) -> Dataset | None:
    """Return the test samples of the data named, or of what a population was trained on; None if that is unknown."""
    if _data_name(source) is not None:
        return data_of(Path(source), data, random_state).test
    return None if data is None else load_data(data, random_state=random_state).test


def unseen(sources: Sequence[str], data: str | None, random_state: int, n: int) -> Dataset:
    """Return up to n test samples that no population was trained on, as far as the populations' requests say."""
    check_count("--samples", n, least=2)
    trained = [source for source in sources if _data_name(source) is not None]
    name = data or next((_data_name(source) for source in trained), None)
    if name is None:
        raise InputError(f"the data that {' '.join(sources)} were trained on is unknown", cure="pass --data")
    tests = [data_of(Path(source), None, random_state).test for source in trained if _data_name(source) == name]
    samples = tests[0] if tests else load_data(name, random_state=random_state).test
    for other in tests[1:]:
        samples = samples.take(torch.isin(samples.ids, other.ids).nonzero()[:, 0])
    return samples.sample(n, random_state)


def _data_name(source: str) -> str | None:
    """Return what a population was trained on; None for anything else, or if its request does not say."""
    path = Path(source)
    if not (path / CONFIG).is_file() or read_config(path)["kind"] != "population":
        return None
    return request_of(path).get("data")
