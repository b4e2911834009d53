"""More calibration rows where there are few: mixtures of two of them, ``λ x + (1 − λ) x'`` with λ uniform.

A fit to few rows of the ensemble's outputs learns these rows by heart. The ensemble can be asked anywhere, and mixtures
of data are near to data (mixup, Zhang et al. 2018, without its mixed labels).
"""

from __future__ import annotations

import torch
from torch import Tensor

from consilience.population.population import Population
from consilience.seeds import MIXTURES, generator

ENOUGH = 1000  # rows, from which on none are added (docs/experiments.md)


def with_mixtures(x: Tensor, population: Population) -> Tensor:
    """Return inputs x (n, ...) and, if they are few, mixtures of them, `ENOUGH` rows in all.

    Integers, indices and inputs of several parts cannot be mixed, and batch norms keep the statistics of data: for
    members that have them, x is returned.
    """
    n_more, architecture = ENOUGH - len(x), population.architecture
    mixable = x.is_floating_point() and population.inputs is None and not architecture.program.embedded
    if n_more <= 0 or not mixable or any(m.norm is not None for m in architecture.maps):
        return x
    draws = generator(0, MIXTURES)
    one, other = torch.randint(len(x), (2, n_more), generator=draws)
    share = torch.rand(n_more, generator=draws).to(x.dtype).view(-1, *[1] * (x.dim() - 1))
    return torch.cat([x, torch.lerp(x[other], x[one], share)])
