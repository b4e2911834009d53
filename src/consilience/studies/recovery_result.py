"""Which network produced these outputs? From files or a teacher to the recovered network, what was found, and a page.

The result is a directory of three parts, each complete or not there: ``network/``, ``report.html`` and, written last,
``recovery.json``. Without the last, the others are what a killed run has left.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from consilience.errors import ArtefactError, InputError
from consilience.nets import MLP
from consilience.recovery import ExpandAndCluster, IdentifiabilityWarning
from consilience.recovery.clusters import SMALLEST_OUTGOING
from consilience.recovery.expand_and_cluster import check_samples
from consilience.recovery.layers import CONVERGED, Stage
from consilience.report.recovery import (
    Comparison,
    RecoveryResult,
    StudentLayer,
    UnitCluster,
    recovery_sentences,
    render_recovery,
)
from consilience.seeds import TEACHER_INPUTS, generator
from consilience.store import atomic_write, check_destination, load_network, read_config, save_network
from consilience.store.config import config_text, finite, plain, versions

KIND, NETWORK, FOUND, PAGE = "recovery", "network", "recovery.json", "report.html"


@dataclass(frozen=True)
class Sought:
    """What is to be recovered.

    Attributes
    ----------
    x, y : inputs (n, d) and outputs (n, o), in float64.
    teacher : the network itself, where it is known.
    """

    x: Tensor
    y: Tensor
    teacher: MLP | None


def read_sought(
    inputs: Path | None, outputs: Path | None, teacher: Path | None, n_drawn: int, n_layers: int, random_state: int
) -> Sought:
    """Read inputs and outputs, or ask a teacher for its outputs.

    Parameters
    ----------
    inputs, outputs : ``.npy`` files; nothing in them is unpickled.
    teacher : directory of a saved `MLP`, in place of outputs; then inputs may be left out.
    n_drawn : Gaussian inputs, where none are given.
    n_layers : hidden layers that are sought.
    random_state : seed of these inputs.

    Raises
    ------
    InputError, ArtefactError
        If not exactly one of outputs and teacher is given, a file or directory is missing or cannot be used, or what is
        in them does not fit.
    """
    if (outputs is None) == (teacher is None):
        got = "neither" if outputs is None else "both"
        raise InputError("give outputs or a teacher, and not both", where="--outputs, --teacher", got=got)
    if teacher is None:
        if inputs is None:
            raise InputError(
                "outputs say nothing without their inputs", where="--outputs", got="no --inputs", cure="pass --inputs"
            )
        assert outputs is not None
        return _sought(_read(inputs, "--inputs"), _read(outputs, "--outputs"), None, f"X: {inputs}; Y: {outputs}")
    network = _read_teacher(teacher)
    depth, width = len(network.config.widths), network.config.n_inputs
    if depth != n_layers:
        raise InputError(
            "the teacher has another depth", where=f"--teacher {teacher}", got=f"{depth} hidden layers",
            expected=n_layers, cure=f"pass --layers {depth}, or --units with {depth} numbers",
        )  # fmt: skip
    if inputs is not None:
        x = _read(inputs, "--inputs")
        if x.ndim != 2 or x.shape[1] != width:
            raise InputError(
                "the inputs do not fit the teacher", where=f"--inputs {inputs}", got=x.shape, expected=f"(n, {width})"
            )
        return _sought(x, network, network, f"X: {inputs}; Y: outputs of {teacher}")
    if n_drawn < 2:
        raise InputError("too few inputs to recover anything", where="--samples", got=n_drawn, expected="at least 2")
    stream = generator(random_state, TEACHER_INPUTS)
    drawn = torch.randn(n_drawn, width, generator=stream, dtype=torch.float64)
    return _sought(drawn.numpy(), network, network, f"Y: outputs of {teacher}")


def earlier_recovery(directory: Path) -> dict[str, Any] | None:
    """Return what ``recovery.json`` says if a complete recovery is there, None if one can be written.

    Raises
    ------
    ArtefactError
        If anything else is there, or it is damaged.
    """
    if directory.exists():
        if not directory.is_dir():
            raise ArtefactError("a file is in the way", where=directory, cure="choose another directory")
        own = {name for part in (NETWORK, FOUND, PAGE) for name in (part, f".{part}.tmp", f".{part}.old")}
        foreign = sorted({entry.name for entry in directory.iterdir()} - own)
        if foreign:
            raise ArtefactError(
                "the directory holds something else", where=directory, got=", ".join(foreign[:5]),
                expected="a free place, an empty directory, or an earlier recovery", cure="choose another directory",
            )  # fmt: skip
    has_network = check_destination(directory / NETWORK, "network")
    if not (directory / FOUND).exists():
        return None
    try:
        found = json.loads((directory / FOUND).read_bytes())
        complete = (directory / PAGE).is_file() and has_network == found["saved_network"]
        if found["kind"] != KIND or not isinstance(found["request"], dict) or not isinstance(found["summary"], list):
            raise ValueError("it is not one of consilience")
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ArtefactError(
            f"{FOUND} is damaged", where=directory / FOUND, got=error, cure="delete that directory"
        ) from error
    return found if complete else None


def run_recovery(
    sought: Sought, estimator: ExpandAndCluster, directory: Path, request: Mapping[str, Any], command: str
) -> dict[str, Any]:
    """Recover a network, write it, what was found and the page; return what ``recovery.json`` says.

    Parameters
    ----------
    sought : inputs, outputs and, if it is known, the teacher.
    estimator : not yet fitted.
    directory : free, or with parts of an earlier recovery (`earlier_recovery`).
    request : what was asked for, by which a rerun knows its result.
    command : what a user types to get it.

    Raises
    ------
    InputError
        If a setting makes no sense.
    TrainingError
        If no student comes near the outputs.
    """
    cautions = _fit(estimator, sought)
    network = estimator.model_
    unsaved = ""
    if isinstance(network, MLP):
        save_network(network, directory / NETWORK, {"request": request})
    elif network is None:
        unsaved = "There is no network to save."
    else:
        unsaved = "The network is not saved: the signs of its units could not be told, so that it is no plain MLP."
    obtained = {"command": command, "seed": estimator.random_state, "versions": versions(), **request}
    result = _result(sought, estimator, cautions, unsaved, obtained)
    body = _plain(result, estimator, request)
    atomic_write(directory / PAGE, render_recovery(result).encode())
    text = config_text(KIND, {}, body)
    atomic_write(directory / FOUND, text.encode())
    return json.loads(text)  # type: ignore[no-any-return]


def _read(path: Path, flag: str) -> NDArray[Any]:
    where = f"{flag} {path}"
    if not path.is_file():
        raise InputError("there is no such file", where=where, expected="a .npy file", cure="check the path")
    try:
        with path.open("rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(
            "this is no .npy file of numbers", where=where, got=error,
            cure="write it with numpy.save; arrays of objects are never unpickled",
        ) from error  # fmt: skip
    if array.dtype.kind not in "fiub":
        raise InputError("these are not real numbers", where=where, got=array.dtype, expected="floats or integers")
    return array


def _read_teacher(directory: Path) -> MLP:
    config = read_config(directory)
    net = config.get("net", {})
    if config["kind"] != "network" or net.get("type") != "MLP":
        got = net.get("class") or net.get("type") or f"an artefact of kind {config['kind']}"
        raise InputError(
            "the teacher is not an MLP", where=f"--teacher {directory}", got=got,
            expected="a directory written by consilience.save_network of an MLP",
            cure="query it yourself, and pass --inputs and --outputs",
        )  # fmt: skip
    teacher = load_network(directory)
    assert isinstance(teacher, MLP)
    return teacher.double()


def _sought(x: NDArray[Any], y: NDArray[Any] | nn.Module, teacher: MLP | None, names: str) -> Sought:
    try:
        return Sought(*check_samples(x, y), teacher)
    except InputError as error:
        error.add_note(f"  {names}")
        raise


def _fit(estimator: ExpandAndCluster, sought: Sought) -> list[str]:
    """Fit, and return what is to be said about whether the outputs tell the network."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", IdentifiabilityWarning)
        estimator.fit(sought.x.numpy(), sought.y.numpy())
    for each in caught:
        if not issubclass(each.category, IdentifiabilityWarning):
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    return [str(each.message) for each in caught if issubclass(each.category, IdentifiabilityWarning)]


