"""Random streams: every random number of the package comes from a seed that is a pure function of its keys."""

from __future__ import annotations

import numpy as np

from consilience.errors import InputError

# Streams. A number for each keeps them apart where the other keys agree.
SUBSET, OWN_ORDER, SHARED_ORDER, NOISE, INITIALISATION, SETTLING = 1, 2, 3, 4, 5, 6


def seed(random_state: int, stream: int, *keys: int) -> int:
    """Return a 64-bit seed that depends on every argument (`numpy.random.SeedSequence`)."""
    if random_state < 0:
        raise InputError(f"random_state must be >= 0, got {random_state}")
    sequence = np.random.SeedSequence([random_state, stream, *keys])
    return int(sequence.generate_state(1, np.uint64)[0])
