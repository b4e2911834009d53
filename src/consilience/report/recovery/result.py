"""What a recovery gives: the network's size, how good it is, and a verdict.

A network that is not identified is called so in the title, in the first sentence and in the summary; it is never a
success.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from consilience.recovery import Diagnostics
from consilience.recovery.distance import Distance
from consilience.recovery.evidence import Evidence
from consilience.recovery.recover import Stage
from consilience.report.numbers import counted
from consilience.report.tables import Column, Table


@dataclass(frozen=True, eq=False)
class RecoveryResult:
    """Everything on the page of a recovery."""

    sizes: tuple[int, ...]  # inputs, units of each hidden layer, outputs; without hidden layers nothing was recovered
    activation: str  # its name
    n_samples: int  # of the outputs given
    diagnostics: Diagnostics  # whether the network is exact, and the students, by hidden layer reached
    limit: float  # the error that students must reach to be used
    expected: tuple[int, ...] = ()  # units of each hidden layer; empty if they were searched for
    cautions: Sequence[str] = ()  # other reasons not to trust the network
    unsaved: str = ""  # why no network is saved; "" if it is
    distance: Distance | None = None  # to the teacher, if there is one that the network can be compared with
    uncompared: str = ""  # why it cannot; "" otherwise
    obtained: Mapping[str, Any] = field(default_factory=dict)  # command, seed, versions, settings

    @property
    def layers(self) -> dict[str, Stage]:
        """Name of each hidden layer reached → its students."""
        return {f"hidden.{depth}": stage for depth, stage in enumerate(self.diagnostics.stages)}

    @property
    def network(self) -> str:
        """The network in words."""
        widths = self.sizes[1:-1]
        if not widths:
            return "no network"
        units = " and ".join(map(str, widths))
        plural = "s" if len(widths) > 1 else ""
        return f"{len(widths)} hidden layer{plural} of {units} {self.activation} unit{'' if widths == (1,) else 's'}"


def recovery_sentences(result: RecoveryResult) -> list[str]:
    """Return first whether the network can be trusted, then errors, evidence, clusters and distance to the teacher."""
    found, (n_inputs, *widths, n_outputs) = result.diagnostics, result.sizes
    students = found.stages[0]
    network = f"{result.network}, {n_inputs} inputs, {n_outputs} outputs"
    first = f"Recovered: {network}." if found.exact else f"NOT RECOVERED, do not trust it: {found.reason}."
    if found.explains and found.evidence is not None and not found.exact:
        first = f"EXPLAINS THE OUTPUTS, NOT IDENTIFIED, do not trust it: {found.evidence.reason}."
    sentences = [first, *(f"CAUTION: {caution}." for caution in result.cautions)]
    if widths and not found.exact:
        sentences.append(f"What was found: {network}.")
    if widths and result.expected and result.expected != tuple(widths):
        units, expected = (" and ".join(map(str, numbers)) for numbers in (widths, result.expected))
        sentences.append(f"{expected} units were expected, and {units} found: students wide enough show the size.")
    network_error = f"network: {found.error:.1e}, of the students that it was made of"
    text = f"Error of the {network_error if np.isfinite(found.error) else 'students'}: {found.students_error:.1e} "
    text += f"(median of {len(students.used)} of {len(students.students.losses)}); shares of the outputs' variance."
    sentences.append(text)
    if found.evidence is not None:
        sentences.append(evidence_sentence(found.evidence))
    sentences += [clusters_sentence(name, stage) for name, stage in result.layers.items()]
    return [*sentences, *_teacher(result), *([result.unsaved] if result.unsaved else [])]


def evidence_sentence(evidence: Evidence) -> str:
    """Return the held-out error, the rank and the agreement of the students."""
    text = f"Error on {evidence.n_held_out} held-out rows: {evidence.held_out_error:.1e}, on the "
    text += f"{evidence.n_fitted} fitted rows: {evidence.error:.1e}. "
    determined = "an unknown number" if evidence.rank < 0 else str(evidence.rank)
    text += f"The fitted rows determine {determined} of {evidence.n_free} free parameters"
    if doubted := sum(not unit.identified for layer in evidence.units for unit in layer):
        text += f", and not {counted(doubted, 'unit')}"
    agreed = [f"{students.n_agreeing} of {students.n_reaching} students" for students in evidence.agreement]
    return f"{text}. Every unit is shared by {' and, one layer up, '.join(agreed)} that reach the outputs."


def evidence_table(evidence: Evidence) -> Table:
    """Return the evidence for each unit as a table."""
    headings = ("Rows where it is active", "Weights", "Rows it rests on", "Standard error", "Identified")
    rows = [
        [
            *(f"hidden.{depth}, unit {j}", str(unit.n_active), str(unit.n_weights), str(unit.n_decisive)),
            *(f"{unit.error:.1e}", "yes" if unit.identified else "no"),
        ]
        for depth, layer in enumerate(evidence.units)
        for j, unit in enumerate(layer)
    ]
    return Table.plain([Column("Unit", is_text=True), *map(Column, headings)], rows)


def clusters_sentence(name: str, stage: Stage) -> str:
    """Return how many clusters of a layer's units were kept and dropped, and where the tree was cut."""
    cut = stage.cut
    if cut is None:
        return f"{name}: {len(stage.used)} students used; no cluster survives."
    rules = Counter(rule_of(cluster.dropped) for cluster in cut.clusters if cluster.dropped)
    dropped = "; ".join(f"{count} with {rule}" for rule, count in sorted(rules.items()))
    text = f"{name}: {len(cut.kept)} clusters kept, {rules.total()} dropped{f' ({dropped})' if dropped else ''}"
    text += f"; cut at {cut.height:.2g}, plateau {cut.plateau[0]:.2g} to {cut.plateau[1]:.2g}"
    return text + (f"; {stage.n_excess} units removed that nothing needs." if stage.n_excess else ".")


def rule_of(dropped: str) -> str:
    """Return the rule that dropped a cluster, in the same words for all clusters that it dropped.

    >>> rule_of("students < 16"), rule_of("angle 0.31 > 0.26"), rule_of("")
    ('fewer than 16 students', 'angle > 0.26', 'kept')
    """
    words = dropped.split()
    if not words or words[0] == "outgoing":
        return dropped or "kept"
    return f"angle > {words[-1]}" if words[0] == "angle" else f"fewer than {words[-1]} {words[0]}"


def _teacher(result: RecoveryResult) -> list[str]:
    distance = result.distance
    if distance is None:
        return [f"Not compared with the teacher: {result.uncompared}."] if result.uncompared else []
    text = f"Against the teacher: {distance.missing} of its units not found, {distance.excess} found that it lacks"
    if np.isfinite(distance.worst_angle):
        text += f"; largest angle {distance.worst_angle:.1e}"
        text += f", largest relative error of a unit {distance.worst_error:.1e}"
    return [f"{text}; error on fresh inputs {distance.function_error**2:.1e}."]
