"""Do networks split into parts? Their n-cuts against chance, what the parts of one of them do, and a page."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from consilience.checks import check_count
from consilience.data import Dataset
from consilience.errors import InputError
from consilience.evaluation import evaluate
from consilience.modularity import (
    Circuit,
    Clusterability,
    CrossModularity,
    cross_modularity,
    effective_circuit,
    lesions,
    specialisation,
)
from consilience.modularity.circuits import CRITERIA
from consilience.modularity.cross import clusterable_matrices
from consilience.modularity.graph import parts_of
from consilience.modularity.lesions import Lesions, Specialisation
from consilience.modularity.outputs import check_labelled
from consilience.names import Null
from consilience.population import Population
from consilience.report.modularity import ModularityResult, NetworkRow, modularity_sentences, modularity_table
from consilience.store import result_text
from consilience.units.architecture import TracedNetwork

KIND, FOUND = "modularity", "modularity.json"
CROSS_CLUSTERS, CROSS_NULLS = 4, 10  # clusters of each matrix for C, as published, and shuffles of it
LESION_SETS = 20  # random sets of units for each cluster
CIRCUIT_SAMPLES = 300
CIRCUIT = ("label", "criterion", "size", "n_left", "n_weights", "tpr", "tnr")  # in modularity.json


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
    subjects = [
        (f"member {k}" if several else name, "member" if several else "network", member)
        for k, member in enumerate(population)
    ]
    subjects += [(other, "assembly", member) for other, built in others.items() for member in built]
    rows, details, crosses = [], [], []
    for label, kind, member in subjects:
        progress(label)
        options = (settings.n_clusters, settings.null, settings.n_null, settings.random_state)
        details.append(Clusterability(*options, n_jobs=-1).fit(member.network))
        crosses.append(_cross(member.network, settings.random_state))
        accuracy = None if samples is None else evaluate(member.module, samples).accuracy
        rows.append(NetworkRow.of(label, kind, accuracy, details[-1], crosses[-1]))
    network, detail = population.members[shown].network, details[shown]
    clusters = {layer.name: detail.labels_[layer.name] for layer in network.architecture.free}
    probe, effects, circuits = None, None, list[Circuit]()
    if samples is not None and any((labels >= 0).any() for labels in clusters.values()):
        progress(f"{subjects[shown][0]}: lesions")
        x, y = samples.x, samples.y
        probe = specialisation(network, clusters, x, y)
        effects = lesions(network, clusters, x, y, n_random=LESION_SETS, random_state=settings.random_state)
        if sum(part.weights.numel() for part in parts_of(network)) <= settings.largest_circuit:
            some = samples.sample(CIRCUIT_SAMPLES, settings.random_state)
            circuits = list(_circuits(network, some, lambda label: progress(f"circuits of class {label}")))
    of_map = {(cross.map, cross.read): cross for cross in crosses[shown]}
    matrices = [(part, of_map.get((part.map, part.read))) for part in parts_of(network) if not part.per_unit]
    shown_name = f"member {shown} of {name}" if several else name
    return ModularityResult(rows, shown, shown_name, detail, matrices, probe, circuits, effects, obtained)


def found_text(result: ModularityResult) -> str:
    """Return the text of ``modularity.json``; numbers that are not finite are null."""
    detail, probe, effects = result.detail, result.probe, result.lesions
    body = {
        "summary": modularity_sentences(result),
        "table": modularity_table(result.rows),
        "networks": result.rows,
        "shown": result.name,
        "n_clusters": detail.n_clusters,
        "null": detail.null,
        "n_null": detail.n_null,
        "n_cut": detail.n_cut_,
        "null_values": detail.null_,
        "eigenvalues": detail.eigenvalues_,
        "labels": detail.labels_,
        "sizes": detail.sizes_,
        "matrices": [
            {"map": part.map, "read": part.read, "written": part.written, "value": cross.value if cross else math.nan}
            for part, cross in result.matrices
        ],
        "probe": None if probe is None else _probe(probe),
        "circuits": [{name: getattr(circuit, name) for name in CIRCUIT} for circuit in result.circuits],
        "lesions": None if effects is None else _effects(effects),
    }
    return result_text(body, FOUND)


def _probe(probe: Specialisation) -> dict[str, Any]:
    accuracies = {"accuracy": probe.before, "off": probe.off, "alone": probe.alone}
    return {"classes": [str(label) for label in range(len(probe.before))], **accuracies, "clusters": probe.labels}


def _effects(effects: Lesions) -> dict[str, Any]:
    drop = effects.accuracy
    random = {"random_mean": drop.mean, "random_sd": drop.sd}
    return {"sizes": effects.sizes, "drop": drop.single, **random, "double": drop.double, "clusters": effects.labels}


def _cross(network: TracedNetwork, random_state: int) -> list[CrossModularity]:
    """C of the matrices with at least as many rows and columns as clusters, possibly none."""
    if not clusterable_matrices(network, CROSS_CLUSTERS):
        return []
    return cross_modularity(network, "joint", CROSS_CLUSTERS, n_null=CROSS_NULLS, random_state=random_state)


def _circuits(network: TracedNetwork, samples: Dataset, progress: Callable[[int], None]) -> Iterator[Circuit]:
    labels = sorted(set(samples.y.tolist()))
    for label in labels if len(labels) > 1 else ():  # one class alone has no circuit
        progress(label)
        for criterion in CRITERIA:
            yield effective_circuit(network, samples.x, samples.y, label, criterion=criterion)
