"""The command ``assemble``: one network from a census."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

import consilience as cs
from consilience.names import Correction, Pooling
from consilience.studies.request import (
    ADDED,
    POSITIONAL,
    PRESENTATION,
    Options,
    Output,
    OwnNetworks,
    Reading,
    parse_width,
)
from consilience.studies.result import Result, digest_of, named_value, run_cached

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module


@dataclass(frozen=True, kw_only=True)
class Request(OwnNetworks, Reading, Options, Output):
    """Build one network from a census.

    Example: consilience assemble census --width 2x --out network
    """

    census: tyro.conf.Positional[Path] = field(metadata=POSITIONAL)
    """Directory of the census."""
    width: str = "2x"
    """A number, "2x", "frequency>=0.5", "parameters<=100000", "full", or by layer: "hidden.0=64,hidden.1=2x".
    The layers of transformers also have kinds: "heads=8,stream=2x,mlp=4x"."""
    correction: Correction = "least-squares"
    """What follows construction, in order of cost; all but none need a census with calibration data."""
    pooling: Pooling = "mean"
    """How the members' outputs are combined; class-share is for members that were trained on different classes."""
    data: str | None = field(default=None, metadata=PRESENTATION)
    """Labeled data to score the network on; by default the data that the population was trained on."""
    steps: int = field(default=500, metadata=ADDED)
    """Gradient steps of distill."""


def run(request: Request) -> Result:
    """Return the size of the network and, if the data is known, its accuracy or R² beside that of the ensemble."""
    from consilience.assembly.widths import check_form
    from consilience.census.storage import layers_of
    from consilience.store import check_destination
    from consilience.studies.networks import open_census
    from consilience.studies.samples import fitted, known_source

    check_destination(request.out, "network")
    check_form(parse_width(request.width), layers_of(request.census))
    census, population = open_census(request.census, request.module, request.key, request.output)
    source = known_source(population, request.data, request.seed, request)
    data = None if source is None else source.load()
    if data is not None:
        data = fitted(census.population_, data)
    network = load_or_build(request, census)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    lines = [f"network in {request.out}: {parameters} parameters"]
    as_json: dict[str, Any] = {"out": str(request.out), "parameters": parameters}
    how, load = how_to_load(request, network, census.population_)
    if load:
        as_json["load"] = load
        lines.append(f"{how}: {load}")
    if data is not None:
        for name, scored in (("assembly", network), ("ensemble of the members", cs.Ensemble(census.population_))):
            score = cs.evaluate(scored, data.validation, output=census.population_.output)
            quality = f"{100 * score.quality:.2f} ± {100 * score.quality_se:.2f} %"
            lines.append(f"  {name:<24} validation {score.metric} {quality}")
            as_json[f"{name.split()[0]}_{named_value(score)}"] = score.quality
    return Result("\n".join(lines), as_json)


def load_or_build(request: Request, census: cs.Census) -> Module:
    """Return the network, read if it is finished."""
    from consilience.population.pretrained import is_pretrained, load_pretrained
    from consilience.store import read_artefact
    from consilience.store.network import is_sayable, norms_in, save_pretrained
    from consilience.studies.progress import stages
    from consilience.units.configs import set_config
    from consilience.units.grouped import regroup
    from consilience.units.resize import fill

    def make() -> Module:
        width = parse_width(request.width)
        distils = request.correction == "distill" or request.steps != Request.steps
        steps: dict[str, Any] = {"steps": request.steps} if distils else {}
        with stages(f"assembling at width {request.width}"):
            assembler = cs.Assembler(census, pooling=request.pooling)
            return assembler.assemble(width, correction=request.correction, random_state=request.seed, **steps)

    def write(network: Module, directory: Path, config: dict[str, Any]) -> None:
        save = save_pretrained if is_sayable(network) else cs.save_network
        save(network, directory, {**config, "example_shape": _input_shape(census)})

    def read(directory: Path) -> Module:
        member, artefact = census.population_.members[0], read_artefact(directory, "network")
        if is_pretrained(directory):
            return load_pretrained([directory])[0]
        network = fill(member.module, member.network.architecture, artefact.tensors, directory)
        regroup(network, norms_in(artefact.config.get("net"), str(directory)))
        set_config(network)
        return network

    return run_cached(request, "network", {"census": digest_of(request.census)}, make, write, read)


def how_to_load(request: Request, network: Module, population: cs.Population) -> tuple[str, str]:
    """Return the expression of Python that loads a network, after words for it; nothing for one of this package."""
    from consilience.population.pretrained import is_pretrained
    from consilience.store.network import FOREIGN, describe_network
    from consilience.units.configs import unsayable

    described, inputs = describe_network(network), _example_text(population)
    if described["type"] != FOREIGN:
        return "", ""
    library_class = f"transformers.{type(network).__name__}"
    if is_pretrained(request.out):
        return "to load it", f'{library_class}.from_pretrained("{request.out}")'
    pretrained = population.provenance.get("pretrained")
    if request.module is None and pretrained:
        member = f'{library_class}.from_pretrained("{pretrained[0]}")'
        loaded = f'consilience.load_network("{request.out}", {member}, {inputs}, output={population.output!r})'
        why = unsayable(network)
        return f"no config can say what it is ({why}); to load it" if why else "to load it", loaded
    if "norms" in described:
        return (
            f"to load it, with a {request.module} of its widths",
            f'consilience.load_network("{request.out}", module)',
        )
    loaded = f'consilience.Population.from_directory("{request.out}", "{request.module}", {inputs})'
    return "to load it", f"{loaded}.members[0].module"


def _example_text(population: cs.Population) -> str:
    """What makes inputs of the members, in Python."""
    if population.inputs is None:
        return _tensor_text(population.example_input)
    example = population.inputs.together(population.example_input)
    if isinstance(example, tuple):
        return f"({', '.join(map(_tensor_text, example))})"
    return f"{{{', '.join(f'{name!r}: {_tensor_text(values)}' for name, values in example.items())}}}"


def _tensor_text(values: Tensor) -> str:
    sizes = ", ".join(map(str, (1, *values.shape[1:])))
    if values.is_floating_point():
        return f"torch.randn({sizes})"
    return f"torch.ones({sizes}, dtype={values.dtype})"


def _input_shape(census: cs.Census) -> tuple[int, ...]:
    return tuple(census.population_.example_input.shape[1:])
