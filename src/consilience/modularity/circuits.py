"""How many weights a class needs: the effective circuit size (Golechha et al. 2025).

From the last weight matrix back to the first, a weight is set to zero, and stays so if the criterion of the class does
not rise. The size is the share of weights left.

Choices
- Weights are tried in the order of their magnitude, the smallest first, and in blocks that are halved where the
  criterion rises; the published loop goes one weight at a time in the order of their indices.
- To rise is to exceed the value before, which is the lowest so far. Single weights find more ways to lower it than
  blocks do, and then more of the others are needed: sizes compare at one size of block only. Against the value of the
  whole network circuits would be two to seven times as small, with more false positives.
- The published criterion, the mean cross-entropy of the class's own samples, is lowest in a network that always says
  this class, and ends near one. One against the rest asks for the others too: with p the probability of the class,

      ½ mean over own samples of −log p  +  ½ mean over all others of −log(1 − p).

- What no weight of a matrix has a part in is computed once for the matrix.

Axis legend: ``n`` samples, ``o`` outputs, ``u`` units written, ``d`` entries that each reads, ``w`` weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from consilience.errors import InputError
from consilience.modularity.lesions import check_labelled, logits
from consilience.units.architecture import TracedNetwork
from consilience.units.maps import Map
from consilience.units.program import Program

ROUNDING = 100  # machine epsilons: a criterion that is higher by less, relatively, has not risen


@dataclass(frozen=True, eq=False)
class Circuit:
    """The weights that a class needs.

    Attributes
    ----------
    label : the class.
    criterion : one of `CRITERIA`.
    n_weights : in all matrices, zeros among them; biases and the scales of norms are none.
    n_left : that are not zero in the circuit.
    tpr : share of the class's samples that the circuit says are of the class.
    tnr : share of all other samples that it says are not; NaN if there are none.
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


def class_loss(outputs: Tensor, own: Tensor, label: int) -> float:
    """Return the mean over own samples of −log p, with outputs (n, o), own (n,) bool: the published criterion."""
    return -float(functional.logsigmoid(_margin(outputs[own], label)).mean())


def one_vs_rest_loss(outputs: Tensor, own: Tensor, label: int) -> float:
    """Return the balanced binary cross-entropy of p, with outputs (n, o), own (n,) bool."""
    margin = _margin(outputs, label)
    of_sample = functional.logsigmoid(torch.where(own, margin, -margin))
    return -float(of_sample[own].mean() + of_sample[~own].mean()) / 2


CRITERIA: dict[str, Callable[[Tensor, Tensor, int], float]] = {"class": class_loss, "one-vs-rest": one_vs_rest_loss}


def effective_circuit(
    network: TracedNetwork, x: Tensor, y: Tensor, label: int, *, criterion: str = "one-vs-rest", block: int = 64
) -> Circuit:
    """Find the weights of a network that one class needs.

    A block of weights is set to zero, and stays so if the criterion is not above its lowest value so far (by more than
    `ROUNDING`); otherwise each half of it is tried, down to single weights. Kernels count weight by weight, by their
    magnitude with batch norms folded; biases stay.

    Parameters
    ----------
    network : any traced network.
    x, y : inputs (n, ...) and their classes (n,); all values of x are held in memory at once.
    label : the class.
    criterion : "class" is the published one, "one-vs-rest" also keeps the other classes out.
    block : weights to try at once; 1 is the published loop, in order of magnitude. Larger blocks leave fewer weights.

    Raises
    ------
    InputError
        If x and y are not inputs and classes of the network, the class has no samples (or, for "one-vs-rest", all),
        the network's outputs are not finite, or an option is out of its range.

    References
    ----------
    Golechha, Chaudhary, Velja, Abate and Schoots (2025), Studying cross-cluster modularity in neural networks.
    """
    check_labelled(network, x, y)
    _check_options(y, label, criterion, block)
    own, maps = y == label, [m for m in network.architecture.maps if m.fitted and not m.is_norm]
    rows = own if criterion == "class" else torch.ones_like(own)
    tried_on, own_of_these = x[rows], own[rows]

    def loss(outputs: Tensor) -> float:
        return CRITERIA[criterion](outputs, own_of_these, label)

    before = loss(logits(network, tried_on))
    if not torch.isfinite(torch.tensor(before)):
        raise InputError("the criterion is not finite", where=f"class {label}", got=before, cure="train the network")
    lowest = before
    with torch.no_grad():
        for m in reversed(maps):
            search = _Search(network, m, tried_on, loss, lowest)
            search.run(block)
            network, lowest = replace(network, state=search.state), search.lowest
    masks = {m.name: network.weights(m).matrix != 0 for m in maps}
    outputs = logits(network, x)
    said = outputs.argmax(1) == label
    return Circuit(
        label, criterion, sum(mask.numel() for mask in masks.values()), sum(int(mask.sum()) for mask in masks.values()),
        float(said[own].double().mean()), float((~said)[~own].double().mean()), before, loss(outputs[rows]), masks,
    )  # fmt: skip


