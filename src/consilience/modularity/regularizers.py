"""Terms of a loss that make a network modular, for any training loop: ``loss = task + weight * term(net)``.

- `EigenvalueLoss`: the mean of the 2nd to (k + 1)th smallest eigenvalues λ of the normalised Laplacian of the network's
  graph, a relaxation of the n-cut (Filan et al. 2021). Its gradient is closed: with unit vectors u and
  ``y = D^{-1/2} u``, the derivative by the weight of the edge between m and n is

      ∂λ/∂|w_mn| = (y_m − y_n)² − λ (y_m² + y_n²).

  The sum over several eigenvalues is a trace, whose gradient exists even if some are equal: it does not depend on the
  basis of their eigenspace. It includes the eigenvalue 0, which adds nothing if it is simple. If the (k + 1)th
  eigenvalue equals the next, the gradient is one of several limits. A weight of 0 has the gradient 0: pruned weights
  stay 0.
- `CrossClusterLoss`: the mean enmeshment 1 − C of matrices between layers with clusters (Golechha et al. 2025).
- `MatrixClusterLoss`: the same of matrices by name, such as those of queries and keys, in any module.

They act on the weights as they are, as published; training can lower them by rescaling units alone. Measure the trained
network with `Clusterability` or `cross_modularity`, which do not see that.

`Penalty` is their callback in the training of a population.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from consilience.checks import check_count
from consilience.clustering.spectral import Spectrum, degrees, spectrum
from consilience.errors import InputError
from consilience.modularity.graph import UnitGraph, node_groups, parts_of, traced
from consilience.modularity.matrices import Matrices, checked_sides, matrix_in
from consilience.modularity.unit_labels import Clusters, Labels, matrix_labels, same_cluster
from consilience.training.callbacks import Callback
from consilience.units.architecture import TracedNetwork
from consilience.units.modules import unwrapped


class _Term:
    """A term of a loss, of the parameters of a module."""

    def __call__(self, module: nn.Module) -> Tensor:
        """Return the term for a module in its current state."""
        if not isinstance(module, nn.Module):
            raise InputError(
                f"module must be an nn.Module, got {type(module).__name__}", cure="of(parameters) takes tensors by name"
            )
        module = unwrapped(module, "module")
        return self.of({**dict(module.named_parameters()), **dict(module.named_buffers())})

    def of(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return the term for parameters and buffers by name."""
        raise NotImplementedError


class _TracedTerm(_Term):
    """A term for networks of the kind and widths of one that was traced."""

    def __init__(self, network: TracedNetwork) -> None:
        self._architecture = network.architecture
        self._shapes = {
            name: (m.writes, tuple(network.state[name].shape))
            for m in network.architecture.maps
            for name in m.parameters
        }

    def _network(self, parameters: Mapping[str, Tensor]) -> TracedNetwork:
        """The network with other parameters, which must have the shapes of those that were traced."""
        for name, (layer, shape) in self._shapes.items():
            got = tuple(parameters[name].shape) if name in parameters else "none of this name"
            if got != shape:
                raise InputError(
                    f"parameter {name!r} of layer {layer!r} must have shape {shape}, as in the network that "
                    f"{type(self).__name__} was made for, got {got}",
                    cure=f"make {type(self).__name__} for a network of these widths",
                )
        return TracedNetwork(self._architecture, parameters)


class EigenvalueLoss(_TracedTerm):
    """The mean of the 2nd to (k + 1)th smallest eigenvalues of the Laplacian; 0 to 2.

    Parameters
    ----------
    network : a network of the kind and widths that will be trained.
    example_input : (n, ...) inputs on which a module is traced.
    n_eigenvalues : k, fewer than units; 3 as published.

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
        check_count("n_eigenvalues", n_eigenvalues, 1, sum(node_groups(network).values()) - 1)
        super().__init__(network)
        self.n_eigenvalues = n_eigenvalues

    def of(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return the term for parameters and buffers by name.

        It is NaN if a weight is not finite, and 0, with the gradient 0, if no more than k units have an edge: a network
        that has vanished.
        """
        network = self._network(parameters)
        graph, matrices, places = UnitGraph(node_groups(network), ()), [], []
        for part in parts_of(network):
            summed = part.weights.abs().sum(2)
            matrices.append(torch.diag(summed[:, 0]) if part.per_unit else summed)
            places.append((graph.nodes[part.written], graph.nodes[part.read]))
        blocks = [(*at, matrix.detach().double().cpu().numpy()) for at, matrix in zip(places, matrices, strict=True)]
        degree = degrees(graph.n_nodes, blocks)
        if not np.isfinite(degree).all() or (degree > 0).sum() <= self.n_eigenvalues:
            factor = 0 if np.isfinite(degree).all() else torch.nan
            return torch.stack([matrix.sum() for matrix in matrices]).sum() * factor
        value: Tensor = _MeanEigenvalue.apply(spectrum(blocks, degree, self.n_eigenvalues + 1), places, *matrices)
        return value

    def __repr__(self) -> str:
        return f"EigenvalueLoss(n_eigenvalues={self.n_eigenvalues})"


