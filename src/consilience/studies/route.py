"""The command ``route``: a wide assembly of which a part is computed for each sample."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from consilience.checks import check_count, check_number, check_positive
from consilience.errors import InputError
from consilience.names import Grouping, RoutedCorrection
from consilience.studies.request import INPUT, POSITIONAL, Options, Output, OwnNetworks, Reading, argument, arguments
from consilience.studies.result import PAGE, Result, digest_of, obtained, run_cached, said_in

if TYPE_CHECKING:
    from consilience.nets import Routed

    Made = tuple[Routed | None, str | bytes, str]  # the network, and the texts of the JSON file and of the page

FILE = "routing.json"


@dataclass(frozen=True, kw_only=True)
class Request(OwnNetworks, Reading, Options, Output):
    """Build a wide network from a census of perceptrons, and routers that choose which part of its units is computed
    for each sample. Writes the network, which load_network reads, routing.json, and report.html: its accuracy against
    multiplications, beside narrow networks and random experts.

    Example: consilience route census --active 0.25 --out routed
    """

    census: tyro.conf.Positional[Path] = field(metadata=POSITIONAL)
    """Directory of the census."""
    width: str = "4x"
    """Width of the wide network, as in assemble; "full" is exactly the ensemble."""
    active: float = 0.25
    """Share of the experts of each layer that is computed for a sample."""
    experts: int = field(default=16, metadata=argument("n_experts"))
    """Experts of each layer: groups of as many units."""
    grouping: Grouping = "co-activation"
    """Which units are an expert: those that are active on the same samples, or random ones."""
    correction: RoutedCorrection = "least-squares"
    """What follows the choice of experts, in order of cost."""
    steps: int = 500
    """Gradient steps of distill."""
    data: str | None = field(default=None, metadata=INPUT)
    """Labeled data for the scores; by default the data that the population was trained on."""


def run(request: Request) -> Result:
    """Return the scores of the routed network, of the wide one, and of narrow ones with as many multiplications."""
    from consilience.census.storage import population_of
    from consilience.report.routing import render_routing
    from consilience.store import check_destination, read_artefact, save_network
    from consilience.studies.networks import open_census
    from consilience.studies.progress import stages
    from consilience.studies.routing_result import found_text, run_routing
    from consilience.studies.samples import fitted, source_of

    check_destination(request.out, "network")
    check_number("active", request.active, least=0, most=1)
    check_positive("active", request.active)
    check_count("n_experts", request.experts)
    check_count("steps", request.steps)
    if request.steps != Request.steps and request.correction != "distill":
        raise InputError(f"--steps must be left out with --correction {request.correction}, got {request.steps}")
    source = source_of(population_of(request.census), request.data, request.seed, request)

    def make() -> Made:
        census, _ = open_census(request.census, request.module, request.key, request.output)
        data = fitted(census.population_, source.load())
        with stages("routing") as progress:
            setting = arguments(request, run_routing)
            network, result = run_routing(census, data.validation, obtained(request), progress, **setting)
        return network, found_text(result, FILE), render_routing(result)

    def write(made: Made, directory: Path, config: dict[str, Any]) -> None:
        network, text, page = made
        assert network is not None
        save_network(network, directory, config, {FILE: text, PAGE: page})

    def read(directory: Path) -> Made:
        read_artefact(directory, "network")  # or raises, if a file has changed
        return None, (directory / FILE).read_bytes(), ""

    inputs = {"census": digest_of(request.census), **source.entries(request.data)}
    return said_in(run_cached(request, "network", inputs, make, write, read)[1], request.out, FILE)
