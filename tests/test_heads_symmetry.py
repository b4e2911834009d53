"""Changes inside heads of attention that leave the function alone, applied to the module's own forward pass.

With queries q, keys k and values v of a head: ``v ← G v`` where its readers take ``G⁻¹``, for any invertible G, and
``q ← G q``, ``k ← G⁻ᵀ k``; with rotary positions, G multiplies each pair of features by a complex number.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import pytest
import torch
from torch import Tensor, nn

import consilience as cs
from consilience.signals.attention import Attention
from consilience.units.architecture import TracedNetwork
from consilience.units.axes import by_unit
from consilience.units.forward import forward
from consilience.units.maps import Map
from test_pretrained import FAMILIES, IDS, deviation, member

pytestmark = pytest.mark.numerical

SAME, OTHER = 1e-4, 1e-2
ROTARY = {"GPTNeoXForCausalLM": 2, **dict.fromkeys(("LlamaForCausalLM", "GemmaForCausalLM", "Qwen2ForCausalLM"), 4)}


@lru_cache
def traced(name: str) -> tuple[nn.Module, TracedNetwork, Tensor]:
    x = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(1)) if name.startswith("ViT") else IDS[:6]
    population = cs.Population.from_modules([member(name)], x[:4], output="logits")
    return population.members[0].module, population.networks[0], x


def moved(name: str, network: TracedNetwork) -> float:
    """How far the outputs of the module's own forward pass are from the network's before the change."""
    module, before, x = traced(name)
    pick = before.architecture.program.pick
    with torch.no_grad():
        return deviation(forward(module, network.state, x, pick), forward(module, before.state, x, pick))


def heads_of(name: str) -> list[Attention]:
    _, network, x = traced(name)
    found = (Attention.of(m, network, x[:2]) for m in network.architecture.maps)
    return [heads for heads in found if heads is not None]


def with_rows(network: TracedNetwork, m: Map, rows: slice, matrices: Tensor) -> TracedNetwork:
    """The network with some of the rows that a map writes of each head multiplied by matrices (h, j, j)."""
    weights, (n_heads, j, _) = network.weights(m), matrices.shape
    heads = by_unit(torch.cat([weights.matrix, weights.bias[:, None]], 1), n_heads).clone()
    turned = matrices[:, None] @ heads[:, rows].unflatten(1, (-1, j))  # a key has several queries where they share it
    heads[:, rows] = turned.flatten(1, 2)
    heads = heads.flatten(0, 1)
    return network.with_weights(m, weights.with_matrix(heads[:, :-1], heads[:, -1]))


def with_columns(network: TracedNetwork, m: Map, matrices: Tensor) -> TracedNetwork:
    """The network with the columns by which a map reads each head multiplied by matrices (h, j, j)."""
    weights, (n_heads, j, _) = network.weights(m), matrices.shape
    columns = weights.matrix.unflatten(1, (n_heads, -1, j))
    turned = torch.einsum("ohgj,hjk->ohgk", columns, matrices).flatten(1)
    return network.with_weights(m, weights.with_matrix(turned, weights.bias))


def invertible(n_heads: int, j: int) -> Tensor:
    """Matrices (h, j, j) with singular values from 1 to 2."""
    draws = torch.Generator().manual_seed(j)
    left, right = (torch.linalg.qr(torch.randn(n_heads, j, j, generator=draws))[0] for _ in range(2))
    return left @ (torch.linspace(1, 2, j)[:, None] * right)


def complex_scales(n_heads: int, j: int, n_rotary: int) -> Tensor:
    """Matrices (h, j, j) that multiply features p and p + r/2 as one complex number each, and leave those after r."""
    draws = torch.Generator().manual_seed(j)
    size, angle = 1 + torch.rand(n_heads, n_rotary // 2, generator=draws), torch.rand(n_rotary // 2, generator=draws)
    real, imaginary = torch.diag_embed(size * angle.cos()), torch.diag_embed(size * angle.sin())
    matrices = torch.eye(j).repeat(n_heads, 1, 1)
    matrices[:, :n_rotary, :n_rotary] = torch.cat(
        [torch.cat([real, -imaginary], 2), torch.cat([imaginary, real], 2)], 1
    )
    return matrices


@pytest.mark.parametrize("name", FAMILIES)
def test_values_and_what_reads_them_may_be_written_in_any_basis(name: str) -> None:
    _, network, _ = traced(name)
    heads = heads_of(name)
    assert len(heads) == 2
    wrong = network
    for own in heads:
        matrices = invertible(network.architecture.widths[own.values.writes], own.inside)
        wrong = with_rows(wrong, own.values, own.own, matrices)
        network = with_rows(network, own.values, own.own, matrices)
        network = with_columns(network, own.reader, torch.linalg.inv(matrices))
    assert moved(name, network) < SAME
    assert moved(name, wrong) > OTHER


def turned(name: str, change: Callable[[int, int], Tensor]) -> TracedNetwork:
    """The network with queries q ← G q and keys k ← G⁻ᵀ k of all its heads."""
    _, network, _ = traced(name)
    architecture = network.architecture
    for own in heads_of(name):
        n_heads, j = architecture.widths[own.values.writes], own.inside
        family = {layer.name for layer in architecture.family(own.values.writes)}
        written = [m for m in architecture.maps if m.writes in family and m.output.inside > 1]
        both = [m for m in written if m not in (own.values, own.reader)]
        places = [(m, slice(None)) for m in both] or [(own.values, slice(0, j)), (own.values, slice(j, 2 * j))]
        matrices = change(n_heads, j)
        for (m, rows), by in zip(places, (matrices, torch.linalg.inv(matrices).mT), strict=True):
            network = with_rows(network, m, rows, by)
    return network


@pytest.mark.parametrize("name", FAMILIES)
def test_queries_and_keys_may_be_written_in_any_basis_that_positions_leave_alone(name: str) -> None:
    if name not in ROTARY:
        assert moved(name, turned(name, invertible)) < SAME
        return
    assert moved(name, turned(name, lambda n_heads, j: complex_scales(n_heads, j, ROTARY[name]))) < SAME
    assert moved(name, turned(name, invertible)) > OTHER
