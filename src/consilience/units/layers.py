"""The layers of a traced module, found by following units through its operations.

A weighted operation gives its output's dimension new units; elementwise operations, pooling and reshapes pass units on;
what arrives at another weight ties that weight's input axis to them; a sum makes one layer of what it adds; a product,
a depthwise convolution and a norm pair units. `consilience.units.operations` has the table of all operations; one that
is not in it raises an error that names it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from torch import Tensor, fx, nn

from consilience.errors import TracingError
from consilience.units.architecture import Architecture, Layer
from consilience.units.axes import Axis, Section
from consilience.units.drafts import Draft, Label, Normed, Run, together
from consilience.units.grouped import Statistic, statistic_of
from consilience.units.maps import Map
from consilience.units.operations import HANDLERS, piles, sections
from consilience.units.operations.combinations import ONE_UNIT, PRODUCTS, SUMS
from consilience.units.operations.factors import ONE_NUMBER
from consilience.units.outputs import Pick
from consilience.units.program import Program
from consilience.units.tail import Tail, is_number, operation_name, reads_number, tail_of, with_rows
from consilience.units.trace import check_samples_apart, trace
from consilience.units.walk import PARAMETER, UNSUPPORTED, Walk, n_dims, size

TAKE_NUMBERS = (*PRODUCTS, *SUMS)  # operations that may read one number computed of parameters
ELEMENTWISE = {"add", "sub", "mul", "div", "neg", "rsub"}  # of outputs and constants: outputs keep their places


def layers_of(module: nn.Module, x: Tensor, output: Pick = None) -> Architecture:
    """Return the layers of a module in plain form, written out and in eval mode; errors are those of `find_layers`."""
    walk, tail = _walked(module, x, output)
    for name, spread in walk.numbers.items():
        if spread.group is not None:
            raise walk.error("one unit is combined with several", spread.node, ONE_UNIT)
        message = f"all units have '{name}' in common, which each member has another of"
        raise walk.error(message, spread.node, ONE_NUMBER)
    architecture = _architecture(walk, tail)
    check_samples_apart(architecture.program, module, x)
    return architecture


def numbers_in(module: nn.Module, x: Tensor, output: Pick = None) -> dict[str, tuple[int, ...]]:
    """Return the parameters that all units have in common and need for each unit instead, and their shapes then."""
    walk, _ = _walked(module, x, output)
    read = {walk.root(run.group) for draft in walk.drafts for run in draft.inputs if run.group is not None}
    return {name: spread.shape for name, spread in walk.numbers.items() if spread.group not in read}


def tables_in(module: nn.Module, x: Tensor, output: Pick = None) -> list[str]:
    """Return the buffers that are added to units, as fixed positions are: units have numbers of their own there."""
    program = trace(module, x, output)
    walk = Walk(program)
    with contextlib.suppress(TracingError):  # of what follows the sum
        _follow(walk, tail_of(program))
    places = {program.constants[table].data_ptr() for table in walk.tables}
    return [name for name, value in module.named_buffers() if value.data_ptr() in places]


def _walked(module: nn.Module, x: Tensor, output: Pick) -> tuple[Walk, Tail]:
    program = trace(module, x, output)
    walk, tail = Walk(program), tail_of(program)
    _follow(walk, tail)
    return walk, tail


def _follow(walk: Walk, tail: Tail) -> None:
    """Follow units through the operations of the program."""
    program = walk.program
    for node in program.nodes:
        reads_parameter = walk.reads_parameter(node) or reads_number(program, node)
        if node.op != "call_function" or not node.users or not (reads_parameter or walk.carriers(node)):
            continue  # no unit is involved: it is not used, or preprocesses the inputs
        if is_number(program, node):
            continue  # what multiplies units by it has it
        if node in tail.nodes:
            walk.in_tail = True
            if node in tail.affine and (label := _label_of_outputs(walk, node)):
                walk.labels[node] = label
            continue
        walk.in_tail = False
        if node.target not in HANDLERS or (reads_number(program, node) and node.target not in TAKE_NUMBERS):
            raise walk.error(PARAMETER if reads_parameter else UNSUPPORTED, node)
        if node.target not in piles.READ_PARTS and any(value in walk.piled for value in node.all_input_nodes):
            raise walk.error(UNSUPPORTED, node, piles.CURE)
        if label := HANDLERS[node.target](walk, node):
            walk.labels[node] = label


def _label_of_outputs(walk: Walk, node: fx.Node) -> Label:
    """Where the units of heads lie in a value that is affine in what these write; empty where they are mixed."""
    carriers = walk.carriers(node)
    kept, n_norms = walk.label(carriers[0]), len(walk.statistics)
    try:
        known = node.target in HANDLERS and node.target not in sections.HANDLERS  # which would cut a layer
        label = HANDLERS[node.target](walk, node) if known else {}
    except TracingError:
        return {}
    if len(walk.statistics) > n_norms:  # a mean of outputs
        del walk.statistics[n_norms:]
        return {}
    if not label and len(carriers) == 1 and operation_name(node) in ELEMENTWISE:
        same = node.meta["val"].shape[1:] == carriers[0].meta["val"].shape[1:]
        return kept if same else {}
    return label


def _architecture(walk: Walk, tail: Tail) -> Architecture:
    heads = _heads(walk, tail)
    program, returned = _pooled(walk, tail)
    for node, draft in walk.sources.items():
        if draft.norm is not None and draft.norm.weight != draft.weight and node not in walk.folded:
            raise walk.error("a layer is used with and without its batch norm", node)
    names = {group: walk.groups[walk.root(group)].name for group in range(len(walk.groups))}
    layers = _layers(walk, heads, names)
    maps = tuple(_map(walk, draft, names) for draft in walk.drafts)
    _check_unread(walk, maps, [names[head] for head in heads])
    divided = dict[tuple[str, int], tuple[Section, ...]]()
    for m, draft in zip(maps, walk.drafts, strict=True):
        sections = _sections(draft.along, names)
        for parameter in m.parameters:
            if parameter not in m.others:
                divided[parameter, m.dim if parameter == m.weight else 0] = sections
        if not m.per_unit and (m.reads or m.fitted):
            divided[m.weight, 1 - m.dim] = _sections(draft.inputs, names)
    used = {name for m in maps for name in m.parameters}
    cuts = (*walk.cuts, *_returned_by_modules(walk))
    return Architecture(
        layers=layers,
        maps=maps,
        program=replace(program, functions=walk.functions),
        returned=returned,
        divided=divided,
        traced={layer.name: layer.width for layer in layers},
        heads=tuple(names[head] for head in heads),
        tail=tail.bent,
        kept=tuple(name for name in program.parameters.values() if name not in used),
        crossing=tuple(dict.fromkeys(walk.crossing)),
        elementwise=frozenset(walk.elementwise),
        cuts=tuple((path, tuple(_sections(runs, names) for runs in parts)) for path, parts in dict.fromkeys(cuts)),
        statistics=_of_one_norm([_statistic(walk, maps, normed, names) for normed in walk.statistics]),
    )


def _returned_by_modules(walk: Walk) -> Iterator[tuple[str, tuple[tuple[Run, ...], ...]]]:
    """Yield modules and the units along each dimension of what other modules take from them."""
    for node, label in walk.labels.items():
        path = walk.program.module_of(node)
        if path and any(not f"{walk.program.module_of(user)}.".startswith(f"{path}.") for user in node.users):
            yield from ((path, (runs,)) for runs in label.values())


def _heads(walk: Walk, tail: Tail) -> list[int]:
    """The groups whose units are outputs, or are read by nothing, as those of a head whose outputs are not taken."""
    runs = [run for node in tail.heads for part in walk.label(node).values() for run in part]
    outputs = {walk.root(run.group) for run in runs if run.group is not None}
    if not outputs:
        raise walk.error("the module returns values that no layer has written", None)
    needed = walk.program.needed([walk.program.returned])
    read = {walk.root(run.group) for draft in walk.drafts for run in draft.inputs if run.group is not None}
    spare = {walk.root(draft.group) for draft in walk.drafts if draft.output[0] not in needed}
    return sorted(outputs | (spare - read))


def _pooled(walk: Walk, tail: Tail) -> tuple[Program, Axis]:
    """The program with the value that is pooled, side by side where there are several, and where outputs lie in it."""
    program, nodes = walk.program, tail.pooled
    names = tuple(node.name for node in nodes)
    if len(nodes) == 1 and n_dims(nodes[0]) > 1:
        ((dim, runs), *others) = [*walk.label(nodes[0]).items()] or [(1, ())]
        if len(runs) == 1 and runs[0].block == 1 and runs[0].group is not None and not others and dim > 0:
            layer = walk.groups[walk.root(runs[0].group)].name
            return replace(program, output=names[0], pooled=names), Axis(names[0], dim, layer)
    if len(nodes) > 1 or n_dims(nodes[0]) != 2:
        program, output = with_rows(program, nodes)
    else:
        output = nodes[0]
    return replace(program, output=output.name, pooled=names), Axis(output.name, 1, None, size(output, 1))


def _layers(walk: Walk, heads: Collection[int], names: Mapping[int, str]) -> tuple[Layer, ...]:
    groups, families, layers = walk.groups, _families(walk), []
    roots = [walk.root(group) for group in range(len(groups))]
    for root in dict.fromkeys(roots[draft.group] for draft in walk.drafts):
        joined = [groups[g] for g in range(len(groups)) if roots[g] == root]
        family = [g for g in range(len(groups)) if families[roots[g]] == families[root]]
        layers.append(
            Layer(
                name=names[root],
                width=groups[root].width,
                activations=tuple(dict.fromkeys(a for group in joined for a in group.activations)),
                interchangeable=not any(groups[g].fixed or roots[g] in heads for g in family),
                tied=None if families[root] == root else names[families[root]],
            )
        )
    return tuple(layers)


def _families(walk: Walk) -> dict[int, int]:
    """First group of each layer → the first group of its family: all that is tied, however indirectly."""
    first = {root: root for root in map(walk.root, range(len(walk.groups)))}

    def top(group: int) -> int:
        while first[group] != group:
            group = first[group]
        return group

    for a, b in walk.tied:
        low, high = sorted((top(walk.root(a)), top(walk.root(b))))
        first[high] = low
    return {group: top(group) for group in first}


def _map(walk: Walk, draft: Draft, names: Mapping[int, str]) -> Map:
    inputs = tuple(_axes(draft.input, draft.inputs, [walk.inside(run) for run in draft.inputs], names))
    inputs = inputs[draft.place : draft.place + 1] if draft.per_unit else inputs
    inside = walk.groups[draft.group].inside
    output = [*_axes(draft.output, draft.along, [inside] * len(draft.along), names)][draft.place]
    kind = (draft.kernel, draft.norm, draft.per_unit, draft.fitted, draft.dim, draft.shift, draft.factors, draft.scaled)
    return Map(draft.name, draft.weight, draft.bias, inputs, output, *kind)


def _axes(place: tuple[str, int], runs: Sequence[Run], rows: Sequence[int], names: Mapping[int, str]) -> Iterator[Axis]:
    """Yield where the units of each of some runs lie along a dimension of a value."""
    before, of_run = list[Section](), iter(rows)
    for beside in together(runs):
        for run in beside:
            layer = None if run.group is None else names[run.group]
            yield Axis(*place, layer, run.block, tuple(before), next(of_run), run.step, run.at)
        before += _sections(beside, names)


def _sections(runs: Sequence[Run], names: Mapping[int, str]) -> tuple[Section, ...]:
    """Layers and fixed features along a dimension; of layers whose units alternate, the first stands for all."""
    first = (beside[0] for beside in together(runs))
    return tuple((None if run.group is None else names[run.group], run.reach) for run in first)


def _statistic(walk: Walk, maps: Sequence[Map], normed: Normed, names: Mapping[int, str]) -> Statistic:
    """A norm over the units of layers, with the module of it where that holds nothing but the norm's own maps."""
    normed, rows = _as_they_lie(walk, normed)
    every = [(names[group], part) for group, part in zip(normed.groups, normed.parts, strict=True) if group is not None]
    each = [own for own, n in zip(every, rows, strict=True) if n]
    norm = replace(statistic_of(walk.program, normed.node, each), rows=tuple(n for n in rows if n))
    inside = [m for m in maps if norm.module is not None and m.weight.startswith(f"{norm.module}.")]
    scales = [m for m in inside if m.weight == f"{norm.module}.weight" and (m.per_unit or not m.reads)]
    others = {m.weight for m in inside if m not in scales} - {f"{norm.module}.bias"}  # which may be added by hand
    shaped = any(m.dim for m in scales)  # as of a weight (1, 1, 1, units), which is no norm's
    if not scales or others or shaped or None in normed.groups or len(scales) != len(every):
        return replace(norm, module=None)
    if not norm.positions:
        taken = _taken_by(walk, normed, str(norm.module))
        if taken is None:
            return replace(norm, module=None)
        norm = replace(norm, units_second=taken)
    return replace(norm, shift=scales[0].shift)


