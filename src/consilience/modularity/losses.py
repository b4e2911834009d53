"""Terms of a loss under which a network becomes modular, for any training loop: ``loss = task + weight * term(net)``.

- `EigenvalueLoss`: the mean of the 2nd to (k + 1)th smallest eigenvalues λ of the normalised Laplacian of the network's
  graph, a relaxation of the n-cut (Filan et al. 2021). Its gradient is closed: with unit vectors u and
  ``y = D^{-1/2} u``, the derivative by the weight of the edge between m and n is

      ∂λ/∂|w_mn| = (y_m − y_n)² − λ (y_m² + y_n²).

  The sum over several eigenvalues has a gradient where some of them are equal, too: it is that of a trace, and the same
  for every basis of their space; the eigenvalue 0 and its vectors are counted in, as they add nothing where there is
  one and belong to the space where there are more. Where the (k + 1)th is equal to the next, there is none, and what is
  returned is one of its limits. A weight of 0 has the gradient 0: what has been pruned stays so.
- `CrossClusterLoss`: the mean enmeshment 1 − C of the matrices between layers with clusters (Golechha et al. 2025, who
  write ``task − λ C``).

In a population, `Penalty` is their callback.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from consilience.clustering.spectral import Spectrum, degrees, spectrum
from consilience.errors import InputError
from consilience.modularity.cross import checked_clusters, same_cluster
from consilience.modularity.graph import UnitGraph, node_groups, parts_of, traced
from consilience.training.callbacks import Callback
from consilience.units.architecture import TracedNetwork


class EigenvalueLoss:
    """The mean of the smallest eigenvalues of the Laplacian but the first; 0 to 2.

    Parameters
    ----------
    network : a network of the kind that will be trained; widths included.
    example_input : (n, ...) inputs on which a module is traced.
    n_eigenvalues : k; 3 as published.

    Raises
    ------
    InputError
        If there are no more than k units.

    Examples
    --------
    >>> from consilience.nets import MLP
    >>> net = MLP(8, [12, 12], 4)
    >>> term = EigenvalueLoss(net, torch.randn(5, 8))
    >>> (0.1 * term(net)).backward()
    """

    def __init__(
        self, network: nn.Module | TracedNetwork, example_input: Tensor | None = None, n_eigenvalues: int = 3
    ) -> None:
        network = traced(network, example_input)
        self.n_eigenvalues, self._architecture = n_eigenvalues, network.architecture
        n_units = sum(node_groups(network).values())
        if not 1 <= n_eigenvalues < n_units:
            raise InputError(
                "a graph has no such number of eigenvalues", where="n_eigenvalues", got=n_eigenvalues,
                expected=f"1 to {n_units - 1}",
            )  # fmt: skip
        self._last: Spectrum | None = None

    def __call__(self, module: nn.Module) -> Tensor:
        """Return the term for a module as it is now; the eigenvectors of the last call are where the search starts."""
        value, self._last = self._value(_own(module), self._last)
        return value

    def of(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return the term for parameters and buffers by name; it depends on nothing else."""
        return self._value(parameters, None)[0]

    def __repr__(self) -> str:
        return f"EigenvalueLoss(n_eigenvalues={self.n_eigenvalues})"

    def _value(self, parameters: Mapping[str, Tensor], like: Spectrum | None) -> tuple[Tensor, Spectrum | None]:
        network = TracedNetwork(self._architecture, parameters)
        graph, matrices, places = UnitGraph(node_groups(network), ()), [], []
        for part in parts_of(network):
            summed = part.weights.abs().sum(2)
            matrices.append(torch.diag(summed[:, 0]) if part.per_unit else summed)
            places.append((graph.nodes(part.written), graph.nodes(part.read)))
        arrays = [matrix.detach().double().cpu().numpy() for matrix in matrices]
        blocks = [(*place, array) for place, array in zip(places, arrays, strict=True)]
        finite = all(np.isfinite(array).all() for array in arrays)
        if not finite or (degrees(graph.n_nodes, blocks) > 0).sum() <= self.n_eigenvalues:
            # Of a network that has diverged, or has all but vanished: so does the term.
            return torch.stack([matrix.sum() for matrix in matrices]).sum() * torch.nan, None
        found = spectrum(graph.n_nodes, blocks, self.n_eigenvalues + 1, like)
        value: Tensor = _MeanEigenvalue.apply(found, places, *matrices)
        return value, found


