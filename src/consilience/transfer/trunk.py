"""The hidden layers of a network, read as features: what the outputs read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from consilience.assembly.build import Builder
from consilience.assembly.choice import CensusPlan, choice_of
from consilience.assembly.pooling import POOLINGS
from consilience.census.census import Census
from consilience.clustering.clusters import count
from consilience.errors import InputError
from consilience.signals.moments import Moments, cross_validated
from consilience.signals.responses import stream
from consilience.transfer.joint import readout_of, with_outputs
from consilience.units.architecture import TracedNetwork, write_state
from consilience.units.resize import resize


@dataclass(frozen=True)
class Trunk:
    """Networks side by side, of which the features that their outputs read are taken; none gives the inputs.

    Attributes
    ----------
    name : what it is made of.
    networks : whose features are side by side.
    """

    name: str
    networks: tuple[TracedNetwork, ...]

    def features(self, x: Tensor) -> Tensor:
        """Return the features (n, d) of inputs x (n, ...)."""
        if not self.networks:
            return x.flatten(1)
        parts = []
        for network in self.networks:
            value = readout_of(network.architecture).inputs[0].name
            parts.append(torch.cat([batch[value] for _, batch in stream(network, x, [value])]))
        features = torch.cat(parts, dim=1)
        if features.dim() != 2:
            raise InputError(f"features must be (n, d), got {tuple(features.shape)}")
        return features


def trunk_of_clusters(census: Census, chosen: Mapping[str, NDArray[np.bool_]], name: str) -> Trunk:
    """Return the trunk of some clusters (c,) of each layer, fitted to the members' mixed responses by least squares."""
    kept = {}
    for layer_name, layer in census.layers_.items():
        which = chosen[layer_name]
        number = np.where(which, np.cumsum(which) - 1, -1)
        labels = np.where(layer.labels_ >= 0, number[layer.labels_], -1)
        kept[layer_name] = count(labels, layer.member, layer.n_members)
    choice, responses = choice_of(kept), census.responses_
    widths = {layer_name: groups.n_clusters for layer_name, groups in choice.groups.items()}
    builder = Builder(census.population_, responses, POOLINGS["mean"](responses))
    return Trunk(name, (builder.hidden(widths, CensusPlan(census, choice), "least-squares"),))


@dataclass(frozen=True)
class Head:
    """Outputs that are linear in features: ``(f − mean) / spread`` with weights (o, d), and biases (o,)."""

    mean: Tensor
    spread: Tensor
    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Return outputs (n, o) of features (n, d)."""
        return ((features - self.mean) / self.spread) @ self.weight.T + self.bias

    @property
    def hyperplanes(self) -> tuple[Tensor, Tensor]:
        """Weights (o, d) and biases (o,) of the features as they are."""
        weight = self.weight / self.spread
        return weight, self.bias - weight @ self.mean


def standardization(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and spread (d,) of features (n, d); the spread is 1 where a feature is constant."""
    mean, spread = features.mean(0), features.std(0)
    return mean, torch.where(spread > 1e-6 * spread.max(), spread, 1)


def fit_head(features: Tensor, targets: Tensor, mean: Tensor, spread: Tensor) -> Head:
    """Return the ridge regression of targets (n, o) on features (n, d), with a strength by cross-validation."""
    moments = Moments(features.shape[1], targets.shape[1])
    moments.add((features - mean) / spread, targets)
    weight, bias = cross_validated(moments)
    return Head(mean, spread, weight.to(features.dtype), bias.to(features.dtype))


def with_head(template: nn.Module, trunk: TracedNetwork, head: Head) -> nn.Module:
    """Return a module of the members' class that computes a head of a trunk's features, in eval mode."""
    weight, bias = head.hyperplanes
    hidden = {layer.name: layer.width for layer in trunk.architecture.hidden}
    module = resize(template, trunk.architecture, hidden)
    write_state(module, trunk.state)
    module = with_outputs(module, trunk.architecture, len(bias))
    readout = readout_of(trunk.architecture)
    architecture = trunk.architecture.with_widths({readout.writes: len(bias)})
    state = {name: value.detach() for name, value in module.named_parameters()}
    network = TracedNetwork(architecture, {**trunk.state, **state})
    weights = network.weights(readout)
    write_state(module, network.with_weights(readout, weights.with_matrix(weight, bias)).state)
    return module.eval()
