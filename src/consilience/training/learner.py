"""One stack of members, its optimizer, and its failed members.

- The gradient of the sum of the members' losses is each member's own gradient, and Adam and SGD work element by
  element, so one optimizer on stacked parameters does what one for each member does.
- Nothing is ever reduced over members but the number that answers "is any loss not finite?", so a member that diverges
  cannot reach the others. Its parameters and running statistics (which each step computes in a copy) are put back after
  every later step; the stack keeps its shape, and with it the others keep their bits.

Axis legend: ``k`` member, ``n`` sample of a batch, ``r`` rows of an order: 1 when all members share it, else k.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from consilience.store import subset
from consilience.training.callbacks import StackCallbacks
from consilience.training.hyperparameters import Run, Training, learning_rate
from consilience.training.losses import Means, Samples, member_losses
from consilience.training.stack import Stack

EVALUATION_BATCH = 1024  # samples; all members' activations for these must fit into memory


class Learner:
    """Trains the members of a `Stack` in place: its ``trainable`` tensors and ``statistics`` are changed."""

    def __init__(self, stack: Stack, run: Run, members: Sequence[int]) -> None:
        self.stack, self.k, self.training, self.batch_size = stack, len(members), run.training, run.training.batch_size
        self.members = members  # their numbers in the population, by row
        self.callbacks = StackCallbacks(run.callbacks, stack, members) if run.callbacks else None
        self.parameters = list(stack.trainable.values())
        self.changing = [*self.parameters, *stack.statistics.values()]
        self.optimizer = _make_optimizer(self.parameters, run.training)
        self.failed: dict[int, str] = {}  # row of the stack → why that member is frozen
        self._kept: tuple[Tensor, list[Tensor]] | None = None  # frozen rows, and their values in what changes

    def train_epoch(
        self,
        samples: Samples,
        order: Tensor,
        n_steps: int,
        epoch: int,
        progress: tuple[int, int],
        tick: Callable[[int], None],
    ) -> dict[str, list[float]]:
        """Make ``n_steps`` steps, after those done of all (``progress``), along ``order`` (r, length).

        Return mean losses (and accuracies).
        """
        done, total = progress
        separate = len(order) > 1
        means = Means(self.k, samples)
        for step in range(n_steps):
            batch = order[:, step * self.batch_size : (step + 1) * self.batch_size]  # (r, n)
            rows = batch.flatten()
            inputs = samples.x.index_select(0, rows)
            targets = samples.y.index_select(0, rows).unflatten(0, batch.shape).expand(self.k, -1, *samples.y.shape[1:])
            inputs = inputs.unflatten(0, batch.shape) if separate else inputs
            statistics = {name: value.clone() for name, value in self.stack.statistics.items()}
            outputs = self.stack.outputs(inputs, separate=separate, statistics=statistics)  # (k, n, c)
            losses = member_losses(outputs, targets, samples.task)
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(self.training, done + step, total)
            self._update(losses, statistics, f"at epoch {epoch + 1}, step {step + 1}")
            if self.callbacks is not None:
                self.callbacks.after_step(done + step + 1, self.failed)
            means.add(losses, outputs, targets)
            if len(self.failed) == self.k:
                tick(n_steps - step)
                break
            tick(1)
        return means.result()

    def evaluate(self, samples: Samples) -> dict[str, list[float]]:
        """Return each member's mean loss (and accuracy) in eval mode."""
        means = Means(self.k, samples)
        # Members run in turn have large maps, which fall out of the cache: 1024 images of 32 × 32 took 2.5 times as
        # long as 8 batches of 128.
        size = EVALUATION_BATCH if self.stack.layout is None else min(self.batch_size, EVALUATION_BATCH)
        self.stack.template.eval()
        with torch.no_grad():
            for x, y in zip(samples.x.split(size), samples.y.split(size), strict=True):
                # A copy, since the last digits of a product depend on where its rows begin in memory, which differs
                # between data in a file's memory map and data in a process of its own.
                outputs, targets = self.stack.outputs(x.clone()), y.expand(self.k, *y.shape)
                means.add(member_losses(outputs, targets, samples.task), outputs, targets)
        self.stack.template.train()
        return means.result()

    def check_values(self) -> None:
        """Freeze members with values that are not finite and that no loss has shown.

        The last step has no later loss, and training does not use running variances: where a batch's variance
        overflows, activations become 0.
        """
        for what, values in (("parameters", self.parameters), ("statistics", [*self.stack.statistics.values()])):
            for value in values:
                finite = value.detach().reshape(self.k, -1).isfinite().all(1)
                self._freeze(~finite, f"{what} not finite after the last step")

    def tensors(self) -> dict[str, Tensor]:
        """Return everything that changes in training, by name: parameters, statistics, and the optimizer's state."""
        tensors = {f"parameter.{name}": value.detach() for name, value in self.stack.trainable.items()}
        tensors |= {f"statistic.{name}": value for name, value in self.stack.statistics.items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": v for name, v in state.items() if isinstance(v, Tensor)}
        return tensors

    def restore(self, tensors: Mapping[str, Tensor], failed: Mapping[int, str]) -> None:
        """Set what `tensors` returned; raises KeyError where a parameter or statistic is missing."""
        with torch.no_grad():
            for kind, changing in (("parameter", self.stack.trainable), ("statistic", self.stack.statistics)):
                for name, value in changing.items():
                    value.copy_(tensors[f"{kind}.{name}"])
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in subset(tensors, "optimizer.").items():
            number, name = key.split(".")
            state.setdefault(int(number), {})[name] = value
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})
        self.failed = dict(failed)
        self._keep()

    def _update(self, losses: Tensor, statistics: Mapping[str, Tensor], when: str) -> None:
        gradients: Sequence[Tensor | None] = torch.autograd.grad(
            losses, self.parameters, torch.ones_like(losses), allow_unused=True
        )
        self._check(losses, f"loss not finite {when}")
        if self.callbacks is not None:
            gradients, penalties = self.callbacks.add_gradients(gradients, self.failed)
            self._check(penalties, f"penalty not finite {when}")
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            # vmap gives transposed gradients, and fused optimizers read them as if they lay in memory as the parameter
            # does, without a word (torch 2.13).
            parameter.grad = None if gradient is None else gradient.contiguous()
        self.optimizer.step()
        for name, value in statistics.items():
            self.stack.statistics[name].copy_(value)
        if self._kept is not None:
            rows, values = self._kept
            with torch.no_grad():
                for changed, value in zip(self.changing, values, strict=True):
                    changed.index_copy_(0, rows, value)

    def _check(self, values: Tensor, reason: str) -> None:
        if not math.isfinite(values.sum().item()):  # one number a step; which member it was is asked only then
            self._freeze(~values.isfinite(), reason)

    def _freeze(self, bad: Tensor, reason: str) -> None:
        new = [row for row in bad.nonzero().flatten().tolist() if row not in self.failed]
        if new:
            self.failed.update(dict.fromkeys(new, reason))
            self._keep()

    def _keep(self) -> None:
        if self.failed:
            rows = torch.tensor(sorted(self.failed), device=self.parameters[0].device)
            self._kept = rows, [value.detach().index_select(0, rows) for value in self.changing]


def _make_optimizer(parameters: list[Tensor], training: Training) -> torch.optim.Optimizer:
    """Return the optimizer, fused: the fastest of torch's implementations for stacked parameters."""
    rate, decay = training.learning_rate, training.weight_decay
    if training.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=rate, momentum=training.momentum, weight_decay=decay, fused=True)
    kind = torch.optim.AdamW if training.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, lr=rate, weight_decay=decay, fused=True)
