"""A population: trained networks with the same inputs and outputs, each with its layers found and proved."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from consilience.checks import is_count
from consilience.errors import ConsilienceError, InputError
from consilience.units.architecture import Architecture, TracedNetwork, read_state
from consilience.units.follow import find_layers
from consilience.units.proof import prove
from consilience.units.resize import SIZE_ATTRIBUTES


@dataclass(frozen=True)
class Member:
    """One network of a population.

    Attributes
    ----------
    module : the network itself, in eval mode.
    network : its layers and parameters; the parameters share memory with the module.
    """

    module: nn.Module
    network: TracedNetwork


@dataclass(frozen=True)
class Population:
    """Members with the same inputs and outputs; their widths may differ.

    Attributes
    ----------
    members : the members that take part in a census.
    example_input : (n, ...) a few inputs, on which members are traced and proved.
    failed : members that training gave up on: index at training → why. They are not in ``members``.
    provenance : how the population came about; goes into its ``config.json``.
    metrics : one record per epoch and member, as `train_population` leaves them.
    snapshots : epoch of training (from 1, ascending) → the members as they were after it, in the same order; a
        population without snapshots of its own.
    """

    members: tuple[Member, ...]
    example_input: Tensor
    failed: Mapping[int, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    metrics: Sequence[Mapping[str, Any]] = ()
    snapshots: Mapping[int, Population] = field(default_factory=dict)

    @classmethod
    def from_modules(cls, modules: Sequence[nn.Module], example_input: Tensor, **details: Any) -> Population:
        """Build a population from trained modules, which are copied.

        Every module is traced, and its layers are proved on its own forward pass (see `consilience.units.proof`).

        Parameters
        ----------
        modules : at least one module; one input tensor, one output tensor.
        example_input : (n, ...) inputs of the right shape, n ≥ 1.
        **details : further attributes of the population.

        Raises
        ------
        InputError
            If there is no module, a parameter or output is not finite, or members differ in more than their widths.
        TracingError, FunctionChangedError
            If a module is not understood, or the proof of its layers fails.
        """
        if not modules:
            raise InputError("a population needs at least one member", got="no modules")
        if not bool(torch.isfinite(example_input).all()):
            raise InputError(
                "the example input is not finite", where="example_input", cure="remove NaN and infinite values"
            )
        return cls(_joined((), modules, example_input), example_input, **details)

    def with_members(self, modules: Sequence[nn.Module] | Population) -> Population:
        """Return the population with further members, after the old ones; this one stays as it is.

        The old members are kept, not traced again. The new ones are proved, and traced where no member is like them.
        ``provenance["n_added"]`` counts the members that came in this way. Snapshots stay behind: they are of the old
        members alone.

        Parameters
        ----------
        modules : trained modules (which are copied), or a population of them; at least one.

        Raises
        ------
        InputError
            If there are no modules, a parameter or output is not finite, or they differ from the members in more than
            parameters and widths.
        TracingError, FunctionChangedError
            If a module is not understood, or the proof of its layers fails.

        Examples
        --------
        >>> from consilience.nets import MLP
        >>> population = Population.from_modules([MLP(4, [5], 2)], torch.randn(8, 4))
        >>> population.with_members([MLP(4, [9], 2)]).widths("hidden.0")
        (5, 9)
        """
        if isinstance(modules, nn.Module):
            raise InputError(
                "one module where several are expected", where="modules", got=type(modules).__name__,
                expected="a sequence of modules, or a population", cure="put it into a list",
            )  # fmt: skip
        new = [member.module for member in modules] if isinstance(modules, Population) else list(modules)
        if not new:
            raise InputError(
                "there is no member to add", where="modules", got="no modules", cure="pass at least one trained module"
            )
        provenance = {**self.provenance, "n_added": self.provenance.get("n_added", 0) + len(new)}
        members = _joined(self.members, new, self.example_input, first=len(self))
        return replace(self, members=members, provenance=provenance, snapshots={})

    def with_snapshot(self, epoch: int, modules: Sequence[nn.Module]) -> Population:
        """Return the population with its members as they were after an epoch; this one stays as it is.

        The snapshot is found in ``snapshots[epoch]``, in place of an older one. Its members are proved, and not traced
        again: they share the programs of this population's members. Its ``provenance["epoch"]`` is the epoch, and its
        metrics end there; ``failed`` and the rest are as here.

        Parameters
        ----------
        epoch : of training, from 1.
        modules : each member's network at the time, in the order of the members; they are copied.

        Raises
        ------
        InputError
            If the epoch is not a number from 1, there is not one module for each member with tensors of its names and
            shapes, or a parameter or output is not finite.
        TracingError, FunctionChangedError
            If a module is not understood, or the proof of its layers fails.

        Examples
        --------
        >>> from consilience.nets import MLP
        >>> early, late = MLP(4, [5], 2), MLP(4, [5], 2)
        >>> population = Population.from_modules([late], torch.randn(8, 4)).with_snapshot(1, [early])
        >>> population.snapshots[1].provenance
        {'epoch': 1}
        """
        if not is_count(epoch):
            raise InputError("this is no epoch", where="epoch", got=repr(epoch), expected="an integer of 1 or more")
        members = _joined(self.members, list(modules), self.example_input)[len(self) :]
        now, then = ([_shapes(member.module) for member in kept] for kept in (self.members, members))
        if now != then:
            unlike = [k for k, (mine, theirs) in enumerate(zip(now, then, strict=False)) if mine != theirs]
            raise InputError(
                "a snapshot is not of the same members", where="modules",
                got=f"member {unlike[0]} with other tensors" if unlike else f"{len(then)} modules",
                expected=f"{len(now)} modules, each with tensors of its member's names and shapes",
            )  # fmt: skip
        snapshot = replace(
            self, members=members, snapshots={}, provenance={**self.provenance, "epoch": epoch},
            metrics=tuple(record for record in self.metrics if record["epoch"] <= epoch),
        )  # fmt: skip
        return replace(self, snapshots=dict(sorted({**self.snapshots, epoch: snapshot}.items())))

    def save(self, directory: str | os.PathLike[str]) -> Path:
        """Write the population as an artefact; see `consilience.population.storage.save_population`."""
        from consilience.population.storage import save_population  # storage knows populations, not the reverse

        return save_population(self, directory)

    @classmethod
    def load(cls, directory: str | os.PathLike[str], module: nn.Module | None = None) -> Population:
        """Read a population; see `consilience.population.storage.load_population`."""
        from consilience.population.storage import load_population

        return load_population(directory, module)

    @classmethod
    def from_directory(
        cls,
        directory: str | os.PathLike[str],
        module: nn.Module | Callable[[], nn.Module] | str,
        example_input: Tensor,
        *,
        strict: bool = False,
    ) -> Population:
        """Build a population from a folder of checkpoints; see `import_population`."""
        from consilience.population.checkpoints import import_population

        return import_population(directory, module, example_input, strict=strict)

    def __len__(self) -> int:
        return len(self.members)

    def __iter__(self) -> Iterator[Member]:
        return iter(self.members)

    @property
    def networks(self) -> tuple[TracedNetwork, ...]:
        """The members as traced networks."""
        return tuple(member.network for member in self.members)

    @property
    def architecture(self) -> Architecture:
        """The first member's architecture; the others share all of it but the widths."""
        return self.members[0].network.architecture

    def widths(self, layer: str) -> tuple[int, ...]:
        """Return the width each member has in a layer."""
        return tuple(network.architecture.layer(layer).width for network in self.networks)

    def median_width(self, layer: str) -> int:
        """Return the members' median width in a layer; "2x" means twice this."""
        widths = sorted(self.widths(layer))
        return widths[len(widths) // 2]

    def logits(self, x: Tensor) -> Tensor:
        """Return the outputs of every member: (N, n, o)."""
        return torch.stack([network(x) for network in self.networks])


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def _joined(old: Sequence[Member], modules: Sequence[nn.Module], x: Tensor, first: int = 0) -> tuple[Member, ...]:
    """Return old members and new ones, whose layers are found and proved on inputs x; all must be of one kind.

    Errors count the new ones from ``first`` on.
    """
    members = list(old)
    known = [(member.module, member.network.architecture) for member in old]
    for number, module in enumerate(modules, first):
        try:
            members.append(_member(module, x, known))
        except ConsilienceError as error:
            counted = ", the old members being the first" if first else ""
            error.add_note(f"this is member {number} of the population{counted}")
            raise
    _check_alike(members, x, [*range(len(old)), *range(first, first + len(modules))])
    return tuple(members)


def _member(module: nn.Module, x: Tensor, known: list[tuple[nn.Module, Architecture]]) -> Member:
    if not isinstance(module, nn.Module):
        raise InputError("not a module", got=type(module).__name__, expected="a trained nn.Module")
    module = copy.deepcopy(module).eval()
    state = read_state(module)
    for name, value in state.items():
        if not bool(torch.isfinite(value).all()):
            raise InputError("a parameter or buffer is not finite", where=f"'{name}'", cure="leave this member out")
    for other, traced in known:  # tracing takes 0.2 s; like modules share a program, and the proof follows all the same
        shapes = {name: tuple(value.shape) for name, value in state.items()}
        alike = traced.fits(state) and traced.shapes(traced.widths_in(state), read_state(other)) == shapes
        alike = alike and {v.dtype for v in state.values()} == {v.dtype for v in read_state(other).values()}
        own = set(traced.program.parameters.values())
        if alike and _plain(other, own) == _plain(module, own):
            architecture = traced.with_widths(traced.widths_in(state))
            break
    else:
        architecture = find_layers(module, x)
        known.append((module, architecture))
    network = TracedNetwork(architecture, state)
    prove(module, network, x)
    return Member(module, network)


def _plain(module: nn.Module, own: Container[str]) -> list[tuple[object, ...]]:
    """What makes two modules run the same operations: their parts' classes, buffers, and what is no tensor or size.

    ``own``: names of what each module may have its own of, the statistics of batch norms among them.
    """
    sizes = {"training", "groups", *(name for names in SIZE_ATTRIBUTES.values() for name in names)}
    described: list[tuple[object, ...]] = [
        (name, str(buffer.dtype), tuple(buffer.flatten().tolist()))
        for name, buffer in module.named_buffers()
        if name not in own and not name.endswith("num_batches_tracked")
    ]
    for name, part in module.named_modules():
        described.append((name, type(part)))
        for key, value in vars(part).items():
            if not key.startswith("_") and key not in sizes:
                parts = value if isinstance(value, tuple) else (value,)
                simple = all(p is None or isinstance(p, bool | int | float | str) or callable(p) for p in parts)
                described.append((name, key, value if simple else id(value)))
    return described


def _unlike(mine: tuple[object, ...], theirs: tuple[object, ...]) -> tuple[object, object]:
    """The first parts in which two structures differ; nothing twice if they do not."""
    for a, b in zip(mine, theirs, strict=False):
        if a != b:
            return _unlike(a, b) if isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b) else (a, b)
    return (None, None) if len(mine) == len(theirs) else (mine, theirs)


