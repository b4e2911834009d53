"""Pruning by magnitude during training: a growing share of the smallest entries of each weight matrix is set to zero.

Between steps t₀ and t₁ the share grows from s₀ to s₁ as ``s₁ + (s₀ − s₁)(1 − (t − t₀)/(t₁ − t₀))³`` (Zhu and Gupta
2017, equation 1). The smallest entries are selected again after every step: an entry that has grown is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from consilience.checks import check_count, check_number
from consilience.errors import InputError
from consilience.training.callbacks import Callback


@dataclass(frozen=True)
class MagnitudePruning(Callback):
    """Prune every parameter of two dimensions or more.

    As a callback of `consilience.train_population` it acts after every step; in any other training loop, call it with
    the module and the step.

    Attributes
    ----------
    begin, end : gradient steps between which the share grows, 1 <= begin < end; before, nothing is pruned.
    start, final : shares that are zero at these steps, 0 <= start <= final < 1; 50 % and 90 % in Filan et al. 2021.

    Examples
    --------
    >>> pruning = MagnitudePruning(begin=10, end=20)
    >>> [round(pruning.share(step), 3) for step in (9, 10, 15, 20, 99)]
    [0.0, 0.5, 0.85, 0.9, 0.9]
    """

    begin: int
    end: int
    start: float = 0.5
    final: float = 0.9

    def __post_init__(self) -> None:
        for name in ("start", "final"):
            check_number(name, getattr(self, name))
        for name in ("begin", "end"):
            check_count(name, getattr(self, name), 0)
        if not 0 <= self.start <= self.final < 1:
            got = f"{self.start} and {self.final}"
            raise InputError(f"start and final must be shares with 0 <= start <= final < 1, got {got}")
        if not 1 <= self.begin < self.end:
            raise InputError(f"begin and end must be steps with 1 <= begin < end, got {self.begin} and {self.end}")

    def share(self, step: int) -> float:
        """Return the share of entries that are zero after a step."""
        if step < self.begin:
            return 0.0
        left = max(0.0, 1 - (step - self.begin) / (self.end - self.begin))
        return self.final + (self.start - self.final) * left**3

    def __call__(self, module: nn.Module, step: int) -> None:
        """Prune a module's parameters."""
        with torch.no_grad():
            self.after_step(0, step, dict(module.named_parameters()))

    def after_step(self, member: int, step: int, parameters: Mapping[str, Tensor]) -> None:
        """Prune a member's parameters."""
        share = self.share(step)
        for value in parameters.values():
            n_zero = min(round(share * value.numel()), value.numel() - 1)  # at least one entry stays
            if value.ndim >= 2 and n_zero > 0:
                sizes = value.abs().flatten()
                smallest = torch.zeros_like(sizes, dtype=torch.bool)
                smallest[sizes.topk(n_zero, largest=False, sorted=False).indices] = True
                value.masked_fill_(smallest.view(value.shape), 0)
