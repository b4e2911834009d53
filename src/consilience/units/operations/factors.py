"""Numbers that multiply all units: temperatures, learned scales, gates of one number.

Each member has its own, so that it is folded into the weights right before it, as a batch norm is. A learned number is
then 1; one that an embedding keeps beside its weight stays, as it is a function of the width. A learned number
elsewhere, as after an activation, must have been written out as one for each unit (`consilience.units.written_out`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, fx
from torch.ops import aten

from consilience.units.drafts import Label, Run, Spread
from consilience.units.maps import Factor
from consilience.units.program import Program
from consilience.units.tail import is_number
from consilience.units.walk import Walk, n_dims, size

ONE_NUMBER = "multiply right after a linear layer or convolution, or by one number for each unit"


def multiplied(walk: Walk, node: fx.Node, first: fx.Node, second: fx.Node) -> Label | None:
    """``value * number`` or ``value / number``, of a number that is a parameter or computed of some; None otherwise."""
    numbers = [value for value in (first, second) if isinstance(value, fx.Node) and _is_number(walk, value)]
    values = [value for value in (first, second) if isinstance(value, fx.Node) and value in walk.labels]
    if len(numbers) != 1 or len(values) != 1 or (node.target is aten.div.Tensor and first in numbers):
        return None
    (number,), (value,) = numbers, values
    drafts = [draft for draft in walk.drafts if draft.output[0] == value.name]
    if len(drafts) != 1 or len(value.users) > 1 or not (drafts[0].fitted or drafts[0].inputs[0].group is None):
        if spread(walk, node, value, number):
            return walk.label(value)
        raise walk.error("all units are multiplied by one number, which each member has another of", node, ONE_NUMBER)
    (draft,), divides = drafts, node.target is aten.div.Tensor
    name = walk.program.parameters.get(number.name)
    free = name in walk.program.learned and len(number.users) == 1
    draft.factors = (*draft.factors, Factor(name if free else None, _value_of(walk.program, number.name, divides)))
    draft.output = (node.name, draft.output[1])
    return walk.label(value)


def spread(walk: Walk, node: fx.Node, value: fx.Node, number: fx.Node) -> bool:
    """Note that a learned number needs one for each unit of a value to which it is applied; False if it cannot.

    So do numbers for each position, where these come after the units, as rows of heads do.
    """
    needed, label = walk.program.needed([number.name]), walk.label(value)
    read = [node for node in walk.program.nodes if node.name in needed & {*walk.program.parameters}]
    names = [walk.program.parameters[node.name] for node in read]
    if len(names) != 1 or names[0] not in walk.program.learned or len(label) != 1:
        return False
    if read[0].meta["val"].numel() > 1 and read[0].meta["val"].shape != number.meta["val"].shape:
        return False  # one number of several, or a sum of them
    ((dim, runs),), own = label.items(), tuple(number.meta["val"].shape)
    after = [size(value, d) for d in range(dim + 1, n_dims(value))]
    if math.prod(own) == 1:
        own = (1,) * len(after)
    own = (*[1] * (len(after) - len(own)), *own)
    if len(own) > len(after) or any(mine not in (1, n) for mine, n in zip(own, after, strict=True)):
        return False
    shape = (size(value, dim), *own)
    whole = all(run.group is not None and run.block == 1 for run in runs)
    return whole and walk.numbers.setdefault(names[0], Spread(shape, node)).shape == shape


def spread_unit(walk: Walk, node: fx.Node, one: Sequence[Run], several: Sequence[Run]) -> bool:
    """Note that a layer of one unit, combined with all units of others, must be written out as one for each of them.

    It, and those that it has been multiplied by, must be written by weights from other layers, and nothing else may
    read it; False if it cannot be.
    """
    (run, *others), units = one, sum(map(walk.entries, several))
    if others or run.group is None or any(own.group is None or own.block != 1 for own in several):
        return False
    family, program = {walk.root(group) for group in walk.family(run.group)}, walk.program
    writing = [draft for draft in walk.drafts if walk.root(draft.group) in family]
    if any(draft.per_unit or draft.dim or draft.factors or not draft.fitted for draft in writing):
        return False
    nodes = {program.parameters.get(own.name): own for own in program.nodes}
    for draft in writing:
        names = (draft.weight, draft.bias, *(() if draft.norm is None else draft.norm.names))
        shapes = {name: tuple(nodes[name].meta["val"].shape) for name in names if name is not None}
        if any(shape[0] != 1 for shape in shapes.values()):  # a part of a wider weight
            return False
        root = walk.root(draft.group)
        walk.numbers |= {name: Spread((units, *shape[1:]), node, root) for name, shape in shapes.items()}
    return bool(writing)


def _is_number(walk: Walk, value: fx.Node) -> bool:
    """Whether a value is one number for all units; a parameter (1,) of a layer of one unit is that unit's."""
    if is_number(walk.program, value):
        return True
    return walk.is_parameter(value) and value not in walk.shifted and value.meta["val"].numel() == 1


def _value_of(program: Program, name: str, divides: bool) -> Callable[[Mapping[str, Tensor]], Tensor]:
    """What gives the factor under parameters."""

    def value(state: Mapping[str, Tensor]) -> Tensor:
        number = program.run(state, torch.empty(1), [name])[name]
        return 1 / number if divides else number

    return value
