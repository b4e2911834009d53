"""How near outputs are to the ensemble's on held-out calibration rows: what decides between networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from consilience.agreement import agreement, softened_errors, spread_of
from consilience.assembly.pooling import pooled
from consilience.assembly.record import Candidate
from consilience.signals.batches import batch_size
from consilience.signals.responses import Responses
from consilience.ties import first_largest
from consilience.units.forward import pooled_outputs

SURE = 2.0  # standard errors of a mean difference


@dataclass(frozen=True)
class Nearness:
    """The ensemble's outputs on held-out rows.

    Where outputs are of the next tokens, the inputs tell what these are: networks are compared by their cross-entropy.
    """

    responses: Responses  # of the members, to the held-out rows
    reference: Tensor  # (n, o)
    task: str | None
    tokens: Tensor | None = None  # (n,) that follow; −1 where the input ends

    @classmethod
    def to_pooled(cls, responses: Responses, pooling: Tensor, task: str | None) -> Nearness:
        """Return the nearness to the members' outputs, pooled with weights (k, o)."""
        tokens = None
        if task == "next-token" and responses.x.dim() == 2 and not responses.x.is_floating_point():
            following = functional.pad(responses.x[:, 1:], (0, 1), value=-1)
            tokens = responses.sampling.of(following[:, None], 0)[:, 0]
        return cls(responses, pooled(responses, pooling), task, tokens)

    def errors(self, outputs: Tensor) -> Tensor:
        """Return the errors of the rows of outputs (n, o) that have one; infinity where it is not a number."""
        if self.tokens is not None:
            known = self.tokens >= 0
            errors = functional.cross_entropy(outputs[known].double(), self.tokens[known], reduction="none")
        else:
            errors = softened_errors(outputs, self.reference, self.task, spread_of(self.reference)).double()
        return errors.nan_to_num(nan=torch.inf)

    def error(self, outputs: Tensor) -> float:
        """Return the mean error of outputs (n, o)."""
        return float(self.errors(outputs).mean())

    def outputs(self, network: Callable[[Tensor], Tensor]) -> Tensor:
        """Return a network's outputs (n, o) for the held-out rows, before a tail that is not affine."""
        first, sampling, rows, start = self.responses.networks[0], self.responses.sampling, list[Tensor](), 0
        axis, widths = first.architecture.returned, first.architecture.widths
        if isinstance(network, nn.Module):
            network = pooled_outputs(network, first.architecture.program)
        with torch.no_grad():
            for x in self.responses.x.split(batch_size(first)):
                rows.append(sampling.of(axis.units(network(x), widths, len(x)), start))
                start += len(x)
        return torch.cat(rows)

    def judged(self, choice: str, correction: str, network: Callable[[Tensor], Tensor]) -> tuple[Candidate, Tensor]:
        """Return the record of a network, and its `errors`."""
        outputs = self.outputs(network)
        errors, top1 = self.errors(outputs), agreement(outputs, self.reference, self.task).top1
        return Candidate(choice, correction, float(errors.mean()), top1), errors


def mean_error(outputs: Tensor, reference: Tensor, task: str | None) -> float:
    """Return the error by which networks are compared, of outputs (n, o); infinity if it is not a number."""
    error = float(softened_errors(outputs, reference, task, spread_of(reference)).double().mean())
    return error if math.isfinite(error) else math.inf


def nearest(errors: Sequence[float]) -> int:
    """Return the index of the smallest error; of errors that differ by rounding, the first."""
    return int(first_largest(-torch.tensor(errors, dtype=torch.float64)))


def surely_smaller(errors: Tensor, others: Tensor) -> bool:
    """Return whether errors (n,) are smaller in the mean than others of the same rows, by `SURE` standard errors."""
    difference = others - errors
    return float(difference.mean()) > SURE * float(difference.std()) / math.sqrt(len(difference))
