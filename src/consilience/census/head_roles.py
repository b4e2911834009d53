"""What heads of attention attend to: mean patterns by cluster, and what they do with tokens that come again.

Of random tokens that are repeated once, a head may attend to the token before (previous token), from the second half to
the same token in the first (duplicate token) or to the one after that, which comes next (induction). A score is the
mean weight on that position.

Source: Olsson et al. (2022), In-context learning and induction heads.

Axis legend: ``n`` samples, ``h`` heads of a member, ``U`` heads of all members, ``K`` clusters, ``t`` positions that
attend, ``s`` positions attended to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from consilience.census.layer_census import LayerCensus
from consilience.population.population import Population
from consilience.seeds import REPEATED, generator
from consilience.signals.attention import Attention
from consilience.units.architecture import TracedNetwork

Floats = NDArray[np.float64]
N_SAMPLES = 16  # that patterns are averaged over
PREVIOUS, DUPLICATE, INDUCTION = "previous token", "duplicate token", "induction"


@dataclass(frozen=True, eq=False)
class HeadRoles:
    """What the heads of one layer do.

    Attributes
    ----------
    patterns : (K, t, s) mean weights of the heads of each cluster, on up to 16 calibration inputs.
    scores : "previous token", "duplicate token" and "induction" → mean weights (U,) of each head, on random tokens
        that are repeated; empty where inputs are not tokens. With grouped queries, the mean of the queries.
    by_cluster : the same, means (K,) of the heads of each cluster.
    """

    patterns: Floats
    scores: Mapping[str, Floats]
    by_cluster: Mapping[str, Floats]


def head_roles(
    population: Population, layers: Mapping[str, LayerCensus], x: Tensor | None, random_state: int
) -> dict[str, HeadRoles]:
    """Return what the heads of each layer of heads of attention do on inputs x (n, ...), by default the examples."""
    x = spread_samples(population, x)
    found = {name: _roles(population, layer, x, random_state) for name, layer in layers.items()}
    return {name: roles for name, roles in found.items() if roles is not None}


def _roles(population: Population, layer: LayerCensus, x: Tensor, random_state: int) -> HeadRoles | None:
    """What the heads of a layer do; None if it is not heads of attention."""
    tokens = repeated_tokens(population, random_state)
    means, repeated = list[Floats](), list[dict[str, Floats]]()
    for member in population.members:
        network = member.network
        heads = heads_of(network, layer.name, x)
        if heads is None:
            return None
        means.append(_of_units(heads.patterns(network, x).mean(0), layer, network))
        if tokens is not None:
            repeated.append(_scores(_of_units(heads.patterns(network, tokens).mean(0), layer, network)))
    every, groups = np.concatenate(means), [layer.labels_ == c for c in range(layer.n_clusters_)]
    scores = {name: np.concatenate([own[name] for own in repeated]) for name in (repeated[0] if repeated else {})}
    by_cluster = {name: np.array([own[group].mean() for group in groups]) for name, own in scores.items()}
    return HeadRoles(np.stack([every[group].mean(0) for group in groups]), scores, by_cluster)


def repeated_tokens(population: Population, random_state: int) -> Tensor | None:
    """Return random tokens (n, t), the second half as the first; None if inputs are not one row of tokens.

    Of an odd number of positions, the last has the first token once more.
    """
    network, example = population.networks[0], population.example_input
    half = example.shape[1] // 2 if example.dim() == 2 else 0
    if population.inputs is not None or example.is_floating_point() or half < 2:
        return None
    embedded = {read: len(network.state[weight]) for weight, read in network.architecture.program.embedded}
    numbers = network.values(example, list(embedded))
    sizes = [size for read, size in embedded.items() if torch.equal(numbers[read].flatten(), example.flatten())]
    if not sizes:
        return None
    first = torch.randint(min(sizes), (N_SAMPLES, half), generator=generator(random_state, REPEATED))
    return torch.cat([first, first, first[:, : example.shape[1] - 2 * half]], 1).to(example.dtype)


def _scores(patterns: Floats) -> dict[str, Floats]:
    """The scores (h,) of heads with mean patterns (h, t, s) on repeated tokens."""
    later = np.arange(half := patterns.shape[1] // 2, 2 * half)
    places = {PREVIOUS: (np.arange(1, 2 * half), -1), DUPLICATE: (later, -half), INDUCTION: (later, 1 - half)}
    return {name: patterns[:, at, at + step].mean(1) for name, (at, step) in places.items()}


def spread_samples(population: Population, x: Tensor | None) -> Tensor:
    """Return up to 16 of the samples x (n, ...), evenly spread; if None, of the example inputs."""
    return evenly(population.example_input if x is None else x, N_SAMPLES)


def evenly(rows: Tensor, most: int) -> Tensor:
    """Return at most so many rows, evenly spread."""
    return rows[torch.linspace(0, len(rows) - 1, min(len(rows), most)).long()]


def heads_of(network: TracedNetwork, layer: str, x: Tensor) -> Attention | None:
    """Return the heads of a layer and those tied to it, tried on inputs x; None if it is not heads of attention."""
    architecture = network.architecture
    family = {tied.name for tied in architecture.family(layer)}
    found = (Attention.of(m, network, x) for m in architecture.maps if family & {*m.reads})
    return next((heads for heads in found if heads is not None), None)


def _of_units(patterns: Tensor, layer: LayerCensus, network: TracedNetwork) -> Floats:
    """Patterns of a member's units, from those of all its heads that attend, of which a unit may have several."""
    units = network.architecture.layer(layer.name).width
    result: Floats = patterns.unflatten(0, (units, -1)).mean(1).double().numpy()
    return result
