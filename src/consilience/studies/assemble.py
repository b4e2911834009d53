"""The command ``assemble``: one network from a census."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from consilience.names import Correction, Pooling
from consilience.studies.request import POSITIONAL, Options, Output, identity
from consilience.studies.result import Result, run_cached

if TYPE_CHECKING:
    from torch import nn

    from consilience.census import Census


@dataclass(frozen=True, kw_only=True)
class Request(Options, Output):
    """Build one network from a census."""

    census: tyro.conf.Positional[Path] = field(metadata=POSITIONAL)
    """Directory of the census."""
    width: str = "2x"
    """A number, "2x", "frequency>=0.5", "parameters<=100000" or "full"."""
    correction: Correction = "least-squares"
    """What follows construction, in order of cost; all but none need a census with calibration data."""
    pooling: Pooling = "mean"
    """How the members' outputs are combined; class-share is for members that were trained on different classes."""
    module: str | None = None
    """Class of your own networks, as in package.module:Class; it is imported."""


def run(request: Request) -> Result:
    """Return the size of the network and, if the data is known, its accuracy beside that of the ensemble."""
    from consilience.baselines import Ensemble
    from consilience.evaluation import evaluate
    from consilience.store import check_destination
    from consilience.store.network import FOREIGN, describe_network
    from consilience.studies.artefacts import open_census, request_of
    from consilience.studies.samples import data_of

    check_destination(request.out, "network")
    census, source = open_census(request.census, request.module)
    network = assembled(request, census)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    lines = [f"network in {request.out}: {parameters} parameters"]
    as_json: dict[str, Any] = {"out": str(request.out), "parameters": parameters}
    if describe_network(network)["type"] == FOREIGN:
        sizes = ", ".join(map(str, census.population_.example_input.shape[1:]))
        as_json["load"] = (
            f'consilience.Population.from_directory("{request.out}", "{request.module}", torch.randn(1, {sizes}))'
            ".members[0].module"
        )
        lines.append(f"to load it: {as_json['load']}")
    if "data" in request_of(source):
        validation = data_of(source, None, request.seed).validation
        for name, scored in (("assembly", network), ("ensemble of the members", Ensemble(census.population_))):
            score = evaluate(scored, validation)
            accuracy = f"{100 * score.accuracy:.2f} ± {100 * score.accuracy_se:.2f} %"
            lines.append(f"  {name:<24} validation accuracy {accuracy}")
            as_json[f"{name.split()[0]}_validation_accuracy"] = score.accuracy
    return Result("\n".join(lines), as_json)


def assembled(request: Request, census: Census) -> nn.Module:
    """Return the network, read if it is finished."""
    from consilience.assembly import assemble
    from consilience.population.storage import fill
    from consilience.store import read_artefact, save_network
    from consilience.studies.artefacts import digest_of
    from consilience.studies.progress import stages

    def make() -> nn.Module:
        width = int(request.width) if request.width.isdecimal() else request.width
        with stages(f"assembling at width {request.width}"):
            return assemble(
                census, width, correction=request.correction, pooling=request.pooling, random_state=request.seed
            )

    def write(network: nn.Module, directory: Path, config: dict[str, Any]) -> None:
        shape = tuple(census.population_.example_input.shape[1:])
        save_network(network, directory, {**config, "example_shape": shape})

    def read(directory: Path) -> nn.Module:
        member, tensors = census.population_.members[0], read_artefact(directory, "network").tensors
        return fill(member.module, member.network.architecture, tensors, directory)

    key = identity(request, census=digest_of(request.census))
    return run_cached(request.out, "network", key, make, write, read)
