"""The resume state of a killed run: one file from which it continues.

- One safetensors file holds the tensors and, as a tensor of bytes, the JSON of everything else, so that no two files
  can disagree. It is replaced atomically: a kill at any moment leaves the old state or the new one.
- It carries the identity of its run (hyperparameters, data, initial networks); any other run refuses it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from consilience.errors import ArtefactError
from consilience.store import new_file, partial_path, plain
from consilience.store.lock import remove_dead

FILE = "training.safetensors"
FORMAT = "consilience training checkpoint 1"
PROGRESS = "progress"
BLOCKS = "members-*"  # directories of the states of blocks of members
States = tuple[dict[str, Tensor], ...]


@dataclass(frozen=True)
class ResumeState:
    """The state of a run between two epochs."""

    epoch: int = 0  # epochs finished
    failed: dict[int, str] = field(default_factory=dict)  # member → why it is frozen
    metrics: list[dict[str, Any]] = field(default_factory=list)  # records so far
    tensors: dict[str, Tensor] = field(default_factory=dict)  # parameters, statistics and optimizer state by name
    snapshots: dict[int, States] = field(default_factory=dict)  # epoch → each member's state dict after it


class ResumeFile:
    """Where the resume state of the run with this identity is kept, written ``every`` so many seconds at most."""

    def __init__(self, directory: Path, identity: Mapping[str, Any], every: float) -> None:
        self.path, self.every, self.written = directory / FILE, every, time.monotonic()
        self.identity = json.loads(json.dumps(plain(identity, "identity")))

    @property
    def due(self) -> bool:
        """Whether the last state was written long enough ago."""
        return time.monotonic() - self.written >= self.every

    def write(self, state: ResumeState) -> None:
        """Replace the state on disk, all at once."""
        progress = {"epoch": state.epoch, "failed": state.failed, "metrics": state.metrics}
        # The records go into a tensor: safetensors' own metadata must stay below 100 MB.
        text = torch.frombuffer(bytearray(json.dumps(progress, allow_nan=False).encode()), dtype=torch.uint8)
        tensors = {name: value.contiguous() for name, value in state.tensors.items()} | {PROGRESS: text}
        for epoch, states in state.snapshots.items():
            for position, kept in enumerate(states):
                tensors |= {f"snapshot/{epoch}/{position}/{name}": v.contiguous() for name, v in kept.items()}
        with new_file(self.path) as partial:
            save_file(tensors, partial, metadata={"format": FORMAT, "identity": json.dumps(self.identity)})
        self.written = time.monotonic()

    def read(self, modules: Sequence[nn.Module]) -> ResumeState:
        """Return the state on disk, or that of a run that begins; snapshots have the names and devices of modules."""
        if not self.path.exists():
            return ResumeState()
        try:
            with safe_open(self.path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            progress = json.loads(tensors.pop(PROGRESS).numpy().tobytes())
            identity, epoch = json.loads(metadata["identity"]), progress["epoch"]
            self._check_identity(identity, metadata.get("format"))
            snapshots = {
                e: tuple(_snapshot(tensors, f"snapshot/{e}/{k}/", module) for k, module in enumerate(modules))
                for e in identity.get("snapshot_epochs", ())
                if e <= epoch
            }
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise self.damaged(error) from error
        failed = {int(member): reason for member, reason in progress["failed"].items()}
        return ResumeState(epoch, failed, progress["metrics"], tensors, snapshots)

    def damaged(self, error: Exception) -> ArtefactError:
        """Return the error of a state that cannot be used."""
        message = f"{self.path} must be a complete resume state, got {type(error).__name__}: {error}"
        return ArtefactError(message, cure="delete it; the run then starts from the beginning")

    def _check_identity(self, identity: Mapping[str, Any], file_format: str | None) -> None:
        if file_format != FORMAT:
            raise self.damaged(ValueError(f"format {file_format!r} instead of {FORMAT!r}"))
        names = [name for name in sorted({*identity, *self.identity}) if identity.get(name) != self.identity.get(name)]
        if names:
            theirs, ours = ("; ".join(f"{n} = {run.get(n)}" for n in names) for run in (identity, self.identity))
            message = f"{self.path} must be the resume state of this run, with {ours}, got {theirs}"
            raise ArtefactError(message, cure="choose another directory, or delete this file")


def _snapshot(tensors: Mapping[str, Tensor], prefix: str, module: nn.Module) -> dict[str, Tensor]:
    return {name: tensors[prefix + name].to(value.device) for name, value in module.state_dict().items()}


def delete_resume_state(directory: Path) -> None:
    """Remove resume states, and directories that are then empty; does nothing where there is none."""
    for place in (*sorted(directory.glob(BLOCKS)), directory):
        for path in (place / FILE, partial_path(place / FILE)):
            path.unlink(missing_ok=True)
        remove_dead(place / FILE)
        if place.is_dir() and not any(place.iterdir()):
            place.rmdir()


def digest(items: Iterable[Tensor | str]) -> str:
    """Return a fingerprint of tensors (shape, type and every byte) and texts."""
    total = hashlib.sha256()
    for item in items:
        if isinstance(item, Tensor):
            total.update(f"{tuple(item.shape)} {item.dtype}".encode())
            total.update(item.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        else:
            total.update(item.encode())
        total.update(b"\0")
    return total.hexdigest()[:16]
