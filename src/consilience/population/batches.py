"""Inputs out of what yields them in batches: a torch DataLoader, Dataset, a generator, or a list of batches.

Only what is looked at is kept: `MOST` samples, evenly spread over a Dataset of known length, the first ones of
anything else. Of a batch that is a tuple or a list, the first part is inputs, as in ``(x, y)``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from consilience.checks import as_tensor, describe, of_the_user
from consilience.errors import InputError
from consilience.several import are_several, check_same_samples, n_samples
from consilience.units.inputs import Inputs

MOST = 20_000  # samples: as many rows as a census looks at in each layer
BATCH = 256


def yields_batches(source: object) -> bool:
    """Whether inputs are to be read batch by batch."""
    batches = source if isinstance(source, list) else []  # whose entries are no rows of numbers
    listed = [are_several(tuple(batch) if isinstance(batch, list) else batch) for batch in batches]
    return (bool(listed) and all(listed)) or isinstance(source, DataLoader | Dataset | Iterator)


def gathered(source: Any, inputs: Inputs | None, argument: str) -> Any:
    """Return inputs of at most `MOST` samples: one tensor, or a dict or tuple as the members take them."""
    if isinstance(source, Dataset):
        if not isinstance(source, IterableDataset):
            source = Subset(source, range(0, len(source), -(-len(source) // MOST)))  # type: ignore[arg-type]
        source = DataLoader(source, batch_size=BATCH)
    taken, n = list[Any](), 0
    with of_the_user(argument):
        for batch in source:
            taken.append(inputs_of_batch(batch, inputs, argument))
            check_same_samples(taken[-1], f"batch {len(taken) - 1} of {argument}")
            n += n_samples(taken[-1])
            if n >= MOST:
                break
    if not taken:
        raise InputError(f"{argument} must yield at least one batch, got none", cure="a generator can be read once")
    first = taken[0]
    if isinstance(first, Mapping):
        return {name: torch.cat([batch[name] for batch in taken])[:MOST] for name in first}
    if isinstance(first, tuple):
        return tuple(torch.cat([batch[i] for batch in taken])[:MOST] for i in range(len(first)))
    return torch.cat(taken)[:MOST]


def inputs_of_batch(batch: Any, inputs: Inputs | None, argument: str) -> Any:
    """Return the inputs of a batch, which may have targets and more; ``inputs`` is what takes several of them."""
    first = batch[0] if isinstance(batch, tuple | list) and len(batch) else batch
    if inputs is not None and inputs.names:
        if not isinstance(first, Mapping) or not {*inputs.names} <= {*first}:
            got = ", ".join(map(repr, first)) if isinstance(first, Mapping) else describe(first)
            wanted = ", ".join(map(repr, inputs.names))
            raise InputError(f"batches of {argument} must have the inputs {wanted}, got {got}")
        return {name: as_tensor(first[name], f"{name!r} in a batch of {argument}") for name in inputs.names}
    if inputs is not None:
        parts, n = first if isinstance(first, tuple | list) else batch, len(inputs.shapes)
        if not isinstance(parts, tuple | list) or len(parts) < n:
            got = f"{len(parts)} in one" if isinstance(parts, tuple | list) else describe(parts)
            raise InputError(f"batches of {argument} must have {n} inputs in a tuple, got {got}")
        return tuple(as_tensor(part, f"input {i} in a batch of {argument}") for i, part in enumerate(parts[:n]))
    if isinstance(first, Mapping):
        got = ", ".join(map(repr, first))
        raise InputError(f"batches of {argument} must be inputs, or tuples that begin with them, got a dict of {got}")
    return as_tensor(first, f"a batch of {argument}")
