"""The command ``modularity``: do networks split into parts, and what do these do?"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

import consilience as cs
from consilience.checks import check_count
from consilience.names import Null, Scale
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
)
from consilience.studies.result import Result, obtained, run_paged

KIND, FILE = "modularity", "modularity.json"


@dataclass(frozen=True, kw_only=True)
class Request(InputShape, OwnNetworks, Reading, Options, Output):
    """Measure whether networks split into weakly connected clusters. Writes modularity.json and report.html: n-cuts of
    all networks against shuffled copies, and for one of them its clusters, what they do, and how few weights each class
    needs.

    Example: consilience modularity population --null degree-preserving --out modularity
    """

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DIR")] = field(metadata=POSITIONAL)
    """A population, a network, or a folder of checkpoints."""
    assembly: Path | None = field(default=None, metadata=INPUT)
    """A network that was built from the members, to compare with them."""
    member: int = 0
    """Member that is shown in detail."""
    clusters: int = field(default=12, metadata=argument("n_clusters"))
    """Clusters of units, inputs and outputs among them."""
    null: Null = "permute"
    """Weights to shuffle: all of a matrix (as published), those that are not zero, or with the units' degrees kept."""
    scale: Scale = "balanced"
    """Weights to measure: with units rescaled to equal norms of incoming and outgoing weights, or as given."""
    nulls: int = field(default=50, metadata=argument("n_null"))
    """Shuffled copies of each network."""
    circuits: int = 50_000
    """Look for circuits in a network of at most this many weights; 0 for none."""
    data: str | None = field(default=None, metadata=INPUT)
    """Labeled data for accuracies (or R²), lesions and circuits; by default what the population was trained on."""


def run(request: Request) -> Result:
    """Return the n-cuts of all networks beside those of shuffled copies, and what they say."""
    from consilience.report.modularity import render_modularity
    from consilience.store import check_destination
    from consilience.studies.modularity_result import Networks, found_text, run_modularity
    from consilience.studies.networks import open_networks, parse_shape
    from consilience.studies.progress import stages
    from consilience.studies.samples import known_source, packed

    check_destination(request.out, KIND)
    check_count("circuits", request.circuits, least=0)
    source, module, seed = request.source, request.module, request.seed
    data = known_source(source, request.data, seed, request)
    population = open_networks(source, module, parse_shape(request.example_shape), seed, request.key, request.output)
    inputs, assembly = {"networks": population.fingerprint[:16], "data": None}, None
    inputs |= {} if data is None else data.entries(request.data)
    if request.assembly is not None:
        shape = tuple(population.example_input.shape[1:])
        assembly = open_networks(str(request.assembly), module, shape, seed)
        inputs["assembly"] = assembly.fingerprint[:16]

    def make() -> tuple[str, str]:
        loaded = None if data is None else data.load()
        told = loaded is not None and loaded.task in ("classification", "regression")
        samples = packed(population, loaded.test) if loaded is not None and told else None
        networks = Networks(source, population, request.member, assembly)
        measure = partial(cs.Clusterability, **arguments(request, cs.Clusterability), n_jobs=-1)
        with stages(f"modularity of {len(population)} networks") as progress:
            result = run_modularity(networks, measure, samples, request.circuits, obtained(request), progress)
        return found_text(result), render_modularity(result)

    return run_paged(request, KIND, FILE, inputs, make)
