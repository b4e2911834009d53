"""A population from nothing: fresh members, trained side by side, traced and proved."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from consilience.data import Dataset, check_dataset
from consilience.errors import InputError
from consilience.population.population import Population
from consilience.seeds import INITIALISATION, SETTLING, seed
from consilience.training.callbacks import Callback, tells_settings
from consilience.training.fit import Progress, Training, check_epochs, check_training, fit_members

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
    checkpoint: Path | None = None,
    progress: Progress | None = None,
    callbacks: Sequence[Callback] = (),
    checkpoint_epochs: Sequence[int] = (),
) -> Population:
    """Train ``n_members`` networks from fresh initial values in one vectorised pass.

    Parameters
    ----------
    net : a module to be copied and initialised anew for each member; or a function that returns a fresh one; or several
        modules (of other widths, say), which the members take in turn.
    train : labelled samples.
    n_members : N ≥ 1.
    training : hyperparameters; `Training()` by default.
    validation : if given, scored after every epoch, for the metrics.
    random_state : seed of everything. Member k does not depend on how many others there are,
        unless they share out the data (disjoint, dirichlet).
    checkpoint : directory for a checkpoint after every epoch; a killed run that is started again goes on from there and
        ends
        with the same bytes.
    progress : called with (steps done, steps in all).
    callbacks : terms of the loss, and changes after each step; see `consilience.training.callbacks.Callback`.
    checkpoint_epochs : the epochs, from 1 and ascending, after which the members are kept as they are, in
        ``snapshots``. The one after epoch e is what a run of e epochs gives.

    Returns
    -------
    A population. Members whose loss (or penalty) was not finite are not among its members, but in ``failed``, and in no
    snapshot, so that member k is the same network in all of them.

    Raises
    ------
    InputError
        If the data has NaN, a class without samples or the wrong shape, or a hyperparameter, a callback or an epoch to
        keep makes no sense.
    TracingError
        If the module's operations are not understood; before any training.
    TrainingError
        If every member failed.
    """
    if n_members < 1:
        raise InputError("a population needs at least one member", where="n_members", got=n_members)
    training = training or Training()
    check_training(training)
    check_epochs(checkpoint_epochs, training.epochs, "checkpoint_epochs")
    modules = [_fresh(net, k, seed(random_state, INITIALISATION, k)) for k in range(n_members)]
    examples = train.x[:N_EXAMPLES]
    kinds = modules[: len(net) if isinstance(net, Sequence) else 1]
    architecture = Population.from_modules(kinds, examples).architecture  # raises before any training
    if not train.y.is_floating_point():
        check_dataset(train, n_classes=architecture.output.width, where="the training data")
    trained = fit_members(
        modules, train.x, train.y, training, random_state=random_state, checkpoint=checkpoint, progress=progress,
        validation=None if validation is None else (validation.x, validation.y), callbacks=callbacks,
        snapshot_epochs=checkpoint_epochs,
    )  # fmt: skip

    def settled(states: Sequence[Mapping[str, Tensor]]) -> list[nn.Module]:
        """Return the members that never failed in these states; the same modules each time."""
        healthy = [k for k in range(n_members) if k not in trained.failed]
        for k in healthy:
            modules[k].load_state_dict(states[k])
            # One stream for every epoch, so that a snapshot differs from another by training alone.
            settle_norms(modules[k], train.x, training.batch_size, seed(random_state, SETTLING, k))
        return [modules[k] for k in healthy]

    provenance = {"n_trained": n_members, "random_state": random_state, "training": asdict(training)}
    if callbacks:
        provenance["callbacks"] = [repr(c) if tells_settings(c) else type(c).__qualname__ for c in callbacks]
    population = Population.from_modules(
        settled(trained.states), examples, failed=trained.failed, metrics=trained.metrics, provenance=provenance
    )
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
    generator = torch.Generator().manual_seed(random_state)
    n_batches = max(1, min(SETTLING_BATCHES, len(x) // batch_size))
    rows = torch.randperm(len(x), generator=generator)[: n_batches * batch_size]
    with torch.random.fork_rng(devices=[]):  # of dropout
        torch.manual_seed(random_state)
        update_bn((x[batch] for batch in rows.split(batch_size)), module)


def initialise(module: nn.Module, random_state: int) -> nn.Module:
    """Return a copy of a module with initial values drawn anew, by the ``reset_parameters`` of its parts.

    Raises
    ------
    InputError
        If a part has parameters and no ``reset_parameters``.
    """
    module = copy.deepcopy(module)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random_state)
        for name, part in module.named_modules():
            reset = getattr(part, "reset_parameters", None)
            if callable(reset):
                reset()
            elif next(part.parameters(recurse=False), None) is not None:
                raise InputError(
                    "a module does not know how to draw its initial values", where=f"'{name}' ({type(part).__name__})",
                    cure="give it a method reset_parameters()",
                )  # fmt: skip
    return module


def _fresh(net: nn.Module | Callable[[], nn.Module] | Sequence[nn.Module], k: int, random_state: int) -> nn.Module:
    """Return member k with initial values of its own; a function that makes modules chooses them itself."""
    if isinstance(net, nn.Module):
        return initialise(net, random_state)
    if isinstance(net, Sequence):
        if not net:
            raise InputError("no module to train", where="net", got="an empty sequence")
        return initialise(net[k % len(net)], random_state)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random_state)
        return net()