class CrossClusterLoss(_TracedTerm):
    """The mean enmeshment, 1 − C, of all weight matrices between layers with clusters; 0 to 1.

    Parameters
    ----------
    clusters : layer → cluster of each unit (u,), of at least two layers of which one reads the other.
    network, example_input : as of `EigenvalueLoss`.
    """

    def __init__(
        self, clusters: Clusters, network: nn.Module | TracedNetwork, example_input: Tensor | None = None
    ) -> None:
        network = traced(network, example_input)
        super().__init__(network)
        self.clusters = matrix_labels(clusters, network)

    def of(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return the term for parameters and buffers by name."""
        network, shares = self._network(parameters), []
        for part in parts_of(network):
            if not part.per_unit and part.read in self.clusters and part.written in self.clusters:
                sides = self.clusters[part.written], self.clusters[part.read]
                shares.append(_enmeshment(part.weights.square().sum(2), *sides))
        return torch.stack(shares).mean()

    def __repr__(self) -> str:
        return f"CrossClusterLoss({ {name: labels.tolist() for name, labels in self.clusters.items()} })"


class MatrixClusterLoss(_Term):
    """The mean enmeshment, 1 − C, of weight matrices by the names of their parameters; 0 to 1.

    Parameters
    ----------
    matrices : name of a parameter (u, i) → clusters of its rows (u,) and of its columns (i,), −1 for none.

    Examples
    --------
    >>> from consilience.modularity import contiguous
    >>> from consilience.nets import GPT
    >>> net, quarters = GPT(20, 8, width=64, heads=4, mlp_widths=256), contiguous(64, 4)
    >>> heads = {f"blocks.0.attention.{part}.weight": (quarters, quarters) for part in "qkvo"}
    >>> mlp = {"blocks.0.mlp.up.weight": (contiguous(256, 4), quarters)}
    >>> (20 * MatrixClusterLoss(heads | mlp)(net)).backward()
    """

    def __init__(self, matrices: Matrices) -> None:
        self.matrices = checked_sides(matrices)

    def of(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return the term for parameters and buffers by name."""
        matrices = {name: matrix_in(parameters, name, sides) for name, sides in self.matrices.items()}
        return torch.stack(
            [_enmeshment(value.square(), *self.matrices[name]) for name, value in matrices.items()]
        ).mean()

    def __repr__(self) -> str:
        sides = {name: [labels.tolist() for labels in pair] for name, pair in self.matrices.items()}
        return f"MatrixClusterLoss({sides})"


@dataclass(frozen=True)
class Penalty(Callback):
    """A callback of `consilience.train_population` that adds ``weight · term`` to the loss of each member.

    Attributes
    ----------
    term : for networks of the members' kind and widths.
    weight : λ; 0.1 for eigenvalues and 20 for clusters as published.
    """

    term: EigenvalueLoss | CrossClusterLoss | MatrixClusterLoss
    weight: float

    def penalty(self, member: int, module_parameters: Mapping[str, Tensor]) -> Tensor:
        """Return the term for one member."""
        return self.weight * self.term.of(module_parameters)


def _enmeshment(squares: Tensor, rows: Labels, columns: Labels) -> Tensor:
    """1 − C of a matrix of squares (u, i); 0 if all are zero."""
    within = torch.from_numpy(same_cluster(rows, columns)).to(squares.device)
    total = squares.sum().clamp(min=torch.finfo(squares.dtype).tiny)  # no division by 0
    return (squares * ~within).sum() / total


class _MeanEigenvalue(torch.autograd.Function):
    """The mean of the 2nd to last eigenvalue of a spectrum, as a function of the blocks of weights."""

    @staticmethod
    def forward(ctx: Any, eigen: Spectrum, places: list[tuple[slice, slice]], *matrices: Tensor) -> Tensor:
        ctx.eigen, ctx.places, ctx.example = eigen, places, matrices[0]
        return matrices[0].new_tensor(eigen.values[1:].mean())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        y, values = torch.from_numpy(ctx.eigen.coordinates), torch.from_numpy(ctx.eigen.values)
        of_node = (y.square() * (1 - values)).sum(1)  # (m,): Σ (1 − λ) y²
        gradients = [of_node[a, None] + of_node[b] - 2 * y[a] @ y[b].T for a, b in ctx.places]
        return None, None, *(outer * (gradient / (len(values) - 1)).to(ctx.example) for gradient in gradients)
