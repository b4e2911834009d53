"""A module as a program: the list of tensor operations it performs, with every shape and parameter name.

Choices
- ``torch.export`` does the tracing. Functional and module forms of an operation become one ATen operation, Python
  control flow that does not depend on data is followed, control flow that does is refused, and the batch size stays
  free.
- The program can be run with any parameters of the right shapes, and any intermediate value can be read from it. So the
  activations of all members with equal shapes come from one traced program.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import math
import warnings
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn

from consilience.errors import InputError, TracingError
from consilience.units.operations import BATCH_NORMS, ELEMENTWISE, MAKES_NEW, PASSING


@dataclass(frozen=True)
class Program:
    """A traced module.

    Attributes
    ----------
    graph_module : the ATen operations.
    parameters : graph input name → name in the module, for parameters and the statistics of batch norms.
    constants : graph input name → any other buffer or constant of the traced module.
    statistics : names of the statistics of batch norms, in the module.
    input : name of the graph input that takes the samples.
    output : name of the value that the module returns.
    module_name : class of the traced module, for messages.
    input_shape : shape of one sample.
    """

    graph_module: fx.GraphModule
    parameters: Mapping[str, str]
    constants: Mapping[str, Tensor]
    statistics: frozenset[str]
    input: str
    output: str
    module_name: str
    input_shape: tuple[int, ...]

    @property
    def nodes(self) -> Sequence[fx.Node]:
        """The operations, in the order in which they run."""
        return list(self.graph_module.graph.nodes)

    @property
    def learned(self) -> frozenset[str]:
        """Names of the parameters, without statistics."""
        return frozenset(self.parameters.values()) - self.statistics

    def double(self) -> Program:
        """Return the program with its constants in double precision."""
        constants = {name: c.double() if c.is_floating_point() else c for name, c in self.constants.items()}
        return replace(self, constants=constants)

    @cached_property
    def largest_value(self) -> int:
        """Numbers that one sample has in the largest value."""
        values = (node.meta.get("val") for node in self.nodes if node.op == "call_function")
        return max([1, *(_of_one_sample(value.shape) for value in values if isinstance(value, Tensor))])

    def run(
        self,
        state: Mapping[str, Tensor],
        x: Tensor,
        values: Sequence[str],
        known: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Return the named intermediate values for inputs x (n, ...) under the parameters ``state``.

        Only the operations that they need are run. Values that are ``known`` by name are taken as they are, and what
        only they depend on is not run either. Gradients flow where ``state`` asks for them.
        """
        known = known or {}
        needed = self.needed(values, known)
        results = dict[str, Tensor]()
        environment: dict[fx.Node, Any] = {}
        running = [node for node in self.nodes if node.name in needed]
        last_use = {value: node for node in running if node.name not in known for value in node.all_input_nodes}
        for node in running:
            if node.name in known:
                environment[node] = known[node.name]
            elif node.op == "placeholder":
                environment[node] = self._graph_input(node.name, state, x)
            elif node.op == "call_function":
                args, kwargs = fx.node.map_arg((node.args, node.kwargs), environment.__getitem__)
                environment[node] = node.target(*args, **kwargs)  # type: ignore[operator]
            if node.name in values:
                results[node.name] = environment[node]
            for value in node.all_input_nodes:  # memory: a value is forgotten after its last use
                if last_use.get(value) is node:
                    del environment[value]
        return results

    def needed(self, values: Iterable[str], known: Container[str] = ()) -> set[str]:
        """Return the names of all values that the named ones are computed from, no further than known ones."""
        needed = set(values)
        for node in reversed(self.nodes):
            if node.name in needed and node.name not in known:
                needed.update(value.name for value in node.all_input_nodes)
        return needed

    def is_elementwise(self, values: Container[str]) -> bool:
        """Whether values are computed number by number, whatever the shape."""
        return all(node.target in ELEMENTWISE or node.target in PASSING for node in self.nodes if node.name in values)

    def _graph_input(self, name: str, state: Mapping[str, Tensor], x: Tensor) -> Tensor:
        if name == self.input:
            return x
        return state[self.parameters[name]] if name in self.parameters else self.constants[name]


def trace(module: nn.Module, example_input: Tensor) -> Program:
    """Trace ``module`` in eval mode on ``example_input`` (n, ...), n ≥ 1.

    Raises
    ------
    InputError
        If the module itself fails on the example input.
    TracingError
        If control flow depends on data, the batch size is fixed, or there is more than one input or output.
    """
    module = copy.deepcopy(module).eval()
    name = type(module).__name__
    names = [[key for key, _ in module.named_parameters(remove_duplicate=unique)] for unique in (True, False)]
    if len(names[0]) < len(names[1]):
        raise TracingError(
            "a parameter has two names", where=name, got=", ".join(repr(key) for key in set(names[1]) - set(names[0])),
            cure="give each part a parameter of its own",
        )  # fmt: skip
    x = _two(example_input) if example_input.dim() else example_input
    if x.dim() == 0 or len(x) < 2:
        raise InputError(
            "the example input has no samples", where=name, got=tuple(example_input.shape), expected="(n, ...), n ≥ 1"
        )
    try:
        with torch.no_grad():
            module(x)
    except Exception as error:
        raise InputError(
            "the module fails on the example input", where=name, got=f"{type(error).__name__}: {error}",
            expected=f"a module that maps inputs of shape (n, {', '.join(map(str, x.shape[1:]))})",
            cure="pass an example input of the shape the module takes",
        ) from error  # fmt: skip
    try:
        with torch.no_grad(), _quiet():
            exported = torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim.AUTO},), strict=False)
            if not _made_functional(exported.graph):
                exported = exported.run_decompositions({})  # does the same for any operation, and takes longer
    except Exception as error:
        raise TracingError(
            "the module cannot be traced", where=name, got=_first_line(error),
            expected="Python control flow that does not depend on the values in tensors, and one tensor as input",
            cure="replace `if tensor:` and `.item()` by tensor operations such as torch.where, or wrap the module",
        ) from error  # fmt: skip
    program = _program(exported, name, x)
    _check_any_batch_size(program, module, x)
    return program


