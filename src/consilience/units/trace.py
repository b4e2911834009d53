"""The program of a module, by ``torch.export``.

Functional and module forms of an operation become one ATen operation, Python control flow that does not depend on data
is followed, control flow that does is refused, and the batch size stays free.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map_only

from consilience.errors import TracingError
from consilience.units.deviation import deviation
from consilience.units.einsum import as_products, parsed
from consilience.units.forward import outputs_of
from consilience.units.modules import first_names
from consilience.units.multihead import plain_attention
from consilience.units.outputs import Pick, outputs_in, tensors_in
from consilience.units.precision import doubled, exact
from consilience.units.program import BIGGEST, N_SAMPLES, Program

aten = torch.ops.aten
# Batch norms in eval mode, with where their arguments say whether they train (or None) and ε.
BATCH_NORMS: dict[object, tuple[int | None, int]] = {
    aten.batch_norm.default: (5, 7),
    aten._native_batch_norm_legit_no_training.default: (None, 6),
}
# Operations that may return what they get, though their schema says that they return a new tensor.
DROPOUTS = ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")
RETURN_THEIR_INPUT = {aten.type_as.default, *(getattr(aten, name).default for name in DROPOUTS)}
LERPS = (aten.lerp.Tensor, aten.lerp.Scalar)
MANY = 1009  # samples, a prime, at which a module is traced whose batch size does not stay free
APART = 4  # samples that are computed beside others
SHARE = 1e-5  # of the spread of outputs over samples, by which one sample may change another
TRACEABLE = "replace `if tensor:` and `.item()` by tensor operations such as torch.where"


def trace(module: nn.Module, example_input: Tensor, output: Pick = None) -> Program:
    """Trace ``module``, in plain form and eval mode, on ``example_input`` (n, ...), n ≥ 1."""
    name = type(module).__name__
    x = _two(example_input)
    with torch.no_grad():
        outputs_of(module, x, name, "example_input", output)
    program = _program(_exported(module, x, output), module, x, output)
    if _takes_any_batch_size(program, module, x):
        return program
    few = len(program.nodes)
    with contextlib.suppress(TracingError):  # the forward pass makes a number of the batch size, as in int(x.shape[0])
        program = _program(_exported(module, x, output, many=True), module, x, output)
        looped = len(program.nodes) - few > MANY / 2  # over samples: other numbers of them need other operations
        if not looped and _takes_any_batch_size(program, module, x):
            return program
    message = "must return one output for each of any number of samples, got one batch size only"
    cure = "use x.flatten(1) or x.reshape(x.shape[0], -1), not a written-out batch size or a loop over samples"
    raise TracingError(f"{name} {message}", cure=cure)


def _exported(module: nn.Module, x: Tensor, output: Pick, *, many: bool = False) -> Any:
    """Export a module with a free batch size; with ``many``, at `N_SAMPLES` samples, which its sizes then show."""
    name, free = type(module).__name__, {0: torch.export.Dim.AUTO}
    if many:
        x, free = x.new_empty((MANY, *x.shape[1:])), {}
    try:
        with torch.no_grad(), _quiet(), plain_attention(), _returning_outputs(module, output):
            exported = torch.export.export(module, (x,), dynamic_shapes=(free,), strict=False)
            if not _made_functional(exported.graph):
                exported = exported.run_decompositions({})  # does the same for any operation, in 3 times as long
    except Exception as error:
        first_line = (str(error).strip().splitlines() or [""])[0]
        raise TracingError(f"{name} cannot be traced: {type(error).__name__}: {first_line}", cure=TRACEABLE) from error
    _check_operations(exported, name)
    _decompose(exported.graph)
    if many:
        _show_batch_sizes(exported.graph)
    return exported


@contextlib.contextmanager
def _returning_outputs(module: nn.Module, output: Pick) -> Iterator[None]:
    """Inside, a module returns its outputs as one tensor and, where they are picked, all else that it returns."""
    own, forward = module.__dict__.get("forward"), module.forward

    def outputs(x: Tensor) -> tuple[Tensor, ...]:
        returned = forward(x)
        spare = [] if output is None else tensors_in(returned)
        return (outputs_in(returned, type(module).__name__, output), *spare)

    module.__dict__["forward"] = outputs
    try:
        yield
    finally:
        del module.__dict__["forward"]
        if own is not None:
            module.__dict__["forward"] = own


def _show_batch_sizes(graph: fx.Graph) -> None:
    """Write sizes that are multiples of `MANY` as multiples of `N_SAMPLES`, in arguments and in shapes of values."""

    def shown(size: int) -> int:
        return size if isinstance(size, bool) or size % MANY or size > BIGGEST else size // MANY * N_SAMPLES

    def at_many(value: Tensor) -> Tensor:
        return torch.empty([shown(size) for size in value.shape], dtype=value.dtype, device="meta")

    for node in graph.nodes:
        if node.op == "call_function":
            node.args = tree_map_only(int, shown, node.args)
            node.kwargs = tree_map_only(int, shown, node.kwargs)
        if node.op != "output" and node.op != "get_attr":
            node.meta["val"] = tree_map_only(Tensor, at_many, node.meta.get("val"))


def _decompose(graph: fx.Graph) -> None:
    """Replace ``addcmul(a, b, c, value=v)`` by ``a + b * c * v``, ``lerp(a, b, c)`` by ``a + (b − a) * c``.

    So are einsums replaced by products, and products of complex numbers by those of their parts. Of sums and products
    it is known what they do to units.
    """
    for node in list(graph.nodes):
        if node.target is aten.einsum.default:
            _decompose_einsum(graph, node)
        if node.target is aten.view_as_real.default:
            _decompose_complex(graph, node)
        if node.target not in (aten.addcmul.default, *LERPS):
            continue
        (added, *factors), number = node.args, node.kwargs.get("value", 1)
        with graph.inserting_before(node):
            if node.target in LERPS:
                factors[0] = _computed(graph, node, aten.sub.Tensor, factors[0], added)
            product = _computed(graph, node, aten.mul.Tensor, *factors)
            product = product if number == 1 else _computed(graph, node, aten.mul.Tensor, product, number)
            _replace(graph, node, _computed(graph, node, aten.add.Tensor, added, product))
    for node in graph.nodes:  # what is computed otherwise may lie otherwise in memory
        node.target = aten.reshape.default if node.target is aten.view.default else node.target


def _decompose_einsum(graph: fx.Graph, node: fx.Node) -> None:
    """Replace an einsum of two values by products, where it can be written so."""
    equation, values = str(node.args[0]), list(node.args[1])  # type: ignore[arg-type]
    letters = parsed(equation, [value.meta["val"].dim() for value in values])
    if letters is None or len(values) != 2:
        return
    with graph.inserting_before(node):
        product = as_products(*letters, values, partial(_computed, graph, node))
    if product is not None:
        _replace(graph, node, product)


def _decompose_complex(graph: fx.Graph, node: fx.Node) -> None:
    """Replace ``view_as_real(view_as_complex(a) * c)``, as of rotary positions, by the products of real parts."""
    product = node.args[0]
    if not isinstance(product, fx.Node) or product.target is not aten.mul.Tensor:
        return
    made = [value for value in product.all_input_nodes if value.target is aten.view_as_complex.default]
    others = [value for value in product.all_input_nodes if value not in made]
    if len(made) != 1 or len(others) != 1 or not others[0].meta["val"].is_complex():
        return
    with graph.inserting_before(node):
        computed = partial(_computed, graph, node)
        numbers = computed(aten.view_as_real.default, others[0])
        (a, b), (c, d) = (
            [computed(aten.select.int, pair, -1, part) for part in range(2)] for pair in (made[0].args[0], numbers)
        )
        real, imaginary = (
            computed(sign, computed(aten.mul.Tensor, a, one), computed(aten.mul.Tensor, b, other))
            for sign, one, other in ((aten.sub.Tensor, c, d), (aten.add.Tensor, d, c))
        )
        _replace(graph, node, computed(aten.stack.default, [real, imaginary], -1))


def _replace(graph: fx.Graph, node: fx.Node, made: fx.Node) -> None:
    """Put a value in place of another, under its name, as what is returned is known by name."""
    node.replace_all_uses_with(made)
    graph.erase_node(node)
    made.name = node.name


def _computed(graph: fx.Graph, at: fx.Node, target: Any, *args: Any) -> fx.Node:
    """A new operation with the place in the user's code of another."""
    made = graph.call_function(target, args)
    made.meta = {**at.meta, "val": target(*fx.node.map_arg(args, lambda value: value.meta["val"]))}
    return made


