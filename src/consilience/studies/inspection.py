"""What networks are made of: their layers as they were found and proved, in words and as plain data.

Networks come from a class or factory by its import path, or from a directory: an artefact, or a folder of checkpoints.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Group
from rich.table import Table
from rich.text import Text
from torch import Tensor

from consilience.errors import InputError
from consilience.population import Population, load_population
from consilience.population.factories import make_module
from consilience.population.storage import fill
from consilience.store import load_network, read_artefact, read_config
from consilience.store.config import CONFIG
from consilience.store.network import FOREIGN
from consilience.training.train import N_EXAMPLES
from consilience.units.architecture import Architecture
from consilience.units.follow import find_layers
from consilience.units.proof import TOLERANCE
from consilience.units.symmetry import can_flip, symmetry_of

COLUMNS = ("layer", "width", "activations", "symmetries", "tied to", "batch norms", "written by", "read by")


@dataclass(frozen=True)
class InspectedLayer:
    """One layer, in names.

    Attributes
    ----------
    name : of the layer.
    widths : of each member.
    activations : functions that its units pass through, in order.
    symmetries : what may be done to its units: "permute", "rescale", "flip".
    tied_to : the layer whose units these are paired with, if any.
    batch_norms : modules that are folded into the hyperplanes of what writes it.
    written_by, read_by : maps.
    """

    name: str
    widths: tuple[int, ...]
    activations: tuple[str, ...]
    symmetries: tuple[str, ...]
    tied_to: str | None
    batch_norms: tuple[str, ...]
    written_by: tuple[str, ...]
    read_by: tuple[str, ...]

    @property
    def cells(self) -> tuple[str, ...]:
        """Everything as text, by column."""
        names = (self.batch_norms, self.written_by, self.read_by)
        return (
            self.name, _range(self.widths), ", ".join(self.activations), ", ".join(self.symmetries),
            self.tied_to or "", *(", ".join(each) for each in names),
        )  # fmt: skip


@dataclass(frozen=True)
class Inspection:
    """What networks are made of; ``str`` has it in words.

    Attributes
    ----------
    name : class of the networks.
    n_members : networks, of one kind.
    input_shape : of one sample.
    parameters : of each member.
    layers : those whose units are interchangeable.
    outputs : the layer that is returned.
    fixed : other layers whose units are told apart by their index.
    crossing : maps that are applied once for each unit of another layer.
    proved : change → layers that it was made to, in each member, without a change of the outputs.
    tolerance : largest change of an output that passes, as a share of the largest output.
    seconds : what it took to read, trace and prove the networks.
    left_out : checkpoint → why it is not among the members.
    """

    name: str
    n_members: int
    input_shape: tuple[int, ...]
    parameters: tuple[int, ...]
    layers: tuple[InspectedLayer, ...]
    outputs: InspectedLayer
    fixed: tuple[InspectedLayer, ...]
    crossing: tuple[str, ...]
    proved: Mapping[str, int]
    tolerance: float
    seconds: float
    left_out: Mapping[str, str]

    def __str__(self) -> str:
        columns, rows = self.table
        lengths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
        lines = ["  ".join(c.ljust(n) for c, n in zip(row, lengths, strict=True)).rstrip() for row in (columns, *rows)]
        return "\n".join([self.heading, "", *lines, "", *self.remarks])

    def __rich__(self) -> Group:
        columns, rows = self.table
        table = Table(*columns)
        for row in rows:
            table.add_row(*map(Text, row))  # names may hold brackets, which are not markup
        return Group(Text(self.heading), table, *map(Text, self.remarks))

    @property
    def table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """Columns, and a row for each layer; columns with nothing in them are left out."""
        rows = [layer.cells for layer in self.layers]
        kept = [i for i in range(len(COLUMNS)) if i < 2 or any(row[i] for row in rows)]
        return tuple(COLUMNS[i] for i in kept), [tuple(row[i] for i in kept) for row in rows]

    @property
    def heading(self) -> str:
        """Which networks these are."""
        members = f"{self.n_members} × " if self.n_members > 1 else ""
        counts = f"{self.outputs.widths[0]} outputs, {_range(self.parameters)} parameters"
        return f"{members}{self.name}: inputs {self.input_shape}, {counts}"

    @property
    def remarks(self) -> list[str]:
        """What is not in the table: the other layers, and last what was proved."""
        lines = [f"outputs: {_named([self.outputs])}"]
        if self.fixed:
            lines.append(f"units told apart by their index, so that no census can be taken: {_named(self.fixed)}")
        if self.crossing:
            names = ", ".join(self.crossing)
            lines.append(f"applied once for each unit of another layer, so that no census can be taken: {names}")
        lines += [f"left out: {name}: {reason}" for name, reason in self.left_out.items()]
        unchanged = f"outputs unchanged to {self.tolerance:.0e} of the largest".replace("e-0", "e-")
        return [*lines, f"found and proved in {self.seconds:.1f} s: {self.changes}: {unchanged}"]

    @property
    def changes(self) -> str:
        """What the proof did."""
        to_all = [change for change, n in self.proved.items() if n == len(self.layers) > 0]
        to_some = [f"{n} {change}" for change, n in self.proved.items() if 0 < n < len(self.layers)]
        every = f"every layer {', '.join(to_all[:-1])} and {to_all[-1]}" if to_all else "no layer to change"
        return ", ".join([every, *to_some])


def inspect_source(
    source: str, module: str | None = None, example_shape: Sequence[int] | None = None, *, random_state: int = 0
) -> Inspection:
    """Find the layers of networks, prove them, and tell of them.

    Parameters
    ----------
    source : ``"package.module:Class"``, or a function in place of the class; or a directory: a population or network of
        this package, or a folder of checkpoints.
    module : where the class of the networks in a directory can be imported, as in ``"package.module:Class"``, if it is
        not one of this package.
    example_shape : of one sample; the inputs are random. Not needed where the directory tells it.
    random_state : seed of the inputs, and of the initial values of a class.

    Raises
    ------
    InputError, ArtefactError
        If there is no such class or directory, it needs a module or shape that is not given, or the networks fail on
        inputs of that shape.
    TracingError, FunctionChangedError
        If the networks are not understood, or the proof of their layers fails.
    """
    began = time.perf_counter()
    population = open_networks(source, module, example_shape, random_state=random_state)
    return inspect_population(population, time.perf_counter() - began)


def open_networks(
    source: str, module: str | None = None, example_shape: Sequence[int] | None = None, *, random_state: int = 0
) -> Population:
    """Return networks as a population, wherever they come from; see `inspect_source`."""
    path = Path(source)
    if ":" in source and not path.exists():
        x = random_inputs(example_shape, random_state, where=source)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(random_state)
            return Population.from_modules([make_module(source)], x)
    if not path.is_dir():
        raise InputError(
            "there is no such directory", where=source, expected="a directory, or package.module:Class",
            cure="check the path",
        )  # fmt: skip
    if (path / CONFIG).is_file() and read_config(path)["kind"] == "network":
        return _open_network(path, module, example_shape, random_state)
    return open_population(path, module, example_shape, random_state=random_state)


def inspect_population(population: Population, seconds: float) -> Inspection:
    """Tell of the members of a population; ``seconds`` is what it took to build."""
    architecture, modules = population.architecture, [member.module for member in population]
    layers = {layer.name: _inspected(layer.name, population) for layer in architecture.layers}
    hidden = tuple(layers[layer.name] for layer in architecture.hidden)
    fixed = [layer for layer in architecture.layers if not layer.interchangeable and layer != architecture.output]
    counts = {
        change: sum(symmetry in layer.symmetries for layer in hidden)
        for change, symmetry in (("permuted", "permute"), ("rescaled", "rescale"), ("flipped", "flip"))
    }
    return Inspection(
        name=type(modules[0]).__name__,
        n_members=len(modules),
        input_shape=architecture.program.input_shape,
        parameters=tuple(sum(parameter.numel() for parameter in module.parameters()) for module in modules),
        layers=hidden,
        outputs=layers[architecture.output.name],
        fixed=tuple(layers[layer.name] for layer in fixed),
        crossing=architecture.crossing,
        proved={**counts, "doubled": len(hidden)},
        tolerance=TOLERANCE,
        seconds=seconds,
        left_out=population.provenance.get("left_out", {}),
    )


def open_population(
    directory: Path, module: str | None, example_shape: Sequence[int] | None, *, random_state: int = 0
) -> Population:
    """Read a population, or the networks in a folder of checkpoints; its provenance tells which of these are left out.

    Parameters
    ----------
    directory : the artefact or folder.
    module, example_shape, random_state : see `inspect_source`; only a folder needs the shape.

    Raises
    ------
    InputError, ArtefactError
        If there is no such directory, it needs a module or shape that is not given, or its content cannot be used.
    """
    if (directory / CONFIG).is_file() or not directory.is_dir():
        config = read_config(directory)
        _check_given(module, config.get("members", []), directory)
        return load_population(directory, None if module is None else make_module(module))
    if module is None:
        raise InputError(
            "a folder of checkpoints does not tell what they are of", where=directory,
            cure="pass --module package.module:Class; for a population of this package, check the path",
        )  # fmt: skip
    x = random_inputs(example_shape, random_state, where=directory)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\d+ of \d+ checkpoints are left out")
        return Population.from_directory(directory, module, x)


def random_inputs(shape: Sequence[int] | None, random_state: int, *, where: object) -> Tensor:
    """Return normally distributed inputs of a shape, (n, *shape), to trace and prove networks on.

    Raises
    ------
    InputError
        If there is no shape; ``where`` is what needs it.
    """
    if shape is None:
        raise InputError(
            "the shape of the inputs is not known", where=where, cure="pass it, as in --example-shape 3,32,32"
        )
    return torch.randn(N_EXAMPLES, *shape, generator=torch.Generator().manual_seed(random_state))


def _open_network(
    directory: Path, module: str | None, example_shape: Sequence[int] | None, random_state: int
) -> Population:
    config = read_config(directory)
    _check_given(module, [config.get("net", {})], directory)
    x = random_inputs(example_shape or config.get("example_shape"), random_state, where=directory)
    if module is None:
        return Population.from_modules([load_network(directory)], x)
    template = make_module(module)
    tensors = read_artefact(directory, "network").tensors
    return Population.from_modules([fill(template, find_layers(template, x), tensors, directory)], x)


def _check_given(module: str | None, descriptions: Sequence[Mapping[str, str]], directory: Path) -> None:
    """Refuse networks of a class that is neither one of this package nor given."""
    foreign = next((each for each in descriptions if each.get("type") == FOREIGN), None)
    if foreign is not None and module is None:
        raise InputError(
            "these networks are of a class of the user's own", where=directory, got=foreign.get("class"),
            expected="where to import such a module", cure="pass --module package.module:Class",
        )  # fmt: skip


def _inspected(name: str, population: Population) -> InspectedLayer:
    architecture = population.architecture
    layer, writing = architecture.layer(name), architecture.writing(name)
    norms = (m.norm.weight.rpartition(".")[0] or m.norm.weight for m in writing if m.norm is not None and not m.is_norm)
    return InspectedLayer(
        name=name,
        widths=population.widths(name),
        activations=layer.activations,
        symmetries=_symmetries(architecture, name) if layer.interchangeable else (),
        tied_to=layer.tied,
        batch_norms=tuple(dict.fromkeys(norms)),
        written_by=tuple(m.name for m in writing),
        read_by=tuple(m.name for m in architecture.reading(name)),
    )


def _symmetries(architecture: Architecture, layer: str) -> tuple[str, ...]:
    homogeneous = symmetry_of(architecture.layer(layer).activations).homogeneous
    allowed = {"permute": True, "rescale": homogeneous, "flip": can_flip(architecture, layer)}
    return tuple(name for name, allows in allowed.items() if allows)


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def _named(layers: Sequence[InspectedLayer]) -> str:
    return ", ".join(f"{layer.name} ({_range(layer.widths)})" for layer in layers)
