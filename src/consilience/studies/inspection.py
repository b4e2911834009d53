"""What networks are made of: their layers as they were found and proved, as text and as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Group
from rich.table import Table
from rich.text import Text

from consilience.population import Population
from consilience.studies.networks import left_out_of
from consilience.units.proof import TOLERANCE
from consilience.units.symmetry import can_flip, symmetry_of


@dataclass(frozen=True)
class InspectedLayer:
    """One layer."""

    name: str
    widths: tuple[int, ...]  # of each member
    activations: tuple[str, ...]  # functions that the units pass through, in order
    symmetries: tuple[str, ...]  # changes of the units that leave the outputs as they are: "permute", "rescale", "flip"
    tied_to: str | None  # the layer whose units these are paired with
    batch_norms: tuple[str, ...]  # modules that are folded into the hyperplanes of the maps that write the layer
    written_by: tuple[str, ...]  # maps
    read_by: tuple[str, ...]

    @property
    def cells(self) -> dict[str, str]:
        """Column → text."""
        names = {
            "activations": self.activations,
            "symmetries": self.symmetries,
            "tied to": (self.tied_to,) if self.tied_to else (),
            "batch norms": self.batch_norms,
            "written by": self.written_by,
            "read by": self.read_by,
        }
        joined = {column: ", ".join(values) for column, values in names.items()}
        return {"layer": self.name, "width": _range(self.widths), **joined}


@dataclass(frozen=True)
class Inspection:
    """What networks of one kind are made of; ``str`` gives the text."""

    name: str  # class of the networks
    n_members: int
    input_shape: tuple[int, ...]  # of one sample
    parameters: tuple[int, ...]  # number of parameters of each member
    layers: tuple[InspectedLayer, ...]  # with interchangeable units
    n_outputs: int
    outputs: tuple[InspectedLayer, ...]  # layers that write them
    tail: tuple[str, ...]  # operations after the outputs that are pooled, which the networks keep
    kept: tuple[str, ...]  # parameters that have no part in the outputs
    fixed: tuple[InspectedLayer, ...]  # other layers
    crossing: tuple[str, ...]  # maps that are applied once for each unit of another layer
    proved: Mapping[str, int]  # change → number of layers in which it left the outputs of each member as they are
    tolerance: float  # largest change of an output that passes, divided by the largest output
    seconds: float  # to read, trace and prove the networks
    left_out: Mapping[str, str]  # checkpoint → why it is not among the members

    def __str__(self) -> str:
        table = self.table
        lengths = [max(map(len, cells)) for cells in zip(*table, strict=True)]
        lines = ["  ".join(c.ljust(n) for c, n in zip(row, lengths, strict=True)).rstrip() for row in table]
        return "\n".join([self.heading, "", *lines, "", *self.remarks])

    def __rich__(self) -> Group:
        columns, *rows = self.table
        table = Table(*columns)
        for row in rows:
            table.add_row(*map(Text, row))  # names may hold brackets, which are not markup
        return Group(Text(self.heading), table, *map(Text, self.remarks))

    @property
    def table(self) -> list[list[str]]:
        """Names of columns, and a row for each layer; without columns that are empty."""
        rows = [layer.cells for layer in self.layers]
        kept = [
            column for column in self.outputs[0].cells if column in ("layer", "width") or any(r[column] for r in rows)
        ]
        return [kept, *([row[column] for column in kept] for row in rows)]

    @property
    def heading(self) -> str:
        """Kind and size of the networks."""
        members = f"{self.n_members} × " if self.n_members > 1 else ""
        counts = f"{self.n_outputs} outputs, {_range(self.parameters)} parameters"
        return f"{members}{self.name}: inputs {self.input_shape}, {counts}"

    @property
    def remarks(self) -> list[str]:
        """Lines for the other layers and, last, for what was proved."""
        lines = [f"outputs: {_named(self.outputs)}"]
        if self.tail:
            lines.append(f"pooled before, and followed by: {', '.join(self.tail)}")
        if self.kept:
            lines.append(f"without a part in the outputs, copied as they are: {', '.join(self.kept)}")
        if self.fixed:
            lines.append(f"units not interchangeable, so that no census can be taken: {_named(self.fixed)}")
        if self.crossing:
            names = ", ".join(self.crossing)
            lines.append(f"applied once for each unit of another layer, so that no census can be taken: {names}")
        lines += [f"left out: {name}: {reason}" for name, reason in self.left_out.items()]
        unchanged = f"outputs unchanged to {self.tolerance:.0e} of their spread".replace("e-0", "e-")
        return [*lines, f"found and proved in {self.seconds:.1f} s: {self.changes}: {unchanged}"]

    @property
    def changes(self) -> str:
        """The changes that were proved, and in how many layers."""
        to_all = [change for change, n in self.proved.items() if n == len(self.layers) > 0]
        to_some = [f"{n} {change}" for change, n in self.proved.items() if 0 < n < len(self.layers)]
        every = f"every layer {', '.join(to_all[:-1])} and {to_all[-1]}" if to_all else "no layer to change"
        return ", ".join([every, *to_some])


def inspect_population(population: Population, seconds: float) -> Inspection:
    """Return what the members of a population are made of; ``seconds`` is the time it took to open them."""
    architecture, modules = population.architecture, [member.module for member in population]
    layers = {layer.name: _inspected(layer.name, population) for layer in architecture.layers}
    hidden = tuple(layers[layer.name] for layer in architecture.hidden)
    fixed = [n for n in architecture.layers if not n.interchangeable and n.name not in architecture.heads]
    changes = {"permuted": "permute", "rescaled": "rescale", "flipped": "flip"}
    counts = {change: sum(name in layer.symmetries for layer in hidden) for change, name in changes.items()}
    return Inspection(
        name=type(modules[0]).__name__,
        n_members=len(modules),
        input_shape=architecture.program.input_shape,
        parameters=tuple(sum(parameter.numel() for parameter in module.parameters()) for module in modules),
        layers=hidden,
        n_outputs=architecture.n_outputs,
        outputs=tuple(layers[name] for name in architecture.heads),
        tail=architecture.tail,
        kept=architecture.kept,
        fixed=tuple(layers[layer.name] for layer in fixed),
        crossing=architecture.crossing,
        proved={**counts, "doubled": len(hidden)},
        tolerance=TOLERANCE,
        seconds=seconds,
        left_out=left_out_of(population),
    )


def _inspected(name: str, population: Population) -> InspectedLayer:
    architecture = population.architecture
    layer, writing = architecture.layer(name), architecture.writing(name)
    norms = [m.norm.weight for m in writing if m.norm is not None and not m.is_norm]
    rescale, flip = symmetry_of(layer.activations).homogeneous, can_flip(architecture, name)
    symmetries = {"permute": True, "rescale": rescale, "flip": flip} if layer.interchangeable else {}
    return InspectedLayer(
        name=name,
        widths=population.widths(name),
        activations=layer.activations,
        symmetries=tuple(symmetry for symmetry, is_allowed in symmetries.items() if is_allowed),
        tied_to=layer.tied,
        batch_norms=tuple(dict.fromkeys(norm.rpartition(".")[0] or norm for norm in norms)),
        written_by=tuple(m.name for m in writing),
        read_by=tuple(m.name for m in architecture.reading(name)),
    )


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def _named(layers: Sequence[InspectedLayer]) -> str:
    return ", ".join(f"{layer.name} ({_range(layer.widths)})" for layer in layers)
