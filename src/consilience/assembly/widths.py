"""The clusters of each layer of an assembly: the ways to write ``width``.

- ``48``: that many clusters in every hidden layer; ``{"hidden.0": 64}``: by layer, others at "1x";
- ``{"heads": 8, "stream": "2x", "mlp": "4x"}``: by kind, of networks with attention;
- ``"2x"``: a multiple of the members' median width;
- ``"frequency>=0.5"``: the census's clusters that at least this share of the members own;
- ``"parameters<=100000"``: the largest common multiple of the median widths within a budget;
- ``"full"``: every unit its own cluster, dead ones too, which makes the assembly the ensemble.

A hierarchical census is cut at the number asked for; of a flat one the most frequent clusters are taken. Dead units
follow, each alone, while there is room. A number beyond all units takes every unit, with a warning.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import numpy as np

from consilience.census.census import Census
from consilience.census.layer_census import LayerCensus
from consilience.checks import Width, did_you_mean, resolve_width
from consilience.clustering.clusters import Clusters, count
from consilience.errors import InputError, warn

FREQUENCY = re.compile(r"frequency\s*>=\s*(\d{,18}\.?\d{1,18})")
BUDGET = re.compile(r"parameters\s*<=\s*(\d{1,18})")
KINDS = ("heads", "stream", "mlp")
LARGE = 2**40  # a width of which any multiple is a number
FORMS = 'use an int, "2x", "full", "frequency>=0.5" or "parameters<=100000"'

Selection = Width | Mapping[str, Width]


class HasClusters(Protocol):
    """Some clusters of a census, as a motif has them."""

    @property
    def clusters(self) -> Mapping[str, Sequence[int]]:
        """By layer, numbers of clusters at the census's own cut."""


def of_motifs(census: Census, motifs: Sequence[HasClusters]) -> dict[str, Clusters]:
    """Return the clusters of motifs, in the census's order, and all clusters of layers in which no motif has any."""
    if not motifs:
        raise InputError("motifs must be at least one, got none", cure="leave motifs out to choose clusters by width")
    chosen: dict[str, set[int]] = {}
    for motif in motifs:
        for name, numbers in motif.clusters.items():
            n = census.layers_[name].n_clusters_ if name in census.layers_ else 0
            if n == 0 or not all(0 <= number < n for number in numbers):
                got = f"clusters {', '.join(map(str, numbers))} of layer {name!r}"
                raise InputError(f"motifs must be of this census, got {got}", cure="fit Motifs on this census")
            chosen.setdefault(name, set()).update(numbers)
    kept = {}
    for name, layer in census.layers_.items():
        selected = np.array(sorted(chosen.get(name) or range(layer.n_clusters_)))
        place = np.full(layer.n_clusters_ + 1, -1)  # the last entry is that of dead units
        place[selected] = np.arange(len(selected))
        kept[name] = count(place[layer.labels_], layer.member, layer.n_members)
    return kept


def select(census: Census, width: Selection) -> dict[str, Clusters]:
    """Return the clusters of each hidden layer for an assembly of this width."""
    layers, text = census.layers_, width.strip() if isinstance(width, str) else ""
    if text == "full":
        return {name: layer.each_alone() for name, layer in layers.items()}
    if threshold := FREQUENCY.fullmatch(text):
        return {name: _frequent(layer, float(threshold[1])) for name, layer in layers.items()}
    numbers = resolve(census, width)
    assert numbers is not None  # all other widths are numbers
    return {name: layers[name].at(k) for name, k in numbers.items()}


def check_form(width: Selection, layers: Collection[str]) -> None:
    """Raise unless a width may be one of a census with these layers, as far as can be told without its networks."""
    if isinstance(width, Mapping):
        _check_names(width, [*KINDS, *layers])
        for name, value in width.items():
            resolve_width(value, LARGE, f"width of {name}", 'use an int or "2x" for each')
        return
    text = width.strip() if isinstance(width, str) else ""
    if text != "full" and not FREQUENCY.fullmatch(text) and not BUDGET.fullmatch(text):
        resolve_width(width, LARGE, "width", FORMS)