def _margin(outputs: Tensor, label: int) -> Tensor:
    """log p − log(1 − p): (n,) in double precision."""
    outputs = outputs.double()
    return outputs[:, label] - torch.cat([outputs[:, :label], outputs[:, label + 1 :]], dim=1).logsumexp(1)


class _Search:
    """Zeroes weights of one map, in a copy of the network's parameters."""

    def __init__(
        self, network: TracedNetwork, m: Map, x: Tensor, loss: Callable[[Tensor], float], lowest: float
    ) -> None:
        self.program, self.x, self.loss, self.lowest = network.architecture.program, x, loss, lowest
        self.state = dict(network.state)
        self.state[m.weight] = network.state[m.weight].clone(memory_format=torch.contiguous_format)
        self.flat = self.state[m.weight].view(-1)
        self.slack = 1 + ROUNDING * torch.finfo(self.flat.dtype).eps
        self.known = network.values(x, _unchanging(self.program, m.weight))
        sizes = network.weights(m).matrix.flatten().abs()  # with the norm that follows
        ascending = sizes.argsort(stable=True)
        self.order = _places(network, m)[ascending[sizes[ascending] > 0]]

    def run(self, block: int) -> None:
        for weights in self.order.split(block):
            self.zero(weights)

    def zero(self, weights: Tensor, fails: bool = False) -> bool:
        """Zero what can be of some weights (w,), and return whether that is all; ``fails``: it is known not to be."""
        if not fails and self.tried(weights):
            return True
        if len(weights) > 1:
            half = len(weights) // 2
            first = self.zero(weights[:half])
            self.zero(weights[half:], fails=first)  # with all of the first half, the second is what has just failed
        return False

    def tried(self, weights: Tensor) -> bool:
        before = self.flat[weights]
        self.flat[weights] = 0
        output = self.program.output
        found = self.loss(self.program.run(self.state, self.x, [output], self.known)[output])
        if found <= self.lowest * self.slack:
            self.lowest = min(self.lowest, found)
            return True
        self.flat[weights] = before
        return False


def _places(network: TracedNetwork, m: Map) -> Tensor:
    """Where in its parameter, flat, a map has its weights, in the order of `Weights.matrix`: (u·d,)."""
    parameter = network.state[m.weight]
    places = torch.arange(parameter.numel()).view(parameter.shape)
    return replace(m, bias=None, norm=None).weights({m.weight: places}, network.architecture.widths).matrix.flatten()


def _unchanging(program: Program, parameter: str) -> list[str]:
    """Values without a part of the parameter, of which those with one are computed."""
    changing, found = set[str](), dict[str, None]()
    for node in program.nodes:
        values = [value for value in node.all_input_nodes if value.op == "call_function"]
        if program.parameters.get(node.name) == parameter or any(v.name in changing for v in node.all_input_nodes):
            changing.add(node.name)
            found |= {value.name: None for value in values if value.name not in changing}
    return list(found)


def _check_options(y: Tensor, label: int, criterion: str, block: int) -> None:
    if criterion not in CRITERIA:
        raise InputError(
            "no criterion has this name", where="criterion", got=repr(criterion),
            expected=" or ".join(map(repr, CRITERIA)),
        )  # fmt: skip
    if block < 1:
        raise InputError("a block needs at least one weight", where="block", got=block, expected="1 or more")
    n = int((y == label).sum())
    if n == 0:
        raise InputError("the class has no samples", where=f"class {label}", cure="leave it out, or give more samples")
    if n == len(y) and criterion == "one-vs-rest":
        raise InputError(
            "there are no samples of other classes", where=f"class {label}", cure="give samples of all classes",
        )  # fmt: skip
