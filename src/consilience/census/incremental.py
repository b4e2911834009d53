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

from consilience.census.census import Census
from consilience.census.growth import LINKAGES, grow
from consilience.census.layer_units import LayerUnits
from consilience.clustering.clusterers import Clustering
from consilience.clustering.clusters import Clusters
from consilience.errors import InputError
from consilience.population.population import Population


def extend_census(census: Census, modules: Sequence[nn.Module] | Population) -> Census:
    """Return the census of its population and further members; the old one stays as it is.

    The new census can do all that a fresh one can: other widths, assemblies, storage (of its ``population_`` first).
    Its members are the old ones, then the new ones. In each layer the new units are put into the tree, which is then
    cut at the number of clusters that the census's parameters give for all members. Dead units are found among the new
    ones, clusters counted and ordered, and hyperplanes grounded in the layer below as by `Census.fit`, with the new
    clusters as the basis and all members projected on them.

    A cluster that had all its old units to itself before keeps its stability, which is that among the old members. Of
    any other cluster it is unknown, NaN: it can be measured only by clustering again.

    With U old units and V new ones, the clustering takes O(V (U + V) d) operations and O(V (U + V)) memory, where that
    of a fresh census takes O((U + V)² d) and O((U + V)²). Activations and projections are computed for all members in
    either.

    Parameters
    ----------
    census : a fitted census with a hierarchical clusterer.
    modules : the members to add, trained modules (which are copied) or a population of them. Their order, and that of
        their units, changes nothing but numbering, ties apart. Adding them in several calls may change where a unit is
        put, for what was added before is part of the tree.

    Raises
    ------
    InputError
        If the census has not been taken or is flat, there are no modules, or they differ from the members in more than
        parameters and widths.
    TracingError, FunctionChangedError
        If a module is not understood, or the proof of its layers fails.

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
    census.check_fitted()
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
    # Old units stay alive or dead, whatever rounding on another machine says: the old tree is of the live ones.
    extended.take_layers(grown, {name: layer.alive for name, layer in census.layers_.items()})
    return extended


def with_known_stability(clusters: Clusters, old: Clusters) -> Clusters:
    """Return clusters with the stability of the old cluster whose units, and no other old ones, they hold; else NaN.

    Parameters
    ----------
    clusters : of all units, those of ``old`` first.
    old : the clusters before.
    """
    among = clusters.labels[: len(old.labels)]
    both = np.zeros((len(clusters), len(old)), dtype=np.int64)
    np.add.at(both, (among[old.labels >= 0], old.labels[old.labels >= 0]), 1)
    best = both.argmax(1)
    held = both[np.arange(len(both)), best]
    same = (held == both.sum(1)) & (held == old.size[best])
    return replace(clusters, stability=np.where(same, old.stability[best], np.nan))