def _program(exported: Any, name: str, x: Tensor) -> Program:
    signature = exported.graph_signature
    if (
        len(signature.user_inputs) != 1
        or len(signature.user_outputs) != 1
        or not isinstance(signature.user_outputs[0], str)
    ):
        raise TracingError(
            "the module must take one tensor and return one tensor", where=name,
            got=f"{len(signature.user_inputs)} inputs, {len(signature.user_outputs)} outputs",
            cure="wrap it in a module whose forward picks one of each",
        )  # fmt: skip
    norms = [node for node in exported.graph.nodes if node.target in BATCH_NORMS]
    statistics = {argument.name for node in norms for argument in node.args[3:5] if isinstance(argument, fx.Node)}
    buffers = signature.inputs_to_buffers
    constants = {
        graph_name: {**dict(exported.named_buffers()), **exported.constants}[buffer]
        for graph_name, buffer in {**buffers, **signature.inputs_to_lifted_tensor_constants}.items()
        if graph_name not in statistics
    }
    return Program(
        graph_module=exported.graph_module,
        parameters=signature.inputs_to_parameters
        | {graph_name: buffer for graph_name, buffer in buffers.items() if graph_name in statistics},
        constants=constants,
        statistics=frozenset(buffers[name] for name in statistics),
        input=signature.user_inputs[0],
        output=signature.user_outputs[0],
        module_name=name,
        input_shape=tuple(x.shape[1:]),
    )


def _of_one_sample(shape: Sequence[int | torch.SymInt]) -> int:
    """Numbers in a value of this shape, for one sample."""
    known = [size if isinstance(size, int) else size.node.expr for size in shape]
    return math.prod(
        size if isinstance(size, int) else int(size.subs(dict.fromkeys(size.free_symbols, 1))) for size in known
    )


def _check_any_batch_size(program: Program, module: nn.Module, x: Tensor) -> None:
    """Run the program on three samples; it was traced on two."""
    try:
        n_outputs = len(_outputs(program, module, torch.cat([x, x[:1]])))
    except RuntimeError:
        n_outputs = len(x)
    if n_outputs != 3:
        raise TracingError(
            "the module works for one batch size only", where=program.module_name,
            expected="one output for each of any number of samples",
            cure="use x.flatten(1) or x.reshape(x.shape[0], -1), not a written-out batch size",
        )  # fmt: skip


def check_samples_apart(program: Program, module: nn.Module, example_input: Tensor) -> None:
    """Refuse a module whose outputs for a sample depend on the other samples of a batch.

    Raises
    ------
    TracingError
        As said.
    """
    x = _two(example_input)
    two, three = _outputs(program, module, x), _outputs(program, module, torch.cat([x, x[:1]]))
    if not torch.allclose(two, three[:2], rtol=1e-3, atol=1e-3 * float(two.abs().max()), equal_nan=True):
        raise TracingError(
            "the outputs of a sample depend on the others", where=program.module_name,
            expected="outputs that are the same in any batch", cure="use no mean, order or noise over samples",
        )  # fmt: skip


def _outputs(program: Program, module: nn.Module, x: Tensor) -> Tensor:
    state = {name: value.detach() for name, value in (*module.named_parameters(), *module.named_buffers())}
    return program.run(state, x, [program.output])[program.output]


def _two(example_input: Tensor) -> Tensor:
    """Two samples, the first twice if there is one only."""
    return torch.cat([example_input] * 2)[:2].contiguous()


def describe(node: fx.Node, program: Program) -> str:
    """Name an operation and the module it is in, as in ``aten.sort in 'block.attention' (Attention)``."""
    stack = [entry for key, entry in (node.meta.get("nn_module_stack") or {}).items() if not key.startswith("_")]
    path, kind = stack[-1] if stack else ("", program.module_name)
    kind = kind if isinstance(kind, str) else kind.__name__
    place = f"'{path}' ({kind.rsplit('.', 1)[-1]})" if path else program.module_name
    return f"{str(node.target).removesuffix('.default')} in {place}"


def _made_functional(graph: fx.Graph) -> bool:
    """Replace in-place operations by functional ones; False if one may change a value that goes by another name."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    in_place = [node for node in graph.nodes if _is_in_place(node)]
    for node in in_place:
        changed = node.args[0]
        if not isinstance(changed, fx.Node) or not all(_makes_new(each) for each in (changed, *changed.users)):
            return False
    for node in in_place:
        packet, overload = node.target._opname.removesuffix("_"), node.target._overloadname
        node.target = getattr(getattr(torch.ops.aten, packet), overload)
        changed = node.args[0]
        changed.replace_all_uses_with(node, delete_user_cb=lambda user, at=order[node]: order[user] > at)
    return True


def _is_in_place(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _makes_new(node: fx.Node) -> bool:
    """Whether an operation gives a tensor of its own, no view of another."""
    if _is_in_place(node):
        name = node.target._opname.removesuffix("_")  # type: ignore[union-attr]
        return hasattr(torch.ops.aten, name) and node.target._overloadname in getattr(torch.ops.aten, name).overloads()  # type: ignore[union-attr]
    return node.target in MAKES_NEW or node.op == "output"


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the tracer's own log and graph dumps: what matters of a failure is in our error."""
    level, logging.root.manager.disable = logging.root.manager.disable, logging.CRITICAL
    try:
        quiet = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
        with quiet[0], quiet[1], warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.root.manager.disable = level
