"""What is known of a network that is to be recovered: inputs and outputs, from files or from the network itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from consilience.checks import check_count
from consilience.errors import InputError
from consilience.nets import MLP
from consilience.recovery.expand_and_cluster import check_samples
from consilience.seeds import TEACHER_INPUTS, generator
from consilience.store import load_network, read_config


@dataclass(frozen=True)
class UnknownNetwork:
    """What is known of a network."""

    x: Tensor  # (n, d) inputs, in float64
    y: Tensor  # (n, o) outputs
    teacher: MLP | None  # the network itself, to measure how near the recovery comes


def open_unknown(
    inputs: Path | None, outputs: Path | None, teacher: Path | None, n_drawn: int, n_layers: int, random_state: int
) -> UnknownNetwork:
    """Read inputs and outputs from ``.npy`` files, or ask a teacher for its outputs on these inputs or Gaussian ones.

    A teacher is a saved `MLP` with ``n_layers`` hidden layers.
    """
    if (teacher is None) == (outputs is None):
        got = "neither" if outputs is None else "both"
        raise InputError(f"one of --outputs and --teacher must be given, got {got}")
    if teacher is not None:
        return _ask(teacher, inputs, n_drawn, n_layers, random_state)
    assert outputs is not None
    if inputs is None:
        raise InputError("--inputs must be given with --outputs")
    x, y = _read(inputs, "--inputs"), _read(outputs, "--outputs")
    return _checked(x, y, None, f"X: {inputs}; Y: {outputs}")


def _ask(teacher: Path, inputs: Path | None, n_drawn: int, n_layers: int, random_state: int) -> UnknownNetwork:
    network = _read_teacher(teacher)
    depth, width = len(network.config.widths), network.config.n_inputs
    if depth != n_layers:
        raise InputError(
            f"--layers must be {depth}, the depth of the teacher {teacher}, got {n_layers}",
            cure=f"pass --layers {depth}, or --units with {depth} numbers",
        )
    if inputs is None:
        check_count("--samples", n_drawn, least=2)
        numbers = generator(random_state, TEACHER_INPUTS)
        drawn = torch.randn(n_drawn, width, generator=numbers, dtype=torch.float64)
        return _checked(drawn.numpy(), network, network, f"Y: outputs of {teacher}")
    x = _read(inputs, "--inputs")
    if x.ndim != 2 or x.shape[1] != width:
        raise InputError(f"--inputs must have the teacher's shape (n, {width}), got {x.shape} in {inputs}")
    return _checked(x, network, network, f"X: {inputs}; Y: outputs of {teacher}")


def _read(path: Path, option: str) -> NDArray[Any]:
    if not path.is_file():
        raise InputError(f"{option} must be a .npy file, and there is no file {path}", cure="check the path")
    try:
        with path.open("rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(
            f"{option} must be a .npy file of numbers, got {path}: {error}",
            cure="write it with numpy.save; arrays of objects are never unpickled",
        ) from error
    if array.dtype.kind not in "fiub":
        raise InputError(f"{option} must hold real numbers, got {array.dtype} in {path}")
    return array


def _read_teacher(directory: Path) -> MLP:
    config = read_config(directory)
    net = config.get("net", {})
    if config["kind"] != "network" or net.get("type") != "MLP":
        got = net.get("class") or net.get("type") or f"an artefact of kind {config['kind']}"
        raise InputError(
            f"--teacher must be an MLP, written by consilience.save_network, got {got} in {directory}",
            cure="compute its outputs yourself, and pass --inputs and --outputs",
        )
    teacher = load_network(directory)
    assert isinstance(teacher, MLP)
    return teacher.double()


def _checked(x: NDArray[Any], y: NDArray[Any] | nn.Module, teacher: MLP | None, names: str) -> UnknownNetwork:
    try:
        return UnknownNetwork(*check_samples(x, y), teacher)
    except InputError as error:
        error.add_note(f"  {names}")
        raise
