"""Einsum by other operations is einsum, and networks with it have the layers of those without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from consilience.assembly import assemble
from consilience.census import Census
from consilience.errors import TracingError
from consilience.population import Population
from consilience.units.einsum import as_products, parsed

SIZES = dict(zip("nhqkdoetAB", (3, 4, 5, 6, 7, 2, 8, 5, 3, 4), strict=True))
X = torch.randn(40, 5, 6, generator=torch.Generator().manual_seed(0))  # samples, positions, features


def run(operation: Callable[..., Tensor], *arguments: Any) -> Tensor:
    return operation(*arguments)


@pytest.mark.parametrize(
    "equation",
    [
        *("nhqd,nhkd->nhqk", "nhqk,nhkd->nhqd", "nqhd,nkhd->nhqk", "nhqk,nkhd->nqhd", "nqd,nkd->nqk", "nqd,kd->nkq"),
        *("nqd,do->nqo", "nqd,od->nqo", "od,nd->no", "nd,do->no", "nd,do", "...d,od->...o", "nhd,hdo->nho"),
        *("ne,neo->no", "nqd,nd->nq", "nqk,k->nq", "nd,nd->n", "ne,e->ne", "n,nd->nd", "nd,ne->nde", "nd,nd->nd"),
    ],
)
def test_products_are_the_einsum(equation: str) -> None:
    dots = {own: "AB" for own in equation.partition("->")[0].split(",") if "..." in own}
    values = [
        torch.randn([SIZES[letter] for letter in own.replace("...", dots.get(own, ""))])
        for own in equation.partition("->")[0].split(",")
    ]
    letters = parsed(equation, [value.dim() for value in values])
    assert letters is not None
    torch.testing.assert_close(as_products(*letters, values, run), torch.einsum(equation, *values))


@pytest.mark.parametrize(("equation", "dims"), [("nii,ni->n", [3, 2]), ("nd,do->ndo", [3, 2]), ("nd,do->nx", [2, 2])])
def test_unusual_equations_are_left(equation: str, dims: list[int]) -> None:
    assert parsed(equation, dims) is None


@pytest.mark.parametrize("equation", ["nqd,dhk->nqhk", "nqd,nhd->nd", "nqd,kdh->nkq"])
def test_what_is_no_one_product_is_left(equation: str) -> None:
    letters = parsed(equation, [len(own) for own in equation.partition("->")[0].split(",")])
    assert letters is not None
    assert as_products(*letters, [None, None], run) is None


class Attention(nn.Module):
    """Two heads, by einsum alone."""

    def __init__(self, positions_first: bool) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(6, 6) for _ in range(4))
        self.first, self.readout = nn.Linear(6, 6), nn.Parameter(torch.randn(6, 3))
        self.scores = "nqhd,nkhd->nhqk" if positions_first else "nhqd,nhkd->nhqk"
        self.mixed = "nhqk,nkhd->nqhd" if positions_first else "nhqk,nhkd->nqhd"
        self.positions_first = positions_first

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).tanh()
        q, k, v = (part(x).unflatten(2, (-1, 3)) for part in (self.q, self.k, self.v))
        if not self.positions_first:
            q, k, v = (value.transpose(1, 2) for value in (q, k, v))
        scores = torch.einsum(self.scores, q, k) / 3**0.5
        x = x + self.o(torch.einsum(self.mixed, scores.softmax(-1), v).flatten(2))
        return torch.einsum("...i,io->...o", x, self.readout)


@pytest.mark.parametrize("positions_first", [True, False])
def test_attention_by_einsum(positions_first: bool) -> None:
    nets = [Attention(positions_first).eval() for _ in range(2)]
    population = Population.from_modules(nets, X[:8], task="regression")
    assert {layer.name: layer.width for layer in population.architecture.free if layer.name != "first"}["q"] == 2
    with torch.no_grad():
        full = assemble(Census(n_resamples=0).fit(population, X), "full")(X)
        torch.testing.assert_close(full, (nets[0](X) + nets[1](X)) / 2, atol=1e-5, rtol=1e-4)


def test_an_einsum_that_is_no_product_is_named() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(1, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x)
            return self.b(torch.einsum("nqd,nkd->n", h, h)[:, None])

    with pytest.raises(TracingError, match="aten.einsum in Odd"):
        Population.from_modules([Odd()], X[:8])
