"""The command ``recover``: the network behind given outputs.

The result is a directory of three parts, each complete or not there: ``network/``, ``report.html`` and, written last,
``recovery.json``. Without the last, the others were left by an interrupted run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import consilience as cs
from consilience.errors import ArtefactError, InputError
from consilience.names import Activation, Rule
from consilience.schema import read_entries
from consilience.studies.request import INPUT, Options, Output, argument, arguments, identity
from consilience.studies.result import PAGE, Result, digest_of, obtained, refuse_another

if TYPE_CHECKING:
    from consilience.studies.unknown_network import UnknownNetwork

KIND, NETWORK, FILE = "recovery", "network", "recovery.json"


@dataclass(frozen=True, kw_only=True)
class Request(Options, Output):
    """Recover an unknown network, its size and its weights, from its outputs. Writes network/, recovery.json and
    report.html. A tenth of the rows is held out of every fit. The exit status is 0 if the network is identified: it
    explains the outputs and the held-out rows, the rows determine its weights, and students agree on them. It is 1 if
    the network is not identified (do not trust it then), and 2 if the command failed.

    Example: consilience recover --inputs X.npy --outputs Y.npy --out recovered
    """

    inputs: Path | None = field(default=None, metadata=INPUT)
    """Inputs (n, d), a .npy file."""
    outputs: Path | None = field(default=None, metadata=INPUT)
    """Outputs (n, o) of the unknown network for these inputs, a .npy file."""
    teacher: Path | None = field(default=None, metadata=INPUT)
    """Instead of outputs, the directory of a saved MLP. Only its outputs are used; the result is compared with it."""
    samples: int = 600
    """Number of Gaussian inputs for a teacher, without --inputs."""
    units: tuple[int, ...] = field(default=(), metadata=argument("n_units"))
    """Units expected in each hidden layer; by default the smallest number that fits is searched for."""
    layers: int = field(default=1, metadata=argument("n_layers"))
    """Number of hidden layers, without --units."""
    expansion: str = "4"
    """Width of the students divided by --units: a number, or "auto"."""
    students: int = field(default=20, metadata=argument("n_students"))
    """Networks that are trained on the outputs."""
    activation: Literal["auto"] | Activation = "auto"
    """Activation of the unknown network; "auto" tries all. Tanh and sigmoid networks can be the same function."""
    coverage: float = 0.8
    """Share of the students that must contain a unit."""
    max_angle: float = math.pi / 12
    """Largest angle between these copies of a unit, in radians."""
    rule: Rule = "plateau"
    """Where to cut the tree of units: in the longest plateau, or as in the paper."""
    noise: float = 0.0
    """Standard deviation of the noise on the outputs, divided by that of the outputs."""


def run(request: Request) -> Result:
    """Return what was recovered; the status is 1 if it is not identified."""
    from consilience.store import fingerprint, lock
    from consilience.store.lock import remove_dead
    from consilience.studies.unknown_network import open_unknown

    content = _finished(request.out)
    estimator = _estimator(request)
    inputs, outputs, teacher = request.inputs, request.outputs, request.teacher
    unknown = open_unknown(inputs, outputs, teacher, request.samples, estimator.n_layers, request.seed)
    key = identity(request, data=fingerprint({"x": unknown.x, "y": unknown.y})[:16])
    key |= {} if teacher is None else {"teacher": digest_of(teacher)}
    if content is None:
        with lock(request.out):
            content = _finished(request.out) or _recovered(request, estimator, unknown, key)
    remove_dead(request.out)
    refuse_another(request.out, KIND, key, content["request"])
    network = [f"network in {request.out / NETWORK}"] if content["saved_network"] else []
    text = "\n".join([*content["summary"], *network, f"report in {request.out / PAGE}"])
    return Result(text, {"out": str(request.out), **content}, status=0 if content["exact"] else 1)


def _recovered(
    request: Request, estimator: cs.ExpandAndCluster, unknown: UnknownNetwork, key: dict[str, Any]
) -> dict[str, Any]:
    """Recover the network, write it, the page and ``recovery.json``, and return what this says."""
    from consilience.report.recovery import render_recovery
    from consilience.store import atomic_write, check_destination, save_network
    from consilience.studies.progress import stages
    from consilience.studies.recovery_result import found_text, run_recovery

    if check_destination(request.out / NETWORK, "network"):  # of an interrupted run
        refuse_another(request.out / NETWORK, "network", key)
    with stages(f"recovering a network from {len(unknown.x)} outputs"):
        result = run_recovery(unknown, estimator, {**obtained(request), **key})
    if estimator.model_ is not None and not result.unsaved:
        save_network(estimator.model_, request.out / NETWORK, {"request": key})
    text = found_text(result, estimator, key)
    atomic_write(request.out / PAGE, render_recovery(result).encode())
    atomic_write(request.out / FILE, text.encode())
    return json.loads(text)  # type: ignore[no-any-return]


def _estimator(request: Request) -> cs.ExpandAndCluster:
    units, depth = request.units, max(request.layers, len(request.units))
    if units and depth != len(units):
        raise InputError(f"--layers must be the number of --units, {len(units)}, got {depth}", cure="pass one of them")
    try:
        expansion = request.expansion if request.expansion == "auto" else float(request.expansion)
    except ValueError:
        raise InputError(f'--expansion must be a number or "auto", got {request.expansion!r}') from None
    n_units = units[0] if len(units) == 1 else units or None
    changes = {"n_units": n_units, "n_layers": depth, "expansion": expansion}
    return cs.ExpandAndCluster(**{**arguments(request, cs.ExpandAndCluster), **changes})


def _finished(directory: Path) -> dict[str, Any] | None:
    """Return what ``recovery.json`` says if a complete recovery is there, None if one can be written; else raise."""
    from consilience.store import check_destination, read_artefact
    from consilience.store.config import listing

    if directory.exists():
        names = {
            name for part in (NETWORK, FILE, PAGE) for name in (part, f".{part}.tmp", f".{part}.old", f".{part}.lock")
        }
        if not directory.is_dir() or {entry.name for entry in directory.iterdir()} - names:
            got = listing(directory) if directory.is_dir() else "a file"
            raise ArtefactError(
                f"--out must be new, empty, or hold an earlier recovery, got {directory} ({got})",
                cure="choose another directory",
            )
    has_network = check_destination(directory / NETWORK, "network")
    if not (directory / FILE).exists():
        return None
    try:
        content: dict[str, Any] = json.loads((directory / FILE).read_bytes())
        complete = (directory / PAGE).is_file() and has_network == content["saved_network"]
        complete &= "evidence" in content  # earlier versions claimed without: the network is recovered again
        if content["kind"] != KIND:
            raise ValueError("it is not one of consilience")
        read_entries(_Said, content, directory / FILE)
    except (ValueError, KeyError, TypeError, OSError, ArtefactError) as error:
        reason = error.message if isinstance(error, ArtefactError) else error
        raise ArtefactError(f"{directory / FILE} is damaged: {reason}", cure="delete that directory") from error
    if complete and has_network:
        read_artefact(directory / NETWORK, "network")  # or raises, if a file has changed
    return content if complete else None


@dataclass(frozen=True)
class _Said:
    """What ``recovery.json`` has for this command."""

    request: Mapping[str, Any]
    summary: tuple[str, ...]
    exact: bool
    saved_network: bool
