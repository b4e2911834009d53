"""A population of fresh members, trained side by side, traced and proved."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from consilience.checks import as_path, check_count, check_finite, check_function, check_iterable
from consilience.data import Dataset, as_dataset, check_dataset
from consilience.errors import InputError
from consilience.population.factories import make_module
from consilience.population.population import Population
from consilience.seeds import INITIALISATION, SETTLING, generator, global_seed, seed
from consilience.tasks import check_varies, task_of
from consilience.training.callbacks import Callback, has_full_repr
from consilience.training.fit import Progress, fit_members
from consilience.training.hyperparameters import Run, Training, check_epochs, check_training
from consilience.units.modules import plain_copy

N_EXAMPLES = 16  # inputs on which members are traced and proved
SETTLING_BATCHES = 16


def train_population(
    net: nn.Module | Callable[[], nn.Module] | Sequence[nn.Module],
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
    """Train ``n_members`` networks from fresh initial values in one vectorized pass.

    Parameters
    ----------
    net : a module to be copied and initialized anew for each member; or a function that returns a fresh one; or several
        modules (of other widths, say), which the members take in turn.
    train : samples with targets: integer labels, numbers, or 0 and 1 for each label with ``task="multilabel"``.
    n_members : N ≥ 1.
    training : hyperparameters; `Training()` by default.
    validation : samples on which members are evaluated after every epoch, for the metrics.
    random_state : seed of everything. Member k depends on how many others there are only where they share out the data.
    checkpoint : directory for a resume state, with which a killed run continues and ends with the same bytes.
    progress : called with (steps done, steps in all).
    callbacks : terms of the loss, and changes after each step; see `consilience.training.callbacks.Callback`.
    checkpoint_epochs : the epochs, from 1 and ascending, after which the members are kept, in ``snapshots``. The
        snapshot of epoch e is what a run of e epochs gives.

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
    modules = [_fresh(net, k, seed(random_state, INITIALISATION, k)) for k in range(n_members)]
    check_finite(train.x, "train.x")
    examples = train.x[:N_EXAMPLES]
    kinds = modules[: len(net) if isinstance(net, Sequence) else 1]
    architecture = Population.from_modules(kinds, examples).architecture  # raises before any training
    if train.y.is_floating_point():
        check_varies(train.y, "train")
    else:
        check_dataset(train, n_classes=architecture.n_outputs, where="train")
    held_out = None if validation is None else (validation.x, validation.y)
    options: dict[str, Any] = {"callbacks": callbacks, "snapshot_epochs": checkpoint_epochs, "task": train.task}
    run = Run(training, random_state, held_out, **options)
    trained = fit_members(modules, train.x, train.y, run, checkpoint=checkpoint, progress=progress)

    healthy = [k for k in range(n_members) if k not in trained.failed]

    def settled(states: Sequence[Mapping[str, Tensor]]) -> list[nn.Module]:  # the same modules each time
        for k in healthy:
            modules[k].load_state_dict(states[k])
            # One stream for every epoch, so that a snapshot differs from another by training alone.
            settle_norms(modules[k], train.x, training.batch_size, seed(random_state, SETTLING, k))
        return [modules[k] for k in healthy]

    provenance = {"n_trained": n_members, "random_state": random_state, "training": asdict(training)}
    if callbacks:
        provenance["callbacks"] = [repr(c) if has_full_repr(c) else type(c).__qualname__ for c in callbacks]
    details: dict[str, Any] = {
        "failed": trained.failed,
        "metrics": trained.metrics,
        "provenance": provenance,
        "task": train.task or task_of(train.y),
    }
    population = Population.from_modules(settled(trained.states), examples, **details)
    for epoch, states in trained.snapshots.items():
        population = population.with_snapshot(epoch, settled(states))
    return population


def settle_norms(module: nn.Module, x: Tensor, batch_size: int, random_state: int) -> None:
    """Estimate the statistics of a trained module's batch norms anew, on some batches of the training data x (n, ...).

    Running averages lag behind weights that still move: at a constant learning rate they cost 5 to 15 points of
    accuracy (Wu and Johnson 2021, "Rethinking Batch in BatchNorm", section 3). A module without them stays as it is.
    """
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    if not any(norm.track_running_stats for norm in norms):
        return
    n_batches = max(1, min(SETTLING_BATCHES, len(x) // batch_size))
    rows = torch.randperm(len(x), generator=generator(random_state))[: n_batches * batch_size]
    with global_seed(random_state):  # of dropout
        update_bn((x[batch] for batch in rows.split(batch_size)), module)


def initialise(module: nn.Module, random_state: int) -> nn.Module:
    """Return a copy of a module with initial values drawn anew, by the ``reset_parameters`` of its parts."""
    module = plain_copy(module, "net")
    with global_seed(random_state):
        for name, part in module.named_modules():
            reset = getattr(part, "reset_parameters", None)
            if callable(reset):
                reset()
            elif next(part.parameters(recurse=False), None) is not None:
                raise InputError(f"'{name}' must have a method reset_parameters(), got a {type(part).__name__} without")
    return module


def _fresh(net: nn.Module | Callable[[], nn.Module] | Sequence[nn.Module], k: int, random_state: int) -> nn.Module:
    if isinstance(net, nn.Module):
        return initialise(net, random_state)
    if isinstance(net, Sequence):
        if not net:
            raise InputError("net must have at least one module, got an empty sequence")
        return initialise(net[k % len(net)], random_state)
    with global_seed(random_state):  # a function that makes modules chooses their initial values itself
        return plain_copy(make_module(net, "net"), "net")
