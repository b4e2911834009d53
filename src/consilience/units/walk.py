"""The state of a walk through a program that follows units from operation to operation.

Every dimension of a value is either fixed (samples, positions, the inputs' features) or indexes units. The handlers of
`consilience.units.operations` read and change this state.

Each weight writes a *group* of units. Groups that are added, or read by one weight, are joined: they are one layer.
Groups whose units come in pairs are tied: they are one family, permuted together.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard

from torch import Tensor, fx

from consilience.errors import TracingError
from consilience.units.drafts import Draft, Group, Label, Normed, Run, Spread, together
from consilience.units.maps import Norm
from consilience.units.program import Program

SUPPORTED = (
    "linear layers, convolutions, batch and layer norms, elementwise functions, pooling, flatten, sums, "
    "concatenation, gates, dropout"
)
UNSUPPORTED = "unsupported operation on units"
PARAMETER = "unsupported operation on a parameter"


@dataclass
class Walk:
    """The program and the units found in it so far."""

    program: Program
    labels: dict[fx.Node, Label] = field(default_factory=dict)  # no entry for a value without units
    groups: list[Group] = field(default_factory=list)  # by number, in order of appearance
    joined: dict[int, int] = field(default_factory=dict)  # group → an earlier one that it is one layer with
    tied: list[tuple[int, int]] = field(default_factory=list)
    drafts: list[Draft] = field(default_factory=list)
    crossing: list[str] = field(default_factory=list)  # maps that are applied once for each unit of another layer
    parts: dict[fx.Node, list[Label]] = field(default_factory=dict)  # of values that are lists: of each part
    piled: dict[fx.Node, tuple[int, list[Label]]] = field(
        default_factory=dict
    )  # value → a dimension along which it has parts, and the label of each
    sources: dict[fx.Node, Draft] = field(default_factory=dict)  # value → the map that has just written it
    folded: set[fx.Node] = field(default_factory=set)  # those followed by a batch norm that is folded into their map
    elementwise: set[str] = field(default_factory=set)  # values computed number by number, whatever the shape
    functions: dict[str, Callable[..., Any]] = field(default_factory=dict)  # see `Program.functions`
    turned: dict[fx.Node, fx.Node] = field(default_factory=dict)  # value → the parameter that it is the transpose of
    scaled: dict[fx.Node, tuple[fx.Node, Norm]] = field(
        default_factory=dict
    )  # inputs → before their batch norm, and it
    shifted: dict[fx.Node, tuple[fx.Node, float]] = field(default_factory=dict)  # value → the parameter + number it is
    in_tail: bool = False  # whether the operations at hand follow the outputs' heads, which stay whole
    cuts: list[tuple[str, tuple[tuple[Run, ...], ...]]] = field(default_factory=list)  # see `Architecture.cuts`
    statistics: list[Normed] = field(default_factory=list)  # norms over all units of some groups
    numbers: dict[str, Spread] = field(default_factory=dict)  # parameters that are to be written out
    tables: set[str] = field(default_factory=set)  # graph inputs of constants that are added to units

    def label(self, value: fx.Node) -> Label:
        """Return where the units of a value lie; empty if it has none."""
        return self.labels.get(value, {})

    def arguments(self, node: fx.Node, n: int) -> list[Any]:
        """Return the first n arguments of an operation, None where there are fewer."""
        schema = node.target._schema.arguments if hasattr(node.target, "_schema") else []
        given = list(node.args) + [node.kwargs.get(argument.name) for argument in schema[len(node.args) :]]
        return (given + [None] * n)[:n]

    def option(self, node: fx.Node, name: str) -> Any:
        """Return an argument of an operation by its name in the schema; its default where it is not given."""
        schema = node.target._schema.arguments  # type: ignore[union-attr]
        (position,) = (i for i, argument in enumerate(schema) if argument.name == name)
        given = node.args[position] if position < len(node.args) else node.kwargs.get(name)
        return schema[position].default_value if given is None else given

    def carriers(self, node: fx.Node) -> list[fx.Node]:
        """Return the values with units that an operation reads."""
        return [value for value in node.all_input_nodes if value in self.labels]

    def reads_parameter(self, node: fx.Node) -> bool:
        """Whether an operation reads a parameter that is no value of its own."""
        return any(self.is_parameter(value) for value in node.all_input_nodes)

    def is_parameter(self, value: object) -> TypeGuard[fx.Node]:
        """Whether a value is a parameter, or one plus a number, and not a value with units itself."""
        if not isinstance(value, fx.Node) or value in self.labels:
            return False
        return value in self.shifted or value.name in self.program.parameters

    def varies(self, node: fx.Node) -> bool:
        """Whether the inputs have an effect on a value, so that its first dimension is samples."""
        return node.name in self.program.varying

    def only_value(self, node: fx.Node, *, piled: bool = False) -> fx.Node:
        """Return the one value with units that an operation reads, which must be its first argument.

        ``piled`` says whether the operation takes values that have parts along a dimension.
        """
        self.check_no_parameter(node)
        value, *others = self.carriers(node)
        if others or value is not node.args[0] or (value in self.piled and not piled):
            raise self.error(UNSUPPORTED, node)
        return value

    def pass_through(self, node: fx.Node, name: str) -> Label:
        """Note that the units of the one value that an operation reads pass through it; return their label."""
        return self.record(self.label(self.only_value(node)), name)

    def record(self, label: Label, name: str) -> Label:
        """Note that all units of a label pass through something; return the label."""
        for run in itertools.chain.from_iterable(label.values()):
            if run.group is not None and name not in self.groups[run.group].activations:
                self.groups[run.group].activations.append(name)
        return label

    def new_group(self, name: str, width: int) -> int:
        """Return the number of a new group."""
        self.groups.append(Group(name, width))
        return len(self.groups) - 1

    def unique(self, name: str) -> str:
        """Return a name that no group has, made of this one."""
        taken, candidates = {group.name for group in self.groups}, (f"{name}{i or ''}" for i in itertools.count())
        return next(candidate for candidate in candidates if candidate not in taken)

    def refine(self, group: int, inside: int) -> bool:
        """Make units of ``inside`` neighbouring rows each out of the rows of a group; False if it cannot be done.

        So are those of groups that are tied to it. Their rows must not have been read, and be one layer with no others.
        """
        family = self.family(group)
        if any(g in self.joined or self.groups[g].width % inside for g in family):
            return False
        if any(run.group in family for draft in self.drafts for run in draft.inputs):
            return False
        if any(draft.per_unit and draft.group in family for draft in self.drafts):  # what it reads would stay as it is
            return False

        every = (run for label in self.labels.values() for runs in label.values() for run in runs)
        if any(run.step and run.group in family for run in every):
            return False

        def coarser(runs: tuple[Run, ...]) -> tuple[Run, ...]:
            return tuple(Run(run.group, run.block * inside) if run.group in family else run for run in runs)

        for own in (self.groups[g] for g in family):
            own.width, own.inside = own.width // inside, own.inside * inside
        for value, label in self.labels.items():
            self.labels[value] = {dim: coarser(runs) for dim, runs in label.items()}
        for value, parts in self.parts.items():
            self.parts[value] = [{dim: coarser(runs) for dim, runs in label.items()} for label in parts]
        for value, (along, parts) in self.piled.items():
            self.piled[value] = along, [{dim: coarser(runs) for dim, runs in label.items()} for label in parts]
        self.cuts = [(path, tuple(map(coarser, parts))) for path, parts in self.cuts]
        for draft in self.drafts:
            draft.along = coarser(draft.along)
        return True

    def divide(self, group: int, n: int, *, alternate: bool = False) -> bool:
        """Cut the units of a group, and of all that are joined or tied to it, into n equal parts.

        Each part is a layer of its own, and the parts are tied; with ``alternate``, part i has the units i, i + n, ….
        Returns False if they cannot be cut.
        """
        family = self.family(group)
        drafts = [draft for draft in self.drafts if draft.group in family]
        whole = any(self.groups[g].width % n or self.groups[g].inside > 1 for g in family)
        if self.in_tail or whole or any(draft.factors or draft.scaled for draft in drafts):
            return False
        parts = dict[int, list[int]]()
        for g in family:
            own = self.groups[g]
            own.width //= n
            parts[g] = [g]
            for i in range(1, n):
                parts[g].append(self.new_group(self.unique(f"{own.name}[{i}]"), own.width))
                self.groups[-1].activations, self.groups[-1].fixed = [*own.activations], own.fixed
        follow = {g: parts[first] for g, first in self.joined.items() if g in parts}
        self.joined |= {new: first for g in follow for new, first in zip(parts[g], follow[g], strict=True)}
        self.tied += [pair for a, b in self.tied if a in parts for pair in zip(parts[a][1:], parts[b][1:], strict=True)]
        self.tied += [(new, g) for g in parts if g not in self.joined for new in parts[g][1:]]

        def divided(runs: tuple[Run, ...]) -> tuple[Run, ...]:
            result = list[Run]()
            for beside in together(runs):
                if beside[0].group not in parts:
                    result += beside
                    continue
                for i, run in itertools.product(range(n), beside):
                    own = run._replace(group=parts[run.group or 0][i])
                    result.append(own._replace(step=run.reach * n, at=run.at + i * run.reach) if alternate else own)
            return tuple(result)

        for value, label in self.labels.items():
            self.labels[value] = {dim: divided(runs) for dim, runs in label.items()}
        for value, pieces in self.parts.items():
            self.parts[value] = [{dim: divided(runs) for dim, runs in label.items()} for label in pieces]
        for value, (along, pieces) in self.piled.items():
            self.piled[value] = along, [{dim: divided(runs) for dim, runs in label.items()} for label in pieces]
        self.cuts = [(path, tuple(map(divided, pieces))) for path, pieces in self.cuts]
        for i, (node, groups, which) in enumerate(self.statistics):
            each = [
                (own, k) for g, k in zip(groups, which, strict=True) for own in parts.get(-1 if g is None else g, [g])
            ]
            self.statistics[i] = Normed(node, *zip(*each, strict=True))
        self.drafts = [own for draft in self.drafts for own in self._divided(draft, parts, divided)]
        still = {id(draft) for draft in self.drafts}
        self.sources = {value: draft for value, draft in self.sources.items() if id(draft) in still}
        return True

    def first_tied(self, group: int) -> int:
        """Return the first group that is joined or tied to one, however indirectly."""
        return self.family(group)[0]

    def entries(self, run: Run) -> int:
        """Return how many entries a run has along its dimension."""
        return run.block if run.group is None else run.block * self.groups[self.root(run.group)].width

    def lengths(self, runs: Sequence[Run]) -> list[int]:
        """Return how many entries runs have along their dimension, those whose units alternate together."""
        return [sum(map(self.entries, beside)) for beside in together(runs)]

    def note_cut(self, node: fx.Node, parts: Sequence[tuple[Run, ...]]) -> None:
        """Note that the module of an operation may keep the sizes of parts of units, which follow layers' widths."""
        self.cuts.append((self.program.module_of(node), tuple(parts)))

    def family(self, group: int) -> list[int]:
        """Return all groups that are joined or tied to one, however indirectly."""
        family, pairs = {self.root(group)}, [(self.root(a), self.root(b)) for a, b in self.tied]
        while more := {g for pair in pairs if family & {*pair} for g in pair} - family:
            family |= more
        return [g for g in range(len(self.groups)) if self.root(g) in family]

    def _divided(
        self, draft: Draft, parts: dict[int, list[int]], divided: Callable[[tuple[Run, ...]], tuple[Run, ...]]
    ) -> list[Draft]:
        """The maps in place of one, where groups that it reads or writes are in parts."""
        inputs, along = divided(draft.inputs), divided(draft.along)
        drafts = list[Draft]()
        for i, g in enumerate(parts.get(draft.group, [draft.group])):
            name = draft.name if i == 0 else self.groups[g].name
            drafts.append(replace(draft, name=name, group=g, inputs=inputs, along=along))
        if draft.group not in parts:
            draft.inputs, draft.along = inputs, along
            return [draft]
        if draft.name in self.crossing:
            self.crossing += [own.name for own in drafts[1:]]
        return drafts

    def inside(self, run: Run) -> int:
        """Return the rows of each unit where a run is read: all its entries, where units are several rows."""
        return run.block if run.group is not None and self.groups[run.group].inside > 1 else 1

    def pair(self, first: Sequence[Run], second: Sequence[Run]) -> bool:
        """Tie units, one by one; False if they cannot be. The rows of one group may have to be made fewer units."""
        if len(first) != len(second):
            return False
        for a, b in zip(first, second, strict=True):
            if a.group is None or b.group is None or (a.step, a.at) != (b.step, b.at):
                return False
            widths = self.groups[a.group].width, self.groups[b.group].width
            if widths[0] != widths[1]:
                (many, few), group = (max(widths), min(widths)), a.group if widths[0] > widths[1] else b.group
                if many % few or not self.refine(group, many // few):
                    return False
            if self.root(a.group) != self.root(b.group):
                self.tied.append((b.group, a.group))
        return True

    def root(self, group: int) -> int:
        """Return the first group of the layer that a group belongs to."""
        while group in self.joined:
            group = self.joined[group]
        return group

    def join(self, first: Sequence[Run], second: Sequence[Run]) -> None:
        """Make one layer of units; those that are added to fixed features keep their index."""
        for a, b in zip(first, second, strict=True):
            if a.group is None or b.group is None:
                self.fix([a, b])
            elif self.root(a.group) != self.root(b.group):
                low, high = sorted((self.root(a.group), self.root(b.group)))
                self.joined[high] = low

    def multiply(self, first: Sequence[Run], second: Sequence[Run]) -> None:
        """Tie units that are multiplied; the second factor is the gate, which has no scale or sign of its own."""
        for a, b in zip(first, second, strict=True):
            if a.group is None or b.group is None:
                self.fix([a, b])
            elif self.root(a.group) == self.root(b.group):
                self.groups[a.group].activations.append("product")
            else:
                self.groups[b.group].activations.append("gate")
                self.tied.append((b.group, a.group))

    def mix_statistics(self, node: fx.Node, *parts: Sequence[Run]) -> None:
        """Note that an operation computes a statistic of all units of each of some runs, as norms do."""
        groups = [(run.group, i) for i, runs in enumerate(parts) for run in runs]
        self.statistics.append(Normed(node, *zip(*groups, strict=True)))

    def fix(self, runs: Sequence[Run]) -> None:
        """Note that units must keep their index."""
        for run in runs:
            if run.group is not None:
                self.groups[run.group].fixed = True

    def check_no_parameter(self, node: fx.Node) -> None:
        """Raise if an operation reads a parameter."""
        if self.reads_parameter(node):
            raise self.error(PARAMETER, node)

    def check_fixed(self, node: fx.Node, value: fx.Node, dims: Sequence[int]) -> None:
        """Raise if units lie along some dimensions of a value."""
        if any(dim in self.label(value) for dim in dims):
            raise self.error(UNSUPPORTED, node, "keep units and positions apart")

    def check_alike(self, node: fx.Node, first: Sequence[Run], second: Sequence[Run]) -> None:
        """Raise if units cannot be paired."""

        def kind(run: Run) -> tuple[object, ...]:
            group = None if run.group is None else self.groups[run.group]
            return (*run[1:], None, None) if group is None else (*run[1:], group.width, group.inside)

        a, b = ([kind(run) for run in runs] for runs in (first, second))
        if a != b:
            raise self.error("units of unlike layers are combined", node)

    def check_unused(self, node: fx.Node, *names: str | None) -> None:
        """Raise if a parameter belongs to an earlier map."""
        used = {name for draft in self.drafts for name in (draft.weight, draft.bias, draft.norm and draft.norm.weight)}
        if used & {*names} - {None}:
            raise self.error("a parameter is used twice", node, "give each use its own module")

    def error(self, what: str, node: fx.Node | None, cure: str | None = None) -> TracingError:
        """Return the error for an operation, by default with all supported ones as the cure."""
        where = self.program.module_name if node is None else self.program.describe(node)
        if what == PARAMETER and node is not None:
            names = [self.program.parameters[v.name] for v in node.all_input_nodes if v.name in self.program.parameters]
            where += f", of {', '.join(map(repr, names))}" if names else ""
        return TracingError(f"{what}: {where}", cure=cure or f"use {SUPPORTED}; or leave this network out")


def layer_name(walk: Walk, parameter: str) -> str:
    """Name of the module that holds a parameter, or of the parameter if another layer has that name already."""
    owner = parameter.rpartition(".")[0] or parameter
    return parameter if any(group.name == owner for group in walk.groups) else owner


def n_dims(value: fx.Node) -> int:
    """Return the number of dimensions of a value."""
    return int(value.meta["val"].dim())


def size(value: fx.Node, dim: int) -> int:
    """Return the size of a value along a dimension other than that of samples."""
    return int(value.meta["val"].shape[dim])


def is_tensor(value: object) -> bool:
    """Whether an argument of an operation is a tensor, no number."""
    return isinstance(value, fx.Node) and isinstance(value.meta.get("val"), Tensor)
