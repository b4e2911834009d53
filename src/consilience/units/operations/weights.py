"""What a weight does to units: it writes new ones, as a map of those that it reads."""

from __future__ import annotations

from torch import fx

from consilience.units.groups import Label, Run
from consilience.units.maps import Kernel, Norm
from consilience.units.walk import PARAMETER, Draft, Walk, size


def mix_units(
    walk: Walk, node: fx.Node, read: tuple[fx.Node, int], written: int, weight: fx.Node, bias: fx.Node | None
) -> Draft:
    """Follow a weight (u, i, ...) that mixes units along one dimension of a value, and return the map.

    Parameters
    ----------
    read : value and dimension.
    written : dimension of the result.
    """
    value, dim = read
    name, bias_name = parameter_names(walk, node, weight, bias)
    if value.name in walk.program.parameters:
        raise walk.error(PARAMETER, node)
    runs = walk.label(value).get(dim) or (Run(None, size(value, dim)),)
    for draft in walk.drafts:
        if draft.weight == name and not draft.per_unit and draft.bias == bias_name:  # the module is used again
            walk.check_alike(node, draft.inputs, runs)
            walk.groups.join(draft.inputs, runs)
            walk.sources[node] = draft
            return draft
    walk.check_unused(node, name, bias_name)
    group = walk.groups.new(_layer_name(walk, name), size(weight, 0))
    draft = Draft(walk.groups[group].name, name, bias_name, runs, (value.name, dim), (node.name, written), group)
    walk.drafts.append(draft)
    walk.sources[node] = draft
    return draft


def scale_units(
    walk: Walk,
    node: fx.Node,
    read: tuple[fx.Node, int],
    weight: fx.Node,
    bias: fx.Node | None,
    *,
    kernel: Kernel | None = None,
    norm: Norm | None = None,
    fitted: bool = True,
) -> Label:
    """Follow a weight that acts on each unit along one dimension by itself, and return the label of the result.

    It writes new units along the same dimension, tied to those that it reads.
    """
    value, dim = read
    name, bias_name = parameter_names(walk, node, weight, bias)
    runs = walk.label(value).get(dim)
    if runs is None or any(run.group is None or run.block != 1 for run in runs):
        raise walk.error("a weight of its own for each input feature", node)
    walk.check_unused(node, name, bias_name)
    places, new = ((value.name, dim), (node.name, dim)), list[Run]()
    layer = _layer_name(walk, name)
    for i, run in enumerate(runs):
        assert run.group is not None
        source = walk.groups[walk.groups.root(run.group)]
        own = layer if i == 0 else walk.groups.unique(f"{layer}[{source.name}]")
        group = walk.groups.new(own, source.width)
        walk.groups.tie(group, run.group)
        draft = Draft(own, name, bias_name, runs[: i + 1], *places, group, tuple(new), kernel, norm, True, fitted)
        walk.drafts.append(draft)
        new.append(Run(group, 1))
    if len(runs) == 1:
        walk.sources[node] = walk.drafts[-1]
    return walk.label(value) | {dim: tuple(new)}


def parameter_names(walk: Walk, node: fx.Node, weight: object, bias: object) -> tuple[str, str | None]:
    """Return the names of a weight and of a bias, if there is one; raise if either is no parameter."""
    names = [walk.program.parameters.get(v.name) if isinstance(v, fx.Node) else None for v in (weight, bias)]
    if names[0] is None or (bias is not None and names[1] is None):
        raise walk.error("a weight is computed, not a parameter", node)
    return names[0], names[1]


def _layer_name(walk: Walk, parameter: str) -> str:
    """Name of the module that holds a parameter, or of the parameter if another layer has that name already."""
    owner = parameter.rpartition(".")[0] or parameter
    return owner if owner not in walk.groups.names else parameter