class CrossClusterLoss:
    """The mean enmeshment, 1 − C, of all weight matrices between layers with clusters; 0 to 1.

    Parameters
    ----------
    network : a network of the kind that will be trained; widths included.
    example_input : (n, ...) inputs on which a module is traced.
    clusters : layer → cluster of each unit (u,), of at least two layers that follow each other.

    Raises
    ------
    InputError
        If clusters do not fit the layers, or no weight matrix lies between two of these.

    Examples
    --------
    >>> from consilience.modularity.cross import contiguous
    >>> from consilience.nets import MLP
    >>> net = MLP(8, [12, 12], 4)
    >>> term = CrossClusterLoss({name: contiguous(12, 3) for name in ("hidden.0", "hidden.1")}, net, torch.randn(5, 8))
    >>> (20 * term(net)).backward()
    """

    def __init__(
        self,
        clusters: Mapping[str, ArrayLike],
        network: nn.Module | TracedNetwork,
        example_input: Tensor | None = None,
    ) -> None:
        network = traced(network, example_input)
        self._architecture = network.architecture
        self.clusters = checked_clusters(clusters, network)

    def __call__(self, module: nn.Module) -> Tensor:
        """Return the term for a module as it is now."""
        return self.of(_own(module))

    def of(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return the term for parameters and buffers by name."""
        network, shares = TracedNetwork(self._architecture, parameters), []
        for part in parts_of(network):
            if not part.per_unit and part.read in self.clusters and part.written in self.clusters:
                squares = part.weights.square().sum(2)
                within = torch.from_numpy(same_cluster(self.clusters[part.written], self.clusters[part.read]))
                total = squares.sum().clamp(min=torch.finfo(squares.dtype).tiny)  # a matrix without weights has none
                shares.append((squares * ~within.to(squares.device)).sum() / total)
        return torch.stack(shares).mean()

    def __repr__(self) -> str:
        return f"CrossClusterLoss({ {name: labels.tolist() for name, labels in self.clusters.items()} })"


@dataclass(frozen=True)
class Penalty(Callback):
    """A callback of `consilience.train_population`: ``weight · term`` is added to the loss of each member.

    Attributes
    ----------
    term : for networks as the members are.
    weight : λ; published are 0.1 for eigenvalues, and 20 for clusters.
    """

    term: EigenvalueLoss | CrossClusterLoss
    weight: float

    def penalty(self, member: int, module_parameters: Mapping[str, Tensor]) -> Tensor:
        """Return the term for one member."""
        return self.weight * self.term.of(module_parameters)


class _MeanEigenvalue(torch.autograd.Function):
    """The mean of the 2nd to last eigenvalue of a spectrum, as a function of the blocks that it was found for."""

    @staticmethod
    def forward(ctx: Any, found: Spectrum, places: list[tuple[slice, slice]], *matrices: Tensor) -> Tensor:
        ctx.found, ctx.places, ctx.example = found, places, matrices[0]
        return matrices[0].new_tensor(found.values[1:].mean())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        y, values = torch.from_numpy(ctx.found.coordinates), torch.from_numpy(ctx.found.values)
        own = (y.square() * (1 - values)).sum(1)  # (m,): Σ (1 − λ) y²
        gradients = []
        for first, second in ctx.places:
            gradient = own[first, None] + own[second] - 2 * y[first] @ y[second].T
            gradients.append(outer * (gradient / (len(values) - 1)).to(ctx.example))
        return None, None, *gradients


def _own(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}
