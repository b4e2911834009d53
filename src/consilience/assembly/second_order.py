"""All layers above the first, fitted together to the members' pooled outputs by a quasi-Newton method.

Layer by layer, least squares reproduces what the units of each layer do; how the errors that remain play together it
does not know. Here ``min_θ Σ ‖F_θ(x) − t‖²`` is taken over the parameters θ of every map that does not read the inputs
(those are centroids of the members' hyperplanes and stay), on all calibration samples at once, with L-BFGS (Liu and
Nocedal 1989): it uses curvature, has no learning rate, and draws no batches. A hundred steps let rounding grow: members
whose units are written in another order give outputs that differ by about a percent, at the same error.
"""

from __future__ import annotations

import torch
from torch import Tensor

from consilience.units.architecture import TracedNetwork

ROUNDS, ITERATIONS = 4, 25  # the error on held-out samples is looked at after each round
HELD_OUT = 10  # every tenth sample
MAX_SAMPLES = 5000
MAX_VALUES = 2**24  # numbers in the largest value of all samples; values stay in memory for their gradients


def second_order(network: TracedNetwork, x: Tensor, targets: Tensor) -> TracedNetwork:
    """Return the network with its upper layers fitted to ``targets`` (n, o) on inputs x (n, ...).

    Every tenth sample is held out. The parameters with the smallest error there, of those after each round and the
    initial ones, are returned.
    """
    with torch.inference_mode(mode=False), torch.enable_grad():
        return _fit(network, x.clone(), targets.clone())


def _fit(network: TracedNetwork, x: Tensor, targets: Tensor) -> TracedNetwork:
    architecture = network.architecture
    step = -(-len(x) // min(MAX_SAMPLES, max(1, MAX_VALUES // architecture.largest_value)))
    x, targets = x[::step], targets[::step]
    stems = [m for m in architecture.maps if not m.reads]
    trained = {name for m in architecture.maps if m.reads for name in m.parameters} & architecture.program.learned
    known = network.values(x, [m.output.name for m in stems])
    state = {name: value.clone().requires_grad_(name in trained) for name, value in network.state.items()}
    free = [value for value in state.values() if value.requires_grad]
    held = torch.arange(len(x)) % HELD_OUT == min(len(x), HELD_OUT) - 1
    scale = float(targets.var()) or 1.0  # errors as shares of it: what L-BFGS does must not depend on units

    def errors() -> Tensor:
        output = architecture.program.output
        outputs = architecture.program.run(state, x, [output], known)[output]
        return (outputs - targets).square().mean(1) / scale

    def held_out_error() -> float:
        with torch.no_grad():
            return float(errors()[held].mean())

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = errors()[~held].mean()
        value.backward()
        return value

    best, lowest = dict(network.state), held_out_error()
    optimizer = torch.optim.LBFGS(
        free,
        max_iter=ITERATIONS,
        history_size=ROUNDS * ITERATIONS,
        line_search_fn="strong_wolfe",
        tolerance_change=0,
        tolerance_grad=0,
    )
    for _ in range(ROUNDS):
        optimizer.step(loss)
        error = held_out_error()
        if error < lowest:
            best, lowest = {name: value.detach().clone() for name, value in state.items()}, error
    return TracedNetwork(architecture, best)
