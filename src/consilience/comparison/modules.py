"""The models of a comparison, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from torch import nn

from consilience.errors import InputError
from consilience.population.population import Population

Models: TypeAlias = Mapping[str, nn.Module] | Mapping[str, Population] | Sequence[nn.Module] | Population


def modules_of(models: Models) -> dict[str, nn.Module]:
    """Return at least two modules by name.

    Names are those given; "model 0", … of a sequence; "member 0", … of a population; of several, "NAME 0", ….

    Raises
    ------
    InputError
        If there is one only, one is no module, or two names are the same as text.
    """
    if isinstance(models, nn.Module):
        raise InputError("one module where several are expected", where="models", got=type(models).__name__,
                         cure="pass a list, a mapping name → module or a population")  # fmt: skip
    found = dict[str, nn.Module]()
    for name, model in _populations(models).items():
        found |= {f"{name} {k}": member.module for k, member in enumerate(model)}
    if not found:
        given = models if isinstance(models, Mapping) else {f"model {k}": module for k, module in enumerate(models)}
        found = {str(name): module for name, module in given.items()}  # type: ignore[misc]
        if len(found) < len(given):
            raise InputError("two models have one name", where="models", got=", ".join(map(repr, given)),
                             expected="names that differ as text")  # fmt: skip
    for name, module in found.items():
        if not isinstance(module, nn.Module):
            raise InputError("not a module", where=f"models, '{name}'", got=type(module).__name__, expected="nn.Module")
    if len(found) < 2:
        raise InputError("a comparison takes at least two models", where="models", got=f"{len(found)}")
    return found


def snapshots_of(models: Models, epochs: Sequence[int]) -> dict[int, dict[str, nn.Module]]:
    """Return the modules as they were after these epochs, in ascending order: epoch → name → module.

    Raises
    ------
    InputError
        If the models are no populations, or one has no snapshot of one of the epochs.
    """
    if not epochs:
        return {}
    populations = _populations(models)
    shared = [set(population.snapshots) for population in populations.values()]
    known = sorted(set.intersection(*shared)) if shared else []
    for epoch in epochs:
        if epoch not in known:
            raise InputError(
                "there is no snapshot of this epoch", where="epochs", got=epoch,
                expected="one of " + ", ".join(map(str, known)) if known else "populations with snapshots",
                cure="train_population(..., checkpoint_epochs=[...]) keeps them",
            )  # fmt: skip
    return {
        epoch: modules_of({name: population.snapshots[epoch] for name, population in populations.items()})
        for epoch in sorted(set(epochs))
    }


def _populations(models: Models) -> dict[str, Population]:
    """The models by name if they are populations; nothing if they are not."""
    if isinstance(models, Population):
        return {"member": models}
    if isinstance(models, Mapping) and models:
        populations = {str(name): each for name, each in models.items() if isinstance(each, Population)}
        return populations if len(populations) == len(models) else {}
    return {}
