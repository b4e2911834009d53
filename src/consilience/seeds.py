"""Random streams: every random number of the package comes from a seed that is a pure function of its keys."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from consilience.checks import check_seed

if TYPE_CHECKING:
    import torch

# Streams. A number for each keeps them apart where the other keys agree; changing one changes results.
SUBSET, OWN_ORDER, SHARED_ORDER, NOISE, INITIALISATION, SETTLING = 1, 2, 3, 4, 5, 6  # of training
REDRAW, STUDENTS, SHORT_RUN, TEACHER_INPUTS = 7, 11, 12, 13  # of recovery
ROTATIONS, TURNED, REPEATED = 41, 42, 43  # of significance; of tokens that come again
SHUFFLES, PARTS, FAMILIES = 51, 52, 61  # of comparison
HELD_OUT, SUB_ENSEMBLES, DISTILLATION, MIXTURES = 71, 72, 73, 74  # of rows; of members; of batches; of pairs of rows
EXPERTS, FEW_LABELS, RANDOM_TRUNK, PERMUTED_TASKS = 81, 82, 83, 84  # of routing; of transfer
PLACES, PERMUTED_WIRING, RESAMPLED, RANDOM_UNITS = 91, 92, 93, 94  # of the atlas; of motifs


def seed(random_state: int, stream: int, *keys: int) -> int:
    """Return a 64-bit seed that depends on every argument (`numpy.random.SeedSequence`)."""
    check_seed("random_state", random_state)
    sequence = np.random.SeedSequence([random_state, stream, *keys])
    return int(sequence.generate_state(1, np.uint64)[0])


def generator(random_state: int, *keys: int) -> torch.Generator:
    """Return torch's generator of a stream and further keys; without keys, of ``random_state`` itself."""
    import torch

    check_seed("random_state", random_state)
    return torch.Generator().manual_seed(seed(random_state, *keys) if keys else int(random_state))


def numpy_generator(random_state: int, *keys: int) -> np.random.Generator:
    """Return NumPy's generator of a stream and further keys, or of ``random_state`` itself."""
    check_seed("random_state", random_state)
    return np.random.default_rng([random_state, *keys])


def legacy_generator(random_state: int) -> np.random.RandomState:
    """Return the generator that scikit-learn draws from; it takes seeds from 2³² on in parts."""
    check_seed("random_state", random_state)
    high, low = divmod(random_state, 2**32)
    return np.random.RandomState([low, high] if high else low)


@contextmanager
def global_seed(random_state: int, device: torch.device | None = None) -> Iterator[None]:
    """Seed torch's global random state inside the block, for initial values and dropout; afterwards it is as before."""
    import torch

    with torch.random.fork_rng([device] if device is not None and device.type == "cuda" else []):
        torch.manual_seed(random_state)
        yield