def _result(
    sought: Sought, estimator: ExpandAndCluster, cautions: Sequence[str], unsaved: str, obtained: Mapping[str, Any]
) -> RecoveryResult:
    found = estimator.diagnostics_
    comparison, uncompared = _compared(sought, estimator)
    return RecoveryResult(
        sizes=(sought.x.shape[1], *estimator.n_units_, sought.y.shape[1]), activation=estimator.activation_,
        n_samples=len(sought.x), exact=found.exact, reason=found.reason, cautions=cautions, error=found.error,
        students_error=found.students_error, limit=max(CONVERGED, 2 * estimator.noise**2),
        layers=[_layer(stage, f"hidden.{i}", estimator) for i, stage in enumerate(found.stages)], unsaved=unsaved,
        trials={t.name: f"median error {t.loss:.1e}, plateau of e^{t.plateau:.1f}" for t in found.activations},
        comparison=comparison, uncompared=uncompared, obtained=obtained,
    )  # fmt: skip


def _layer(stage: Stage, name: str, estimator: ExpandAndCluster) -> StudentLayer:
    cut, units, published = stage.cut, stage.units, estimator.rule == "published"
    clusters = [
        UnitCluster(c.units.tolist(), c.n_students, c.angle, c.outgoing, c.dropped)
        for c in (cut.clusters if cut else ())
    ]
    survivors = [c.outgoing for c in clusters if not c.dropped.startswith(("students", "angle"))]
    return StudentLayer(
        name, stage.students.losses.tolist(), stage.students.status, stage.students.iterations, stage.used,
        np.zeros((0, 0)) if units is None else units.hyperplanes, units is not None and units.projective,
        cut.merges if cut else None, cut.height if cut else math.nan, cut.plateau if cut else (math.nan, math.nan),
        clusters, max(2, math.ceil(estimator.coverage * len(stage.used) - 1e-9)), published,
        0.0 if published else SMALLEST_OUTGOING * max(survivors, default=0.0), stage.n_excess,
    )  # fmt: skip


def _compared(sought: Sought, estimator: ExpandAndCluster) -> tuple[Comparison | None, str]:
    """The differences to the teacher; or why there are none, if there is a teacher."""
    if sought.teacher is None:
        return None, ""
    try:
        found = estimator.distance_to(sought.teacher)
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


def _plain(result: RecoveryResult, estimator: ExpandAndCluster, request: Mapping[str, Any]) -> dict[str, Any]:
    """What ``recovery.json`` says, beside its header; numbers that are not finite are null."""
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
    return finite(plain(body, FOUND))  # type: ignore[no-any-return]
