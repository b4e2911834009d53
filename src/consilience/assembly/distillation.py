"""All layers fitted together to the members' pooled outputs, without labels: by gradient steps, or by L-BFGS.

Least squares reproduces the units of each layer; it does not know how the remaining errors of several layers add up.
`distill` takes a few hundred gradient steps on all layers. `second_order` minimizes ``Σ ‖F_θ(x) − t‖²`` over the
parameters θ of every map that does not read the inputs (those are centroids of the members' hyperplanes and stay), on
all calibration samples at once, with L-BFGS (Liu and Nocedal 1989): it uses curvature, has no learning rate, and draws
no batches. A hundred steps let rounding grow: members whose units are written in another order give outputs that differ
by about a percent, at the same error.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from consilience import seeds
from consilience.units.architecture import TracedNetwork

STEPS = 500
BATCH_SIZE = 128
LEARNING_RATE = 1e-3
HELD_OUT = 0.1
CHECK_EVERY = 50

# Of `second_order`:
ROUNDS, ITERATIONS = 4, 25  # the held-out error is computed after each round
HELD_OUT_EVERY = 10  # every tenth sample
MAX_SAMPLES = 5000
MAX_VALUES = 2**24  # numbers in the largest value of all samples; values stay in memory for their gradients


def distill(module: nn.Module, x: Tensor, targets: Tensor, *, random_state: int = 0, steps: int = STEPS) -> nn.Module:
    """Return a copy of ``module`` trained to reproduce ``targets`` (n, o) on inputs x (n, ...).

    Adam with a learning rate that falls to zero along a cosine, on mean squared error. The parameters, also the initial
    ones, with the smallest error on a held-out tenth of the samples are returned.
    """
    with torch.inference_mode(mode=False), torch.enable_grad():
        return _train(copy.deepcopy(module), x.clone(), targets.clone(), random_state=random_state, steps=steps)


def _train(student: nn.Module, x: Tensor, targets: Tensor, *, random_state: int, steps: int) -> nn.Module:
    generator = seeds.generator(random_state)
    order = torch.randperm(len(x), generator=generator)
    n_held = max(1, int(HELD_OUT * len(x)))
    held, kept = order[:n_held], order[n_held:] if len(x) > 2 else order
    best, best_error = copy.deepcopy(student.state_dict()), _error(student, x[held], targets[held])
    optimizer = torch.optim.Adam(student.parameters(), lr=LEARNING_RATE, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    with torch.random.fork_rng():
        torch.manual_seed(random_state)  # for dropout
        for step in range(1, steps + 1):
            rows = kept[torch.randint(len(kept), (min(BATCH_SIZE, len(kept)),), generator=generator)]
            optimizer.zero_grad()
            functional.mse_loss(student(x[rows]), targets[rows]).backward()
            optimizer.step()
            schedule.step()
            if step % CHECK_EVERY == 0 or step == steps:
                error = _error(student, x[held], targets[held])
                if error < best_error:
                    best, best_error = copy.deepcopy(student.state_dict()), error
    student.load_state_dict(best)
    return student.eval()


def _error(module: nn.Module, x: Tensor, targets: Tensor) -> float:
    """Return the mean squared error in eval mode; the module is in train mode afterwards."""
    module.eval()
    with torch.no_grad():
        error = float(functional.mse_loss(module(x), targets))
    module.train()
    return error


def second_order(network: TracedNetwork, x: Tensor, targets: Tensor) -> TracedNetwork:
    """Return the network with its upper layers fitted to ``targets`` (n, o) on inputs x (n, ...).

    Of the initial parameters and those after each round, those with the smallest error on every tenth sample, which is
    held out, are returned.
    """
    with torch.inference_mode(mode=False), torch.enable_grad():
        return _minimize(network, x.clone(), targets.clone())


def _minimize(network: TracedNetwork, x: Tensor, targets: Tensor) -> TracedNetwork:
    architecture = network.architecture
    step = -(-len(x) // min(MAX_SAMPLES, max(1, MAX_VALUES // architecture.largest_value)))
    x, targets = x[::step], targets[::step]
    stems = [m for m in architecture.maps if not m.reads]
    trained = {name for m in architecture.maps if m.reads for name in m.parameters} & architecture.program.learned
    known = network.values(x, [m.output.name for m in stems])
    state = {name: value.clone().requires_grad_(name in trained) for name, value in network.state.items()}
    free = [value for value in state.values() if value.requires_grad]
    held = torch.arange(len(x)) % HELD_OUT_EVERY == min(len(x), HELD_OUT_EVERY) - 1
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
