"""All layers of a network fitted together to the members' pooled outputs, without labels, by gradient steps."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from consilience import seeds

STEPS = 500
BATCH_SIZE = 128
LEARNING_RATE = 1e-3
HELD_OUT = 0.1
CHECK_EVERY = 50


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
