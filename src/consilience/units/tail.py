"""Where the members' outputs are pooled: the last values of a program that are affine in what its heads write.

The *tail* of a program is all that depends on the last weights and has no weight after it. Up to some values it is
affine (sums, scaling by constants, concatenation, means), and the mean over members passes; these values are pooled.
What follows (softmax, sigmoid, …) stays in the module.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, fx
from torch.ops import aten

from consilience.errors import TracingError
from consilience.units.program import Program

LINEAR = {  # in their first argument; others are numbers or values that no head has an effect on
    *("mul", "div", "neg", "mean", "sum", "cumsum", "clone", "detach", "alias", "contiguous", "lift_fresh_copy"),
    *("view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "permute", "transpose", "t"),
    *("expand", "slice", "select", "split", "split_with_sizes", "chunk", "unbind", "tensor_split", "getitem", "index"),
    *("roll", "flip", "rsub", "pad", "constant_pad_nd", "masked_fill", "matmul", "mm", "to", "_to_copy", "type_as"),
    *("avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "upsample_nearest2d", "numpy_T"),
    *("upsample_nearest1d", "upsample_bilinear2d", "upsample_linear1d", "dropout", "movedim", "expand_as", "tile"),
    *("repeat", "pixel_shuffle", "feature_dropout", "swapaxes", "index_select", "diff", "mT"),
}
JOINT = {"add", "sub", "cat", "stack", "hstack", "concat"}  # linear in all arguments together
EXTREMES = {"min", "max", "minimum", "maximum", "amin", "amax", "topk", "sort", "kthvalue", "median"}
OUTSIDE = "return the values, and take the smallest or largest of them outside of the network"


@dataclass(frozen=True)
class Tail:
    """The end of a program.

    Attributes
    ----------
    nodes : all values with no weight after them that an operation without weights computes of units, returned or not.
    heads : values that depend on weights and that what is returned starts from.
    affine : values of the tail that are affine in these.
    pooled : the last of these values, from which what is returned is computed.
    bent : names of the operations that follow them.
    """

    nodes: frozenset[fx.Node]
    heads: tuple[fx.Node, ...]
    affine: frozenset[fx.Node]
    pooled: tuple[fx.Node, ...]
    bent: tuple[str, ...]


def tail_of(program: Program) -> Tail:
    """Return the tail of a program; raise `TracingError` if it takes a minimum or maximum of outputs."""
    weighted = _after_weights(program)
    followed = _before_weights(program)
    needed = program.needed([program.returned])
    every = [n for n in program.nodes if n in weighted and n not in followed and not _reads_parameter(n, program)]
    inside = [node for node in every if node.name in needed]
    tail, taken = set(inside), [node for node in program.nodes if node in weighted and node.name in needed]
    heads = [n for n in taken if n not in tail and (n.name == program.returned or tail & set(n.users))]
    affine, pooled, bent = set(heads), list[fx.Node](), list[str]()
    for node in inside:
        carriers = [value for value in node.all_input_nodes if value in weighted]
        if all(value in affine for value in carriers) and _is_affine(node, carriers):
            affine.add(node)
            continue
        if operation_name(node) in EXTREMES:
            where = program.describe(node)
            raise TracingError(f"the outputs are the smallest or largest of several: {where}", cure=OUTSIDE)
        pooled += [value for value in carriers if value in affine]
        bent.append(operation_name(node))
    pooled += [node for node in affine if node.name == program.returned]
    return Tail(
        frozenset(every),
        tuple(heads),
        frozenset(affine & tail),
        tuple(dict.fromkeys(map(_whole, pooled))),
        tuple(dict.fromkeys(bent)),
    )


def with_rows(program: Program, values: Sequence[fx.Node]) -> tuple[Program, fx.Node]:
    """Return the program with one value more, which has others side by side, (n, o), and that value.

    Raises
    ------
    TracingError : one of them has no rows of samples, as a readout's weight that is computed.
    """
    for value in values:
        if value.name not in program.varying:
            message = f"the outputs are computed of parameters alone: {program.describe(value)}"
            raise TracingError(message, cure="read them out by a layer with a weight of its own")
    graph, last = values[0].graph, max(values, key=list(program.nodes).index)
    rows = list[fx.Node]()
    for value in values:
        flat = aten.unsqueeze.default if value.meta["val"].dim() == 1 else aten.flatten.using_ints
        rows.append(_inserted(graph, last, flat, (value, 1)))
        last = rows[-1]
    output = rows[0] if len(rows) == 1 else _inserted(graph, last, aten.cat.default, (rows, 1))
    return replace(program, nodes=tuple(graph.nodes)), output


def _inserted(graph: fx.Graph, last: fx.Node, target: Any, args: tuple[Any, ...]) -> fx.Node:
    with graph.inserting_after(last):
        node = graph.call_function(target, args)
    node.meta["val"] = target(*fx.node.map_arg(args, lambda value: value.meta["val"]))
    return node


def _whole(node: fx.Node) -> fx.Node:
    """A tensor, or the one that a list of parts was cut from."""
    while not isinstance(node.meta.get("val"), Tensor):
        node = node.all_input_nodes[0]
    return node


def _is_affine(node: fx.Node, carriers: Collection[fx.Node]) -> bool:
    name = operation_name(node)
    if name in JOINT:
        return True
    first = node.args[0] if node.args else None
    if name == "mul":
        return len(carriers) == 1 and node.args[0] is not node.args[1]
    if name == "matmul":
        return len(carriers) == 1
    if name == "div" and "rounding_mode" in node.kwargs:
        return False
    return name in LINEAR and len(carriers) == 1 and first in carriers


def operation_name(node: fx.Node) -> str:
    """Return the name of an operation without its overload."""
    target = node.target
    packet = getattr(target, "_opname", None) or getattr(target, "__name__", str(target))
    return str(packet)


def _reads_parameter(node: fx.Node, program: Program) -> bool:
    """Whether an operation reads a parameter, or one number that is computed of parameters."""
    return reads_number(program, node) or any(value.name in program.parameters for value in node.all_input_nodes)


def reads_number(program: Program, node: fx.Node) -> bool:
    """Whether an operation reads one number that is computed of parameters."""
    return any(is_number(program, value) for value in node.all_input_nodes)


def is_number(program: Program, value: fx.Node) -> bool:
    """Whether a value is one number that is computed of parameters alone."""
    made = value.meta.get("val")
    return value.name in program.computed and isinstance(made, Tensor) and made.numel() == 1


def _after_weights(program: Program) -> set[fx.Node]:
    """Values that a weight has an effect on."""
    after = set[fx.Node]()
    for node in program.nodes:
        inputs = node.all_input_nodes
        if node.op == "call_function" and any(v in after or v.name in program.parameters for v in inputs):
            after.add(node)
    return after


def _before_weights(program: Program) -> set[fx.Node]:
    """Values that a weight is applied to later."""
    before = set[fx.Node]()
    for node in reversed(program.nodes):
        if any(user in before or _reads_parameter(user, program) for user in node.users):
            before.add(node)
    return before
