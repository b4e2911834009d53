"""The command ``census``: the clusters of the units of a population, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

import consilience as cs
from consilience.errors import InputError
from consilience.names import Clusterer, Distance, Grounding
from consilience.studies.request import INPUT, POSITIONAL, InputShape, Options, Output, OwnNetworks, argument, arguments
from consilience.studies.result import Result, run_cached

if TYPE_CHECKING:
    from torch import Tensor

    from consilience.census import LayerCensus


@dataclass(frozen=True, kw_only=True)
class Request(InputShape, OwnNetworks, Options, Output):
    """Cluster the units of a population, layer by layer."""

    population: tyro.conf.Positional[Path] = field(metadata=POSITIONAL)
    """Directory of the population, or a folder of checkpoints."""
    data: str | None = field(default=None, metadata=INPUT)
    """Calibration data; by default the data that the population was trained on."""
    grounding: Grounding = "activations"
    """How deeper layers are expressed in common coordinates; weights needs no data."""
    distance: Distance = "activation"
    """Distance between units; activation needs data."""
    clusterer: Clusterer = "ward"
    """Clustering method; one census with ward, average or two-stage gives assemblies of any width."""
    n_clusters: str = "2x"
    """Clusters in each layer: a number, or a multiple of the members' median width."""
    resamples: int = field(default=10, metadata=argument("n_resamples"))
    """Resamples of the members that measure the stability of clusters."""


def run(request: Request) -> Result:
    """Return a table of the layers: units, clusters, how many are frequent, and their stability."""
    from consilience.store import check_destination
    from consilience.studies.networks import left_out_of, open_population, parse_shape
    from consilience.studies.samples import source_of

    check_destination(request.out, "census")
    if not request.population.is_dir():
        raise InputError(f"there is no directory {request.population}", cure="check the path")
    shape, x, data = parse_shape(request.example_shape), None, dict[str, str | None]()
    if request.data is not None or request.grounding == "activations" or request.distance == "activation":
        source = source_of(request.population, request.data, request.seed)
        x, data = source.load().calibration.x, source.entries(request.data)
        shape = shape or tuple(x.shape[1:])
    population = open_population(request.population, request.module, shape, request.seed)
    layers = load_or_fit(request, population, x, data).layers_
    left_out = left_out_of(population)
    longest = max(14, *map(len, layers)) + 2
    lines = [
        f"census in {request.out}",
        f"{'layer':<{longest}}{'units':>7}{'dead':>6}{'clusters':>10}{'in half the members':>21}{'stability':>11}",
        *(_row(layer, longest) for layer in layers.values()),
        *(f"left out: {name}: {reason}" for name, reason in left_out.items()),
    ]
    as_json = {name: _as_json(layer) for name, layer in layers.items()}
    return Result("\n".join(lines), {"out": str(request.out), "layers": as_json, "left_out": left_out})


def load_or_fit(
    request: Request, population: cs.Population, x: Tensor | None, data: Mapping[str, str | None]
) -> cs.Census:
    """Return the census, read if it is finished; ``data`` is what its request says of the data."""
    from consilience.studies.progress import stages

    def make() -> cs.Census:
        n_clusters = int(request.n_clusters) if request.n_clusters.isdecimal() else request.n_clusters
        census = cs.Census(**{**arguments(request, cs.Census), "n_clusters": n_clusters})
        with stages(f"census of {len(population)} members"):
            return census.fit(population, x)

    def write(census: cs.Census, directory: Path, config: dict[str, Any]) -> None:
        shape = tuple(population.example_input.shape[1:])
        cs.save_census(census, directory, request.population, {**config, "example_shape": shape})

    inputs = {"population": population.fingerprint[:16], "data": None, **data}
    return run_cached(request, "census", inputs, make, write, lambda directory: cs.load_census(directory, population))


def _row(layer: LayerCensus, longest: int) -> str:
    common = int((layer.frequency_ >= 0.5).sum())
    measured = [value for value in layer.stability_.tolist() if not math.isnan(value)]
    stability = sum(measured) / len(measured) if measured else math.nan
    counts = f"{len(layer.member):>7}{layer.n_dead_:>6}{layer.n_clusters_:>10}{common:>21}"
    return f"{layer.name:<{longest}}{counts}{stability:>11.2f}"


def _as_json(layer: LayerCensus) -> dict[str, Any]:
    stability = [None if math.isnan(value) else value for value in layer.stability_.tolist()]
    counts = {"n_units": len(layer.member), "n_dead": layer.n_dead_}
    return {**counts, "frequency": layer.frequency_.tolist(), "size": layer.size_.tolist(), "stability": stability}
