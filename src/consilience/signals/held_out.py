"""One split of calibration rows into fitted and held-out ones, the same wherever it is used."""

from __future__ import annotations

import torch
from torch import Tensor

from consilience.errors import InputError
from consilience.seeds import HELD_OUT, generator

SHARE = 10  # one row in this many is held out


def held_out(n: int) -> tuple[Tensor, Tensor]:
    """Return the indices of fitted rows and of held-out ones of n ≥ 2 calibration rows, each ascending.

    A tenth of the rows, at least one, is held out, drawn at random: calibration data may come sorted. It depends on n
    alone.

    >>> fitted, held = held_out(20)
    >>> len(fitted), len(held)
    (18, 2)
    """
    if n < 2:
        raise InputError(f"calibration must have at least 2 rows, got {n}", cure="pass more inputs")
    order = torch.randperm(n, generator=generator(0, HELD_OUT))
    n_held = max(1, n // SHARE)
    return order[n_held:].sort().values, order[:n_held].sort().values