def _check_operations(exported: Any, name: str) -> None:
    """Raise where a region of the forward pass is one operation of torch's: autocast, gradients on, conditions."""
    for node in exported.graph.nodes:
        if node.op == "call_function" and isinstance(node.target, torch._ops.HigherOrderOperator):
            kind = str(node.target).removeprefix("wrap_with_").replace("_", " ")
            message = f"the forward pass of {name} must be tensor operations alone, got a region of its own: {kind}"
            raise TracingError(
                message, cure="leave autocast, grad modes, torch.cond and the like out of the forward pass"
            )


def _program(exported: Any, module: nn.Module, x: Tensor, output: Pick) -> Program:
    signature, name = exported.graph_signature, type(module).__name__
    inputs, outputs = signature.user_inputs, signature.user_outputs
    if len(inputs) != 1 or not isinstance(outputs[0], str):
        cure = "wrap it in a module whose forward takes one tensor"
        raise TracingError(f"{name} must take one tensor and return values of it, got {len(inputs)} inputs", cure=cure)
    norms = [node for node in exported.graph.nodes if node.target in BATCH_NORMS]
    statistics = {argument.name for node in norms for argument in node.args[3:5] if isinstance(argument, fx.Node)}
    buffers = signature.inputs_to_buffers
    values = {**dict(exported.named_buffers()), **exported.constants}
    constants = {**buffers, **signature.inputs_to_lifted_tensor_constants}
    statistics |= {node for node, buffer in buffers.items() if _scales_embedding(module, buffer)}
    own_statistics = {node: buffer for node, buffer in buffers.items() if node in statistics}
    first = first_names(module)
    parameters = {node: first[value] for node, value in (signature.inputs_to_parameters | own_statistics).items()}
    return Program(
        nodes=tuple(exported.graph.nodes),
        parameters=parameters,
        constants={node: values[constant] for node, constant in constants.items() if node not in statistics},
        statistics=frozenset(parameters[node] for node in own_statistics),
        input=inputs[0],
        output=outputs[0],
        returned=outputs[0],
        pooled=(outputs[0],),
        module_name=name,
        input_shape=tuple(x.shape[1:]),
        pick=output,
    )


