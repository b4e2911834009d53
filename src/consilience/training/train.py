"""A population of fresh members, trained side by side, traced and proved."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from torch import nn

from consilience.checks import as_path, check_count, check_finite, check_function, check_iterable
from consilience.data import Dataset, as_dataset, check_dataset
from consilience.population.population import Population
from consilience.several import are_several
from consilience.tasks import check_fits_outputs, check_varies, task_of
from consilience.training.blocks import train_blocks
from consilience.training.callbacks import Callback, has_full_repr
from consilience.training.fit import Progress
from consilience.training.fresh import Nets, fresh, taking
from consilience.training.hyperparameters import Run, Training, check_epochs, check_training
from consilience.training.resume import States
from consilience.units.inputs import Inputs

N_EXAMPLES = 16  # inputs on which members are traced and proved


def train_population(
    net: Nets,
    train: Dataset,
    n_members: int,
    *,
    training: Training | None = None,
    validation: Dataset | None = None,
    random_state: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoint_epochs: Sequence[int] = (),
) -> Population:
    """Train ``n_members`` networks from fresh initial values, vectorized.

    Members are trained in blocks of up to 64, each of them a task of the engine (`consilience.engine`).

    Parameters
    ----------
    net : a module to be copied and initialized anew for each member; or a function that returns a fresh one, which is
        called several times, with the seed of a member each time, and must give the same for the same seed; or several
        modules (of other widths, say), which the members take in turn.
    train : samples with targets: integer labels, numbers, or 0 and 1 for each label with ``task="multilabel"``. For
        networks of several inputs, x is a dict or a tuple of tensors.
    n_members : N ≥ 1.
    training : hyperparameters; `Training()` by default.
    validation : samples on which members are evaluated after every epoch, for the metrics.
    random_state : seed of everything. Member k depends on how many others there are only where they share out the data.
    checkpoint : directory for a resume state, with which a killed run continues and ends with the same bytes.
    progress : called with (steps done, steps in all); of several blocks, with (blocks done, blocks in all).
    callbacks : terms of the loss, and changes after each step; see `consilience.training.callbacks.Callback`.
    checkpoint_epochs : the epochs, ascending, after which the members are kept, in ``snapshots``. The snapshot of epoch
        e is what a run of e epochs gives; of 0, the initial values.

    Returns
    -------
    A population. Members whose loss (or penalty) was not finite are not among its members, but in ``failed``, and in no
    snapshot, so that member k is the same network in all of them.

    Raises
    ------
    TracingError : if the module has operations that are not supported; before any training.
    TrainingError : if every member failed.
    """
    training = Training() if training is None else training
    check_count("n_members", n_members)
    train = as_dataset(train, "train")
    validation = None if validation is None else as_dataset(validation, "validation")
    check_training(training)
    check_iterable("callbacks", callbacks)
    callbacks = tuple(callbacks)
    if progress is not None:
        check_function("progress", progress)
    checkpoint = None if checkpoint is None else as_path(checkpoint, "checkpoint")
    check_epochs(checkpoint_epochs, training.epochs, "checkpoint_epochs")
    if are_several(train.x):
        inputs = Inputs.of(train.x, fresh(net, 0, random_state), "train.x")
        net, train = taking(net, inputs), replace(train, x=inputs.pack(train.x, "train.x"))
        if validation is not None:
            validation = replace(validation, x=inputs.pack(validation.x, "validation.x"))
    check_finite(train.x, "train.x")
    examples = train.x[:N_EXAMPLES]
    kinds = [fresh(net, k, random_state) for k in range(len(net) if isinstance(net, Sequence) and net else 1)]
    architecture = Population.from_modules(kinds[:n_members], examples).architecture  # raises before any training
    check_fits_outputs(train.task or task_of(train.y), architecture.program.output_shape)
    if train.y.is_floating_point():
        check_varies(train.y, "train")
    else:
        check_dataset(train, n_classes=architecture.n_outputs, where="train")
    held_out = None if validation is None else (validation.x, validation.y)
    options: dict[str, Any] = {"callbacks": callbacks, "snapshot_epochs": checkpoint_epochs, "task": train.task}
    run = Run(training, random_state, held_out, n_members=n_members, **options)
    trained = train_blocks(net, train.x, train.y, run, n_members, checkpoint=checkpoint, progress=progress)

    modules = {k: fresh(net, k, random_state) for k in range(n_members) if k not in trained.failed}

    def loaded(states: States) -> list[nn.Module]:  # the same modules each time
        for k, module in modules.items():
            module.load_state_dict(states[k])
        return [*modules.values()]

    provenance = {"n_trained": n_members, "random_state": random_state, "training": asdict(training)}
    if callbacks:
        provenance["callbacks"] = [repr(c) if has_full_repr(c) else type(c).__qualname__ for c in callbacks]
    details: dict[str, Any] = {
        "failed": trained.failed,
        "metrics": trained.metrics,
        "provenance": provenance,
        "task": train.task or task_of(train.y),
    }
    population = Population.from_modules(loaded(trained.states), examples, **details)
    for epoch, states in trained.snapshots.items():
        population = population.with_snapshot(epoch, loaded(states))
    return population
