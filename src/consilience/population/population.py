"""A population: trained networks with the same inputs and outputs, each with its layers found and proved."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from consilience.checks import check_count, check_names
from consilience.errors import InputError
from consilience.population.checkpoints import import_checkpoints
from consilience.population.config_entries import check_configs
from consilience.population.member import Member, copies, join_members
from consilience.population.pretrained import as_paths, directories_named, load_pretrained
from consilience.population.storage import Contents, fingerprint_of, read_population, write_population
from consilience.tasks import check_fits_outputs, check_task
from consilience.units.architecture import Architecture, TracedNetwork
from consilience.units.inputs import Inputs, inputs_of, one_tensor, take_packed
from consilience.units.modules import as_example
from consilience.units.outputs import Pick, check_pick
from consilience.units.written_out import write_out

DETAILS = ("example_input", "failed", "provenance", "metrics", "task")


@dataclass(frozen=True)
class Population:
    """Members with the same inputs and outputs; their widths may differ.

    Attributes
    ----------
    members : the members that take part in a census.
    example_input : (n, ...) a few inputs, on which members are traced and proved; several inputs side by side (n, d).
    failed : members that training gave up on: index at training → why. They are not in ``members``.
    provenance : how the population came about; goes into its ``config.json``.
    metrics : one record per epoch and member, as `train_population` leaves them.
    task : "classification", "regression", "multilabel" or "next-token", what the members were trained for; None if it
        is unknown.
    snapshots : epoch of training (ascending) → the members as they were after it, in the same order, as a
        population without snapshots.
    """

    members: tuple[Member, ...]
    example_input: Tensor
    failed: Mapping[int, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    metrics: Sequence[Mapping[str, Any]] = ()
    task: str | None = None
    snapshots: Mapping[int, Population] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_task(self.task)
        if self.members:
            check_fits_outputs(self.task, self.architecture.program.output_shape)

    def __repr__(self) -> str:
        kind = type(self.members[0].module).__name__ if self.members else "network"
        hidden = {layer.name: self.widths(layer.name) for layer in self.architecture.free} if self.members else {}
        spans = (f"{name} {'–'.join(map(str, sorted({min(own), max(own)})))}" for name, own in hidden.items())
        return f"<Population of {len(self.members)} {kind}: {', '.join(spans)}>"

    @classmethod
    def from_modules(
        cls, modules: Iterable[nn.Module], example_input: object, *, output: Pick = None, **details: Any
    ) -> Population:
        """Build a population from trained modules, which are copied.

        Every module is traced, and its layers are proved on its own forward pass (see `consilience.units.proof`).

        Parameters
        ----------
        modules : at least one module, in a list or another iterable. Wrappers (DataParallel,
            compiled, averaged) are taken off, weights that are computed before each forward pass (weight norm, spectral
            norm, pruning) are stored, and half precision becomes float32.
        example_input : (n, ...) inputs of the right shape, n ≥ 1: a tensor, or an array. For several inputs, a tuple of
            these, as the forward pass takes them, or a dict by the names of its arguments; integers and masks too.
        output : key or number of the outputs in what the modules return, where they return a tuple, a dict or the like;
            by default all, side by side.
        **details : further attributes of the population, such as ``task="classification"``, by which outputs are
            compared.

        Raises
        ------
        InputError : if a parameter or output is not finite, a module fails on the inputs, cannot be copied or has no
            values, or members differ in more than their widths.
        TracingError, FunctionChangedError : if a module is not understood, or the proof of its layers fails.
        """
        check_names("arguments", details, ("output", *DETAILS[1:], "snapshots"))
        check_task(details.get("task"))
        members = copies(modules)
        check_configs(members)
        x = as_example(one_tensor(members, example_input))
        check_pick(output)
        write_out(members, x, output)
        return cls(join_members((), members, x, output=output), x, **details)

    @property
    def inputs(self) -> Inputs | None:
        """What the members take, where they take several inputs; these are packed in one tensor inside the package."""
        return inputs_of(self.members[0].module)

    @property
    def output(self) -> Pick:
        """Which of the values that the members return are their outputs; None for all."""
        return self.architecture.program.pick

    def with_members(self, modules: Iterable[nn.Module] | Population) -> Population:
        """Return the population with further members, after the old ones; this one stays as it is.

        ``modules`` are copied and proved, and traced where no member is like them; errors are those of `from_modules`.
        ``provenance["n_added"]`` counts them. Snapshots are left out: they are of the old members alone.

        Examples
        --------
        >>> from consilience.nets import MLP
        >>> population = Population.from_modules([MLP(4, [5], 2)], torch.randn(8, 4))
        >>> population.with_members([MLP(4, [9], 2)]).widths("hidden.0")
        (5, 9)
        """
        new = self._copies([m.module for m in modules] if isinstance(modules, Population) else modules, len(self))
        provenance = {**self.provenance, "n_added": self.provenance.get("n_added", 0) + len(new)}
        members = join_members(self.members, new, self.example_input, output=self.output)
        return replace(self, members=members, provenance=provenance, snapshots={})

    def with_snapshot(self, epoch: int, modules: Iterable[nn.Module]) -> Population:
        """Return the population with its members as they were after an epoch, 0 for untrained; this one stays as it is.

        ``modules`` are each member's network at the time, in the order of the members, with tensors of the same names
        and shapes; they are copied and proved. ``snapshots[epoch]``, in place of an older one, has the epoch in its
        provenance, and its metrics end there. Errors are those of `from_modules`.

        Examples
        --------
        >>> from consilience.nets import MLP
        >>> early, late = MLP(4, [5], 2), MLP(4, [5], 2)
        >>> population = Population.from_modules([late], torch.randn(8, 4)).with_snapshot(1, [early])
        >>> population.snapshots[1].provenance
        {'epoch': 1}
        """
        check_count("epoch", epoch, least=0)
        new = self._copies(modules)
        names = [f"member {k}" for k in range(len(new))]
        members = join_members(self.members, new, self.example_input, names, output=self.output)[len(self) :]
        now, then = ([_shapes(member.module) for member in kept] for kept in (self.members, members))
        if now != then:
            unlike = [k for k, (mine, theirs) in enumerate(zip(now, then, strict=False)) if mine != theirs]
            got = f"other tensors in member {unlike[0]}" if unlike else f"{len(then)} modules"
            raise InputError(f"modules must be {len(now)}, each with tensors of its member's shapes, got {got}")
        return self._with_snapshots({epoch: members})

    def _copies(self, modules: Iterable[nn.Module], first: int = 0) -> list[nn.Module]:
        """Copies of modules that take what the members take."""
        new = copies(modules, first)
        if self.inputs is not None:
            take_packed(new, self.inputs)
        write_out(new, self.example_input, self.output)
        return new

    def _with_snapshots(self, snapshots: Mapping[int, Sequence[Member]]) -> Population:
        every = dict(self.snapshots)
        for epoch, members in snapshots.items():
            provenance = {**self.provenance, "epoch": epoch}
            metrics = tuple(record for record in self.metrics if record["epoch"] <= epoch)
            every[epoch] = replace(self, members=tuple(members), snapshots={}, provenance=provenance, metrics=metrics)
        return replace(self, snapshots=dict(sorted(every.items())))

    def save(self, directory: str | os.PathLike[str], extra_config: Mapping[str, Any] | None = None) -> Path:
        """Write the population as an artefact; the same population gives the same bytes.

        Raises
        ------
        ArtefactError : if the directory holds anything but a population; nothing has changed.
        """
        kept = {epoch: snapshot.members for epoch, snapshot in self.snapshots.items()}
        details = {name: getattr(self, name) for name in DETAILS}
        return write_population(Contents(self.members, **details, snapshots=kept), directory, extra_config)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all members' tensors, by which a census identifies its population."""
        return fingerprint_of(self.members)

    def __reduce__(self) -> tuple[Any, ...]:
        """Go to another process as modules and proofs: what has been traced is traced again there."""
        kept = {epoch: snapshot.members for epoch, snapshot in self.snapshots.items()}
        groups = {epoch: [(m.module, m.proof) for m in members] for epoch, members in {0: self.members, **kept}.items()}
        details = {name: value for name, value in vars(self).items() if name in DETAILS}
        return _traced_again, (groups, details, self.output)

    @classmethod
    def load(cls, directory: str | os.PathLike[str], module: nn.Module | None = None) -> Population:
        """Read what `save` wrote. Members are traced, one of each kind, and proved unless the artefact has their proof.

        Parameters
        ----------
        directory : of the population.
        module : a module of the members' class, for members that are not of `consilience.nets`; of any widths.

        Raises
        ------
        ArtefactError : if the directory is no population, or damaged, or the parameters do not fit.
        """
        return cls._of(read_population(directory, module))

    @classmethod
    def open(cls, directory: str | os.PathLike[str], module: nn.Module | None = None) -> Population:
        """Return what `load` does, with members that stay on disk: each is read when its turn comes, and forgotten.

        Memory does not grow with the number of members; of their parameters, 256 MiB stay. Every member is traced and
        proved as by `load`, one after the other. The files stay open: what replaces the directory later has no effect.
        What is made of it by `with_members` or `with_snapshot`, or sent to another process, is in memory.

        Raises
        ------
        ArtefactError : as `load` does.

        Examples
        --------
        >>> from tempfile import TemporaryDirectory
        >>> from consilience.nets import MLP
        >>> with TemporaryDirectory() as directory:
        ...     _ = Population.from_modules([MLP(4, [5], 2), MLP(4, [9], 2)], torch.randn(8, 4)).save(directory)
        ...     Population.open(directory).widths("hidden.0")
        (5, 9)
        """
        return cls._of(read_population(directory, module, stored=True))

    @classmethod
    def _of(cls, contents: Contents) -> Population:
        return cls(**vars(contents) | {"snapshots": {}})._with_snapshots(contents.snapshots)

    @classmethod
    def from_directory(
        cls,
        directory: str | os.PathLike[str],
        module: nn.Module | Callable[[], nn.Module] | str,
        example_input: object,
        *,
        strict: bool = False,
        task: str | None = None,
        key: str | None = None,
        output: Pick = None,
    ) -> Population:
        """Build a population from a folder of checkpoints, one member each, in the order of their names.

        Parameters
        ----------
        directory : the folder. Every checkpoint in it is a member, so two of one network count twice.
        module : a module of the members' class, of any widths; or a function without arguments, or a class, that makes
            one; or where to import one of these from, as in ``"package.module:Class"``, the current directory first.
        example_input : inputs, n ≥ 1 (see `from_modules`), to whose type checkpoints of other floating types are
            converted.
        strict : raise at the first checkpoint that cannot be used, instead of skipping it.
        task : "classification", "regression", "multilabel" or "next-token", if it is known.
        output : which outputs are taken; see `from_modules`.
        key : where the weights lie in the files, a key or the attribute of a trainer, as in ``"state_dict_ema"``. By
            default, whatever has all names of the module's: the weights rather than their average, a student rather
            than a teacher; a UserWarning says in one line what was taken where there was a choice.

        Returns
        -------
        A population with ``provenance["imported"]``, file → its number among the members (``member``) and what was done
        to its content (``found_under``, ``prefix_removed``, ``also_fits``, ``ignored``, ``converted``); and
        ``provenance["left_out"]``, file → reason, of which a UserWarning tells too.

        Raises
        ------
        InputError : if the folder or the module cannot be used, or not one checkpoint; with ``strict``, if any cannot.
        TracingError : if the module is not understood.

        Examples
        --------
        >>> from tempfile import TemporaryDirectory
        >>> from consilience.nets import MLP
        >>> with TemporaryDirectory() as folder:
        ...     torch.save(MLP(4, [5], 2).state_dict(), f"{folder}/a.pt")
        ...     torch.save({"model": MLP(4, [9], 2).state_dict()}, f"{folder}/b.pt")
        ...     population = Population.from_directory(folder, MLP(4, [1], 2), torch.randn(8, 4))
        >>> population.widths("hidden.0")
        (5, 9)
        >>> population.provenance["imported"]
        {'a.pt': {'member': 0}, 'b.pt': {'member': 1, 'found_under': 'model'}}
        """
        check_task(task)
        members, x, provenance = import_checkpoints(
            directory, module, example_input, strict=strict, key=key, output=output
        )
        return cls(members, x, provenance=provenance, task=task)

    @classmethod
    def from_pretrained(
        cls,
        directories: Iterable[str | os.PathLike[str]],
        example_input: object,
        *,
        auto: str | None = None,
        output: Pick = "logits",
        task: str | None = None,
    ) -> Population:
        """Build a population from networks that Hugging Face's ``save_pretrained`` has written, one in each directory.

        They may differ in seeds and widths (streams, heads, MLPs). This needs the extra ``hf``. Files are local and in
        the safetensors format; code that comes with weights is not run. Caches are off, and weights are in float32.

        Parameters
        ----------
        directories : at least one, each with a ``config.json`` and ``model.safetensors`` or its shards.
        example_input : inputs, n ≥ 1: token numbers (n, t), or a dict as the networks' forward pass takes it.
        auto : class of transformers that loads them, as in ``"AutoModelForCausalLM"``; by default the one that each
            config names.
        output : which outputs are taken; see `from_modules`.
        task : "classification", "regression", "multilabel" or "next-token", if it is known.

        Raises
        ------
        InputError : if a directory cannot be loaded, weights are missing, or tokenizers or configs differ in more than
            sizes; and as in `from_modules`.
        """
        check_task(task)
        places = as_paths(directories)
        provenance = {"pretrained": [place.as_posix() for place in places]}
        modules = load_pretrained(places, auto)
        with directories_named(places):
            return cls.from_modules(modules, example_input, output=output, task=task, provenance=provenance)

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, k: int) -> Member:
        return self.members[k]

    def __iter__(self) -> Iterator[Member]:
        return iter(self.members)

    @property
    def kind(self) -> Population | None:
        """The first member alone, for other processes; None for a class of a script, which they may not have."""
        if any(type(part).__module__ == "__main__" for part in self.members[0].module.modules()):
            return None
        return Population(self.members[:1], self.example_input)

    @property
    def networks(self) -> tuple[TracedNetwork, ...]:
        """The members as traced networks."""
        return tuple(member.network for member in self.members)

    @property
    def architecture(self) -> Architecture:
        """The first member's architecture; the others share all of it but the widths."""
        return self.members[0].network.architecture

    @property
    def dtype(self) -> torch.dtype:
        """The type of the members' parameters."""
        return next(iter(self.networks[0].state.values())).dtype

    def widths(self, layer: str) -> tuple[int, ...]:
        """Return the width each member has in a layer."""
        return tuple(network.architecture.layer(layer).width for network in self.networks)

    def median_width(self, layer: str) -> int:
        """Return the members' median width in a layer; "2x" means twice this."""
        widths = sorted(self.widths(layer))
        return widths[len(widths) // 2]

    def logits(self, x: Any) -> Tensor:
        """Return the outputs of every member, (N, n, o, ...), before a tail that is not affine, as a softmax."""
        x = x if self.inputs is None else self.inputs.pack(x, "x")
        return torch.stack([network(x) for network in self.networks])


def _traced_again(
    groups: Mapping[int, Sequence[tuple[nn.Module, str]]], details: Mapping[str, Any], output: Pick = None
) -> Population:
    """Return a population from the modules and proofs of each epoch, 0 for the members."""
    x, members = details["example_input"], tuple[Member, ...]()
    snapshots: dict[int, tuple[Member, ...]] = {}
    for epoch, group in groups.items():
        modules, proofs = [module for module, _ in group], [proof for _, proof in group]
        snapshots[epoch] = join_members(members, modules, x, proofs=proofs, output=output)[len(members) :]
        members = members or snapshots[epoch]
    del snapshots[0]
    return Population(members, **details)._with_snapshots(snapshots)


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}
