"""The command ``census``: the clusters of the units of a population, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

import consilience as cs
from consilience.errors import InputError
from consilience.names import Clusterer, Distance, Grounding
from consilience.studies.request import (
    INPUT,
    POSITIONAL,
    InputShape,
    Options,
    Output,
    OwnNetworks,
    Reading,
    argument,
    arguments,
    parse_width,
)
from consilience.studies.result import Result, run_cached

if TYPE_CHECKING:
    from torch import Tensor

    from consilience.census import LayerCensus, Significance

COLUMNS = ("units", "dead", "clusters", "significant", "recurrence", "in half the members", "resampling stability")
READING = (
    "after a slash: by chance, for members whose units are turned at random; significant: clusters with q <= 0.05; "
    "recurrence: share of the other members with a like unit"
)


@dataclass(frozen=True, kw_only=True)
class Request(InputShape, OwnNetworks, Reading, Options, Output):
    """Cluster the units of a population, layer by layer.

    Example: consilience census population --out census
    """

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
    """Return a table of the layers: units, clusters, and what of them is more than chance."""
    from consilience.census.significance import is_cheap
    from consilience.several import are_several
    from consilience.store import check_destination
    from consilience.studies.heads import lines_of
    from consilience.studies.networks import check_folder, is_population, left_out_of, open_population, parse_shape
    from consilience.studies.progress import stages
    from consilience.studies.samples import fitted, packed, sole, source_of
    from consilience.studies.significance import OF_HEADS, measured_significance

    check_destination(request.out, "census")
    check_folder(request.population)
    shape, samples, data = parse_shape(request.example_shape), None, dict[str, Any]()
    is_folder = not is_population(request.population)
    if request.data is not None or request.grounding == "activations" or request.distance == "activation":
        source = source_of(request.population, request.data, request.seed, request)
        samples, data = source.load(), source.entries(request.data)
        if is_folder and samples.task == "next-token":
            data["task"] = samples.task
    if shape is None and samples is not None and is_folder:
        x = sole(samples.calibration.x)
        if are_several(x):
            cure = "make a population of them in Python, Population.from_directory(...).save(directory), and pass that"
            raise InputError(f"{request.population} must be a population for data of several inputs", cure=cure)
        shape = tuple(x.shape[1:])
    options: dict[str, Any] = {"key": request.key, "output": request.output, "task": data.get("task")}
    population = open_population(request.population, request.module, shape, request.seed, **options)
    if len(population) == 1 and request.n_clusters == Request.n_clusters:
        message = f"{request.population} must have several networks, as a census compares their units, got one"
        raise InputError(message, cure="add networks, or pass --n-clusters 1x or less for clusters of its own units")
    calibration = None
    if samples is not None and samples.task == "next-token":  # numbers of another vocabulary mean nothing
        calibration = fitted(population, samples).calibration.x
    elif samples is not None:
        calibration = packed(population, samples.calibration).x
    census = load_or_fit(request, population, calibration, data)
    with stages("chance levels"):
        significance, unmeasured = measured_significance(census)
    layers = census.layers_
    cheap = [name for name, layer in layers.items() if is_cheap(layer)]
    untrained = census.beside_untrained(cheap) if 0 in population.snapshots else {}
    left_out, roles = left_out_of(population), census.head_roles()
    longest = max(14, *map(len, layers)) + 2
    lines = [
        f"census in {request.out}",
        *([f"data {samples.name} is read as {samples.read_as}"] if is_folder and samples is not None else []),
        _line("layer", COLUMNS, longest),
        *(_row(layer, significance.get(name), longest) for name, layer in layers.items()),
        *(
            dict.fromkeys(
                f"chance levels of {'heads' if reason == OF_HEADS else name} not measured: {reason}"
                for name, reason in unmeasured.items()
            )
        ),
        *([READING] if significance else []),
        *(
            f"{name}: the units of {own.n_significant} of {len(own.q)} clusters recur more, beside chance, than "
            "units did before training (q <= 0.05)"
            for name, own in untrained.items()
        ),
        *lines_of(roles),
        *(f"left out: {name}: {reason}" for name, reason in left_out.items()),
    ]
    as_json = {name: _as_json(layer, significance.get(name)) for name, layer in layers.items()}
    for name, own in untrained.items():
        as_json[name]["beside_untrained"] = {part: getattr(own, part).tolist() for part in ("excess", "p", "q")}
    for name, heads in roles.items():
        as_json[name]["heads"] = {score: own.tolist() for score, own in heads.by_cluster.items()}
    return Result("\n".join(lines), {"out": str(request.out), "layers": as_json, "left_out": left_out})


def load_or_fit(request: Request, population: cs.Population, x: Tensor | None, data: Mapping[str, Any]) -> cs.Census:
    """Return the census, read if it is finished; ``data`` is what its request says of the data."""
    from consilience.studies.progress import stages

    def make() -> cs.Census:
        n_clusters = parse_width(request.n_clusters)
        census = cs.Census(**{**arguments(request, cs.Census), "n_clusters": n_clusters})
        with stages(f"census of {len(population)} members"):
            return census.fit(population, x)

    def write(census: cs.Census, directory: Path, config: dict[str, Any]) -> None:
        shape = tuple(population.example_input.shape[1:])
        cs.save_census(census, directory, request.population, {**config, "example_shape": shape})

    inputs = {"population": population.fingerprint[:16], "data": None, **data}
    return run_cached(request, "census", inputs, make, write, lambda directory: cs.load_census(directory, population))


def _row(layer: LayerCensus, significance: Significance | None, longest: int) -> str:
    row = [str(len(layer.member)), str(layer.n_dead_), str(layer.n_clusters_)]
    half, stability = int((layer.frequency_ >= 0.5).sum()), f"{_mean(layer.stability_.tolist()):.2f}"
    if significance is None:
        beside = ["", "", str(half), stability]
    else:
        turned, excess = significance.turned, significance.excess
        beside = [
            str(significance.n_significant),
            f"{excess.share:.2f} / {excess.chance:.2f}",
            f"{half} / {int((turned.frequency >= 0.5).sum())}",
            f"{stability} / {_mean(turned.stability.tolist()):.2f}",
        ]
    return _line(layer.name, [*row, *beside], longest)


def _line(name: str, cells: Sequence[str], longest: int) -> str:
    return f"{name:<{longest}}" + "".join(
        f"{cell:>{len(column) + 3}}" for cell, column in zip(cells, COLUMNS, strict=True)
    )


def _mean(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _as_json(layer: LayerCensus, significance: Significance | None) -> dict[str, Any]:
    counts = {"n_units": len(layer.member), "n_dead": layer.n_dead_}
    clusters = {
        "frequency": layer.frequency_.tolist(),
        "size": layer.size_.tolist(),
        "stability": _plain(layer.stability_.tolist()),
    }
    return {**counts, **clusters, "significance": None if significance is None else _significance_as_json(significance)}


def _significance_as_json(significance: Significance) -> dict[str, Any]:
    excess, turned = significance.excess, significance.turned
    by_cluster = ("recurrence", "chance", "similarity", "chance_similarity", "p", "q")
    return {
        **{name: getattr(significance, name).tolist() for name in by_cluster},
        "share": excess.share,
        "share_by_chance": excess.chance,
        "interval": _plain(list(excess.interval)),
        "z": _plain([excess.z])[0],
        "frequency_by_chance": turned.frequency.tolist(),
        "stability_by_chance": _plain(turned.stability.tolist()),
        "radius": significance.radius,
        "n_rotations": significance.n_rotations,
    }


def _plain(values: list[float]) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values]
