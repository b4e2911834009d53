"""A census on disk. It names its population by path and fingerprint, and holds its calibration data."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from consilience.census.census import Census, check_fitted
from consilience.census.layer_census import LayerCensus
from consilience.checks import as_path, describe
from consilience.clustering.clusterers import Clustering
from consilience.clustering.clusters import Clusters
from consilience.clustering.tree import Tree
from consilience.errors import ArtefactError, InputError
from consilience.population.checks import check_population
from consilience.population.population import Population
from consilience.schema import AGAIN, read_entries
from consilience.store import read_artefact, write_artefact
from consilience.store.config import CONFIG, read_config

KIND = "census"
UNIT_ARRAYS = ("member", "index", "alive")
# Arrays of a layer, and their kinds of numbers.
ARRAYS = dict.fromkeys(("member", "index", "labels", "leaves", "size"), "i") | {"alive": "b"}
ARRAYS |= dict.fromkeys(("frequency", "stability", "centroid"), "f")
PARAMETERS = ("grounding", "distance", "clusterer", "n_clusters", "n_resamples", "random_state")


def save_census(
    census: Census,
    directory: str | os.PathLike[str],
    population: str | os.PathLike[str],
    extra_config: Mapping[str, Any] | None = None,
) -> Path:
    """Write a census.

    Parameters
    ----------
    census : a fitted census.
    directory : a new directory, or that of a census to replace.
    population : directory of its population, which is not copied; its path relative to the census is saved.
    extra_config : further entries of ``config.json``.

    Raises
    ------
    ArtefactError : if the directory holds anything but a census.
    """
    check_fitted(census)
    config = {
        **(extra_config or {}),
        "census": {name: getattr(census, name) for name in PARAMETERS},
        "population": {
            "path": os.path.relpath(
                as_path(population, "population").resolve(), as_path(directory, "directory").resolve()
            ),
            "fingerprint": census.population_.fingerprint,
        },
        "layers": list(census.layers_),
    }
    tensors: dict[str, Any] = {f"layer-{i}": _to_tensors(layer) for i, layer in enumerate(census.layers_.values())}
    if census.calibration_ is not None:
        tensors["calibration"] = census.calibration_
    return write_artefact(directory, KIND, config, tensors)


def load_census(directory: str | os.PathLike[str], population: Population | None = None) -> Census:
    """Read a census, and its population from the saved path if none is given.

    Raises
    ------
    ArtefactError : also if the population is missing, or not that of the census.
    """
    artefact = read_artefact(directory, KIND)
    entries, where = artefact.entries(_Entries), artefact.directory / CONFIG
    recorded = entries.population
    if population is None:
        population = Population.open(_place(artefact.directory, recorded))
    check_population(population)
    if population.fingerprint != recorded.fingerprint:
        raise ArtefactError(
            f"population must be the one the census in {artefact.directory} was taken of, with fingerprint "
            f"{recorded.fingerprint[:12]}, got one with {population.fingerprint[:12]}",
            cure="take the census again, or pass the population it was taken of",
        )
    names, calibration = (
        tuple(layer.name for layer in population.architecture.free),
        artefact.tensors.get("calibration"),
    )
    if entries.layers != names:
        raise ArtefactError(f"layers in {where} must be {list(names)}, got {list(entries.layers)}", cure=AGAIN)
    census = Census(**vars(entries.census))
    try:
        census.check(population, calibration)
    except InputError as error:
        raise ArtefactError(
            f"census in {where} must be the options of a census, got: {error.message}", cure=AGAIN
        ) from error
    census.set_members(population, calibration)
    census.layers_ = {
        name: _from_tensors(name, population, artefact.part(f"layer-{i}"), artefact.directory)
        for i, name in enumerate(names)
    }
    return census


def population_of(directory: Path) -> Path:
    """Return the directory of the population of a census; raise an `ArtefactError` if nothing is there."""
    config = read_config(directory, KIND)
    return _place(directory, read_entries(_Entries, config, directory / CONFIG).population)


def layers_of(directory: Path) -> tuple[str, ...]:
    """Return the names of the layers of a census, without its networks."""
    return read_entries(_Entries, read_config(directory, KIND), directory / CONFIG).layers


def _place(directory: Path, recorded: Reference) -> Path:
    path = Path(os.path.normpath(directory / recorded.path))
    if not path.is_dir():
        message = f"the population of the census {directory} must be in {path}, got no directory"
        raise ArtefactError(message, cure="move it there, pass it as population=, or take the census again")
    return path


@dataclass(frozen=True)
class Reference:
    """The population of a census: its path relative to the census, and its fingerprint."""

    path: str
    fingerprint: str


@dataclass(frozen=True)
class _Parameters:
    """The arguments of `Census`."""

    grounding: str
    distance: str
    clusterer: str
    n_clusters: int | str | Mapping[str, int | str] | None
    n_resamples: int
    random_state: int


@dataclass(frozen=True)
class _Entries:
    """What the config has beside its header and the entries of whoever saved the census."""

    census: _Parameters
    population: Reference
    layers: tuple[str, ...]


def _to_tensors(layer: LayerCensus) -> dict[str, Tensor]:
    arrays = {name: getattr(layer, name) for name in UNIT_ARRAYS}
    arrays |= {field.name: getattr(layer.clusters, field.name) for field in fields(Clusters)}
    arrays |= {"centroid": layer.centroid_, "leaves": layer.clustering.labels}
    if layer.clustering.tree is not None:
        arrays["merges"] = layer.clustering.tree.to_linkage()
    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}


def _from_tensors(name: str, population: Population, tensors: Mapping[str, Tensor], source: Path) -> LayerCensus:
    """Return one layer; raise unless its arrays are of the units of the population and fit each other."""
    arrays = {key: value.numpy() for key, value in tensors.items()}
    wrong = _wrong(arrays, population.widths(name))
    if wrong:
        raise ArtefactError(f"layer {name} in {source} must have arrays of its units, got {wrong}", cure=AGAIN)
    tree = Tree.from_linkage(arrays["merges"]) if "merges" in arrays else None
    return LayerCensus(
        name=name,
        n_members=len(population),
        **{key: arrays[key] for key in UNIT_ARRAYS},
        clustering=Clustering(tree, arrays["leaves"]),
        clusters=Clusters(**{field.name: arrays[field.name] for field in fields(Clusters)}),
        centroid_=arrays["centroid"],
    )


def _wrong(arrays: Mapping[str, NDArray[Any]], widths: Sequence[int]) -> str:
    """Return the name of the first array that does not fit; empty if all do."""
    missing = next((key for key in ARRAYS if key not in arrays), "")
    if missing:
        return f"no {missing}"
    n_units, n_clusters, n_alive = sum(widths), len(arrays["size"]), int(np.sum(arrays["alive"]))
    shapes = dict.fromkeys((*UNIT_ARRAYS, "labels"), (n_units,)) | {"leaves": (n_alive,)}
    shapes |= dict.fromkeys(("frequency", "size", "stability"), (n_clusters,))
    for key, shape in shapes.items():
        if arrays[key].shape != shape or arrays[key].dtype.kind not in ARRAYS[key]:
            return f"{key} {describe(arrays[key])}"
    if arrays["centroid"].shape[:-1] != (n_clusters,) or not np.isfinite(arrays["centroid"]).all():
        return f"centroid {describe(arrays['centroid'])}"
    if not np.array_equal(arrays["member"], np.repeat(np.arange(len(widths)), widths)):
        return "member"
    if not np.array_equal(arrays["index"], np.concatenate([np.arange(width) for width in widths])):
        return "index"
    if not _in_range(arrays["labels"], -1, n_clusters) or not _in_range(arrays["leaves"], 0, max(n_alive, 1)):
        return "labels"
    merges = arrays.get("merges")
    return "" if merges is None or _is_linkage(merges, int(arrays["leaves"].max(initial=-1)) + 1) else "merges"


def _in_range(values: NDArray[Any], least: int, below: int) -> bool:
    return bool(((values >= least) & (values < below)).all())


def _is_linkage(merges: NDArray[Any], n_leaves: int) -> bool:
    """Return whether these are SciPy's merges of so many leaves: each node is joined once, after it was made."""
    if merges.shape != (n_leaves - 1, 4) or merges.dtype.kind != "f" or not np.isfinite(merges).all():
        return False
    children = merges[:, :2]
    below = children < n_leaves + np.arange(n_leaves - 1)[:, None]
    return bool(below.all()) and np.array_equal(np.sort(children, axis=None), np.arange(2 * n_leaves - 2))
