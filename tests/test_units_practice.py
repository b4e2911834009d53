"""Parts that networks of practice have, each in small networks: full width of members of other widths is their mean."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from consilience.assembly.assembler import Assembler
from consilience.census import Census
from consilience.errors import InputError, TracingError
from consilience.population import Population
from consilience.units.computed import store_computed
from consilience.units.written_out import _of_all_channels

pytestmark = pytest.mark.numerical

ROWS = torch.randn(60, 6, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(60, 2, 6, 5, generator=torch.Generator().manual_seed(0))


class Small(nn.Module):
    """Layers by name, and a forward pass."""

    def __init__(self, function: Callable[[nn.Module, Tensor], Tensor], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


class Standardized(nn.Conv2d):
    """A convolution whose weight is standardized in the forward pass, as in networks without norms."""

    def __init__(self, width: int) -> None:
        super().__init__(width, width + 2, 3, padding=1, groups=2)
        self.gain = nn.Parameter(torch.rand(width + 2, 1, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        mean, deviation = self.weight.mean((1, 2, 3), keepdim=True), self.weight.std((1, 2, 3), keepdim=True)
        weight = self.gain * (self.weight - mean) / deviation
        return nn.functional.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Ghost(nn.Module):
    """Channels and a depthwise convolution of them, of which it takes as many as it should return: all."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.cheap = nn.Conv2d(2, width, 3), nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.out_chs = 2 * width

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        return torch.cat([x, self.cheap(x)], 1)[:, : self.out_chs]


