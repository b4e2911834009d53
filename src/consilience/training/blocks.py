"""Members trained in fixed blocks, each of them a task of the engine.

Blocks depend on the number of members alone, so a population is the same bytes on every engine and on any number of
workers. A population of up to `BLOCK` members is one block.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from consilience.devices import current_device
from consilience.engines import current
from consilience.engines.engine import Serial
from consilience.seeds import SETTLING, seed
from consilience.store import lock
from consilience.training.fit import Progress, Trained, check_trained, fit_block
from consilience.training.fresh import Nets, fresh
from consilience.training.hyperparameters import Run
from consilience.training.norms import settle_norms
from consilience.training.resume import FILE, States

BLOCK = 64  # members: many enough for fast products of matrices, few enough to share out among workers
ORPHAN = 600.0  # seconds to wait for a task of a driver that was killed, which still holds the state of a block


def train_blocks(
    net: Nets,
    x: Tensor,
    y: Tensor,
    run: Run,
    n_members: int,
    *,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Train all members on the current engine; see `consilience.training.train_population` for the arguments."""
    shared: dict[str, Any] = {"net": net, "x": x, "y": y, "run": replace(run, validation=None)}
    shared["device"] = current_device()
    if run.validation is not None:
        shared["validation_x"], shared["validation_y"] = run.validation
    engine, blocks = current(), [range(k, min(k + BLOCK, n_members)) for k in range(0, n_members, BLOCK)]
    if len(blocks) == 1 and isinstance(engine, Serial):
        parts = [train_block(blocks[0], **shared, checkpoint=checkpoint, progress=progress)]
    else:
        with nullcontext() if checkpoint is None else lock(checkpoint):
            items = [(block, _place(checkpoint, block, len(blocks))) for block in blocks]
            names = [f"members {block.start} to {block.stop - 1}" for block in blocks]
            if checkpoint is not None:
                engine.check_directory(checkpoint)
            parts = engine.map(_train_task, items, shared=shared, names=names, progress=progress)
    trained = _joined(parts)
    check_trained(trained, n_members)
    return trained


def train_block(
    members: range,
    *,
    net: Nets,
    x: Tensor,
    y: Tensor,
    run: Run,
    device: str,
    validation_x: Tensor | None = None,
    validation_y: Tensor | None = None,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Train some members of a population, and settle their norms; members that failed stay as they were when frozen."""
    if validation_x is not None and validation_y is not None:
        run = replace(run, validation=(validation_x, validation_y))
    run = replace(run, members=tuple(members))
    modules = [fresh(net, k, run.random_state).to(device) for k in members]
    trained = fit_block(modules, x, y, run, checkpoint, progress=progress)

    def settled(states: States) -> States:
        after = []
        for k, module, there in zip(members, modules, states, strict=True):
            state = {name: value.cpu() for name, value in there.items()}
            module.cpu()
            if k not in trained.failed:
                module.load_state_dict(state)
                # One stream for every epoch, so that a snapshot differs from another by training alone.
                settle_norms(module, x, run.training.batch_size, seed(run.random_state, SETTLING, k))
                state = {name: value.clone() for name, value in module.state_dict().items()}
            after.append(state)
        return tuple(after)

    snapshots = {epoch: settled(states) for epoch, states in trained.snapshots.items()}
    return replace(trained, states=settled(trained.states), snapshots=snapshots)


def _train_task(item: tuple[range, Path | None], **shared: Any) -> Trained:
    members, place = item
    with nullcontext() if place is None else lock(place / FILE, wait=ORPHAN):
        return train_block(members, **shared, checkpoint=place)


def _place(checkpoint: Path | None, members: range, n_blocks: int) -> Path | None:
    """Return the directory of a block's resume state."""
    if checkpoint is None:
        return None
    return checkpoint.resolve() / ("" if n_blocks == 1 else f"members-{members.start:06}")


def _joined(parts: Sequence[Trained]) -> Trained:
    failed = {k: why for part in parts for k, why in part.failed.items()}
    records = [record for part in parts for record in part.metrics]
    records.sort(key=lambda record: record["epoch"])  # stable: by member in each epoch
    epochs = {epoch for part in parts for epoch in part.snapshots}
    snapshots = {
        epoch: tuple(s for part in parts for s in part.snapshots.get(epoch, part.states)) for epoch in sorted(epochs)
    }
    return Trained(tuple(state for part in parts for state in part.states), failed, tuple(records), snapshots)
