"""Pooling of the members' outputs, which the readout of an assembly reproduces.

- ``mean``: ``f(x) = (1/N) Σ_k f_k(x)``, the ensemble;
- ``class-share``: ``f_c(x) = Σ_k ω_kc f_kc(x)`` with ``ω_kc = q_kc / Σ_j q_jc``, where ``q_kc`` is the mean probability
  that member k gives class c on calibration data. A member that has never seen a class hardly ever predicts it, and so
  hardly counts there; members that all know all classes get weights of about 1/N. No labels are used.

Either is linear in the members' outputs, so the readout takes it, and at full width an assembly equals it exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from consilience.bases.grounding import Basis, by_index
from consilience.checks import check_choice
from consilience.errors import InputError
from consilience.signals.responses import Responses
from consilience.signals.shelf import TOGETHER, blocks
from consilience.units.architecture import Architecture, TracedNetwork


def mean(responses: Responses) -> Tensor:
    """Return equal weights (k, o)."""
    members = responses.networks
    dtype = next(iter(members[0].state.values())).dtype
    return torch.full((len(members), members[0].architecture.n_outputs), 1 / len(members), dtype=dtype)


def class_share(responses: Responses) -> Tensor:
    """Return each member's share (k, o) of what all members together predict of a class on calibration data."""
    if responses.networks[0].architecture.output is None:
        cure = 'use pooling="mean"'
        raise InputError(
            'pooling="class-share" needs outputs of one layer, got several heads or mixed outputs', cure=cure
        )
    predicted = torch.stack([outputs.softmax(-1).mean(0) for outputs in _outputs(responses)])
    predicted = predicted.clamp(min=torch.finfo(predicted.dtype).tiny)  # equal shares of what nobody predicts
    return predicted / predicted.sum(0)


POOLINGS: dict[str, Callable[[Responses], Tensor]] = {"mean": mean, "class-share": class_share}


def check_pooling(pooling: str, has_data: bool) -> None:
    """Raise unless the pooling is one of `POOLINGS`, and there is calibration data if it needs any."""
    check_choice("pooling", pooling, POOLINGS)
    if pooling != "mean" and not has_data:
        raise InputError(f"pooling={pooling!r} needs calibration data", cure='pass inputs, or use pooling="mean"')


def pooled(responses: Responses, weights: Tensor) -> Tensor:
    """Return the members' outputs, pooled with weights (k, o): (n, o)."""
    outputs, total = _outputs(responses), torch.zeros(())
    for some in blocks(len(outputs), TOGETHER):
        shares = zip(outputs[some], weights[some], strict=True)
        total = total + torch.stack([each * share for each, share in shares]).sum(0)
    return total


@dataclass(frozen=True)
class Pooled:
    """The members' outputs, pooled with weights (k, o), as a function of inputs."""

    networks: Sequence[TracedNetwork]
    weights: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Return outputs of the members' shape for inputs (n, ...)."""
        total, dim = torch.zeros(()), self.networks[0].architecture.returned.dim
        for network, share in zip(self.networks, self.weights, strict=True):
            outputs = network(x)
            total = total + (outputs.movedim(dim, -1) * share.to(outputs.dtype)).movedim(-1, dim)
        return total


def output_bases(architecture: Architecture, weights: Tensor, dtype: torch.dtype) -> dict[str, Basis]:
    """Return the basis of each head: unit i of every member is cluster i, mixed with weights (k, o).

    Where the outputs are not the units of one head, all of a member's outputs have one weight.
    """
    heads = [architecture.layer(name) for name in architecture.heads]
    own = {h.name: weights if h == architecture.output else weights[:, :1].expand(-1, h.width) for h in heads}
    return {name: _basis(each, dtype) for name, each in own.items()}


def _basis(weights: Tensor, dtype: torch.dtype) -> Basis:
    units = by_index(len(weights), weights.shape[1], dtype)
    return Basis(tuple(torch.diag(share).to(dtype) for share in weights), units.projections)


def _outputs(responses: Responses) -> Sequence[Tensor]:
    return responses.at(responses.networks[0].architecture.returned)
