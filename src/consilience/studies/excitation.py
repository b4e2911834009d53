"""What excites the clusters of a census: on which image, and where in it, their units respond most.

The response of cluster c at position p of image n is the mean pre-activation of its units, of all members together,

    r[n, c, p] = Σ_u σ_u z_u[n, p] / size_c,

each in canonical scale, and with a sign σ where the activation leaves the sign free, so that all units of a cluster
have one direction. The strongest position of each image counts. Of a layer that is written in several places, such as a
residual stream, the first place counts.

Axis legend: ``U`` units of all members, one member after the other, ``u`` units of one, ``c`` cluster, ``n`` images,
``p`` positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from consilience.census import Census, LayerCensus
from consilience.census.orientation import place_of
from consilience.signals.batches import batch_size


@dataclass(frozen=True)
class Excitation:
    """The strongest responses of the clusters of one layer."""

    response: Tensor  # (n, c) to each image
    position: Tensor  # (n, c) where in the image


def strongest(census: Census, x: Tensor, signs: Mapping[str, Tensor], n_clusters: int) -> dict[str, Excitation]:
    """Return the strongest response of each of the first clusters of layers to each of the images x (n, ...).

    ``signs`` are those of `unit_signs`, by layer. All positions are searched, in batches.
    """
    networks, places = census.networks_, {name: place_of(census, name) for name in signs}
    shares = {
        name: _shares(census.layers_[name], sign, n_clusters).split(census.population_.widths(name))
        for name, sign in signs.items()
    }
    maxima: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in signs}
    for batch in x.split(min(batch_size(network) for network in networks)):
        responses = {name: x.new_zeros(()) for name in signs}
        for k, network in enumerate(networks):
            values = network.values(batch, list({axis.name for axis in places.values()}))
            for name, axis in places.items():
                units = axis.units(values[axis.name], network.architecture.widths, len(batch))
                responses[name] = responses[name] + torch.einsum("nup,uc->ncp", units, shares[name][k])
        for name, response in responses.items():
            best, position = response.max(2)
            maxima[name].append((best, position))
    return {name: Excitation(*map(torch.cat, zip(*parts, strict=True))) for name, parts in maxima.items()}


def _shares(layer: LayerCensus, signs: Tensor, n_clusters: int) -> Tensor:
    """Return what each unit adds to the responses of the first clusters, (U, c)."""
    labels = torch.from_numpy(layer.labels_)
    inside = (labels[:, None] == torch.arange(min(n_clusters, layer.n_clusters_))).to(signs)
    return signs[:, None] * inside / inside.sum(0)
