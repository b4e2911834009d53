"""Do networks split into parts? Their n-cuts against chance, what the parts of one of them do, and a page."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from consilience.checks import check_count
from consilience.data import Dataset
from consilience.errors import InputError
from consilience.evaluation import RegressionScore, Score, evaluate
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
from consilience.modularity.graph import parts_of, representative
from consilience.modularity.lesions import Lesions, Specialisation
from consilience.modularity.outputs import as_told
from consilience.population import Member, Population
from consilience.report.modularity import ModularityResult, NetworkRow, modularity_sentences, modularity_table
from consilience.store import result_text
from consilience.units.architecture import TracedNetwork

CROSS_CLUSTERS, CROSS_NULLS = 4, 10  # clusters of each matrix for C, as published, and shuffles of it
LESION_SETS = 20  # random sets of units for each cluster
CIRCUIT_SAMPLES = 300
CIRCUIT = ("label", "criterion", "size", "n_left", "n_weights", "tpr", "tnr")  # in modularity.json


@dataclass(frozen=True)
class Networks:
    """The networks to measure."""

    name: str  # of the population
    population: Population
    shown: int  # the member shown in detail
    assembly: Population | None  # one network that was built from the members

    def __post_init__(self) -> None:
        check_count("--member", self.shown, least=0, most=len(self.population) - 1)
        if self.assembly is not None and len(self.assembly) > 1:
            raise InputError(f"--assembly must be the directory of one network, got {len(self.assembly)} networks")

    @property
    def rows(self) -> list[tuple[str, str, Member]]:
        """Name, kind and network of each row of the table."""
        built = [] if self.assembly is None else [("assembly", "assembly", self.assembly.members[0])]
        if len(self.population) == 1:
            return [(self.name, "network", self.population.members[0]), *built]
        return [*((f"member {k}", "member", member) for k, member in enumerate(self.population)), *built]


def run_modularity(
    networks: Networks,
    measure: Callable[[], Clusterability],
    samples: Dataset | None,
    largest_circuit: int,
    obtained: Mapping[str, Any],
    progress: Callable[[str], None],
) -> ModularityResult:
    """Return the n-cuts of networks, and the clusters of one of them in detail.

    Accuracies, lesions and, up to ``largest_circuit`` weights, circuits need labeled samples.
    """
    if samples is not None:
        for _, _, member in networks.rows:
            as_told(member.network, samples.x, samples.y)
    rows, details, crosses = [], [], []
    for name, kind, member in networks.rows:
        progress(name)
        details.append(measure().fit(member.network))
        crosses.append(_cross(member.network, details[-1]))
        score = None if samples is None else evaluate(member.module, samples)
        accuracy, r2 = (
            None if not isinstance(score, kind_of) else score.quality for kind_of in (Score, RegressionScore)
        )
        rows.append(NetworkRow.of(name, kind, accuracy, details[-1], crosses[-1], r2))
    shown = networks.shown
    network, detail, name = networks.population.members[shown].network, details[shown], networks.rows[shown][0]
    clusters = {layer.name: detail.labels_[layer.name] for layer in network.architecture.free}
    probe, effects, circuits = None, None, list[Circuit]()
    if samples is not None and any((labels >= 0).any() for labels in clusters.values()):
        progress(f"{name}: lesions")
        x, y, seed = samples.x, samples.y, detail.random_state
        probe = specialisation(network, clusters, x, y)
        effects = lesions(network, clusters, x, y, n_random=LESION_SETS, random_state=seed)
        small = sum(part.weights.numel() for part in parts_of(network)) <= largest_circuit
        if small and not samples.y.is_floating_point():  # circuits are of classes
            some = samples.sample(CIRCUIT_SAMPLES, seed)
            circuits = list(_circuits(network, some, lambda label: progress(f"circuits of class {label}")))
    of_map = {(cross.map, cross.read): cross for cross in crosses[shown]}
    measured = representative(network, detail.scale)
    matrices = [(part, of_map.get((part.map, part.read))) for part in parts_of(measured) if not part.per_unit]
    shown_name = name if len(networks.population) == 1 else f"{name} of {networks.name}"
    return ModularityResult(rows, shown, shown_name, detail, matrices, probe, circuits, effects, obtained)


def found_text(result: ModularityResult) -> str:
    """Return the text of ``modularity.json``; numbers that are not finite are null."""
    detail, probe, effects = result.detail, result.probe, result.lesions
    body = {
        "summary": modularity_sentences(result),
        "table": modularity_table(result.rows).markdown(),
        "networks": result.rows,
        "shown": result.name,
        "n_clusters": detail.n_clusters,
        "null": detail.null,
        "n_null": detail.n_null,
        "scale": detail.scale,
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
    return result_text(body, "modularity.json")


def _probe(probe: Specialisation) -> dict[str, Any]:
    name = "classes" if probe.metric == "accuracy" else "outputs"
    accuracies = {"accuracy" if name == "classes" else "r2": probe.before, "off": probe.off, "alone": probe.alone}
    return {name: [str(label) for label in range(len(probe.before))], **accuracies, "clusters": probe.labels}


def _effects(effects: Lesions) -> dict[str, Any]:
    drop = effects.accuracy
    random = {"random_mean": drop.mean, "random_sd": drop.sd}
    return {"sizes": effects.sizes, "drop": drop.single, **random, "double": drop.double, "clusters": effects.labels}


def _cross(network: TracedNetwork, detail: Clusterability) -> list[CrossModularity]:
    """C of the matrices with at least as many rows and columns as clusters, possibly none."""
    if not clusterable_matrices(network, CROSS_CLUSTERS):
        return []
    seed, scale = detail.random_state, detail.scale
    return cross_modularity(network, "joint", CROSS_CLUSTERS, n_null=CROSS_NULLS, scale=scale, random_state=seed)


def _circuits(network: TracedNetwork, samples: Dataset, progress: Callable[[int], None]) -> Iterator[Circuit]:
    labels = sorted(set(samples.y.tolist()))
    for label in labels if len(labels) > 1 else ():  # one class alone has no circuit
        progress(label)
        for criterion in CRITERIA:
            yield effective_circuit(network, samples.x, samples.y, label, criterion=criterion)