def _check_names(names: Collection[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            wanted = f"width must name layers among {', '.join(known)}"
            raise InputError(f"{wanted}, got {name!r}", cure=did_you_mean(name, known))


def resolve(census: Census, width: Selection) -> dict[str, int] | None:
    """Return the number of clusters in each hidden layer; None where ``width`` names clusters instead of a number."""
    layers, text = census.layers_, width.strip() if isinstance(width, str) else ""
    if text == "full" or FREQUENCY.fullmatch(text):
        return None
    if budget := BUDGET.fullmatch(text):
        return _within_budget(census, int(budget[1]))
    widths = _by_layer(census, width) if isinstance(width, Mapping) else dict.fromkeys(layers, width)
    median = census.population_.median_width
    forms = 'use an int or "2x" for each' if isinstance(width, Mapping) else FORMS
    numbers = {name: resolve_width(widths.get(name, "1x"), median(name), "width", forms) for name in layers}
    _warn_of_more_than_all(layers, numbers)
    return {name: min(number, layers[name].n_available) for name, number in numbers.items()}


def _by_layer(census: Census, width: Mapping[str, Width]) -> dict[str, Width]:
    """Widths by layer, of widths by layer or kind; a layer's own counts before its kind's."""
    layers, kinds = census.layers_, census.population_.architecture.kinds
    _check_names(width, [*dict.fromkeys(kinds.values()), *layers])
    by_kind = {name: width[kind] for name, kind in kinds.items() if kind in width and name in layers}
    return by_kind | {name: value for name, value in width.items() if name in layers}


def _warn_of_more_than_all(layers: Mapping[str, LayerCensus], numbers: Mapping[str, int]) -> None:
    above = [name for name, number in numbers.items() if number > layers[name].n_available]
    if above:
        first, n = above[0], len(above) - 1
        more = f" (and {n} other layer{'s' if n > 1 else ''})" if n else ""
        message = f"width of layer '{first}'{more} should be at most {layers[first].n_available}, got {numbers[first]}"
        warn(f"{message}: the assembly takes every unit there is")


def _frequent(layer: LayerCensus, threshold: float) -> Clusters:
    """The clusters of the census's own cut that reach the threshold: a prefix, since they are ordered by frequency."""
    n_kept = int((layer.frequency_ >= threshold - 1e-12).sum())
    if n_kept == 0:
        most = f"frequency>={layer.frequency_.max():.3g} in layer '{layer.name}'"
        raise InputError(f"width must be at most {most}, got frequency>={threshold}", cure="lower the threshold")
    labels = np.where(layer.labels_ < n_kept, layer.labels_, -1)
    return count(labels, layer.member, layer.n_members)


def _within_budget(census: Census, budget: int) -> dict[str, int]:
    """Widths at the largest multiple of the median widths whose network has at most ``budget`` parameters."""
    architecture, state = census.population_.architecture, census.networks_[0].state
    medians = {name: census.population_.median_width(name) for name in census.layers_}
    most = {name: layer.n_available for name, layer in census.layers_.items()}

    def widths(multiple: float) -> dict[str, int]:
        return {name: min(most[name], max(1, math.floor(multiple * median))) for name, median in medians.items()}

    def cost(multiple: float) -> int:
        shapes = architecture.shapes(widths(multiple), state)
        return sum(math.prod(shapes[name]) for name in architecture.program.learned)

    if cost(0) > budget:
        raise InputError(f"width must allow >= {cost(0)} parameters, one unit a layer, got {budget}")
    low, high = 0.0, max(most[name] / median for name, median in medians.items())
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle) <= budget else (low, middle)
    return widths(high if cost(high) <= budget else low)
