"""A checkpoint: one file from which an interrupted run goes on.

- One safetensors file holds the tensors and, as a tensor of bytes, the JSON of everything else, so there is no pair of
  files to fall out of step. It is written under another name, flushed to the disk, then renamed: a kill at any moment
  leaves the old checkpoint or the new one.
- It carries the identity of its run (hyperparameters, data, initial networks), and no other run can pick it up.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from consilience.errors import ArtefactError

FILE = "training.safetensors"
PARTIAL = FILE + ".partial"
FORMAT = "consilience training checkpoint 1"
PROGRESS = "progress"


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run between two epochs.

    Attributes
    ----------
    epoch : epochs finished.
    failed : member → why it is frozen.
    metrics : records so far.
    tensors : parameters and optimiser state by name.
    """

    epoch: int
    failed: dict[int, str]
    metrics: list[dict[str, Any]]
    tensors: dict[str, Tensor]


def write_checkpoint(directory: Path, checkpoint: Checkpoint, identity: Mapping[str, Any]) -> None:
    """Replace the checkpoint in ``directory`` (created), all at once."""
    progress = {"epoch": checkpoint.epoch, "failed": checkpoint.failed, "metrics": checkpoint.metrics}
    # The records go into a tensor: safetensors' own metadata must stay below 100 MB.
    text = torch.frombuffer(bytearray(json.dumps(progress, allow_nan=False).encode()), dtype=torch.uint8)
    tensors = {name: value.contiguous() for name, value in checkpoint.tensors.items()}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        partial = directory / PARTIAL
        save_file(
            tensors | {PROGRESS: text}, partial, metadata={"format": FORMAT, "identity": json.dumps(dict(identity))}
        )
        _flush(partial)
        os.replace(partial, directory / FILE)
        _flush(directory)
    except (OSError, SafetensorError) as error:
        raise ArtefactError("the checkpoint cannot be written", where=directory, got=error,
                            cure="choose a directory that can be written to") from error  # fmt: skip


def read_checkpoint(directory: Path, identity: Mapping[str, Any]) -> Checkpoint | None:
    """Return the checkpoint in ``directory``, or None where there is none.

    Raises
    ------
    ArtefactError
        If the file is damaged, or belongs to a run with another identity.
    """
    path = directory / FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        found = json.loads(metadata["identity"])
        progress = json.loads(tensors.pop(PROGRESS).numpy().tobytes())
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ArtefactError("the checkpoint is damaged", where=path, got=error,
                            cure="delete it; the run then starts anew") from error  # fmt: skip
    if metadata.get("format") != FORMAT:
        raise ArtefactError("the checkpoint has another format", where=path, got=metadata.get("format"),
                            expected=FORMAT, cure="delete it; the run then starts anew")  # fmt: skip
    here = json.loads(json.dumps(dict(identity)))
    differences = [name for name in sorted({*found, *here}) if found.get(name) != here.get(name)]
    if differences:
        raise ArtefactError(
            "the checkpoint belongs to another run", where=path,
            got="; ".join(f"{name} = {found.get(name)}" for name in differences),
            expected="; ".join(f"{name} = {here.get(name)}" for name in differences),
            cure="choose another directory, or delete this checkpoint",
        )  # fmt: skip
    failed = {int(member): reason for member, reason in progress["failed"].items()}
    return Checkpoint(progress["epoch"], failed, progress["metrics"], tensors)


def delete_checkpoint(directory: Path) -> None:
    """Remove the checkpoint, and the directory if nothing else is in it; does nothing where there is none."""
    for name in (FILE, PARTIAL):
        (directory / name).unlink(missing_ok=True)
    if directory.is_dir() and not any(directory.iterdir()):
        directory.rmdir()


def digest(items: Iterable[Tensor | str]) -> str:
    """Return a fingerprint of tensors (shape, type and every byte) and texts."""
    found = hashlib.sha256()
    for item in items:
        if isinstance(item, Tensor):
            found.update(f"{tuple(item.shape)} {item.dtype}".encode())
            found.update(item.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        else:
            found.update(item.encode())
        found.update(b"\0")
    return found.hexdigest()[:16]


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