def _equal_outputs(one: TracedNetwork, other: TracedNetwork, x: Tensor) -> bool:
    outputs = one(x)
    return float((other(x) - outputs).abs().max()) <= 1e-5 * float(outputs.abs().max().clamp(min=0.1))


def _check_alike(members: Sequence[Member], x: Tensor, numbers: Sequence[int]) -> None:
    """Refuse members that differ in more than their parameters and widths; say in what, and by their numbers which."""
    architectures = [member.network.architecture for member in members]
    first = architectures[0]
    for k, other in enumerate(architectures):
        for what, mine, theirs in (
            ("input shape", other.program.input_shape, first.program.input_shape),
            ("output size", other.output.width, first.output.width),
            ("layers", [layer.name for layer in other.layers], [layer.name for layer in first.layers]),
            (
                "activations",
                [layer.activations for layer in other.layers],
                [layer.activations for layer in first.layers],
            ),
            ("maps between layers", *_unlike(other.structure, first.structure)),
        ):
            if mine != theirs:
                raise InputError(
                    f"members differ in their {what}",
                    where=f"member {numbers[k]}",
                    got=mine,
                    expected=f"{theirs}, as member 0 has",
                    cure="leave this member out, or build one population per kind",
                )
    for k, member in enumerate(members):  # the first member's program must compute them all
        own = member.network
        here = TracedNetwork(first.with_widths(architectures[k].widths), own.state)
        # Roundings may grow in single precision; another function is another one in double precision too.
        if not _equal_outputs(own, here, x) and not _equal_outputs(own.double(), here.double(), x.double()):
            raise InputError(
                "members differ in something that is not a parameter", where=f"member {numbers[k]}",
                got="another function of the same parameters, as with other buffers or another scaling of the inputs",
                expected="what member 0 computes, with parameters and widths of its own",
                cure="give all members the same buffers and preprocessing",
            )  # fmt: skip