class Gain(nn.Module):
    """A gain with its shape in an attribute."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain, self.shape = number(width), (width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain.view(self.shape)


def number(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.rand(shape) + 0.5)


def shaken(norm: nn.modules.batchnorm._BatchNorm | nn.LayerNorm) -> nn.Module:
    values = norm.parameters() if isinstance(norm, nn.LayerNorm) else (norm.running_mean, norm.running_var)
    with torch.no_grad():
        for value in values:
            value.add_(torch.rand_like(value))
    return norm


def perceptron(function: Callable, **more: Callable[[int], nn.Module | nn.Parameter]) -> Callable[[int], nn.Module]:
    def make(width: int) -> nn.Module:
        parts = {name: part(width) for name, part in more.items()}
        return Small(function, a=nn.Linear(6, width), b=nn.Linear(width, 3), **parts)

    return make


def convolutional(function: Callable, **more: Callable[[int], nn.Module | nn.Parameter]) -> Callable[[int], nn.Module]:
    def make(width: int) -> nn.Module:
        parts = {name: part(width) for name, part in more.items()}
        return Small(function, a=nn.Conv2d(2, width, 3), c=nn.Linear(width, 3), **parts)

    return make


def pooled(m: nn.Module, z: Tensor) -> Tensor:
    return m.c(z.relu().mean((2, 3)))


def shuffled(z: Tensor, groups: int) -> Tensor:
    n, c, *positions = z.shape
    return z.view(n, groups, c // groups, *positions).transpose(1, 2).contiguous().view(n, c, *positions)


def shuffled_halves(m: nn.Module, x: Tensor) -> Tensor:
    z = torch.cat([m.a(x), m.d(x)], 1).relu()
    for part in (m.p, m.q):
        first, second = shuffled(z, 2).chunk(2, 1)
        z = torch.cat([first, part(second)], 1)
    return pooled(m, shuffled(z, 2))


def shuffled_with_gates(m: nn.Module, x: Tensor) -> Tensor:
    z = m.n(shuffled(m.a(x), 2)).relu()
    z = z * m.p(z.mean((2, 3), keepdim=True)).sigmoid()
    return m.c(m.d(z.permute(0, 2, 3, 1)).mean((1, 2)))


def halves(m: nn.Module, x: Tensor) -> Tensor:
    z = m.wide(x)
    h = z.shape[1] // 2
    return m.b(z[:, :h] * z[:, h:].tanh())


def sized(m: nn.Module, x: Tensor) -> Tensor:
    z = m.wide(x)
    first, second = z.split([z.shape[1] // 2] * 2, 1)
    return m.b(first + second.tanh())


def uneven(m: nn.Module, x: Tensor) -> Tensor:
    z = m.p(m.wide(x)).relu()
    quarter = z.shape[1] // 4
    first, second = z.split([quarter, 3 * quarter], 1)
    return m.b(torch.cat([second.tanh(), first], 1)) + m.d(z[:, 2 * quarter :])


def branches(m: nn.Module, x: Tensor) -> Tensor:
    z = m.n(m.a(x)).relu()
    first, second, third = z.chunk(3, 1)
    second = m.p(second + first)
    return pooled(m, torch.cat([first, second, m.q(third) * second], 1) + z)


def selective(m: nn.Module, x: Tensor) -> Tensor:
    z = torch.stack([m.a(x).relu(), m.d(x).tanh()], 1)
    w = m.p(z.sum(1).mean((2, 3), keepdim=True))
    w = w.view(len(w), 2, w.shape[1] // 2, 1, 1).softmax(1)
    return pooled(m, (z * w).sum(1))


def split_attention(m: nn.Module, x: Tensor) -> Tensor:
    z = m.a(x).relu()
    z = z.reshape(len(z), 3, z.shape[1] // 3, *z.shape[2:])
    w = m.p(z.sum(1).mean((2, 3), keepdim=True)).view(len(z), 1, 3, -1).transpose(1, 2).softmax(1)
    w = w.reshape(len(z), -1).view(len(z), -1, 1, 1)
    return pooled(m, (z * w.reshape(len(z), 3, w.shape[1] // 3, 1, 1)).sum(1))


def attended(m: nn.Module, x: Tensor, scale: float = 1.0) -> Tensor:
    z = m.a(x).relu()
    return m.b((z.view(len(z), 2, -1) * scale).softmax(1).sum(1))


def attention_to_positions(m: nn.Module, x: Tensor) -> Tensor:
    h = m.a(x.flatten(1, 2)).tanh()
    return m.b((m.p(h).softmax(1) * h).sum(1))


# name → network of a width, inputs
NETWORKS: dict[str, tuple[Callable[[int], nn.Module], Tensor]] = {
    "weight of one's own": (
        perceptron(lambda m, x: m.b((m.a(x).relu() @ m.g.T).tanh()), g=lambda w: nn.Parameter(torch.randn(w, w))),
        ROWS,
    ),
    "gain twice": (
        convolutional(lambda m, x: pooled(m, (m.a(x) * m.g).tanh() * m.g), g=lambda w: number(w, 1, 1)),
        IMAGES,
    ),
    "parts of several sizes": (
        lambda w: Small(
            uneven,
            wide=nn.Linear(6, 4 * w),
            p=nn.BatchNorm1d(4 * w),
            b=nn.Linear(4 * w, 3),
            d=nn.Linear(2 * w, 3),
        ),
        ROWS,
    ),
    "parts of a stream": (
        lambda w: Small(
            branches,
            a=nn.Conv2d(2, 3 * w, 3),
            n=shaken(nn.BatchNorm2d(3 * w)),
            p=nn.Conv2d(w, w, 3, padding=1),
            q=nn.Conv2d(w, w, 3, padding=1, groups=w),
            c=nn.Linear(3 * w, 3),
        ),
        IMAGES,
    ),
    "temperature": (perceptron(lambda m, x: m.b(m.a(x).relu()) / m.t, t=lambda w: number(1)), ROWS),
    "scale of logits": (perceptron(lambda m, x: m.t.exp() * m.b(m.a(x).relu()), t=lambda w: number()), ROWS),
    "scale inside": (perceptron(lambda m, x: m.b((m.a(x) * m.t).tanh()), t=lambda w: number(1)), ROWS),
    "scale of a norm": (
        convolutional(lambda m, x: pooled(m, m.n(m.a(x)) * m.t), n=nn.BatchNorm2d, t=lambda w: number()),
        IMAGES,
    ),
    "one scale twice": (perceptron(lambda m, x: m.b((m.a(x) * m.t).tanh()) * m.t, t=lambda w: number(1)), ROWS),
    "gain with four axes": (
        convolutional(lambda m, x: pooled(m, m.a(x) * m.g), g=lambda w: number(1, w, 1, 1)),
        IMAGES,
    ),
    "bias with four axes": (
        convolutional(lambda m, x: pooled(m, m.a(x) + m.g), g=lambda w: number(1, w, 1, 1)),
        IMAGES,
    ),
    "second bias": (perceptron(lambda m, x: m.b((m.a(x) + m.g).relu()), g=number), ROWS),
    "one bias for two": (
        perceptron(
            lambda m, x: m.b((m.a(x) + m.g).relu() + (m.d(x) + m.g).relu()), g=number, d=lambda w: nn.Linear(6, w)
        ),
        ROWS,
    ),
    "gain that is computed": (perceptron(lambda m, x: m.b(m.a(x).relu() * (1 - m.g) * m.g.exp()), g=number), ROWS),
    "gate of one number": (
        perceptron(
            lambda m, x: (lambda h: m.b(h + m.t.sigmoid() * m.p(h).relu()))(m.a(x)),
            p=lambda w: nn.Linear(w, w),
            t=lambda w: number(),
        ),
        ROWS,
    ),
    "two numbers after an activation": (
        convolutional(
            lambda m, x: pooled(m, m.p(m.t * m.a(x).relu() + m.s)),
            p=lambda w: nn.Conv2d(w, w, 3, padding=1),
            t=lambda w: number(1),
            s=lambda w: number(1),
        ),
        IMAGES,
    ),
    "weight that is standardized": (
        lambda w: Small(
            lambda m, x: pooled(m, m.p(m.a(x).relu())),
            a=nn.Conv2d(2, w, 3),
            p=Standardized(w),
            c=nn.Linear(w + 2, 3),
        ),
        IMAGES,
    ),
    "gate of each position": (
        convolutional(
            lambda m, x: pooled(m, m.a(x).relu() * m.n(m.p(m.a(x).relu())).sigmoid()),
            p=lambda w: nn.Conv2d(w, 1, 3, padding=1),
            n=lambda w: shaken(nn.BatchNorm2d(1)),
        ),
        IMAGES,
    ),
    "one gate between two layers": (
        perceptron(
            lambda m, x: m.b(torch.lerp(m.a(x), m.p(x), m.g(x).sigmoid())),
            p=lambda w: nn.Linear(6, w),
            g=lambda w: nn.Linear(6, 1),
        ),
        ROWS,
    ),
    "one unit added, chosen by and compared": (
        perceptron(
            lambda m, x: m.b(torch.where(m.g(x) > 0, m.a(x), torch.maximum(m.a(x), m.p(x)) + m.p(x))),
            p=lambda w: nn.Linear(6, 1),
            g=lambda w: nn.Linear(6, 1),
        ),
        ROWS,
    ),
    "product of two gates": (
        perceptron(
            lambda m, x: m.b(m.a(x).relu() * (m.g(x).sigmoid() * m.p(x).tanh())),
            p=lambda w: nn.Linear(6, 1),
            g=lambda w: nn.Linear(6, 1),
        ),
        ROWS,
    ),
    "attention to positions": (
        lambda w: Small(attention_to_positions, a=nn.Linear(5, w), p=nn.Linear(w, 1), b=nn.Linear(w, 3)),
        IMAGES,
    ),
    "PReLU of one slope": (perceptron(lambda m, x: m.b(m.p(m.a(x))), p=lambda w: nn.PReLU()), ROWS),
    "convolution in groups": (
        convolutional(lambda m, x: pooled(m, m.p(m.a(x).relu())), p=lambda w: nn.Conv2d(w, w, 3, padding=1, groups=2)),
        IMAGES,
    ),
    "two outputs for each channel": (
        lambda w: Small(
            lambda m, x: m.c(m.p(m.a(x).relu()).relu().mean((2, 3))),
            a=nn.Conv2d(2, w, 3),
            p=nn.Conv2d(w, 2 * w, 3, padding=1, groups=w),
            c=nn.Linear(2 * w, 3),
        ),
        IMAGES,
    ),
    "transposed convolution": (
        lambda w: Small(
            lambda m, x: pooled(m, m.p(m.a(x).relu())),
            a=nn.Conv2d(2, w, 3),
            p=nn.ConvTranspose2d(w, w + 1, (3, 2), stride=(2, 3), padding=(1, 0), output_padding=(1, 0)),
            c=nn.Linear(w + 1, 3),
        ),
        IMAGES,
    ),
    "layer norm without scales": (
        perceptron(lambda m, x: m.b(m.n(m.a(x).relu())), n=lambda w: nn.LayerNorm(w, elementwise_affine=False)),
        ROWS,
    ),
    "dilated transposed convolution": (
        convolutional(
            lambda m, x: pooled(m, m.p(m.a(x).relu())), p=lambda w: nn.ConvTranspose2d(w, w, 3, dilation=2, bias=False)
        ),
        IMAGES,
    ),
    "pixel shuffle": (
        lambda w: Small(
            lambda m, x: pooled(m, m.p(nn.functional.pixel_shuffle(m.a(x), 2).relu())),
            a=nn.Conv2d(2, 4 * w, 3),
            p=nn.Conv2d(w, w + 1, 3),
            c=nn.Linear(w + 1, 3),
        ),
        IMAGES,
    ),
    "pixel shuffle of a norm": (
        lambda w: Small(
            lambda m, x: pooled(m, nn.functional.pixel_shuffle(m.n(m.a(x)), 2).relu()),
            a=nn.Conv2d(2, 4 * w, 3),
            n=shaken(nn.BatchNorm2d(4 * w)),
            c=nn.Linear(w, 3),
        ),
        IMAGES,
    ),
    "channel shuffle": (
        lambda w: Small(
            lambda m, x: m.c(m.p(m.d(shuffled(m.n(m.a(x)).relu(), 2))).mean((2, 3))),
            a=nn.Conv2d(2, w, 3),
            n=shaken(nn.BatchNorm2d(w)),
            d=nn.Conv2d(w, w, 3, padding=1, groups=w),
            p=nn.Conv2d(w, w + 2, 1, groups=2),
            c=nn.Linear(w + 2, 3),
        ),
        IMAGES,
    ),
    "channel shuffle by a module, flattened": (
        lambda w: Small(
            lambda m, x: m.c(m.n(m.a(x).relu()).flatten(1)),
            a=nn.Conv2d(2, w, 3, stride=2),
            n=nn.ChannelShuffle(2),
            c=nn.Linear(4 * w, 3),
        ),
        IMAGES,
    ),
    "norms and gates of shuffled channels": (
        lambda w: Small(
            shuffled_with_gates,
            a=nn.Conv2d(2, 2 * w, 3),
            n=nn.GroupNorm(2, 2 * w),
            p=nn.Conv2d(2 * w, 2 * w, 1),
            d=nn.LayerNorm(2 * w),
            c=nn.Linear(2 * w, 3),
        ),
        IMAGES,
    ),
    "shuffled halves": (
        lambda w: Small(
            shuffled_halves,
            a=nn.Conv2d(2, 2 * w, 3),
            d=nn.Conv2d(2, 2 * w, 3),
            p=nn.Sequential(nn.Conv2d(2 * w, 2 * w, 1), nn.ReLU(), nn.Conv2d(2 * w, 2 * w, 1, groups=2 * w)),
            q=nn.Sequential(nn.Conv2d(2 * w, w, 1), nn.ReLU(), nn.Conv2d(w, 2 * w, 1), shaken(nn.BatchNorm2d(2 * w))),
            c=nn.Linear(4 * w, 3),
        ),
        IMAGES,
    ),
    "halves of two layers": (
        lambda w: Small(
            lambda m, x: pooled(m, m.p((lambda u, v: u * v.tanh())(*torch.cat([m.a(x), m.d(x)], 1).chunk(2, 1)))),
            a=nn.Conv2d(2, 2 * w, 3),
            d=nn.Conv2d(2, w, 3),
            p=nn.Conv2d(3 * w // 2, w, 3),
            c=nn.Linear(w, 3),
        ),
        IMAGES,
    ),
    "all of two layers": (
        lambda w: Small(lambda m, x: pooled(m, m.p(m.a(x))), a=Ghost(w), p=Gain(2 * w), c=nn.Linear(2 * w, 3)),
        IMAGES,
    ),
    "selective kernels": (
        lambda w: Small(
            selective,
            a=nn.Conv2d(2, w, 3),
            d=nn.Conv2d(2, w, 3, bias=False),
            p=nn.Conv2d(w, 2 * w, 1),
            c=nn.Linear(w, 3),
        ),
        IMAGES,
    ),
    "split attention": (
        lambda w: Small(
            split_attention,
            a=nn.Sequential(nn.Conv2d(2, 3 * w, 3), shaken(nn.BatchNorm2d(3 * w))),
            p=nn.Conv2d(w, 3 * w, 1),
            c=nn.Linear(w, 3),
        ),
        IMAGES,
    ),
    "softmax of halves": (
        lambda w: Small(partial(attended, scale=2.0), a=nn.Linear(6, 2 * w), b=nn.Linear(w, 3)),
        ROWS,
    ),
    "halves by slices": (perceptron(halves, wide=lambda w: nn.Linear(6, 2 * w)), ROWS),
    "split by sizes": (perceptron(sized, wide=lambda w: nn.Linear(6, 2 * w)), ROWS),
    "batch norm of inputs": (
        perceptron(lambda m, x: m.b(m.a(m.n(x)).relu()), n=lambda w: shaken(nn.BatchNorm1d(6))),
        ROWS,
    ),
    "layer norm of inputs": (
        perceptron(lambda m, x: m.b(m.a(m.n(x)).relu()), n=lambda w: shaken(nn.LayerNorm(6))),
        ROWS,
    ),
    "batch norm of pictures": (
        convolutional(lambda m, x: pooled(m, m.a(m.n(x))), n=lambda w: shaken(nn.BatchNorm2d(2))),
        IMAGES,
    ),
    "batch norm without scales": (
        convolutional(lambda m, x: pooled(m, m.n(m.a(x))), n=lambda w: shaken(nn.BatchNorm2d(w, affine=False))),
        IMAGES,
    ),
}


def members(name: str, widths: Sequence[int] = (4, 6, 4)) -> tuple[list[nn.Module], Tensor]:
    make, x = NETWORKS[name]
    return [make(width) for width in widths], x


@pytest.mark.parametrize("name", NETWORKS)
def test_full_width_is_the_ensemble(name: str) -> None:
    nets, x = members(name)
    population = Population.from_modules(nets, x[:16], task="regression")
    with torch.no_grad():
        expected = torch.stack([net.eval()(x) for net in nets]).mean(0)
        assembler = Assembler(Census(n_resamples=0).fit(population, x))
        assert torch.allclose(assembler.assemble("full")(x), expected, atol=1e-4)
        narrow = assembler.assemble("1x", correction="none")(x)
        fitted = assembler.assemble("1x", correction="least-squares")(x)
    assert narrow.isfinite().all()
    assert float((fitted - expected).square().mean()) < 2 * float((expected - expected.mean(0)).square().mean())


WRITTEN_OUT = ["gate of each position", "two numbers after an activation", "gate of one number", "PReLU of one slope"]
WRITTEN_OUT += [
    "layer norm of inputs",
    "convolution in groups",
    "batch norm without scales",
    "layer norm without scales",
]


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_what_is_written_out_is_read_from_checkpoints_and_saved(name: str, tmp_path: Path) -> None:
    nets, x = members(name)
    (tmp_path / "runs").mkdir()
    for k, net in enumerate(nets):
        torch.save(net.state_dict(), tmp_path / "runs" / f"{k}.pt")
    template = NETWORKS[name][0](8)
    population = Population.from_directory(tmp_path / "runs", template, x[:16])
    with torch.no_grad():
        assert torch.allclose(population.logits(x), torch.stack([net.eval()(x) for net in nets]), atol=1e-5)
    population.save(tmp_path / "population")
    loaded = Population.load(tmp_path / "population", template)
    assert torch.equal(loaded.logits(x), population.logits(x))
    assert len(population.with_members([NETWORKS[name][0](4)])) == 4
    (tmp_path / "again").mkdir()
    torch.save(population.members[0].module.state_dict(), tmp_path / "again" / "0.pt")
    assert torch.equal(
        Population.from_directory(tmp_path / "again", template, x[:16]).logits(x)[0], population.logits(x)[0]
    )


@pytest.mark.parametrize("stored", [False, True])
def test_weights_computed_of_a_checkpoint_are_stored(stored: bool, tmp_path: Path) -> None:
    nets, x = members("weight that is standardized")
    population = Population.from_modules(nets, x[:16])
    states = [member.module if stored else net for member, net in zip(population, nets, strict=True)]
    for k in (0, 2):
        torch.save({"model": states[k].state_dict()}, tmp_path / f"{k}.pt")
    template = NETWORKS["weight that is standardized"][0](4)
    loaded = Population.from_directory(tmp_path, template, x[:16])
    assert torch.allclose(loaded.logits(x), population.logits(x)[[0, 2]], atol=1e-5)
    torch.save(nets[1].state_dict(), tmp_path / "1.pt")
    text = r"1.pt: the file must have .*, as layers compute weights .*, got .*; load each file into a module"
    with pytest.warns(UserWarning, match=text):
        assert len(Population.from_directory(tmp_path, template, x[:16])) == 2


def test_a_convolution_in_groups_is_one_of_all_channels() -> None:
    grouped, x = nn.Conv2d(6, 4, 3, groups=2, bias=False), torch.randn(2, 6, 5, 5)
    whole = _of_all_channels(grouped.weight, 2)
    assert torch.allclose(nn.functional.conv2d(x, whole), grouped(x), atol=1e-6)


class Mixture(nn.Module):
    """Experts, weighed by a softmax of gates."""

    def __init__(self, weigh: Callable[[Tensor, Sequence[Tensor]], Tensor]) -> None:
        super().__init__()
        self.weigh, self.first, self.gate, self.last = weigh, nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 2)
        self.experts = nn.ModuleList([nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 8)) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).relu()
        return self.last(h + self.weigh(self.gate(h).softmax(-1), [expert(h) for expert in self.experts]))


@pytest.mark.parametrize(
    "weigh",
    [
        lambda gates, each: sum(gates[:, i : i + 1] * y for i, y in enumerate(each)),
        lambda gates, each: (gates.unsqueeze(-1) * torch.stack(each, 1)).sum(1),
        lambda gates, each: torch.bmm(gates.unsqueeze(1), torch.stack(each, 1)).squeeze(1),
    ],
)
def test_gates_of_experts_keep_their_index(weigh: Callable[[Tensor, Sequence[Tensor]], Tensor]) -> None:
    population = Population.from_modules([Mixture(weigh), Mixture(weigh)], ROWS[:16])
    names = {layer.name: layer.interchangeable for layer in population.architecture.layers}
    assert names == {"first": True, "gate": False, **{f"experts.{i}.0": True for i in range(3)}, "last": False}
    with pytest.raises(InputError, match="got layers 'gate', which weigh experts, of which each member has its own"):
        Census(n_resamples=0).fit(population, ROWS)


@pytest.mark.parametrize(
    ("make", "x", "text"),
    [
        (
            perceptron(lambda m, x: m.b(m.a(x).relu() * (m.s * m.t)), t=lambda w: number(1), s=lambda w: number(1)),
            ROWS,
            r"all units are multiplied by one number, which each member has another of: aten.mul.Tensor in Small, "
            r"test_units_practice.py:\d+\n  cure: multiply right after a linear layer",
        ),
        (
            perceptron(lambda m, x: m.b(m.a(x * m.t.exp())), t=lambda w: number()),
            ROWS,
            "unsupported operation on a par",
        ),
        (
            perceptron(lambda m, x: m.b(m.a(m.n(x).relu())), n=lambda w: nn.BatchNorm1d(6)),
            ROWS,
            "a batch norm of inputs that not one weight reads",
        ),
        (
            lambda w: Small(
                lambda m, x: pooled(m, m.a(m.n(x))),
                n=nn.BatchNorm2d(2),
                a=nn.Conv2d(2, w, 3, padding=1),
                c=nn.Linear(w, 3),
            ),
            IMAGES,
            "a batch norm of inputs that a convolution then pads",
        ),
        (
            perceptron(
                lambda m, x: m.b(torch.cat(m.wide(x).split([2, 6], 1), 1)[:, :4]), wide=lambda w: nn.Linear(6, 8)
            ),
            ROWS,
            "must run at other widths",
        ),
        (
            perceptron(lambda m, x: m.b(m.wide(x)[:, :4]), wide=lambda w: nn.Linear(6, 12)),
            ROWS,
            "must run at other widths",
        ),
        (
            perceptron(lambda m, x: m.b(m.a(x) * m.g(x).expand(-1, 4)), g=lambda w: nn.Linear(6, 1)),
            ROWS,
            "one unit is expanded to several: aten.expand",
        ),
        (
            perceptron(lambda m, x: m.b(m.a(x) * m.g(x).squeeze(1)[:, None]), g=lambda w: nn.Linear(6, 1)),
            ROWS,
            "one unit loses its dimension: aten.squeeze.dim",
        ),
        (
            lambda w: Small(
                shuffled_halves,
                a=nn.Conv2d(2, 3, 3),
                d=nn.Conv2d(2, 3, 3),
                p=nn.Conv2d(3, 3, 1),
                q=nn.Conv2d(3, 3, 1),
                c=nn.Linear(6, 3),
            ),
            IMAGES,
            r"units are cut that cannot be divided: aten.chunk(.|\n)*cure: give a stage of at most 5 blocks",
        ),
        (
            lambda w: Small(
                lambda m, x: pooled(m, shuffled(torch.cat([m.a(x), x[:, :, 2:, 2:], x[:, :, 1:-1, 1:-1]], 1), 2)),
                a=nn.Conv2d(2, w, 3),
                c=nn.Linear(w + 4, 3),
            ),
            IMAGES,
            "units of several layers are cut|units of unlike layers are shuffled",
        ),
    ],
)
def test_what_has_no_place_in_an_assembly_is_refused(make: Callable, x: Tensor, text: str) -> None:
    with pytest.raises((TracingError, InputError), match=text):
        Population.from_modules([make(4)], x[:16])


def test_a_layer_norm_of_inputs_that_two_layers_read_is_refused() -> None:
    net = NETWORKS["layer norm of inputs"][0](4)
    twice = Small(lambda m, x: m.b(m.a(m.n(x)).relu() + m.c(m.n(x))), **dict(net.named_children()), c=nn.Linear(6, 4))
    with pytest.raises(TracingError, match="let a linear layer or an embedding write the features"):
        Population.from_modules([twice], ROWS[:8])


@pytest.mark.parametrize("norm", ["layer", "rms", "group", "function"])
def test_norms_without_scales_pass_units_on(norm: str) -> None:
    kinds: dict[str, Callable[[int], nn.Module]] = {
        "layer": lambda w: nn.LayerNorm(w, elementwise_affine=False),
        "rms": lambda w: nn.RMSNorm(w, elementwise_affine=False),
        "group": lambda w: nn.GroupNorm(1, w, affine=False),
        "function": lambda w: Small(lambda m, x: nn.functional.layer_norm(x, x.shape[-1:])),
    }
    make = perceptron(lambda m, x: m.b(m.n(m.a(x).relu())), n=kinds[norm])
    assert Population.from_modules([make(4), make(6)], ROWS[:16]).widths("a") == (4, 6)
    net = make(4).eval()
    once = Population.from_modules([net] * 2, ROWS[:16])
    for width in ("1x", "full") if norm != "function" else ("1x",):
        same = Assembler(Census(n_resamples=0).fit(once, ROWS)).assemble(width, correction="none")
        assert torch.allclose(same(ROWS), net(ROWS), atol=1e-4)


class Scaled(nn.Linear):
    """A linear layer with a scale of its weight, which does more, or not."""

    def __init__(self, more: str) -> None:
        super().__init__(6, 8)
        self.scale, self.more = nn.Parameter(torch.rand(8, 1) + 0.5), more

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight * self.scale
        if self.more == "with its input":
            x = x.clamp(-3, 3)
        if self.more == "by its input":
            weight = weight * (2 if len(x) > 2 else 1)
        y = nn.functional.linear(x, weight, self.bias)
        return y.clamp(-6, 6) if self.more == "with its output" else y


@pytest.mark.parametrize("more", ["with its input", "by its input", "with its output", ""])
def test_a_layer_that_does_more_than_compute_its_weight_is_not_replaced(more: str) -> None:
    layer, x = Scaled(more), 8 * torch.randn(20, 6)
    stored = copy.deepcopy(layer)
    store_computed(stored)
    assert type(stored) is (Scaled if more else nn.Linear)
    torch.testing.assert_close(stored(x), layer(x))


def test_a_parameter_used_outside_of_the_layer_that_computes_its_weight_is_named() -> None:
    nets = [Small(lambda m, x: m.c(m.a(x) * m.a.scale[:, 0]), a=Scaled(""), c=nn.Linear(8, 3)) for _ in range(2)]
    text = (
        r"'a.scale' of member 0 \(Small\) must be used by its own layer alone, got a use \(test_units_practice.py:\d+\)"
    )
    with pytest.raises(InputError, match=text):
        Population.from_modules(nets, ROWS)


def test_one_of_several_numbers_is_refused_by_name() -> None:
    nets = [
        Small(
            lambda m, x: m.c(m.a(x).relu() * m.v[0] + m.b(x).relu() * m.v[1]),
            a=nn.Linear(6, 8),
            b=nn.Linear(6, 8),
            v=nn.Parameter(torch.ones(2)),
            c=nn.Linear(8, 1),
        )
        for _ in range(2)
    ]
    with pytest.raises(TracingError, match="of 'v'|one number"):
        Population.from_modules(nets, ROWS)


@pytest.mark.parametrize(
    ("width", "forward"),
    [
        (8, lambda m, x: nn.functional.linear(m.a(x).relu(), m.c.weight[:, :4])),
        (4, lambda m, x: m.c(m.a(x).relu()) + m.a(x).relu() @ m.left.T @ m.right.T),
    ],
)
def test_readouts_of_computed_weights_are_refused_by_name(width: int, forward: Callable[..., Tensor]) -> None:
    nets = [
        Small(
            forward,
            a=nn.Linear(6, 4),
            c=nn.Linear(width, 3),
            left=nn.Parameter(torch.randn(2, 4)),
            right=nn.Parameter(torch.randn(3, 2)),
        )
        for _ in range(2)
    ]
    with pytest.raises(TracingError, match="the outputs are computed of parameters alone: aten"):
        Population.from_modules(nets, ROWS)
