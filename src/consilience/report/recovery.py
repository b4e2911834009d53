"""Which network produced these outputs? What a recovery found, whether it can be trusted, and one page about it.

A recovery that is not exact is called so in the title, the first sentence and the summary; it is never a success.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from consilience.errors import InputError
from consilience.report.definitions import definitions
from consilience.report.labels import Label, right_of
from consilience.report.page import framed, shell
from consilience.report.students import (
    CUT,
    KEPT,
    SINGLE,
    StudentLayer,
    UnitCluster,
    kept_and_dropped,
    key_above,
    similarities,
    tree_of_units,
)
from consilience.report.style import INK, MUTED, OTHER_COLOURS, OTHER_MARKERS, WIDTH, own_axes, styled

__all__ = [
    "Comparison",
    "RecoveryResult",
    "StudentLayer",
    "UnitCluster",
    "kept_and_dropped",
    "recovered_weights",
    "recovery_sentences",
    "render_recovery",
    "similarities",
    "training_errors",
    "tree_of_units",
]

LOWEST = 1e-34  # an error of exactly 0 is drawn here
COLOURS, MARKERS = (KEPT[0], *OTHER_COLOURS), ("o", *OTHER_MARKERS)
TREE = (
    "The tree of the students' hyperplanes (average linkage). Units of different students that merge far down are one "
    "unit of the network; others merge near the top. The tree is cut in the middle of the shaded plateau, over which "
    "the number of clusters that hold enough students does not change."
)
MATRIX = "In the order of the clusters; kept ones are framed. What students agree on are squares along the diagonal."
CLUSTERS = (
    "Every cluster of two units or more at the cut. Dotted lines are limits; kept are those in the tinted corner whose "
    "units point in one direction. Weights below the axis are drawn on it."
)
ERRORS = (
    "Mean squared errors on the outputs given, as a share of their variance, of each student (filled: its units were "
    "clustered), sorted. The recovered network has fewer units than any student; if it is as good as they are, it can "
    "stand for all of them."
)
WEIGHTS = (
    "Each weight and bias of the recovered network against the teacher's, after units are put in the teacher's order, "
    "with its signs and scales."
)
READING = (
    "Errors are mean squared errors as a share of the outputs' variance: 1 is as good as a constant, 1e-24 is rounding."
)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Differences to a teacher, after permutations, signs and scales.

    Attributes
    ----------
    missing, excess : units of the teacher without a partner, and recovered ones.
    worst_angle : radians between paired hyperplanes, at most.
    worst_error : relative error of paired units' parameters, at most.
    function_error : mean squared error on fresh inputs, as a share of the variance.
    weights : by layer, the teacher's and the recovered values, paired.
    """

    missing: int
    excess: int
    worst_angle: float
    worst_error: float
    function_error: float
    weights: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]


@dataclass(frozen=True, eq=False)
class RecoveryResult:
    """Everything on the page of a recovery.

    Attributes
    ----------
    sizes : inputs, units of each hidden layer, outputs; without hidden layers nothing was recovered.
    activation : its name.
    n_samples : of the outputs given.
    exact : whether the network is as good as the students.
    reason : why it is not; "" if it is.
    cautions : what else keeps a reader from trusting it.
    error, students_error : mean squared errors, as a share of the outputs' variance; the students' is a median.
    limit : the error that students must reach to be used.
    layers : the students, by hidden layer reached.
    unsaved : why no network is saved; "" if it is.
    trials : activation → what it gave, where they were tried.
    comparison : with the teacher, if there is one that it can be compared with.
    uncompared : why it cannot; "" otherwise.
    obtained : command, seed, versions, settings.
    """

    sizes: tuple[int, ...]
    activation: str
    n_samples: int
    exact: bool
    reason: str
    cautions: Sequence[str]
    error: float
    students_error: float
    limit: float
    layers: Sequence[StudentLayer]
    unsaved: str
    trials: Mapping[str, str] = field(default_factory=dict)
    comparison: Comparison | None = None
    uncompared: str = ""
    obtained: Mapping[str, Any] = field(default_factory=dict)

    @property
    def network(self) -> str:
        """What the network is, in words."""
        widths = self.sizes[1:-1]
        if not widths:
            return "no network"
        units = " and ".join(map(str, widths))
        plural = "s" if len(widths) > 1 else ""
        return f"{len(widths)} hidden layer{plural} of {units} {self.activation} unit{'' if widths == (1,) else 's'}"


