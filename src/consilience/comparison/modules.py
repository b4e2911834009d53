"""The models of a comparison: modules by name, now and at earlier epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from torch import nn

from consilience.errors import InputError
from consilience.population.population import Population

Models: TypeAlias = Mapping[str, nn.Module] | Mapping[str, Population] | Sequence[nn.Module] | Population


def modules_of(models: Models) -> dict[str, nn.Module]:
    """Return at least two modules by name.

    Names are those of a mapping; "model 0", … of a sequence; "member 0", … of a population; "NAME 0", … of several.
    Raise an `InputError` if there are fewer than two, one is not a module, or two names are the same as text.
    """
    if isinstance(models, nn.Module):
        raise InputError(
            f"models must be a list, a mapping name → module or a population, got one {type(models).__name__}"
        )
    modules: dict[str, nn.Module]
    if populations := _populations(models):
        modules = {
            f"{name} {k}": m.module for name, population in populations.items() for k, m in enumerate(population)
        }
    else:
        named = models if isinstance(models, Mapping) else {f"model {k}": module for k, module in enumerate(models)}
        modules = {str(name): module for name, module in named.items()}  # type: ignore[misc]
        if len(modules) < len(named):
            raise InputError(f"names of models must differ as text, got {', '.join(map(repr, named))}")
    for name, module in modules.items():
        if not isinstance(module, nn.Module):
            raise InputError(f"models[{name!r}] must be an nn.Module, got {type(module).__name__}")
    if len(modules) < 2:
        raise InputError(f"models must be at least two, got {len(modules)}")
    return modules


def snapshots_of(models: Models, epochs: Sequence[int]) -> dict[int, dict[str, nn.Module]]:
    """Return the modules after these epochs of training: epoch, ascending → name → module.

    Raise an `InputError` if models are not populations, or one of them has no snapshot of an epoch.
    """
    populations = _populations(models)
    snapshots = [set(population.snapshots) for population in populations.values()]
    shared = set.intersection(*snapshots) if snapshots else set()
    for epoch in epochs:
        if epoch not in shared:
            wanted = f"one of {', '.join(map(str, sorted(shared)))}" if shared else "empty for models without snapshots"
            raise InputError(
                f"epochs must be {wanted}, got {epoch}",
                cure="train_population(..., checkpoint_epochs=[...]) keeps them",
            )
    return {
        epoch: modules_of({name: population.snapshots[epoch] for name, population in populations.items()})
        for epoch in sorted(set(epochs))
    }


def _populations(models: Models) -> dict[str, Population]:
    """The models by name if they are populations, else nothing."""
    if isinstance(models, Population):
        return {"member": models}
    if isinstance(models, Mapping) and models:
        populations = {str(name): model for name, model in models.items() if isinstance(model, Population)}
        return populations if len(populations) == len(models) else {}
    return {}
