"""A network as a chain of fully connected layers: what can be routed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from consilience.errors import InputError
from consilience.nets import ACTIVATIONS
from consilience.ties import SINGLE
from consilience.units.architecture import Architecture, read_state
from consilience.units.follow import find_layers
from consilience.units.forward import eval_mode

CURE = "route perceptrons; networks of other kinds keep all their units"
TOLERANCE = 100 * SINGLE


@dataclass(frozen=True)
class Chain:
    """Hyperplanes of each layer, from the inputs up; the last one writes the outputs.

    Attributes
    ----------
    weights : (u, i) of each layer.
    biases : (u,) of each layer.
    activation : of the hidden layers, one of `ACTIVATIONS`.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    activation: str

    @property
    def f(self) -> Callable[[Tensor], Tensor]:
        """The activation."""
        return ACTIVATIONS[self.activation]

    @property
    def widths(self) -> tuple[int, ...]:
        """Units of the hidden layers."""
        return tuple(len(bias) for bias in self.biases[:-1])

    def written(self, layer: int, h: Tensor) -> Tensor:
        """Return what a layer writes (n, u) of what it reads (n, i)."""
        return functional.linear(h, self.weights[layer], self.biases[layer])

    def __call__(self, x: Tensor) -> Tensor:
        """Return the outputs (n, o) for inputs (n, ...)."""
        h = x.flatten(1)
        for layer in range(len(self.widths)):
            h = self.f(self.written(layer, h))
        return self.written(len(self.widths), h)


def as_chain(network: nn.Module, x: Tensor) -> Chain:
    """Return a network as a chain of fully connected layers; raise an `InputError` unless it computes that on x."""
    architecture = find_layers(network, x[:2])
    reason = _why_not(architecture)
    if reason is not None:
        raise InputError(f"network must be a chain of fully connected layers, got {reason}", cure=CURE)
    state, widths = {name: value.clone() for name, value in read_state(network).items()}, architecture.widths
    hyperplanes = [m.weights(state, widths) for m in architecture.maps]
    (activation,) = {layer.activations[0] for layer in architecture.hidden}
    chain = Chain(tuple(w.matrix for w in hyperplanes), tuple(w.bias for w in hyperplanes), activation)
    with eval_mode(network):
        outputs = network(x)
        if float((chain(x) - outputs).abs().max()) > TOLERANCE * float(outputs.abs().max()):
            got = "one that computes something else of its weights"
            raise InputError(f"network must be a chain of fully connected layers, got {got}", cure=CURE)
    return chain


def _why_not(architecture: Architecture) -> str | None:
    """Why a network is no chain of fully connected layers; None if it is one."""
    hidden, maps = architecture.hidden, architecture.maps
    if not hidden:
        return "no hidden layer"
    if architecture.tail:
        return f"outputs that pass through {', '.join(architecture.tail)}"
    if any(m.kernel is not None or m.per_unit or not m.fitted or m.output.inside > 1 for m in maps):
        return "other operations with weights than linear layers"
    written = [m.writes for m in maps]
    chain = [(), *((name,) for name in written[:-1])]
    if [tuple(m.reads) for m in maps] != chain or written[:-1] != [layer.name for layer in hidden]:
        return "layers that are read or written several times"
    if not all(architecture.pointwise(layer.name) for layer in hidden):
        return "operations between layers that are not elementwise"
    named = {layer.activations for layer in hidden}
    if len(named) != 1 or len(next(iter(named))) != 1 or next(iter(named))[0] not in ACTIVATIONS:
        return f"activations {', '.join(sorted('+'.join(each) or 'none' for each in named))}"
    return None
