"""Operations on units, each in a small network: full width of members of other widths is their mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from consilience.assembly import elastic
from consilience.assembly.assembler import Assembler
from consilience.census import Census
from consilience.errors import InputError, TracingError
from consilience.population import Population
from consilience.units.follow import find_layers

pytestmark = pytest.mark.numerical

ROWS = torch.randn(60, 6, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(60, 2, 6, 5, generator=torch.Generator().manual_seed(0))


class Small(nn.Module):
    """A layer ``a`` (of twice the width with ``halves``), another ``p`` beside it, and a readout ``b``."""

    def __init__(
        self, function: Callable[[Any, Tensor], Tensor], width: int, x: Tensor, *, halves: bool = False
    ) -> None:
        super().__init__()
        self.function = function
        if x.dim() == 2:
            self.a, self.p = nn.Linear(6, width * (1 + halves)), nn.Linear(6, width)
        else:
            self.a, self.p = nn.Conv2d(2, width * (1 + halves), 3), nn.Conv2d(2, width, 3)
        self.bare, self.b = nn.Linear(6, width, bias=False), nn.Linear(width, 3)
        self.gain, self.shift = nn.Parameter(torch.randn(width)), nn.Parameter(torch.randn(width))
        self.scale = nn.Parameter(torch.randn(width, 1, 1))
        self.bare_conv = nn.Conv2d(2, width, 3, bias=False)
        self.prelu, self.norm = nn.PReLU(width), nn.InstanceNorm2d(width, affine=True)
        with torch.no_grad():
            self.prelu.weight.copy_(torch.rand(width))
            self.norm.weight.copy_(torch.randn(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def over(z: Tensor) -> Tensor:
    return z.relu().mean((2, 3))


def gated(z: Tensor) -> Tensor:
    first, second = z.chunk(2, 1)
    return first * second.tanh()


def blurred(z: Tensor, kernels: Tensor) -> Tensor:
    """Each channel by a kernel of its own, of as many as there are channels."""
    return functional.conv2d(z, kernels, stride=2, padding=1, groups=z.shape[1])


BLUR = torch.tensor([1.0, 2, 1])[:, None] * torch.tensor([1.0, 2, 1]) / 16


# name → forward pass, inputs, whether ``a`` has twice the width
MERGED: dict[str, tuple[Callable[[Any, Tensor], Tensor], Tensor, bool]] = {
    "glu": (lambda m, x: m.b(functional.glu(m.a(x))), ROWS, True),
    "glu of channels": (lambda m, x: m.b(over(functional.glu(m.a(x), 1))), IMAGES, True),
    "chunks": (lambda m, x: m.b(gated(m.a(x))), ROWS, True),
    "chunks of channels": (lambda m, x: m.b(over(gated(m.a(x)))), IMAGES, True),
    "chunks that are added": (lambda m, x: m.b(sum(z.relu() for z in m.a(x).chunk(2, 1))), ROWS, True),
    "added products": (lambda m, x: m.b(torch.addcmul(m.shift, m.gain, m.a(x)).relu()), ROWS, False),
    "added products of units": (lambda m, x: m.b(torch.addcmul(m.a(x), m.gain, m.p(x), value=0.5).relu()), ROWS, False),
    "blur": (lambda m, x: m.b(over(blurred(m.a(x), BLUR.expand(m.a(x).shape[1], 1, 3, 3)))), IMAGES, False),
    "maximum": (lambda m, x: m.b(torch.maximum(m.a(x), m.p(x))), ROWS, False),
    "minimum with a number": (lambda m, x: m.b(torch.minimum(m.a(x), torch.tensor(0.3))), ROWS, False),
    "where": (lambda m, x: m.b(torch.where(m.a(x) > 0, m.a(x), 0.1 * m.p(x))), ROWS, False),
    "stack": (lambda m, x: m.b(torch.stack([m.a(x), m.p(x)], 1).relu().mean(1)), ROWS, False),
    "gain": (lambda m, x: m.b((m.a(x) * m.gain).relu()), ROWS, False),
    "layer scale": (lambda m, x: m.b(over(m.a(x) + m.scale * m.p(x))), IMAGES, False),
    "a second bias": (lambda m, x: m.b((m.a(x) + m.shift).relu()), ROWS, False),
    "bias by hand": (lambda m, x: m.b((m.bare(x) + m.shift).relu()), ROWS, False),
    "bias by hand of channels": (lambda m, x: m.b(over(m.bare_conv(x) + m.scale)), IMAGES, False),
    "slopes": (lambda m, x: m.b(m.prelu(m.a(x))), ROWS, False),
    "slopes of channels": (lambda m, x: m.b(m.prelu(m.a(x)).mean((2, 3))), IMAGES, False),
    "instance norm": (lambda m, x: m.b(over(functional.instance_norm(m.a(x)))), IMAGES, False),
    "instance norm with scales": (lambda m, x: m.b(over(m.norm(m.a(x)))), IMAGES, False),
    "spread over positions": (lambda m, x: m.b(m.a(x).std((2, 3)) + m.p(x).flatten(2).var(-1)), IMAGES, False),
    "largest with its place": (lambda m, x: m.b(m.a(x).flatten(2).max(2)[0]), IMAGES, False),
}


def members(function: Callable[[Any, Tensor], Tensor], x: Tensor, halves: bool) -> list[nn.Module]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return [Small(function, width, x, halves=halves).eval() for width in (5, 7)]


@pytest.mark.parametrize("name", MERGED)
def test_full_width_is_the_mean_of_members_of_other_widths(name: str) -> None:
    function, x, halves = MERGED[name]
    modules = members(function, x, halves)
    population = Population.from_modules(modules, x[:8])
    assembler = Assembler(Census(n_resamples=0).fit(population, x))
    expected = torch.stack([module(x) for module in modules]).mean(0).detach()
    torch.testing.assert_close(assembler.assemble("full")(x).detach(), expected, rtol=1e-4, atol=1e-5)
    narrow = assembler.assemble({layer.name: 6 for layer in population.architecture.free}, correction="least-squares")
    assert float((narrow(x).detach() - expected).square().mean()) < float((expected - expected.mean(0)).square().mean())


def test_parts_of_one_weight_are_tied_layers() -> None:
    function, x, halves = MERGED["chunks"]
    architecture = find_layers(members(function, x, halves)[0], x[:8])
    assert [(layer.name, layer.width, layer.tied) for layer in architecture.hidden] == [
        ("a", 5, None),
        ("a[1]", 5, "a"),
    ]
    assert architecture.divided["a.weight", 0] == (("a", 1), ("a[1]", 1))
    population = Population.from_modules(members(function, x, halves), x[:8])
    with pytest.raises(
        InputError, match="a layer that reads the inputs must have a weight of its own, got parts of 'a'"
    ):
        elastic(Census(n_resamples=0).fit(population, x), widths=("0.5x", "1x"))


NORMS = [lambda u: nn.RMSNorm(u), lambda u: nn.GroupNorm(1, u), lambda u: nn.GroupNorm(3, u), lambda u: nn.LayerNorm(u)]


@pytest.mark.parametrize("norm", NORMS)
def test_a_norm_over_units_keeps_members_apart_at_full_width(norm: Callable[[int], nn.Module]) -> None:
    modules = [Small(lambda m, x: m.b(m.odd(m.a(x)).relu()), 6, ROWS) for _ in range(2)]
    for module in modules:
        module.odd = norm(6)
        nn.init.normal_(module.odd.weight)
    population = Population.from_modules(modules, ROWS[:8])
    full = Assembler(Census(n_resamples=0).fit(population, ROWS)).assemble("full", correction="none")
    torch.testing.assert_close(full(ROWS).detach(), population.logits(ROWS).mean(0), rtol=1e-4, atol=1e-4)


def test_a_group_norm_in_very_many_groups_is_refused() -> None:
    module = Small(lambda m, x: m.b(m.odd(m.a(x)).relu()), 34, ROWS)
    module.odd = nn.GroupNorm(17, 34)
    with pytest.raises(TracingError, match=r"a group norm in 17 groups: aten.group_norm in 'odd' \(GroupNorm\)"):
        find_layers(module, ROWS[:8])


REFUSED = {
    "kernels of their own": (
        lambda m, x: m.b(
            over(blurred(m.a(x)[:, :, None, None], torch.arange(6.0).view(-1, 1, 1, 1).expand(6, 1, 3, 3)))
        ),
        "a weight is computed, not a parameter: aten.conv2d",
    ),
    "standard deviation of units": (
        lambda m, x: m.b(m.a(x) / m.a(x).std(-1, keepdim=True)),
        r"operation on units: aten.std.dim in Small, .*\n  cure: use \(x.var\(dim, unbiased=False, keepdim=True",
    ),
    "one slope": (
        lambda m, x: m.b(functional.prelu(m.a(x), m.gain[:1] * 0 + m.one)),
        "unsupported operation on a parameter: aten.prelu in Small",
    ),
    "parts of units and inputs": (
        lambda m, x: m.b(gated(torch.cat([m.a(x), x], 1))),
        "units of several layers are cut: aten.chunk in Small, .*\n.*before they are put side by side",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_operations_that_tell_units_apart_raise_an_error_that_names_the_parameter(name: str) -> None:
    function, message = REFUSED[name]
    module = Small(lambda m, x: function(m, x), 6, ROWS)
    module.one = nn.Parameter(torch.ones(1))
    with pytest.raises(TracingError, match=message):
        find_layers(module, ROWS[:8])
