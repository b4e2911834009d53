"""How near outputs are to the ensemble's on held-out calibration rows: what decides between networks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional

from consilience.agreement import agreement, softened_errors, spread_of
from consilience.assembly.pooling import pooled
from consilience.assembly.record import Candidate
from consilience.signals.batches import batch_size
from consilience.signals.responses import Responses
from consilience.ties import first_largest
from consilience.units.architecture import TracedNetwork
from consilience.units.axes import Sampling
from consilience.units.forward import pooled_outputs

MAX_BYTES = 2**27  # of the outputs that networks are compared by
SURE = 2.0  # standard errors of a mean difference


@dataclass(frozen=True)
class Nearness:
    """The ensemble's outputs on rows that no network compared there is fitted to.

    Where outputs are of the next tokens, the inputs tell what these are: networks are compared by their cross-entropy.
    """

    network: TracedNetwork  # that has the outputs' place
    x: Tensor  # (n, ...)
    sampling: Sampling  # of the outputs' positions
    reference: Tensor  # (r, o)
    task: str | None

    @classmethod
    def to_pooled(cls, responses: Responses, pooling: Tensor, task: str | None) -> Nearness:
        """Return the nearness to the members' outputs, pooled with weights (k, o), at the positions in responses."""
        return cls(responses.networks[0], responses.x, responses.sampling, pooled(responses, pooling), task)

    def at_more_positions(self, ensemble: Callable[[Tensor], Tensor]) -> Nearness:
        """Return the nearness to the ensemble, at more positions of each sample where its outputs have these."""
        row = self.reference.element_size() * self.reference.shape[1]
        more = replace(self, sampling=Sampling(len(self.x), MAX_BYTES // row))
        with torch.no_grad():
            (n_positions,) = self._units(self.network(self.x[:1])).shape[2:]
        n_rows = len(more.sampling.rows(0, len(self.x), n_positions)[0])
        return replace(more, reference=more.outputs(ensemble)) if n_rows > len(self.reference) else self

    @cached_property
    def tokens(self) -> Tensor | None:
        """The tokens (r,) that follow, −1 where the input ends; None where the inputs tell none."""
        if self.task != "next-token" or self.x.dim() != 2 or self.x.is_floating_point():
            return None
        following = functional.pad(self.x[:, 1:], (0, 1), value=-1)
        tokens = self.sampling.of(following[:, None], 0)[:, 0]
        return tokens if (tokens >= 0).any() else None

    def errors(self, outputs: Tensor) -> Tensor:
        """Return the errors (n,) of outputs (r, o), the means over each sample's positions, or infinity for none.

        Of next tokens they are those of each token that is known.
        """
        if self.tokens is not None:
            known = self.tokens >= 0
            errors = functional.cross_entropy(outputs[known].double(), self.tokens[known], reduction="none")
        else:
            errors = softened_errors(outputs, self.reference, self.task, spread_of(self.reference)).double()
            errors = errors.view(len(self.x), -1).mean(1)
        return errors.nan_to_num(nan=torch.inf)

    def error(self, outputs: Tensor) -> float:
        """Return the mean error of outputs (r, o)."""
        return float(self.errors(outputs).mean())

    def outputs(self, network: Callable[[Tensor], Tensor]) -> Tensor:
        """Return a network's outputs (r, o), before a tail that is not affine."""
        if isinstance(network, nn.Module):
            network = pooled_outputs(network, self.network.architecture.program)
        rows, start = list[Tensor](), 0
        with torch.no_grad():
            for x in self.x.split(batch_size(self.network)):
                rows.append(self.sampling.of(self._units(network(x)), start))
                start += len(x)
        return torch.cat(rows)

    def _units(self, outputs: Tensor) -> Tensor:
        """Outputs (n, ...) with their positions last: (n, o, p)."""
        architecture = self.network.architecture
        return architecture.returned.units(outputs, architecture.widths, len(outputs))

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