def recovery_sentences(result: RecoveryResult) -> list[str]:
    """Tell what was recovered, how good it is and how it came about; first of all whether it is to be trusted."""
    used = f"{len(result.layers[0].used)} of {len(result.layers[0].losses)}"
    network = f"{result.network}, {result.sizes[0]} inputs, {result.sizes[-1]} outputs"
    errors = f"{result.students_error:.1e} (median of {used}); shares of the outputs' variance."
    own = f"Error of the network: {result.error:.1e}, of the students that it was made of: "
    errors = (own if np.isfinite(result.error) else "Error of the students: ") + errors
    first = f"Recovered: {network}." if result.exact else f"NOT RECOVERED, do not trust it: {result.reason}."
    found = [] if result.exact or not result.sizes[1:-1] else [f"What was found: {network}."]
    cautions = [f"CAUTION: {caution}." for caution in result.cautions]
    unsaved = [result.unsaved] if result.unsaved else []
    return [first, *cautions, *found, errors, *map(_clusters, result.layers), *_teacher(result), *unsaved]


@styled
def training_errors(result: RecoveryResult, ax: Axes | None = None) -> Axes:
    """Draw the students' errors, sorted, and the network's on the outputs given and, with a teacher, on fresh inputs.

    Raises
    ------
    InputError
        If no student has a finite error.
    """
    ax = ax or own_axes(WIDTH, 3.3, left=0.7, right=1.8, bottom=0.5, top=0.3)
    lines: list[tuple[str, float, str, Any]] = [("students must reach", result.limit, MUTED, (0, (2, 2)))]
    if np.isfinite(result.error):
        lines.append(("recovered network", result.error, CUT, "-"))
    if result.comparison is not None:
        lines.append(("it, on fresh inputs", result.comparison.function_error, INK, (0, (5, 2))))
    drawn = [max(value, LOWEST) for _, value, _, _ in lines]
    for index, layer in enumerate(result.layers):
        losses = np.asarray(layer.losses, float)
        order = [k for k in np.argsort(losses) if np.isfinite(losses[k])]
        values = np.maximum(losses[order], LOWEST)
        faces = [COLOURS[index % len(COLOURS)] if k in layer.used else "white" for k in order]
        ax.scatter(
            np.arange(len(order)) + 1, values, s=26, marker=MARKERS[index % len(MARKERS)], c=faces,
            edgecolors=COLOURS[index % len(COLOURS)], linewidths=1, label=f"students of {layer.name}", zorder=3,
        )  # fmt: skip
        drawn += values.tolist()
    if len(drawn) == len(lines):
        raise InputError("no student has a finite error", where="training_errors", got=f"{len(result.layers)} layers")
    for (_, _, colour, style), value in zip(lines, drawn, strict=False):
        ax.axhline(value, color=colour, linewidth=1.2, linestyle=style)
    ax.set_yscale("log")
    ax.set(ylim=(min(drawn) / 10, max(drawn) * 10), xlim=(0.5, max(len(layer.losses) for layer in result.layers) + 0.5))
    ax.xaxis.set_major_locator(MaxNLocator(10, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    ax.set(xlabel="students, by error", ylabel="error (share of the variance)")
    right_of(ax, [Label(f"{name} {v:.0e}", 0, d, c) for (name, v, c, _), d in zip(lines, drawn, strict=False)])
    if len(result.layers) > 1:
        key_above(ax, ax.get_legend_handles_labels()[0])
    return ax


@styled
def recovered_weights(comparison: Comparison, ax: Axes | None = None) -> Axes:
    """Draw recovered weights against the teacher's, after matching; on the line they are equal.

    Raises
    ------
    InputError
        If no units are paired.
    """
    if not any(len(true) for true, _ in comparison.weights.values()):
        raise InputError("no units are paired with the teacher's", where="recovered_weights", got="no weights")
    ax = ax or own_axes(5.0, 4.2, left=0.65, right=0.15, bottom=0.5, top=0.15)
    values = np.concatenate([np.concatenate(pair) for pair in comparison.weights.values()])
    margin = 0.06 * float(np.ptp(values)) or 1.0
    limits = (float(values.min()) - margin, float(values.max()) + margin)
    ax.plot(limits, limits, color=SINGLE, linewidth=0.9, zorder=1)
    for index, (name, (true, found)) in enumerate(comparison.weights.items()):
        ax.plot(
            true, found, MARKERS[index % len(MARKERS)], color=COLOURS[index % len(COLOURS)], alpha=0.7,
            markeredgewidth=0, label=name,
        )  # fmt: skip
    ax.set(xlim=limits, ylim=limits, xlabel="the teacher's weight or bias", ylabel="recovered")
    ax.legend(loc="upper left", handletextpad=0.2)
    return ax


def render_recovery(result: RecoveryResult) -> str:
    """Return the report of a recovery as one self-contained HTML page."""
    first, *rest = recovery_sentences(result)
    title = f"A network recovered: {result.network}" if result.exact else "Not recovered: do not trust this network"
    subtitle = f"{result.n_samples} inputs and their outputs · {result.sizes[0]} inputs, {result.sizes[-1]} outputs"
    with mpl.rc_context():
        mpl.rcdefaults()  # whatever style the user has set
        sections = [
            _errors(result),
            _against_the_teacher(result),
            *(_layer(layer, index) for index, layer in enumerate(result.layers)),
            _obtained(result),
        ]
    summary = "<br>\n".join([f"<strong>{escape(first)}</strong>", *map(escape, rest)])
    return shell(title, subtitle, summary, READING, sections)


def _clusters(layer: StudentLayer) -> str:
    if layer.merges is None:
        return f"{layer.name}: {len(layer.used)} students used; no cluster survives."
    dropped = "; ".join(f"{count} with {rule}" for rule, count in layer.dropped.items())
    low, high = layer.plateau
    text = f"{layer.name}: {len(layer.kept)} clusters kept, {sum(layer.dropped.values())} dropped"
    text += f" ({dropped})" if dropped else ""
    text += f"; cut at {layer.height:.2g}, plateau {low:.2g} to {high:.2g}"
    return text + (f"; {layer.n_excess} units removed that nothing needs." if layer.n_excess else ".")


def _teacher(result: RecoveryResult) -> list[str]:
    found = result.comparison
    if found is None:
        return [f"Not compared with the teacher: {result.uncompared}."] if result.uncompared else []
    text = f"Against the teacher: {found.missing} of its units not found, {found.excess} found that it lacks"
    if np.isfinite(found.worst_angle):
        text += f"; largest angle {found.worst_angle:.1e}, largest relative error of a unit {found.worst_error:.1e}"
    return [f"{text}; error on fresh inputs {found.function_error:.1e}."]


def _errors(result: RecoveryResult) -> str:
    picture = framed(training_errors(result), "errors", "Errors of the students and of the network, sorted", ERRORS)
    return "<h2>Is it as good as the students?</h2>\n" + picture


def _against_the_teacher(result: RecoveryResult) -> str:
    found = result.comparison
    if found is None or not any(len(true) for true, _ in found.weights.values()):
        return ""
    lacking = f" {found.missing} units of the teacher have no partner." if found.missing else ""
    picture = framed(recovered_weights(found), "weights", "Recovered against true weights", WEIGHTS + lacking)
    return "<h2>Is it the teacher?</h2>\n" + picture


def _layer(layer: StudentLayer, index: int) -> str:
    heading = f"<h2>What the students share: {escape(layer.name)}</h2>\n<p>{escape(_clusters(layer))}</p>"
    if layer.merges is None:
        return heading
    return "\n".join([
        heading,
        framed(tree_of_units(layer), f"tree{index}", f"Tree of the students' units in {layer.name}", TREE),
        framed(similarities(layer), f"matrix{index}", f"Similarities of hyperplanes in {layer.name}", MATRIX),
        framed(kept_and_dropped(layer), f"clusters{index}", f"Clusters kept and dropped in {layer.name}", CLUSTERS),
    ])  # fmt: skip


def _obtained(result: RecoveryResult) -> str:
    students = {layer.name: {status: layer.status.count(status) for status in sorted(set(layer.status))}
                for layer in result.layers}  # fmt: skip
    known = {
        "Command, seed, versions": result.obtained,
        "How training of the students ended": students,
        "Activations tried": result.trials,
    }
    parts = [f"<h3>{name}</h3>\n{definitions(mapping)}" for name, mapping in known.items() if mapping]
    return "\n".join(["<h2>How every number was obtained</h2>", *parts])
