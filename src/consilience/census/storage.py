"""A census on disk. It names its population by path and fingerprint, and holds its calibration data."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from consilience.census.census import Census, check_fitted
from consilience.census.layer_census import LayerCensus
from consilience.clustering.clusterers import Clustering
from consilience.clustering.clusters import Clusters
from consilience.clustering.tree import Tree
from consilience.errors import ArtefactError
from consilience.population.population import Population
from consilience.store import read_artefact, write_artefact

KIND = "census"
UNIT_ARRAYS = ("member", "index", "alive")
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
            "path": os.path.relpath(Path(population).resolve(), Path(directory).resolve()),
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
    recorded = artefact.config["population"]
    if population is None:
        population = Population.load(Path(os.path.normpath(artefact.directory / recorded["path"])))
    if population.fingerprint != recorded["fingerprint"]:
        raise ArtefactError(
            f"population must be the one the census in {artefact.directory} was taken of, with fingerprint "
            f"{recorded['fingerprint'][:12]}, got one with {population.fingerprint[:12]}",
            cure="take the census again, or pass the population it was taken of",
        )
    census = Census(**artefact.config["census"])
    census.set_members(population, artefact.tensors.get("calibration"))
    census.layers_ = {
        name: _from_tensors(name, len(population), artefact.tensors, f"layer-{i}/")
        for i, name in enumerate(artefact.config["layers"])
    }
    return census


def _to_tensors(layer: LayerCensus) -> dict[str, Tensor]:
    arrays = {name: getattr(layer, name) for name in UNIT_ARRAYS}
    arrays |= {field.name: getattr(layer.clusters, field.name) for field in fields(Clusters)}
    arrays |= {"centroid": layer.centroid_, "leaves": layer.clustering.labels}
    if layer.clustering.tree is not None:
        arrays["merges"] = layer.clustering.tree.to_linkage()
    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}


def _from_tensors(name: str, n_members: int, tensors: Mapping[str, Tensor], prefix: str) -> LayerCensus:
    arrays = {key.removeprefix(prefix): value.numpy() for key, value in tensors.items() if key.startswith(prefix)}
    tree = Tree.from_linkage(arrays["merges"]) if "merges" in arrays else None
    return LayerCensus(
        name=name,
        n_members=n_members,
        **{key: arrays[key] for key in UNIT_ARRAYS},
        clustering=Clustering(tree, arrays["leaves"]),
        clusters=Clusters(**{field.name: arrays[field.name] for field in fields(Clusters)}),
        centroid_=arrays["centroid"],
    )