def _scales_embedding(module: nn.Module, buffer: str) -> bool:
    """Whether a buffer is one number of an embedding, by which it multiplies what it gives."""
    own = module.get_submodule(buffer.rpartition(".")[0])
    return isinstance(own, nn.Embedding) and module.get_buffer(buffer).numel() == 1


def _takes_any_batch_size(program: Program, module: nn.Module, x: Tensor) -> bool:
    """Whether the program runs on three samples, where it was traced on another number."""
    try:
        return len(_outputs(program, _state(module), torch.cat([x, x[:1]]))) == 3
    except (RuntimeError, IndexError, ValueError):
        return False


def check_samples_apart(program: Program, module: nn.Module, example_input: Tensor) -> None:
    """Raise `TracingError` if the outputs of a sample depend on the other samples of a batch."""
    x = example_input[:APART]
    state = _state(module)
    apart = _samples_apart(program, state, x)
    if not apart and x.dtype != torch.float64:  # roundings may be as large as the outputs; a wrong batch stays wrong
        apart = _samples_apart(program.double(), doubled(state), exact(x))
    if not apart:
        message = f"{program.module_name} must compute each sample's outputs from that sample alone, got outputs that "
        raise TracingError(f"{message}depend on the others of a batch", cure="use no mean, order or noise over samples")


def _samples_apart(program: Program, state: Mapping[str, Tensor], x: Tensor) -> bool:
    """Whether samples give the same outputs beside others as without them."""
    alone, beside = _outputs(program, state, x), _outputs(program, state, torch.cat([x, x[:1]]))[: len(x)]
    if not bool(alone.isfinite().all()):
        return torch.allclose(alone, beside, equal_nan=True)
    return deviation(beside, alone) <= SHARE


def _state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in (*module.named_parameters(), *module.named_buffers())}


def _outputs(program: Program, state: Mapping[str, Tensor], x: Tensor) -> Tensor:
    return program.run(state, x, [program.returned])[program.returned]


def _two(example_input: Tensor) -> Tensor:
    """Two samples, the first twice if there is one only."""
    return torch.cat([example_input] * 2)[:2].contiguous()


def _made_functional(graph: fx.Graph) -> bool:
    """Replace in-place operations by functional ones; False if one may change a value that goes by another name."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    in_place = [node for node in graph.nodes if _is_in_place(node)]
    for node in in_place:
        changed = node.args[0]
        if not isinstance(changed, fx.Node) or not all(_makes_new(value) for value in (changed, *changed.users)):
            return False
    for node in in_place:
        node.target = _functional(node)
        changed = node.args[0]
        changed.replace_all_uses_with(node, delete_user_cb=lambda user, at=order[node]: order[user] > at)
    return True


def _is_in_place(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _functional(node: fx.Node) -> Any:
    """The operation without its change in place, None if there is none."""
    target: Any = node.target
    packet = getattr(aten, target._opname.removesuffix("_"), None)
    return getattr(packet, target._overloadname, None)


def _makes_new(node: fx.Node) -> bool:
    """Whether an operation returns a tensor of its own, no view of another."""
    if node.op == "output":
        return True
    target: Any = _functional(node) if _is_in_place(node) else node.target
    if not isinstance(target, torch._ops.OpOverload) or target in RETURN_THEIR_INPUT:
        return False
    return all(result.alias_info is None for result in target._schema.returns)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the tracer's own log and graph dumps: what matters of a failure is in our error."""
    level, logging.root.manager.disable = logging.root.manager.disable, logging.CRITICAL
    try:
        dump = io.StringIO()
        with contextlib.redirect_stdout(dump), contextlib.redirect_stderr(dump), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.root.manager.disable = level
