"""Adding members to a census without clustering it again.

A hierarchical census keeps its tree, and a new unit is a new leaf of it, put where the linkage would have put it
(`consilience.census.growth`), whichever of the new members it belongs to. Old units stay together as they were, but
which merges a cut at a given number undoes may change: a cluster that many members own gets harder to merge with
another, as in a fresh census.

With distance "cosine" or "l2", deeper units are points in the basis of the layer below, and that is the new one: old
heights that no new unit changes stay those of the old basis, so that agreement with a fresh census is less.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import nn

from consilience.census.census import Census, check_fitted
from consilience.census.growth import LINKAGES, grow
from consilience.census.layer_units import LayerUnits
from consilience.clustering.clusterers import Clustering
from consilience.clustering.clusters import Clusters
from consilience.errors import InputError
from consilience.population.population import Population


def extend_census(census: Census, modules: Sequence[nn.Module] | Population) -> Census:
    """Return the census of its population and further members; the old one stays as it is.

    In each layer the new units are put into the tree, which is then cut at the number of clusters that the census's
    parameters give for all members. The rest is as in `Census.fit`: the new clusters are the basis, and all members are
    projected on them.

    A cluster whose old units were one cluster keeps its stability, which is that among the old members. The stability
    of any other is NaN: only clustering again can measure it.

    With U old units and V new ones, the clustering takes O(V (U + V) d) operations and O(V (U + V)) memory; a fresh
    one takes O((U + V)² d) and O((U + V)²). Both compute activations and projections of all members.

    Parameters
    ----------
    census : a fitted census with a hierarchical clusterer.
    modules : the members to add, trained modules (which are copied) or a population of them. Their order, and that of
        their units, changes nothing but numbering, ties apart. Adding them in several calls may change where a unit is
        put, because members added before are part of the tree.

    Raises
    ------
    InputError : also if modules differ from the members in more than parameters and widths.
    TracingError, FunctionChangedError : if tracing a module or proving its layers fails.

    Examples
    --------
    >>> import torch
    >>> from consilience.nets import MLP
    >>> _ = torch.manual_seed(0)
    >>> twin = MLP(4, [5], 2)
    >>> population = Population.from_modules([twin], torch.randn(8, 4))
    >>> census = Census(n_clusters=5).fit(population, torch.randn(64, 4))
    >>> extend_census(census, [twin, twin]).layers_["hidden.0"].size_
    array([3, 3, 3, 3, 3])
    """
    check_fitted(census)
    if census.clusterer not in LINKAGES:
        raise InputError(
            f"census must be hierarchical, its clusterer one of {', '.join(LINKAGES)}, got {census.clusterer}",
            cure="fit a fresh census on all members, or use a hierarchical clusterer",
        )

    def grown(units: LayerUnits, n_clusters: int | None) -> tuple[Clustering, Clusters]:
        old = census.layers_[units.name]
        clustering = grow(old.clustering, units.points, census.clusterer)
        return clustering, with_known_stability(units.count(clustering.cut(n_clusters)), old.clusters)

    extended = copy.copy(census)
    extended.set_members(census.population_.with_members(modules), census.calibration_)
    # Old units stay alive or dead, whatever the rounding of another machine: the old tree holds the live ones.
    extended.take_layers(grown, {name: layer.alive for name, layer in census.layers_.items()})
    return extended


def with_known_stability(clusters: Clusters, old: Clusters) -> Clusters:
    """Return clusters (of all units, the old ones first) with the stability of the old cluster that they hold.

    NaN unless a cluster holds all units of one old cluster and of no other.
    """
    among = clusters.labels[: len(old.labels)]
    both = np.zeros((len(clusters), len(old)), dtype=np.int64)
    np.add.at(both, (among[old.labels >= 0], old.labels[old.labels >= 0]), 1)
    best = both.argmax(1)
    held = both[np.arange(len(both)), best]
    same = (held == both.sum(1)) & (held == old.size[best])
    return replace(clusters, stability=np.where(same, old.stability[best], np.nan))
