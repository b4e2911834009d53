"""Do networks split into parts? Their n-cuts against chance, what the parts of one of them do, and a page."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from consilience.checks import check_count
from consilience.data import Dataset
from consilience.errors import InputError
from consilience.evaluation import evaluate
from consilience.modularity import (
    Clusterability,
    CrossModularity,
    cross_modularity,
    effective_circuit,
    lesions,
    specialisation,
)
from consilience.modularity.circuits import CRITERIA
from consilience.modularity.cross import clusterable_matrices, entries
from consilience.modularity.graph import parts_of
from consilience.modularity.nulls import Null
from consilience.modularity.outputs import check_labelled
from consilience.population import Population
from consilience.report.modularity import (
    CircuitRow,
    ClassClusters,
    LesionEffects,
    ModularityResult,
    NetworkRow,
    UnitsOf,
    WeightMatrix,
    modularity_sentences,
    modularity_table,
)
from consilience.store.config import result_text
from consilience.units.architecture import TracedNetwork

KIND, FOUND = "modularity", "modularity.json"
CROSS_CLUSTERS, CROSS_NULLS = 4, 10  # clusters of each matrix for C, as published, and shuffles of it
LESION_SETS = 20  # random sets of units for each cluster
CIRCUIT_SAMPLES = 300


@dataclass(frozen=True)
class Settings:
    """What is asked of each network.

    Attributes
    ----------
    n_clusters, null, n_null : of `Clusterability`.
    largest_circuit : weights up to which circuits are sought.
    random_state : seed.
    """

    n_clusters: int
    null: Null
    n_null: int
    largest_circuit: int
    random_state: int


def run_modularity(
    population: Population,
    shown: int,
    name: str,
    others: Mapping[str, Population],
    samples: Dataset | None,
    settings: Settings,
    obtained: Mapping[str, Any],
    progress: Callable[[str], None],
) -> ModularityResult:
    """Return what there is to say of the networks of a population, and of one of them in detail.

    Parameters
    ----------
    population : the networks.
    shown : the member shown in detail.
    name : what the population is called.
    others : name → networks that are compared with the members, as an assembly of them is.
    samples : labelled, for accuracy, lesions and circuits; None for none of these.
    settings : of every part.
    obtained : command, seed and versions, for the page.
    progress : told what is being done.

    Raises
    ------
    InputError
        If there is no such member, or a setting does not fit a network.
    """
    check_count("--member", shown, least=0, most=len(population) - 1)
    for other, built in others.items():
        if len(built) > 1:
            raise InputError(f"--{other} must be the directory of one network, got {len(built)} networks")
    if samples is not None:
        for member in (*population, *(m for built in others.values() for m in built)):
            check_labelled(member.network, samples.x, samples.y)
    several = len(population) > 1
    subjects = [(f"member {k}" if several else name, "member" if several else "network", m)
                for k, m in enumerate(population)]  # fmt: skip
    subjects += [(other, "assembly", member) for other, built in others.items() for member in built]
    rows = list[NetworkRow]()
    for k, (called, kind, member) in enumerate(subjects):
        progress(called)
        found = Clusterability(
            settings.n_clusters, settings.null, settings.n_null, settings.random_state, n_jobs=-1
        ).fit(member.network)
        cross = _cross(member.network, settings.random_state)
        accuracy = None if samples is None else evaluate(member.module, samples).accuracy
        rows.append(_row(called, kind, accuracy, found, cross))
        if k == shown:
            detail, matrices = found, _matrices(member.network, cross)
    network = population.members[shown].network
    clusters = {layer.name: detail.labels_[layer.name] for layer in network.architecture.free}
    probe, effects, circuits = None, None, list[CircuitRow]()
    if samples is not None and any((labels >= 0).any() for labels in clusters.values()):
        progress(f"{subjects[shown][0]}: lesions")
        probe = _probe(network, clusters, samples)
        effects = _effects(network, clusters, samples, settings.random_state)
        if sum(part.weights.numel() for part in parts_of(network)) <= settings.largest_circuit:
            some = samples.sample(CIRCUIT_SAMPLES, settings.random_state)
            circuits = list(_circuits(network, some, lambda label: progress(f"circuits of class {label}")))
    return ModularityResult(
        name=f"member {shown} of {name}" if several else name, n_clusters=settings.n_clusters,
        null=settings.null, n_null=settings.n_null, rows=rows, null_values=detail.null_, n_cut=detail.n_cut_,
        eigenvalues=detail.eigenvalues_,
        groups={name: UnitsOf(detail.labels_[name], detail.coordinates_[name]) for name in detail.labels_},
        sizes=detail.sizes_, matrices=matrices, probe=probe, circuits=circuits, lesions=effects, obtained=obtained,
    )  # fmt: skip


def found_text(result: ModularityResult) -> str:
    """Return what ``modularity.json`` says; numbers that are not finite are null."""
    body = {
        "summary": modularity_sentences(result), "table": modularity_table(result.rows), "networks": result.rows,
        "shown": result.name,
        "n_clusters": result.n_clusters, "null": result.null, "n_null": result.n_null, "n_cut": result.n_cut,
        "null_values": result.null_values, "eigenvalues": result.eigenvalues,
        "labels": {name: units.labels for name, units in result.groups.items()}, "sizes": result.sizes,
        "matrices": [{"map": m.map, "read": m.read, "written": m.written, "value": m.value} for m in result.matrices],
        "probe": result.probe, "circuits": result.circuits, "lesions": result.lesions,
    }  # fmt: skip
    return result_text(body, FOUND)


def _cross(network: TracedNetwork, random_state: int) -> list[CrossModularity]:
    """C of the matrices with at least as many rows and columns as clusters, possibly none."""
    if not clusterable_matrices(network, CROSS_CLUSTERS):
        return []
    return cross_modularity(network, "joint", CROSS_CLUSTERS, n_null=CROSS_NULLS, random_state=random_state)


def _row(
    name: str, kind: str, accuracy: float | None, found: Clusterability, cross: Sequence[CrossModularity]
) -> NetworkRow:
    has_null = len(found.null_) > 1
    return NetworkRow(
        name=name, kind=kind, accuracy=accuracy, n_units=found.graph_.n_nodes,
        n_removed=sum(map(len, found.removed_.values())), n_cut=found.n_cut_,
        null_mean=float(found.null_.mean()) if has_null else math.nan,
        null_sd=float(found.null_.std(ddof=1)) if has_null else math.nan, z=found.z_, p=found.p_,
        cross=float(np.mean([c.value for c in cross])) if cross else math.nan,
        cross_null=float(np.mean([c.null.mean() for c in cross])) if cross else math.nan,
    )  # fmt: skip


def _matrices(network: TracedNetwork, cross: Sequence[CrossModularity]) -> list[WeightMatrix]:
    known, found = {(c.map, c.read): c for c in cross}, []
    for part in parts_of(network):
        if not part.per_unit:
            c = known.get((part.map, part.read))
            value, null, z = (math.nan, np.zeros(0), math.nan) if c is None else (c.value, c.null, c.z)
            found.append(WeightMatrix(part.map, part.read, part.written, entries(part), value, null, z))
    return found


def _probe(network: TracedNetwork, clusters: Mapping[str, Any], samples: Dataset) -> ClassClusters:
    found = specialisation(network, clusters, samples.x, samples.y)
    classes = [str(label) for label in range(len(found.before))]
    return ClassClusters(classes, found.before, found.off, found.alone, found.labels)


def _effects(network: TracedNetwork, clusters: Mapping[str, Any], samples: Dataset, random_state: int) -> LesionEffects:
    found = lesions(network, clusters, samples.x, samples.y, n_random=LESION_SETS, random_state=random_state)
    drop = found.accuracy
    return LesionEffects(found.sizes, drop.single, drop.mean, drop.sd, drop.double, found.labels)


def _circuits(network: TracedNetwork, samples: Dataset, progress: Callable[[int], None]) -> Iterator[CircuitRow]:
    x, y = samples.x, samples.y
    labels = sorted(set(y.tolist()))
    for label in labels if len(labels) > 1 else ():  # of one class alone nothing can be told
        progress(label)
        for criterion in CRITERIA:
            found = effective_circuit(network, x, y, label, criterion=criterion)
            yield CircuitRow(str(label), criterion, found.size, found.n_left, found.n_weights, found.tpr, found.tnr)
