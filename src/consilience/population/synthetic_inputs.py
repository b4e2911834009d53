"""Synthetic inputs, drawn from what the members' first weights show about the inputs they were trained on.

Gradient descent moves the weights that read the inputs only along inputs, so the second moment of these weights follows
that of the inputs, on top of what the initial values put into every direction alike. With W (u, i) the first weights of
all members, inputs are drawn from

    N(0, Wᵀ W / u),

scaled so that pre-activations have standard deviation 1; where the members scale and shift their inputs first, in the
scaled coordinates. They look like nothing, but a census and an assembly on
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
from consilience.ties import SINGLE
from consilience.units.architecture import TracedNetwork
from consilience.units.maps import Map

CURE = "pass calibration data"

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
    InputError : if what reads the inputs does not have one weight for each of them, or if they reach it otherwise than
        scaled and shifted.
    """
    check_population(population)
    check_count("n", n, least=2, most=LARGEST_N)
    example, weights, scale = population.example_input, [], None
    for network in population.networks:
        for m in network.architecture.maps:
            if not m.reads:
                weight = network.weights(m).matrix.double()
                if weight.shape[1] != example[0].numel():
                    got = f"{weight.shape[1]}, shared between positions"
                    message = f"'{m.name}' must have one weight for each of {example[0].numel()} inputs, got {got}"
                    raise InputError(message, cure=CURE)
                slope, offset = _scaling(network, m, example)
                scale = scale or (slope, offset)
                weights.append(weight * (slope / scale[0]))
    assert scale is not None  # every network reads its inputs
    first = torch.cat(weights)
    read = torch.randn(n, len(first), generator=generator(random_state), dtype=torch.float64) @ first
    response = float((read @ first.T).std())
    imagined: Tensor = (read / (response or 1.0) - scale[1]) / scale[0]
    return imagined.to(example.dtype).view(n, *example.shape[1:])


def _scaling(network: TracedNetwork, m: Map, example: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and offset (i,) of what a map reads as a function of the inputs, number by number."""
    program = network.architecture.program

    def read(x: Tensor) -> Tensor:
        values: Tensor = program.run(network.state, x, [m.inputs[0].name])[m.inputs[0].name]
        return values.flatten(1).double()

    zero = torch.zeros_like(example[:1])
    probe = torch.arange(1, zero.numel() + 1, dtype=zero.dtype).view_as(zero) / zero.numel()
    offset, one, probed = (read(x)[0] for x in (zero, zero + 1, probe))
    slope = one - offset
    expected = slope * probe.flatten().double() + offset
    if bool((slope == 0).any()) or float((probed - expected).abs().max()) > SINGLE * 10 * float(one.abs().max()):
        message = f"inputs must reach '{m.name}' scaled and shifted one by one, got another function of them"
        raise InputError(message, cure=CURE)
    return slope, offset
