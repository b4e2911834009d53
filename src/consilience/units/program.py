"""A traced module: the tensor operations it performs, which run with any parameters of the right shapes.

Any intermediate value can be read by name. So the activations of all members with equal shapes come from one trace.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, fx
from torch.ops import aten
from torch.utils._pytree import tree_flatten, tree_map_only

from consilience.errors import InputError
from consilience.units.outputs import Pick
from consilience.units.precision import exact, in_double

FRAME = re.compile(r'File "([^"]+)", line (\d+)')
TORCH = Path(torch.__file__).parent
N_SAMPLES = 1_000_003  # a prime that stands for the number of samples where sizes are compared or written out
BIGGEST = 2**60  # sizes above it stand for "to the end"


@dataclass(frozen=True)
class Program:
    """The operations of a module.

    Attributes
    ----------
    nodes : inputs and ATen operations, in the order in which they run.
    parameters : graph input → name in the module, for parameters, the statistics of batch norms and scales of
        embeddings.
    constants : graph input → value, for all other buffers and constants of the module.
    statistics : names of the statistics of batch norms and the scales of embeddings, in the module.
    input : name of the graph input that takes the samples.
    output : name of the value that is pooled: what the module returns, or what its tail begins from, (n, o, ...).
    returned : name of the value with the module's outputs; see `consilience.units.outputs`.
    pooled : names of the values that are pooled, of which ``output`` is the only one or has all side by side.
    module_name : class of the traced module, for messages.
    input_shape : shape of one sample.
    functions : value → what computes it at any widths, where the operation has sizes written out.
    pick : which of the values that the module returns are its outputs; None for all.
    """

    nodes: tuple[fx.Node, ...]
    parameters: Mapping[str, str]
    constants: Mapping[str, Tensor]
    statistics: frozenset[str]
    input: str
    output: str
    returned: str
    pooled: tuple[str, ...]
    module_name: str
    input_shape: tuple[int, ...]
    functions: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    pick: Pick = None

    @property
    def is_bent(self) -> bool:
        """Whether a tail that is not affine follows the values that are pooled: softmax, sigmoid and the like."""
        return self.returned not in self.pooled

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the value that is pooled, of one sample."""
        value = next(node.meta["val"] for node in self.nodes if node.name == self.output)
        return tuple(sizes(value, 1)[1:])

    @property
    def input_dtype(self) -> torch.dtype:
        """Type of the example inputs."""
        dtype: torch.dtype = next(node.meta["val"].dtype for node in self.nodes if node.name == self.input)
        return dtype

    @property
    def learned(self) -> frozenset[str]:
        """Names of the parameters, without statistics and scales."""
        return frozenset(self.parameters.values()) - self.statistics

    @cached_property
    def batch_sizes(self) -> frozenset[str]:
        """Names of the values whose operations have a number of samples written out; see `N_SAMPLES`."""
        named = [(node.name, fx.node.map_arg((node.args, node.kwargs), lambda value: None)) for node in self.nodes]
        return frozenset(name for name, given in named if any(map(_is_batch_size, tree_flatten(given)[0])))

    @cached_property
    def varying(self) -> frozenset[str]:
        """Names of the values that the input has an effect on; others are the same for all samples."""
        varying = {self.input}
        for node in self.nodes:
            if any(value.name in varying for value in node.all_input_nodes):
                varying.add(node.name)
        return frozenset(varying)

    @cached_property
    def embedded(self) -> tuple[tuple[str, str], ...]:
        """Embeddings of indices that are inputs, or are computed of these: parameter, and value with the indices."""
        pairs = [node.all_input_nodes[:2] for node in self.nodes if node.target is aten.embedding.default]
        return tuple(
            (self.parameters[weight.name], indices.name)
            for weight, indices in pairs
            if weight.name in self.parameters and indices.name in self.varying
        )

    @cached_property
    def reads(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Each value, in the order in which they are computed, and the values that it is computed from."""
        return tuple((node.name, tuple(value.name for value in node.all_input_nodes)) for node in self.nodes)

    @cached_property
    def computed(self) -> frozenset[str]:
        """Names of the values that are computed of parameters alone."""
        computed = set[str]()
        for node in self.nodes:
            inputs = [value.name for value in node.all_input_nodes]
            if node.op == "call_function" and inputs and all(n in computed or n in self.parameters for n in inputs):
                computed.add(node.name)
        return frozenset(computed)

    def __deepcopy__(self, memo: object) -> Program:
        """Return the program itself: it never changes, and its symbolic shapes cannot be copied."""
        return self

    def __reduce__(self) -> NoReturn:
        """Raise at once: a program of torch.export may be pickled, and not read again."""
        cure = "pickle its population or census, or save it and load it there"
        raise InputError("what is pickled must have no traced network in it, got one", cure=cure)

    def double(self) -> Program:
        """Return the program in double precision, also with large parameters that are not; see `precision`."""
        constants = {name: exact(value) for name, value in self.constants.items()}
        functions = {
            node.name: _in_double(self.functions.get(node.name, node.target))
            for node in self.nodes
            if torch.float32 in (*node.args, *node.kwargs.values())
            or any(value.name in self.parameters for value in node.all_input_nodes)
        }
        return replace(self, constants=constants, functions={**self.functions, **functions})

    def on(self, device: str) -> Program:
        """Return the program for values on a device."""
        if device == "cpu":
            return self
        constants = {name: value.to(device) for name, value in self.constants.items()}
        functions = {
            node.name: _made_on(device, self.functions.get(node.name, node.target))
            for node in self.nodes
            if "device" in node.kwargs
        }
        return replace(self, constants=constants, functions={**self.functions, **functions})

    @cached_property
    def largest_value(self) -> int:
        """Numbers that one sample has in the largest value."""
        values = (node.meta.get("val") for node in self.nodes if node.op == "call_function")
        return max([1, *(math.prod(sizes(value, 1)) for value in values if isinstance(value, Tensor))])

    def n_positions(self, value: str, dim: int) -> int:
        """Return at how many positions a sample has the units along a dimension of a value."""
        (node,) = (node for node in self.nodes if node.name == value)
        shape = sizes(node.meta["val"], 1)
        return math.prod(shape) // shape[dim]

    def run(
        self, state: Mapping[str, Tensor], x: Tensor, values: Sequence[str], known: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Return the named intermediate values for inputs x (n, ...) under the parameters ``state``.

        Only the operations that they need are run. Values that are ``known`` by name are taken as they are, and what
        only they depend on is not run either. Gradients flow where ``state`` asks for them.
        """
        known = known or {}
        needed = self.needed(values, known)
        running = [node for node in self.nodes if node.name in needed]
        last_use = {value: node for node in running if node.name not in known for value in node.all_input_nodes}
        results = dict[str, Tensor]()
        environment: dict[fx.Node, Any] = {}
        for node in running:
            if node.name in known:
                environment[node] = known[node.name]
            elif node.op == "placeholder":
                environment[node] = self._graph_input(node.name, state, x)
            else:
                function: Any = self.functions.get(node.name, node.target)
                args, kwargs = fx.node.map_arg((node.args, node.kwargs), environment.__getitem__)
                if node.name in self.batch_sizes:
                    args, kwargs = tree_map_only(int, lambda size: _of_samples(size, len(x)), (args, kwargs))
                environment[node] = function(*args, **kwargs)
            if node.name in values:
                results[node.name] = environment[node]
            for value in node.all_input_nodes:
                if last_use.get(value) is node:
                    del environment[value]  # frees its memory
        return results

    def needed(self, values: Iterable[str], known: Container[str] = ()) -> set[str]:
        """Return the names of all values that the named ones are computed from, no further than known ones."""
        needed = set(values)
        for name, inputs in reversed(self.reads):
            if name in needed and name not in known:
                needed.update(inputs)
        return needed

    def frontier(self, changed: Container[str]) -> list[str]:
        """Return the names of the last values that no parameter in ``changed`` has an effect on."""
        affected = {name for name, parameter in self.parameters.items() if parameter in changed}
        ends = set[str]()
        for name, inputs in self.reads:
            if not affected.isdisjoint(inputs):
                affected.add(name)
                ends.update(inputs)
        ends = (ends & self.varying) - affected
        return [
            node.name
            for node in self.nodes
            if node.name in ends and node.op == "call_function" and isinstance(node.meta.get("val"), Tensor)
        ]

    def module_of(self, node: fx.Node) -> str:
        """Return the path of the module that an operation is in."""
        stack = node.meta.get("nn_module_stack") or {}
        paths = [str(path) for key, (path, _) in stack.items() if not key.startswith("_")]
        return paths[-1] if paths else ""

    def describe(self, node: fx.Node) -> str:
        """Name an operation, its module and its line, as ``aten.sort in 'block.attention' (Attention), net.py:12``."""
        stack = [entry for key, entry in (node.meta.get("nn_module_stack") or {}).items() if not key.startswith("_")]
        path, kind = stack[-1] if stack else ("", self.module_name)
        kind = kind if isinstance(kind, str) else kind.__name__
        module = f"'{path}' ({kind.rsplit('.', 1)[-1]})" if path else self.module_name
        frames = [(Path(file), line) for file, line in FRAME.findall(node.meta.get("stack_trace") or "")]
        lines = [f", {file.name}:{line}" for file, line in frames if TORCH not in file.parents]
        return f"{str(node.target).removesuffix('.default')} in {module}{''.join(lines[-1:])}"

    def _graph_input(self, name: str, state: Mapping[str, Tensor], x: Tensor) -> Tensor:
        if name == self.input:
            return x
        return state[self.parameters[name]] if name in self.parameters else self.constants[name]


def _is_batch_size(value: object) -> bool:
    return type(value) is int and value != 0 and value % N_SAMPLES == 0 and value < BIGGEST


def _of_samples(value: int, n_samples: int) -> int:
    """A size at another number of samples than `N_SAMPLES`."""
    return value // N_SAMPLES * n_samples if _is_batch_size(value) else value


def _in_double(function: Any) -> Callable[..., Any]:
    """Return a function that gets float64 in place of float32."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return in_double(function, args, kwargs)

    return call


def _made_on(device: str, function: Any) -> Callable[..., Any]:
    """Return a function that makes tensors on a device, whichever was in use when it was traced."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **(kwargs | {"device": device}))

    return call


def sizes(value: Tensor, n_samples: int) -> list[int]:
    """Return the shape of a traced value at a number of samples."""
    exact = (size if isinstance(size, int) else size.node.expr for size in value.shape)
    return [
        _of_samples(e, n_samples) if isinstance(e, int) else int(e.subs(dict.fromkeys(e.free_symbols, n_samples)))
        for e in exact
    ]
