"""How many samples a network runs at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # plain scores can be read without importing torch
    from consilience.units.architecture import TracedNetwork

BATCH_SIZE = 256  # of a module whose values are unknown: for convolutions faster than more, for others no slower
MAX_BATCH = 1024
BATCH_VALUES = 2**22  # numbers in the largest value of a batch, 16 MB: more of them leave the caches and take longer


def batch_size(network: TracedNetwork) -> int:
    """Return how many samples to run at a time, by the largest value that one sample becomes."""
    return max(1, min(MAX_BATCH, BATCH_VALUES // network.architecture.largest_value))
