"""How many weights a class needs: the effective circuit size (Golechha et al. 2025).

From the last weight matrix back to the first, weights are set to zero, and stay zero unless the criterion of the class
increases. The size is the share of weights left. Choices:

- Weights are tried in ascending order of magnitude in the balanced network (`consilience.modularity.graph`), so that a
  rescaling of units does not matter, and in blocks that are halved if the criterion increases; the
  published loop goes one weight at a time in the order of their indices.
- The criterion may not exceed its lowest value so far. Single weights lower it more often than blocks do, and then more
  of the other weights are needed: compare sizes at equal block sizes only. With the criterion of the whole network as
  the bound, circuits would be two to seven times as small, with more false positives.
- The published criterion, the mean cross-entropy of the samples of the class, is minimal in a network that always
  predicts this class, and circuits come close to that. "One against the rest" includes the other classes: with p the
  probability of the class, ½ mean over samples of the class of −log p + ½ mean over all others of −log(1 − p).

Axis legend: ``n`` samples, ``o`` outputs, ``u`` units written, ``d`` entries that each reads, ``w`` weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from consilience.checks import check_choice, check_size
from consilience.errors import InputError
from consilience.modularity.outputs import as_labelled, logits
from consilience.units.architecture import TracedNetwork
from consilience.units.maps import Map
from consilience.units.program import Program
from consilience.units.symmetry import balanced

ROUNDING = 100  # machine epsilons: a criterion that is larger by less, relatively, has not increased


@dataclass(frozen=True, eq=False)
class Circuit:
    """The weights that a class needs.

    Attributes
    ----------
    label, criterion : the class, and one of `CRITERIA`.
    n_weights, n_left : weights in all matrices, zeros included, without biases and norms; those that are not zero.
    tpr : share of the class's samples that the circuit assigns to it.
    tnr : share of all other samples that the circuit does not assign to it; NaN if there are none.
    loss_before, loss_after : the criterion for the whole network and for the circuit.
    masks : map → True for weights left, (u, d) as in `consilience.units.maps.Weights.matrix`.
    """

    label: int
    criterion: str
    n_weights: int
    n_left: int
    tpr: float
    tnr: float
    loss_before: float
    loss_after: float
    masks: Mapping[str, Tensor]

    @property
    def size(self) -> float:
        """The effective circuit size, share of weights left."""
        return self.n_left / self.n_weights


def class_loss(outputs: Tensor, positive: Tensor, label: int) -> float:
    """Return the mean over samples of the class of −log p, from outputs (n, o) and positive (n,) bool."""
    return -float(functional.logsigmoid(_margin(outputs[positive], label)).mean())


def one_vs_rest_loss(outputs: Tensor, positive: Tensor, label: int) -> float:
    """Return the balanced binary cross-entropy of p, from outputs (n, o) and positive (n,) bool."""
    margin = _margin(outputs, label)
    log_likelihood = functional.logsigmoid(torch.where(positive, margin, -margin))
    return -float(log_likelihood[positive].mean() + log_likelihood[~positive].mean()) / 2


CRITERIA: dict[str, Callable[[Tensor, Tensor, int], float]] = {"class": class_loss, "one-vs-rest": one_vs_rest_loss}


def effective_circuit(
    network: TracedNetwork, x: Tensor, y: Tensor, label: int, *, criterion: str = "one-vs-rest", block: int = 64
) -> Circuit:
    """Find the weights of a network that one class needs.

    If the criterion exceeds its lowest value so far (by more than `ROUNDING`) with a block of weights set to zero, each
    half is tried, down to single weights. Entries of kernels are single weights, and their magnitude includes the batch
    norm that follows; biases stay.

    Parameters
    ----------
    network : any traced network.
    x, y : inputs (n, ...) and their classes (n,); all values of x are held in memory at once.
    label : the class.
    criterion : "class" is the published one, "one-vs-rest" also rejects the other classes.
    block : weights to try at once; 1 is the published loop, in order of magnitude. Larger blocks leave fewer weights.

    Raises
    ------
    InputError : also if the class has no samples (or, for "one-vs-rest", all), or outputs are not finite.

    References
    ----------
    Golechha, Chaudhary, Velja, Abate and Schoots (2025), Studying cross-cluster modularity in neural networks.
    """
    x, y = as_labelled(network, x, y)
    if len(y) != len(x):
        raise InputError(f"y must be the class of each sample, got {len(y)} tokens of {len(x)} samples")
    network = balanced(network, bias=False)
    check_choice("criterion", criterion, CRITERIA)
    check_size("label", label, 0)
    check_size("block", block)
    positive = y == label
    if not bool(positive.any()):
        raise InputError(f"y must have samples of class {label}, got none")
    if bool(positive.all()) and criterion == "one-vs-rest":
        raise InputError(f"y must have samples of other classes than {label}, got none")
    rows = positive if criterion == "class" else torch.ones_like(positive)
    x_rows, positive_rows = x[rows], positive[rows]

    def loss(outputs: Tensor) -> float:
        return CRITERIA[criterion](outputs, positive_rows, label)

    lowest = before = loss(logits(network, x_rows))
    if not math.isfinite(before):
        raise InputError(f"the criterion of class {label} must be finite, got {before}", cure="train the network")
    maps = [m for m in network.architecture.maps if m.fitted and not m.is_norm]
    with torch.no_grad():
        for m in reversed(maps):
            search = _Search(network, m, x_rows, loss, lowest)
            for weights in search.order.split(block):
                search.zero(weights)
            network, lowest = replace(network, state=search.state), search.lowest
    masks = {m.name: network.weights(m).matrix != 0 for m in maps}
    n_weights = sum(mask.numel() for mask in masks.values())
    n_left = sum(int(mask.sum()) for mask in masks.values())
    outputs = logits(network, x)
    predicted = outputs.argmax(1) == label
    tpr = float(predicted[positive].double().mean())
    tnr = float((~predicted)[~positive].double().mean())
    return Circuit(label, criterion, n_weights, n_left, tpr, tnr, before, loss(outputs[rows]), masks)


def _margin(outputs: Tensor, label: int) -> Tensor:
    """log p − log(1 − p): (n,) in double precision."""
    outputs = outputs.double()
    return outputs[:, label] - torch.cat([outputs[:, :label], outputs[:, label + 1 :]], dim=1).logsumexp(1)


class _Search:
    def __init__(
        self, network: TracedNetwork, m: Map, x: Tensor, loss: Callable[[Tensor], float], lowest: float
    ) -> None:
        self.program, self.x, self.loss, self.lowest = network.architecture.program, x, loss, lowest
        self.state = dict(network.state)
        self.state[m.weight] = network.state[m.weight].clone(memory_format=torch.contiguous_format)
        self.flat = self.state[m.weight].view(-1)
        self.slack = 1 + ROUNDING * torch.finfo(self.flat.dtype).eps
        self.constants = network.values(x, _constants(self.program, m.weight))
        sizes = network.weights(m).matrix.flatten().abs()  # with the norm that follows
        ascending = sizes.argsort(stable=True)
        indices = {m.weight: torch.arange(self.flat.numel()).view(self.state[m.weight].shape)}  # in the parameter
        places = replace(m, bias=None, norm=None).weights(indices, network.architecture.widths).matrix.flatten()
        self.order = places[ascending[sizes[ascending] > 0]]

    def zero(self, weights: Tensor, fails: bool = False) -> bool:
        """Zero as many of some weights (w,) as possible, and return whether that is all; not all if ``fails``."""
        if not fails and self.try_all(weights):
            return True
        if len(weights) > 1:
            half = len(weights) // 2
            all_of_first = self.zero(weights[:half])
            self.zero(weights[half:], fails=all_of_first)  # both halves together have just failed
        return False

    def try_all(self, weights: Tensor) -> bool:
        before = self.flat[weights]
        self.flat[weights] = 0
        output = self.program.output
        value = self.loss(self.program.run(self.state, self.x, [output], self.constants)[output])
        if value <= self.lowest * self.slack:
            self.lowest = min(self.lowest, value)
            return True
        self.flat[weights] = before
        return False


def _constants(program: Program, parameter: str) -> list[str]:
    """Values that do not depend on a parameter, and that values which do depend on it are computed from."""
    dependent, constants = set[str](), dict[str, None]()
    for node in program.nodes:
        values = [value for value in node.all_input_nodes if value.op == "call_function"]
        if program.parameters.get(node.name) == parameter or any(v.name in dependent for v in node.all_input_nodes):
            dependent.add(node.name)
            constants |= {value.name: None for value in values if value.name not in dependent}
    return list(constants)
