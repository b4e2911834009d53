"""Incoming weights are centroids: one layer of an assembly from the members' grounded hyperplanes (DESIGN 3.4).

For a map from layer R to layer L, with mixing A of L and projections P, c on R:

    W̃ = Σ_k A⁽ᵏ⁾ᵀ W⁽ᵏ⁾ P⁽ᵏ⁾,    b̃ = Σ_k A⁽ᵏ⁾ᵀ (b⁽ᵏ⁾ + W⁽ᵏ⁾ c⁽ᵏ⁾).

The outputs are a layer whose clusters are "output i of every member" with A = 1/N, so that the same formula gives the
readout, the mean over members of ``W_out P``. Nothing here knows what kind of map it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from consilience.bases.grounding import Basis
from consilience.bases.hyperplanes import Projection, ground
from consilience.signals.responses import Responses, rows_of, stream
from consilience.units.architecture import Architecture, TracedNetwork
from consilience.units.axes import Axis
from consilience.units.maps import Map, Weights

KNOWN_BYTES = 2**30  # of values that are kept of the layers built so far; what is not kept is computed again


@dataclass
class Draft:
    """An assembly that is being built from the inputs up.

    Attributes
    ----------
    network : the layers at the assembly's widths; parameters of maps not reached yet are zero.
    responses : what the members do on the calibration inputs.
    bases : by layer, for the layers written so far.
    projections : of each member, by place where a layer is read, for the places reached so far.
    """

    network: TracedNetwork
    responses: Responses
    bases: dict[str, Basis] = field(default_factory=dict)
    projections: dict[Axis, Sequence[Projection]] = field(default_factory=dict)
    _known: dict[str, Tensor] = field(default_factory=dict)

    @property
    def architecture(self) -> Architecture:
        """The layers at the assembly's widths."""
        return self.network.architecture

    @property
    def members(self) -> Sequence[TracedNetwork]:
        """The members in canonical form."""
        return self.responses.networks

    def rows(self, axis: Axis) -> Tensor:
        """Return what the units built so far do in one place, at the positions that are looked at: (r, u)."""
        responses = self.responses
        return rows_of(self.network, responses.x, [axis], responses.max_rows, self._known)[axis]

    def patches(self, m: Map) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield what a map reads and writes, batch by batch: (r, d), or (r, u, s) of a map per unit, and (r, u)."""
        value, widths, sampling = m.inputs[0].name, self.architecture.widths, self.responses.sampling
        for which, batch in stream(self.network, self.responses.x, [value, m.output.name], known=self._known):
            n_samples = which.stop - which.start
            yield m.rows(batch[value], batch[m.output.name], widths, sampling, which.start, n_samples)

    def finish(self, m: Map) -> None:
        """Keep what a map writes, now that it stays as it is, if there is room; forget what nothing needs any more."""
        later = self.architecture.maps[self.architecture.maps.index(m) + 1 :]
        if any(other.output.name == m.output.name for other in later):
            return  # a norm of several layers, which is written layer by layer
        wanted = [axis.name for other in later for axis in other.inputs] + [self.architecture.program.output]
        room = KNOWN_BYTES - sum(value.nbytes for value in self._known.values())
        kept: Tensor | None = None
        for which, batch in stream(self.network, self.responses.x, [m.output.name], known=self._known):
            value, n_samples = batch[m.output.name], which.stop - which.start
            if value.nbytes * len(self.responses.x) > room * n_samples:
                break
            each = len(value) // n_samples  # more than one where samples have been divided
            if kept is None:
                kept = value.new_empty(each * len(self.responses.x), *value.shape[1:])
            kept[which.start * each : which.stop * each] = value
        else:
            if kept is not None:
                self._known[m.output.name] = kept
        needed = self.architecture.program.needed(wanted, self._known)
        self._known = {name: value for name, value in self._known.items() if name in needed}


def construct(draft: Draft, m: Map) -> None:
    """Write the centroids of a map's hyperplanes into the draft."""
    mixing = draft.bases[m.writes].mixing
    total: Weights | None = None
    for k, network in enumerate(draft.members):
        if m.per_unit:
            weights = _own(m, network, mixing[k], draft.bases[m.reads[0]].projections[k])
        else:
            grounded = ground(m, network, {axis: each[k] for axis, each in draft.projections.items()})
            parts = tuple(torch.einsum("uk,ucs->kcs", mixing[k], part) for part in grounded.parts)
            weights = Weights(parts, mixing[k].T @ grounded.bias)
        total = weights if total is None else Weights(
            tuple(a + b for a, b in zip(total.parts, weights.parts, strict=True)), total.bias + weights.bias
        )  # fmt: skip
    assert total is not None
    draft.network = draft.network.with_weights(m, total)


def _own(m: Map, network: TracedNetwork, mixing: Tensor, projection: Projection) -> Weights:
    """A member's share in a map per unit: centroid c reads centroid c alone, ``w̃_c = Σ_u A[u, c] P[u, c] w_u``."""
    weights = network.weights(m)
    part, offset = weights.parts[0][:, 0], projection.offset
    mixed = torch.einsum("uc,uc,us->cs", mixing, projection.matrix, part)
    return Weights((mixed[:, None],), mixing.T @ (weights.bias + part.sum(1) * offset))
