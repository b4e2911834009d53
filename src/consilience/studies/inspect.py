"""The command ``inspect``: the layers of networks, found and proved."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import Annotated

import tyro

from consilience.studies.request import POSITIONAL, InputShape, Options, OwnNetworks
from consilience.studies.result import Result


@dataclass(frozen=True, kw_only=True)
class Request(InputShape, OwnNetworks, Options):
    """Find the layers of networks, prove them, and print them. Writes nothing.

    Example: consilience inspect nets:Net --example-shape 3,32,32
    """

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODULE|DIR")] = field(metadata=POSITIONAL)
    """package.module:Class (or a function), or the directory of a population, a network, or checkpoint files."""


def run(request: Request) -> Result:
    """Return the layers; nothing is written."""
    from consilience.studies.inspection import inspect_population
    from consilience.studies.networks import open_networks, parse_shape

    began = time.perf_counter()
    shape = parse_shape(request.example_shape)
    population = open_networks(request.source, request.module, shape, request.seed, request.key, request.output)
    inspection = inspect_population(population, time.perf_counter() - began)
    return Result(str(inspection), asdict(inspection), inspection)
