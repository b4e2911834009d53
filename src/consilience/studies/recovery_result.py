"""A recovery as its page shows it, and as JSON holds it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from consilience.errors import InputError
from consilience.nets import MLP
from consilience.recovery import ExpandAndCluster, IdentifiabilityWarning
from consilience.recovery.recover import CONVERGED, Stage
from consilience.report.recovery import (
    Comparison,
    RecoveryResult,
    StudentLayer,
    UnitCluster,
    recovery_sentences,
)
from consilience.store import finite, plain
from consilience.store.config import config_text
from consilience.studies.unknown_network import UnknownNetwork

KIND = "recovery"


def run_recovery(unknown: UnknownNetwork, estimator: ExpandAndCluster, obtained: Mapping[str, Any]) -> RecoveryResult:
    """Recover a network, and return what the page shows.

    Parameters
    ----------
    unknown : inputs, outputs and, if it is known, the network.
    estimator : not yet fitted.
    obtained : command, seed, versions and request, for the page.

    Raises
    ------
    InputError
        If a setting is out of range.
    TrainingError
        If no student comes near the outputs.
    """
    cautions = _fit(estimator, unknown)
    network, unsaved = estimator.model_, ""
    if network is None:
        unsaved = "There is no network to save."
    elif not isinstance(network, MLP):
        unsaved = "The network is not saved: the signs of its units could not be told, so that it is no plain MLP."
    return _result(unknown, estimator, cautions, unsaved, obtained)


def _fit(estimator: ExpandAndCluster, unknown: UnknownNetwork) -> list[str]:
    """Fit, and return what is to be said about whether the outputs tell the network."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", IdentifiabilityWarning)
        estimator.fit(unknown.x.numpy(), unknown.y.numpy())
    for each in caught:
        if not issubclass(each.category, IdentifiabilityWarning):
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    return [str(each.message) for each in caught if issubclass(each.category, IdentifiabilityWarning)]


def _result(
    unknown: UnknownNetwork,
    estimator: ExpandAndCluster,
    cautions: Sequence[str],
    unsaved: str,
    obtained: Mapping[str, Any],
) -> RecoveryResult:
    found = estimator.diagnostics_
    comparison, uncompared = _compared(unknown, estimator)
    return RecoveryResult(
        sizes=(unknown.x.shape[1], *estimator.n_units_, unknown.y.shape[1]), activation=estimator.activation_,
        n_samples=len(unknown.x), exact=found.exact, reason=found.reason, cautions=cautions, error=found.error,
        students_error=found.students_error, limit=max(CONVERGED, 2 * estimator.noise**2),
        layers=[_layer(stage, f"hidden.{i}", estimator) for i, stage in enumerate(found.stages)], unsaved=unsaved,
        trials={t.name: f"median error {t.loss:.1e}, plateau of e^{t.plateau:.1f}" for t in found.activations},
        comparison=comparison, uncompared=uncompared, obtained=obtained,
    )  # fmt: skip


def _layer(stage: Stage, name: str, estimator: ExpandAndCluster) -> StudentLayer:
    cut, units = stage.cut, stage.units
    clusters = [
        UnitCluster(c.units.tolist(), c.n_students, c.angle, c.outgoing, c.dropped)
        for c in (cut.clusters if cut else ())
    ]
    needed = cut.needed if cut else max(2, math.ceil(estimator.coverage * len(stage.used) - 1e-9))
    return StudentLayer(
        name, stage.students.losses.tolist(), stage.students.status, stage.students.iterations, stage.used,
        np.zeros((0, 0)) if units is None else units.hyperplanes, units is not None and units.projective,
        cut.tree.to_linkage() if cut else None,
        cut.height if cut else math.nan, cut.plateau if cut else (math.nan, math.nan),
        clusters, needed, estimator.rule == "published", cut.smallest_outgoing if cut else 0.0, stage.n_excess,
    )  # fmt: skip


def _compared(unknown: UnknownNetwork, estimator: ExpandAndCluster) -> tuple[Comparison | None, str]:
    """The differences to the teacher; or why there are none, if there is a teacher."""
    if unknown.teacher is None:
        return None, ""
    try:
        found = estimator.distance_to(unknown.teacher)
    except InputError as error:
        return None, error.message
    names = [*(f"hidden.{depth}" for depth in range(len(found.pairs))), "readout"]
    weights = {
        name: (true.flatten().numpy(), own.flatten().numpy())
        for name, (true, own) in zip(names, found.weights, strict=True)
    }
    return Comparison(
        found.missing, found.excess, found.worst_angle, found.worst_error, found.function_error**2, weights
    ), ""


def found_text(result: RecoveryResult, estimator: ExpandAndCluster, request: Mapping[str, Any]) -> str:
    """Return the text of ``recovery.json``; numbers that are not finite are null."""
    found, comparison = estimator.diagnostics_, result.comparison
    layers = [
        {
            "name": layer.name, "losses": layer.losses, "status": layer.status, "iterations": layer.iterations,
            "used": layer.used, "height": layer.height, "plateau": layer.plateau, "n_excess": layer.n_excess,
            "n_kept": len(layer.kept), "clusters": layer.clusters,
        }
        for layer in result.layers
    ]  # fmt: skip
    body = {
        "request": request, "exact": result.exact, "reason": result.reason, "cautions": result.cautions,
        "summary": recovery_sentences(result), "saved_network": not result.unsaved, "n_units": estimator.n_units_,
        "n_inputs": result.sizes[0], "n_outputs": result.sizes[-1], "n_samples": result.n_samples,
        "activation": result.activation, "student_widths": found.student_widths, "error": result.error,
        "students_error": result.students_error, "layers": layers, "trials": found.activations,
        "distance": None if comparison is None else {
            name: value for name, value in vars(comparison).items() if name != "weights"
        },
        "uncompared": result.uncompared,
    }  # fmt: skip
    return config_text(KIND, {}, finite(plain(body, "recovery.json")))
