"""The error of a network as a function of the hyperplanes of its maps, with what second-order methods need from it.

With outputs y of n samples, reference outputs t and the error ``e(y, t)`` of a sample (`consilience.agreement`), the
function is ``E(θ) = (1/n) Σ e(y(θ), t)`` and its Gauss–Newton matrix is ``G = (1/n) Σ Jᵀ H J``, with J = ∂y/∂θ and the
curvature ``H = ∂²e/∂y²``: for classes ``diag(p) − p pᵀ`` with p = softmax y, for numbers ``2/(o·Var t)``.

θ are the maps' hyperplanes ``[W | b]`` one after the other, with batch norms folded in. What no map in θ changes is
computed once, and kept.

Axis legend: ``n`` samples, ``o`` outputs, ``u`` units written, ``d`` entries read, ``θ`` all weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from consilience.agreement import row_errors, spread_of
from consilience.signals.batches import MAX_BATCH
from consilience.signals.responses import stream
from consilience.units.architecture import TracedNetwork
from consilience.units.maps import Map, Weights

GRAPH_VALUES = 2**22  # numbers in the largest value of a batch, of which gradients need several
Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Fit:
    """A network whose maps are fitted to reference outputs (n, o) on inputs x (n, ...).

    Attributes
    ----------
    network : the network, with batch norms folded.
    maps : those that are fitted.
    x, reference, task : inputs, reference outputs, and what they stand for.
    known : traced values of all inputs that do not depend on the maps fitted.
    """

    network: TracedNetwork
    maps: tuple[Map, ...]
    x: Tensor
    reference: Tensor
    task: str | None
    known: dict[str, Tensor] = field(repr=False)

    @classmethod
    def of(
        cls, network: TracedNetwork, maps: Sequence[Map], x: Tensor, reference: Tensor, task: str | None = None
    ) -> Fit:
        """Return the fit of some maps of a network."""
        for m in network.architecture.maps:
            if m.norm is not None:
                network = network.with_weights(m, network.weights(m))
        changed = {name for m in maps for name in m.parameters}
        names = network.architecture.program.frontier(changed)
        batches = [values for _, values in stream(network, x, names)] if names else []
        known = {name: torch.cat([values[name] for values in batches]) for name in names}
        return cls(network, tuple(maps), x, reference, task, known)

    @property
    def vector(self) -> Tensor:
        """The hyperplanes of the network: (θ,)."""
        return torch.cat([self._flat(m, self.network.weights(m)) for m in self.maps])

    def at(self, theta: Tensor) -> TracedNetwork:
        """Return the network with other hyperplanes (θ,)."""
        network = self.network
        for m, block in zip(self.maps, self.blocks(theta), strict=True):
            old = self.network.weights(m)
            bias = block[:, -1] if m.has_bias else old.bias
            network = network.with_weights(m, old.with_matrix(block[:, : old.matrix.shape[1]], bias))
        return network

    def blocks(self, theta: Tensor) -> list[Tensor]:
        """Return the hyperplanes ``[W | b]`` (u, d + 1) of each map, (u, d) of one without a bias; views of θ."""
        weights = [self.network.weights(m) for m in self.maps]
        shapes = [(len(w.bias), w.matrix.shape[1] + m.has_bias) for m, w in zip(self.maps, weights, strict=True)]
        parts = theta.split([u * d for u, d in shapes])
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]

    def values(self, network: TracedNetwork, rows: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Return traced values of a network on some samples."""
        known = {name: value[rows] for name, value in self.known.items()}
        return network.values(self.x[rows], names, known)

    def outputs(self, theta: Tensor, rows: Tensor) -> Tensor:
        """Return the outputs (n, o) on some samples."""
        output = self.network.architecture.program.output
        return self.values(self.at(theta), rows, [output])[output]

    def batches(self, rows: Tensor) -> Iterator[Tensor]:
        """Split samples so that the values of a batch fit into memory."""
        yield from rows.split(max(1, min(MAX_BATCH, GRAPH_VALUES // self.network.architecture.largest_value)))

    def error(self, theta: Tensor, rows: Tensor) -> float:
        """Return E(θ) on some samples."""
        with torch.no_grad():
            return sum(float(self._error(theta, part)) for part in self.batches(rows)) / len(rows)

    def gradient(self, theta: Tensor, rows: Tensor) -> Tensor:
        """Return ∂E/∂θ on some samples: (θ,)."""
        total = torch.zeros_like(theta)
        for part in self.batches(rows):
            at = theta.detach().clone().requires_grad_()
            total += torch.autograd.grad(self._error(at, part), at)[0]
        return total / len(rows)

    def gauss_newton(self, theta: Tensor, rows: Tensor) -> Product:
        """Return v ↦ G v at θ on some samples.

        ``J v`` is the derivative by u of ``⟨Jᵀ u, v⟩``, so the graph of ``Jᵀ u`` is kept and each product takes two
        backward passes.
        """
        graphs = []
        for part in self.batches(rows):
            at = theta.detach().clone().requires_grad_()
            outputs = self.outputs(at, part)
            u = torch.zeros_like(outputs, requires_grad=True)
            (pulled,) = torch.autograd.grad(outputs, at, u, create_graph=True)
            graphs.append((at, outputs, u, pulled))

        def product(v: Tensor) -> Tensor:
            total = torch.zeros_like(v)
            for at, outputs, u, pulled in graphs:
                (pushed,) = torch.autograd.grad(pulled, u, v, retain_graph=True)
                curved = self.curvature(outputs.detach(), pushed)
                total += torch.autograd.grad(outputs, at, curved, retain_graph=True)[0]
            return total / len(rows)

        return product

    def curvature(self, outputs: Tensor, v: Tensor) -> Tensor:
        """Return H v (n, o) at outputs (n, o)."""
        if self.task == "classification":
            p = outputs.softmax(1)
            return p * (v - (p * v).sum(1, keepdim=True))
        return v * 2 / (outputs.shape[1] * spread_of(self.reference).square())

    def curvature_root(self, outputs: Tensor, signs: Tensor) -> Tensor:
        """Return R s (n, o) with ``R Rᵀ = H``: its outer product is H on average over random signs s (n, o)."""
        if self.task == "classification":
            p = outputs.softmax(1)
            return p.sqrt() * signs - p * (p.sqrt() * signs).sum(1, keepdim=True)
        return signs * (2 / outputs.shape[1]) ** 0.5 / spread_of(self.reference)

    def _error(self, theta: Tensor, rows: Tensor) -> Tensor:
        spread = spread_of(self.reference)
        return row_errors(self.outputs(theta, rows), self.reference[rows], self.task, spread).sum()

    @staticmethod
    def _flat(m: Map, weights: Weights) -> Tensor:
        columns = [weights.matrix, weights.bias[:, None]] if m.has_bias else [weights.matrix]
        return torch.cat(columns, dim=1).flatten()
