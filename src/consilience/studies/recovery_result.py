"""A recovery of a network as its page shows it, and as JSON holds it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from consilience.errors import InputError
from consilience.nets import MLP
from consilience.recovery import ExpandAndCluster, IdentifiabilityWarning
from consilience.recovery.distance import Distance
from consilience.recovery.recover import CONVERGED, Stage
from consilience.report.recovery import RecoveryResult, recovery_sentences
from consilience.store import finite, plain
from consilience.store.config import config_text
from consilience.studies.unknown_network import UnknownNetwork

KIND = "recovery"
CLUSTER = ("units", "n_students", "angle", "outgoing", "dropped")  # in recovery.json
DISTANCE = ("missing", "excess", "worst_angle", "worst_error")


def run_recovery(unknown: UnknownNetwork, estimator: ExpandAndCluster, obtained: Mapping[str, Any]) -> RecoveryResult:
    """Fit an estimator to an unknown network, and return what the page shows."""
    cautions = _fit(estimator, unknown)
    network, unsaved = estimator.model_, ""
    if network is None:
        unsaved = "There is no network to save."
    elif not isinstance(network, MLP):
        unsaved = "The network is not saved: the signs of its units could not be told, so that it is no plain MLP."
    distance, uncompared = _compared(unknown, estimator)
    sizes = (unknown.x.shape[1], *estimator.n_units_, unknown.y.shape[1])
    limit = max(CONVERGED, 2 * estimator.noise**2)
    found, n_samples = estimator.diagnostics_, len(unknown.x)
    expected = estimator.n_units if estimator.n_units is not None else ()
    units = tuple(expected) if isinstance(expected, Sequence) else (expected,) * estimator.n_layers
    checks = units, cautions, unsaved, distance, uncompared
    return RecoveryResult(sizes, estimator.activation_, n_samples, found, limit, *checks, obtained)


def found_text(result: RecoveryResult, estimator: ExpandAndCluster, request: Mapping[str, Any]) -> str:
    """Return the text of ``recovery.json``; numbers that are not finite are null."""
    found, distance = result.diagnostics, result.distance
    body = {
        "request": request,
        "exact": found.exact,
        "explains": found.explains,
        "reason": found.reason,
        "cautions": result.cautions,
        "summary": recovery_sentences(result),
        "saved_network": not result.unsaved,
        "n_units": estimator.n_units_,
        "n_inputs": result.sizes[0],
        "n_outputs": result.sizes[-1],
        "n_samples": result.n_samples,
        "activation": result.activation,
        "student_widths": found.student_widths,
        "error": found.error,
        "students_error": found.students_error,
        "evidence": found.evidence,
        "layers": [_layer(name, stage) for name, stage in result.layers.items()],
        "trials": found.activations,
        "distance": None if distance is None else _distance(distance),
        "uncompared": result.uncompared,
    }
    return config_text(KIND, {}, finite(plain(body, "recovery.json")))


def _fit(estimator: ExpandAndCluster, unknown: UnknownNetwork) -> list[str]:
    """Fit, and return the warnings that the outputs may not determine the network; other warnings are passed on."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", IdentifiabilityWarning)
        estimator.fit(unknown.x.numpy(), unknown.y.numpy())
    cautions = [warning for warning in caught if issubclass(warning.category, IdentifiabilityWarning)]
    for warning in caught:
        if warning not in cautions:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return [str(warning.message) for warning in cautions]


def _compared(unknown: UnknownNetwork, estimator: ExpandAndCluster) -> tuple[Distance | None, str]:
    """Return the distance to the teacher or, if there is a teacher without one, why."""
    if unknown.teacher is None:
        return None, ""
    try:
        return estimator.distance_to(unknown.teacher), ""
    except InputError as error:
        return None, error.message


def _layer(name: str, stage: Stage) -> dict[str, Any]:
    cut, students = stage.cut, stage.students
    return {
        "name": name,
        "losses": students.losses,
        "status": students.status,
        "iterations": students.iterations,
        "used": stage.used,
        "height": cut.height if cut else math.nan,
        "plateau": cut.plateau if cut else (math.nan, math.nan),
        "n_excess": stage.n_excess,
        "n_kept": len(cut.kept) if cut else 0,
        "clusters": [{key: getattr(cluster, key) for key in CLUSTER} for cluster in (cut.clusters if cut else ())],
    }


def _distance(distance: Distance) -> dict[str, Any]:
    return {name: getattr(distance, name) for name in DISTANCE} | {"function_error": distance.function_error**2}
