"""Outputs as a function of the hyperplanes of a network's maps, with what a Gauss–Newton fit needs from it.

With outputs y (n, o) and reference outputs t, the function is the mean error of samples, ``E(θ) = (1/n) Σ_n e(y, t)``
(`consilience.agreement.softened_errors`), and its Gauss–Newton matrix ``G = (1/n) Σ Jᵀ H J`` with J = ∂y/∂θ and
H = ∂²e/∂y². For classes, with p = softmax(y / T), and for numbers, with the variances v of t,

    e = T² KL(softmax(t / T) ‖ p),  H = diag p − p pᵀ;    e = mean_o (y − t)² / v,  H = 2 diag(1/v) / o.

θ are the hyperplanes ``[W | b]`` of the maps, one map after the other, with batch norms folded in. What the maps do not
affect is computed once and kept.

Axis legend: ``n`` samples, ``o`` outputs, ``u`` units written, ``d`` entries read, ``θ`` all weights.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from consilience.agreement import class_probabilities, softened_errors, spread_of
from consilience.signals.batches import MAX_BATCH
from consilience.signals.responses import stream
from consilience.tasks import OF_CLASSES
from consilience.units.architecture import TracedNetwork
from consilience.units.axes import Sampling
from consilience.units.maps import Map, Weights

GRAPH_VALUES = 2**22  # numbers in the largest value of a batch, of which gradients need several
KEPT_VALUES = 2**26  # the same of all samples and maps together, for graphs that are kept
Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Fit:
    """A network whose maps are fitted to reference outputs (n, o) on inputs x (n, ...).

    Attributes
    ----------
    network : the network, with batch norms folded.
    maps : those that are fitted.
    x, reference, task : inputs, reference outputs, and what they stand for (`consilience.agreement`).
    spread : standard deviations (o,) of the reference outputs.
    known : traced values of all inputs that do not depend on the maps fitted.
    """

    network: TracedNetwork
    maps: tuple[Map, ...]
    x: Tensor
    reference: Tensor
    task: str | None
    spread: Tensor
    known: dict[str, Tensor] = field(repr=False)
    sampling: Sampling | None = None

    @classmethod
    def of(
        cls,
        network: TracedNetwork,
        maps: Sequence[Map],
        x: Tensor,
        reference: Tensor,
        task: str | None = None,
        sampling: Sampling | None = None,
    ) -> Fit:
        """Return the fit of some maps of a network to a reference (n, o), or (r, o) at the positions of ``sampling``.

        The outputs of a sample at each position are a row.
        """
        for m in network.architecture.maps:
            if m.norm is not None:
                network = network.with_weights(m, network.weights(m))
        changed = {name for m in maps for name in m.parameters}
        names = network.architecture.program.frontier(changed)
        batches = [values for _, values in stream(network, x, names)] if names else []
        known = {name: torch.cat([values[name] for values in batches]) for name in names}
        return cls(network, tuple(maps), x, reference, task, spread_of(reference), known, sampling)

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
        return network.values(self.x[rows], names, self.given(rows))

    def given(self, rows: Tensor) -> dict[str, Tensor]:
        """Return the known values of some samples, which are several rows where samples have been divided."""
        n = len(self.x)
        return {name: value.unflatten(0, (n, -1))[rows].flatten(0, 1) for name, value in self.known.items()}

    def outputs(self, theta: Tensor, rows: Tensor) -> Tensor:
        """Return the outputs (n, o) on some samples."""
        output = self.network.architecture.program.output
        return self.rows(self.values(self.at(theta), rows, [output])[output], rows)

    def rows(self, value: Tensor, rows: Tensor) -> Tensor:
        """Return the outputs (r, o) of some samples, at each position, in the value that is pooled."""
        architecture = self.network.architecture
        if value.dim() == 2 or self.sampling is None:
            return value
        return self.sampling.taken(rows.cpu()).of(architecture.returned.units(value, architecture.widths, len(rows)), 0)

    def targets(self, rows: Tensor) -> Tensor:
        """Return the reference outputs (r, o) of some samples, at each position."""
        targets: Tensor = self.reference.unflatten(0, (len(self.x), -1))[rows].flatten(0, 1)
        return targets

    @property
    def positions(self) -> int:
        """Rows of each sample."""
        return len(self.reference) // len(self.x)

    def batches(self, rows: Tensor) -> Iterator[Tensor]:
        """Split samples so that the values of a batch fit into memory."""
        yield from rows.split(max(1, min(MAX_BATCH, GRAPH_VALUES // self.network.architecture.largest_value)))

    def error(self, theta: Tensor, rows: Tensor) -> float:
        """Return E(θ) of some samples; infinity if it is not a number."""
        with torch.no_grad():
            outputs = torch.cat([self.outputs(theta, part) for part in self.batches(rows)]).double()
        errors = softened_errors(outputs, self.targets(rows).double(), self.task, self.spread)
        return float(errors.mean().nan_to_num(nan=torch.inf))

    def gradient(self, theta: Tensor, rows: Tensor) -> Tensor:
        """Return ∂E/∂θ on some samples: (θ,)."""
        total = torch.zeros_like(theta)
        for part in self.batches(rows):
            at = theta.clone().requires_grad_()
            total += torch.autograd.grad(self._error(at, part), at)[0]
        return total / len(rows)

    def gauss_newton(self, theta: Tensor, rows: Tensor) -> Product:
        """Return v ↦ G v at θ on some samples.

        ``J v`` is the derivative by u of ``⟨Jᵀ u, v⟩``: with the graph of ``Jᵀ u`` a product takes two backward passes.
        The graphs are kept if they are small, and else computed again for each product.
        """
        parts = list(self.batches(rows))
        small = len(rows) * len(self.maps) * self.network.architecture.largest_value <= KEPT_VALUES
        kept = [self._graph(theta, part) for part in parts] if small else None

        def product(v: Tensor) -> Tensor:
            total = torch.zeros_like(v)
            for at, outputs, u, pulled in kept or (self._graph(theta, part) for part in parts):
                (pushed,) = torch.autograd.grad(pulled, u, v, retain_graph=True)
                curved = self.curved(outputs.detach(), pushed)
                total += torch.autograd.grad(outputs, at, curved, retain_graph=True)[0]
            return total / len(rows)

        def product_forward(v: Tensor) -> Tensor:
            total = torch.zeros_like(v)
            for part in parts:
                compute = partial(self.outputs, rows=part)
                with warnings.catch_warnings():  # torch compiles derivatives by a way that it calls old
                    warnings.simplefilter("ignore", DeprecationWarning)
                    outputs, pushed = torch.func.jvp(compute, (theta,), (v,))[:2]
                total += torch.func.vjp(compute, theta)[1](self.curved(outputs, pushed))[0]
            return total / len(rows)

        try:
            product(theta)
        except RuntimeError:  # torch has no second derivative of an operation, such as a hard sigmoid
            return product_forward
        return product

    def curved(self, outputs: Tensor, v: Tensor) -> Tensor:
        """Return H v of each row, at its outputs: (n, o)."""
        if self.task not in OF_CLASSES:
            return v * self._numbers
        p = class_probabilities(outputs, self.task)[:, : v.shape[1]]
        return p * (v - (p * v).sum(1, keepdim=True))

    def root(self, outputs: Tensor, signs: Tensor) -> Tensor:
        """Return R s of each row (n, o), with R Rᵀ = H, for random signs s (n, o): its second moment is H."""
        if self.task not in OF_CLASSES:
            return signs * self._numbers.sqrt()
        root = class_probabilities(outputs, self.task).sqrt()
        signs = functional.pad(signs, (0, root.shape[1] - signs.shape[1]), value=1.0)
        return (root * signs - root.square() * (root * signs).sum(1, keepdim=True))[:, : outputs.shape[1]]

    @property
    def _numbers(self) -> Tensor:
        """The diagonal (o,) of H of numbers."""
        return 2 / (self.reference.shape[1] * self.spread.square())

    def _graph(self, theta: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """θ, y, u and Jᵀ u on some samples, with the graphs between them."""
        at = theta.clone().requires_grad_()
        outputs = self.outputs(at, rows)
        u = torch.zeros_like(outputs, requires_grad=True)
        (pulled,) = torch.autograd.grad(outputs, at, u, create_graph=True)
        return at, outputs, u, pulled

    def _error(self, theta: Tensor, rows: Tensor) -> Tensor:
        return softened_errors(self.outputs(theta, rows), self.targets(rows), self.task, self.spread).sum()

    @staticmethod
    def _flat(m: Map, weights: Weights) -> Tensor:
        columns = [weights.matrix, weights.bias[:, None]] if m.has_bias else [weights.matrix]
        return torch.cat(columns, dim=1).flatten()
