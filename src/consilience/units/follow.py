"""The layers of any traced module, found by following units through its operations.

A weighted operation gives its output's dimension new units; elementwise operations, pooling and reshapes pass units on;
what arrives at another weight ties that weight's input axis to them; a sum makes one layer of what it adds; a product,
a depthwise convolution and a norm pair units. `consilience.units.operations` has the table of all operations; one that
is not in it raises an error that names it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor, fx, nn

from consilience.errors import TracingError
from consilience.units.architecture import Architecture, Layer
from consilience.units.axes import Axis, Section
from consilience.units.maps import Map
from consilience.units.modules import as_example, plain_copy
from consilience.units.operations import HANDLERS
from consilience.units.trace import check_samples_apart, trace
from consilience.units.walk import PARAMETER, UNSUPPORTED, Draft, Run, Walk, n_dims

LINEAR = {"avg_pool", "upsample", "scale", "shift"}  # what outputs may pass through: the mean over members passes too


def find_layers(module: nn.Module, example_input: Tensor) -> Architecture:
    """Trace ``module`` on ``example_input`` (n, ...) and return its layers.

    Raises
    ------
    TracingError : an operation is not supported (the message names it), or the outputs of a sample depend on others.
    """
    module, example_input = plain_copy(module, "module").eval(), as_example(example_input)
    program = trace(module, example_input)
    walk = Walk(program)
    for node in program.nodes:
        reads_parameter = walk.reads_parameter(node)
        if node.op != "call_function" or not node.users or not (reads_parameter or walk.carriers(node)):
            continue  # no unit is involved: it is not used, or preprocesses the inputs
        if node.target not in HANDLERS:
            raise walk.error(PARAMETER if reads_parameter else UNSUPPORTED, node)
        if label := HANDLERS[node.target](walk, node):
            walk.labels[node] = label
    architecture = _architecture(walk)
    check_samples_apart(architecture.program, module, example_input)
    return architecture


def _architecture(walk: Walk) -> Architecture:
    program = walk.program
    returned, output = _returned(walk)
    for node, draft in walk.sources.items():
        if draft.norm is not None and draft.norm.weight != draft.weight and node not in walk.folded:
            raise walk.error("a layer is used with and without its batch norm", node)
    names = {group: walk.groups[walk.root(group)].name for group in range(len(walk.groups))}
    layers = _layers(walk, output, names)
    maps = tuple(_map(draft, names) for draft in walk.drafts)
    _check_reached(walk, maps, names[output], returned)
    divided = dict[tuple[str, int], tuple[Section, ...]]()
    for m in maps:
        sections = (*m.output.before, (m.writes, 1))
        divided |= {(parameter, 0): sections for parameter in m.parameters}  # of several maps, the last has them all
        if not m.per_unit:
            divided[m.weight, 1] = tuple((axis.layer, axis.block) for axis in m.inputs)
    bent = [a for layer in layers if layer.name == names[output] for a in layer.activations if a not in LINEAR]
    if bent:
        cure = "return the values before it (logits): the mean over members is taken there"
        raise walk.error(f"the outputs pass through '{bent[-1]}'", returned, cure)
    return Architecture(
        layers=layers,
        maps=maps,
        program=replace(program, functions=walk.functions),
        returned=Axis(program.output, 1, names[output]),
        divided=divided,
        traced={layer.name: layer.width for layer in layers},
        crossing=tuple(dict.fromkeys(walk.crossing)),
        elementwise=frozenset(walk.elementwise),
    )


def _returned(walk: Walk) -> tuple[fx.Node, int]:
    """The value that the module returns, and the group of its units."""
    returned = next((node for node in walk.labels if node.name == walk.program.output), None)
    if returned is None:
        raise walk.error("the module returns values that no layer has written", None)
    if n_dims(returned) != 2:
        cure = "return one row (o,) for each sample"
        raise walk.error(f"the outputs must have 2 dimensions, got {n_dims(returned)}", returned, cure)
    (run, *others) = walk.labels[returned][1]
    if others or run.group is None or run.block != 1:
        cure = "return the output of a layer of its own"
        raise walk.error("the outputs are not the units of one layer", returned, cure)
    return returned, walk.root(run.group)


def _layers(walk: Walk, output: int, names: Mapping[int, str]) -> tuple[Layer, ...]:
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
                interchangeable=not any(groups[g].fixed or roots[g] == output for g in family),
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


def _map(draft: Draft, names: Mapping[int, str]) -> Map:
    def sections(runs: Sequence[Run]) -> list[Section]:
        return [(None if run.group is None else names[run.group], run.block) for run in runs]

    read = sections(draft.inputs)
    inputs = tuple(Axis(*draft.input, *section, tuple(read[:i])) for i, section in enumerate(read))
    inputs = inputs[-1:] if draft.per_unit else inputs
    output = Axis(*draft.output, names[draft.group], 1, tuple(sections(draft.before)))
    kind = (draft.kernel, draft.norm, draft.per_unit, draft.fitted)
    return Map(draft.name, draft.weight, draft.bias, inputs, output, *kind)


def _check_reached(walk: Walk, maps: Sequence[Map], output: str, returned: fx.Node) -> None:
    """Raise if parameters or layers do not reach the output, or a returned layer is read again."""
    program = walk.program
    used = {name for m in maps for name in m.parameters}
    unused = [name for name in program.parameters.values() if name not in used]
    reaching = program.needed([returned.name])
    unread = unused or [m.name for m in maps if m.output.name not in reaching]
    if unread:
        message = f"all parameters of {program.module_name} must reach the output, got {', '.join(map(repr, unread))}"
        raise TracingError(f"{message}, which do not", cure="remove what the forward pass does not use")
    if any(output in m.reads for m in maps):
        message = f"layer '{output}' of {program.module_name} must be read by nothing inside, got a layer that is both "
        raise TracingError(f"{message}returned and read again", cure="return the output of a layer of its own")
