"""A perceptron that computes a part of its units for each sample, chosen by a linear router in each hidden layer.

The units of a hidden layer are divided into E experts of s units. With h (n, i) what the layer reads, the router's
scores are ``h Rᵀ + r`` (n, E). Of each sample the m experts with the highest scores are computed,
``a_e = f(h W_eᵀ + b_e)`` (n, s); the activations of all other units are constants, their ``rest``. What is not chosen
is not computed: the samples that chose an expert are gathered, and one matrix product serves them.

Axis legend: ``n`` samples, ``i`` units read, ``e`` experts, ``s`` units of an expert, ``u`` all E·s units.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from consilience.checks import check_count
from consilience.errors import InputError
from consilience.nets.activations import ACTIVATIONS
from consilience.nets.net import Net, check_config, of_type


@dataclass(frozen=True)
class RoutedConfig:
    """The arguments of a `Routed`; what `config.json` of a saved network holds."""

    NOT_SIZES: ClassVar = ("active",)  # entries that need not be the size of a tensor

    n_inputs: int
    widths: tuple[int, ...]
    n_outputs: int
    experts: tuple[int, ...]
    active: tuple[int, ...]
    activation: str = "relu"

    def __post_init__(self) -> None:
        check_config(self, ("widths", "experts", "active"))
        for name in ("experts", "active"):
            if len(getattr(self, name)) != len(self.widths):
                got = f"{getattr(self, name)} for {len(self.widths)} layers"
                raise InputError(f"{name} must have one number for each hidden layer, got {got}")
        for width, experts, active in zip(self.widths, self.experts, self.active, strict=True):
            check_count("active", active, most=experts, cure="route to fewer experts, or divide units into more")
            if width % experts:
                raise InputError(f"widths must be multiples of their number of experts, {experts}, got {width}")


class RoutedLayer(nn.Module):
    """One hidden layer, of which each sample has m of E experts computed.

    Parameters
    ----------
    n_read, width : i and u.
    n_experts : E; expert e has the units from ``e·s`` on.
    n_active : m.
    activation : one of `ACTIVATIONS`.
    """

    def __init__(self, n_read: int, width: int, n_experts: int, n_active: int, activation: str) -> None:
        super().__init__()
        self.n_active, self.activation = n_active, activation
        self.router, self.units = nn.Linear(n_read, n_experts), nn.Linear(n_read, width)
        self.rest = nn.Parameter(torch.zeros(width))

    @property
    def n_experts(self) -> int:
        """E."""
        return self.router.out_features

    def forward(self, h: Tensor) -> Tensor:
        """Return the activations (n, u) of what the layer reads (n, i)."""
        chosen = self.router(h).topk(self.n_active, dim=1).indices.flatten()
        order = chosen.argsort(stable=True)
        samples = (order // self.n_active).split(torch.bincount(chosen, minlength=self.n_experts).tolist())
        weights = self.units.weight.unflatten(0, (self.n_experts, -1))
        biases = self.units.bias.unflatten(0, (self.n_experts, -1))
        activations = self.rest.unflatten(0, (self.n_experts, -1)).repeat(len(h), 1, 1)  # (n, E, s)
        for e, rows in enumerate(samples):
            if len(rows):
                z = torch.addmm(biases[e], h[rows], weights[e].T)
                activations[rows, e] = ACTIVATIONS[self.activation](z)
        flat: Tensor = activations.flatten(1)
        return flat


class Routed(Net):
    """Hidden layers ``hidden.0``, ``hidden.1``, … (`RoutedLayer`), then ``readout``.

    Parameters
    ----------
    n_inputs : features of one sample; inputs (n, ...) are flattened to (n, n_inputs).
    widths : units of each hidden layer, a multiple of its experts.
    n_outputs : outputs (classes).
    experts : E, experts of each hidden layer.
    active : m, how many of them are computed for a sample.
    activation : one of `ACTIVATIONS`.

    Examples
    --------
    >>> net = Routed(64, [32, 16], 10, experts=[8, 4], active=[2, 1])
    >>> net(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 10])
    >>> net.n_products, net.n_products_of_all  # routers, active units and readout; without routers, all units
    (1440, 2720)
    """

    Config = RoutedConfig

    def build(self, config: RoutedConfig) -> None:
        """Make the layers."""
        sizes = pairwise((config.n_inputs, *config.widths))
        self.hidden = nn.ModuleList(
            RoutedLayer(read, width, experts, active, config.activation)
            for (read, width), experts, active in zip(sizes, config.experts, config.active, strict=True)
        )
        self.readout = nn.Linear(config.widths[-1], config.n_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs (n, ...) to outputs (n, n_outputs)."""
        x = x.flatten(1)
        for layer in self.hidden:
            x = layer(x)
        outputs: Tensor = self.readout(x)
        return outputs

    @property
    def config(self) -> RoutedConfig:
        """The arguments that give a network of these sizes."""
        layers = of_type(self.hidden, RoutedLayer)
        return RoutedConfig(
            n_inputs=layers[0].router.in_features,
            widths=tuple(layer.units.out_features for layer in layers),
            n_outputs=self.readout.out_features,
            experts=tuple(layer.n_experts for layer in layers),
            active=tuple(layer.n_active for layer in layers),
            activation=self.activation,
        )

    @property
    def n_products(self) -> int:
        """Multiplications by weights for one sample: routers, active units, readout."""
        total = self.readout.weight.numel()
        for layer in of_type(self.hidden, RoutedLayer):
            total += layer.router.weight.numel()
            total += layer.units.weight.numel() * layer.n_active // layer.n_experts
        return total

    @property
    def n_products_of_all(self) -> int:
        """The same of a perceptron of these widths: all units, and no routers."""
        layers = of_type(self.hidden, RoutedLayer)
        return self.readout.weight.numel() + sum(layer.units.weight.numel() for layer in layers)
