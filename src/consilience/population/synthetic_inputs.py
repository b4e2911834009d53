"""Synthetic inputs, drawn from what the members' first weights show about the inputs they were trained on.

Gradient descent moves the weights that read the inputs only along inputs, so the second moment of these weights follows
that of the inputs, on top of what the initial values put into every direction alike. With W (u, i) the first weights of
all members, inputs are drawn from

    N(0, Wᵀ W / u),

scaled so that pre-activations have standard deviation 1. They look like nothing, but a census and an assembly on
them compare units along the directions that count.
"""

from __future__ import annotations

import torch
from torch import Tensor

from consilience.checks import check_count
from consilience.errors import InputError
from consilience.population.checks import check_population
from consilience.population.population import Population
from consilience.seeds import generator

LARGEST_N = 2**31 - 1  # rows


def imagine_inputs(population: Population, n: int = 2000, *, random_state: int = 0) -> Tensor:
    """Return inputs (n, ...) drawn from the second moment of the members' first weights.

    Examples
    --------
    >>> from consilience.nets import MLP
    >>> population = Population.from_modules([MLP(4, [5], 2)], torch.randn(8, 4))
    >>> imagine_inputs(population, 100).shape
    torch.Size([100, 4])

    Raises
    ------
    InputError : if what reads the inputs does not have one weight for each of them.
    """
    check_population(population)
    check_count("n", n, least=2, most=LARGEST_N)
    example, weights = population.example_input, []
    for network in population.networks:
        for m in network.architecture.maps:
            if not m.reads:
                weights.append(network.weights(m).matrix)
                if weights[-1].shape[1] != example[0].numel():
                    got = f"{weights[-1].shape[1]}, shared between positions"
                    message = f"'{m.name}' must have one weight for each of {example[0].numel()} inputs, got {got}"
                    raise InputError(message, cure="pass calibration data")
    first = torch.cat(weights).double()
    x = torch.randn(n, len(first), generator=generator(random_state), dtype=torch.float64) @ first
    response = float((x @ first.T).std())
    imagined: Tensor = (x / (response or 1.0)).to(example.dtype).view(n, *example.shape[1:])
    return imagined