def _as_they_lie(walk: Walk, normed: Normed) -> tuple[Normed, list[int]]:
    """A norm with its groups in their order, and the rows that each of their units has, neighbours of one another.

    Where units of several groups alternate, the first has the rows of all, and the others have none.
    """
    value, part_of = normed.node.args[0], dict(zip(normed.groups, normed.parts, strict=True))
    labels = walk.label(value).values() if isinstance(value, fx.Node) else ()
    for runs in labels:
        if any(run.step for run in runs) and {run.group for run in runs} == part_of.keys():
            groups = tuple(run.group for run in runs)
            rows = [0 if run.at else run.reach for run in runs if run.group is not None]
            return Normed(normed.node, groups, tuple(part_of[group] for group in groups)), rows
    return normed, [walk.groups[group].inside for group in normed.groups if group is not None]


def _of_one_norm(statistics: Sequence[Statistic]) -> tuple[Statistic, ...]:
    """Statistics of which several may be one norm written by hand: then the first mean is subtracted."""
    whole = list[Statistic]()
    for norm in statistics:
        mates = [own for own in statistics if own.module == norm.module and own.kind != "norm"]
        several = norm.module is not None and norm in mates and len(mates) > 1
        whole.append(replace(norm, centred=True, eps=max(own.eps for own in mates)) if several else norm)
    return tuple(whole)


def _taken_by(walk: Walk, normed: Normed, module: str) -> bool | None:
    """Whether units lie along dimension 1 of what the module of a norm takes, not the last; None if elsewhere."""

    def roots(groups: Iterable[int | None]) -> list[int | None]:
        return [None if group is None else walk.root(group) for group in groups]

    inside = [node for node in walk.program.nodes if walk.program.module_of(node) == module]
    for value in (value for node in inside for value in walk.carriers(node) if value not in inside):
        last = n_dims(value) - 1
        for dim, runs in walk.label(value).items():
            if dim in (1, last) and roots(run.group for run in runs) == roots(normed.groups):
                return dim != last
    return None


def _check_unread(walk: Walk, maps: Sequence[Map], heads: Sequence[str]) -> None:
    """Raise if a layer that is returned is read again."""
    for m in maps:
        for head in set(m.reads) & set(heads):
            message = (
                f"layer '{head}' of {walk.program.module_name} must be read by nothing inside, got a layer that is "
            )
            cure = "return the output of a layer of its own, or pick other outputs with output="
            raise TracingError(f"{message}returned and read again by '{m.name}'", cure=cure)
